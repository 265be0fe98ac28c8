"""Cures of the weights: values that are no numbers, names with prefixes."""

from __future__ import annotations

from ckpt_tools.checks.names import few
from ckpt_tools.checks.portability import PREFIXES
from ckpt_tools.checks.values import nonfinite_tensors
from ckpt_tools.findings import CkptError, as_text
from ckpt_tools.pickles import is_mapping
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.edits import rename_keys
from ckpt_tools.plans.grafts import fitting, graft_weights
from ckpt_tools.plans.model import Outcome
from ckpt_tools.plans.salvage import leave_states_out, rebase, replace_by_twin, twin_of

__all__ = ["name_prefix", "non_finite", "saved_method"]


def non_finite(case: Case) -> None:
    """NaN and infinity: the other set of weights or a sibling, and for an optimizer those states afresh."""
    checkpoint, content = case.draft.checkpoint, case.holding.content
    for part in case.found.weights:
        bad = nonfinite_tensors(checkpoint, content, part)
        if not bad:
            continue
        twin = twin_of(case, part)
        if twin is not None and not nonfinite_tensors(checkpoint, content, twin):
            replace_by_twin(case, part, twin)
            return
        for donor in case.furthest:
            theirs = donor.part(part.role)
            sound = theirs is not None and not nonfinite_tensors(donor.checkpoint, donor.holding.content, theirs)
            if sound and not fitting(case, donor) and donor.holding.intact and donor.part("optimizer") is not None:
                if case.request.edits:
                    graft_weights(case, donor, part.role, consent=False)
                else:
                    rebase(case, donor, f"{part.path} holds NaN or infinity ({few(bad)})")
                return
        raise CkptError(f"{part.path} holds NaN or infinity ({few(bad)}), and no finite file of the run is here")
    part_of = case.part("optimizer")
    if part_of is not None:
        bad = nonfinite_tensors(checkpoint, content, part_of)
        keys = {name.split(".")[1] for name in bad if name.startswith("state.")}
        found = [key for key in part_of.state if as_text(key) in keys]
        if found:
            leave_states_out(case, part_of, found, "they hold NaN or infinity")


def name_prefix(case: Case) -> None:
    """Cut the prefixes of wrappers off the names of a state dict."""
    for part in case.found.weights:
        prefix = next((p for p in PREFIXES if part.tensors and all(name.startswith(p) for name in part.tensors)), None)
        if prefix and part.form == "state_dict" and is_mapping(part.node):
            rename_keys(part.node, {name: name.removeprefix(prefix) for name in part.tensors})
            case.draft.edited = True
            case.record(part, Outcome.EDITED)
            case.do("name-prefix", f"{part.path or 'names'} without the prefix {prefix}")


def saved_method(case: Case) -> None:
    """A method that was saved instead of its result becomes the object it belongs to, as the file is read already."""
    done = any(step.name == "saved-method" for step in case.steps)
    if not done and any(fact.slug == "saved-method" for fact in case.draft.checkpoint.findings):
        case.draft.edited = True
        case.do("saved-method", "the object itself instead of its method")
