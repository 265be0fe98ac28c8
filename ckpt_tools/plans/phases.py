"""The phases of a repair up to where the cures begin: what the user named, then what the damage takes.

Weights come before the rest: the epoch goes with them. Each phase leaves the draft read anew for the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ckpt_tools.checks.names import few
from ckpt_tools.checks.storages import OWN_MEMBERS
from ckpt_tools.configs import is_yaml, read_settings
from ckpt_tools.findings import BY_SLUG, CkptError, Finding
from ckpt_tools.findings.commands import following, hint
from ckpt_tools.layouts import Part, Recognised
from ckpt_tools.layouts.parts import dict_of
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.cures import CURES, epoch_asked_for, make_optimizer
from ckpt_tools.plans.grafts import fitting, graft_args, graft_part, graft_weights, refuse_task, set_arguments
from ckpt_tools.plans.model import Outcome, Request
from ckpt_tools.plans.salvage import reset_optimizer, salvage_rest, salvage_weights, use_sibling

__all__ = ["NEIGHBOURS", "PHASES", "extends", "missing_parts"]

# Errors of the archive that go when it is written anew, if no tensor in it is hit.
REWRITTEN = frozenset({"appended-bytes", "stray-bytes", "cut-short", "directory-lost", "zero-tail", "header-conflict",
                       "not-loadable", "storage-size", "odd-flags"})  # fmt: skip
NEIGHBOURS = 4  # files beside this one that are looked at for what it lacks
WEIGHTS, PARTS = ("model", "ema"), ("optimizer", "scheduler", "scaler", "rng")


def extends(request: Request) -> bool:
    """Whether what is asked for only makes sense in a file that is to be resumed."""
    asked = ("optimizer" in request.donors, "optimizer" in request.reinit, "epochs" in request.settings)
    return any(asked) or "stripped" in request.cures


def container(case: Case, findings: list[Finding]) -> None:
    """The archive itself; where the object graph is lost, everything comes from elsewhere."""
    alike: dict[str, list[Finding]] = {}
    for fact in findings:
        if fact.slug in REWRITTEN:
            alike.setdefault(fact.slug, []).append(fact)
    for slug, facts in alike.items():
        more = f" (and {len(facts) - 1} more like this)" if len(facts) > 1 else ""
        case.do(slug, f"the archive is written anew: {facts[0].message}{more}")
    _small_members(case)
    if case.wrapped:
        case.do("outer-zip", "the checkpoint is taken out of the zip archive around it")
    _object_graph(case)
    if not case.readable:
        raise CkptError("nothing of it can be read, so there is no place for weights: start from a whole file")


def _object_graph(case: Case) -> None:
    """The pickle: not to be trusted where its checksum is wrong, and not whole where it ends early."""
    checkpoint = case.holding.checkpoint
    archive, pickle = checkpoint.container, checkpoint.pickle
    main = archive.members.get("data.pkl") if archive is not None else None
    if main is not None and main.whole and not case.holding.confirmed("data.pkl", main):
        use_sibling(case, "the object graph (data.pkl) does not match its checksum")
    elif not case.readable and not case.named.keys() & set(WEIGHTS):
        use_sibling(case, "nothing of it can be read")
    elif case.readable and pickle is not None and pickle.trouble is not None:
        if case.found.layout.name in ("bare", "module", "part", "tensors", "none"):
            use_sibling(case, f"the object graph ends early ({pickle.trouble})")
            return
        held = {part.path for part in case.found.parts if part.present}
        other = next(iter(case.siblings), None)
        lost = [part.path for part in other.found.parts if part.present and part.path not in held] if other else []
        named = f": {few(lost)}" if lost else ", whatever it was"
        case.do(
            "pickle-cut", f"the object graph ends early ({pickle.trouble}), what came after is lost{named}", loss=True
        )


def _small_members(case: Case) -> None:
    """Damaged members beside the storages: torch's own are written anew, others are left out."""
    archive = case.holding.checkpoint.container
    for name, member in archive.members.items() if archive is not None else ():
        if name.startswith("data/") or name == "data.pkl" or case.draft.sound(name, member):
            continue
        own = name in OWN_MEMBERS
        if member.whole or (not own and member.size):  # a cut inside a header leaves a member of nothing
            case.do("checksum-mismatch", f"member {name} is {'written anew' if own else 'left out'}", loss=not own)
            case.draft.edited = True


def arguments(case: Case, findings: list[Finding]) -> None:
    """Saved arguments of another file."""
    path = case.request.donors.get("args")
    if path is None:
        return
    if is_yaml(path):
        graft_args(case, read_settings(path), path.name, consent=True)
    else:
        donor = case.named["args"]
        part = next(iter(donor.found.role("args")), None)
        if part is None:
            raise CkptError(f"{path} holds no training arguments; name an args.yaml")
        refuse_task(case, dict_of(part.node), donor.name)
        place = case.path("args") or part.path
        case.put(place, case.draft.graft(part.node, donor.holding))
        case.record(replace(part, path=place), Outcome.DONOR, donor)
        case.do("args", f"{place} from {donor.name}", loss=True, consent=True)
    case.settle()


def weights(case: Case, findings: list[Finding]) -> None:
    """Weights the user named, lost ones, and a stripped file made resumable where the request is about that."""
    _refuse_lone(case)
    for role in WEIGHTS:
        if role in case.named:
            graft_weights(case, case.named[role], role, consent=True)
            case.settle()
    salvage_weights(case)
    request = case.request
    asked = extends(request) or request.epoch is not None or request.results is not None
    if asked and any(fact.slug == "stripped" for fact in findings):
        CURES["stripped"].mend(case)


def _refuse_lone(case: Case) -> None:
    """Weights alone, or an optimizer alone, have no place for another part: they are donors, not the file to mend."""
    layout = case.found.layout.name
    role = (
        "model" if layout in ("bare", "module", "tensors") else next((part.role for part in case.found.parts), "model")
    )
    named = [donor for name, donor in case.named.items() if name in PARTS or layout == "part"]
    if layout in ("bare", "module", "part", "tensors") and named:
        words = ("ckpt", "repair", named[0].path, f"--{role}-from", case.original)
        turned = hint("{words}", "try {}", words=words)
        raise CkptError(f"{case.name} holds nothing but its {role}, no other part has a place there; {turned}")


def parts(case: Case, findings: list[Finding]) -> None:
    """Other parts the user named."""
    for role in PARTS:
        if role in case.named:
            graft_part(case, case.named[role], role, consent=True)
            case.settle()


def settings(case: Case, findings: list[Finding]) -> None:
    """Epoch and saved arguments as asked for."""
    if epoch_asked_for(case):
        case.settle()
    if case.request.settings:
        set_arguments(case, case.request.settings)
        case.settle()


def damage(case: Case, findings: list[Finding]) -> None:
    """Other tensors whose bytes are lost."""
    salvage_rest(case)


def afresh(case: Case, findings: list[Finding]) -> None:
    """What the user wants to start afresh."""
    done = any(step.name == "reinit" for step in case.steps)
    if "optimizer" in case.request.reinit and not done:
        part = case.part("optimizer")
        if part is not None and "optimizer" in case.request.settings and case.family == "ultralytics":
            case.put(part.path, None)
            case.settle()
            part = None
        if part is not None and part.groups:
            reset_optimizer(case, part, consent=True)
        else:
            make_optimizer(case, consent=True)
        case.settle()


def by_name(case: Case, findings: list[Finding]) -> None:
    """Cures asked for by name that no finding announces."""
    for name in case.request.cures:
        if name not in BY_SLUG:
            CURES[name].mend(case)
            case.settle()


def gaps(case: Case, findings: list[Finding]) -> None:
    """What a script of one's own saves in the other files of the run, and this one lacks: only with the user's word."""
    for donor in case.nearest[:NEIGHBOURS]:
        lacking = missing_parts(case.found, donor.found)
        if not lacking or fitting(case, donor):
            continue
        for part in lacking:
            if case.request.accept_loss:
                graft_part(case, donor, part.role, consent=False, ours=part)
                case.settle()
            else:
                option = following("{words} takes it", words=(f"--{part.role}-from", donor.path))
                case.advice.append(f"it has no {part.path}, {donor.name} has one: {option}")
        return


def missing_parts(found: Recognised, other: Recognised) -> list[Part]:
    """The training parts another file of a script of one's own has, and this one, which has an optimizer, lacks."""
    if found.layout.name != "plain" or other.layout.name != "plain" or not found.role("optimizer"):
        return []
    held = {part.path for part in found.parts if part.present}
    return [p for p in other.parts if p.role in PARTS and p.role != "rng" and p.present and p.path not in held]


PHASES: tuple[Callable[[Case, list[Finding]], None], ...] = (
    container, weights, arguments, parts, settings, damage, gaps, afresh, by_name,
)  # fmt: skip
