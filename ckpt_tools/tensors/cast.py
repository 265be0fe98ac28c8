"""Values converted between the floating types of 64, 32 and 16 bits, as torch's ``.to(dtype)`` does.

To nearest, ties to even; what is too large becomes infinite; subnormals are kept. A double is rounded to single
precision before it is rounded to 16 bits, as torch does (``c10::Half`` and ``c10::BFloat16`` are made of a float).
NaN stays NaN with its sign and the upper bits of its payload, and becomes quiet, as processors do it; where the result
is bfloat16, torch writes one NaN for all, with AVX another one (0xFFFF) than without (0x7FC0).

numpy's own conversion to float16 is not used: where values underflow or overflow it takes 30 times as long.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ckpt_tools.source import Source
from ckpt_tools.tensors.distance import Values, values_of_codes
from ckpt_tools.tensors.dtypes import DTYPES, Dtype

__all__ = ["CASTABLE", "CastSource", "Survey", "survey"]

BLOCK = 1 << 18  # values converted at once: fewer leave two threads waiting for each other, more leave the cache


@dataclass(frozen=True)
class Survey:
    """What a conversion makes: its CRC-32 and largest magnitude (see ``Magnitudes``), and what it loses.

    ``overflow`` counts finite values that become infinite, ``underflow`` values other than zero that become zero.
    """

    crc: int
    overflow: int
    underflow: int
    peak: int


class CastSource:
    """A source of values of one type, read as another; an incomplete value at its end is left out.

    ``swap``: the bytes are in the other order than little endian, before and after. Raises ``ValueError`` for types
    that are no pair of different ones in ``CASTABLE``.
    """

    def __init__(self, inner: Source, old: Dtype, new: Dtype, *, swap: bool = False) -> None:
        _way(old, new)
        self.name = inner.name
        self.size = inner.size // old.size * new.size
        self._inner, self._old, self._new, self._swap = inner, old, new, swap

    def read(self, offset: int, count: int) -> bytes:
        count = min(count, self.size - offset) if offset >= 0 else 0
        if count <= 0:
            return b""
        data = bytearray(count)
        return bytes(data[: self.read_into(offset, memoryview(data))])

    def read_into(self, offset: int, buffer: memoryview) -> int:
        if not 0 <= offset < self.size:
            return 0
        room = min(len(buffer), self.size - offset)
        size, done = self._new.size, 0
        block = _Block(self._old, self._new, self._swap, -(-(offset % size + room) // size))
        while done < room:
            first, skip = divmod(offset + done, size)
            piece = block.fill(self._inner, first, -(-(skip + room - done) // size))[skip : skip + room - done]
            if not piece:
                break
            buffer[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def changed(self) -> bool:
        return self._inner.changed()


def survey(
    inner: Source, old: Dtype, new: Dtype, *, swap: bool = False, progress: Callable[[int], None] | None = None
) -> Survey:
    """Convert all values once, and say what comes of it; ``progress`` is told how many bytes of ``inner`` were read.

    Raises ``ValueError`` as ``CastSource`` does.
    """
    from isal.isal_zlib import crc32

    crc = overflow = underflow = peak = first = 0
    values = inner.size // old.size
    block = _Block(old, new, swap, values)
    while piece := block.fill(inner, first, values - first):
        crc = crc32(piece, crc)
        before, after = block.magnitudes()
        underflow += int(np.count_nonzero(before)) - int(np.count_nonzero(after))
        largest = int(after.max())
        if largest >= _exponent(new):
            overflow += _infinite(after, new) - _infinite(before, old)
        peak = max(peak, largest)
        first += len(after)
        if progress is not None:
            progress(len(before) * old.size)
    return Survey(crc, overflow, underflow, peak)


def _exponent(dtype: Dtype) -> int:
    """The magnitude of infinity."""
    assert dtype.exponent is not None
    return dtype.exponent


def _infinite(magnitudes: Values, dtype: Dtype) -> int:
    return int(np.count_nonzero(magnitudes == _exponent(dtype)))


class _Block:
    """Buffers for values on their way, used over and over again: for ``BLOCK`` of them, or ``most`` if fewer.

    ``read`` and ``made`` are words in the order of the file; ``old`` and ``new`` the same in this machine's order, and
    the same buffers where that is one order.
    """

    def __init__(self, old: Dtype, new: Dtype, swap: bool, most: int) -> None:
        self.way = _way(old, new)
        self.size = max(1, min(BLOCK, most))
        self.read, self.old = _words(old, swap, self.size)
        self.made, self.new = _words(new, swap, self.size)
        self.spare = np.empty((3, self.size), np.uint32)
        self.count = 0

    def fill(self, inner: Source, first: int, count: int) -> memoryview:
        """Convert values from number ``first`` on, as many as there are and fit; none where the source ends."""
        item = self.read.itemsize
        target = self.read.view(np.uint8).data[: min(count, self.size) * item]
        n = self.count = inner.read_into(first * item, target) // item
        _move(self.read[:n], self.old[:n])
        with np.errstate(all="ignore"):
            self.way(self.old[:n], self.new[:n], self.spare[:, :n])
        _move(self.new[:n], self.made[:n])
        return self.made.view(np.uint8).data[: n * self.made.itemsize]

    def magnitudes(self) -> tuple[Values, Values]:
        """The words last converted, before and after, without their sign; they take the place of the words."""
        for words in (self.old, self.new):
            sign = words.dtype.type(1 << 8 * words.itemsize - 1)
            np.bitwise_and(words[: self.count], ~sign, out=words[: self.count])
        return self.old[: self.count], self.new[: self.count]


def _words(dtype: Dtype, swap: bool, count: int) -> tuple[Values, Values]:
    """Room for words in the order of the file, and in that of this machine."""
    stored = np.empty(count, f"{'>' if swap else '<'}u{dtype.size}")
    return stored, stored if stored.dtype.isnative else np.empty(count, f"u{dtype.size}")


def _move(words: Values, to: Values) -> None:
    if words.dtype != to.dtype:
        np.copyto(to, words)


# Every function converts words ``old`` to words ``new``, which it fills; ``spare`` is room for three words each.


def _plain(old: Values, new: Values, _: Values) -> None:
    np.copyto(new.view(f"f{new.itemsize}"), old.view(f"f{old.itemsize}"), casting="same_kind")


def _single(old: Values, spare: Values) -> Values:
    """Words in single precision; those of double precision are rounded to it."""
    if old.itemsize == 4:
        return old
    _plain(old, spare, spare)
    return spare


def _half(old: Values, new: Values, spare: Values) -> None:
    """To float16: adding the power of two whose last bit is the last one of the result has the processor round.

    With ``e`` the exponent of a value as float16 has it, -14 or more, and ``k`` the value in units of 2**(e-10), the
    sum of the value and 2**(e+13) * (1 + 2**-12) is, as a word, ``(e + 140) << 23 | k + 2048``. The result is
    ``(e + 14 << 10) + k``, which are the lower 16 bits of that word and of the same word shifted by 13, added up.
    """
    old, (magnitude, total) = _single(old, spare[2]), spare[:2]
    np.bitwise_and(old, WORD(0x7FFF_FFFF), out=magnitude)
    peak = int(magnitude.max(initial=0))
    lost = np.flatnonzero(magnitude > WORD(INFINITE)) if peak > INFINITE else ()
    if peak > HALF_INFINITE:
        np.minimum(magnitude, WORD(HALF_INFINITE), out=magnitude)
    np.bitwise_and(magnitude, WORD(INFINITE), out=total)
    value, power = magnitude.view(np.float32), total.view(np.float32)
    np.maximum(power, HALF_NORMAL, out=power)
    np.add(total, WORD((13 << 23) + 2048), out=total)
    np.add(power, value, out=power)
    np.right_shift(total, WORD(13), out=magnitude)
    np.add(magnitude, total, out=magnitude)
    np.copyto(new, magnitude, casting="unsafe")
    np.right_shift(old, WORD(16), out=magnitude)
    sign = total.view(np.uint16)[: len(new)]
    np.copyto(sign, magnitude, casting="unsafe")
    np.bitwise_and(sign, np.uint16(0x8000), out=sign)
    np.bitwise_or(new, sign, out=new)
    if len(lost):
        new[lost] |= (old[lost] >> WORD(13) & WORD(0x3FF) | WORD(0x200)).astype(np.uint16)


def _brain(old: Values, new: Values, spare: Values) -> None:
    """To bfloat16, the upper half of single precision: half of its last bit is added, less where that bit is even."""
    old, total = _single(old, spare[2]), spare[0]
    np.right_shift(old, WORD(16), out=total)
    np.bitwise_and(total, WORD(1), out=total)
    np.add(total, WORD(0x7FFF), out=total)
    np.add(total, old, out=total)
    np.right_shift(total, WORD(16), out=total)
    np.copyto(new, total, casting="unsafe")
    values = old.view(np.float32)
    if np.isnan(values.max(initial=-np.inf)):
        lost = np.flatnonzero(np.isnan(values))
        new[lost] = (old[lost] >> WORD(16) | WORD(0x40)).astype(np.uint16)


def _looked_up(old: str, new: str, words: Values, made: Values, _: Values) -> None:
    np.take(_codes(old, new), words, out=made, mode="wrap")  # nothing is out of bounds; the default looks first


@functools.cache
def _codes(old: str, new: str) -> Values:
    """The words of one type for all words of another one of 16 bits."""
    singles = values_of_codes(old).view(np.uint32)
    made = np.empty(len(singles), f"u{DTYPES[new].size}")
    with np.errstate(all="ignore"):
        _FROM_SINGLE[new](singles, made, np.empty((3, len(singles)), np.uint32))
    return made


def _same(old: Values, new: Values, _: Values) -> None:
    np.copyto(new, old)


WORD = np.uint32
# In single precision: infinity, and of float16 the power of two that is none of its values and its least normal one.
INFINITE, HALF_INFINITE, HALF_NORMAL = 0x7F80_0000, 0x4780_0000, np.float32(2**-14)

Way = Callable[[Values, Values, Values], None]
_FROM_SINGLE: dict[str, Way] = {"float64": _plain, "float32": _same, "float16": _half, "bfloat16": _brain}
CASTABLE: frozenset[str] = frozenset(_FROM_SINGLE)
SHORT = ("float16", "bfloat16")  # whose values are looked up
_WAYS: dict[tuple[str, str], Way] = {
    ("float64", "float32"): _plain,
    ("float64", "float16"): _half,
    ("float64", "bfloat16"): _brain,
    ("float32", "float64"): _plain,
    ("float32", "float16"): _half,
    ("float32", "bfloat16"): _brain,
    **{(old, new): functools.partial(_looked_up, old, new) for old in SHORT for new in CASTABLE - {old}},
}


def _way(old: Dtype, new: Dtype) -> Way:
    way = _WAYS.get((old.name, new.name))
    if way is None:
        raise ValueError(f"{old} can't be converted to {new}")
    return way
