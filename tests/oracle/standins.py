"""Loading with the real torch where the packages a file names are absent: stand-ins take the place of their classes."""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

PRESENT = {"torch", "numpy", "__builtin__", "copy_reg"} | sys.stdlib_module_names


class _Thing(types.SimpleNamespace):
    """An object of a class that is not here, made of whatever arguments."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The real thing from torch, numpy and the standard library; an empty class for anything of a trainer."""
        if module.split(".", maxsplit=1)[0] in PRESENT:
            return super().find_class(module, name)
        base: type = torch.nn.Module if {"nn", "models"} & set(module.split(".")) else _Thing
        return type(name, (base,), {"__module__": module})


def _load(file: io.BufferedIOBase, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


STANDINS = types.ModuleType("standins")
vars(STANDINS).update(vars(pickle), Unpickler=_Unpickler, load=_load)


def load(path: Path, **options: Any) -> Any:
    """``torch.load`` as trainers call it."""
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=STANDINS, **options)


def named_tensors(content: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a loaded checkpoint by its dotted name; of a module what ``state_dict()`` names."""
    prefix = f"{path}." if path else ""
    if isinstance(content, torch.Tensor):
        yield path, content
    elif isinstance(content, torch.nn.Module):
        for name, value in content.state_dict().items():
            yield prefix + name, value
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from named_tensors(value, f"{prefix}{key}")
    elif isinstance(content, (list, tuple)):
        for index, value in enumerate(content):
            yield from named_tensors(value, f"{prefix}{index}")


WIDENED = {torch.bfloat16, *(dtype for name, dtype in vars(torch).items() if name.startswith("float8_"))}


def as_numpy(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """The values as ckpt_tools promises them: numpy's type where it has one, float32 for small floats."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if tensor.dtype in WIDENED:
        tensor = tensor.float()
    elif tensor.dtype is torch.complex32:
        tensor = tensor.to(torch.complex64)
    elif str(tensor.dtype).startswith(("torch.float4", "torch.bits8")):
        tensor = tensor.view(torch.uint8)
    elif str(tensor.dtype) == "torch.bits16":
        tensor = tensor.view(torch.uint16)
    made: npt.NDArray[np.generic] = tensor.resolve_conj().resolve_neg().numpy()
    return made


def same(ours: npt.NDArray[np.generic], theirs: npt.NDArray[np.generic]) -> bool:
    """Bit for bit, NaNs of whatever payload among equals."""
    ours = ours.astype(ours.dtype.newbyteorder("="))
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return False
    if ours.tobytes() == theirs.tobytes():
        return True
    if ours.dtype.kind not in "fc":
        return False
    keep = ~np.isnan(ours)
    return bool((np.isnan(theirs) == ~keep).all()) and ours[keep].tobytes() == theirs[keep].tobytes()


def bits(tensor: torch.Tensor) -> bytes:
    """The raw bytes of a tensor's values."""
    return bytes(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
