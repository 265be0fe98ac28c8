"""Ways in which files get damaged. Each returns new bytes and makes sure that they differ from the old ones."""

from __future__ import annotations

import struct

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.container import Member


def changed(before: bytes, after: bytes) -> bytes:
    """``after``, once it is certain that something happened."""
    assert after != before, "the damage changed nothing"
    return after


def cut(data: bytes, length: int) -> bytes:
    """The first ``length`` bytes: the disk was full, or the process was killed."""
    return changed(data, data[:length])


def flip(data: bytes, place: int, bit: int = 0) -> bytes:
    """One bit the other way round."""
    return changed(data, data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])


def zero_tail(data: bytes, start: int) -> bytes:
    """Zeros from ``start`` on: a power cut after the length was written and before the bytes were."""
    return changed(data, data[:start] + bytes(len(data) - start))


def overwrite(data: bytes, place: int, new: bytes) -> bytes:
    return changed(data, data[:place] + new + data[place + len(new) :])


def directory_start(data: bytes) -> int:
    """Where the central directory of a zip archive begins."""
    start: int = struct.unpack_from("<I", data, data.rindex(b"PK\5\6") + 16)[0]
    return start


def lose_directory(data: bytes) -> bytes:
    """All members, and no list of them."""
    return cut(data, directory_start(data))


def zero_directory(data: bytes) -> bytes:
    """The list of members overwritten, the end record left as it was."""
    start, end = directory_start(data), data.rindex(b"PK\5\6")
    return overwrite(data, start, bytes(end - start))


def append(data: bytes, more: bytes) -> bytes:
    return changed(data, data + more)


def prefix(data: bytes, more: bytes) -> bytes:
    return changed(data, more + data)


def storage_member(checkpoint: Checkpoint, key: str = "0") -> Member:
    """A storage as it lies in the file."""
    assert checkpoint.container is not None
    member = checkpoint.container.storage(key)
    assert member is not None
    return member
