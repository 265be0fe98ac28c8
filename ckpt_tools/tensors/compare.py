"""Two tensors of one shape, value by value, whatever their types, strides, containers and byte orders.

Their bytes stream through small reused buffers in pieces that stay in the processor's cache; that takes no more memory
than a few pieces, or tiles of tensors whose values lie in different orders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ckpt_tools.container import STORED, Member, MemberError, member_source
from ckpt_tools.source import Source
from ckpt_tools.tensors.distance import SAFE_HALVES, Distance, Tally, Values, values_of_codes
from ckpt_tools.tensors.dtypes import DTYPES, Dtype
from ckpt_tools.tensors.held import PARTS, Held, in_order
from ckpt_tools.tensors.values import MOST_REPEATED, halves

__all__ = ["Comparer", "Distance"]

PIECE = 3 << 15  # values compared at a time
TILE = 8 << 20  # bytes read at a time of tensors whose values lie in different orders
HALF_EXPONENT, HALF_BITS = np.uint16(0x7C00), np.int32(0x0FFF_E000 - (1 << 31))  # of a half, and moved 13 to the left
HALF_SCALE = np.float32(2.0 ** (127 - 15))  # the biases of the two exponents


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
        coding, other_coding = _Coding.of(old), _Coding.of(new)
        alike = coding == other_coding
        halves = alike and numbers and coding.part.name == "float16" and not coding.swapped
        tally = Tally(coding.part, other_coding.part, numbers)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for one, other in self._pieces(old, new):
                if alike and _same(one, other):
                    if numbers:
                        tally.add_same(self._decoded(0, one, coding))
                elif not (halves and self._add_halves(tally, one, other)):
                    tally.add(self._decoded(0, one, coding), self._decoded(1, other, other_coding), (one, other))
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
        places = self._places[: len(words)]
        np.copyto(places, words)
        return np.take(values_of_codes(coding.part.name), places, out=values, mode="wrap")

    def _add_halves(self, tally: Tally, old: Values, new: Values) -> bool:
        """Count halves in a way that is twice as fast; false, and nothing is counted, where it is not to be trusted."""
        words, other_words = old.view(np.uint16), new.view(np.uint16)
        if not (_ordinary(words) and _ordinary(other_words)):
            return False
        one, other = (values[: len(words)] for values in self._values)
        return tally.add_floats(_widened(words, one), _widened(other_words, other), SAFE_HALVES)


def _same(one: Values, other: Values) -> bool:
    """Whether two pieces have the same bytes; those that differ mostly do so at once."""
    if one[:64].tobytes() != other[:64].tobytes():
        return False
    whole = len(one) - len(one) % 8
    return np.array_equal(one[:whole].view("u8"), other[:whole].view("u8")) and np.array_equal(
        one[whole:], other[whole:]
    )


def _ordinary(words: Values) -> bool:
    """Whether, as far as a sample tells, hardly any of these halves are subnormal or zero."""
    sample = words[::256] & HALF_EXPONENT
    return int(np.count_nonzero(sample)) * 100 >= len(sample) * 99


def _widened(words: Values, values: Values) -> Values:
    """Half-precision words as single-precision ``values``, by moving their bits: exact for all that are finite.

    This is twice as fast as to look them up, but the processor takes long over products with subnormals. What is not
    finite becomes a number of 65536 or more.
    """
    bits = values.view(np.int32)
    np.copyto(bits, words.view(np.int16))  # which repeats the sign
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, HALF_BITS, out=bits)
    return np.multiply(values, HALF_SCALE, out=values)


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


def _halves(held: Held, axis: int) -> list[Held]:
    return [replace(held, tensor=half) for half in halves(held.tensor, axis)]
