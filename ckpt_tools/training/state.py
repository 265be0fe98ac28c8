"""What a checkpoint holds: the state of every part of a training, taken from live objects and given back to them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ckpt_tools.findings import CkptError
from ckpt_tools.training import processes
from ckpt_tools.training.fitting import fitted
from ckpt_tools.training.plain import plain, with_versions
from ckpt_tools.training.randomness import restore_random_state
from ckpt_tools.training.sampler import ResumableSampler

__all__ = ["PARTS", "Loaded", "gather_state", "numbers", "restore_state"]

PARTS = ("model", "optimizer", "scheduler", "scaler", "ema", "sampler")  # objects with a state dict
FORMAT = 1
OURS = ("ckpt_tools", *PARTS, "epoch", "step", "rng", "args", "metrics")


@dataclass
class Loaded:
    """What a checkpoint said beside the state that was given back.

    ``epoch`` is the last finished one, counted from 0, ``step`` what was stored as such; ``None`` where the file does
    not say. ``absent`` lists parts asked for that the file does not hold, and with ``strict=False`` tensors that did
    not fit.
    """

    path: str = ""
    epoch: int | None = None
    step: int | None = None
    args: Any = None
    metrics: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)


def unwrapped(part: Any) -> Any:
    """The object inside ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``, however deep."""
    while True:
        if isinstance(part, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            part = part.module
        elif isinstance(part, torch.nn.Module) and "_orig_mod" in part._modules:  # torch._dynamo.OptimizedModule
            part = part._modules["_orig_mod"]
        else:
            return part


def objects(part: Any) -> dict[str, Any] | None:
    """The objects of a part by name where it is several (a list or mapping of them), ``None`` where it is one."""
    if isinstance(part, (list, tuple)):
        return {str(number): one for number, one in enumerate(part)}
    if isinstance(part, Mapping) and part and all(hasattr(one, "state_dict") for one in part.values()):
        return {str(name): one for name, one in part.items()}
    return None


def _state_of(part: Any, name: str) -> Any:
    several = objects(part)
    if several is not None:
        return {key: _state_of(one, f"{name}.{key}") for key, one in several.items()}
    inner = unwrapped(part)
    if isinstance(inner, Mapping):
        return inner  # a state dict already
    if hasattr(inner, "state_dict"):
        return inner.state_dict()
    if isinstance(getattr(inner, "ema", None), torch.nn.Module):  # ultralytics' and yolov5's ModelEMA have none
        return {"ema": unwrapped(inner.ema).state_dict(), "updates": getattr(inner, "updates", 0)}
    raise CkptError(f"{name} has no state_dict() ({type(inner).__name__}); pass the object itself, or its state dict")


def numbers(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """Metrics as plain numbers, also those that came as tensors or arrays of one; raises ``CkptError`` for others."""
    found: dict[str, float] = {}
    for name, value in (metrics or {}).items():
        try:
            found[str(name)] = float(value.detach() if isinstance(value, torch.Tensor) else value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CkptError(
                f"the metric {name} is no number ({type(value).__name__}); give one, e.g. its mean"
            ) from error
    return found


def gather_state(
    parts: Mapping[str, Any],
    *,
    epoch: int | None,
    step: int | None,
    rng: list[Any] | None,
    args: Any,
    metrics: Mapping[str, Any] | None,
    extra: Mapping[str, Any],
    take: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach,
) -> dict[str, Any]:
    """Everything a checkpoint is to hold. ``rng`` is the random state of every rank, ``take`` is asked for each tensor.

    Raises ``CkptError`` where something could not be loaded safely again, or is only a shard of the whole.
    """
    clash = sorted(set(extra) & set(OURS))
    if clash:
        raise CkptError(f"{', '.join(clash)}: these names are taken; store it under another name")
    content: dict[str, Any] = {"ckpt_tools": FORMAT, "epoch": epoch, "step": step}
    content |= {name: _state_of(part, name) for name, part in parts.items() if part is not None}
    content |= {"rng": rng, "args": args, "metrics": numbers(metrics), **extra}
    return {name: plain(value, name, take) for name, value in content.items() if value is not None}


def restore_state(content: Mapping[str, Any], parts: Mapping[str, Any], *, rng: bool, strict: bool) -> Loaded:
    """Give every part its state; nothing is changed where something does not fit (``CkptError``)."""
    loaded = Loaded(epoch=content.get("epoch"), step=content.get("step"), args=content.get("args"))
    metrics = content.get("metrics")
    loaded.metrics = dict(metrics) if isinstance(metrics, Mapping) else {}
    loaded.extra = {str(name): value for name, value in content.items() if name not in OURS}
    wanted = {name: part for name, part in parts.items() if part is not None}
    loaded.absent = [name for name, part in wanted.items() if _is_absent(content.get(name), part)]
    if strict and loaded.absent:
        raise CkptError(f"the file has no {', no '.join(loaded.absent)}; load it with strict=False to go on without")
    pairs: list[tuple[Any, Any, str]] = []
    for name, part in wanted.items():
        if name in loaded.absent:
            continue
        if name == "optimizer" and any(absent.startswith("model.") for absent in loaded.absent):
            loaded.absent.append(name)  # its state is that of other parameters
            continue
        for one, state, where in _pairs(part, content[name], name):
            pairs.append((one, fitted(one, state, where, strict, loaded.absent), where))
    for one, state, name in sorted(pairs, key=lambda pair: isinstance(pair[0], torch.nn.Module)):
        try:  # modules last: theirs is known to fit
            _give(one, state)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CkptError(f"{name} does not take the file's state: {error}; build it as it was saved") from error
    if rng and isinstance(content.get("rng"), list):
        _restore_rng(content["rng"], parts, loaded)
    return loaded


def _restore_rng(states: list[Any], parts: Mapping[str, Any], loaded: Loaded) -> None:
    if processes.rank() >= len(states):
        loaded.absent.append("rng")  # more processes than saved it: theirs stays as they seeded it
        return
    restore_random_state(states[processes.rank()])
    if isinstance(parts.get("sampler"), ResumableSampler):
        parts["sampler"].before_loader = torch.get_rng_state()


def _is_absent(state: Any, part: Any) -> bool:
    """Whether a file holds nothing of a part; nothing is all that a disabled ``GradScaler`` has."""
    if isinstance(state, Mapping) and not state:
        return not hasattr(part, "state_dict") or bool(part.state_dict())
    return state is None


def _pairs(part: Any, state: Any, name: str) -> Iterator[tuple[Any, Any, str]]:
    """Each object of a part with its state."""
    several = objects(part)
    if several is None:
        if not isinstance(state, Mapping):
            raise CkptError(f"the file's {name} is no state dict ({type(state).__name__}); `ckpt inspect` shows it")
        yield unwrapped(part), state, name
        return
    if not isinstance(state, Mapping) or set(state) != set(several):
        held = ", ".join(map(str, state)) if isinstance(state, Mapping) else "one"
        raise CkptError(f"the file's {name} are {held}, the training's are {', '.join(several)}; pass the same ones")
    for key, one in several.items():
        yield from _pairs(one, state[key], f"{name}.{key}")


def _give(one: Any, state: Any) -> None:
    if isinstance(one, torch.nn.Module):
        one.load_state_dict(state, strict=False)  # what fits was settled before
    elif hasattr(one, "load_state_dict"):
        one.load_state_dict(state)
    else:
        one.ema.load_state_dict(with_versions(OrderedDict(state["ema"]), state["ema"]), strict=False)
        one.updates = state["updates"]
