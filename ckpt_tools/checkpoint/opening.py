"""From a path to a checkpoint: container, pickles, tensors and layout, with what was found on the way."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ckpt_tools.checkpoint.legacy import Stream, looks_like_pickle, next_pickle, read_stream, read_tar
from ckpt_tools.container import (
    DEFLATED,
    STORED,
    Container,
    Kind,
    Member,
    MemberError,
    archive_kind,
    find_end,
    foreign,
    inflate,
    member_bytes,
    member_pieces,
    read_zip,
    sniff,
)
from ckpt_tools.findings import CkptError, Finding, Sink, Verdict, collect, finding, trouble
from ckpt_tools.layouts import Part, Recognised, recognise
from ckpt_tools.pickles import MOST_BYTES, GlobalRef, Persistent, Pickle, read_pickle, run
from ckpt_tools.policy import Judgement, Tier, judge_pickle, package_of
from ckpt_tools.source import BUFFER_SIZE, BytesSource, FileSource, Source, WindowSource, open_source, zero_tail
from ckpt_tools.tensors import Misbuilt, StorageRef, TensorRef, resolve
from ckpt_tools.tensors.modules import bound_to, is_module

__all__ = ["CHECKPOINT_NAMES", "SAFETENSORS", "Checkpoint", "open_checkpoint", "read_checkpoint", "split_name"]

CHECKPOINT_NAMES = (".pt", ".pth", ".ckpt", ".pt.tar", ".pth.tar")  # how files of checkpoints end; timm's in .tar
SAFETENSORS = ".safetensors"  # what such files end in; they are read by conversions alone
OTHER_NAMES = (".bin", ".pkl", ".model")  # which not every such file is a checkpoint of

DEEPEST_NEST = 3  # checkpoints inside checkpoints inside checkpoints
MOST_NESTED = 20_000  # pickles judged per file beside the main one; a pickled module has one per storage
SCRIPT_MEMBERS = ("constants.pkl", "code/")  # torch.load hands an archive with these to TorchScript
MOST_UNPACKED = 64 << 20  # bytes of a packed pickle: torch packs none, and what zip tools packed is not that large
PEEK = 4096  # bytes of a packed member looked at first
MOST_MEMBERS = 1000  # members beside the storages looked into
PICKLE_SUFFIXES = (".pkl", ".pickle")
PLAIN = (str, int, float, type(None))


@dataclass
class Checkpoint:
    """One file, read as far as it could be.

    ``findings`` holds what reading met. ``tensors`` and ``misbuilt`` are by the ``id`` of their call node.
    ``recognised`` is ``None`` where there is no object to recognise a layout in (foreign or wholly unreadable files).
    """

    source: Source
    kind: Kind
    findings: list[Finding] = field(default_factory=list)
    container: Container | None = None
    pickle: Pickle | None = None
    pickles: list[tuple[str, Pickle]] = field(default_factory=list)  # every pickle in the file, by place
    judgements: list[tuple[str, Judgement]] = field(default_factory=list)
    tensors: dict[int, TensorRef] = field(default_factory=dict)
    misbuilt: dict[int, Misbuilt] = field(default_factory=dict)  # calls that should rebuild a tensor and can't
    recognised: Recognised | None = None
    unpacked: int = 0  # bytes of packed members that were looked into

    @property
    def path(self) -> Path:
        return Path(self.source.name)

    @property
    def parts(self) -> list[Part]:
        return self.recognised.parts if self.recognised else []

    @functools.cached_property
    def storages(self) -> dict[str, tuple[StorageRef, list[TensorRef]]]:
        """The storages by key, each with the tensors that lie in it."""
        found: dict[str, tuple[StorageRef, list[TensorRef]]] = {}
        for tensor in self.tensors.values():
            if tensor.storage is not None:
                found.setdefault(tensor.storage.key, (tensor.storage, []))[1].append(tensor)
        return found

    @functools.cached_property
    def packages(self) -> frozenset[str]:
        """The top-level packages the file's pickles name: what loading would import."""
        return frozenset(package_of(ref.module) for _, pickle in self.pickles for ref in pickle.globals)

    def changed(self) -> bool:
        """Whether the file was written to since it was opened."""
        return self.source.changed()

    def close(self) -> None:
        if isinstance(self.source, FileSource):
            self.source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def split_name(name: str) -> tuple[str, str]:
    """``last`` and ``.pt`` of ``last.pt``, ``last`` and ``.pth.tar`` of ``last.pth.tar``; others have no suffix."""
    known = (*CHECKPOINT_NAMES, *OTHER_NAMES)
    suffix = max((suffix for suffix in known if name.lower().endswith(suffix)), key=len, default="")
    return (name[: -len(suffix)], name[-len(suffix) :]) if suffix else (name, "")


def open_checkpoint(path: str | os.PathLike[str], *, strict: bool = False) -> Checkpoint:
    """Open and read a checkpoint file without executing anything in it.

    Raises ``CkptError`` when the path can't be opened, and with ``strict`` also where the file is damaged,
    unsafe or no checkpoint (``StrictReadError``); otherwise everything met is in ``findings``.
    """
    source = open_source(path)
    try:
        return read_checkpoint(source, strict=strict)
    except OSError as error:
        source.close()
        raise CkptError(f"{source.name} can't be read: {trouble(error)}") from error
    except BaseException:
        source.close()
        raise


def read_checkpoint(source: Source, *, strict: bool = False) -> Checkpoint:
    """The same for a source that is already open."""
    from ckpt_tools.findings import strict as raise_at_once

    kind = sniff(source)
    checkpoint = Checkpoint(source, kind)
    found, note = collect()
    checkpoint.findings = found

    def sink(fact: Finding) -> None:
        note(fact)
        if strict:
            raise_at_once(fact)

    READERS.get(kind.name, _foreign)(checkpoint, sink)
    _judge(checkpoint, sink)
    if checkpoint.pickle is not None and not foreign(checkpoint.kind):
        whole = checkpoint.pickle.trouble is None or checkpoint.pickle.root is not None
        root = checkpoint.pickle.root if whole else _salvaged(checkpoint.pickle)
        root = _without_methods(root, sink)
        legacy = checkpoint.container is not None and checkpoint.container.kind == "legacy"
        resolved = resolve(checkpoint.pickle, legacy)
        checkpoint.tensors, checkpoint.misbuilt = resolved.tensors, resolved.misbuilt
        scalar = functools.partial(_scalar, checkpoint.tensors, checkpoint.container)
        checkpoint.recognised = recognise(root, checkpoint.tensors, checkpoint.pickle.globals, scalar)
        _no_checkpoint(checkpoint, sink)
    return checkpoint


def _without_methods(root: object, sink: Sink) -> object:
    """The root with every method of a model that was saved instead of its result replaced by that model."""
    if bound_to(root) is not None:
        sink(finding("saved-method", names="the object itself"))
        return bound_to(root)
    entries = root if isinstance(root, dict) else {}
    methods = [key for key, value in entries.items() if isinstance(key, str) and bound_to(value) is not None]
    if not methods:
        return root
    sink(finding("saved-method", methods[0], names=", ".join(methods)))
    owners = {key: bound_to(entries[key]) for key in methods}
    return {key: owners[key] if is_module(owners.get(key)) else value for key, value in entries.items()}


def _scalar(tensors: dict[int, TensorRef], container: Container | None, node: object) -> object:
    """The number a tensor without dimensions holds; any other node as it is."""
    tensor = tensors.get(id(node))
    if tensor is None or tensor.storage is None or tensor.shape or container is None:
        return node
    member = container.storage(tensor.storage.key)
    if (
        member is None
        or member.method != STORED
        or not tensor.dtype.name.startswith(("int", "uint", "float32", "float64"))
    ):
        return None
    size = tensor.dtype.size
    raw = container.source.read(member.offset + tensor.offset * size, size)
    order: Literal["big", "little"] = "big" if container.byteorder == "big" else "little"
    if len(raw) < size:
        return None
    if tensor.dtype.floating:
        return struct.unpack((">" if order == "big" else "<") + ("f" if size == 4 else "d"), raw)[0]
    return int.from_bytes(raw, order, signed=tensor.dtype.name.startswith("int"))


def _salvaged(pickle: Pickle) -> object:
    """The outermost mapping of a pickle that was cut, with the values that were whole when it ended."""
    place = next((index for index, node in enumerate(pickle.rest) if isinstance(node, dict)), None)
    if place is None:
        return None
    keyed = dict(pickle.rest[place])
    inner = [mark for mark in pickle.marks if mark > place + 1]
    waiting = pickle.rest[place + 1 : inner[0] if inner else None]
    for index in range(0, len(waiting) - 1, 2):
        key, value = waiting[index : index + 2]
        following = waiting[index + 2 : index + 3]
        open_ended = not following and (inner or not isinstance(value, PLAIN))  # more of it was to come
        if not isinstance(key, str) or isinstance(value, (GlobalRef, Persistent)) or open_ended:
            break
        if following and not isinstance(following[0], str):
            break
        keyed[key] = value
    return keyed


def _empty(checkpoint: Checkpoint, sink: Sink) -> None:
    sink(finding("empty-file"))


def _zeros(checkpoint: Checkpoint, sink: Sink) -> None:
    sink(finding("all-zeros", count=zero_tail(checkpoint.source), size=checkpoint.source.size))


def _zip(checkpoint: Checkpoint, sink: Sink) -> None:
    container = checkpoint.container = read_zip(checkpoint.source, sink)
    main = _main_member(container)
    script = any(not name.startswith("data/") and name.startswith(SCRIPT_MEMBERS) for name in container.members)
    if main is None or script:
        kind = archive_kind(container.members)
        torn = _torn(container) and (kind.name == "zip-archive" or bool(checkpoint.findings))
        if torn or (kind.name == "zip-archive" and not container.directory):
            sink(finding("member-missing", "data.pkl", member="data.pkl"))
        else:
            checkpoint.kind = kind
            sink(finding("not-a-checkpoint", what=kind.what, remedy=kind.do))
    elif container.directory and (not container.root or "version" not in container.members):
        lacking = "folder its members lie in" if not container.root else "member version"
        sink(finding("not-loadable", lacking=lacking))
    if main is not None:
        if main.method not in (STORED, DEFLATED):
            sink(finding("pickle-packed", main.name, where=main.name, method=main.method))
        data = _member_data(container, main, sink)
        checkpoint.pickle = read_pickle(data, sink)
        checkpoint.pickles.append(("data.pkl", checkpoint.pickle))
        _behind_stop(checkpoint, data, sink)
    _small_members(container, sink)
    _other_pickles(checkpoint, main, sink)
    _around(checkpoint, container)


def _version(data: bytes) -> bool:
    """C's ``stoull`` (caffe2/serialize/inline_container.cc): leading blanks and a sign count, what follows does not."""
    return re.match(rb"[ \t-\r]*\+?0*([1-9]|10)(?![0-9])", data) is not None


def _whole_number(data: bytes) -> bool:
    try:
        int(data)
    except ValueError:
        return False
    return True


def _utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


BYTEORDERS = (b"little", b"big")
# What torch 2.14 accepts in the members it reads besides the storages; any ``.format_version`` will do.
CONTENTS: dict[str, tuple[Callable[[bytes], bool], str]] = {
    "version": (_version, "a number from 1 to 10"),
    "byteorder": (BYTEORDERS.__contains__, "little or big"),
    ".storage_alignment": (_whole_number, "a whole number"),
    ".data/serialization_id": (_utf8, "text in UTF-8"),
}
MOST_SMALL = 1 << 16  # bytes of such a member


def _small_members(container: Container, sink: Sink) -> None:
    """Note the order of bytes, and report what stops torch before it reads the object graph."""
    for name, (accepts, wanted) in CONTENTS.items():
        member = container.members.get(name)
        if member is None or not member.whole or member.method not in (STORED, DEFLATED):
            continue
        data = _member_data(container, member, sink) if member.size <= MOST_SMALL else b""
        if member.size > MOST_SMALL or not accepts(data):
            what = ascii(data[:20])[1:] if member.size <= MOST_SMALL else f"{member.size} bytes"
            sink(finding("member-refused", member.name, where=member.name, what=what, wanted=wanted))
        elif name == "byteorder":
            container.byteorder = data.decode()


def _around(checkpoint: Checkpoint, container: Container) -> None:
    """Bytes before, between or behind the members may hold pickles for another reader: judge them, too."""
    for start, end in container.gaps:
        _nested_source(checkpoint, WindowSource(container.source, start, end - start, f"bytes from {start} on"), 1)


def _behind_stop(checkpoint: Checkpoint, data: bytes, sink: Sink) -> None:
    """Bytes in ``data.pkl`` behind the end of its pickle: nobody reads them, so nobody wrote them in good faith."""
    pickle = checkpoint.pickle
    if pickle is not None and pickle.trouble is None and pickle.end < len(data):
        sink(finding("appended-bytes", "data.pkl", count=len(data) - pickle.end))
        _nested_source(checkpoint, BytesSource(data[pickle.end :], "data.pkl behind its end"), 1)


def _main_member(container: Container) -> Member | None:
    """``data.pkl`` below the root; torch finds it without regard to case."""
    return next((member for name, member in container.members.items() if name.lower() == "data.pkl"), None)


def _torn(container: Container) -> bool:
    """Whether an archive without ``data.pkl`` is one torch began: it has storages or torch's own small members."""
    signs = re.compile(r"(^|/)(data/\d+|version|\.format_version|byteorder)$")
    return not container.members or any(signs.search(name) for name in container.members)


def _member_data(container: Container, member: Member, sink: Sink) -> bytes:
    most = MOST_BYTES if member.method == STORED else MOST_UNPACKED
    try:
        return member_bytes(container.source, member, most)
    except MemberError as error:
        slug = "beyond-limits" if member.size > most else "member-unreadable"
        sink(finding(slug, member.name, where=member.name, why=str(error), position=0))
        return b""


def _unpacked(checkpoint: Checkpoint, container: Container, member: Member, name: str, sink: Sink) -> Source:
    """The bytes of a packed member; nothing where it goes beyond what is unpacked of a file for its pickles."""
    checkpoint.unpacked += member.size
    if member.size > MOST_UNPACKED or checkpoint.unpacked > MOST_BYTES:
        sink(finding("beyond-limits", name, where=name, why="more is packed than is looked into", position=0))
        return BytesSource(b"", name)
    return BytesSource(_member_data(container, member, _ignore), name)


def _other_pickles(checkpoint: Checkpoint, main: Member | None, sink: Sink) -> None:
    """Read every pickle beside ``data.pkl``, whatever its member is called, and those of nested checkpoints."""
    container = checkpoint.container
    assert container is not None
    beside = [(name, member) for name, member in container.members.items() if not name.startswith("data/")]
    for name, member in [*beside, *container.alternatives][:MOST_MEMBERS]:
        if member is main or len(checkpoint.pickles) > MOST_NESTED:
            continue
        if member.method not in (STORED, DEFLATED):
            sink(finding("pickle-packed", member.name, where=member.name, method=member.method))
        elif member.method == STORED:
            window = WindowSource(container.source, member.offset, member.size, name)
            _nested_source(checkpoint, window, 1)
        elif _may_hold_pickle(container, member):
            _nested_source(checkpoint, _unpacked(checkpoint, container, member, name, sink), 1)
    left = MOST_BYTES
    for name, member in container.alternatives:
        first = container.members.get(name)
        if first is None or not name.lower().endswith(PICKLE_SUFFIXES):
            continue
        left -= first.size + member.size
        if left < 0:  # thousands of them may stand for the same few bytes
            sink(finding("beyond-limits", name, where=name, why="too much under names that stand twice", position=0))
            break
        if _differ(container, first, member):
            sink(finding("two-readings", name))


def _may_hold_pickle(container: Container, member: Member) -> bool:
    """Whether the first bytes of a packed member are those of an archive or a pickle; the rest stays packed."""
    try:
        head = next(inflate(container.source, member), b"")[:PEEK]
    except MemberError:
        return False
    return head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or looks_like_pickle(
        run(head), BytesSource(head)
    )


def _differ(container: Container, first: Member, second: Member) -> bool:
    """Two members of one name: a reader may see either, so they must say the same."""
    return _digest(container, first) != _digest(container, second)


def _digest(container: Container, member: Member) -> bytes:
    """A hash of a member's bytes; nothing where they can't be had."""
    found = hashlib.blake2b()
    try:
        for piece in member_pieces(container.source, member, memoryview(bytearray(BUFFER_SIZE))):
            found.update(piece)
    except MemberError:
        return b""
    return found.digest()


def _nested_source(checkpoint: Checkpoint, inner: Source, depth: int) -> None:
    """Collect the pickles of a checkpoint that lies inside this one, to judge them (damage in it is its affair)."""
    if depth > DEEPEST_NEST or inner.size == 0 or len(checkpoint.pickles) > MOST_NESTED:
        return
    kind = sniff(inner)
    if kind.name == "zip":
        _nested_archive(checkpoint, inner, f"{inner.name}!", depth)
        return
    start = _npy_header(inner) if kind.name == "npy" else 0
    stream = read_stream(WindowSource(inner, start, inner.size - start, inner.name), _ignore)
    if kind.name == "pickle" or looks_like_pickle(stream.pickles[0][1], stream.container.source):
        checkpoint.pickles.extend((inner.name, pickle) for _, pickle in stream.pickles)


def _nested_archive(checkpoint: Checkpoint, source: Source, prefix: str, depth: int) -> None:
    """Collect the pickles of every member of an archive that is not the checkpoint's own container."""
    container = read_zip(source, _ignore)
    for name, member in [*container.members.items(), *container.alternatives][:MOST_MEMBERS]:
        if name.startswith("data/"):
            continue
        if member.method == STORED:
            inner: Source = WindowSource(source, member.offset, member.size, prefix + name)
        else:
            inner = _unpacked(checkpoint, container, member, prefix + name, _ignore)
        _nested_source(checkpoint, inner, depth + 1)


def _ignore(fact: Finding) -> None:
    """The sink for what lies inside a file: only danger in it counts, and that is judged, not reported."""


def _npy_header(source: Source) -> int:
    """Where the data of a ``.npy`` file begin: object arrays are a pickle there (numpy.lib.format, versions 1 to 3)."""
    width = 2 if source.read(6, 1) == b"\1" else 4
    return 8 + width + int.from_bytes(source.read(8, width), "little")


def _stream(checkpoint: Checkpoint, sink: Sink) -> None:
    stream: Stream = read_stream(checkpoint.source, sink)
    checkpoint.container = stream.container
    checkpoint.pickles.extend(stream.pickles)
    checkpoint.pickle = stream.main if stream.legacy else stream.pickles[0][1]
    if not stream.legacy:
        _archive_behind(checkpoint)


def _maybe_stream(checkpoint: Checkpoint, sink: Sink) -> None:
    """Bytes without a known beginning: an old pickle protocol has none."""
    first = next_pickle(checkpoint.source, 0)
    if looks_like_pickle(first, checkpoint.source):
        checkpoint.kind = Kind("pickle")
        _stream(checkpoint, sink)
    else:
        _foreign(checkpoint, sink)


def _tar(checkpoint: Checkpoint, sink: Sink) -> None:
    checkpoint.pickles.extend(read_tar(checkpoint.source))
    first = next_pickle(checkpoint.source, 0)
    if looks_like_pickle(first, checkpoint.source):  # a stream of pickles as well, for readers that ask for no tar
        checkpoint.pickles.extend(read_stream(checkpoint.source, _ignore).pickles)
    if {name for name, _ in checkpoint.pickles} & {"sys_info", "storages"}:
        checkpoint.kind = Kind(
            "legacy-tar", "a tar checkpoint of torch < 0.1.10", "load and save it again with torch 1.x to 2.x"
        )
    _foreign(checkpoint, sink)


def _archive_behind(checkpoint: Checkpoint) -> None:
    """A zip archive at the end of another kind of file: zip readers start from the end and would open it."""
    end = find_end(checkpoint.source)
    if end is not None and end.count and end.records - end.length >= 0:
        _nested_archive(checkpoint, checkpoint.source, "", 0)


def _foreign(checkpoint: Checkpoint, sink: Sink) -> None:
    _archive_behind(checkpoint)
    if checkpoint.kind.name == "npy":
        _nested_source(checkpoint, checkpoint.source, 1)
    sink(finding("not-a-checkpoint", what=checkpoint.kind.what, remedy=checkpoint.kind.do))


READERS: dict[str, Callable[[Checkpoint, Sink], None]] = {
    "empty": _empty,
    "zeros": _zeros,
    "zip": _zip,
    "pickle": _stream,
    "tar": _tar,
    **dict.fromkeys(
        ("unknown", "text", "yaml", "image", "json", "onnx", "safetensors", "html", "program", "git-lfs-pointer"),
        _maybe_stream,
    ),
}


def _judge(checkpoint: Checkpoint, sink: Sink) -> None:
    """Hold every pickle of the file against the policy."""
    waiting = [(place, pickle, 0) for place, pickle in checkpoint.pickles]
    while waiting:
        place, pickle, depth = waiting.pop(0)
        judgements, nested = judge_pickle(pickle)
        checkpoint.judgements.extend((place, judgement) for judgement in judgements)
        for data in nested:
            if depth >= DEEPEST_NEST or len(checkpoint.pickles) > MOST_NESTED:
                sink(finding("beyond-limits", place, where=place, why="checkpoints nested too deep", position=0))
                break
            before = len(checkpoint.pickles)
            _nested_source(checkpoint, BytesSource(data, f"{place} bytes"), depth + 1)
            waiting.extend((inner, found, depth + 1) for inner, found in checkpoint.pickles[before:])
    for place, judgement in checkpoint.judgements:
        if judgement.tier is Tier.DANGEROUS:
            where = f"{place} at byte {judgement.position}"
            sink(finding("dangerous-call", where, what=judgement.what, why=judgement.why))


def packages_named(checkpoint: Checkpoint, tier: Tier) -> dict[str, list[str]]:
    """Packages of the names of one tier, with those names: what loading would import."""
    found: dict[str, list[str]] = {}
    for _, judgement in checkpoint.judgements:
        if judgement.tier is tier:
            name = judgement.what.split("(", 1)[0]
            names = found.setdefault(package_of(name), [])
            if name not in names:
                names.append(name)
    return found


def _no_checkpoint(checkpoint: Checkpoint, sink: Sink) -> None:
    """A pickle in which there are no tensors is no checkpoint, unless it is merely cut."""
    recognised = checkpoint.recognised
    damaged = any(fact.verdict in (Verdict.DAMAGED, Verdict.UNSAFE) for fact in checkpoint.findings)
    if recognised is None or damaged or recognised.layout.name != "none":
        return
    checkpoint.kind = Kind("pickle-without-tensors", "a pickle without tensors", "check the path")
    sink(finding("not-a-checkpoint", what=checkpoint.kind.what, remedy=checkpoint.kind.do))
