"""Tensor values read from raw bytes: magnitudes while they stream by, statistics, and lazy arrays.

Every value is looked at as an unsigned integer with its sign bit cleared. Of those the largest tells all that a
verdict needs: NaN or infinity (all exponent bits set), saturation, or nothing but zeros.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ckpt_tools.container import Container
from ckpt_tools.source import BUFFER_SIZE, Source
from ckpt_tools.tensors.dtypes import Dtype
from ckpt_tools.tensors.refs import TensorRef

__all__ = [
    "Magnitudes",
    "Stats",
    "finite_peak",
    "halves",
    "nonfinite_peak",
    "tensor_array",
    "tensor_raw",
    "tensor_stats",
]

MOST_REPEATED = 1024  # times a view may hold each value of its storage
MOST_READ_AGAIN = 1 << 27  # values of a view that repeats some
TILE = 1 << 17  # values that are counted at a time
# Largest magnitude (sign cleared) that is still finite, for the types whose rule is not "exponent all ones".
_ODD_FINITE = {"float8_e4m3fn": 0x7E, "float8_e5m2fnuz": 0x7F, "float8_e4m3fnuz": 0x7F, "float8_e8m0fnu": 0xFE}


class Magnitudes:
    """Finds the largest magnitude in pieces of raw values, with one scratch buffer reused for all of them."""

    def __init__(self, size: int = BUFFER_SIZE) -> None:
        self._scratch = np.empty(size, np.uint8)

    def peak(self, piece: memoryview, dtype: Dtype, swap: bool = False) -> int:
        """The largest magnitude in ``piece`` as an integer; incomplete values at its end are left out."""
        word = np.dtype(dtype.word)
        words = np.frombuffer(piece, word.newbyteorder(">") if swap else word, count=len(piece) // word.itemsize)
        if not len(words):
            return 0
        if dtype.name == "float8_e8m0fnu":
            return int(words.max())
        room = self._scratch[: len(words) * word.itemsize].view(word)
        np.bitwise_and(words, _magnitude_mask(word.itemsize), out=room)
        peak = int(room.max())
        if dtype.name.endswith("fnuz") and peak < 0x80 and bool((words == 0x80).any()):
            return 0x80  # their NaN is what would be minus zero
        return peak


def _magnitude_mask(size: int) -> np.unsignedinteger[npt.NBitBase]:
    return {1: np.uint8(0x7F), 2: np.uint16(0x7FFF), 4: np.uint32(0x7FFF_FFFF), 8: np.uint64(0x7FFF_FFFF_FFFF_FFFF)}[
        size
    ]  # type: ignore[return-value]


def finite_peak(dtype: Dtype) -> int:
    """The magnitude of the largest finite value of a floating type."""
    if dtype.name in _ODD_FINITE:
        return _ODD_FINITE[dtype.name]
    assert dtype.exponent is not None
    return dtype.exponent - 1


def nonfinite_peak(dtype: Dtype, peak: int) -> bool:
    """Whether a largest magnitude means that there is a NaN or an infinity."""
    return peak > finite_peak(dtype)


@dataclass(frozen=True)
class Stats:
    """Statistics of a tensor's finite values; ``nonfinite`` counts the others, ``zeros`` exact zeros."""

    count: int
    minimum: float
    maximum: float
    mean: float
    std: float
    zeros: int
    nonfinite: int


def tensor_raw(container: Container, tensor: TensorRef) -> bytes:
    """The bytes of the storage from a tensor's first to its last value; raises ``MemberError`` or ``KeyError``."""
    source, start = _place(container, tensor)
    return source.read(start, tensor.span[1] * tensor.dtype.size)


def _place(container: Container, tensor: TensorRef) -> tuple[Source, int]:
    """Where a tensor's first byte is to be read."""
    if tensor.storage is None:
        raise KeyError("the tensor has no bytes of its own")
    shift = tensor.storage.window[1] if tensor.storage.window else 0
    return container.storage_source(tensor.storage.key), (tensor.offset + shift) * tensor.dtype.size


def tensor_array(container: Container, tensor: TensorRef) -> npt.NDArray[np.generic]:
    """The tensor as a numpy array. bfloat16 and float8 become float32; complex32 becomes complex64.

    Raises ``KeyError`` or ``MemberError`` where its bytes are not there, ``ValueError`` where there are too few.
    """
    return _viewed(tensor_raw(container, tensor), tensor, container.byteorder == "big")


def _viewed(raw: bytes, tensor: TensorRef, swap: bool) -> npt.NDArray[np.generic]:
    """The bytes from a tensor's first to its last value as an array of its shape."""
    flat = _decode(raw, tensor.dtype, swap)
    count = tensor.span[1]
    if len(flat) < count:
        raise ValueError(f"{len(flat)} of {count} values are there")
    if max(tensor.shape, default=0) > sys.maxsize:  # of a tensor without values
        raise ValueError("it is longer than any array")
    # the stride of a dimension without length may be any number
    steps = tuple(step * flat.itemsize if length > 1 else 0 for length, step in zip(tensor.shape, tensor.stride))
    view = np.lib.stride_tricks.as_strided(flat, tensor.shape, steps, writeable=False)
    view = np.conj(view) if tensor.conj else view
    return np.negative(view) if tensor.neg else view


def _decode(raw: bytes, dtype: Dtype, swap: bool) -> npt.NDArray[np.generic]:
    if dtype.numpy is not None:
        plain = np.dtype(dtype.numpy)
        return np.frombuffer(raw[: len(raw) - len(raw) % plain.itemsize], plain.newbyteorder(">") if swap else plain)
    if dtype.name == "bfloat16":
        words = np.frombuffer(raw[: len(raw) & ~1], ">u2" if swap else "<u2")
        return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype.name == "complex32":
        halves = np.frombuffer(raw[: len(raw) & ~3], ">f2" if swap else "<f2").astype(np.float32)
        return halves.view(np.complex64)
    if dtype.name.startswith("float8"):
        return _float8_values(dtype.name)[np.frombuffer(raw, np.uint8)]
    return np.frombuffer(raw, np.uint8)


# Exponent bits, mantissa bits, bias, whether NaN is the code of minus zero, whether there are infinities
# (Micikevicius et al. 2022; torch/headeronly/util/Float8_*.h).
_FLOAT8 = {
    "float8_e5m2": (5, 2, 15, False, True),
    "float8_e4m3fn": (4, 3, 7, False, False),
    "float8_e5m2fnuz": (5, 2, 16, True, False),
    "float8_e4m3fnuz": (4, 3, 8, True, False),
}


@functools.cache
def _float8_values(name: str) -> npt.NDArray[np.float32]:
    """The values of all 256 codes of an 8-bit float."""
    if name == "float8_e8m0fnu":
        return np.array([2.0 ** (code - 127) for code in range(255)] + [math.nan], np.float32)
    return np.array([_float8_value(code, *_FLOAT8[name]) for code in range(256)], np.float32)


def _float8_value(
    code: int, exponent_bits: int, mantissa_bits: int, bias: int, nan_zero: bool, infinite: bool
) -> float:
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code & 0x7F) >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
    if nan_zero and code == 0x80:
        return math.nan
    if infinite and exponent == (1 << exponent_bits) - 1:
        return math.nan if mantissa else sign * math.inf
    if not nan_zero and not infinite and code & 0x7F == 0x7F:
        return math.nan
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)


def tensor_stats(container: Container, tensor: TensorRef) -> Stats:
    """Statistics of a tensor's values; dimensions that only repeat the same values (stride 0) count once.

    The values are read in tiles, so that a tensor of any size takes the memory of a few of them. Raises ``ValueError``
    for a view that repeats its values more often than any real tensor does, and as :func:`tensor_array`.
    """
    once = tuple(1 if step == 0 and length else length for length, step in zip(tensor.shape, tensor.stride))
    tensor = replace(tensor, shape=once)
    span = tensor.span[1]
    if tensor.numel > max(span, min(MOST_REPEATED * span, MOST_READ_AGAIN)):
        raise ValueError("the view repeats its values too often to count them")
    (source, start), size = _place(container, tensor), tensor.dtype.size
    there = max(0, source.size - start) // size
    if there < span:
        raise ValueError(f"{there} of {span} values are there")
    tally = _Tally()
    with np.errstate(all="ignore"):
        for tile in _tiles(tensor) if tensor.numel else ():
            raw = source.read(start + (tile.offset - tensor.offset) * size, tile.span[1] * size)
            tally.add(_viewed(raw, tile, container.byteorder == "big"))
    return tally.stats()


def _tiles(tensor: TensorRef) -> Iterator[TensorRef]:
    """A tensor in parts of few values that lie close together in each."""
    waiting = [tensor]
    while waiting:
        part = waiting.pop()
        if max(part.span[1], part.numel) <= TILE:
            yield part
        else:
            widest = max(range(len(part.shape)), key=lambda axis: part.stride[axis] * (part.shape[axis] - 1))
            waiting += reversed(halves(part, widest))


def halves(tensor: TensorRef, axis: int) -> tuple[TensorRef, TensorRef]:
    """A tensor cut in two across a dimension."""
    first = tensor.shape[axis] // 2
    before, behind = tensor.shape[:axis], tensor.shape[axis + 1 :]
    rest = (*before, tensor.shape[axis] - first, *behind)
    return (
        replace(tensor, shape=(*before, first, *behind)),
        replace(tensor, shape=rest, offset=tensor.offset + first * tensor.stride[axis]),
    )


class _Tally:
    """Adds up the statistics of values that come piece by piece (Chan, Golub, LeVeque 1983)."""

    def __init__(self) -> None:
        self.count = self.good = self.zeros = 0
        self.minimum, self.maximum = math.inf, -math.inf
        self.mean = self.squares = 0.0  # squares: of the distances from the mean

    def add(self, values: npt.NDArray[Any]) -> None:
        flat = (np.abs(values) if np.iscomplexobj(values) else values).reshape(-1).astype(np.float64)
        good = flat[np.isfinite(flat)]
        self.count += len(flat)
        if not len(good):
            return
        self.minimum = min(self.minimum, float(good.min()))
        self.maximum = max(self.maximum, float(good.max()))
        self.zeros += len(good) - int(np.count_nonzero(good))
        mean, total = float(good.mean()), self.good + len(good)
        gap, share = mean - self.mean, len(good) / total
        self.squares += float(np.square(good - mean).sum()) + gap * gap * self.good * share
        self.mean = mean if not self.good else self.mean + gap * share
        self.good = total

    def stats(self) -> Stats:
        rest = self.count - self.good
        if not self.good:
            return Stats(self.count, math.nan, math.nan, math.nan, math.nan, 0, rest)
        std = math.sqrt(self.squares / self.good)
        return Stats(self.count, self.minimum, self.maximum, self.mean, std, self.zeros, rest)
