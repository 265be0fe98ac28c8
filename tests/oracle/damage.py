"""Damage done to the bytes of a file. Every helper asserts that it changed something."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Harm = Callable[[bytes], bytes]
PAGE = b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>\n"


@dataclass(frozen=True)
class Extent:
    """Where a member's bytes lie in an archive."""

    name: str
    start: int
    size: int


def extents(data: bytes) -> Iterator[Extent]:
    """The members of an uncompressed archive that hold bytes, as the standard library sees them."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            names = data[member.header_offset + 26 : member.header_offset + 30]
            skip = int.from_bytes(names[:2], "little") + int.from_bytes(names[2:], "little")
            if member.file_size:
                yield Extent(member.filename, member.header_offset + 30 + skip, member.file_size)


def storages(data: bytes) -> list[Extent]:
    """The members that hold tensors."""
    return [extent for extent in extents(data) if "/data/" in extent.name]


def cut(data: bytes, at: int) -> bytes:
    """The first ``at`` bytes."""
    assert at < len(data)
    return data[:at]


def zero_from(data: bytes, at: int) -> bytes:
    """Zeros from a place on, as after a power cut."""
    harmed = data[:at] + bytes(len(data) - at)
    assert harmed != data
    return harmed


def flip(data: bytes, at: int, bit: int = 0) -> bytes:
    """One bit the other way."""
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def flip_in_largest(data: bytes) -> bytes:
    """The lowest bit of the first value of the largest storage: hardly a change, but one."""
    return flip(data, max(storages(data), key=lambda extent: extent.size).start)


def rewritten(data: bytes, skip: str = "") -> bytes:
    """The same archive written anew by the standard library, without the member whose name ends in ``skip``."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(made, "w") as copy:
        for member in archive.infolist():
            if not (skip and member.filename.endswith(skip)):
                copy.writestr(member.filename, archive.read(member))
        assert not skip or len(copy.namelist()) < len(archive.namelist())
    return made.getvalue()


def places(size: int, count: int, seed: int) -> list[int]:
    """Places spread over ``size`` bytes, both ends among them."""
    chance = random.Random(seed)
    step = size / count
    return sorted({0, size - 1, *(min(size - 1, int((index + chance.random()) * step)) for index in range(count))})


HARMS: dict[str, Harm] = {
    "cut at a third": lambda data: cut(data, len(data) // 3),
    "cut in the directory": lambda data: cut(data, len(data) - 30),
    "zeros from the middle on": lambda data: zero_from(data, len(data) // 2),
    "zeros in place of the last bytes": lambda data: zero_from(data, len(data) - 4000),
    "one bit flipped": flip_in_largest,
    "storage missing": lambda data: rewritten(data, skip="data/3"),
    "bytes appended": lambda data: data + b"\0" * 512,
    "emptied": lambda data: b"",
    "all zeros": lambda data: bytes(len(data)),
    "error page": lambda data: PAGE,
    "written anew": rewritten,
}
