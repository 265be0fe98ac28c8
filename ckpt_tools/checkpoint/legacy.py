"""The formats before zip archives: torch's stream of pickles and storages, the older tar, and plain pickles.

A stream is five pickles (magic number, protocol, system, the object, the storage keys) and then every storage as
an 8-byte element count and its bytes (``torch/serialization.py``, ``_legacy_save``, torch 2.14). Those are
little-endian on every machine (``THPStorage_writeFileRaw`` in ``torch/csrc/serialization.cpp``).
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from ckpt_tools.container import Container, Member
from ckpt_tools.findings import Sink, finding
from ckpt_tools.pickles import MOST_BYTES, MOST_OPCODES, TROUBLES, GlobalRef, Pickle, run
from ckpt_tools.policy import well_known
from ckpt_tools.source import Source
from ckpt_tools.tensors import StorageRef, TensorRef, resolve

__all__ = ["Stream", "read_stream", "read_tar"]

MAGIC = 0x1950A86A20F9469CFC6C
FIRST_WINDOW = 1 << 16
MOST_PICKLES = 64
MOST_STORAGES = 1_000_000


@dataclass
class Stream:
    """Pickles one behind the other: ``pickles[root]`` is the object; ``container`` has the storages as members."""

    container: Container
    pickles: list[tuple[str, Pickle]] = field(default_factory=list)
    root: int = 0
    legacy: bool = False

    @property
    def main(self) -> Pickle | None:
        return self.pickles[self.root][1] if self.root < len(self.pickles) else None


def next_pickle(source: Source, offset: int) -> Pickle:
    """The pickle at ``offset``, read through a window that grows until it is whole; ``end`` is absolute.

    A file may end earlier than its size was when it was opened.
    """
    window = FIRST_WINDOW
    while True:
        wanted = min(window, MOST_BYTES + 1)
        data = source.read(offset, wanted)
        pickle = run(data)
        cut = pickle.trouble is not None and pickle.trouble.kind == "cut"
        if not cut or len(data) < wanted or offset + len(data) >= source.size or len(data) > MOST_BYTES:
            pickle.end += offset
            if cut and len(data) > MOST_BYTES and pickle.trouble is not None:
                pickle.trouble.kind = "limit"
            return pickle
        window *= 4


def looks_like_pickle(pickle: Pickle, source: Source) -> bool:
    """Whether bytes without a known beginning may be a pickle.

    It is one when it ends where the bytes end or another pickle begins, when it calls something, or when it names
    something no text would name by chance.
    """
    if pickle.trouble is None and (pickle.root == MAGIC or source.read(pickle.end, 1) in (b"", b"\x80")):
        return True
    if any(call.target is None or _is_name(call.target) for call in pickle.calls):
        return True
    return any(_is_name(ref) and well_known(ref.module) for ref in pickle.globals)


def _is_name(ref: GlobalRef) -> bool:
    """Whether a module and a name are spelt as Python would."""
    return all(part.isidentifier() for part in f"{ref.module}.{ref.name}".split("."))


def read_stream(source: Source, sink: Sink) -> Stream:
    """Read consecutive pickles, and the storages behind them where it is torch's stream."""
    stream = Stream(Container("pickle", source))
    first = next_pickle(source, 0)
    stream.legacy = first.trouble is None and first.root == MAGIC
    stream.pickles.append(("magic" if stream.legacy else "pickle", first))
    if stream.legacy:
        stream.root, stream.container.kind = 3, "legacy"
    place = first.end
    names = ("magic", "protocol", "system", "data.pkl", "keys")
    while place < source.size and len(stream.pickles) < MOST_PICKLES and stream.pickles[-1][1].trouble is None:
        index = len(stream.pickles)
        if stream.legacy and index >= len(names):
            break
        if sum(pickle.opcodes for _, pickle in stream.pickles) > MOST_OPCODES:
            sink(
                finding(
                    "beyond-limits", f"byte {place}", where=f"pickle {index + 1}", why="too many opcodes", position=0
                )
            )
            return stream
        following = next_pickle(source, place)
        if not stream.legacy and not looks_like_pickle(following, source):
            break
        stream.pickles.append((names[index] if stream.legacy else f"pickle {index + 1}", following))
        place = following.end
    _report_pickles(stream, sink)
    if stream.legacy:
        place = _storages(stream, place, sink)
    if place < source.size and stream.pickles[-1][1].trouble is None:
        sink(finding("appended-bytes", f"byte {place}", count=source.size - place))
    return stream


def _report_pickles(stream: Stream, sink: Sink) -> None:
    for name, pickle in stream.pickles:
        trouble = pickle.trouble
        if trouble is not None:
            sink(finding(TROUBLES[trouble.kind], name, where=name, why=str(trouble), position=trouble.position))
    missing = 5 - len(stream.pickles)
    if stream.legacy and missing > 0 and all(pickle.trouble is None for _, pickle in stream.pickles):
        size = stream.container.source.size
        sink(finding("cut-short", f"byte {size}", inside=f"behind pickle {5 - missing} of 5", size=size))


def _storages(stream: Stream, place: int, sink: Sink) -> int:
    """Note each storage as a member ``data/<key>``; returns the first byte behind the last one."""
    source, main = stream.container.source, stream.main
    if len(stream.pickles) < 5 or main is None:
        return source.size
    keys = stream.pickles[4][1].root
    wanted = _by_key(resolve(main, legacy=True).tensors.values())
    if not isinstance(keys, list) or len(keys) > MOST_STORAGES or not all(isinstance(key, str) for key in keys):
        sink(finding("pickle-broken", "keys", where="keys", why="not a list of storage keys", position=place))
        return source.size
    for key in keys:
        count = source.read(place, 8)
        storage = wanted.get(key)
        size = int.from_bytes(count, "little") * (storage.dtype.size if storage else 1)
        left = max(0, source.size - place - 8)
        whole = len(count) == 8 and size <= left
        stream.container.members[f"data/{key}"] = Member(key, place + 8, min(size, left), min(size, left), whole=whole)
        if not whole:
            sink(finding("cut-short", f"byte {source.size}", inside=f"inside storage {key}", size=source.size))
            return source.size
        if storage is None:  # its element size is unknown, so nothing behind it can be placed
            sink(
                finding(
                    "pickle-broken", "keys", where="keys", why=f"storage {key} belongs to no tensor", position=place
                )
            )
            return source.size
        place += 8 + size
    return place


def _by_key(tensors: object) -> dict[str, StorageRef]:
    storages: dict[str, StorageRef] = {}
    for tensor in tensors:  # type: ignore[attr-defined]
        if isinstance(tensor, TensorRef) and tensor.storage is not None:
            storages.setdefault(tensor.storage.key, tensor.storage)
    return storages


class _Reader(io.RawIOBase):
    """A source as the file object the tar reader wants."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = max(0, (0, self._place, self._source.size)[whence] + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        count = self._source.size - self._place if size is None or size < 0 else size
        data = self._source.read(self._place, min(count, MOST_BYTES))
        self._place += len(data)
        return data


def read_tar(source: Source) -> list[tuple[str, Pickle]]:
    """The pickles of a tar archive: of torch < 0.1.10 (``sys_info pickle storages tensors``), or ``*.pkl``."""
    import tarfile

    found: list[tuple[str, Pickle]] = []
    try:
        with tarfile.open(fileobj=_Reader(source), mode="r:") as archive:
            for count, info in enumerate(archive):
                if count >= MOST_PICKLES:
                    break
                if info.isfile() and (
                    info.name in ("sys_info", "pickle", "storages", "tensors") or info.name.endswith(".pkl")
                ):
                    found.append((info.name, next_pickle(source, info.offset_data)))
    except (tarfile.TarError, OSError, ValueError, EOFError):
        pass  # what could be read of it is judged; the file is no checkpoint either way
    return found
