"""Zip archives as torch writes them, read by one parser that reports what doesn't fit.

The central directory is what torch believes, so it is read first and held against the local headers and data
descriptors. Where it is missing, cut, zeroed or can't be parsed, the local headers are walked instead and what
is whole is kept (layout of the file: ``torch/csrc/../caffe2/serialize/inline_container.cc``, torch 2.14).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ckpt_tools.container import ziprecords as zr
from ckpt_tools.container.members import STORED, Container, Member
from ckpt_tools.findings import Sink, finding
from ckpt_tools.source import Source, zero_tail

__all__ = ["read_zip"]

MOST_DIRECTORY = 256 << 20  # bytes; a directory entry takes about 90
SMALLEST_TAIL = 16  # zero bytes at the end of a file that are no accident
MOST_MEMBERS = 1_000_000
MOST_CANDIDATES = 100_000  # signatures inside a member that could end it; real data has hardly any
LONGEST_GAP = 64  # bytes between two members that are read along with the next header
Gaps = list[tuple[int, int]]
DESCRIPTOR_LENGTHS = (0, 12, 16, 20, 24)


def read_zip(source: Source, sink: Sink) -> Container:
    """Read the archive's directory (not its data) and report everything that doesn't fit to ``sink``."""
    end = zr.find_end(source)
    entries, shift = _directory(source, end)
    if end is None or entries is None:
        return _arrange(source, _walk(source, sink, end), directory=False, sink=sink)
    gaps: Gaps = []
    container = _arrange(source, _checked(source, entries, shift, end, sink, gaps), directory=True, sink=sink)
    container.gaps = gaps
    return container


def _directory(source: Source, end: zr.End | None) -> tuple[list[zr.Entry] | None, int]:
    """All entries of the central directory and how far offsets are shifted by bytes put before the archive."""
    if end is None or end.length > MOST_DIRECTORY:
        return None, 0
    for start in (end.directory, end.records - end.length):
        data = source.read(start, end.length) if start >= 0 else b""
        entries = _entries(data, end)
        if entries is not None:
            return entries, start - end.directory
    return None, 0


def _entries(data: bytes, end: zr.End) -> list[zr.Entry] | None:
    """The entries in ``data``, or ``None`` unless exactly the recorded number fills it."""
    entries: list[zr.Entry] = []
    place = 0
    while place < len(data):
        parsed = zr.parse_central(data, place)
        if parsed is None:
            return None
        entries.append(parsed[0])
        place = parsed[1]
    counted = len(entries) if end.count != zr.FULL16 else zr.FULL16
    return entries if place == end.length and counted == end.count else None


def _checked(source: Source, entries: list[zr.Entry], shift: int, end: zr.End, sink: Sink, gaps: Gaps) -> list[Member]:
    """The members of the directory, each held against its local header and descriptor; ``gaps`` collects the rest."""
    place = 0  # first byte not yet accounted for
    before: tuple[zr.Entry, zr.Local] | None = None
    ordered: dict[int, Member] = {}
    for index in sorted(range(len(entries)), key=lambda index: entries[index].header):
        entry = entries[index]
        header = entry.header + shift
        gap = header - place
        reach = max(0, gap) if gap <= LONGEST_GAP else 0
        ahead = source.read(header - reach, reach + zr.LOCAL_FIXED.size + len(entry.name))
        local = zr.parse_local(source, header, ahead[reach:])
        if gap:
            _check_gap(place, gap, ahead, before, sink, gaps)
        ordered[index] = member = _member(entry, local, source, sink)
        place = max(place, member.offset + member.stored)
        before = (entry, local) if local is not None else None
    if end.contradiction:
        sink(finding("header-conflict", f"byte {end.records}", what=end.contradiction))
    behind = end.directory + shift + end.length
    if behind != end.records:
        sink(finding("stray-bytes", f"byte {behind}", count=abs(end.records - behind), place="behind the directory"))
    gap = end.directory + shift - place
    if gap:
        _check_gap(place, gap, source.read(place, max(0, min(gap, LONGEST_GAP))), before, sink, gaps)
    if source.size > end.after:
        sink(finding("appended-bytes", f"byte {end.after}", count=source.size - end.after))
        gaps.append((end.after, source.size))
    return [ordered[index] for index in range(len(entries))]


def _check_gap(
    place: int, gap: int, ahead: bytes, before: tuple[zr.Entry, zr.Local] | None, sink: Sink, gaps: Gaps
) -> None:
    """What lies between two members: a descriptor that agrees with the directory, or nothing."""
    if gap < 0:
        sink(finding("header-conflict", f"byte {place}", what="two members share bytes"))
    elif before is None or not before[1].flags & zr.DEFERRED or gap not in DESCRIPTOR_LENGTHS:
        where = "between two members" if place else "before the archive"
        sink(finding("stray-bytes", f"byte {place}", count=gap, place=where))
        gaps.append((place, place + gap))
    elif ahead[:4] == zr.DESCRIPTOR:
        entry = before[0]
        descriptor = zr.parse_descriptor(ahead, 0, entry.stored)
        if descriptor is None or (descriptor.crc, descriptor.size) != (entry.crc, entry.size):
            name = entry.name.decode("utf-8", "replace")
            sink(finding("header-conflict", name, what="its data descriptor and the directory differ"))
    elif gap in (16, 24):
        name = before[0].name.decode("utf-8", "replace")
        sink(finding("header-conflict", name, what="its data descriptor is overwritten"))


def _member(entry: zr.Entry, local: zr.Local | None, source: Source, sink: Sink) -> Member:
    """The member as the directory has it; the local header is only asked where the data begins."""
    name = entry.name.decode("utf-8", "replace")
    if local is None:
        sink(finding("header-conflict", name, what="there is no local header where the directory says"))
        guess = entry.header + zr.LOCAL_FIXED.size + len(entry.name)
        return Member(name, guess, entry.size, entry.stored, entry.crc or None, entry.method, entry.header, whole=False)
    if entry.odd:
        sink(finding("header-conflict", name, what="the directory calls it a folder or puts it on another disk"))
    conflict = _conflict(entry, local)
    if conflict:
        sink(finding("header-conflict", name, what=f"local header and directory give another {conflict}"))
    if (entry.flags | local.flags) & zr.ODD_FLAGS:
        sink(finding("odd-flags", name, flags=f"0x{entry.flags | local.flags:04x}"))
    left = max(0, source.size - local.data)
    member = Member(name, local.data, entry.size, entry.stored, _recorded(entry), entry.method, entry.header)
    if entry.stored > left or (entry.method == STORED and entry.size != entry.stored):
        sink(finding("header-conflict", name, what="its sizes can't be true"))
        member.stored = min(entry.stored, left)
        member.size = member.stored if entry.method == STORED else entry.size
        member.whole = False
    return member


def _recorded(record: zr.Entry | zr.Local | zr.Descriptor) -> int | None:
    """The checksum on record; 0 on bytes that are there means that none was computed."""
    return record.crc if record.crc or not record.size else None


def _conflict(entry: zr.Entry, local: zr.Local) -> str:
    """The first field in which the two headers differ, or an empty string."""
    if entry.name != local.name:
        return "name"
    if entry.method != local.method:
        return "compression method"
    deferred = bool(local.flags & zr.DEFERRED)
    for label, ours, theirs in (("size", local.size, entry.size), ("stored size", local.stored, entry.stored)):
        if ours != theirs and not (deferred and ours in (0, zr.FULL32)):
            return label
    if local.crc != entry.crc and not (deferred and local.crc == 0):
        return "checksum"
    return ""


def _walk(source: Source, sink: Sink, end: zr.End | None) -> list[Member]:
    """Members found by their local headers alone, up to the first byte that is none."""
    members: list[Member] = []
    place = 0
    while len(members) < MOST_MEMBERS:
        local = zr.parse_local(source, place)
        if local is None:
            break
        member, place = _walked(source, local, place)
        members.append(member)
        if not member.whole:
            place = next(zr.signatures(source, place, (zr.LOCAL,)), source.size)
    _report_loss(source, sink, members, place, end)
    return members


def _walked(source: Source, local: zr.Local, header: int) -> tuple[Member, int]:
    """The member behind a local header, and where the next header should be."""
    name = local.name.decode("utf-8", "replace")
    if local.flags & zr.DEFERRED and local.stored in (0, zr.FULL32):
        return _deferred(source, local, name, header)
    left = max(0, source.size - local.data)
    whole = local.stored <= left
    stored = min(local.stored, left)
    size = stored if local.method == STORED else local.size
    after = local.data + stored
    if local.flags & zr.DEFERRED:
        descriptor = zr.parse_descriptor(source.read(after, 28), 0, stored)
        after += descriptor.length if descriptor else 0
    return Member(name, local.data, size, stored, _recorded(local), local.method, header, whole), after


def _deferred(source: Source, local: zr.Local, name: str, header: int) -> tuple[Member, int]:
    """A member whose size follows it: look for the descriptor that fits, or the next header that is one."""
    root = local.name.split(b"/")[0] + b"/"
    candidates = zr.signatures(source, local.data, (zr.DESCRIPTOR, zr.LOCAL, zr.CENTRAL))
    for place in islice(candidates, MOST_CANDIDATES):
        stored = place - local.data
        descriptor = zr.parse_descriptor(source.read(place, 28), 0, stored)
        if descriptor is not None and (local.method != STORED or descriptor.size == stored):
            member = Member(name, local.data, descriptor.size, stored, _recorded(descriptor), local.method, header)
            return member, place + descriptor.length
        following = zr.parse_local(source, place)
        if following is not None and following.name.startswith(root):
            return Member(name, local.data, stored, stored, None, local.method, header, whole=False), place
    left = max(0, source.size - local.data)
    return Member(name, local.data, left, left, None, local.method, header, whole=False), source.size


def _report_loss(source: Source, sink: Sink, members: list[Member], place: int, end: zr.End | None) -> None:
    """Say why there was no directory to believe, and where the file stops making sense."""
    zeros = zero_tail(source)
    last = members[-1] if members else None
    if zeros >= SMALLEST_TAIL:
        sink(finding("zero-tail", f"byte {source.size - zeros}", count=zeros, size=source.size))
    elif end is None:
        inside = f"inside member {last.name}" if last is not None and not last.whole else "behind its last whole member"
        inside = "inside its directory" if source.read(place, 4) == zr.CENTRAL else inside
        sink(finding("cut-short", f"byte {source.size}", inside=inside, size=source.size))
    else:
        whole = sum(member.whole for member in members)
        sink(finding("directory-lost", f"byte {place}", whole=whole, members=len(members)))


def _arrange(source: Source, members: Iterable[Member], directory: bool, sink: Sink) -> Container:
    """Members by their name below the root folder, which is that of the first member (as torch has it)."""
    container = Container("zip", source, directory=directory)
    listed = [member for member in members if not member.name.endswith("/")]
    container.root = listed[0].name.split("/")[0] if listed and "/" in listed[0].name else ""
    prefix = container.root + "/" if container.root else ""
    seen: dict[str, str] = {}
    for member in listed:
        name = member.name[len(prefix) :] if member.name.startswith(prefix) else member.name
        known = seen.setdefault(name.lower(), name)  # torch looks names up without regard to case
        if known in container.members:
            sink(finding("duplicate-member", member.name))
            container.alternatives.append((known, member))
        else:
            container.members[name] = member
    return container
