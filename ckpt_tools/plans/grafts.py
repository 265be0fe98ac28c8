"""Parts taken from other files: weights, optimizer, scheduler, scaler, random state, saved arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ckpt_tools.checks.context import release
from ckpt_tools.checks.names import few
from ckpt_tools.checks.optimizers import optimizer_kind
from ckpt_tools.findings import CkptError
from ckpt_tools.findings.commands import hint
from ckpt_tools.layouts import Part
from ckpt_tools.layouts.arguments import refused_arguments
from ckpt_tools.layouts.parts import dict_of, lookup, plain, rounded
from ckpt_tools.layouts.ultralytics import group_rules
from ckpt_tools.pickles import Call, GlobalRef
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.case import Case, Record
from ckpt_tools.plans.donors import Donor, aligned, misfit
from ckpt_tools.plans.edits import become
from ckpt_tools.plans.holdings import Holding
from ckpt_tools.plans.model import Outcome
from ckpt_tools.plans.optimizers import rearranged
from ckpt_tools.tensors import TensorRef

__all__ = [
    "fitting",
    "graft_args",
    "graft_module",
    "graft_part",
    "graft_tensors",
    "graft_weights",
    "refuse_task",
    "set_arguments",
]

PARAMETER = "torch._utils._rebuild_parameter"
NOT_SAVED = {"scheduler": "ultralytics makes its scheduler anew from the saved arguments"}


def graft_weights(case: Case, donor: Donor, role: str, *, consent: bool) -> None:
    """Take a whole set of weights from a donor; the epoch goes with them. Raises ``CkptError`` for a misfit."""
    theirs = donor.part(role)
    if theirs is None:
        raise CkptError(f"{donor.path} holds no weights; name another file")
    ours = case.part(role) or case.weights
    holding = donor.lend(theirs)
    path = ours.path if ours is not None else case.found.layout.roles.get(role, theirs.path)
    if ours is not None:
        refuse(donor, misfit(ours, theirs))
    elif case.found.layout.module and theirs.form != "module":
        why = f"{donor.path} holds a state dict, and {case.name} no model to put it into"
        raise CkptError(f"{why}; name a file with the pickled model")
    if ours is None or (ours.form == theirs.form and list(ours.tensors) == list(theirs.tensors)):
        case.put(path, case.draft.graft(theirs.node, holding))
    else:
        other = aligned(ours.tensors, theirs.tensors)
        for name, tensor in ours.tensors.items():
            _replace(case, tensor, other[name], holding)
    case.record(ours or theirs, Outcome.DONOR, donor, theirs.tensors)
    case.do("weights", f"{path} from {donor.dated}", loss=True, consent=consent)
    if donor.epoch is not None:
        case.set_epoch(donor.epoch, f"the epoch {donor.name}'s weights are of")


def graft_tensors(case: Case, part: Part, names: list[str], donor: Donor, *, consent: bool) -> None:
    """Take single tensors of a part from a donor's part of the same role."""
    theirs = donor.part(part.role, part.path)
    if theirs is None:
        raise CkptError(f"{donor.path} has no {part.role}; name another file")
    other = aligned(part.tensors, theirs.tensors)
    lacking = [name for name in names if name not in other or other[name].shape != part.tensors[name].shape]
    refuse(donor, f"it has no {few(lacking)} of that shape" if lacking else "")
    holding = donor.lend(theirs)
    for name in names:
        _replace(case, part.tensors[name], other[name], holding)
    case.record(part, Outcome.SALVAGED, donor, names)
    count = f"{len(names)} of {len(part.tensors)} tensors of {part.path}"
    text = f"{count} from {donor.dated}, mixed with the file's own: {few(names)}"
    case.do("mix", text, loss=True, consent=consent)


def graft_module(case: Case, part: Part, donor: Donor) -> None:
    """Put a state dict's tensors into the pickled module of a donor, which takes its place."""
    theirs = donor.part("ema")
    if theirs is None or theirs.form != "module":
        raise CkptError(f"{donor.path} holds no pickled model; name another file")
    refuse(donor, misfit(theirs, part))
    own = aligned(theirs.tensors, part.tensors)
    made = case.draft.graft(theirs.node, donor.lend(theirs))
    for name, tensor in theirs.tensors.items():
        _replace(case, tensor, own[name], case.holding)
    case.put(part.path, made)
    case.siblings = [other for other in case.siblings if other is not donor]  # its module is ours now
    case.record(part, Outcome.EDITED)
    case.do("module", f"{part.path}: its own tensors in the pickled model of {donor.name}", loss=True)


def _replace(case: Case, ours: TensorRef, theirs: TensorRef, holding: Holding) -> None:
    """Put another file's tensor where ours is; a parameter stays one."""
    inner = theirs.call.args[0] if theirs.parameter and theirs.call.path.startswith(PARAMETER) else theirs.call
    made = case.draft.graft(inner, holding)
    if ours.parameter and ours.call.path.startswith(PARAMETER):
        ours.call.args = (made, *ours.call.args[1:])
    elif isinstance(made, Call):
        become(ours.call, made)
    case.draft.edited = True


def refuse(donor: Donor, why: str) -> None:
    """Raise ``CkptError`` where there is a reason."""
    if why:
        raise CkptError(f"{donor.path} does not fit: {why}; name a file of the same model")


def fitting(case: Case, donor: Donor) -> str:
    """Why a donor is not of the same model, as far as both have weights; empty where it is."""
    ours, theirs = case.weights, donor.part("ema")
    return misfit(ours, theirs) if ours is not None and theirs is not None else ""


def graft_part(
    case: Case, donor: Donor, role: str, *, consent: bool, loss: bool = True, ours: Part | None = None
) -> None:
    """Take the optimizer, scheduler, scaler or random state of a donor, in the place of ``ours`` or of all of them.

    Raises ``CkptError`` for a misfit.
    """
    if donor.part(role) is None:
        raise CkptError(f"{donor.path} has no {role}; name a file that has one, or leave it out")
    if case.family == "ultralytics" and role in NOT_SAVED:
        raise CkptError(f"{NOT_SAVED[role]}; leave --{role}-from out")
    refuse(donor, fitting(case, donor))
    same = donor.layout == case.family
    at = case.found.layout.roles.get(role) if same else None
    if at and lookup(donor.found.root, at)[0]:
        parts = [part for part in donor.found.role(role) if part.path == at or part.path.startswith(f"{at}.")]
        taken = [(at, lookup(donor.found.root, at)[1], parts)]
    else:
        held = donor.found.role(role) if ours is None else [donor.part(role, ours.path)]
        single = len(held) == 1 and not same
        taken = [((case.path(role) if single else "") or p.path, p.node, [p]) for p in held if p is not None]
    for path, node, theirs in taken:
        _graft_at(case, donor, role, path, node, theirs)
        case.do(role, f"{path} from {donor.dated}", loss=loss, consent=consent)
        if role == "scheduler":
            _scheduler_position(case, donor, path)
    if role == "optimizer":
        _counter(case, donor)


def _graft_at(case: Case, donor: Donor, role: str, path: str, node: Node, theirs: list[Part]) -> None:
    """Put a donor's node at a path, and note it for every part in it."""
    before = case.at(path, role)
    if role == "optimizer" and before is not None and case.family != "ultralytics":
        ours, other = optimizer_kind(before), optimizer_kind(theirs[0])
        if ours is not None and other is not None and ours != other:
            refuse(donor, f"its optimizer is {other.name}, the file's own is {ours.name}")
    if role == "rng" and before is not None and before.path != theirs[0].path:
        refuse(donor, f"its random state lies at {theirs[0].path}, this file's at {before.path}")
    for part in theirs:
        holding = donor.lend(part)
    if role == "optimizer" and case.family == "ultralytics":
        node = _in_our_order(case, donor, theirs[0])
    if "." in path and not lookup(case.root, path.rsplit(".", 1)[0])[0]:
        raise CkptError(f"{case.name} has no place for {path}; is {donor.name} of the same run?")
    case.put(path, case.draft.graft(node, holding))
    for part in theirs:
        place = part.path if part.path.startswith(path) else path
        case.records.pop(place, None)
        case.record(replace(part, path=place), Outcome.DONOR, donor, part.tensors)


def _in_our_order(case: Case, donor: Donor, theirs: Part) -> Node:
    """The donor's optimizer with the groups in the order of the release that wrote the file to mend."""
    version = release(donor.found.version)
    if not case.layers or not version or _grouping(version) == _grouping(case.version):
        return theirs.node
    made = rearranged(theirs, case.layers, version, case.version)
    if made is None:
        have = f"{donor.path} was written by ultralytics {donor.found.version}"
        raise CkptError(f"{have}, whose parameter groups can't be brought into the order of this file's")
    optimizer, left_out = made
    started = f"; {few(left_out)} start afresh" if left_out else ""
    text = f"parameter groups of {donor.name} in the order of ultralytics {case.found.version}{started}"
    case.do("group-order", text, loss=bool(left_out), consent=True)
    return optimizer


def _grouping(version: tuple[int, ...]) -> dict[str, Any]:
    return {key: value for key, value in group_rules(version).items() if key != "since"}


def _counter(case: Case, donor: Donor) -> None:
    """The EMA's update counter, where the file has none: the donor's, carried on to the epoch of the weights."""
    if case.family != "ultralytics" or isinstance(case.found.value("updates"), (int, float)):
        return
    theirs = donor.found.value("updates")
    here = case.found.epoch
    if not isinstance(theirs, (int, float)) or donor.epoch is None:
        return
    factor = (here + 1) / (donor.epoch + 1) if here is not None and here >= 0 else 1
    count = rounded(theirs * factor)
    if count is None:
        return
    case.put("updates", count)
    case.do("ema-counter", f"updates {count}, from {donor.name}'s {theirs:g}", loss=factor != 1, consent=True)


def _scheduler_position(case: Case, donor: Donor, path: str) -> None:
    """Move a donor's scheduler to this file's epoch; the learning rate is the one the optimizer's groups have."""
    here, there = case.found.epoch, donor.found.epoch if donor.found.weights else None
    state = dict_of(lookup(case.root, path)[1])
    position = plain(state.get("last_epoch"))
    if here is None or there is None or here == there or not isinstance(position, int):
        return
    moved = position + here - there
    case.put(f"{path}.last_epoch", moved)
    if isinstance(plain(state.get("_step_count")), int):
        case.put(f"{path}._step_count", plain(state["_step_count"]) + here - there)
    theirs = plain(dict_of(lookup(donor.found.root, path)[1]).get("_last_lr"))
    driven = next((part for part in donor.found.role("optimizer") if _rates(part) == theirs), None)
    optimizer = next((part for part in case.found.role("optimizer") if driven and part.path == driven.path), None)
    if optimizer is not None and all(isinstance(rate, float) for rate in _rates(optimizer)):
        case.put(f"{path}._last_lr", _rates(optimizer))
    case.do("scheduler-position", f"{path}.last_epoch {moved}, as epoch {here} has it", consent=True)


def _rates(part: Part) -> list[Node]:
    return [group.options.get("lr") for group in part.groups]


def graft_args(case: Case, settings: Mapping[str, Any], source: str, *, consent: bool) -> None:
    """Take the saved arguments of a settings file; an object (Namespace) stays one and keeps what is not named."""
    path, part = case.path("args"), case.part("args")
    if not path:
        raise CkptError(f"{case.name} ({case.family}) keeps no training arguments; leave --args-from out")
    refuse_task(case, settings, source)
    made = {key: value if isinstance(value, PLAIN) else str(value) for key, value in settings.items()}
    before = list(case.found.args)
    if part is not None and not isinstance(part.node, dict):
        for key, value in made.items():
            case.put(f"{path}.{key}", value)
    else:
        if isinstance(case.found.args.get("save_dir"), str):
            made.setdefault("save_dir", case.found.args["save_dir"])
        case.put(path, made)
    gone = [key for key in before if not case.found.has(f"{path}.{key}")]
    lost = f"; without {few(gone, 8)}" if gone else ""
    case.records[path] = Record(Outcome.DONOR, source)
    case.do("args", f"{path} from {source} ({len(made)} settings{lost})", loss=True, consent=consent)


def refuse_task(case: Case, settings: Mapping[str, Any], source: str) -> None:
    """Arguments of another task make the trainer build another model."""
    ours, theirs = case.found.args.get("task"), settings.get("task")
    if isinstance(ours, str) and isinstance(theirs, str) and ours != theirs:
        raise CkptError(f"{source} is of another task ({theirs}, this file {ours}); name the arguments of this run")


PLAIN = (str, int, float, bool, list, dict, type(None), GlobalRef, Call, tuple)


def set_arguments(case: Case, settings: Mapping[str, Any]) -> None:
    """Set saved arguments; raises ``CkptError`` for one the trainer would refuse, or that has no place in the file."""
    path = case.path("args")
    for key, value in settings.items():
        if key == "epochs" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise CkptError(f"--set epochs={value}: not a number of epochs; write e.g. --set epochs=200")
        if case.family == "ultralytics":
            version = case.wanted or case.version
            bad = refused_arguments({key: value}, version)
            if bad and key != "optimizer":
                raise CkptError(f"--set {key}={value}: ultralytics would refuse it ({bad[0]}); check name and value")
        place = f"{path}.{key}" if path and case.part("args") else key
        before = case.found.value(place)
        if key == "optimizer" and "optimizer" not in case.request.reinit:
            _refuse_kind(case, str(value))
        if case.family != "ultralytics" and not case.found.has(place):
            look = hint("ckpt inspect {path} --args", "{} lists them", path=case.original)
            raise CkptError(f"--set {key}: {case.name} has no such setting; {look}")
        schedule = _schedule(case, value) if key == "epochs" else ""
        case.put(place, value)
        was = f" (was {before!r})" if isinstance(before, (str, int, float)) else ""
        case.do("set", f"{place} = {value!r}{was}{schedule}", loss=True, consent=True)


def _refuse_kind(case: Case, name: str) -> None:
    """The saved state belongs to one kind of optimizer; another name alone makes the trainer stop."""
    part = case.part("optimizer")
    kind = optimizer_kind(part) if part is not None else None
    same = kind is None or name.lower() == kind.name.lower() or (kind.name == "AdamW" and name.lower() == "adam")
    if kind is not None and not same:
        raise CkptError(f"--set optimizer={name}: the saved state is {kind.name}'s; add --reinit optimizer")


def _schedule(case: Case, epochs: Any) -> str:
    """What another number of epochs does to the learning rate where the run goes on."""
    args, done, before = case.found.args, case.found.epoch, case.found.epochs
    lrf = plain(args.get("lrf"))
    if not (isinstance(epochs, int) and isinstance(lrf, (int, float)) and before and done is not None and done >= 0):
        return "; the learning-rate schedule is stretched over all of them"
    import math

    def factor(of: int) -> float:
        share = min(1.0, (done + 1) / of) if of else 1.0
        falling = (1 + math.cos(math.pi * share)) / 2 if plain(args.get("cos_lr")) else 1 - share
        return float(falling * (1 - lrf) + lrf)

    return (
        f"; the learning-rate schedule is stretched over all of them: at epoch {done + 1} it goes on at "
        f"{factor(epochs):.3g} of lr0, where {before} epochs had {factor(before):.3g}"
    )
