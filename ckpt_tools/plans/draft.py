"""A checkpoint on its way to being mended: its nodes can be changed, and what it would be can be read at any time.

A draft is never written to disk to be looked at: :meth:`Draft.read` puts the archive together as a source of
stretches of the files its bytes come from, and reads that like any other file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ckpt_tools.checkpoint import LEDGER, Checkpoint, read_checkpoint
from ckpt_tools.checks.content import scan_content
from ckpt_tools.checks.storages import OWN_MEMBERS
from ckpt_tools.container import Member, NewMember, archive, member_source
from ckpt_tools.findings import CkptError
from ckpt_tools.layouts import Recognised
from ckpt_tools.pickles import Persistent
from ckpt_tools.pickles.emit import EmitError, emit
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.edits import graph
from ckpt_tools.plans.holdings import Bytes, Holding, checksum
from ckpt_tools.source import BytesSource, JoinedSource
from ckpt_tools.tensors import StorageRef

__all__ = ["FRESH_ROOT", "Draft"]

# What torch writes beside the storages, in its order: in front of them, and behind them.
BEFORE = {".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"}
BEHIND = {"version": b"3\n"}
FRESH_ROOT = "archive"


@dataclass
class Draft:
    """The file to mend (``holding``), and what was changed so far.

    ``root`` is the graph to write; ``owners`` says whose bytes a grafted storage reference means, by its ``id``;
    ``made`` holds the bytes of storages made anew.
    """

    holding: Holding
    root: Node = None
    owners: dict[int, Holding] = field(default_factory=dict)
    made: dict[int, Bytes] = field(default_factory=dict)
    swaps: dict[int, Node] = field(default_factory=dict)
    alive: list[Node] = field(default_factory=list)
    edited: bool = False
    keep_corrupt: bool = False
    settled: bool = False  # it was read from what another draft would write
    bare: bool = False  # nothing but what torch needs is written, below a root without a name of its own

    def __post_init__(self) -> None:
        recognised = self.checkpoint.recognised
        if self.root is None and recognised is not None:
            self.root = recognised.root
        pickle = self.checkpoint.pickle
        if pickle is None or pickle.trouble is not None:
            self.edited = True

    @property
    def touched(self) -> bool:
        """Whether it may differ from what was read; a file as it was found does, by being no draft yet."""
        return not self.settled or self.edited or bool(self.swaps or self.made or self.owners)

    @property
    def checkpoint(self) -> Checkpoint:
        return self.holding.checkpoint

    @property
    def recognised(self) -> Recognised:
        assert self.checkpoint.recognised is not None
        return self.checkpoint.recognised

    def graft(self, node: Node, donor: Holding) -> Node:
        """``node`` of another file, with its storages to be read from there. Raises ``CkptError`` where it can't be."""
        ours, theirs = self.checkpoint.container, donor.checkpoint.container
        if ours is not None and theirs is not None and ours.byteorder != theirs.byteorder:
            raise CkptError(f"{donor.checkpoint.path.name} was written on a machine of the other byte order")
        for inside in graph(node):
            if isinstance(inside, Persistent):
                self.owners[id(inside)] = donor
        self.alive.append(node)
        self.edited = True
        return node

    def new_storage(self, node: Persistent, made: Bytes) -> None:
        """Give a storage reference bytes of its own; several that are given the same share them."""
        self.made[id(node)] = made
        self.alive.append(node)
        self.edited = True

    def read(self, name: str, extra: Mapping[str, bytes] = MappingProxyType({})) -> Draft:
        """What the file would be now, under that name, as a draft of its own; ``extra`` members lie below its root."""
        contents, peaks = self._contents(extra)
        made = read_checkpoint(archive(contents, name))
        unknown = {f"data/{key}" for key in made.storages.keys() - peaks.keys()}
        content = scan_content(made, only=unknown)
        content.peaks.update(peaks)
        content.checksums.update((member.name.split("/", 1)[1], member.crc) for member in contents)
        return Draft(Holding(made, content), keep_corrupt=self.keep_corrupt, settled=True)

    @property
    def archive(self) -> JoinedSource:
        """The bytes of a draft that was read."""
        assert isinstance(self.checkpoint.source, JoinedSource)
        return self.checkpoint.source

    def _contents(self, extra: Mapping[str, bytes]) -> tuple[list[NewMember], dict[str, int]]:
        storages = _Storages(self)
        pickle = self._pickle(storages)
        container = self.checkpoint.container
        zipped = container is not None and container.kind == "zip"
        root = (container.root if container is not None and zipped and not self.bare else "") or FRESH_ROOT
        own = {n: m for n, m in container.members.items() if not n.startswith("data/")} if container and zipped else {}
        drop = {"data.pkl", LEDGER, *extra, *(name for name in own if name.lower() == "data.pkl")}
        drop |= self.foreign_members() if self.bare else set()
        kept = {name: member for name, member in own.items() if name not in drop and self.sound(name, member)}
        order = "big" if container is not None and container.byteorder == "big" else "little"
        small = BEFORE | BEHIND | {"byteorder": order.encode()}

        def member(name: str) -> NewMember:
            if name in kept:
                return self._copied(root, name, kept[name])
            return _new(f"{root}/{name}", small[name])

        front = [name for name in BEFORE if name in kept or not kept.keys() & BEFORE.keys()]
        rest = [name for name in kept if name not in BEFORE and name not in BEHIND]
        contents = [_new(f"{root}/data.pkl", pickle), *map(member, front)]
        contents += [NewMember(f"{root}/data/{key}", b.source, b.crc) for key, b in storages.found.items()]
        contents += [*map(member, BEHIND), *map(member, rest)]
        contents += [_new(f"{root}/{name}", data) for name, data in extra.items()]
        return contents, {key: b.peak for key, b in storages.found.items() if b.peak is not None}

    def foreign_members(self) -> set[str]:
        """Members below the root that are neither torch's own nor a ledger, and storages nothing refers to."""
        container = self.checkpoint.container
        if container is None or container.kind != "zip":
            return set()
        held = {f"data/{key}" for key in self.checkpoint.storages}
        return {
            name
            for name in container.members
            if name not in held and name not in OWN_MEMBERS and name.lower() not in ("data.pkl", LEDGER)
        }

    def _pickle(self, storages: _Storages) -> bytes:
        container, pickle = self.checkpoint.container, self.checkpoint.pickle
        main = container.members.get("data.pkl") if container is not None and container.kind == "zip" else None
        if not self.edited and main is not None and container is not None and pickle is not None:
            owned = [(storage, storages.own(storage)) for storage, _ in self.checkpoint.storages.values()]
            if all(held is None or held.source.size == storage.nbytes for storage, held in owned):
                storages.orphans()
                source = member_source(container.source, main)
                return source.read(0, pickle.end)
        try:
            written = emit(self.root, storages.resolve, self.swaps)
        except EmitError as error:
            raise CkptError(f"{self.checkpoint.path.name} can't be written anew: {error}") from error
        storages.orphans()
        storages.sort()
        return written

    def sound(self, name: str, member: Member) -> bool:
        """Whether a member (``name`` below the root) is whole, and its bytes are what its checksum says."""
        return member.whole and self.holding.confirmed(name, member)

    def _copied(self, root: str, name: str, member: Member) -> NewMember:
        source = member_source(self.checkpoint.source, member)
        return NewMember(f"{root}/{name}", source, self.holding.content.checksums[name])


def _new(name: str, data: bytes) -> NewMember:
    source = BytesSource(data, name)
    return NewMember(name, source, checksum(source))


class _Storages:
    """The storages of an archive to be, by key: the file's own keep theirs, others get the next numbers."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.found: dict[str, Bytes] = {}
        self.named: dict[tuple[int, str, object], str] = {}
        container = draft.checkpoint.container
        self.zipped = container is not None and container.kind == "zip"
        taken = {*container.storage_keys(), *draft.checkpoint.storages} if container is not None and self.zipped else ()
        self.first = self.next = max((int(key) for key in taken if key.isdecimal() and len(key) < 9), default=-1) + 1

    def resolve(self, node: Persistent) -> Node:
        """The id to write for a reference to a storage; its bytes are noted on the way."""
        parts = node.id
        if not (isinstance(parts, tuple) and len(parts) >= 5 and parts[0] == "storage"):
            return parts
        kind, key, location, numel = parts[1:5]
        made = self.draft.made.get(id(node))
        if made is not None:
            new = self.number(made, (id(made), "", None))
            return ("storage", kind, new, location, numel)
        holding = self.draft.owners.get(id(node), self.draft.holding)
        window = parts[5] if len(parts) > 5 else None
        storage = _storage_of(holding, str(key), window)
        if storage is None:
            return parts
        if holding is self.draft.holding and self.zipped:
            held = self.own(storage)
            if held is None or held.source.size == storage.nbytes:
                return parts
            return ("storage", kind, key, location, held.source.size // storage.dtype.size)
        held = holding.storage(storage, self.draft.keep_corrupt)
        new = self.number(held, (id(holding), storage.key, window))
        if held is not None:
            numel = held.source.size // storage.dtype.size
        return ("storage", kind, new, location, numel)

    def number(self, held: Bytes | None, identity: tuple[int, str, object]) -> str:
        if identity not in self.named:
            self.named[identity] = str(self.next)
            self.next += 1
            if held is not None:
                self.found[self.named[identity]] = held
        return self.named[identity]

    def own(self, storage: StorageRef) -> Bytes | None:
        """The bytes of one of the file's own storages, noted under its key."""
        if storage.key not in self.found:
            held = self.draft.holding.storage(storage, self.draft.keep_corrupt)
            if held is not None:
                self.found[storage.key] = held
        return self.found.get(storage.key)

    def orphans(self) -> None:
        """Storages nobody referred to stay: what they are for is not ours to know."""
        container = self.draft.checkpoint.container
        if container is None or not self.zipped or self.draft.bare:
            return
        for key in container.storage_keys():
            member = container.members[f"data/{key}"]
            if (
                key not in self.found
                and key not in self.draft.checkpoint.storages
                and self.draft.sound(f"data/{key}", member)
            ):
                source = member_source(container.source, member)
                self.found[key] = Bytes(source, self.draft.holding.content.checksums[f"data/{key}"])

    def sort(self) -> None:
        """The file's own storages in the order of the file, then the others."""
        container = self.draft.checkpoint.container
        places = {key: container.members[f"data/{key}"].offset for key in container.storage_keys()} if container else {}
        order = sorted(
            self.found, key=lambda key: (key not in places, places.get(key, 0), int(key) if key.isdecimal() else 0)
        )
        self.found = {key: self.found[key] for key in order}


def _storage_of(holding: Holding, key: str, window: Node) -> StorageRef | None:
    held = holding.checkpoint.storages.get(key)
    if held is None:
        return None
    refs = [held[0], *(tensor.storage for tensor in held[1] if tensor.storage is not None)]
    return next((ref for ref in refs if ref.window == window), held[0])
