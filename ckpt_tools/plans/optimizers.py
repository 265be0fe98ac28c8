"""Optimizer state dicts taken apart and put together: groups in another order, fresh ones, and states left out.

Groups as ``BaseTrainer.build_optimizer`` makes them (``layouts/ultralytics.json``), their options as torch 2.14's
optimizers save them; ``load_state_dict`` replaces a group's options, so all of them must be there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ckpt_tools.layouts import Group, Part
from ckpt_tools.layouts.parts import dict_of, plain, rounded
from ckpt_tools.layouts.ultralytics import PlannedGroup, group_rules, plan_groups
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.tensors.modules import Layer

__all__ = ["fresh", "is_muon", "parameter_names", "rearranged", "without_states"]

MUON_GROUPS = 8
TAGS = {"weight": "weight", "norm": "bn", "bias": "bias", "muon": "muon"}
BOOST = 3.0  # MuSGD trains the classification branches three times as fast

_ADAM = {"betas": ..., "eps": 1e-8, "weight_decay": ..., "maximize": False, "foreach": None, "capturable": False,
         "differentiable": False}  # fmt: skip
_SGD = {"momentum": ..., "weight_decay": ..., "nesterov": True}
# torch/optim/*.py of torch 2.14 and ultralytics/optim/muon.py of 8.4.190; `...` is filled in from the arguments.
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {**_SGD, "dampening": 0, "maximize": False, "foreach": None, "differentiable": False, "fused": None},
    "MuSGD": {**_SGD, "use_muon": False},
    "Adam": {**_ADAM, "amsgrad": False, "fused": None, "decoupled_weight_decay": False},
    "AdamW": {**_ADAM, "amsgrad": False, "fused": None, "decoupled_weight_decay": True},
    "Adamax": _ADAM,
    "NAdam": {**_ADAM, "momentum_decay": 4e-3, "decoupled_weight_decay": False},
    "RAdam": {**_ADAM, "decoupled_weight_decay": False},
    "RMSprop": {"momentum": ..., "alpha": 0.99, "eps": 1e-8, "centered": False, "weight_decay": ...,
                "capturable": False, "foreach": None, "maximize": False, "differentiable": False},
}  # fmt: skip


def is_muon(groups: list[Group]) -> bool:
    """Whether these are MuSGD's eight groups."""
    return len(groups) == MUON_GROUPS and any(group.options.get("use_muon") is not None for group in groups)


def _planned(layers: list[Layer], version: tuple[int, ...], muon: bool) -> list[PlannedGroup]:
    rules = group_rules(version)
    return plan_groups(layers, rules, muon and bool(rules.get("musgd_order")))


def parameter_names(part: Part, layers: list[Layer], version: tuple[int, ...]) -> dict[Node, str]:
    """The name of each parameter id of a saved optimizer, where its groups are those a release makes of the model."""
    plan = _planned(layers, version, is_muon(part.groups))
    if [len(group.names) for group in plan] != [len(group.params) for group in part.groups]:
        return {}
    return {key: name for group, made in zip(part.groups, plan) for key, name in zip(group.params, made.names)}


def rearranged(
    part: Part, layers: list[Layer], version: tuple[int, ...], wanted: tuple[int, ...]
) -> tuple[dict[str, Any], list[str]] | None:
    """The optimizer with the groups of release ``wanted``, each state on its own parameter; ``None`` if it can't be.

    Parameters the older release had in no group get a place without a state. So do those that one release trains
    with Muon and the other does not, whose states differ in kind: the second value lists their names.
    """
    names = parameter_names(part, layers, version)
    muon = is_muon(part.groups)
    own, target = _planned(layers, version, muon), _planned(layers, wanted, muon)
    if not names or {plan.label for plan in own} != {plan.label for plan in target}:
        return None
    ids = {name: key for key, name in names.items()}
    options = {plan.label: group.options for plan, group in zip(own, part.groups)}
    trained = {name: plan.label.rstrip("+-") for plan in own for name in plan.names}
    state = dict_of(dict_of(part.node).get("state"))
    tagged = bool(group_rules(wanted).get("tags"))
    made_state: dict[Node, Node] = {}
    groups: list[dict[str, Any]] = []
    left_out: list[str] = []
    for plan in target:
        settings = {key: value for key, value in options[plan.label].items() if key != "param_group"}
        label = plan.label.rstrip("+-")
        if tagged:
            settings["param_group"] = TAGS[label]
        first = sum(len(group["params"]) for group in groups)
        groups.append({**settings, "params": list(range(first, first + len(plan.names)))})
        for number, name in enumerate(plan.names, first):
            if name not in ids or ids[name] not in state:
                continue
            if (label == "muon") != (trained[name] == "muon"):
                left_out.append(name)
            else:
                made_state[number] = state[ids[name]]
    if len(made_state) + len(left_out) != len([key for key in ids.values() if key in state]):
        return None  # a state would be left without its parameter
    return {"state": made_state, "param_groups": groups}, left_out


def fresh(layers: list[Layer], version: tuple[int, ...], kind: str, args: Mapping[str, Node]) -> dict[str, Any]:
    """A new optimizer as release ``version`` makes it, before its first step: all groups, no state.

    Raises ``KeyError`` for a ``kind`` that is not in :data:`OPTIONS`.
    """
    table = OPTIONS[kind]
    lr, momentum = _number(args, "lr0", 0.01), _number(args, "momentum", 0.9)
    filled = {"momentum": momentum, "betas": (momentum, 0.999)}
    groups: list[dict[str, Any]] = []
    for plan in _planned(layers, version, kind == "MuSGD"):
        label = plan.label.rstrip("+-")
        rate = lr * BOOST if plan.label.endswith("+") else lr
        options = {key: filled.get(key) if value is ... else value for key, value in table.items()}
        options["weight_decay"] = _decay(args) if label in ("weight", "muon") else 0.0
        if kind == "MuSGD":
            options["use_muon"] = label == "muon"
        first = sum(len(group["params"]) for group in groups)
        tag = {"param_group": TAGS[label]} if group_rules(version).get("tags") else {}
        numbers = list(range(first, first + len(plan.names)))
        groups.append({"lr": rate, **options, **tag, "initial_lr": rate, "params": numbers})
    return {"state": {}, "param_groups": groups}


def _decay(args: Mapping[str, Node]) -> float:
    """The weight decay scaled to the batch, as the trainer does."""
    batch, nominal = _number(args, "batch", 16), _number(args, "nbs", 64)
    if batch <= 0 or nominal <= 0:
        return _number(args, "weight_decay", 5e-4)
    steps = max(rounded(nominal / batch) or 1, 1)
    return _number(args, "weight_decay", 5e-4) * batch * steps / nominal


def _number(args: Mapping[str, Node], name: str, otherwise: float) -> float:
    value = plain(args.get(name))
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else otherwise


def without_states(part: Part, keys: Collection[Node]) -> None:
    """Leave the states of some parameters out: the optimizer makes them anew at its next step."""
    state = dict_of(part.node).get("state")
    if isinstance(state, dict):
        for key in keys:
            state.pop(key, None)
    elif state is not None and getattr(state, "pairs", None):
        state.pairs = [pair for pair in state.pairs if pair[0] not in keys]
