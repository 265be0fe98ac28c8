"""The archives that are written: as Python's zipfile and torch read them, and with every byte that was there before."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from building import (
    Called,
    Instance,
    Member,
    Storage,
    Tensor,
    detector,
    module,
    plain_checkpoint,
    saved,
    saved_legacy,
    ultralytics_checkpoint,
    weights,
)
from building import archive as zip_of
from conftest import FIXTURES
from graphs import difference
from hypothesis import given
from hypothesis import strategies as st

from ckpt_tools.checkpoint import Checkpoint, open_checkpoint, read_checkpoint
from ckpt_tools.checks.content import scan_content
from ckpt_tools.checks.context import Context
from ckpt_tools.container import Container, NewMember, archive, member_bytes, read_zip
from ckpt_tools.findings import Verdict, collect
from ckpt_tools.plans.apply import apply_archive, reads_back
from ckpt_tools.plans.draft import Draft
from ckpt_tools.plans.holdings import Holding
from ckpt_tools.source import BytesSource, JoinedSource, ScratchSource, Source, Stretch, ZeroSource
from ckpt_tools.verbs.verify import verify_checkpoint

GIB = 1 << 30
CHECKPOINTS = sorted(path for path in FIXTURES.glob("*.pt") if path.name != "torchscript.pt")


class File(io.RawIOBase):
    """A source as a file object, for readers that want one."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + (0, self.place, self.source.size)[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        got = self.source.read_into(self.place, memoryview(buffer))
        self.place += got
        return got


def member(name: str, data: bytes) -> NewMember:
    return NewMember(name, BytesSource(data), zlib.crc32(data))


def whole(source: Source) -> bytes:
    return source.read(0, source.size)


def peer(source: Source) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BufferedReader(File(source)))


def read(source: Source) -> Container:
    found, sink = collect()
    container = read_zip(source, sink)
    assert found == []
    return container


# --- sources --------------------------------------------------------------------------------------


@given(pieces=st.lists(st.binary(max_size=9), max_size=8), place=st.integers(-3, 80), count=st.integers(-2, 90))
def test_joined_stretches_read_as_one_run_of_bytes(pieces: list[bytes], place: int, count: int) -> None:
    source, data = JoinedSource([Stretch(BytesSource(piece)) for piece in pieces], "joined"), b"".join(pieces)
    assert source.size == len(data)
    assert source.read(place, count) == BytesSource(data).read(place, count)
    buffer = bytearray(max(count, 0))
    wanted = data[place : place + len(buffer)] if place >= 0 else b""
    assert source.read_into(place, memoryview(buffer)) == len(wanted)
    assert bytes(buffer[: len(wanted)]) == wanted


def test_zeros_are_as_many_as_they_say_and_overwrite_what_was_in_the_buffer() -> None:
    source, buffer = ZeroSource(10), bytearray(b"x" * 8)
    assert source.read(6, 100) == bytes(4)
    assert source.read(-1, 3) == source.read(10, 3) == b""
    assert source.read_into(6, memoryview(buffer)) == 4
    assert bytes(buffer) == bytes(4) + b"xxxx"


def test_scratch_file_is_gone_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = ScratchSource([b"abc", b"def"], "made")
    assert (source.name, whole(source), len(list(tmp_path.iterdir()))) == ("made", b"abcdef", 1)
    del source
    assert list(tmp_path.iterdir()) == []


def test_scratch_file_of_pieces_that_fail_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def pieces() -> Any:
        yield b"abc"
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        ScratchSource(pieces(), "made")
    assert list(tmp_path.iterdir()) == []


# --- small archives -------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\/\0"), min_size=1, max_size=20)
CONTENTS = st.dictionaries(NAMES.map(lambda name: f"last/{name}"), st.binary(max_size=300), min_size=1, max_size=9)


@given(contents=CONTENTS, alignment=st.sampled_from([1, 4, 64, 4096]))
def test_zipfile_reads_every_member_and_finds_no_fault(contents: dict[str, bytes], alignment: int) -> None:
    made = archive([member(name, data) for name, data in contents.items()], "last.pt", alignment)
    with peer(made) as found:
        assert found.testzip() is None
        assert found.namelist() == list(contents)
        assert {name: found.read(name) for name in contents} == contents


@given(contents=CONTENTS, alignment=st.sampled_from([4, 64, 4096]))
def test_data_of_every_member_is_aligned(contents: dict[str, bytes], alignment: int) -> None:
    made = archive([member(name, data) for name, data in contents.items()], "last.pt", alignment)
    places = [held.offset for held in read(made).members.values()]
    assert len(places) == len(contents)
    assert [place % alignment for place in places] == [0] * len(places)


def test_our_own_reader_finds_what_was_put_in() -> None:
    contents = {"last/data.pkl": b"\x80\x02N.", "last/data/0": b"12345678", "last/version": b"3\n", "last/empty": b""}
    container = read(archive([member(name, data) for name, data in contents.items()], "last.pt"))
    assert (container.root, container.directory) == ("last", True)
    assert {m.name: member_bytes(container.source, m, 99) for m in container.members.values()} == contents
    assert [held.crc for held in container.members.values()] == list(map(zlib.crc32, contents.values()))


def test_cut_archive_can_still_be_walked_from_its_headers() -> None:
    made = whole(archive([member(f"last/data/{n}", bytes([n]) * 99) for n in range(5)], "last.pt"))
    found, sink = collect()
    container = read_zip(BytesSource(made[: made.index(b"PK\1\2")]), sink)
    assert {held.size for held in container.members.values()} == {99}
    assert all(held.whole for held in container.members.values())


def test_the_same_members_give_the_same_bytes() -> None:
    one, other = (archive([member("a/data.pkl", b"x")], "last.pt") for _ in range(2))
    assert whole(one) == whole(other)


def test_archive_without_members_is_one() -> None:
    with peer(archive([], "empty.pt")) as found:
        assert found.namelist() == []


# --- large archives, without the bytes ------------------------------------------------------------


class Sparse:
    """Zeros as far as one likes, with a few bytes of one's own at places."""

    def __init__(self, size: int) -> None:
        self.name, self.size, self.marks = "<sparse>", size, {0: b"first", size - 4: b"last"}

    def read(self, offset: int, count: int) -> bytes:
        buffer = bytearray(max(0, min(count, self.size - offset)))
        return bytes(buffer[: self.read_into(offset, memoryview(buffer))])

    def read_into(self, offset: int, buffer: memoryview) -> int:
        count = max(0, min(len(buffer), self.size - offset))
        buffer[:count] = bytes(count)
        for place, mark in self.marks.items():
            for number, value in enumerate(mark):
                if offset <= place + number < offset + count:
                    buffer[place + number - offset] = value
        return count

    def changed(self) -> bool:
        return False


def crc_of(source: Sparse) -> int:
    """The checksum of a small one; of a large one any number, for what is tested are sizes and places."""
    return zlib.crc32(source.read(0, source.size)) if source.size < GIB else 12345


LARGE = {
    "a member just below the limit": [2**32 - 2],
    "a member at the limit": [2**32 - 1],
    "a member just beyond": [2**32],
    "members behind the limit": [2**32 - 100, 7, 8],
    "large behind large": [5 * GIB, 6 * GIB, 64],
}


@pytest.mark.parametrize("case", LARGE)
def test_members_beyond_four_gigabytes_are_found_by_both_readers(case: str) -> None:
    sizes = LARGE[case]
    members = [NewMember(f"last/data/{n}", source, crc_of(source)) for n, source in enumerate(map(Sparse, sizes))]
    made = archive([*members, member("last/version", b"3\n")], "last.pt")
    container = read(made)
    with peer(made) as found:
        for number, size in enumerate(sizes):
            held, info = container.members[f"data/{number}"], found.getinfo(f"last/data/{number}")
            assert (held.size, held.stored, held.crc, held.whole) == (size, size, members[number].crc, True)
            assert (info.file_size, info.compress_size, info.CRC) == (size, size, members[number].crc)
            assert held.offset % 64 == 0
            assert made.read(held.offset, 5) == b"first"[:5] if size > 8 else True
            assert made.read(held.offset + size - 4, 4) == b"last"
            with found.open(info) as file:
                assert file.read(3) == made.read(held.offset, 3)
        assert found.read("last/version") == b"3\n"


@pytest.mark.parametrize("sizes", [[2**32], [2**32 - 100, 7]], ids=["large member", "beyond the limit"])
def test_large_archive_without_its_directory_is_walked(sizes: list[int]) -> None:
    members = [NewMember(f"last/data/{n}", source, crc_of(source)) for n, source in enumerate(map(Sparse, sizes))]
    made = archive([*members, member("last/version", b"3\n")], "last.pt")
    cut = JoinedSource(made.stretches[:-1], "cut.pt")
    found, sink = collect()
    container = read_zip(cut, sink)
    assert not container.directory
    assert [container.members[f"data/{n}"].size for n in range(len(sizes))] == sizes
    assert member_bytes(cut, container.members["version"], 9) == b"3\n"


def test_more_members_than_sixteen_bits_count(tmp_path: Path) -> None:
    count = 65_540
    made = archive((member(f"a/data/{number}", b"") for number in range(count)), "last.pt", 1)
    assert len(read(made).members) == count
    with zipfile.ZipFile(io.BytesIO(whole(made))) as found:
        assert len(found.namelist()) == count
        assert found.namelist()[-1] == f"a/data/{count - 1}"


@pytest.mark.parametrize("count", [65_535])
def test_numbers_of_members_around_the_limit_are_right(count: int) -> None:
    made = archive((member(f"a/{number}", b"") for number in range(count)), "last.pt", 1)
    with zipfile.ZipFile(io.BytesIO(whole(made))) as found:
        assert len(found.namelist()) == count


# --- checkpoints through a draft ------------------------------------------------------------------


def draft(checkpoint: Checkpoint, *, edited: bool) -> Draft:
    made = Draft(Holding(checkpoint, scan_content(checkpoint)))
    made.edited = made.edited or edited
    return made.read("new.pt")


def storages(checkpoint: Checkpoint) -> dict[str, bytes]:
    assert checkpoint.container is not None
    found = {}
    for key in checkpoint.container.storage_keys():
        held = checkpoint.container.storage(key)
        assert held is not None
        found[key] = member_bytes(checkpoint.container.source, held, 1 << 30)
    return found


def through(data: bytes, *, edited: bool) -> tuple[Checkpoint, Checkpoint]:
    """A checkpoint, and what becomes of it by being written anew."""
    before = read_checkpoint(BytesSource(data, "last.pt"))
    after = read_checkpoint(BytesSource(whole(draft(before, edited=edited).archive), "last.pt"))
    return before, after


def unchanged(before: Checkpoint, after: Checkpoint) -> None:
    """Same objects, same storages, same verdict, and nothing to say about the archive."""
    assert before.recognised is not None
    assert after.recognised is not None
    assert difference(before.recognised.root, after.recognised.root) == ""
    assert storages(after) == storages(before)
    verdicts = [verify_checkpoint(found, Context(), siblings=False).verdict for found in (before, after)]
    assert verdicts[0] is verdicts[1]
    assert [fact.slug for fact in after.findings] == []


SHARED = Storage(struct.pack("<16f", *range(16)))
HALF = weights(**{"linear.bias": Tensor((2,), 1.0, "float16")})
ODD: dict[str, bytes] = {
    "plain": saved(plain_checkpoint()),
    "ultralytics": saved(ultralytics_checkpoint()),
    "unknown classes": saved(
        plain_checkpoint(
            settings=module("my_project.models.Net", {"a": module("my_project.models.Block", weight=Tensor((2, 2)))}),
            seed=Called("my_project.util", "Seed", (1, "a")),
            options=Instance("my_project.util", "Options", {"a": [1, (2, 3)], "b": None}),
        )
    ),
    "shared storages": saved(
        plain_checkpoint(
            extra={
                "whole": Tensor((4, 4), SHARED),
                "row": Tensor((4,), SHARED, offset=4),
                "again": Tensor((4, 4), SHARED),
                "turned": Tensor((4, 4), SHARED, stride=(1, 4)),
            }
        )
    ),
    "no checksums": saved(plain_checkpoint(), crc=False),
    "packed": saved(plain_checkpoint(), deflated=True),
    "another folder": saved(plain_checkpoint(), folder="best of all é"),
    "half precision": saved(plain_checkpoint(model_state_dict=HALF)),
    "empty tensors": saved(plain_checkpoint(nothing=Tensor((0, 3)), scalar=Tensor((), 3, "int64"))),
}


@pytest.mark.parametrize("edited", [False, True], ids=["copied", "written"])
@pytest.mark.parametrize("case", ODD)
def test_checkpoint_comes_through_as_it_was(case: str, edited: bool) -> None:
    unchanged(*through(ODD[case], edited=edited))


@pytest.mark.parametrize("edited", [False, True], ids=["copied", "written"])
def test_pickle_is_copied_byte_for_byte_unless_something_is_edited(edited: bool) -> None:
    data = saved(plain_checkpoint())
    before, after = through(data, edited=edited)
    ours, theirs = (
        member_bytes(c.source, c.container.members["data.pkl"], 1 << 20) for c in (before, after) if c.container
    )
    assert (ours == theirs) is not edited


def test_members_nobody_refers_to_are_kept() -> None:
    extra = [Member("archive/notes.txt", b"mine"), Member("archive/data/99", b"12345678")]
    parts = read(BytesSource(saved(plain_checkpoint())))
    own = [Member(m.name, member_bytes(parts.source, m, 1 << 20)) for m in parts.members.values()]
    for edited in (False, True):
        _, after = through(zip_of(*own, *extra), edited=edited)
        assert after.container is not None
        kept = {n: member_bytes(after.source, after.container.members[n], 99) for n in ("notes.txt", "data/99")}
        assert kept == {"notes.txt": b"mine", "data/99": b"12345678"}


@pytest.mark.parametrize("root", [plain_checkpoint(), ultralytics_checkpoint(), plain_checkpoint(tiny=Tensor((0,)))])
def test_old_format_becomes_an_archive_with_the_same_tensors(root: Any) -> None:
    before, after = through(saved_legacy(root), edited=False)
    assert (before.kind.name, after.kind.name) == ("pickle", "zip")
    assert after.findings == []
    ours = verify_checkpoint(before, Context(), siblings=False)
    theirs = verify_checkpoint(after, Context(), siblings=False)
    assert ours.verdict is theirs.verdict is Verdict.RESUMABLE
    assert [(p.path, list(p.tensors)) for p in after.parts] == [(p.path, list(p.tensors)) for p in before.parts]


def test_root_folder_and_byte_order_stay_those_of_the_file() -> None:
    data = saved(plain_checkpoint(), folder="last").replace(b"little", b"big   ")  # no checksum is looked at here
    before = read_checkpoint(BytesSource(saved(plain_checkpoint(), folder="last")))
    after = draft(before, edited=True).checkpoint
    assert after.container is not None
    assert (after.container.root, after.container.byteorder) == ("last", "little")
    assert data != whole(after.source)


def test_storages_keep_their_order_and_lie_aligned() -> None:
    before, after = through(saved(ultralytics_checkpoint()), edited=True)
    assert before.container is not None
    assert after.container is not None
    assert after.container.storage_keys() == before.container.storage_keys()
    assert list(after.container.members)[:4] == ["data.pkl", ".format_version", ".storage_alignment", "byteorder"]
    assert all(held.offset % 64 == 0 for held in after.container.members.values())


# --- torch as the judge ---------------------------------------------------------------------------


def write_through(path: Path, new: Path, *, edited: bool) -> None:
    with open_checkpoint(path) as checkpoint:
        made = draft(checkpoint, edited=edited)
        apply_archive(made.archive, new, path, reads_back, close=lambda: None)


@pytest.mark.parametrize("edited", [False, True], ids=["copied", "written"])
@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_real_file_is_the_same_for_torch(path: Path, edited: bool, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from oracle.standins import bits, load, named_tensors

    new = tmp_path / path.name
    write_through(path, new, edited=edited)
    theirs, ours = dict(named_tensors(load(path))), dict(named_tensors(load(new)))
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        told = (tensor.dtype, tensor.shape, tensor.stride(), tensor.requires_grad)
        assert (ours[name].dtype, ours[name].shape, ours[name].stride(), ours[name].requires_grad) == told, name
        assert bits(ours[name]) == bits(tensor), name


@pytest.mark.parametrize("edited", [False, True], ids=["copied", "written"])
@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_every_tensor_member_of_a_real_file_is_byte_equal(path: Path, edited: bool, tmp_path: Path) -> None:
    new = tmp_path / path.name
    write_through(path, new, edited=edited)
    with open_checkpoint(path) as before, open_checkpoint(new) as after, zipfile.ZipFile(new) as found:
        assert found.testzip() is None
        assert after.findings == []
        if before.kind.name == "zip":
            assert storages(after) == storages(before)
        assert before.recognised is not None
        assert after.recognised is not None
        names = [{part.path: list(part.tensors) for part in checkpoint.parts} for checkpoint in (before, after)]
        assert names[0] == names[1]


@pytest.mark.parametrize("case", ODD)
def test_torch_reads_odd_files_as_before(case: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from oracle.standins import bits, load, named_tensors

    old, new = tmp_path / "old.pt", tmp_path / "new.pt"
    old.write_bytes(ODD[case])
    write_through(old, new, edited=True)
    theirs, ours = dict(named_tensors(load(old))), dict(named_tensors(load(new)))
    assert list(ours) == list(theirs)
    assert all(bits(ours[name]) == bits(tensor) for name, tensor in theirs.items())
    if case == "shared storages":
        loaded = torch.load(new, weights_only=True)["extra"]
        assert len({held.untyped_storage().data_ptr() for held in loaded.values()}) == 1
        assert loaded["whole"] is not loaded["again"]


def test_one_tensor_in_two_places_stays_one_for_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    old, new = tmp_path / "old.pt", tmp_path / "new.pt"
    held = torch.arange(3.0)
    torch.save({"model": {"tied": held, "weight": held}, "again": [held, (held, held[1:])]}, old)
    write_through(old, new, edited=True)
    loaded = torch.load(new, weights_only=True)
    assert loaded["model"]["tied"] is loaded["model"]["weight"] is loaded["again"][0] is loaded["again"][1][0]
    assert loaded["again"][1][1].untyped_storage().data_ptr() == loaded["model"]["tied"].untyped_storage().data_ptr()


def test_torch_checks_checksums_and_alignment_of_what_is_written(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    new = tmp_path / "new.pt"
    write_through(FIXTURES / "plain-loop.pt", new, edited=True)
    loaded = torch.load(new, weights_only=True, mmap=True)  # wants stored, aligned members
    again = torch.load(FIXTURES / "plain-loop.pt", weights_only=True)
    assert repr(loaded) == repr(again)


def test_written_module_keeps_its_layers() -> None:
    before, after = through(saved(OrderedDict(net=detector())), edited=True)
    names = [[(layer.name, layer.kind) for part in c.parts for layer in part.layers] for c in (before, after)]
    assert names[0] == names[1] != []


@pytest.mark.full
def test_real_file_beyond_four_gigabytes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    size = 4 * GIB + 64
    path, new = tmp_path / "last.pt", tmp_path / "new.pt"
    content = {"model": {"weight": Tensor((size // 2,), Storage(b"", "bfloat16"), numel=size // 2),
                         "small": Tensor((3,), 7.0)}}  # fmt: skip
    small = read_checkpoint(BytesSource(saved(content)))
    assert small.container is not None
    parts = [m for m in small.container.members.values() if not m.name.endswith("data/0")]
    members = [member(m.name, member_bytes(small.source, m, 1 << 20)) for m in parts]
    big = NewMember("archive/data/0", ZeroSource(size), zeros_crc(size))
    made = archive([*members, big], "last.pt")
    with open(path, "wb") as file:
        for stretch in made.stretches:
            if isinstance(stretch.source, ZeroSource):
                file.seek(stretch.source.size, io.SEEK_CUR)  # a hole
            else:
                file.write(whole(stretch.source))
    assert path.stat().st_size == made.size
    write_through(path, new, edited=True)
    with open_checkpoint(new) as after:
        assert after.findings == []
    loaded = torch.load(new, weights_only=True, mmap=True)["model"]
    assert loaded["small"].tolist() == [7.0] * 3
    assert loaded["weight"].shape == (size // 2,)
    assert loaded["weight"][-1] == 0


def zeros_crc(size: int) -> int:
    from isal.isal_zlib import crc32

    crc, block = 0, bytes(1 << 20)
    for _ in range(size >> 20):
        crc = crc32(block, crc)
    return int(crc32(bytes(size % (1 << 20)), crc))
