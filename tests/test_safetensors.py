"""The safetensors format: what is written is read as it was, and what is malformed is refused with a reason."""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckpt_tools.container import Entry, NewTensor, read_safetensors, safetensors_archive
from ckpt_tools.container import safetensors as module
from ckpt_tools.container.safetensors import WORDS
from ckpt_tools.findings import CkptError
from ckpt_tools.source import BytesSource, JoinedSource, Source, Stretch, ZeroSource
from ckpt_tools.tensors import DTYPES

SIZES = dict(WORDS.values())


def tensor(name: str, dtype: str, shape: tuple[int, ...], data: bytes | None = None) -> NewTensor:
    count = math.prod(shape) * SIZES.get(dtype, 1)
    data = bytes(place % 251 for place in range(count)) if data is None else data
    return NewTensor(name, dtype, shape, BytesSource(data), zlib.crc32(data))


def whole(source: Source) -> bytes:
    return source.read(0, source.size)


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of any header, well formed or not."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype: Any = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


# --- round trip -----------------------------------------------------------------------------------

MIXED = [
    tensor("half", "float16", (3, 2), struct.pack("<6e", *range(6))),
    tensor("brain", "bfloat16", (2,), b"\x80\x3f\x00\xc0"),
    tensor("mask", "bool", (3,), b"\1\0\1"),
    tensor("steps", "int64", (), struct.pack("<q", -7)),
    tensor("nothing", "float32", (0, 3)),
    tensor("ünï\n\"code'", "uint8", (1, 1, 1)),
    tensor("", "float64", (2,)),
]


def same(made: Source, tensors: list[NewTensor], metadata: dict[str, str]) -> None:
    """What is read of a file is what was put in, every tensor aligned to its elements."""
    found = read_safetensors(made)
    assert found.metadata == metadata
    assert found.tensors.keys() == {held.name for held in tensors}
    for held in tensors:
        there = found.tensors[held.name]
        assert (there.dtype, there.shape, there.size) == (held.dtype, held.shape, held.data.size)
        assert made.read(there.offset, there.size) == whole(held.data)
        assert there.offset % SIZES[held.dtype] == 0


@pytest.mark.parametrize("metadata", [{}, {"format": "pt", "ключ": "\n\0"}], ids=["without", "with"])
def test_mixed_tensors_come_back(metadata: dict[str, str]) -> None:
    same(safetensors_archive(MIXED, metadata, "w.safetensors"), MIXED, metadata)


@pytest.mark.parametrize("dtype", SIZES)
def test_every_dtype_comes_back(dtype: str) -> None:
    held = [tensor("a", "uint8", (3,)), tensor("b", dtype, (2, 3)), tensor("c", dtype, ())]
    same(safetensors_archive(held, {}, "w.safetensors"), held, {})


def test_sizes_of_elements_are_those_of_torch() -> None:
    assert {name: DTYPES[name].size for name in SIZES} == SIZES


def test_file_without_tensors_is_one() -> None:
    made = safetensors_archive([], {}, "empty.safetensors")
    assert whole(made) == b"\x08\0\0\0\0\0\0\0{}      "
    same(made, [], {})


def test_larger_elements_come_first_and_equal_ones_by_name() -> None:
    order = ["bool", "float32", "int64", "float16", "float32"]
    held = [tensor(name, dtype, (1,)) for name, dtype in zip("edcba", order)]
    places = read_safetensors(safetensors_archive(held, {}, "w")).tensors
    assert sorted(places, key=lambda name: places[name].offset) == ["c", "a", "d", "b", "e"]


def test_stretches_carry_name_and_checksum_of_their_tensor() -> None:
    stretches = safetensors_archive(MIXED, {}, "w").stretches[1:]
    assert {(s.name, s.crc) for s in stretches} == {(held.name, held.crc) for held in MIXED if held.data.size}


def test_the_same_tensors_give_the_same_bytes() -> None:
    one, other = (safetensors_archive(held, {"a": "b"}, "w") for held in (MIXED, MIXED[::-1]))
    assert whole(one) == whole(other)


def test_large_file_is_planned_without_its_bytes() -> None:
    size = 5 << 30
    held = [NewTensor("a", "uint8", (size,), ZeroSource(size), 1), tensor("b", "int16", (2,))]
    made = safetensors_archive(held, {}, "w")
    assert read_safetensors(made).tensors["a"] == Entry("uint8", (size,), made.size - size, size)


TENSORS = st.lists(
    st.builds(
        tensor,
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.sampled_from(list(SIZES)),
        st.lists(st.integers(0, 3), max_size=3).map(tuple),
    ),
    max_size=6,
    unique_by=lambda held: held.name,
)


@given(tensors=TENSORS, metadata=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.just("x")))
def test_any_tensors_come_back(tensors: list[NewTensor], metadata: dict[str, str]) -> None:
    same(safetensors_archive(tensors, metadata, "w"), tensors, metadata)


UNFIT: dict[str, tuple[list[NewTensor], dict[str, str], str]] = {
    "dtypes": ([tensor("a", "complex128", (1,)), tensor("b", "qint8", (1,))], {}, r"a \(complex128\), b \(qint8\);"),
    "same name": ([tensor("a", "bool", (1,)), tensor("a", "bool", (1,))], {}, "two tensors are named a"),
    "name of the metadata": ([tensor("__metadata__", "bool", (1,))], {}, "no place for the name __metadata__"),
    "half a pair": ([tensor("a\ud800", "bool", (1,))], {}, r"no place for the name a\\ud800"),
    "metadata": ([], {"a": "\udfff"}, "no place for the name"),
    "size": ([tensor("a", "int16", (2,), b"123")], {}, "3 bytes where its shape needs 4"),
    "shape": ([tensor("a", "bool", (-1, -1), b"1")], {}, "where its shape needs"),
    "header": ([tensor("x" * 100_000_000, "bool", (1,))], {}, "more than the 100000000"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_the_format_has_no_place_for_is_named(case: str) -> None:
    tensors, metadata, message = UNFIT[case]
    with pytest.raises(CkptError, match=message) as caught:
        safetensors_archive(tensors, metadata, "last.safetensors")
    assert re.fullmatch(r"last.safetensors can't be written as safetensors: [^;]+; .+", str(caught.value))


def test_many_unknown_dtypes_are_counted() -> None:
    with pytest.raises(CkptError, match=r"t4 \(complex128\) and 3 more"):
        safetensors_archive([tensor(f"t{n}", "complex128", (1,)) for n in range(8)], {}, "w")


# --- files of others ------------------------------------------------------------------------------

ENTRY = json.dumps(entry()).encode()
GOOD = file_of({"a": entry()}, b"1234")


def test_header_in_any_order_spacing_and_with_unknown_fields() -> None:
    first, second = entry("F16", [2], [2, 6]), entry("U8", [2], [0, 2])
    made = file_of(json.dumps({"a": {**first, "more": [1]}, "b": second}, indent=1).encode() + b"\n \t", b"123456")
    found = read_safetensors(BytesSource(made)).tensors
    assert [(held.dtype, held.size, len(made) - held.offset) for held in found.values()] == [
        ("float16", 4, 4),
        ("uint8", 2, 6),
    ]


def test_no_metadata_may_be_spelt_null() -> None:
    assert read_safetensors(BytesSource(file_of({"__metadata__": None}))).metadata == {}


MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes, fewer than the 8"),
    "seven bytes": (GOOD[:7], "7 bytes, fewer than the 8"),
    "cut header": (GOOD[:30], "ends inside its header, after 22 of"),
    "cut data": (GOOD[:-1], "where its tensors need"),
    "bytes behind": (GOOD + b"x", "1 bytes behind the last tensor"),
    "bytes behind nothing": (file_of({}, b"x"), "1 bytes behind the last tensor"),
    "longer than the file": (file_of({}, length=99), "after 2 of 99"),
    "longer than allowed": (file_of({}, length=100_000_001), "more than the 100000000"),
    "longest": (b"\xff" * 8 + b"{}", "more than the 100000000"),
    "no header": (file_of(b""), "does not begin with {"),
    "text": (b"a text file that is none", "more than the 100000000"),
    "list": (file_of([]), "does not begin with {"),
    "leading space": (file_of(b" {}"), "does not begin with {"),
    "byte order mark": (file_of(b"\xef\xbb\xbf{}"), "does not begin with {"),
    "no JSON": (file_of(b'{"a":'), "no JSON"),
    "two values": (file_of(b"{}{}"), "no JSON"),
    "zeros behind": (file_of(b"{}\0"), "no JSON"),
    "no UTF-8": (file_of(b'{"\xff":1}'), "no JSON"),
    "UTF-16": (file_of("{}".encode("utf-16-le")), "no JSON"),
    "no number": (file_of(b'{"a":NaN}'), "no JSON"),
    "control character": (file_of(b'{"a\nb":' + ENTRY + b"}", b"1234"), "no JSON"),
    "long number": (file_of(b'{"a":' + b"9" * 5000 + b"}"), "no JSON"),
    "deep": (file_of(b'{"a":' * 200_000 + b"1" + b"}" * 200_000), "nested too deep"),
    "brackets": (file_of(b'{"a":[' + b"[]," * 3_000_001 + b"[]]}"), "more than 1000000 tensors"),
    "same name": (file_of(b'{"a":' + ENTRY + b',"a":' + ENTRY + b"}", b"1234"), "a is in its header twice"),
    "same name spelt differently": (file_of(b'{"a":' + ENTRY + b',"\\u0061":' + ENTRY + b"}", b"1234"), "twice"),
    "same metadata": (file_of(b'{"__metadata__":{"k":"v","k":"v"}}'), "k is in its header twice"),
    "same field": (file_of(b'{"a":{"dtype":"U8","dtype":"U8"}}'), "dtype is in its header twice"),
    "half a pair": (file_of(b'{"\\ud800":' + ENTRY + b"}", b"1234"), "is no text"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "not a mapping of text to text"),
    "metadata of lists": (file_of({"__metadata__": {"a": ["b"]}}), "not a mapping of text to text"),
    "metadata as a list": (file_of({"__metadata__": []}), "not a mapping of text to text"),
    "half a pair in metadata": (file_of(b'{"__metadata__":{"a":"\\udc00"}}'), "not a mapping of text to text"),
    "entry of another kind": (file_of({"a": 1}), "does not give dtype, shape and data_offsets of a"),
    "no dtype": (file_of({"a": {"shape": [], "data_offsets": [0, 1]}}), "does not give"),
    "dtype of another kind": (file_of({"a": entry(dtype=["U8"])}), "does not give"),
    "unknown dtype": (file_of({"a": entry("F128")}, b"1234"), "unknown dtype F128"),
    "dtype in lower case": (file_of({"a": entry("u8")}, b"1234"), "unknown dtype u8"),
    "less than a byte": (file_of({"a": entry("F4", [8])}, b"1234"), "unknown dtype F4"),
    "shape as a number": (file_of({"a": entry(shape=4)}, b"1234"), "does not give"),
    "fractions": (file_of({"a": entry(shape=[4.0])}, b"1234"), "does not give"),
    "truth": (file_of({"a": entry(shape=[4, True])}, b"1234"), "does not give"),
    "negative": (file_of({"a": entry(shape=[-2, -2])}, b"1234"), "does not give"),
    "three offsets": (file_of({"a": entry(offsets=[0, 4, 4])}, b"1234"), "does not give"),
    "negative offset": (file_of({"a": entry(offsets=[-4, 0])}, b"1234"), "does not give"),
    "absurd length": (file_of({"a": entry(shape=[1 << 63, 0], offsets=[0, 0])}), "larger than any memory"),
    "absurd product": (file_of({"a": entry(shape=[1 << 40, 1 << 40, 0], offsets=[0, 0])}), "larger than any memory"),
    "many lengths": (file_of({"a": entry(shape=[1 << 62] * 100_000, offsets=[0, 0])}), "larger than any memory"),
    "wrong size": (file_of({"a": entry("U16")}, b"1234"), "lies in 4 bytes where its shape needs 8"),
    "backwards": (file_of({"a": entry(offsets=[4, 0])}, b"1234"), "lies in -4 bytes"),
    "out of the file": (file_of({"a": entry(offsets=[8, 12])}, b"1234"), "8 bytes behind what comes before"),
    "hole": (file_of({"a": entry(), "b": entry(offsets=[5, 9])}, b"123456789"), "b is 1 bytes behind"),
    "overlap": (file_of({"a": entry(), "b": entry(offsets=[3, 7])}, b"1234567"), "b lies 1 bytes into"),
    "same place": (file_of({"a": entry(), "b": entry()}, b"1234"), "b lies 4 bytes into"),
    "empty inside another": (file_of({"a": entry(), "b": entry("U8", [0], [2, 2])}, b"1234"), "b lies 2 bytes into"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_file_is_refused_with_a_reason_and_what_to_do(case: str) -> None:
    data, message = MALFORMED[case]
    with pytest.raises(CkptError, match=message) as caught:
        read_safetensors(BytesSource(data, "bad\n.safetensors"))
    text = str(caught.value)
    assert re.fullmatch(r"bad\\n.safetensors can't be read as safetensors: .+; [a-z ]+", text)
    assert len(text) < 700


@pytest.mark.parametrize("length", [*range(0, len(GOOD))])
def test_every_cut_is_noticed(length: int) -> None:
    with pytest.raises(CkptError):
        read_safetensors(BytesSource(GOOD[:length]))


class Counting(BytesSource):
    """Bytes that remember how far they were read."""

    furthest = 0

    def read(self, offset: int, count: int) -> bytes:
        self.furthest = max(self.furthest, offset + count)
        return super().read(offset, count)


def test_no_more_than_the_header_is_read() -> None:
    made = whole(safetensors_archive(MIXED, {}, "w"))
    source = Counting(made)
    first = min(held.offset for held in read_safetensors(source).tensors.values())
    assert source.furthest == first
    source = Counting(file_of({}, length=module.LONGEST_HEADER + 1))
    with pytest.raises(CkptError):
        read_safetensors(source)
    assert source.furthest == 8


def test_header_of_the_largest_size_is_read() -> None:
    head = struct.pack("<Q", module.LONGEST_HEADER) + b"{}"
    blank = BytesSource(b" " * (module.LONGEST_HEADER - 2))
    assert read_safetensors(JoinedSource([Stretch(BytesSource(head)), Stretch(blank)], "w")).tensors == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(list(WORDS)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a", "__metadata__"]), inner, max_size=4)
    ),
)


def parses_or_refuses(data: bytes) -> None:
    try:
        found = read_safetensors(BytesSource(data))
    except CkptError:
        return
    assert sum(held.size for held in found.tensors.values()) + 8 + int.from_bytes(data[:8], "little") == len(data)


@given(data=st.binary(max_size=60))
@example(data=GOOD)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    parses_or_refuses(data)


@given(raw=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()), data=st.binary(max_size=9))
def test_any_header_is_read_or_refused(raw: bytes, data: bytes) -> None:
    parses_or_refuses(file_of(raw, data))
    parses_or_refuses(file_of(b'{"a":' + raw + b"}", data))


@given(place=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255))
def test_any_changed_byte_is_read_or_refused(place: int, value: int) -> None:
    parses_or_refuses(GOOD[:place] + bytes([value]) + GOOD[place + 1 :])
