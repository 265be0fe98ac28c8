"""The one pass over all bytes: every member's checksum, and the largest magnitude in every storage.

Each byte is read once into one small buffer; checksum and values are taken from it while it is in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.checks.names import TensorNames, few
from ckpt_tools.container import MOST_UNPACKED, STORED, UNPACKED_RATIO, Container, Member, MemberError, member_pieces
from ckpt_tools.findings import Finding, finding
from ckpt_tools.source import BUFFER_SIZE
from ckpt_tools.tensors import Dtype, StorageRef, TensorRef

__all__ = ["Content", "check_checksums", "scan_content"]

READERS, MANY_READERS_FROM = 2, 128 << 20  # threads, and bytes of a file from which they pay
PIECE = BUFFER_SIZE  # bytes: smaller ones stay in the cache, but make two readers wait for each other


@dataclass
class Content:
    """What the pass saw: the members whose checksum is wrong or that can't be read, and a peak per storage key.

    ``checksums`` are by the member's name below the root, as computed from the bytes that are there.
    """

    wrong: list[Member] = field(default_factory=list)
    unreadable: list[tuple[Member, str]] = field(default_factory=list)
    unchecked: int = 0  # members without a checksum on record
    peaks: dict[str, int] = field(default_factory=dict)
    checksums: dict[str, int] = field(default_factory=dict)


def scan_content(
    checkpoint: Checkpoint, progress: Callable[[int], None] | None = None, only: Set[str] | None = None
) -> Content:
    """Read every member once, or those named in ``only``. Raises ``OSError`` only where the disk itself fails.

    Reading, checksums and magnitudes let other threads run meanwhile, so large files are read by two.
    """
    container, content = checkpoint.container, Content()
    if container is None:
        return content
    storages = checkpoint.storages
    work = [entry for entry in _work(checkpoint, container, content) if only is None or entry[0] in only]
    readers = READERS if sum(member.size for _, member in work) >= MANY_READERS_FROM else 1
    if readers == 1:
        _read_members(container, work, storages, content, progress)
        return content
    from concurrent.futures import ThreadPoolExecutor

    parts = [Content() for _ in range(readers)]
    with ThreadPoolExecutor(readers) as pool:
        jobs = [
            pool.submit(_read_members, container, work[number::readers], storages, part, progress)
            for number, part in enumerate(parts)
        ]
        for job in jobs:
            job.result()
    for part in parts:
        content.wrong += part.wrong
        content.unreadable += part.unreadable
        content.unchecked += part.unchecked
        content.peaks.update(part.peaks)
        content.checksums.update(part.checksums)
    return content


def _work(checkpoint: Checkpoint, container: Container, content: Content) -> list[tuple[str, Member]]:
    """The members to read, in the order of the file; what is no use to read is left out, and noted."""
    packed = sum(member.size for member in container.members.values() if member.method != STORED)
    too_much = packed > MOST_UNPACKED + UNPACKED_RATIO * checkpoint.source.size
    work: list[tuple[str, Member]] = []
    read_to = 0
    for name, member in sorted(container.members.items(), key=lambda item: item[1].offset):
        if member.offset < read_to:
            continue  # it shares bytes with another member, which the container has reported
        read_to = member.offset + member.stored
        if too_much and member.method != STORED:
            content.unreadable.append((member, "unpacks to far more than the file's size"))
        else:
            work.append((name, member))
    return work


def _read_members(
    container: Container,
    work: list[tuple[str, Member]],
    storages: dict[str, tuple[StorageRef, list[TensorRef]]],
    content: Content,
    progress: Callable[[int], None] | None,
) -> None:
    """Checksum and peak of each member, through one buffer."""
    from isal.isal_zlib import crc32

    from ckpt_tools.tensors.values import Magnitudes

    magnitudes, buffer = Magnitudes(PIECE), memoryview(bytearray(PIECE))
    swap = container.byteorder == "big"
    for name, member in work:
        dtype = _floating(storages.get(name[5:])) if name.startswith("data/") else None
        crc, peak = 0, 0
        try:
            for piece in member_pieces(container.source, member, buffer):
                crc = crc32(piece, crc)
                if dtype is not None:
                    peak = max(peak, magnitudes.peak(piece, dtype, swap))
        except MemberError as error:
            content.unreadable.append((member, str(error)))
            continue
        _note(content, name, member, crc, peak if dtype is not None else None)
        if progress is not None:
            progress(member.stored)


def _floating(held: tuple[StorageRef, list[TensorRef]] | None) -> Dtype | None:
    """The floating type of a storage, or, where it only counts bytes, that of the tensors in it."""
    if held is None:
        return None
    storage, tensors = held
    return storage.dtype if storage.dtype.word else next((t.dtype for t in tensors if t.dtype.word), None)


def _note(content: Content, name: str, member: Member, crc: int, peak: int | None) -> None:
    if member.crc is None:
        content.unchecked += bool(member.size)
    elif member.whole and crc != member.crc:
        content.wrong.append(member)
    content.checksums[name] = crc
    if peak is not None:
        content.peaks[name[5:]] = peak


def check_checksums(checkpoint: Checkpoint, content: Content) -> Iterator[Finding]:
    """Members whose bytes changed, with the tensors that lie in them."""
    names, storages = TensorNames(checkpoint), checkpoint.storages
    root = checkpoint.container.root + "/" if checkpoint.container and checkpoint.container.root else ""
    for member in content.wrong:
        inside = member.name[len(root) :] if member.name.startswith(root) else member.name
        held = storages.get(inside[5:]) if inside.startswith("data/") else None
        tensors = f" ({few(names.of(tensor) for tensor in held[1])})" if held else ""
        where = f"member {member.name}"
        yield finding("checksum-mismatch", where + tensors, where=where, tensors=tensors)
    for member, why in content.unreadable:
        yield finding("member-unreadable", member.name, where=member.name, why=why)
    container = checkpoint.container
    if container is not None and container.kind == "zip" and content.unchecked and container.directory:
        yield finding("no-checksums", count=content.unchecked, members=len(container.members))
