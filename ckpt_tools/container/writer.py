"""Archives as torch reads them, planned before a byte is written: an archive to be is a source like any other.

Every size and checksum is known beforehand, so the planned archive can be opened, verified and then copied out
as it stands. Layout as in ``caffe2/serialize/inline_container.cc`` (torch 2.14): members stored, their data aligned by
an extra field named ``FB``; sizes and checksums already in the local headers, so that even a cut file can be walked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import pack

from ckpt_tools.container import ziprecords as zr
from ckpt_tools.source import BytesSource, JoinedSource, Source, Stretch

__all__ = ["ALIGNMENT", "NewMember", "archive"]

ALIGNMENT = 64  # bytes; torch's own since 2.1
UTF8 = 0x0800
VERSION, VERSION64 = 20, 45  # of the format needed to read an entry: 4.5 for zip64
FIRST_DAY = 0x21  # 1 January 1980 as MS-DOS wrote it: the same input gives the same bytes


@dataclass(frozen=True)
class NewMember:
    """A member to be written: its full name, its bytes, and their CRC-32."""

    name: str
    data: Source
    crc: int


def archive(members: Iterable[NewMember], name: str, alignment: int = ALIGNMENT) -> JoinedSource:
    """The archive of ``members`` in their order, as a source called ``name``; zip64 records only where needed."""
    stretches: list[Stretch] = []
    entries = bytearray()
    place = count = 0
    for member in members:
        header = _local(member, place, alignment)
        entries += _central(member, place)
        stretches += [Stretch(BytesSource(header)), Stretch(member.data, member.crc, member.name)]
        place += len(header) + member.data.size
        count += 1
    end = b"".join(_end(count, len(entries), place))
    return JoinedSource([*stretches, Stretch(BytesSource(bytes(entries) + end))], name)


def _local(member: NewMember, place: int, alignment: int) -> bytes:
    name, size = member.name.encode("utf-8", "surrogateescape"), member.data.size
    wide = size >= zr.FULL32
    extra = pack("<HHQQ", 1, 16, size, size) if wide else b""
    shown = zr.FULL32 if wide else size
    room = -(place + zr.LOCAL_FIXED.size + len(name) + len(extra) + 4) % alignment
    extra += b"FB" + pack("<H", room) + b"Z" * room
    fixed = (zr.LOCAL, VERSION64 if wide else VERSION, UTF8, 0, 0, FIRST_DAY, member.crc, shown, shown)
    return zr.LOCAL_FIXED.pack(*fixed, len(name), len(extra)) + name + extra


def _central(member: NewMember, place: int) -> bytes:
    name, size = member.name.encode("utf-8", "surrogateescape"), member.data.size
    wide = [value for value in (size, size, place) if value >= zr.FULL32]
    extra = pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    shown, where = min(size, zr.FULL32), min(place, zr.FULL32)
    version = VERSION64 if wide else VERSION
    fixed = (zr.CENTRAL, version, version, UTF8, 0, 0, FIRST_DAY, member.crc, shown, shown)
    return zr.CENTRAL_FIXED.pack(*fixed, len(name), len(extra), 0, 0, 0, 0, where) + name + extra


def _end(count: int, length: int, place: int) -> Iterator[bytes]:
    if count >= zr.FULL16 or length >= zr.FULL32 or place >= zr.FULL32:
        version = (VERSION64, VERSION64, 0, 0)
        yield zr.END64_FIXED.pack(zr.END64, zr.END64_FIXED.size - 12, *version, count, count, length, place)
        yield zr.LOCATOR64_FIXED.pack(zr.LOCATOR64, 0, place + length, 1)
    small = min(count, zr.FULL16)
    yield zr.END_FIXED.pack(zr.END, 0, 0, small, small, min(length, zr.FULL32), min(place, zr.FULL32), 0)
