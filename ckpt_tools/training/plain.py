"""Plain values: what ``torch.load`` with ``weights_only=True`` brings back, and our own reader vouches for."""

from __future__ import annotations

import enum
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

import torch

from ckpt_tools.findings import CkptError

__all__ = ["plain", "with_versions"]

ALWAYS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
NUMBERS = (int, float, complex, str, bytes)  # kinds whose subclasses (numpy's float64, an IntEnum) become plain
OF_NUMPY: dict[str, type] = {"b": bool, "i": int, "u": int, "f": float, "c": complex}  # kinds of its scalars
DEEPEST = 200  # containers in each other
Take = Callable[[torch.Tensor], torch.Tensor]


def plain(value: Any, where: str, take: Take, depth: int = 0) -> Any:
    """A copy of a value in which every container is new; ``take`` is asked for each tensor.

    Raises ``CkptError``, with the place, at what a safe load would refuse.
    """
    if isinstance(value, torch.Tensor):
        return take(_whole(value, where))
    if type(value) in ALWAYS:
        return value
    if depth > DEEPEST:
        raise CkptError(f"{where[:200]} … is nested too deep, or holds itself; store less of it")
    if isinstance(value, enum.Enum):
        return plain(value.value, where, take, depth + 1)
    for kind in NUMBERS:
        if isinstance(value, kind):
            return kind(value)  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        pairs = [(_key(key, where), plain(held, f"{where}.{key}", take, depth + 1)) for key, held in value.items()]
        return with_versions(OrderedDict(pairs), value) if isinstance(value, OrderedDict) else dict(pairs)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [plain(held, f"{where}.{number}", take, depth + 1) for number, held in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (SimpleNamespace, Namespace)):
        return plain(vars(value), where, take, depth + 1)
    if is_dataclass(value) and not isinstance(value, type):
        held = {one.name: getattr(value, one.name) for one in fields(value)}
        return plain(held, where, take, depth + 1)
    if type(value).__module__ == "numpy" and hasattr(value, "dtype"):
        return _from_numpy(value, where, take)
    kind_name = f"{type(value).__module__}.{type(value).__qualname__}"
    raise CkptError(f"{where} is a {kind_name}, which no safe load brings back; store numbers, texts or tensors of it")


def _whole(tensor: torch.Tensor, where: str) -> torch.Tensor:
    """A tensor as one that has all its values, in a class torch loads safely."""
    if isinstance(tensor, (torch.nn.parameter.UninitializedParameter, torch.nn.parameter.UninitializedBuffer)):
        raise CkptError(f"{where} has no shape before the first batch went through; save after that")
    if tensor.device.type == "meta":
        raise CkptError(f"{where} lies on the meta device, where tensors have no values; load or initialise it first")
    if hasattr(tensor, "__tensor_flatten__") or type(tensor).__name__ == "ShardedTensor":
        what = type(tensor).__name__
        raise CkptError(f"{where} is a {what}, one part of a whole; save such models with torch.distributed.checkpoint")
    known = (torch.Tensor, torch.nn.Parameter)
    return tensor if type(tensor) in known else tensor.as_subclass(torch.Tensor)


def _from_numpy(value: Any, where: str, take: Take) -> Any:
    try:
        if not value.shape and value.dtype.kind in OF_NUMPY:
            return OF_NUMPY[value.dtype.kind](value)
        array = value.astype(value.dtype.newbyteorder("="))
        return take(torch.from_numpy(array.copy()))
    except (TypeError, ValueError, AttributeError) as error:
        raise CkptError(f"{where} is a numpy {value.dtype}, which has no tensor; store its numbers or texts") from error


def _key(key: Any, where: str) -> Any:
    if type(key) in (bool, int, float, str, bytes, type(None)):
        return key
    if isinstance(key, enum.Enum):
        return _key(key.value, where)
    if type(key).__module__ == "numpy" and getattr(getattr(key, "dtype", None), "kind", "") in OF_NUMPY:
        return OF_NUMPY[key.dtype.kind](key)
    if isinstance(key, tuple):
        return tuple(_key(item, where) for item in key)
    for kind in (int, float, str, bytes):
        if isinstance(key, kind):
            return kind(key)  # type: ignore[arg-type]
    raise CkptError(f"{where} has a key that is a {type(key).__name__}; use numbers or texts")


def with_versions(state: OrderedDict[str, Any], of: Any) -> OrderedDict[str, Any]:
    """The state dict with the versions of its modules, by which they know how to read it."""
    if hasattr(of, "_metadata"):
        versions = {str(name): dict(held) for name, held in of._metadata.items()}
        state._metadata = OrderedDict(versions)  # type: ignore[attr-defined]
    return state
