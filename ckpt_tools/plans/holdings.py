"""Whose bytes are whole: the storages of a file and what became of them, for a file to mend and for its donors."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.checks.content import Content
from ckpt_tools.container import Member, MemberError, member_source
from ckpt_tools.findings import CkptError, Verdict
from ckpt_tools.layouts import Part
from ckpt_tools.source import BUFFER_SIZE, JoinedSource, Source, Stretch, WindowSource, ZeroSource, blocks, zero_tail
from ckpt_tools.tensors import StorageRef, TensorRef

__all__ = ["Bytes", "Holding", "checksum"]

MOST_MADE_UP = 64 << 30  # bytes of zeros in place of what is lost
# Bytes; where torch puts a member's data, and how long what follows it may be: caffe2/serialize/inline_container.cc
LOCAL_HEADER, ALIGNMENT, DESCRIPTOR = 30, 64, 24


@dataclass(frozen=True)
class Bytes:
    """The bytes of one storage, their CRC-32, and the largest magnitude among their values where that is known."""

    source: Source
    crc: int
    peak: int | None = None


@dataclass
class Holding:
    """An opened checkpoint with what the pass over its bytes saw.

    ``hit`` are the tensors (by the ``id`` of their call) whose bytes are missing or changed.
    """

    checkpoint: Checkpoint
    content: Content
    unpacked: dict[str, Source] = field(default_factory=dict)
    moved: dict[str, Member | None] = field(default_factory=dict)  # storages found elsewhere than their header says

    @functools.cached_property
    def wrong(self) -> frozenset[str]:
        """Members whose checksum is wrong or that can't be unpacked, by their full name."""
        return frozenset(m.name for m in (*self.content.wrong, *(member for member, _ in self.content.unreadable)))

    @functools.cached_property
    def broken(self) -> bool:
        """Whether the file as a whole is not as written: a zip without its directory, a stream that ends early."""
        container = self.checkpoint.container
        if container is None or container.kind == "zip":
            return container is not None and not container.directory
        return any(fact.verdict is Verdict.DAMAGED for fact in self.checkpoint.findings)

    @functools.cached_property
    def sound_end(self) -> int:
        """Where in the file the bytes stop being what was written: at its end, or where it turns to zeros.

        In a stream whose storages stop making sense, the one before is not to be trusted either.
        """
        source, container = self.checkpoint.source, self.checkpoint.container
        end = source.size - (zero_tail(source) if self.broken else 0)
        slugs = {fact.slug for fact in self.checkpoint.findings}
        if self.broken and container is not None and container.kind == "legacy" and "pickle-broken" in slugs:
            return min([end, *(member.offset for member in list(container.members.values())[-1:])])
        return end

    @functools.cached_property
    def hit(self) -> frozenset[int]:
        return frozenset(
            id(tensor.call)
            for storage, tensors in self.checkpoint.storages.values()
            for tensor in self._hit_in(storage, tensors)
        )

    def _hit_in(self, storage: StorageRef, tensors: Iterable[TensorRef]) -> list[TensorRef]:
        member = self._member(storage.key)
        found = self.moved.get(storage.key)
        if member is None or (found is not member and not self.confirmed(f"data/{storage.key}", member)):
            return [tensor for tensor in tensors if tensor.numel]
        left = self._sound(member, storage.nbytes)
        return [tensor for tensor in tensors if _end(tensor) > left]

    def _member(self, key: str) -> Member | None:
        container = self.checkpoint.container
        member = container.storage(key) if container is not None else None
        if member is None or (member.whole and self.confirmed(f"data/{key}", member)):
            return member
        if key not in self.moved:
            self.moved[key] = self._elsewhere(member)
        return self.moved[key] or member

    def confirmed(self, name: str, member: Member) -> bool:
        """Whether the pass read the member, and found what its checksum says; one that shares bytes is not read."""
        return name in self.content.checksums and member.name not in self.wrong

    def _elsewhere(self, member: Member) -> Member | None:
        """A member whose header is lost or lies about its length: where torch puts its data, if the CRC agrees."""
        container = self.checkpoint.container
        if container is None or container.kind != "zip" or not container.directory or member.crc is None:
            return None
        behind = member.header + LOCAL_HEADER + len(member.name.encode("utf-8", "surrogateescape"))
        for offset in (behind + 4 + -(behind + 4) % ALIGNMENT, behind):
            found = replace(member, offset=offset, whole=True)
            window = WindowSource(container.source, offset, member.stored, member.name)
            if member.method == 0 and window.size == member.size and checksum(window) == member.crc:
                return found
        return None

    def _sound(self, member: Member, size: int) -> int:
        """How many of a member's first ``size`` bytes are what was written; of a cut one, those before the cut."""
        container = self.checkpoint.container
        if container is None or (member.whole and not self.broken):
            return member.size
        if container.kind == "legacy":  # without checksums: up to where the stream stops making sense
            return max(0, min(member.size, self.sound_end - member.offset))
        if member.whole:
            return member.size
        last = max(other.offset for other in container.members.values())
        cut = self.sound_end < member.offset + size + DESCRIPTOR
        if container.directory or member.offset != last or not cut:
            return 0
        return max(0, min(member.size, self.sound_end - member.offset))

    def hit_in(self, part: Part) -> list[str]:
        """The names of the part's tensors that are hit."""
        return [name for name, tensor in part.tensors.items() if id(tensor.call) in self.hit]

    @property
    def intact(self) -> bool:
        return not self.hit

    def storage(self, storage: StorageRef, keep_corrupt: bool = False) -> Bytes | None:
        """The bytes of a storage; ``None`` where a tensor in it is hit.

        What is missing is made up by zeros as far as a tensor lies in it. What is claimed beyond that and is not
        there, no tensor sees: then there are fewer bytes than the storage claims.
        """
        held = self.checkpoint.storages.get(storage.key)
        member = self._member(storage.key)
        tensors = held[1] if held else []
        hit = any(id(tensor.call) in self.hit for tensor in tensors)
        seen = self._seen(storage, tensors)
        if (hit and not keep_corrupt) or (member is None and seen and not keep_corrupt):
            return None
        if member is None:
            return _joined(seen, None)
        name = f"data/{storage.key}"
        try:
            source = self.unpacked.get(name) or member_source(self.checkpoint.source, member)
        except MemberError:
            return _joined(seen, None) if keep_corrupt else None
        if member.method:
            self.unpacked[name] = source
        if storage.window is not None:
            _, first, count = storage.window
            size = storage.dtype.size
            source = WindowSource(source, first * size, count * size, name)
            if source.size < seen:
                return _joined(seen, source)
            return Bytes(source, checksum(source), self.content.peaks.get(storage.key))
        if not member.whole or member.size < storage.nbytes:
            left = min(self._sound(member, storage.nbytes), storage.nbytes)
            left -= left % storage.dtype.size
            return _joined(max(seen, left), WindowSource(source, 0, left, name))
        if member.size % storage.dtype.size:  # no number of elements takes so many bytes
            source = WindowSource(source, 0, member.size - member.size % storage.dtype.size, name)
            return Bytes(source, checksum(source))
        if self.moved.get(storage.key) is not None:
            return Bytes(source, member.crc or 0)
        crc = self.content.checksums.get(name)
        return Bytes(source, checksum(source) if crc is None else crc, self.content.peaks.get(storage.key))

    def _seen(self, storage: StorageRef, tensors: Iterable[TensorRef]) -> int:
        """How many of a storage's bytes lie before the end of the last tensor in it, in whole elements."""
        window = storage.window
        inside = (sum(t.span) * t.dtype.size for t in tensors if t.storage is not None and t.storage.window == window)
        return -(-max(inside, default=0) // storage.dtype.size) * storage.dtype.size


def _end(tensor: TensorRef) -> int:
    """The first byte behind a tensor, in the member its storage lies in."""
    window = tensor.storage.window if tensor.storage is not None else None
    shift = window[1] if window is not None and tensor.numel else 0
    return (shift + sum(tensor.span)) * tensor.dtype.size


def _joined(size: int, there: Source | None) -> Bytes:
    """What is there of a storage, and zeros behind it; its largest magnitude is left to be found."""
    first = there.size if there is not None else 0
    if size - first > MOST_MADE_UP:
        raise CkptError(f"{size - first} bytes of one tensor are missing, too many to make up by zeros")
    parts = [Stretch(there)] if there is not None else []
    source = JoinedSource([*parts, Stretch(ZeroSource(size - first))], "salvaged")
    return Bytes(source, checksum(source))


def checksum(source: Source) -> int:
    """The CRC-32 of all bytes of a source."""
    from isal.isal_zlib import crc32

    crc = 0
    for piece in blocks(source, 0, source.size, memoryview(bytearray(BUFFER_SIZE))):
        crc = crc32(piece, crc)
    return crc
