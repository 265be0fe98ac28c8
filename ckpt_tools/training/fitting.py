"""Whether a saved state fits the object it is for, settled before anything is changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

from ckpt_tools.findings import CkptError
from ckpt_tools.training.plain import with_versions

__all__ = ["fitted"]

# Settings of a group that tell one kind of optimizer from another, and state that has its parameter's shape
# (torch 2.14, torch/optim/*.py).
SETTINGS = {"lr", "momentum", "dampening", "betas", "eps", "alpha", "rho", "lr_decay", "etas", "lambd"}
SHAPED = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg", "acc_delta", "prev")
MOST_NAMED = 3


def fitted(one: Any, state: Any, name: str, strict: bool, absent: list[str]) -> Any:
    """The state as the object takes it; raises ``CkptError`` where it does not fit."""
    if isinstance(one, torch.nn.Module):
        return _fitted_module(one, state, name, strict, absent)
    if isinstance(one, torch.optim.Optimizer):
        _check_optimizer(one, state, name)
    elif isinstance(one, (torch.optim.lr_scheduler.LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)):
        _check_scheduler(one, state, name)
    elif isinstance(getattr(one, "ema", None), torch.nn.Module) and not hasattr(one, "load_state_dict"):
        if not {"ema", "updates"} <= set(state):
            raise CkptError(f"the file's {name} is no average with a counter; pass the object it was saved from")
        return {**state, "ema": _fitted_module(one.ema, state["ema"], f"{name}.ema", strict, absent)}
    elif not hasattr(one, "load_state_dict"):
        raise CkptError(f"{name} has no load_state_dict() ({type(one).__name__}); pass the object itself")
    return state


def _check_optimizer(one: torch.optim.Optimizer, state: Mapping[str, Any], name: str) -> None:
    groups = state.get("param_groups")
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        raise CkptError(f"the file's {name} has no parameter groups; `ckpt verify` says what it lacks")
    held = [len(group.get("params", ())) for group in groups]
    own = [len(group["params"]) for group in one.param_groups]
    if held != own:
        raise CkptError(f"{name}: its groups hold {held} parameters in the file and {own} here; build it the same way")
    for saved, group in zip(groups, one.param_groups):
        lacks = sorted((SETTINGS & set(group)) - set(saved))
        if lacks:
            raise CkptError(
                f"{name} is another optimizer than the file's, which has no {', '.join(lacks)}; use the same"
            )
    places = [place for group in groups for place in group["params"]]
    parameters = [parameter for group in one.param_groups for parameter in group["params"]]
    for place, parameter in zip(places, parameters):
        moments = state.get("state", {}).get(place, {})
        for key in SHAPED:
            moment = moments.get(key)
            if isinstance(moment, torch.Tensor) and moment.dim() and moment.shape != parameter.shape:
                shapes = f"{tuple(moment.shape)} in the file and its parameter {tuple(parameter.shape)} here"
                raise CkptError(f"{name}: {key} of parameter {place} is {shapes}; give it parameters in the same order")


def _check_scheduler(one: Any, state: Mapping[str, Any], name: str) -> None:
    lacks = sorted(key for key in one.state_dict() if not key.startswith("_") and key not in state)
    if lacks:
        raise CkptError(f"{name} is another scheduler than the file's, which has no {', '.join(lacks)}; use the same")


def _fitted_module(
    module: torch.nn.Module, state: Any, name: str, strict: bool, absent: list[str]
) -> OrderedDict[str, Any]:
    """The tensors of a state dict under the module's own names; prefixes of wrappers are no difference."""
    own = module.state_dict()
    held = _renamed(state, own)
    missing = [key for key in own if key not in held]
    unknown = [key for key in held if key not in own]
    shapes = [key for key in own if key in held and _shape(own[key]) not in (None, _shape(held[key]))]
    if strict and (missing or unknown or shapes):
        first = [
            *(f"{key} is missing" for key in missing),
            *(f"{key} is unknown" for key in unknown),
            *(f"{key} is {_shape(held[key])} in the file and {_shape(own[key])} here" for key in shapes),
        ]
        more = f" and {len(first) - MOST_NAMED} more" if len(first) > MOST_NAMED else ""
        raise CkptError(f"{name} does not fit: {'; '.join(first[:MOST_NAMED])}{more}; nothing was loaded")
    absent += [f"{name}.{key}" for key in (*missing, *unknown, *shapes)]
    fitting = OrderedDict((key, value) for key, value in held.items() if key in own and key not in shapes)
    return with_versions(fitting, state)


def _renamed(state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The entries under the names the module has for them, where only what wrappers add to names differs."""
    held = dict(state)
    if held and not set(held) & set(own) and all(key.startswith("module.") for key in held):
        held = {key.removeprefix("module."): value for key, value in held.items()}
    names = {key.replace("_orig_mod.", ""): key for key in own}  # torch.compile of a module inside of others
    if len(names) < len(own) or set(held) <= set(own):
        return held
    return {names.get(key.replace("_orig_mod.", ""), key): value for key, value in held.items()}


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor; ``None`` where it gets one only with the first batch, or with what is loaded."""
    if not isinstance(value, torch.Tensor):
        return ()
    lazy = isinstance(value, (torch.nn.parameter.UninitializedParameter, torch.nn.parameter.UninitializedBuffer))
    return None if lazy else tuple(value.shape)
