"""Conversions between floating types, held against numpy and against values worked out by hand."""

from __future__ import annotations

import itertools
import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ckpt_tools.source import BytesSource, blocks
from ckpt_tools.tensors import DTYPES
from ckpt_tools.tensors.cast import BLOCK, CASTABLE, CastSource, Survey, survey
from ckpt_tools.tensors.values import Magnitudes

Array = np.ndarray[Any, Any]
PAIRS = list(itertools.permutations(sorted(CASTABLE), 2))
STEPS = np.arange(2, dtype=np.uint32)
ORDERS = pytest.mark.parametrize("swap", [False, True], ids=["little", "big"])
EVERY_PAIR = pytest.mark.parametrize(("old", "new"), PAIRS, ids=["-".join(pair) for pair in PAIRS])


def words(name: str, swap: bool = False) -> np.dtype[Any]:
    return np.dtype(f"{'>' if swap else '<'}u{DTYPES[name].size}")


def singles(codes: Array, name: str) -> Array:
    """The values of words as numpy has them, those of bfloat16 as single precision."""
    if name == "bfloat16":
        return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return codes.view(f"f{codes.itemsize}")


def patterns(name: str, count: int = 50_000, seed: int = 0) -> Array:
    """Words of a type: every value where it has 16 bits, else all kinds of bits, and values around every rounding."""
    size = DTYPES[name].size
    if size == 2:
        return np.arange(1 << 16, dtype=np.uint16)
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 1 << 8 * size, count, dtype=f"u{size}")
    every_half = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(f"f{size}").view(f"u{size}")
    near = (every_half[:, None] + np.arange(-2, 3).astype(f"u{size}")).ravel()
    ties = (every_half + np.array(1 << (12 if size == 4 else 41), f"u{size}"))[:, None]
    small = (rng.standard_normal(count) * 10.0 ** rng.uniform(-46, 6, count)).astype(f"f{size}").view(f"u{size}")
    return np.concatenate([bits, near, (ties + np.arange(-1, 2).astype(f"u{size}")).ravel(), small])


def rounded(values: Array, name: str) -> Array:
    """The words nearest to single-precision values, ties to even; those of bfloat16 by measuring both neighbours."""
    if name != "bfloat16":
        made = values.astype(DTYPES[name].numpy)
        return made.view(f"u{made.itemsize}")
    below = values.view(np.uint32) >> np.uint32(16)
    exact, low, high = (
        part.astype(np.float64)
        for part in (values, *(singles((below + step).astype(np.uint16), name) for step in STEPS))
    )
    high[np.isinf(high)] = np.copysign(2.0**128, high[np.isinf(high)])
    down, up = np.abs(exact - low), np.abs(high - exact)
    take_up = (up < down) | ((up == down) & (below % 2 == 1))
    quiet = np.isnan(values) * np.uint32(0x40)
    return np.where(take_up & np.isfinite(values), below + STEPS[1], below | quiet).astype(np.uint16)


def expected(codes: Array, old: str, new: str) -> Array:
    """What the words of one type are in the other one, through single precision."""
    with np.errstate(all="ignore"):
        return rounded(singles(codes, old).astype(np.float32), new)


def converted(data: bytes, old: str, new: str, swap: bool = False) -> bytes:
    source = CastSource(BytesSource(data), DTYPES[old], DTYPES[new], swap=swap)
    return source.read(0, source.size)


def cast(codes: Array, old: str, new: str) -> Array:
    return np.frombuffer(converted(codes.astype(words(old)).tobytes(), old, new), words(new))


def same(ours: Array, theirs: Array, name: str) -> bool:
    """Whether words are equal, NaN to NaN."""
    return bool(((ours == theirs) | (np.isnan(singles(ours, name)) & np.isnan(singles(theirs, name)))).all())


def one(value: float, old: str, new: str) -> float:
    """A value of numpy's, converted; bfloat16 is given and told as the value it has."""
    code = np.array([value], np.float32 if old == "bfloat16" else old)
    raw = (code.view(np.uint32) >> np.uint32(16)).astype(np.uint16) if old == "bfloat16" else code.view(words(old))
    return float(singles(cast(raw, old, new), new)[0])


class TestValues:
    @EVERY_PAIR
    def test_every_kind_of_value_is_rounded_to_nearest(self, old: str, new: str) -> None:
        codes = patterns(old)
        assert same(cast(codes, old, new), expected(codes, old, new), new)

    @pytest.mark.parametrize(
        ("value", "result"),
        [
            (0.0, 0.0),
            (1.0, 1.0),
            (65504.0, 65504.0),
            (65519.99, 65504.0),
            (65520.0, math.inf),
            (65536.0, math.inf),
            (3e38, math.inf),
            (math.inf, math.inf),
            (2**-14, 2**-14),
            (2**-14 - 2**-25, 2**-14),  # rounds up to the first normal number
            (2**-14 - 2**-24, 2**-14 - 2**-24),
            (3 * 2**-24, 3 * 2**-24),
            (2.5 * 2**-24, 2 * 2**-24),  # ties to even
            (3.5 * 2**-24, 4 * 2**-24),
            (2**-24, 2**-24),
            (2**-25, 0.0),
            (2**-25 * (1 + 2**-23), 2**-24),
            (2**-149, 0.0),
            (1 + 2**-11, 1.0),
            (1 + 2**-11 + 2**-23, 1 + 2**-10),
            (1 + 3 * 2**-11, 1 + 2 * 2**-10),
            (2047.5, 2048.0),
        ],
    )
    @pytest.mark.parametrize("old", ["float32", "float64"])
    def test_half_precision_at_its_bounds(self, value: float, result: float, old: str) -> None:
        assert one(value, old, "float16") == result
        negative = one(-value, old, "float16")
        assert (negative, math.copysign(1, negative)) == (-result, -1)

    @pytest.mark.parametrize(
        ("code", "result"),
        [
            (0x3F80_0000, 0x3F80),
            (0x3F80_8000, 0x3F80),  # ties to even
            (0x3F81_8000, 0x3F82),
            (0x3F80_8001, 0x3F81),
            (0x3F80_7FFF, 0x3F80),
            (0x7F7F_7FFF, 0x7F7F),  # the largest one
            (0x7F7F_8000, 0x7F80),
            (0x7F7F_FFFF, 0x7F80),
            (0x7F80_0000, 0x7F80),
            (0x0000_8000, 0x0000),
            (0x0000_8001, 0x0001),
            (0x0001_8000, 0x0002),
            (0x007F_FFFF, 0x0080),
            (0x0000_0001, 0x0000),
        ],
    )
    def test_bfloat16_at_its_bounds(self, code: int, result: int) -> None:
        made = cast(np.array([code, code | 0x8000_0000], np.uint32), "float32", "bfloat16")
        assert made.tolist() == [result, result | 0x8000]

    def test_a_double_is_rounded_to_single_precision_first(self) -> None:
        assert one(1 + 2**-11 + 2**-40, "float64", "float16") == 1.0
        assert one(1 + 2**-8 + 2**-40, "float64", "bfloat16") == 1.0
        assert one(1e39, "float64", "bfloat16") == math.inf

    @pytest.mark.parametrize("short", ["float16", "bfloat16"])
    @pytest.mark.parametrize("wide", ["float32", "float64"])
    def test_all_values_of_16_bits_come_back(self, short: str, wide: str) -> None:
        codes = patterns(short)
        back = cast(cast(codes, short, wide), wide, short)
        number = ~np.isnan(singles(codes, short))
        assert np.array_equal(back[number], codes[number])
        assert np.isnan(singles(back[~number], short)).all()

    @EVERY_PAIR
    def test_every_nan_stays_nan_with_its_sign(self, old: str, new: str) -> None:
        exponent, size = DTYPES[old].exponent or 0, DTYPES[old].size
        sign, quiet = 1 << 8 * size - 1, (exponent & -exponent) >> 1
        codes = [exponent | 1, sign | exponent | 1, sign - 1, 2 * sign - 1, exponent | quiet]
        made = singles(cast(np.array(codes, f"u{size}"), old, new), new)
        assert np.isnan(made).all()
        assert np.signbit(made).tolist() == [False, True, False, True, False]

    def test_nan_among_many_values(self) -> None:
        values = np.linspace(-1, 1, 3 * BLOCK, dtype=np.float32)
        values[[0, BLOCK, BLOCK + 1, -1]] = np.nan
        for new in ("float16", "bfloat16"):
            made = cast(values.view(np.uint32), "float32", new)
            assert np.flatnonzero(np.isnan(singles(made, new))).tolist() == [0, BLOCK, BLOCK + 1, 3 * BLOCK - 1]

    @EVERY_PAIR
    def test_the_other_byte_order(self, old: str, new: str) -> None:
        codes = patterns(old, 1000)[::7]
        little = np.frombuffer(converted(codes.astype(words(old)).tobytes(), old, new), words(new))
        big = np.frombuffer(converted(codes.astype(words(old, True)).tobytes(), old, new, True), words(new, True))
        assert np.array_equal(little, big)

    @pytest.mark.parametrize("pair", [("float32", "float32"), ("int32", "float32"), ("float32", "float8_e5m2")])
    def test_other_pairs_are_refused(self, pair: tuple[str, str]) -> None:
        old, new = (DTYPES[name] for name in pair)
        with pytest.raises(ValueError, match="can't be converted"):
            CastSource(BytesSource(b""), old, new)
        with pytest.raises(ValueError, match="can't be converted"):
            survey(BytesSource(b""), old, new)


class Short(BytesSource):
    """A source that ends before its size, like a file that was cut while it was read."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data, "cut")
        self.size = size

    def changed(self) -> bool:
        return True


class TestSource:
    @EVERY_PAIR
    @ORDERS
    def test_any_stretch_is_that_of_the_whole(self, old: str, new: str, swap: bool) -> None:
        data = np.random.default_rng(1).bytes((2 * BLOCK + 5) * DTYPES[old].size)
        source = CastSource(BytesSource(data, "weights"), DTYPES[old], DTYPES[new], swap=swap)
        whole = converted(data, old, new, swap)
        assert (len(whole), source.name) == (source.size, "weights")
        rng = np.random.default_rng(2)
        edge = BLOCK * DTYPES[new].size
        offsets = [0, 1, 3, edge - 1, edge, edge + 1, source.size - 1, *rng.integers(0, source.size, 5).tolist()]
        for offset, count in itertools.product(offsets, [0, 1, 2, 3, 7, 8, 1001, edge, edge + 3, 1 << 22]):
            part = whole[offset : offset + count]
            assert source.read(offset, count) == part
            buffer = bytearray(b"\xaa" * (count + 2))
            assert source.read_into(offset, memoryview(buffer)[1 : count + 1]) == len(part)
            assert buffer == b"\xaa" + part + b"\xaa" * (count + 1 - len(part))

    def test_nothing_lies_outside(self) -> None:
        source = CastSource(BytesSource(bytes(8)), DTYPES["float32"], DTYPES["float16"])
        assert [source.read(*place) for place in ((-1, 2), (4, 1), (9, 1), (0, -1))] == [b""] * 4
        assert [source.read_into(offset, memoryview(bytearray(4))) for offset in (-1, 4, 1 << 70)] == [0] * 3

    def test_an_incomplete_value_is_left_out(self) -> None:
        source = CastSource(BytesSource(bytes(11)), DTYPES["float32"], DTYPES["float16"])
        assert (source.size, len(source.read(0, 100))) == (4, 4)

    def test_a_source_that_was_cut(self) -> None:
        inner = Short(np.ones(5, "<f4").tobytes() + b"\1", 4 * (BLOCK + 9))
        source = CastSource(inner, DTYPES["float32"], DTYPES["float16"])
        assert source.changed()
        assert source.read(0, 1 << 20) == np.ones(5, "<f2").tobytes()
        assert source.read(9, 4) == b"\x3c"
        seen = survey(inner, DTYPES["float32"], DTYPES["float16"])
        assert seen.crc == zlib.crc32(np.ones(5, "<f2").tobytes())

    def test_a_cast_of_a_cast(self) -> None:
        codes = patterns("float16")
        wide = CastSource(BytesSource(codes.tobytes()), DTYPES["float16"], DTYPES["float64"])
        back = CastSource(wide, DTYPES["float64"], DTYPES["bfloat16"])
        assert back.read(0, back.size) == cast(codes, "float16", "bfloat16").tobytes()

    def test_two_threads_with_two_sources(self) -> None:
        data = [np.random.default_rng(seed).standard_normal(1 << 18).astype("<f4") for seed in (1, 2)]
        sources = [CastSource(BytesSource(one.tobytes()), DTYPES["float32"], DTYPES["float16"]) for one in data]

        def read(source: CastSource) -> bytes:
            return b"".join(map(bytes, blocks(source, 0, source.size, memoryview(bytearray(100_001)))))

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(read, sources)) == [one.astype("<f2").tobytes() for one in data]


class TestSurvey:
    @EVERY_PAIR
    @ORDERS
    def test_counts_are_exact(self, old: str, new: str, swap: bool) -> None:
        codes = patterns(old)
        data = codes.astype(words(old, swap)).tobytes()
        before, after = singles(codes, old), singles(expected(codes, old, new), new)
        made = converted(data, old, new, swap)
        assert survey(BytesSource(data), DTYPES[old], DTYPES[new], swap=swap) == Survey(
            zlib.crc32(made),
            int((np.isfinite(before) & np.isinf(after)).sum()),
            int(((before != 0) & (after == 0)).sum()),
            Magnitudes(len(made)).peak(memoryview(made), DTYPES[new], swap),
        )

    @pytest.mark.parametrize("old", ["float64", "float32"])
    @pytest.mark.parametrize("new", ["float16", "bfloat16"])
    def test_values_that_fit_lose_nothing(self, old: str, new: str) -> None:
        values = np.array([1, -1, 0, -0.0, 65280, 2**-24], old)
        seen = survey(BytesSource(values.tobytes()), DTYPES[old], DTYPES[new])
        assert (seen.overflow, seen.underflow) == (0, 0)

    def test_infinity_and_nan_are_no_overflow(self) -> None:
        values = np.array([np.inf, -np.inf, np.nan, 65520, -7e4, 65519, 2**-25, -(2**-149), 0, -0.0], "<f4")
        seen = survey(BytesSource(values.tobytes()), DTYPES["float32"], DTYPES["float16"])
        assert (seen.overflow, seen.underflow) == (2, 2)
        assert seen.peak > 0x7C00

    def test_empty(self) -> None:
        assert survey(BytesSource(b""), DTYPES["float32"], DTYPES["float16"]) == Survey(0, 0, 0, 0)

    def test_progress_counts_the_bytes_that_were_read(self) -> None:
        steps: list[int] = []
        size = 4 * (3 * BLOCK + 1)
        survey(BytesSource(bytes(size)), DTYPES["float32"], DTYPES["float16"], progress=steps.append)
        assert sum(steps) == size
        assert len(steps) == 4
