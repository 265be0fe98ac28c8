"""Two tensors of one shape, value by value, whatever their types, strides, containers and byte orders.

Their bytes stream through small reused buffers in pieces that stay in the processor's cache. Sums are single-precision
products over short runs, added up in double precision; what would overflow or vanish there is computed in double
precision throughout. Needs no more memory than a few pieces, or tiles of tensors whose values lie in different orders.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ckpt_tools.container import STORED, Member, MemberError, member_source
from ckpt_tools.source import Source
from ckpt_tools.tensors.dtypes import DTYPES, Dtype
from ckpt_tools.tensors.held import PARTS, Held, in_order
from ckpt_tools.tensors.values import MOST_REPEATED, _decode, finite_peak

__all__ = ["Comparer", "Distance"]

Values = npt.NDArray[Any]

PIECE = 3 << 15  # values compared at a time
RUN = 1 << 13  # values per product: OpenBLAS starts threads of its own from 10,000 on (kernel/x86_64/sdot.c)
HALF_EXPONENT, HALF_BITS = np.uint16(0x7C00), np.int32(0x0FFF_E000 - (1 << 31))  # of a half, and moved 13 to the left
HALF_SCALE = np.float32(2.0 ** (127 - 15))  # the biases of the two exponents
TILE = 8 << 20  # bytes read at a time of tensors whose values lie in different orders
# Sums of squares, by item size: below the one, squares that vanished may count, beyond the other, one may overflow.
SAFE = {4: (1e-26, 1e37), 8: (0.0, sys.float_info.max)}
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


@dataclass(frozen=True)
class _Coding:
    """How a tensor's raw values become numbers: of ``plain`` type as they stand, else by way of ``words``."""

    part: Dtype
    swapped: bool
    words: np.dtype[Any]
    plain: np.dtype[Any] | None

    @classmethod
    def of(cls, held: Held) -> _Coding:
        part = DTYPES[PARTS.get(held.tensor.dtype.name, held.tensor.dtype.name)]
        kind = (part.numpy or "u1").lstrip("<")
        narrow = part.floating and part.size <= 2
        plain = None if narrow else np.dtype("u1" if kind == "?" else kind)
        return cls(part, held.swapped, np.dtype(f"u{part.size}"), plain)


class Comparer:
    """Compares tensors, one pair after the other, through buffers of its own; every thread needs one."""

    def __init__(self) -> None:
        self._room = [memoryview(bytearray(PIECE * 8)) for _ in range(2)]
        self._bytes = [np.frombuffer(room, np.uint8) for room in self._room]
        self._values = [np.empty(PIECE, np.float32) for _ in range(2)]
        self._places = np.empty(PIECE, np.intp)
        self._unpacked: dict[int, tuple[Member, Source]] = {}

    def compare(self, old: Held, new: Held, *, numbers: bool = True) -> Distance:
        """The distance of two tensors of one shape that are not :func:`incomparable`.

        Without ``numbers`` only whether they are equal, and no further than to the first difference. Raises
        ``MemberError`` where their bytes can't be had.
        """
        if 0 in old.tensor.shape:
            return Distance()
        codings = _Coding.of(old), _Coding.of(new)
        tally = _Tally(codings[0].part, codings[1].part, numbers)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for one, other in self._pieces(old, new):
                if codings[0] == codings[1] and _same(one, other):
                    tally.add_same(self._decoded(0, one, codings[0]))
                    continue
                tally.add(self._decoded(0, one, codings[0]), self._decoded(1, other, codings[1]), (one, other))
                if tally.settled:
                    break
        return tally.distance()

    def _pieces(self, old: Held, new: Held) -> Iterator[tuple[Values, Values]]:
        """The raw values of both in the same order, a piece of each at a time."""
        sizes = old.tensor.dtype.size, new.tensor.dtype.size
        most = PIECE // 2 if old.tensor.dtype.name in PARTS else PIECE
        if in_order(old.tensor, new.tensor):
            yield from self._streamed(old, new, most)
            return
        for held in (old, new):
            _whole_member(held)
        for pair in _tiles(*_once(old, new)):
            whole = [self._gathered(side, held) for side, held in enumerate(pair)]
            for first in range(0, pair[0].tensor.numel, most):
                one, other = (raw[first * size : (first + most) * size] for raw, size in zip(whole, sizes))
                yield one, other

    def _streamed(self, old: Held, new: Held, most: int) -> Iterator[tuple[Values, Values]]:
        (one, start), (other, other_start) = (self._place(side, held) for side, held in enumerate((old, new)))
        size, other_size = old.tensor.dtype.size, new.tensor.dtype.size
        left = old.tensor.numel
        while left:
            count = min(left, most)
            yield self._read(0, one, start, count * size), self._read(1, other, other_start, count * other_size)
            left, start, other_start = left - count, start + count * size, other_start + count * other_size

    def _read(self, side: int, source: Source, start: int, size: int) -> Values:
        """That many bytes of a source, in the buffer of that side."""
        if source.read_into(start, self._room[side][:size]) < size:
            raise MemberError("the file ended while it was read")
        return self._bytes[side][:size]

    def _place(self, side: int, held: Held) -> tuple[Source, int]:
        """Where the first byte of a tensor is to be read; a packed member stays unpacked until another one is."""
        member = _whole_member(held)
        if member.method == STORED:
            return held.container.source, member.offset + held.start
        if side not in self._unpacked or self._unpacked[side][0] is not member:
            self._unpacked[side] = (member, member_source(held.container.source, member))
        return self._unpacked[side][1], held.start

    def _gathered(self, side: int, held: Held) -> Values:
        """The raw bytes of a tensor's values in row-major order."""
        (source, start), size = self._place(side, held), held.tensor.dtype.size
        count = held.tensor.span[1]
        raw = source.read(start, count * size)
        if len(raw) < count * size:
            raise MemberError("the file ended while it was read")
        steps = tuple(step * size for step in held.tensor.stride)
        spread = np.lib.stride_tricks.as_strided(np.frombuffer(raw, f"V{size}"), held.tensor.shape, steps)
        return np.array(spread, order="C").reshape(-1).view(np.uint8)

    def _decoded(self, side: int, raw: Values, coding: _Coding) -> Values:
        """The raw values as numbers; those of 32 bits and more, and integers, stay where they are."""
        words = raw.view(coding.words)
        if coding.swapped:
            words.byteswap(inplace=True)
        if coding.plain is not None:
            return words.view(coding.plain)
        values = self._values[side][: len(words)]
        if coding.part.name == "float16" and _ordinary(words):
            return _widened(words, values)
        places = self._places[: len(words)]
        np.copyto(places, words)
        return np.take(_table(coding.part.name), places, out=values, mode="wrap")


class _Tally:
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
        if not self.numbers or not values.any():
            return  # zeros add nothing
        square = _product(values, values) if values.dtype.kind == "f" else math.nan
        if math.isnan(square) or not _safe(values.itemsize, square):
            self._add_any(values, values)
        else:
            self._sum(square, square, square, 0.0)

    def add(self, old: Values, new: Values, raw: tuple[Values, Values]) -> None:
        """Count values; ``new`` is overwritten. ``raw`` are the same as words in this machine's order."""
        if self.rounded:
            codes = raw[self.narrow].view(f"u{self.narrower.size}")
            self.rounded = _rounds_to((old, new)[1 - self.narrow], (old, new)[self.narrow], codes, self.narrower)
        if not self.numbers:
            self.equal = self.equal and _equal(old, new)
        elif old.dtype.kind == "f" and old.dtype == new.dtype:
            self._add_floats(old, new)
        else:
            self._add_any(old, new)

    def _add_floats(self, old: Values, new: Values) -> None:
        squares = _product(old, old), _product(new, new)
        if not all(_safe(old.itemsize, square) for square in squares):
            self._add_any(old, new)
            return
        product = _product(old, new)
        np.subtract(old, new, out=new)
        square = _product(new, new)
        peak = max(float(np.maximum.reduce(new)), -float(np.minimum.reduce(new)))
        if peak and not _safe(old.itemsize, square):
            wide = new.astype(np.float64)
            square = _product(wide, wide)
        self._sum(*squares, product, square)
        self.max_abs = max(self.max_abs, peak)
        self.equal = self.equal and not peak

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


def _safe(size: int, square: float) -> bool:
    """Whether a sum of squares is exact enough; not where it is NaN."""
    low, high = SAFE[size]
    return low <= square <= high


def _product(one: Values, other: Values) -> float:
    """The scalar product, in runs of their own precision that are added up in double precision."""
    rest = len(one) % RUN
    if rest:
        last = float(np.dot(one[-rest:], other[-rest:]))
        return last + _product(one[:-rest], other[:-rest]) if rest < len(one) else last
    return sum(np.matmul(one.reshape(-1, 1, RUN), other.reshape(-1, RUN, 1)).ravel().tolist(), 0.0)


def _same(one: Values, other: Values) -> bool:
    """Whether two pieces have the same bytes; those that differ mostly do so at once."""
    if one[:64].tobytes() != other[:64].tobytes():
        return False
    whole = len(one) - len(one) % 8
    return np.array_equal(one[:whole].view("u8"), other[:whole].view("u8")) and np.array_equal(
        one[whole:], other[whole:]
    )


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


def _ordinary(words: Values) -> bool:
    """Whether half-precision words are finite, and, as far as a sample tells, hardly any subnormal."""
    if np.maximum.reduce(words) >= 0xFC00 or np.maximum.reduce(words.view(np.int16)) >= 0x7C00:
        return False
    sample = words[::128] & HALF_EXPONENT
    return bool(np.count_nonzero(sample) >= 0.99 * len(sample))


def _widened(words: Values, values: Values) -> Values:
    """Finite half-precision words as single-precision ``values``, by moving their bits.

    Exact for all of them, and twice as fast as to look them up; but products with subnormals take the processor long.
    """
    bits = values.view(np.int32)
    np.copyto(bits, words.view(np.int16))  # which repeats the sign
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, HALF_BITS, out=bits)
    return np.multiply(values, HALF_SCALE, out=values)


@functools.cache
def _table(name: str) -> npt.NDArray[np.float32]:
    """The values of all codes of a type of 8 or 16 bits; to look them up is faster than numpy's own conversion."""
    size = DTYPES[name].size
    return _decode(np.arange(1 << 8 * size).astype(f"<u{size}").tobytes(), DTYPES[name], False).astype(np.float32)


@functools.cache
def _bounds(name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """For every code of a type of 8 or 16 bits, the least and the largest single-precision value rounded to it."""
    values, last = _table(name), finite_peak(DTYPES[name])
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


def _whole_member(held: Held) -> Member:
    """The member of a tensor; raises ``MemberError`` where not all of its bytes are there."""
    member, (_, count) = held.member, held.tensor.span
    wanted = held.start + count * held.tensor.dtype.size
    if member.size < wanted:
        raise MemberError(f"its storage ends after {member.size} of {wanted} bytes")
    return member


def _once(old: Held, new: Held) -> tuple[Held, Held]:
    """Both without the dimensions that only repeat their values; raises ``MemberError`` where more than that does."""
    shape = tuple(
        length if step or other_step else 1
        for length, step, other_step in zip(old.tensor.shape, old.tensor.stride, new.tensor.stride)
    )
    one, other = (replace(held, tensor=replace(held.tensor, shape=shape)) for held in (old, new))
    if one.tensor.numel > MOST_REPEATED * max(one.tensor.span[1], other.tensor.span[1]):
        raise MemberError("the view repeats its values too often to compare them")
    return one, other


def _tiles(old: Held, new: Held) -> Iterator[tuple[Held, Held]]:
    """Both in parts of few values that lie close together in each."""
    waiting = [(old, new)]
    while waiting:
        pair = waiting.pop()
        if max(max(held.tensor.span[1], held.tensor.numel) * held.tensor.dtype.size for held in pair) <= TILE:
            yield pair
            continue
        steps = [max(1, *both) for both in zip(*(held.tensor.stride for held in pair))]
        lengths = pair[0].tensor.shape
        widest = max(range(len(lengths)), key=lambda axis: steps[axis] * (lengths[axis] - 1))
        waiting += reversed(list(zip(*(_halves(held, widest) for held in pair))))


def _halves(held: Held, axis: int) -> tuple[Held, Held]:
    tensor = held.tensor
    first = tensor.shape[axis] // 2
    before, behind = tensor.shape[:axis], tensor.shape[axis + 1 :]
    one = replace(tensor, shape=(*before, first, *behind))
    shape = (*before, tensor.shape[axis] - first, *behind)
    other = replace(tensor, shape=shape, offset=tensor.offset + first * tensor.stride[axis])
    return replace(held, tensor=one), replace(held, tensor=other)
