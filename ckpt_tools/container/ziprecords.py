"""The records of a zip archive, read one by one (PKWARE APPNOTE 6.3.10, sections 4.3.7 to 4.3.16)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct, unpack_from

from ckpt_tools.source import BUFFER_SIZE, Source

__all__ = [
    "CENTRAL",
    "DESCRIPTOR",
    "LOCAL",
    "Descriptor",
    "End",
    "Entry",
    "Local",
    "find_end",
    "parse_central",
    "parse_descriptor",
    "parse_local",
    "signatures",
]

LOCAL, CENTRAL, DESCRIPTOR, END = b"PK\3\4", b"PK\1\2", b"PK\7\x08", b"PK\5\6"
END64, LOCATOR64 = b"PK\6\6", b"PK\6\7"
LOCAL_FIXED = Struct("<4sHHHHHIIIHH")
CENTRAL_FIXED = Struct("<4sHHHHHHIIIHHHHHII")
END_FIXED = Struct("<4sHHHHIIH")
END64_FIXED = Struct("<4sQHHIIQQQQ")
LOCATOR64_FIXED = Struct("<4sIQI")
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
FOLDER = 0x10  # the directory bit of the external attributes
DEFERRED = 0x0008  # sizes and CRC follow the data in a descriptor
ODD_FLAGS = 0x0001 | 0x0020 | 0x0040 | 0x2000  # encrypted, patch data, strong encryption, masked headers
LONGEST_COMMENT = 0xFFFF


@dataclass(slots=True)
class Entry:
    """A member as the central directory describes it; ``header`` is where its local header should be."""

    name: bytes
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    header: int
    odd: bool = False  # said to lie on another disk, or to be a folder


@dataclass(slots=True)
class Local:
    """A member as its local header describes it; ``data`` is where its bytes begin."""

    name: bytes
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    data: int


@dataclass(slots=True)
class Descriptor:
    """CRC and sizes written behind a member's bytes; ``length`` is that of the record itself."""

    crc: int
    stored: int
    size: int
    length: int


@dataclass(slots=True)
class End:
    """The end of central directory record at ``position``; the directory has ``count`` entries.

    ``contradiction`` says what the end records say against each other, or is empty.
    """

    position: int
    count: int
    directory: int
    length: int
    after: int  # first byte behind the record and its comment
    records: int  # first byte of the end records (the zip64 one where there is one)
    contradiction: str = ""


def find_end(source: Source) -> End | None:
    """The last end record that fits into the file, or ``None``."""
    start = max(0, source.size - END_FIXED.size - LONGEST_COMMENT)
    tail = source.read(start, source.size - start)
    place = tail.rfind(END)
    while place >= 0:
        if place + END_FIXED.size <= len(tail):
            _, disk, first_disk, here, count, length, directory, comment = END_FIXED.unpack_from(tail, place)
            position = start + place
            end = End(position, count, directory, length, position + END_FIXED.size + comment, position)
            if here != count or disk not in (0, FULL16) or first_disk not in (0, FULL16):
                end.contradiction = "the end record counts disks or entries in two ways"
            return _with_zip64(source, end)
        place = tail.rfind(END, 0, place)
    return None


def _with_zip64(source: Source, end: End) -> End:
    """The same record with the 64-bit values, where the file holds them; torch writes them into every file."""
    locator = source.read(end.position - LOCATOR64_FIXED.size, LOCATOR64_FIXED.size)
    if len(locator) < LOCATOR64_FIXED.size or locator[:4] != LOCATOR64:
        return end
    _, first_disk, place, disks = LOCATOR64_FIXED.unpack(locator)
    record = source.read(place, END64_FIXED.size)
    end.records = end.position - LOCATOR64_FIXED.size
    if len(record) < END64_FIXED.size or record[:4] != END64:
        end.contradiction = "the zip64 end record is not where its locator says"
        return end
    _, size, _, _, disk, other_disk, here, count, length, directory = END64_FIXED.unpack(record)
    end.records = place
    small = (min(count, FULL16), min(length, FULL32), min(directory, FULL32))
    given = (end.count, end.length, end.directory)
    agree = all(ours == theirs or ours in (FULL16, FULL32) for ours, theirs in zip(given, small))
    whole = place + 12 + size == end.position - LOCATOR64_FIXED.size
    if not agree or not whole or here != count or any((first_disk, disk, other_disk)) or disks != 1:
        end.contradiction = "the zip64 end record and the end record differ"
    if not agree and end.count != FULL16 and FULL32 not in (end.length, end.directory):
        return end  # the plain record is complete; the directory is looked for where it says
    end.count, end.length, end.directory = count, length, directory
    return end


def parse_central(data: bytes, place: int) -> tuple[Entry, int] | None:
    """The directory entry at ``place`` and where the next one begins; ``None`` where there is no whole one."""
    if place + CENTRAL_FIXED.size > len(data) or data[place : place + 4] != CENTRAL:
        return None
    values = CENTRAL_FIXED.unpack_from(data, place)
    flags, method, crc, stored, size = values[3], values[4], values[7], values[8], values[9]
    name_length, extra_length, comment_length, header = values[10], values[11], values[12], values[16]
    name_start = place + CENTRAL_FIXED.size
    extra_start = name_start + name_length
    after = extra_start + extra_length + comment_length
    if after > len(data):
        return None
    if FULL32 in (size, stored, header):
        extra = data[extra_start : extra_start + extra_length]
        size, stored, header = _zip64_values(extra, (size, stored, header))
    name = data[name_start:extra_start]
    odd = values[13] != 0 or (bool(values[15] & FOLDER) and not name.endswith(b"/"))
    return Entry(name, flags, method, crc, stored, size, header, odd), after


def _zip64_values(extra: bytes, values: tuple[int, ...]) -> tuple[int, ...]:
    """``values`` with those that are all ones replaced, in order, from the zip64 extra field."""
    place = 0
    while place + 4 <= len(extra):
        kind, length = unpack_from("<HH", extra, place)
        if kind == 1:
            wide = [
                unpack_from("<Q", extra, at)[0] for at in range(place + 4, min(place + 4 + length, len(extra)) - 7, 8)
            ]
            return tuple(wide.pop(0) if value == FULL32 and wide else value for value in values)
        place += 4 + length
    return values


def parse_local(source: Source, position: int, header: bytes | None = None) -> Local | None:
    """The local header at ``position``, or ``None`` where there is none.

    ``header`` may hold bytes already read from there; more are read only where it is too short.
    """
    if header is None or len(header) < LOCAL_FIXED.size:
        header = source.read(position, LOCAL_FIXED.size + 512)
    if len(header) < LOCAL_FIXED.size or header[:4] != LOCAL:
        return None
    _, _, flags, method, _, _, crc, stored, size, name_length, extra_length = LOCAL_FIXED.unpack_from(header)
    wanted = LOCAL_FIXED.size + name_length
    wide = FULL32 in (stored, size)
    if wide:
        wanted += extra_length
    if len(header) < wanted:
        header = source.read(position, wanted)
    name = header[LOCAL_FIXED.size : LOCAL_FIXED.size + name_length]
    if wide:
        size, stored = _zip64_values(header[LOCAL_FIXED.size + name_length : wanted], (size, stored))
    return Local(name, flags, method, crc, stored, size, position + LOCAL_FIXED.size + name_length + extra_length)


def parse_descriptor(data: bytes, place: int, stored: int) -> Descriptor | None:
    """The descriptor at ``place`` of a member of ``stored`` bytes; ``None`` if none fits.

    Whether it is 32 or 64 bits wide follows the local header, not the size of the member; the form that makes sense
    is taken: the one whose sizes agree with each other, or that is followed by another header.
    """
    found: Descriptor | None = None
    for form, length in ("<III", 16), ("<IQQ", 24):
        if data[place : place + 4] == DESCRIPTOR and place + length <= len(data):
            crc, packed, size = unpack_from(form, data, place + 4)
            follows = data[place + length : place + length + 4] in (LOCAL, CENTRAL)
            if packed == stored and (size == stored or follows or found is None):
                found = Descriptor(crc, packed, size, length)
                if size == stored or follows:
                    return found
    return found


def signatures(source: Source, start: int, wanted: tuple[bytes, ...]) -> Iterator[int]:
    """Where, from ``start`` on, the four-byte ``wanted`` signatures stand, in order; each byte is read once."""
    place = start
    pattern = re.compile(b"|".join(map(re.escape, wanted)))  # twice as fast as looking for "PK" in random bytes
    while place < source.size:
        window = source.read(place, BUFFER_SIZE)
        yield from (place + found.start() for found in pattern.finditer(window))
        if len(window) < BUFFER_SIZE:  # the end, which may come earlier than it was when the file was opened
            return
        place += len(window) - 3  # a signature may go on in the next window
