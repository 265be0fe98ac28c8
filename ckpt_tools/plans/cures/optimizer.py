"""Cures of the optimizer: its groups, its kind, a fresh one, and states that are of no use."""

from __future__ import annotations

from ckpt_tools.checks.names import few
from ckpt_tools.checks.optimizers import optimizer_kind
from ckpt_tools.checks.values import underflowed_states
from ckpt_tools.findings import CkptError, as_text
from ckpt_tools.layouts.parts import dict_of, plain, rounded
from ckpt_tools.layouts.ultralytics import auto_choices, group_rules
from ckpt_tools.pickles import Call, pairs_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.donors import Donor
from ckpt_tools.plans.grafts import fitting, graft_part
from ckpt_tools.plans.model import Outcome
from ckpt_tools.plans.optimizers import OPTIONS, fresh, is_muon, parameter_names, rearranged
from ckpt_tools.plans.salvage import leave_states_out, reset_optimizer

__all__ = [
    "group_order",
    "initial_lr",
    "make_optimizer",
    "no_optimizer",
    "optimizer_misfit",
    "optimizer_name",
    "underflowed",
]


def group_order(case: Case) -> None:
    """Bring the parameter groups into the target's order, each state on its own parameter."""
    part = case.part("optimizer")
    wanted = case.wanted
    if part is None or not wanted or not case.layers:
        return
    made = rearranged(part, case.layers, case.version, wanted)
    if made is None:
        raise CkptError(f"the optimizer's groups can't be brought into the order of {case.target}")
    optimizer, left_out = made
    case.put(part.path, optimizer)
    names = [
        name
        for name in part.tensors
        if name.startswith(tuple(f"state.{as_text(key)}." for key in _keys(case, left_out)))
    ]
    case.record(part, Outcome.SALVAGED if left_out else Outcome.EDITED, None, names)
    order = "musgd_order" if is_muon(part.groups) else "order"
    listed = ", ".join(group_rules(wanted)[order])
    started = f"; those of {few(left_out)} start afresh, trained otherwise there" if left_out else ""
    text = f"parameter groups as {case.target} has them ({listed}), each state on its own parameter{started}"
    case.do("group-order", text, loss=bool(left_out))
    if case.found.has("version") and case.target is not None:
        case.put("version", case.target.version)


def _keys(case: Case, names: list[str]) -> list[Node]:
    """The parameter ids of names."""
    part = case.part("optimizer")
    known = parameter_names(part, case.layers, case.version) if part is not None and names else {}
    return [key for key, name in known.items() if name in names]


def optimizer_name(case: Case) -> None:
    """Let the saved arguments name the optimizer whose state is in the file."""
    part = case.part("optimizer")
    kind = optimizer_kind(part) if part is not None else None
    if kind is None or not case.path("args"):
        return
    names = {name.lower(): name for name in group_rules(case.version)["names"]}
    name = names.get(kind.name.lower(), kind.name)
    before = case.found.args.get("optimizer")
    if isinstance(before, str) and before.lower() in (name.lower(), "adam" if name == "AdamW" else name.lower()):
        return
    rate = next((group.options.get("initial_lr") for group in part.groups), None) if part is not None else None
    case.put(f"{case.path('args')}.optimizer", name)
    text = f"optimizer = {name}, which the groups show (was {before})"
    if isinstance(rate, float) and str(before).lower() == "auto":
        case.put(f"{case.path('args')}.lr0", rate)
        text += f", lr0 = {rate:g} as they have it"
    case.do("optimizer-auto", text)


def no_optimizer(case: Case) -> None:
    """An optimizer from the nearest sibling that has one, else a fresh one with the right groups."""
    if "optimizer" not in case.request.reinit:
        for donor in case.nearest:
            if donor.part("optimizer") is None or fitting(case, donor):
                continue
            try:
                graft_part(case, donor, "optimizer", consent=False)
            except CkptError:
                continue
            case.advice.append(f"instead of {donor.name}'s optimizer: --optimizer-from FILE, or --reinit optimizer")
            return
    make_optimizer(case, consent="optimizer" in case.request.reinit)


def make_optimizer(case: Case, *, consent: bool) -> None:
    """A fresh optimizer for the file's model; raises ``CkptError`` where its groups can't be known."""
    part = case.part("optimizer")
    if part is not None and part.groups:
        reset_optimizer(case, part, consent=consent)
        return
    if case.family != "ultralytics" or not case.layers:
        for donor in case.nearest:
            theirs = donor.part("optimizer")
            if theirs is not None and theirs.groups and not fitting(case, donor):
                _groups_of(case, donor, consent=consent)
                return
        why = f"{case.name} has no optimizer, and how its script groups the parameters can't be known"
        raise CkptError(f"{why}; name a file of the same run with --optimizer-from")
    kind = _kind_to_make(case)
    version = case.wanted or case.version
    made = fresh(case.layers, version, kind, case.found.args)
    case.put("optimizer", made)
    if case.version != version and case.target is not None:
        case.put("version", case.target.version)
    case.settle()
    made_part = case.part("optimizer")
    if made_part is not None:
        case.record(made_part, Outcome.REINITIALISED)
    sizes = " + ".join(str(len(group["params"])) for group in made["param_groups"])
    case.do("reinit", f"a fresh {kind} with {sizes} parameters: no momentum", loss=True, consent=consent)
    optimizer_name(case)


def _groups_of(case: Case, donor: Donor, *, consent: bool) -> None:
    """A sibling's parameter groups without their states."""
    graft_part(case, donor, "optimizer", consent=consent)
    case.steps.pop()
    case.settle()
    for path in [part.path for part in case.found.role("optimizer")]:
        part = case.at(path, "optimizer")
        case.records.pop(path, None)
        if part is not None:
            reset_optimizer(case, part, consent=consent)
    case.do("groups", f"parameter groups and their settings as in {donor.name}", consent=True)


def _kind_to_make(case: Case) -> str:
    """The optimizer the saved arguments name; what ``auto`` chose, from a sibling or where there is only one choice."""
    name = case.found.args.get("optimizer")
    if isinstance(name, str) and name.lower() != "auto":
        known = {kind.lower(): kind for kind in OPTIONS}
        if name.lower() in known:
            return known[name.lower()]
        raise CkptError(f"no fresh {name} can be made here; add --set optimizer=NAME, one of {', '.join(OPTIONS)}")

    for donor in case.nearest:
        part = donor.part("optimizer")
        kind = optimizer_kind(part) if part is not None else None
        if kind is not None and kind.name in OPTIONS:
            return kind.name
    raise CkptError(
        f"the saved arguments say optimizer=auto ({' or '.join(sorted(auto_choices(case.version)))}), and nothing here "
        "shows which it was; add e.g. --set optimizer=AdamW"
    )


def optimizer_misfit(case: Case) -> None:
    """An optimizer that does not fit its model: one that does, from a sibling, else a fresh one."""
    part = case.part("optimizer")
    wanted = case.wanted
    made = rearranged(part, case.layers, case.version, wanted) if part is not None and case.layers and wanted else None
    sizes = [len(group.params) for group in part.groups] if part is not None else []
    if made is not None and [len(group["params"]) for group in made[0]["param_groups"]] != sizes:
        group_order(case)  # the same parameters, grouped otherwise (MuSGD before 8.4.113)
        return
    if part is not None and part.path in case.records and case.records[part.path].outcome is not Outcome.KEPT:
        raise CkptError("the optimizer does not fit the model's parameters; name another with --optimizer-from")
    if case.family == "ultralytics":
        case.put("optimizer", None)
        case.settle()
        no_optimizer(case)


def underflowed(case: Case) -> None:
    """Start the Adam state of the parameters afresh whose second moments underflowed."""
    part = case.part("optimizer")
    keys = underflowed_states(case.draft.checkpoint, case.holding.content, part) if part is not None else []
    if part is not None and keys:
        leave_states_out(case, part, keys, "their second moments had underflowed in float16")


def initial_lr(case: Case) -> None:
    """Groups without ``initial_lr``: the rate the run began with, three times that in MuSGD's boosted groups."""
    part = case.part("optimizer")
    rate = plain(case.found.args.get("lr0"))
    if part is None or not isinstance(rate, (int, float)):
        return
    groups = dict_of(part.node).get("param_groups")
    rates = [plain(group.options.get("lr")) for group in part.groups]
    least = min((rate for rate in rates if isinstance(rate, (int, float)) and rate > 0), default=0)
    for group, current in zip(groups if isinstance(groups, list) else [], rates):
        factor = rounded(current / least) if isinstance(current, (int, float)) and least else 1
        began = rate * (factor if factor in (1, 3) else 1)
        if isinstance(group, dict):
            group.setdefault("initial_lr", began)
        elif isinstance(group, Call) and "initial_lr" not in dict(pairs_of(group)):
            group.pairs = [*pairs_of(group), ("initial_lr", began)]
    case.draft.edited = True
    case.record(part, Outcome.EDITED)
    case.do("no-initial-lr", f"initial_lr {rate:g} in every parameter group (the saved lr0)")
