"""Where bytes live: positional reads that give what is there, and no more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckpt_tools.findings import CkptError
from ckpt_tools.source import BUFFER_SIZE, BytesSource, Source, WindowSource, blocks, open_source, zero_tail

DATA = bytes(range(256)) * 20


@pytest.fixture(params=["file", "bytes", "window"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """The same bytes in each kind of source."""
    if request.param == "file":
        (tmp_path / "data").write_bytes(DATA)
        return open_source(tmp_path / "data")
    if request.param == "bytes":
        return BytesSource(DATA)
    return WindowSource(BytesSource(b"before" + DATA + b"behind"), 6, len(DATA), "window")


@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, 10), (5, 0), (len(DATA) - 3, 10), (len(DATA), 5), (len(DATA) + 9, 5), (0, 1 << 40), (7, -1)],
)
def test_reads_what_is_there(source: Source, offset: int, count: int) -> None:
    assert source.size == len(DATA)
    assert source.read(offset, count) == DATA[offset : offset + max(count, 0)]


def test_reads_into_a_buffer_and_says_how_much(source: Source) -> None:
    buffer = bytearray(100)
    assert source.read_into(len(DATA) - 40, memoryview(buffer)) == 40
    assert bytes(buffer[:40]) == DATA[-40:]


def test_blocks_give_all_bytes_in_pieces_of_the_buffer(source: Source) -> None:
    pieces = [bytes(piece) for piece in blocks(source, 10, len(DATA), memoryview(bytearray(1000)))]
    assert b"".join(pieces) == DATA[10:]
    assert max(map(len, pieces)) <= 1000


def test_file_is_seen_to_change(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(DATA)
    with open_source(path) as source:
        assert not source.changed()
        path.write_bytes(DATA + b"more")
        assert source.changed()


def test_replaced_and_deleted_files_are_seen_to_change(tmp_path: Path) -> None:
    path, new = tmp_path / "last.pt", tmp_path / "new"
    path.write_bytes(DATA)
    new.write_bytes(DATA)
    with open_source(path) as source:
        os.replace(new, path)
        assert source.changed()
        assert source.read(0, 10) == DATA[:10], "the file that was opened is still the one read"
        path.unlink()
        assert source.changed()


def test_file_truncated_while_open_reads_short(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(DATA)
    with open_source(path) as source:
        os.truncate(path, 10)
        assert source.read(0, 100) == DATA[:10]
        assert source.changed()


@pytest.mark.parametrize(
    ("tail", "count"),
    [(b"", 0), (b"\0", 1), (bytes(100), 100), (bytes(3 * BUFFER_SIZE + 5), 3 * BUFFER_SIZE + 5)],
)
def test_zero_tail_counts_across_buffers(tail: bytes, count: int) -> None:
    assert zero_tail(BytesSource(b"x" + tail)) == count


def test_zero_tail_of_nothing_but_zeros_is_everything() -> None:
    assert zero_tail(BytesSource(bytes(1000))) == 1000


@pytest.mark.parametrize("name", ["", ".", "none.pt", "none/none.pt", "nul\0.pt"])
def test_what_can_not_be_opened_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(CkptError):
        open_source(str(tmp_path / name))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions stop no administrator")
def test_unreadable_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(DATA)
    path.chmod(0)
    with pytest.raises(CkptError, match="ermission"):
        open_source(path)
