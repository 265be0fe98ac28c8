"""What is left of a damaged file: whole tensors are kept, hit ones taken from elsewhere, left out, or lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ckpt_tools.checks.names import TensorNames, few
from ckpt_tools.findings import CkptError, Verdict
from ckpt_tools.layouts import Part
from ckpt_tools.layouts.parts import dict_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.donors import Donor, aligned, misfit
from ckpt_tools.plans.draft import Draft
from ckpt_tools.plans.edits import become, drop
from ckpt_tools.plans.grafts import fitting, graft_part, graft_tensors, graft_weights
from ckpt_tools.plans.model import Outcome
from ckpt_tools.plans.optimizers import parameter_names, without_states
from ckpt_tools.tensors.modules import class_name

__all__ = ["leave_states_out", "rebase", "reset_optimizer", "salvage_rest", "salvage_weights", "twin_of", "use_sibling"]


def salvage_weights(case: Case) -> None:
    """Deal with weights that have lost bytes: everything else follows from where they come from."""
    if case.weights is None:
        use_sibling(case, "its weights can't be read")
        return
    for part in case.found.weights:
        hit = _hit(case, part.path)
        if hit and case.rebased is None:
            _weights(case, part, hit)


def salvage_rest(case: Case) -> None:
    """Deal with every other part that has lost bytes."""
    for role, deal in OTHERS:
        for path in [part.path for part in case.found.role(role)]:
            part, hit = case.at(path, role), _hit(case, path)
            if part is not None and hit:
                deal(case, part, hit)
                case.settle()
    _loose(case)


def _hit(case: Case, path: str) -> list[str]:
    """The lost tensors of a part; those that are kept as they are count until that is noted."""
    part = case.at(path)
    if part is None or (case.request.keep_corrupt and path in case.records):
        return []
    lost = case.holding.hit_in(part)
    if case.rebased is not None:
        return lost
    return lost or (case.hits.get(path, []) if case.request.keep_corrupt else [])


def _weights(case: Case, part: Part, hit: list[str]) -> None:
    if case.request.keep_corrupt and len(hit) < len(part.tensors):
        _keep(case, part, hit)
        return
    if case.request.mix and len(hit) < len(part.tensors):
        donor = next((donor for donor in case.nearest if not fitting(case, donor)), None)
        if donor is not None:
            graft_tensors(case, part, hit, donor, consent=True)
            case.settle()
            return
    for donor in case.nearest:
        alike = donor.verdict is Verdict.RESUMABLE and _lends(case, donor, part) and _same_save(case, part, donor)
        if alike and donor.holding.intact:
            use_sibling(case, _lost(part, hit))
            return
    if part.role == "ema" and not case.found.layout.module and _average(case, part):
        return
    twin = twin_of(case, part)
    if twin is not None:
        replace_by_twin(case, part, twin)
        return
    spare = [other for other in case.found.weights if other.path != part.path and not _hit(case, other.path)]
    if spare and part.role == "model" and case.family != "plain":
        return  # the average is whole, and a resume starts from that
    use_sibling(case, _lost(part, hit))


def _average(case: Case, part: Part) -> bool:
    """An average whose live weights are whole comes from a sibling, alone: training itself has lost nothing."""
    if not any(other.role == "model" and not _hit(case, other.path) for other in case.found.weights):
        return False
    for donor in case.nearest:
        if _lends(case, donor, part):
            theirs = donor.part("ema", part.path)
            assert theirs is not None
            case.put(part.path, case.draft.graft(theirs.node, donor.lend(theirs)))
            case.record(part, Outcome.DONOR, donor, part.tensors)
            case.do("average", f"{part.path} from {donor.dated}, the live weights are the file's own", loss=True)
            case.settle()
            return True
    return _from_live(case, part)


def _from_live(case: Case, part: Part) -> bool:
    """Make the lost average from the live weights, where it has the same tensors under other names."""
    for model in case.found.role("model"):
        other = aligned(part.tensors, model.tensors)
        names = [name for name in part.tensors if name in other]
        rest = [name for name in part.tensors if name not in other and id(part.tensors[name].call) in case.holding.hit]
        if rest or misfit(part, model) or _hit(case, model.path):
            continue
        for name in names:
            become(part.tensors[name].call, other[name].call)
        case.draft.edited = True
        _note_twin(case, part, model, names)
        return True
    return False


def _lost(part: Part, hit: list[str]) -> str:
    return f"{len(hit)} of {len(part.tensors)} tensors of {part.path} are lost ({few(hit)})"


def twin_of(case: Case, part: Part) -> Part | None:
    """The other set of weights of the file, where it is whole and of the same names and shapes."""
    for other in case.found.weights:
        same = other.form == part.form and (part.form != "module" or class_name(other.node) == class_name(part.node))
        whole = other.path != part.path and not _hit(case, other.path) and part.tensors.keys() == other.tensors.keys()
        if same and whole and not misfit(part, other):
            return other
    return None


def replace_by_twin(case: Case, part: Part, twin: Part) -> None:
    """Use one set of weights for both: average and live weights are close, not equal."""
    case.put(part.path, twin.node)
    _note_twin(case, part, twin, part.tensors)


def _note_twin(case: Case, part: Part, twin: Part, names: Iterable[str]) -> None:
    case.record(part, Outcome.DONOR, None, names)
    case.records[part.path].donor = f"{case.name}: {twin.path}"
    text = f"{part.path} from the file's own {twin.path}: live and averaged weights are close, not equal"
    case.do("twin", text, loss=True)
    case.settle()


def _keep(case: Case, part: Part, hit: list[str]) -> None:
    case.record(part, Outcome.SALVAGED, None, hit)
    text = f"{len(hit)} of {len(part.tensors)} tensors of {part.path} kept as they are, zeros where bytes are missing: "
    case.do("keep-corrupt", text + few(hit), loss=True, consent=True)


def use_sibling(case: Case, why: str) -> None:
    """Go on from a sibling: entirely where one can be resumed, else with its weights; else say what would help."""
    for donor in case.furthest:
        if donor.verdict is Verdict.RESUMABLE and not fitting(case, donor) and donor.holding.intact:
            rebase(case, donor, why)
            return
    for donor in case.furthest:
        theirs = donor.part("ema")
        if theirs is None or case.weights is None or fitting(case, donor) or donor.holding.hit_in(theirs):
            continue
        if donor.epoch is None and case.request.epoch is None and case.request.results is None:
            continue
        graft_weights(case, donor, case.weights.role, consent=False)
        case.settle()
        return
    keep = "" if case.request.keep_corrupt or case.weights is None else ", or say --keep-corrupt"
    help_ = f"name one with --model-from, a folder with --from{keep}"
    raise CkptError(f"{why}, and no other file here has them; {help_}")


def rebase(case: Case, donor: Donor, why: str) -> None:
    """Put the whole of a sibling in the file's place; nothing is lost where it is of the very same save."""
    parts = [part for part in case.found.parts if part.tensors] if case.readable else []
    same = bool(parts) and all(_same_save(case, part, donor) for part in parts)
    case.draft = Draft(donor.holding, keep_corrupt=case.draft.keep_corrupt)
    case.rebased = donor
    case.records.clear()
    of = ", which is of the same save" if same else ""
    case.do("sibling", f"{why}: everything from {donor.dated}{of}", loss=not same)
    case.advice.append(f"{donor.name} is the better checkpoint and whole: resume from it as it is, no repair is needed")
    case.settle()


def _optimizer(case: Case, part: Part, hit: list[str]) -> None:
    """A donor's whole optimizer before half of the file's own: momentum of one moment belongs together."""
    if case.request.keep_corrupt and len(hit) < len(part.tensors):
        _keep(case, part, hit)
        return
    if "optimizer" in case.request.reinit:
        reset_optimizer(case, part, consent=True)
        return
    usable = [donor for donor in case.nearest if _lends(case, donor, part)]
    if case.request.mix and usable and len(hit) < len(part.tensors):
        graft_tensors(case, part, hit, usable[0], consent=True)
        return
    if usable:
        same = _same_save(case, part, usable[0])
        graft_part(case, usable[0], "optimizer", consent=False, loss=not same, ours=part)
        lost = f"{len(hit)} of its own {len(part.tensors)} tensors are lost ({few(hit)})"
        case.advice.append(
            f"optimizer: {lost}; instead of {usable[0].name}'s: --mix takes only those from it, "
            "--reinit optimizer starts it afresh"
        )
        return
    leave_states_out(case, part, _states_of(part, hit, case), "their bytes are lost")
    case.advice.append("the other choices: --optimizer-from FILE, --reinit optimizer, --keep-corrupt")


def _lends(case: Case, donor: Donor, ours: Part) -> bool:
    """Whether a sibling has a whole part in the place of ours that belongs to the same model."""
    part = donor.part(ours.role, ours.path)
    if part is None or not part.present or fitting(case, donor):
        return False
    try:
        donor.lend(part)
    except CkptError:
        return False
    return True


def _same_save(case: Case, part: Part, donor: Donor) -> bool:
    """Whether the donor's part is of the same save: every tensor that is whole here has the same bytes there."""
    theirs = donor.part(part.role, part.path)
    if theirs is None or donor.epoch != case.found.epoch or list(theirs.tensors) != list(part.tensors):
        return False
    ours, other = case.holding.content.checksums, donor.lend(theirs).content.checksums
    pairs = [(part.tensors[name], theirs.tensors[name]) for name in part.tensors]
    whole = [(a, b) for a, b in pairs if a.storage and b.storage and id(a.call) not in case.holding.hit]
    return bool(whole) and all(
        ours.get(f"data/{a.storage.key}") == other.get(f"data/{b.storage.key}")
        for a, b in whole
        if a.storage and b.storage
    )


def _states_of(part: Part, names: Iterable[str], case: Case) -> list[Node]:
    """The parameter ids whose state holds one of the named tensors."""
    wanted = {id(part.tensors[name].call) for name in names}
    tensors = case.draft.checkpoint.tensors
    return [
        key
        for key, state in part.state.items()
        if any(id(tensors[id(node)].call) in wanted for node in state.values() if id(node) in tensors)
    ]


def leave_states_out(case: Case, part: Part, keys: list[Node], why: str) -> None:
    """Leave out the whole state of the parameters concerned; the optimizer makes it anew at its next step."""
    known = parameter_names(part, case.layers, case.version) if case.family == "ultralytics" else {}
    count = len(part.state)
    lost = [name for key in keys for name in part.tensors if name.split(".")[:2] == ["state", str(key)]]
    without_states(part, keys)
    case.draft.edited = True
    case.record(part, Outcome.SALVAGED if len(keys) < count else Outcome.REINITIALISED, None, lost)
    named = few(str(known.get(key, key)) for key in keys)
    text = f"{part.path}: {count - len(keys)} of {count} states kept; those of {named} start afresh, {why}"
    case.do("states", text, loss=True)
    case.settle()


def reset_optimizer(case: Case, part: Part, *, consent: bool) -> None:
    """Keep the groups, drop every state."""
    state = dict_of(part.node).get("state")
    without_states(part, list(dict_of(state)))
    case.draft.edited = True
    case.record(part, Outcome.REINITIALISED, None, part.tensors)
    case.do("reinit", f"{part.path} starts afresh: its groups kept, no momentum", loss=True, consent=consent)
    case.settle()


def _small(case: Case, part: Part, hit: list[str]) -> None:
    """Scheduler, scaler, random state: from a sibling, else left out."""
    if case.request.keep_corrupt and len(hit) < len(part.tensors):
        _keep(case, part, hit)
        return
    for donor in case.nearest:
        if _lends(case, donor, part):
            graft_part(case, donor, part.role, consent=False, ours=part)
            return
    drop(case.root, part.path)
    case.draft.edited = True
    case.record(part, Outcome.LOST, None, part.tensors)
    case.do("lost", f"{part.path} is left out: {few(hit)} is lost", loss=True)


def _loose(case: Case) -> None:
    """Tensors of no state dict that are hit (a head's strides, scores): a sibling's of that name, else ``None``."""
    if case.draft.keep_corrupt:
        return
    names = TensorNames(case.draft.checkpoint)
    known = {id(tensor.call) for part in case.found.parts for tensor in part.tensors.values()}
    hit = {names.of(t): t for t in case.draft.checkpoint.tensors.values() if id(t.call) in case.holding.hit - known}
    for donor in case.nearest if hit else ():
        theirs = TensorNames(donor.checkpoint)
        other = {theirs.of(tensor): tensor for tensor in donor.checkpoint.tensors.values()}
        shared = [name for name in hit if name in other and other[name].shape == hit[name].shape]
        if len(shared) == len(hit) and not fitting(case, donor) and donor.holding.intact:
            for name in shared:
                become(hit[name].call, case.draft.graft(other[name].call, donor.holding))
            case.do("loose", f"{len(hit)} tensors beside the training state from {donor.name}: {few(hit)}", loss=True)
            case.settle()
            return
    for tensor in hit.values():
        case.draft.swaps[id(tensor.call)] = None
    if hit:
        case.draft.edited = True
        text = f"{len(hit)} tensors beside the training state become None, a resume makes its own: {few(hit)}"
        case.do("loose", text, loss=True)
        case.settle()


Deal = Callable[[Case, Part, list[str]], None]
OTHERS: tuple[tuple[str, Deal], ...] = (
    ("optimizer", _optimizer),
    ("scheduler", _small),
    ("scaler", _small),
    ("rng", _small),
)
