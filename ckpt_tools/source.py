"""Where bytes live: a file read by position, or bytes already in memory.

Files are never memory-mapped: mapped pages count as our memory, and a trainer that truncates its
``last.pt`` in place while we read would kill the process. Short reads are returned as they are; whoever
asked knows how many bytes it needed.
"""

from __future__ import annotations

import bisect
import io
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ckpt_tools.findings import CkptError, trouble

__all__ = [
    "BUFFER_SIZE",
    "BytesSource",
    "FileSource",
    "JoinedSource",
    "MadeSource",
    "ScratchSource",
    "Source",
    "Stretch",
    "WindowSource",
    "ZeroSource",
    "blocks",
    "open_source",
    "zero_tail",
]

NOT_REGULAR = "{} is not a regular file; copy its bytes into one first"
BUFFER_SIZE = 1 << 20  # bytes; one reused buffer of this size is all the memory tensor data ever takes


class Source(Protocol):
    """A run of bytes with a name and a size, readable at any position."""

    name: str
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """At most ``count`` bytes from ``offset``; fewer only where the source ends, none before its beginning."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset`` on and return how many bytes there were."""
        ...

    def changed(self) -> bool:
        """Whether the bytes may have changed since the source was opened."""
        ...


class BytesSource:
    """Bytes in memory, e.g. a checkpoint nested in another one."""

    def __init__(self, data: bytes, name: str = "<bytes>") -> None:
        self.name = name
        self.size = len(data)
        self._data = memoryview(data)

    def read(self, offset: int, count: int) -> bytes:
        return bytes(self._data[offset : offset + max(count, 0)]) if offset >= 0 else b""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        part = self._data[max(offset, 0) : max(offset, 0) + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def changed(self) -> bool:
        return False


class WindowSource:
    """A stretch of another source, e.g. a stored member that is an archive itself."""

    def __init__(self, outer: Source, offset: int, size: int, name: str) -> None:
        self.name = name
        self.size = max(0, min(size, outer.size - offset))
        self._outer = outer
        self._offset = offset

    def read(self, offset: int, count: int) -> bytes:
        return self._outer.read(self._offset + offset, max(0, min(count, self.size - offset))) if offset >= 0 else b""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        room = max(0, min(len(buffer), self.size - offset))
        return self._outer.read_into(self._offset + offset, buffer[:room])

    def changed(self) -> bool:
        return self._outer.changed()


class FileSource:
    """A regular file opened for reading; use it as a context manager or call :meth:`close`.

    Raises ``OSError``, and ``CkptError`` for what is no regular file once it is open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        # unbuffered; on Windows other programs may still replace the file
        self._file = io.FileIO(path, opener=_without_waiting)
        self._stat = os.fstat(self._file.fileno())
        if not stat.S_ISREG(self._stat.st_mode):  # something else took its place since we looked
            self._file.close()
            raise CkptError(NOT_REGULAR.format(path))
        self.size = self._stat.st_size
        self._lock = threading.Lock()  # only used where positional reads do not exist

    def read(self, offset: int, count: int) -> bytes:
        count = min(count, self.size - offset) if offset >= 0 else 0
        if count <= 0:
            return b""
        if count < BUFFER_SIZE and hasattr(os, "pread"):
            try:
                piece = os.pread(self._file.fileno(), count, offset)
            except OSError as error:
                raise self._named(error) from error
            if len(piece) == count:  # nearly always; a file server may give less
                return piece
        data = bytearray(count)
        got = self.read_into(offset, memoryview(data))
        return bytes(data[:got])

    def read_into(self, offset: int, buffer: memoryview) -> int:
        done = 0
        if not 0 <= offset < self.size:
            return 0  # also where an offset from the file is no number the system would take
        while done < len(buffer):
            try:
                got = self._read_once(offset + done, buffer[done:])
            except OSError as error:
                raise self._named(error) from error
            if got == 0:
                break
            done += got
        return done

    def _named(self, error: OSError) -> OSError:
        """The error with the file's name, which the system does not know of a file that is open."""
        return OSError(error.errno, error.strerror, self.name)

    def _read_once(self, offset: int, buffer: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [buffer], offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.readinto(buffer) or 0

    def changed(self) -> bool:
        """True when the open file or its path no longer has the size, time and identity it was opened with."""
        try:
            now, there = os.fstat(self._file.fileno()), os.stat(self.path)
        except OSError:
            return True
        before = (self._stat.st_size, self._stat.st_mtime_ns)
        same_file = (there.st_dev, there.st_ino) == (self._stat.st_dev, self._stat.st_ino)
        return (now.st_size, now.st_mtime_ns) != before or not same_file

    def fileno(self) -> int:
        """The system's number of the open file."""
        return self._file.fileno()

    @property
    def modified(self) -> float:
        """When the file was last written, in seconds since the epoch."""
        return self._stat.st_mtime

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ScratchSource(FileSource):
    """Bytes that are made one after the other, kept in a temporary file that goes when the source does."""

    def __init__(self, pieces: Iterable[bytes], name: str) -> None:
        import tempfile
        import weakref

        handle, path = tempfile.mkstemp(prefix="ckpt-")
        try:
            with open(handle, "wb") as file:
                file.writelines(pieces)
            super().__init__(Path(path))
        except BaseException:
            os.remove(path)
            raise
        self.name = name
        weakref.finalize(self, _remove, self._file, path)


@dataclass(frozen=True)
class Stretch:
    """A part of a joined source; ``crc`` is the CRC-32 its bytes must have, where that is known."""

    source: Source
    crc: int | None = None
    name: str = ""


class ZeroSource:
    """Zeros, where bytes were lost."""

    def __init__(self, size: int) -> None:
        self.name = "<zeros>"
        self.size = size

    def read(self, offset: int, count: int) -> bytes:
        return bytes(max(0, min(count, self.size - offset))) if offset >= 0 else b""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        count = max(0, min(len(buffer), self.size - offset))
        buffer[:count] = bytes(count)
        return count

    def changed(self) -> bool:
        return False


class JoinedSource:
    """Stretches of several sources, read as one."""

    def __init__(self, stretches: Sequence[Stretch], name: str) -> None:
        self.name = name
        self.stretches = [stretch for stretch in stretches if stretch.source.size]
        self._starts: list[int] = []
        self.size = 0
        for stretch in self.stretches:
            self._starts.append(self.size)
            self.size += stretch.source.size

    def read(self, offset: int, count: int) -> bytes:
        count = min(count, self.size - offset) if offset >= 0 else 0
        if count <= 0:
            return b""
        index = bisect.bisect_right(self._starts, offset) - 1
        within = offset - self._starts[index]
        if within + count <= self.stretches[index].source.size:
            return self.stretches[index].source.read(within, count)
        data = bytearray(count)
        return bytes(data[: self.read_into(offset, memoryview(data))])

    def read_into(self, offset: int, buffer: memoryview) -> int:
        done = 0
        if not 0 <= offset < self.size:
            return 0
        index = bisect.bisect_right(self._starts, offset) - 1
        while done < len(buffer) and index < len(self.stretches):
            source = self.stretches[index].source
            within = offset + done - self._starts[index]
            wanted = min(len(buffer) - done, source.size - within)
            got = source.read_into(within, buffer[done : done + wanted])
            done += got
            if got < wanted:
                break
            index += 1
        return done

    def places(self) -> Iterator[tuple[int, Stretch]]:
        """The stretches, each with where it begins."""
        return zip(self._starts, self.stretches)

    def within(self, offset: int, size: int) -> Source | None:
        """The source of the one stretch that is ``size`` bytes from ``offset``; ``None`` where there is no such."""
        index = bisect.bisect_right(self._starts, offset) - 1
        source = self.stretches[index].source if 0 <= index < len(self.stretches) else None
        return source if source is not None and self._starts[index] == offset and source.size == size else None

    def changed(self) -> bool:
        return any(stretch.source.changed() for stretch in self.stretches)


class MadeSource:
    """Bytes that are made anew whenever they are asked for; only those of the last one asked are kept."""

    _kept = threading.local()  # by every thread: they would take turns making each other's anew

    def __init__(self, size: int, make: Callable[[], bytes], name: str = "<made>") -> None:
        self.name = name
        self.size = size
        self._make = make

    def _all(self) -> memoryview:
        last: tuple[MadeSource, bytes] | None = getattr(MadeSource._kept, "last", None)
        if last is None or last[0] is not self:
            last = MadeSource._kept.last = (self, self._make())
        return memoryview(last[1])

    def read(self, offset: int, count: int) -> bytes:
        return bytes(self._all()[offset : offset + max(count, 0)]) if offset >= 0 else b""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        part = self._all()[max(offset, 0) : max(offset, 0) + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def changed(self) -> bool:
        return False


def _remove(file: io.FileIO, path: str) -> None:
    file.close()
    os.remove(path)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file that was a regular one a moment ago, and never wait for a pipe's writer or become a terminal's."""
    at_once = flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        return os.open(path, at_once)
    except BlockingIOError:  # a regular file on which e.g. a file server holds a lease: it is given back soon
        return os.open(path, flags)


def open_source(path: str | os.PathLike[str]) -> FileSource:
    """Open a regular file, and nothing that could block; raises ``CkptError`` saying why a path can't be opened."""
    where = Path(path if os.path.lexists(path) else os.path.expanduser(path))  # `~name` may be a file's own name
    try:
        mode = os.stat(where).st_mode  # before opening: opening a pipe would wait for its writer
        if stat.S_ISDIR(mode):
            raise CkptError(f"{where} is a folder, not a file; name a file in it")
        if not stat.S_ISREG(mode):
            raise CkptError(NOT_REGULAR.format(where))
        return FileSource(where)
    except FileNotFoundError:
        raise CkptError(f"{where} does not exist; check the path") from None
    except (OSError, ValueError) as error:
        raise CkptError(f"{where} can't be opened: {trouble(error)}") from error


def blocks(source: Source, offset: int, count: int, buffer: memoryview) -> Iterator[memoryview]:
    """The bytes from ``offset`` on, in pieces that all lie in ``buffer``; ends early where the source ends."""
    while count > 0:
        got = source.read_into(offset, buffer[: min(count, len(buffer))])
        if got == 0:
            return
        yield buffer[:got]
        offset += got
        count -= got


def zero_tail(source: Source) -> int:
    """How many bytes at the end of ``source`` are zero."""
    end = source.size
    while end > 0:
        start = max(0, end - BUFFER_SIZE)
        rest = source.read(start, end - start).rstrip(b"\0")
        if rest:
            return source.size - (start + len(rest))
        end = start
    return source.size
