"""The stream torch wrote before zip archives: what is written is read as it was."""

from __future__ import annotations

import pickletools
import struct
import zlib
from typing import Any

import pytest
from building import (
    LEGACY_MAGIC,
    LEGACY_PROTOCOL,
    Storage,
    Tensor,
    Writer,
    pickled,
    plain_checkpoint,
    saved_legacy,
    ultralytics_checkpoint,
)
from conftest import FIXTURES
from graphs import difference

from ckpt_tools.checkpoint import Checkpoint, read_checkpoint
from ckpt_tools.checkpoint.legacy import read_stream
from ckpt_tools.checkpoint.stream import stream
from ckpt_tools.container import member_bytes, member_source
from ckpt_tools.findings import collect
from ckpt_tools.pickles import run
from ckpt_tools.source import BytesSource, Source, ZeroSource

SHARED = Storage(struct.pack("<16f", *range(16)))
ODD: dict[str, Any] = {
    "plain": plain_checkpoint(),
    "ultralytics": ultralytics_checkpoint(),
    "no tensors": {"epoch": 3},
    "more than ten": {f"t{n}": Tensor((n,), float(n)) for n in range(12)},  # their keys sort as text
    "dtypes": {
        "half": Tensor((3,), 1.5, "float16"),
        "mask": Tensor((2, 2), [1, 0, 0, 1], "bool"),
        "steps": Tensor((), 7, "int64"),
        "brain": Tensor((2,), Storage(b"\x80\x3f\x00\xc0", "bfloat16"), "bfloat16"),
        "nothing": Tensor((0, 3)),
    },
    "shared storage": {"whole": Tensor((4, 4), SHARED), "row": Tensor((4,), SHARED, offset=4)},
}


def whole(source: Source) -> bytes:
    return source.read(0, source.size)


def rewritten(data: bytes) -> tuple[Checkpoint, bytes]:
    """A stream that was read, and the bytes it is written as again."""
    before = read_checkpoint(BytesSource(data, "old.pt"))
    container = before.container
    assert container is not None
    storages = {}
    for key in container.storage_keys():
        held = container.storage(key)
        assert held is not None
        storages[key] = (before.storages[key][0].numel, member_source(container.source, held), None)
    start, end = before.pickles[2][1].end, before.pickles[3][1].end
    return before, whole(stream(data[start:end], storages, "new.pt"))


def contents(checkpoint: Checkpoint) -> dict[str, bytes]:
    assert checkpoint.container is not None
    held = {name: member_bytes(checkpoint.source, m, 1 << 30) for name, m in checkpoint.container.members.items()}
    assert all(member.whole for member in checkpoint.container.members.values())
    return held


def unchanged(before: Checkpoint, after: Checkpoint) -> None:
    assert before.recognised is not None
    assert after.recognised is not None
    assert after.container is not None
    assert (after.container.kind, after.container.byteorder) == ("legacy", "little")
    assert difference(before.recognised.root, after.recognised.root) == ""
    assert contents(after) == contents(before)
    assert [fact.slug for fact in after.findings] == [fact.slug for fact in before.findings]


@pytest.mark.parametrize("case", ODD)
def test_stream_comes_through_as_it_was(case: str) -> None:
    before, data = rewritten(saved_legacy(ODD[case]))
    unchanged(before, read_checkpoint(BytesSource(data, "new.pt")))


def test_what_torch_wrote_comes_through_as_it_was() -> None:
    data = (FIXTURES / "legacy-format.pt").read_bytes()
    before, made = rewritten(data)
    unchanged(before, read_checkpoint(BytesSource(made, "new.pt")))
    start, end = before.pickles[3][1].end, before.pickles[4][1].end
    assert made.endswith(data[end:])  # the storages, in the order torch wrote them
    assert run(data[start:end]).root == read_checkpoint(BytesSource(made)).pickles[4][1].root


def test_pickles_around_the_object_are_those_of_torch() -> None:
    writer = Writer(legacy=True)
    body = pickled(writer.value({"a": Tensor((2,))}), 2)
    source = stream(body, {"0": (2, BytesSource(writer.storages[0].data), None)}, "new.pt")
    found, sink = collect()
    read = read_stream(source, sink)
    assert found == []
    assert [pickle.root for name, pickle in read.pickles if name != "data.pkl"] == [
        LEGACY_MAGIC,
        LEGACY_PROTOCOL,
        {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}},
        ["0"],
    ]
    assert {pickle.protocol for _, pickle in read.pickles} == {2}
    assert whole(source).endswith(struct.pack("<qff", 2, 0.25, 0.25))
    assert [opcode.name for opcode, _, _ in pickletools.genops(whole(source))] == ["PROTO", "LONG1", "STOP"]


def test_keys_are_sorted_as_text_whatever_their_order() -> None:
    storages = {key: (1, BytesSource(key.encode()), None) for key in ("9", "10", "1")}
    assert whole(stream(b"", storages, "s")).endswith(b"".join(b"\1" + bytes(7) + key for key in (b"1", b"10", b"9")))


def test_stretches_carry_key_and_checksum_of_their_storage() -> None:
    one, other = b"1234", b"12345678"
    storages = {"1": (1, BytesSource(one), zlib.crc32(one)), "0": (2, BytesSource(other), None)}
    named = [(s.name, s.crc, s.source.size) for s in stream(b"", storages, "s").stretches if s.name]
    assert named == [("0", None, 8), ("1", zlib.crc32(one), 4)]


def test_stream_of_a_big_endian_machine_has_little_endian_storages() -> None:
    data = saved_legacy(ODD["shared storage"])
    place = data.index(b"little_endian")
    other = data[:place] + data[place:].replace(b"\x88", b"\x89", 1)  # NEWTRUE, NEWFALSE
    read = read_checkpoint(BytesSource(other, "old.pt"))
    assert read.pickles[2][1].root["little_endian"] is False
    assert read.container is not None
    assert read.container.byteorder == "little"


def test_large_stream_is_planned_without_its_bytes() -> None:
    size = 5 << 30
    made = stream(b"", {"0": (size, ZeroSource(size), None), "1": (1, BytesSource(b"x"), None)}, "s")
    assert made.read(made.size - 9, 9) == b"\1" + bytes(7) + b"x"
    assert made.read(made.size - size - 17, 8) == struct.pack("<q", size)
