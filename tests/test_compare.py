"""Two tensors held against each other, value by value: whatever their types, strides, containers and byte orders."""

from __future__ import annotations

import itertools
import math
import random
import tracemalloc
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckpt_tools.container import DEFLATED, STORED, Container, Member, MemberError, member_source
from ckpt_tools.pickles import Call, GlobalRef
from ckpt_tools.source import BytesSource, Source, ZeroSource
from ckpt_tools.tensors import DTYPES, StorageRef, TensorRef, contiguous_stride
from ckpt_tools.tensors.compare import PIECE, TILE, Comparer, Distance
from ckpt_tools.tensors.held import Held, incomparable, same_bytes
from ckpt_tools.tensors.values import tensor_array

Array = npt.NDArray[Any]

REAL = ("float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz",
        "float8_e4m3fnuz")  # fmt: skip
WHOLE = ("int64", "int32", "int16", "int8", "uint64", "uint16", "uint8", "bool")
COMPLEX = ("complex128", "complex64", "complex32")
CALL = Call(GlobalRef("torch._utils", "_rebuild_tensor_v2", 0), (), "reduce", 0)


def held(
    raw: bytes,
    dtype: str,
    shape: Sequence[int],
    stride: Sequence[int] | None = None,
    offset: int = 0,
    *,
    big: bool = False,
    deflated: bool = False,
) -> Held:
    """A tensor over a storage of these bytes, which come in little-endian order."""
    kind = DTYPES[dtype]
    if big:
        part = kind.size // 2 if dtype.startswith("complex") else kind.size
        raw = np.frombuffer(raw, f"<u{part}").byteswap().tobytes()
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = packer.compress(raw) + packer.flush() if deflated else raw
    method = DEFLATED if deflated else STORED
    member = Member("data/0", 0, len(raw), len(body), crc=zlib.crc32(raw), method=method)
    container = Container("zip", BytesSource(body), members={"data/0": member}, byteorder="big" if big else "little")
    storage = StorageRef("0", kind, "cpu", len(raw) // kind.size)
    steps = tuple(stride) if stride is not None else contiguous_stride(shape)
    return Held(container, TensorRef(storage, offset, tuple(shape), steps, kind, CALL))


def floats(values: Any, dtype: str = "float32", **how: Any) -> Held:
    array = np.asarray(values, DTYPES[dtype].numpy)
    return held(array.tobytes(), dtype, array.shape, **how)


def bfloats(values: Any) -> Held:
    """Single precision, cut to bfloat16."""
    words = (np.asarray(values, "<f4").view("<u4") >> 16).astype("<u2")
    return held(words.tobytes(), "bfloat16", words.shape)


def compare(old: Held, new: Held, numbers: bool = True) -> Distance:
    return Comparer().compare(old, new, numbers=numbers)


def expected(old: Held, new: Held) -> dict[str, Any]:
    """The same in plain double precision, from whole arrays."""
    one, other = (np.ascontiguousarray(tensor_array(side.container, side.tensor)).reshape(-1) for side in (old, new))
    with np.errstate(invalid="ignore"):  # signalling NaN
        if np.iscomplexobj(one):
            one, other = (side.astype(np.complex128).view(np.float64) for side in (one, other))
        one, other = one.astype(np.float64), other.astype(np.float64)
    equal = bool(((one == other) | (np.isnan(one) & np.isnan(other))).all())
    good = np.isfinite(one) & np.isfinite(other)
    one, other = one[good], other[good]
    norms = math.sqrt(one @ one), math.sqrt(other @ other)
    change = math.sqrt((one - other) @ (one - other))
    both = norms[0] and norms[1]
    return {
        "equal": equal,
        "nonfinite": int((~good).sum()),
        "max_abs": float(np.abs(one - other).max(initial=0)),
        "relative": change / norms[0] if norms[0] else (math.inf if change else 0.0),
        "cosine": float(one @ other) / norms[0] / norms[1] if both else float(norms[0] == norms[1]),
    }


def check(old: Held, new: Held) -> Distance:
    found, wanted = compare(old, new), expected(old, new)
    assert (found.equal, found.nonfinite) == (wanted["equal"], wanted["nonfinite"])
    assert found.max_abs == pytest.approx(wanted["max_abs"], rel=1e-6)
    assert found.relative == pytest.approx(wanted["relative"], rel=2e-5)
    assert found.cosine == pytest.approx(wanted["cosine"], abs=2e-6)
    assert compare(old, new, numbers=False).equal == found.equal
    return found


# --- numbers --------------------------------------------------------------------------------------


def test_what_the_numbers_mean() -> None:
    found = check(floats([3.0, 4.0]), floats([3.0, 4.5]))
    assert not found.equal
    assert found.max_abs == 0.5
    assert found.relative == pytest.approx(0.1)  # 0.5 of 5
    assert found.cosine == pytest.approx(27 / (5 * math.sqrt(29.25)))


def test_equal_tensors_have_no_distance() -> None:
    found = check(floats([3.0, 4.0]), floats([3.0, 4.0]))
    assert (found.equal, found.max_abs, found.relative, found.cosine, found.nonfinite) == (True, 0, 0.0, 1.0, 0)


@pytest.mark.parametrize(
    ("old", "new", "relative", "cosine"),
    [([0.0], [0.0], 0.0, 1.0), ([0.0], [1.0], math.inf, 0.0), ([2.0], [0.0], 1.0, 0.0), ([], [], 0.0, 1.0)],
)
def test_zeros(old: list[float], new: list[float], relative: float, cosine: float) -> None:
    found = compare(floats(old), floats(new))
    assert (found.relative, found.cosine) == (relative, cosine)


def test_zero_is_zero_whatever_its_sign() -> None:
    assert check(floats([0.0, 1.0]), floats([-0.0, 1.0])).equal


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("old", "new", "equal", "nonfinite"),
    [
        ([NAN, 1.0], [NAN, 1.0], True, 1),
        ([NAN, 1.0], [1.0, NAN], False, 2),
        ([INF, 1.0], [INF, 1.0], True, 1),
        ([INF, 1.0], [-INF, 1.0], False, 1),
        ([INF, 1.0], [NAN, 1.0], False, 1),
        ([2.0, 1.0], [INF, 1.0], False, 1),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_nonfinite_values_are_counted_and_left_out(
    old: list[float], new: list[float], equal: bool, nonfinite: int, dtype: str
) -> None:
    found = check(floats(old, dtype), floats(new, dtype))
    assert (found.equal, found.nonfinite, found.max_abs) == (equal, nonfinite, 0)


def test_nan_of_another_pattern_is_still_nan() -> None:
    quiet, other = (np.array([word, 0x3F80_0000], "<u4").tobytes() for word in (0x7FC0_0000, 0xFFC0_0001))
    assert check(held(quiet, "float32", (2,)), held(other, "float32", (2,))).equal


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-12, 1.0, 1e18, 1e19, 1e30])
def test_squares_neither_vanish_nor_overflow(scale: float) -> None:
    """Second moments of Adam are that small."""
    rng = np.random.default_rng(1)
    old = (rng.standard_normal(20_000) * scale).astype(np.float32)
    check(floats(old), floats(old * np.float32(1.001)))
    check(floats(old), floats(-old))


def test_sizes_far_apart() -> None:
    rng = np.random.default_rng(2)
    old, new = rng.standard_normal((2, 30_000)).astype(np.float32)
    check(floats(old), floats(new * np.float32(1e-7)))
    check(floats(old * np.float32(1e-7)), floats(new))


def test_a_small_change_has_a_cosine_just_below_one() -> None:
    rng = np.random.default_rng(3)
    old, noise = rng.standard_normal((2, 300_000))
    new = old + 1e-4 * noise
    found = check(floats(old), floats(new))
    wanted = 1 - old @ new / math.sqrt((old @ old) * (new @ new))
    assert 1 - found.cosine == pytest.approx(wanted, rel=1e-2)  # about 5e-9: less than single precision can tell


@pytest.mark.parametrize("place", [0, PIECE - 1, PIECE, 2 * PIECE + 4])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8"])
def test_one_changed_value_is_found_wherever_it_is(place: int, dtype: str) -> None:
    old = np.arange(2 * PIECE + 5) % 100
    new = old.copy()
    new[place] += 3
    found = check(floats(old, dtype), floats(new, dtype))
    assert (found.equal, found.max_abs) == (False, 3)


def test_subnormal_halves_are_exact() -> None:
    """Of a half-precision optimizer state most values are."""
    old = np.arange(-1023, 1024).astype(np.float64) * 2.0**-24
    found = check(floats(old, "float16"), floats(old * 2, "float16"))
    assert found.max_abs == 1023 * 2.0**-24
    assert check(floats(old, "float16"), floats(old, "float32")).equal


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", *REAL[4:]])
def test_every_code_of_a_small_type(dtype: str) -> None:
    size = DTYPES[dtype].size
    codes = np.arange(1 << 8 * size).astype(f"<u{size}")
    old = held(codes.tobytes(), dtype, codes.shape)
    values = tensor_array(old.container, old.tensor).astype("<f4")
    found = check(old, floats(values))
    assert found.equal
    assert found.nonfinite == int((~np.isfinite(values)).sum())
    check(old, held(codes[::-1].tobytes(), dtype, codes.shape))


# --- integers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "largest"),
    [
        (("int64", [2**62, 5]), ("int64", [2**62 + 1, 5]), 1),  # equal as doubles
        (("int64", [-(2**63)]), ("int64", [2**63 - 1]), 2**64 - 1),
        (("uint64", [0]), ("uint64", [2**64 - 1]), 2**64 - 1),
        (("uint64", [2**63]), ("int64", [-1]), 2**63 + 1),
        (("int8", [-128]), ("int8", [127]), 255),
        (("uint8", [255]), ("int8", [-1]), 256),
        (("bool", [True, False]), ("bool", [True, True]), 1),
    ],
)
def test_integers_are_exact(old: tuple[str, list[int]], new: tuple[str, list[int]], largest: int) -> None:
    found = compare(floats(old[1], old[0]), floats(new[1], new[0]))
    assert (found.equal, found.max_abs) == (False, largest)
    assert not compare(floats(old[1], old[0]), floats(new[1], new[0]), numbers=False).equal


@pytest.mark.parametrize("kinds", list(itertools.product(("int64", "uint64", "int32", "uint8", "float32"), repeat=2)))
def test_whole_numbers_of_different_types_can_be_equal(kinds: tuple[str, str]) -> None:
    found = compare(floats([0, 1, 200], kinds[0]), floats([0, 1, 200], kinds[1]))
    assert (found.equal, found.rounded) == (True, "")


# --- rounding -------------------------------------------------------------------------------------


def test_rounded_to_half() -> None:
    rng = np.random.default_rng(4)
    wide = rng.standard_normal(PIECE + 1000).astype(np.float32)
    for old, new in itertools.permutations((floats(wide), floats(wide.astype(np.float16), "float16"))):
        found = check(old, new)
        assert (found.equal, found.rounded) == (False, "float16")
        assert compare(old, new, numbers=False).rounded == "float16"
        assert 0 < found.relative < 1e-3


def test_the_next_value_is_no_rounding() -> None:
    wide = np.linspace(0.1, 2, 500).astype(np.float32)
    narrow = wide.astype(np.float16)
    narrow[77] = np.nextafter(narrow[77], np.float16(9))
    assert compare(floats(wide), floats(narrow, "float16")).rounded == ""


@pytest.mark.parametrize(
    ("wide", "narrow", "rounded"),
    [
        (2049.0, 2048.0, True),  # half way: to the even neighbour
        (2049.0, 2050.0, False),
        (2051.0, 2052.0, True),
        (2051.0, 2050.0, False),
        (65519.0, 65504.0, True),
        (65520.0, INF, False),  # an overflow is a loss, not a rounding
        (1e-9, 0.0, True),
        (-1e-9, 0.0, True),
        (2.0**-25, 0.0, True),
        (2.0**-25 * 1.01, 0.0, False),
        (INF, 65504.0, False),
    ],
)
def test_ties_and_ends(wide: float, narrow: float, rounded: bool) -> None:
    found = compare(floats([wide, NAN, INF]), floats([narrow, NAN, INF], "float16"))
    assert (found.rounded == "float16") is rounded


def test_doubles_rounded_to_single_precision() -> None:
    wide = np.random.default_rng(5).standard_normal(1000)
    assert compare(floats(wide, "float64"), floats(wide.astype("f4"))).rounded == "float32"
    assert compare(floats([1e300], "float64"), floats([INF])).rounded == ""


def test_what_is_equal_is_not_rounded() -> None:
    found = compare(floats([0.5, 1.0]), floats([0.5, 1.0], "float16"))
    assert (found.equal, found.rounded) == (True, "")


# --- strides, orders, containers ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "complex64", "int32"])
def test_strides_and_offsets(dtype: str) -> None:
    rng = random.Random(6)
    values = np.array([rng.randrange(-9, 9) for _ in range(60)]).reshape(3, 4, 5).astype(DTYPES[dtype].numpy or "f4")
    plain = held(values.tobytes(), dtype, (3, 4, 5))
    turned = held(values.transpose(2, 0, 1).tobytes(), dtype, (3, 4, 5), (4, 1, 12))
    behind = held(bytes(7 * DTYPES[dtype].size) + values.tobytes(), dtype, (3, 4, 5), offset=7)
    spread = np.zeros(121, values.dtype)
    spread[1::2] = values.reshape(-1)
    gaps = held(spread.tobytes(), dtype, (3, 4, 5), (40, 10, 2), 1)
    for one, other in itertools.permutations((plain, turned, behind, gaps), 2):
        assert compare(one, other).equal


def test_channels_last_on_both_sides() -> None:
    """As ``memory_format=torch.channels_last`` has it; such a pair streams."""
    stride = (3 * 5 * 5, 1, 15, 3)
    old = np.arange(300, dtype="<f4")
    new = old + np.float32(0.5)
    found = check(
        held(old.tobytes(), "float32", (4, 3, 5, 5), stride), held(new.tobytes(), "float32", (4, 3, 5, 5), stride)
    )
    assert found.max_abs == 0.5


def test_expanded_views_count_once() -> None:
    one = held(np.float32(2).tobytes(), "float32", (1 << 40, 1 << 40), (0, 0))
    other = held(np.float32(3).tobytes(), "float32", (1 << 40, 1 << 40), (0, 0))
    assert compare(one, one).equal
    assert compare(one, other).relative == 0.5
    assert compare(held(np.float32(2).tobytes(), "float32", (3,), (0,)), floats([2, 2, 2])).equal


def test_views_that_repeat_without_end_are_refused() -> None:
    one = held(bytes(4096), "float32", (1 << 30, 2), (0, 1))
    other = held(bytes(4096), "float32", (1 << 30, 2), (0, 1))
    assert compare(one, other).equal
    lattice = replace(one, tensor=replace(one.tensor, shape=(2,) * 40, stride=(1,) * 40))
    with pytest.raises(MemberError, match="repeats"):
        compare(lattice, lattice)


def test_a_transposed_matrix_of_more_than_a_tile() -> None:
    side = int(math.sqrt(TILE / 4)) + 200
    old = np.random.default_rng(7).standard_normal((side, side)).astype("<f4")
    new = held(np.ascontiguousarray(old.T).tobytes(), "float32", (side, side), (1, side))
    assert compare(floats(old), new).equal
    changed = old.copy()
    changed[-1, -1] += 1
    assert check(floats(changed), new).max_abs == pytest.approx(1)


@pytest.mark.parametrize("dtype", [*REAL, *WHOLE, *COMPLEX])
def test_big_endian_files(dtype: str) -> None:
    raw = bytes(range(16)) * 16
    raw = bytes(byte & 1 for byte in raw) if dtype == "bool" else raw
    count = len(raw) // DTYPES[dtype].size
    little, big = held(raw, dtype, (count,)), held(raw, dtype, (count,), big=True)
    assert compare(little, big).equal
    assert compare(big, little, numbers=False).equal
    other = held(raw[::-1], dtype, (count,), big=True)
    found, wanted = compare(big, other), compare(little, held(raw[::-1], dtype, (count,)))
    assert repr(found) == repr(wanted)


@pytest.mark.parametrize("count", [100, 3 * PIECE])
def test_packed_members(count: int) -> None:
    values = np.random.default_rng(8).standard_normal(count).astype("<f4")
    packed = floats(values, deflated=True)
    assert compare(packed, floats(values)).equal
    assert compare(floats(values), packed, numbers=False).equal
    part = replace(packed, tensor=replace(packed.tensor, shape=(40,), offset=9))
    assert compare(part, floats(values[9:49])).equal


def test_views_of_one_packed_storage_unpack_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[str] = []

    def counted(source: Source, member: Member) -> Source:
        unpacked.append(member.name)
        return member_source(source, member)

    monkeypatch.setattr("ckpt_tools.tensors.compare.member_source", counted)
    packed, comparer = floats(np.arange(100), deflated=True), Comparer()
    for offset in range(50):
        view = replace(packed, tensor=replace(packed.tensor, shape=(10,), offset=offset))
        assert comparer.compare(view, floats(np.arange(offset, offset + 10))).equal
    assert len(unpacked) == 1


@pytest.mark.parametrize("stride", [(1,), (2,)])
def test_missing_bytes_are_an_error(stride: tuple[int]) -> None:
    short = held(bytes(36), "float32", (10,), stride)
    with pytest.raises(MemberError, match="ends after 36 of"):
        compare(short, floats([0.0] * 10))
    with pytest.raises(MemberError, match="missing"):
        compare(replace(short, container=Container("zip", BytesSource(b""))), floats([0.0] * 10))


def test_a_file_that_ends_while_it_is_read() -> None:
    cut = floats([1.0] * 10)
    cut.container.source = BytesSource(bytes(12))
    with pytest.raises(MemberError, match="ended"):
        compare(cut, floats([1.0] * 10))


def test_memory_is_bounded() -> None:
    count = 64 << 20
    container = Container("zip", ZeroSource(4 * count), members={"data/0": Member("data/0", 0, 4 * count, 4 * count)})
    storage = StorageRef("0", DTYPES["float32"], "cpu", count)
    flat = Held(container, TensorRef(storage, 0, (count,), (1,), DTYPES["float32"], CALL))
    matrix = Held(container, TensorRef(storage, 0, (8192, 8192), (8192, 1), DTYPES["float32"], CALL))
    turned = Held(container, TensorRef(storage, 0, (8192, 8192), (1, 8192), DTYPES["float32"], CALL))
    for pair, most in (((flat, flat), 8 << 20), ((matrix, turned), 6 * TILE)):
        tracemalloc.start()
        assert compare(*pair, numbers=False).equal
        assert tracemalloc.get_traced_memory()[1] < most
        tracemalloc.stop()


# --- without reading ------------------------------------------------------------------------------


def test_what_can_not_be_compared_says_why() -> None:
    plain = floats([1.0, 2.0])
    meta = replace(plain.tensor, storage=None, layout="meta")
    assert "meta" in incomparable(plain.tensor, meta)
    assert "complex" in incomparable(plain.tensor, floats([1.0, 2.0], "complex64").tensor)
    assert "conjugated" in incomparable(plain.tensor, replace(plain.tensor, conj=True))
    assert incomparable(plain.tensor, floats([1.0, 2.0], "int64").tensor) == ""


def test_quantized_values_mean_nothing_without_their_scale() -> None:
    def quantized(*scale: Any) -> TensorRef:
        name = GlobalRef("torch._utils", "_rebuild_qtensor", 0)
        call = Call(name, (None, 0, (2,), (1,), (GlobalRef("torch", "per_tensor_affine", 0), *scale)), "reduce", 0)
        return replace(held(bytes(2), "quint8", (2,)).tensor, call=call)

    assert incomparable(quantized(0.5, 3), quantized(0.5, 3)) == ""
    assert "scales" in incomparable(quantized(0.5, 3), quantized(0.25, 3))
    assert "scales" in incomparable(quantized(CALL, CALL, 0), quantized(CALL, CALL, 0))


def test_checksums_tell_only_what_they_can() -> None:
    one, same, other = floats([1.0, 2.0]), floats([1.0, 2.0]), floats([1.0, 3.0])
    assert same_bytes(one, same) is True
    assert same_bytes(one, other) is False
    part = [replace(side, tensor=replace(side.tensor, shape=(1,))) for side in (one, other)]
    assert same_bytes(*part) is None  # they may differ elsewhere
    assert same_bytes(one, replace(same, tensor=replace(same.tensor, stride=(0,)))) is None
    assert same_bytes(one, floats([1.0, 2.0], big=True)) is None
    assert same_bytes(one, floats([1.0, 2.0], deflated=True)) is True
    same.container.members["data/0"].crc = None
    assert same_bytes(one, same) is None


# --- whatever comes -------------------------------------------------------------------------------


@st.composite
def raw_values(draw: st.DrawFn, dtype: str, count: int) -> bytes:
    """Bytes of that many values; those of 64 bits in the range of single precision."""
    kind = DTYPES[dtype]
    if kind.size >= 8:
        number = st.floats(-(2.0**99), 2.0**99, width=32).filter(lambda value: value == 0 or abs(value) > 1e-30)
        many = draw(st.lists(number, min_size=count * kind.size // 8, max_size=count * kind.size // 8))
        part = "<f4" if dtype == "complex64" else "<f8"
        return np.array(many * (2 if dtype == "complex64" else 1), part).tobytes()
    return draw(st.binary(min_size=count * kind.size, max_size=count * kind.size))


@st.composite
def tensors(draw: st.DrawFn, dtype: str, shape: tuple[int, ...]) -> Held:
    """A tensor of that type and shape with whatever stride, offset, byte order and packing."""
    order = draw(st.permutations(range(len(shape))))
    gap, offset = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    steps, step = [0] * len(shape), gap
    for axis in order:
        steps[axis], step = step, step * shape[axis]
    count = offset + math.prod(shape) * gap
    raw = draw(raw_values(dtype, count))
    return held(raw, dtype, shape, steps, offset, big=draw(st.booleans()), deflated=draw(st.booleans()))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Held, Held]:
    kinds = draw(st.sampled_from([REAL, COMPLEX]))
    shape = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    return draw(tensors(draw(st.sampled_from(kinds)), shape)), draw(tensors(draw(st.sampled_from(kinds)), shape))


@given(pairs())
def test_numbers_agree_with_plain_double_precision(pair: tuple[Held, Held]) -> None:
    check(*pair)
    assert compare(pair[0], pair[0]).equal


@given(st.integers(1, 3 * PIECE), st.integers(0, 2**32), st.floats(1e-6, 10), st.sampled_from(["float32", "float16"]))
@example(PIECE, 0, 1e-3, "float16")
def test_long_ones_too(count: int, seed: int, change: float, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    old, noise = rng.standard_normal((2, count))
    check(floats(old, dtype), floats(old + change * noise, dtype))


def test_distances_add_up() -> None:
    old, new = np.random.default_rng(9).standard_normal((2, 1000)).astype("<f4")
    whole = compare(floats(old), floats(new))
    halves = compare(floats(old[:300]), floats(new[:300])) + compare(floats(old[300:]), floats(new[300:]))
    assert halves.max_abs == whole.max_abs
    assert halves.relative == pytest.approx(whole.relative)
    assert halves.cosine == pytest.approx(whole.cosine, abs=1e-6)


@pytest.mark.parametrize("count", [1, 5, 8192, PIECE + 3])
@pytest.mark.parametrize("odd", [INF, -INF, NAN])
def test_one_half_that_is_not_finite_is_always_noticed(odd: float, count: int) -> None:
    old = np.full(count, 1.5, np.float16)
    new = old * np.float16(0.5)
    new[count // 2] = odd
    assert check(floats(old, "float16"), floats(new, "float16")).nonfinite == 1
    assert check(floats(new, "float16"), floats(old, "float16")).nonfinite == 1
