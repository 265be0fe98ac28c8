"""How far two runs of numbers are apart: sums over pieces of them, exact integers, and what is but rounded.

Sums are single-precision products over short runs, added up in double precision; what would overflow or vanish there is
computed in double precision throughout.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ckpt_tools.tensors.dtypes import DTYPES, Dtype
from ckpt_tools.tensors.values import _decode, finite_peak

__all__ = ["SAFE_HALVES", "Distance", "Tally", "Values", "values_of_codes"]

Values = npt.NDArray[Any]

RUN = 1 << 13  # values per product: OpenBLAS starts threads of its own from 10,000 on (kernel/x86_64/sdot.c)
# Sums of squares, by item size: below the one, squares that vanished may count, beyond the other, one may overflow.
SAFE = {4: (1e-26, 1e37), 8: (0.0, sys.float_info.max)}
SAFE_HALVES = 1e-26, 2.0**31  # beyond that, one may be infinite or NaN: their squares come out as 2**32 and more
# What a value may be rounded to, the widest first.
WIDTHS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
          "float8_e5m2fnuz")  # fmt: skip


@dataclass(frozen=True)
class Distance:
    """How far two tensors are apart, or, added up, two sets of tensors.

    ``equal``: every value is, NaN to NaN and zero of either sign to zero. ``rounded`` names the narrower type where
    all values are equal once rounded to it (to nearest, ties to even; an overflow is no rounding), and not before.
    ``nonfinite`` are the places with a NaN or an infinity on either side, which are left out of all numbers. The rest
    is zero where no numbers were asked for: the largest absolute difference, and sums of squares and products.
    """

    equal: bool = True
    rounded: str = ""
    nonfinite: int = 0
    max_abs: float = 0
    old_square: float = 0.0
    new_square: float = 0.0
    product: float = 0.0
    square: float = 0.0

    @property
    def relative(self) -> float:
        """The norm of the difference as a share of the old norm; infinite where only the old one is zero."""
        if not self.square:
            return 0.0
        return math.sqrt(self.square) / math.sqrt(self.old_square) if self.old_square else math.inf

    @property
    def cosine(self) -> float:
        """The cosine of the angle between the two as vectors; 1 for two that are zero, 0 for one."""
        if not self.old_square or not self.new_square:
            return float(self.old_square == self.new_square)
        norms = math.sqrt(self.old_square) * math.sqrt(self.new_square)
        near = self.square < min(self.old_square, self.new_square)  # there, this is the more exact form
        product = (self.old_square + self.new_square - self.square) / 2 if near else self.product
        return max(-1.0, min(1.0, product / norms))

    def __add__(self, other: Distance) -> Distance:
        return Distance(
            self.equal and other.equal,
            self.rounded or other.rounded,
            self.nonfinite + other.nonfinite,
            max(self.max_abs, other.max_abs),
            self.old_square + other.old_square,
            self.new_square + other.new_square,
            self.product + other.product,
            self.square + other.square,
        )


class Tally:
    """Adds up the distance of two tensors, piece by piece."""

    def __init__(self, old: Dtype, new: Dtype, numbers: bool) -> None:
        widths = [WIDTHS.index(part.name) if part.name in WIDTHS else -1 for part in (old, new)]
        self.narrow = int(widths[1] > widths[0])  # which of the two
        self.narrower = (old, new)[self.narrow]
        self.numbers = numbers
        self.equal = True
        self.rounded = min(widths) >= 0 and widths[0] != widths[1]
        self.nonfinite = 0
        self.max_abs: float = 0
        self.sums = [0.0] * 4  # squares of old and new, product, square of the difference

    @property
    def settled(self) -> bool:
        """Whether nothing can be learnt from further pieces."""
        return not (self.numbers or self.equal or self.rounded)

    def distance(self) -> Distance:
        rounded = self.narrower.name if self.rounded and not self.equal else ""
        return Distance(self.equal, rounded, self.nonfinite, self.max_abs, *self.sums)

    def add_same(self, values: Values) -> None:
        """Count values that are the same on both sides."""
        if not values.any():
            return  # zeros add nothing
        square = _product(values, values) if values.dtype.kind == "f" else math.nan
        if math.isfinite(square) and _within(SAFE[values.itemsize], square):
            self._sum(square, square, square, 0.0)
        else:
            self._add_any(values, values)

    def add(self, old: Values, new: Values, raw: tuple[Values, Values]) -> None:
        """Count values; ``new`` is overwritten. ``raw`` are the same as words in this machine's order."""
        if self.rounded:
            codes = raw[self.narrow].view(f"u{self.narrower.size}")
            self.rounded = _rounds_to((old, new)[1 - self.narrow], (old, new)[self.narrow], codes, self.narrower)
        if not self.numbers:
            self.equal = self.equal and _equal(old, new)
        elif not (old.dtype.kind == "f" and old.dtype == new.dtype and self.add_floats(old, new, SAFE[old.itemsize])):
            self._add_any(old, new)

    def add_floats(self, old: Values, new: Values, safe: tuple[float, float]) -> bool:
        """Count finite floats of one type and overwrite ``new``; false, and nothing is done, for sums out of bounds."""
        squares = _product(old, old), _product(new, new)
        if not _within(safe, *squares):
            return False
        product = _product(old, new)
        np.subtract(old, new, out=new)
        square = _product(new, new)
        peak = max(float(np.maximum.reduce(new)), -float(np.minimum.reduce(new)))
        if peak and not _within(SAFE[old.itemsize], square):
            wide = new.astype(np.float64)
            square = _product(wide, wide)
        self._sum(*squares, product, square)
        self.max_abs = max(self.max_abs, peak)
        self.equal = self.equal and not peak
        return True

    def _add_any(self, old: Values, new: Values) -> None:
        """The same for numbers of any kind, at leisure: integers and floats, NaN, infinities, very small values."""
        self.equal = self.equal and _equal(old, new)
        exact = _largest_step(old, new) if old.dtype.kind != "f" and new.dtype.kind != "f" else None
        one, other = old.astype(np.float64), new.astype(np.float64)
        good = np.isfinite(one) & np.isfinite(other)
        if not good.all():
            self.nonfinite += int(good.size - np.count_nonzero(good))
            one, other = one[good], other[good]
        gap = one - other
        self._sum(_product(one, one), _product(other, other), _product(one, other), _product(gap, gap))
        peak = float(np.abs(gap).max()) if len(gap) else 0.0
        self.max_abs = max(self.max_abs, peak if exact is None else exact)

    def _sum(self, *more: float) -> None:
        self.sums = list(map(operator.add, self.sums, more))


def _within(bounds: tuple[float, float], *sums: float) -> bool:
    """Whether sums of squares are exact enough; not where one is NaN."""
    return all(bounds[0] <= total <= bounds[1] for total in sums)


def _product(one: Values, other: Values) -> float:
    """The scalar product, in runs of their own precision that are added up in double precision."""
    rest = len(one) % RUN
    if rest:
        last = float(np.dot(one[-rest:], other[-rest:]))
        return last + _product(one[:-rest], other[:-rest]) if rest < len(one) else last
    return sum(np.matmul(one.reshape(-1, 1, RUN), other.reshape(-1, RUN, 1)).ravel().tolist(), 0.0)


def _equal(old: Values, new: Values) -> bool:
    """Whether all values are equal, integers exactly, NaN to NaN."""
    if old.dtype.kind == new.dtype.kind == "f":
        return bool(((old == new) | (np.isnan(old) & np.isnan(new))).all())
    old, new = _common(old, new)
    return bool(np.array_equal(old, new))


def _common(old: Values, new: Values) -> tuple[Values, Values]:
    """Integers in a type that holds both exactly; Python's own where numpy has none. Floats as they are."""
    kind = np.result_type(old, new)
    if kind.kind == "f" and old.dtype.kind != "f" and new.dtype.kind != "f":
        kind = np.dtype(object)
    return old.astype(kind, copy=False), new.astype(kind, copy=False)


def _largest_step(old: Values, new: Values) -> int:
    """The largest difference between integers, exactly."""
    old, new = _common(old, new)
    high, low = np.maximum(old, new), np.minimum(old, new)
    if high.dtype.kind == "i":  # the difference may need the bit of the sign
        high, low = high.view(f"u{high.itemsize}"), low.view(f"u{low.itemsize}")
    return int((high - low).max())


def _rounds_to(wide: Values, narrow: Values, codes: Values, dtype: Dtype) -> bool:
    """Whether all ``wide`` values are ``narrow`` once rounded to its type, in which they are ``codes``."""
    single = wide.astype(np.float32)  # torch, too, rounds a double to single precision first
    if dtype.size > 2:
        fits = single == narrow
    else:
        low, high = _bounds(dtype.name)
        fits = (low[codes] <= single) & (single <= high[codes])
    fits &= np.isinf(wide) == np.isinf(narrow)
    return bool((fits | (np.isnan(wide) & np.isnan(narrow))).all())


@functools.cache
def values_of_codes(name: str) -> npt.NDArray[np.float32]:
    """The values of all codes of a type of 8 or 16 bits; to look them up is faster than numpy's own conversion."""
    size = DTYPES[name].size
    return _decode(np.arange(1 << 8 * size).astype(f"<u{size}").tobytes(), DTYPES[name], False).astype(np.float32)


@functools.cache
def _bounds(name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """For every code of a type of 8 or 16 bits, the least and the largest single-precision value rounded to it."""
    values, last = values_of_codes(name), finite_peak(DTYPES[name])
    low, high = values.copy(), values.copy()
    exact = values[: last + 1].astype(np.float64)
    steps = np.diff(exact, append=2 * exact[last] - exact[last - 1])
    ties = (exact + steps / 2).astype(np.float32)  # to the even one of the two codes
    even = np.arange(last + 1) % 2 == 0
    high[: last + 1] = np.where(even, ties, np.nextafter(ties, np.float32(0)))
    below = np.concatenate([-ties[:1], ties[:-1]])
    low[: last + 1] = np.where(even, below, np.nextafter(below, np.float32(np.inf)))
    minus = len(values) // 2
    there = np.isfinite(values[minus : minus + last + 1])  # the code of minus zero is NaN in some
    low[minus : minus + last + 1][there] = -high[: last + 1][there]
    high[minus : minus + last + 1][there] = -low[: last + 1][there]
    return low, high
