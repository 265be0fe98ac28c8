"""What a checkpoint holds: the state of every part of a training, taken from live objects and given back to them.

Everything stored is plain: tensors, numbers, texts and containers of them, so that ``torch.load`` with
``weights_only=True`` and our own reader both take it.
"""

from __future__ import annotations

import random
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

import torch

from ckpt_tools.findings import CkptError
from ckpt_tools.training import processes
from ckpt_tools.training.sampler import ResumableSampler

__all__ = ["PARTS", "Loaded", "gather_state", "restore_state"]

PARTS = ("model", "optimizer", "scheduler", "scaler", "ema", "sampler")  # objects with a state dict
FORMAT = 1
OURS = ("ckpt_tools", *PARTS, "epoch", "step", "rng", "args", "metrics")
SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
Take = Callable[[torch.Tensor], torch.Tensor]


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
    if isinstance(part, Mapping) and all(hasattr(one, "state_dict") for one in part.values()):
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


def gather_state(
    parts: Mapping[str, Any],
    *,
    epoch: int | None,
    step: int | None,
    rng: bool,
    args: Any,
    metrics: Mapping[str, Any] | None,
    extra: Mapping[str, Any],
    take: Take = torch.Tensor.detach,
) -> dict[str, Any]:
    """Everything a checkpoint is to hold; every rank must call it, as the random state of all of them is collected.

    ``take`` is asked for each tensor, e.g. to copy it. Raises ``CkptError`` where something could not be loaded
    safely again, or is only a shard of the whole.
    """
    clash = sorted(set(extra) & set(OURS))
    if clash:
        raise CkptError(f"{', '.join(clash)}: these names are taken; store it under another name")
    content: dict[str, Any] = {"ckpt_tools": FORMAT, "epoch": epoch, "step": step}
    content |= {name: _state_of(part, name) for name, part in parts.items() if part is not None}
    if rng:
        content["rng"] = processes.gathered(random_state())
    content |= {"args": args, "metrics": dict(metrics or {}), **extra}
    return {name: _plain(value, name, take) for name, value in content.items() if value is not None}


def _plain(value: Any, where: str, take: Take) -> Any:
    """A copy of a value in which every container is new; raises ``CkptError`` at what a safe load refuses."""
    if isinstance(value, torch.Tensor):
        if type(value).__name__ in ("DTensor", "ShardedTensor"):
            raise CkptError(f"{where} is one shard of a tensor; save sharded models with torch.distributed.checkpoint")
        return take(value)
    if isinstance(value, bool):
        return value
    for kind in (int, float, str):  # also numpy's float64, an Enum of texts, …
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, SIMPLE):
        return value
    if isinstance(value, Mapping):
        pairs = ((_key(key, where), _plain(held, f"{where}.{key}", take)) for key, held in value.items())
        return _with_versions(OrderedDict(pairs), value) if isinstance(value, OrderedDict) else dict(pairs)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_plain(held, f"{where}.{number}", take) for number, held in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, PurePath):
        return str(value)
    if type(value).__module__ == "numpy":
        return value.item() if not getattr(value, "shape", ()) else take(torch.from_numpy(value))
    if isinstance(value, (SimpleNamespace, Namespace)) or (is_dataclass(value) and not isinstance(value, type)):
        return _plain(vars(value), where, take)
    kind_name = f"{type(value).__module__}.{type(value).__qualname__}"
    raise CkptError(f"{where} is a {kind_name}, which no safe load brings back; store numbers, texts or tensors of it")


def _with_versions(state: OrderedDict[str, Any], of: Any) -> OrderedDict[str, Any]:
    """The state dict with the versions of its modules, by which they know how to read it."""
    if hasattr(of, "_metadata"):
        state._metadata = of._metadata  # type: ignore[attr-defined]
    return state


def _key(key: Any, where: str) -> Any:
    if isinstance(key, (bool, int, float, str, bytes, type(None))):
        return key
    if isinstance(key, tuple):
        return tuple(_key(item, where) for item in key)
    raise CkptError(f"{where} has a key that is a {type(key).__name__}; use numbers or texts")


def random_state() -> dict[str, Any]:
    """The state of the random number generators of this process: Python's, numpy's (if in use) and torch's."""
    import sys

    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        name, keys, *rest = sys.modules["numpy"].random.get_state()
        state["numpy"] = (str(name), torch.tensor(keys.tolist(), dtype=torch.int64), *rest)
    for name in ("cuda", "xpu"):
        device = getattr(torch, name, None)
        if device is not None and device.is_available() and device.is_initialized():
            state[name] = device.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Give the generators back what :func:`random_state` took, as far as this machine has them."""
    if "python" in state:
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
    if "torch" in state:
        torch.set_rng_state(state["torch"].cpu())
    if "numpy" in state:
        import numpy

        name, keys, *rest = state["numpy"]
        numpy.random.set_state((name, keys.cpu().numpy().astype(numpy.uint32), *rest))
    for name in ("cuda", "xpu"):
        device = getattr(torch, name, None)
        if device is not None and device.is_available():
            for number, held in enumerate(state.get(name, ())[: device.device_count()]):
                device.set_rng_state(held.cpu(), number)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())


def restore_state(content: Mapping[str, Any], parts: Mapping[str, Any], *, rng: bool, strict: bool) -> Loaded:
    """Give every part its state; nothing is changed where something does not fit (``CkptError``)."""
    loaded = Loaded(epoch=content.get("epoch"), step=content.get("step"), args=content.get("args"))
    loaded.metrics = dict(content.get("metrics") or {})
    loaded.extra = {name: value for name, value in content.items() if name not in OURS}
    wanted = {name: part for name, part in parts.items() if part is not None}
    loaded.absent = [name for name, part in wanted.items() if _is_absent(content.get(name), part)]
    if strict and loaded.absent:
        raise CkptError(f"the file has no {', no '.join(loaded.absent)}; load it with strict=False to go on without")
    pairs = [
        pair for name, part in wanted.items() if name not in loaded.absent for pair in _pairs(part, content[name], name)
    ]
    pairs = [(one, _fitting(one, state, name, strict, loaded.absent), name) for one, state, name in pairs]
    for one, state, name in sorted(pairs, key=lambda pair: isinstance(pair[0], torch.nn.Module)):
        try:  # modules last: theirs is known to fit
            _give(one, state)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CkptError(f"{name} does not take the file's state: {error}; build it as it was saved") from error
    if rng and content.get("rng"):
        states = content["rng"]
        rank = processes.rank()
        if rank < len(states):
            restore_random_state(states[rank])
            if isinstance(parts.get("sampler"), ResumableSampler):
                parts["sampler"].before_loader = torch.get_rng_state()
        else:
            loaded.absent.append("rng")  # more processes than saved it: theirs stays as they seeded it
    return loaded


def _is_absent(state: Any, part: Any) -> bool:
    """Whether a file holds nothing of a part; nothing is all that a disabled ``GradScaler`` has."""
    if state is None or state != {}:
        return state is None
    return not hasattr(part, "state_dict") or bool(part.state_dict())


def _pairs(part: Any, state: Any, name: str) -> Iterator[tuple[Any, Any, str]]:
    """Each object of a part with its state."""
    several = objects(part)
    if several is None:
        yield unwrapped(part), state, name
        return
    if not isinstance(state, Mapping) or set(state) != set(several):
        held = ", ".join(map(str, state)) if isinstance(state, Mapping) else "one"
        raise CkptError(f"the file's {name} are {held}, the training's are {', '.join(several)}; pass the same ones")
    for key, one in several.items():
        yield from _pairs(one, state[key], f"{name}.{key}")


def _fitting(one: Any, state: Any, name: str, strict: bool, absent: list[str]) -> Any:
    """The state as the object takes it; raises ``CkptError`` where it does not fit."""
    if isinstance(one, torch.nn.Module):
        return _fitting_module(one, state, name, strict, absent)
    if isinstance(one, torch.optim.Optimizer):
        held = [len(group["params"]) for group in state["param_groups"]]
        own = [len(group["params"]) for group in one.param_groups]
        if held != own:
            raise CkptError(
                f"{name}: its groups hold {held} parameters in the file and {own} here; build it the same way"
            )
    elif isinstance(getattr(one, "ema", None), torch.nn.Module) and not hasattr(one, "load_state_dict"):
        return {**state, "ema": _fitting_module(unwrapped(one.ema), state["ema"], f"{name}.ema", strict, absent)}
    elif not hasattr(one, "load_state_dict"):
        raise CkptError(f"{name} has no load_state_dict() ({type(one).__name__}); pass the object itself")
    return state


def _fitting_module(
    module: torch.nn.Module, state: Any, name: str, strict: bool, absent: list[str]
) -> OrderedDict[str, Any]:
    """The tensors of a state dict under the module's own names; prefixes of wrappers are no difference."""
    own = module.state_dict()
    held = dict(state)
    for prefix in ("module.", "_orig_mod."):
        if held and not set(held) & set(own) and all(key.startswith(prefix) for key in held):
            held = {key[len(prefix) :]: value for key, value in held.items()}
    missing = [key for key in own if key not in held]
    unknown = [key for key in held if key not in own]
    shapes = [key for key in own if key in held and _shape(own[key]) != _shape(held[key])]
    if strict and (missing or unknown or shapes):
        first = [
            *(f"{key} is missing" for key in missing),
            *(f"{key} is unknown" for key in unknown),
            *(f"{key} is {_shape(held[key])} in the file and {_shape(own[key])} here" for key in shapes),
        ]
        more = f" and {len(first) - 3} more" if len(first) > 3 else ""
        raise CkptError(f"{name} does not fit: {'; '.join(first[:3])}{more}; nothing was loaded")
    absent += [f"{name}.{key}" for key in (*missing, *unknown, *shapes)]
    fitting = OrderedDict((key, value) for key, value in held.items() if key in own and key not in shapes)
    return _with_versions(fitting, state)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _give(one: Any, state: Any) -> None:
    if isinstance(one, torch.nn.Module):
        one.load_state_dict(state, strict=False)  # what fits was settled before
    elif hasattr(one, "load_state_dict"):
        one.load_state_dict(state)
    else:
        one.ema.load_state_dict(state["ema"], strict=False)
        one.updates = state["updates"]
