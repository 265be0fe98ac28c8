"""Members of a container, and reading their bytes whole or in pieces."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from ckpt_tools.source import BUFFER_SIZE, BytesSource, JoinedSource, ScratchSource, Source, WindowSource, blocks

__all__ = [
    "DEFLATED",
    "MOST_UNPACKED",
    "STORED",
    "UNPACKED_RATIO",
    "Container",
    "Member",
    "MemberError",
    "inflate",
    "member_bytes",
    "member_pieces",
    "member_source",
]

STORED, DEFLATED = 0, 8
MOST_UNPACKED, UNPACKED_RATIO = 1 << 30, 100  # bytes, and times the file's size: beyond that it is a bomb


class MemberError(Exception):
    """A member's bytes can't be had: cut, badly compressed, or longer than allowed."""


@dataclass(slots=True)
class Member:
    """One member: ``size`` bytes (``stored`` of them in the file, from ``offset`` on).

    ``crc`` is the CRC-32 on record, ``None`` where the file records none (0 on a non-empty member).
    ``whole`` is false when the file ends, or turns to zeros, before the member does; ``size`` is then what is left.
    """

    name: str
    offset: int
    size: int
    stored: int
    crc: int | None = None
    method: int = STORED
    header: int = -1
    whole: bool = True


@dataclass
class Container:
    """What holds the checkpoint's pickles and storages.

    ``kind`` is ``zip``, ``legacy`` or ``pickle``; ``root`` the folder all members lie in. ``members`` maps names
    below the root. ``directory`` tells whether a central directory was found and believed.
    """

    kind: str
    source: Source
    root: str = ""
    members: dict[str, Member] = field(default_factory=dict)
    directory: bool = True
    byteorder: str = "little"
    alternatives: list[tuple[str, Member]] = field(default_factory=list)  # other readings of a name
    gaps: list[tuple[int, int]] = field(default_factory=list)  # stretches of the file no header accounts for
    _unpacked: tuple[str, Source] | None = None  # the packed storage that was read last

    def storage(self, key: str) -> Member | None:
        return self.members.get(f"data/{key}")

    def storage_source(self, key: str) -> Source:
        """The bytes of a storage; a packed one stays unpacked until another one is asked for.

        Raises ``KeyError`` where there is none, ``MemberError`` where its bytes can't be had.
        """
        member = self.storage(key)
        if member is None:
            raise KeyError(key)
        if member.method == STORED:
            return member_source(self.source, member)
        if self._unpacked is None or self._unpacked[0] != key:
            if member.size > MOST_UNPACKED + UNPACKED_RATIO * self.source.size:
                raise MemberError("unpacks to far more than the file's size")
            self._unpacked = (key, member_source(self.source, member))
        return self._unpacked[1]

    def storage_keys(self) -> list[str]:
        return [name[5:] for name in self.members if name.startswith("data/")]


def member_pieces(source: Source, member: Member, buffer: memoryview) -> Iterator[memoryview]:
    """The member's bytes in pieces no longer than ``buffer``; raises ``MemberError`` where they can't be had."""
    if member.method == STORED:
        yield from blocks(source, member.offset, member.size, buffer)
    elif member.method == DEFLATED:
        for piece in inflate(source, member):
            yield memoryview(piece)
    else:
        raise MemberError(f"is packed by compression method {member.method}, which torch does not read")


def inflate(source: Source, member: Member) -> Iterator[bytes]:
    """The decompressed bytes of a deflated member, never more than its recorded size."""
    engine = zlib.decompressobj(-15)
    place, left, produced = member.offset, member.stored, 0
    try:
        while left > 0 and not engine.eof:
            packed = source.read(place, min(left, BUFFER_SIZE // 4))
            if not packed:
                break
            place, left = place + len(packed), left - len(packed)
            while packed and not engine.eof:
                piece = engine.decompress(packed, BUFFER_SIZE)
                packed = engine.unconsumed_tail
                produced += len(piece)
                if produced > member.size:
                    raise MemberError(f"unpacks to more than the {member.size} bytes on record")
                if piece:
                    yield piece
        rest = engine.flush()  # at most one deflate match
        produced += len(rest)
        if rest and produced <= member.size:
            yield rest
    except zlib.error as error:
        raise MemberError(f"does not unpack: {error}") from None
    if produced < member.size:
        raise MemberError(f"unpacks to {produced} of {member.size} bytes")


def member_bytes(source: Source, member: Member, most: int) -> bytes:
    """All bytes of a member; raises ``MemberError`` when there are more than ``most`` or they can't be had."""
    if member.size > most:
        raise MemberError(f"is {member.size} bytes long, more than the {most} that are looked at")
    if member.method == STORED:
        return source.read(member.offset, member.size)
    whole = io.BytesIO()  # gives its bytes away without a copy
    for piece in member_pieces(source, member, memoryview(bytearray(1))):
        whole.write(piece)
    return whole.getvalue()


def member_source(source: Source, member: Member) -> Source:
    """The member's bytes as a source of their own; packed ones are unpacked, to a scratch file where they are many.

    Raises ``MemberError`` where they can't be had.
    """
    if member.method == STORED:
        whole = source.within(member.offset, member.size) if isinstance(source, JoinedSource) else None
        return whole or WindowSource(source, member.offset, member.size, member.name)
    if member.size <= BUFFER_SIZE:
        return BytesSource(member_bytes(source, member, BUFFER_SIZE), member.name)
    return ScratchSource(inflate(source, member), member.name)
