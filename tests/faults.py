"""A disk that fails: every call that touches files below a folder is counted, and one of them goes wrong.

Calls are taken where Python makes them (``os``, ``open``, ``io.FileIO``, entries of ``os.scandir``), so that whatever
the package or a library of its does with a file passes here. Nothing is patched for files elsewhere.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["CALLS", "ERRORS", "Call", "Disk", "Fault", "broken", "changed", "short"]

PACKAGE = str(Path(__file__).parent.parent / "ckpt_tools")
LOOK, OPEN, READ, WRITE, CHANGE = "look", "open", "read", "write", "change"
# What each call of ``os`` does; those whose first argument is a path or a descriptor.
CALLS = {
    LOOK: ("stat", "lstat", "fstat", "listdir", "readlink", "statvfs"),
    READ: ("read", "pread", "preadv", "readv"),
    WRITE: ("write", "pwrite", "pwritev", "sendfile", "copy_file_range", "ftruncate", "truncate"),
    CHANGE: ("fsync", "replace", "rename", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "chmod", "utime"),
}  # fmt: skip
# Calls on a descriptor: their errors name no file.
UNNAMED = (*CALLS[READ], *CALLS[WRITE], "fstat", "fsync", "readinto", "readall")
# The errors a system gives there.
ERRORS = {
    LOOK: (errno.EIO, errno.EACCES, errno.ENOENT, errno.ESTALE),
    OPEN: (errno.EIO, errno.EACCES, errno.ENOENT, errno.ESTALE, errno.EMFILE),
    READ: (errno.EIO, errno.ESTALE),
    WRITE: (errno.ENOSPC, errno.EIO),
    CHANGE: (errno.EIO, errno.EACCES, errno.EROFS, errno.ENOSPC),
}


@dataclass(frozen=True)
class Call:
    """A call that was made: what it does, its name, and the path below the folder."""

    kind: str
    name: str
    path: str
    place: tuple[tuple[str, int], ...] = ()  # the lines of the package it was made from

    @property
    def line(self) -> str:
        """Where in the package it was made."""
        return " < ".join(f"{Path(file).name}:{line}" for file, line in self.place[:4])


@dataclass(frozen=True)
class Fault:
    """What goes wrong at a call. ``strike`` is asked before the call and may raise or change files.

    With ``half`` a call that moves bytes moves half of them.
    """

    name: str
    kinds: tuple[str, ...]
    strike: Callable[[Disk, Call], None] = lambda disk, call: None
    half: bool = False
    sticky: bool = False  # every later call of these kinds fails, too

    def fits(self, call: Call) -> bool:
        return call.kind in self.kinds


def _raise(number: int) -> Callable[[Disk, Call], None]:
    def strike(disk: Disk, call: Call) -> None:
        if call.name in UNNAMED:
            raise OSError(number, os.strerror(number))
        raise OSError(number, os.strerror(number), str(disk.root / call.path))

    return strike


def broken(number: int, *kinds: str, sticky: bool = False) -> Fault:
    """The call fails with an error of the system."""
    fitting = kinds or tuple(kind for kind, numbers in ERRORS.items() if number in numbers)
    return Fault(
        f"{errno.errorcode[number]}{' from then on' if sticky else ''}", fitting, _raise(number), sticky=sticky
    )


def short() -> Fault:
    """Fewer bytes are moved than were asked for."""
    return Fault("short", (READ, WRITE), half=True)


def changed(name: str, change: Callable[[Path, Path], None]) -> Fault:
    """Somebody else changes files just before a call; ``change`` gets the folder and the path the call is about."""

    def strike(disk: Disk, call: Call) -> None:
        with disk.asleep():
            change(disk.root, disk.root / call.path)
            disk.after(disk.root)

    return Fault(name, (LOOK, OPEN, READ, WRITE, CHANGE), strike)


@dataclass
class Disk:
    """Counts the calls below ``root`` while it is entered; at number ``at`` (from 0) lets ``fault`` happen."""

    root: Path
    fault: Fault | None = None
    at: int = -1
    calls: list[Call] = field(default_factory=list)
    after: Callable[[Path], None] = lambda root: None  # called when files were changed
    _awake: bool = False
    _descriptors: dict[int, str] = field(default_factory=dict)
    _real: dict[tuple[Any, str], Any] = field(default_factory=dict)

    @property
    def struck(self) -> Call | None:
        """The call at which the fault happened."""
        return self.calls[self.at] if 0 <= self.at < len(self.calls) else None

    def asleep(self) -> _Asleep:
        """Leave what is done inside alone."""
        return _Asleep(self)

    def __enter__(self) -> Disk:
        self.root = Path(os.path.realpath(self.root))
        for kind, names in CALLS.items():
            for name in names:
                if hasattr(os, name):
                    self._patch(os, name, self._wrapped(kind, name, getattr(os, name)))
        self._patch(os, "open", self._opening(os.open))
        self._patch(os, "close", self._closing(os.close))
        self._patch(os, "scandir", self._scanning(os.scandir))
        for place in (builtins, io):
            self._patch(place, "open", self._stream)
        self._patch(io, "FileIO", self._file_class())
        self._awake = True
        return self

    def __exit__(self, *_: object) -> None:
        self._awake = False
        for (place, name), real in self._real.items():
            setattr(place, name, real)
        self._real.clear()

    def _patch(self, place: Any, name: str, value: Any) -> None:
        self._real[place, name] = getattr(place, name)
        setattr(place, name, value)

    def below(self, target: Any) -> str | None:
        """The path below the folder that a path or descriptor means; ``None`` for all others."""
        if not self._awake:
            return None
        if isinstance(target, int):
            return self._descriptors.get(target)
        try:
            path = os.path.abspath(os.fsdecode(target))
        except (TypeError, ValueError):
            return None
        root = str(self.root)
        return os.path.relpath(path, root) if path == root or path.startswith(root + os.sep) else None

    def strike(self, kind: str, name: str, path: str | None) -> bool:
        """Count a call; raises or changes files where it is the one; whether only half of the bytes are to be moved."""
        if path is None:
            return False
        call = Call(kind, name, path, _place())
        self.calls.append(call)
        number, fault = len(self.calls) - 1, self.fault
        if fault is None or self.at < 0 or number < self.at or (number > self.at and not fault.sticky):
            return False
        if not fault.fits(call):
            return False
        fault.strike(self, call)
        return fault.half

    def _wrapped(self, kind: str, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any = ".", *arguments: Any, **options: Any) -> Any:
            half = self.strike(kind, name, self.below(target))
            if half and arguments and isinstance(arguments[0], int) and kind == READ:  # read, pread
                arguments = (max(1, arguments[0] // 2), *arguments[1:])
            elif half and arguments and kind == READ:  # preadv, readv
                first = memoryview(arguments[0][0])
                arguments = ([first[: max(1, len(first) // 2)]], *arguments[1:])
            elif half and arguments and isinstance(arguments[0], (bytes, bytearray, memoryview)):
                arguments = (memoryview(arguments[0])[: max(1, len(arguments[0]) // 2)], *arguments[1:])
            return real(target, *arguments, **options)

        return call

    def _opening(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, *arguments: Any, **options: Any) -> int:
            place = self.below(path)
            self.strike(OPEN, "open", place)
            handle = real(path, *arguments, **options)
            self._note(handle, place)
            return handle

        return call

    def _closing(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def call(handle: int) -> None:
            self._descriptors.pop(handle, None)
            real(handle)

        return call

    def _note(self, handle: int, place: str | None) -> None:
        self._descriptors.pop(handle, None)
        if place is not None:
            self._descriptors[handle] = place

    def _scanning(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".") -> Any:
            self.strike(LOOK, "scandir", self.below(path))
            return _Entries(self, real(path))

        return call

    def _file_class(self) -> type[io.FileIO]:
        disk = self

        class File(io.FileIO):
            def __init__(self, file: Any, mode: str = "r", closefd: bool = True, opener: Any = None) -> None:
                self.place = disk.below(file)
                if not isinstance(file, int):
                    disk.strike(OPEN, "open", self.place)
                super().__init__(file, mode, closefd, opener)
                disk._note(self.fileno(), self.place)

            def readinto(self, buffer: Any) -> int | None:
                half = disk.strike(READ, "readinto", self.place)
                view = memoryview(buffer)
                return super().readinto(view[: max(1, len(view) // 2)] if half else view)

            def read(self, size: int | None = -1) -> bytes | Any:
                half = disk.strike(READ, "read", self.place)
                return super().read(max(1, size // 2) if half and size is not None and size > 0 else size)

            def readall(self) -> bytes | Any:
                disk.strike(READ, "readall", self.place)
                return super().readall()

            def write(self, data: Any) -> int | Any:
                half = disk.strike(WRITE, "write", self.place)
                return super().write(memoryview(data)[: max(1, len(data) // 2)] if half else data)

            def close(self) -> None:
                if not self.closed and self.fileno() in disk._descriptors:
                    disk._descriptors.pop(self.fileno(), None)
                super().close()

        return File

    def _stream(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """``open`` with files of ours at the bottom."""
        if self.below(file) is None:
            real: Any = self._real[builtins, "open"]
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw: Any = io.FileIO(file, mode.replace("t", "").replace("b", ""), closefd, opener)
        if buffering == 0:
            return raw
        kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
        stream = kind(raw)
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding, errors, newline)


def _place() -> tuple[tuple[str, int], ...]:
    """The lines of the package that are being carried out."""
    found, frame = [], sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            found.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(found)


class _Asleep:
    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __enter__(self) -> None:
        self._disk._awake = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._disk._awake = True


class _Entries:
    """What ``os.scandir`` gives, its entries counted."""

    def __init__(self, disk: Disk, real: Any) -> None:
        self._disk, self._real = disk, real

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return _Entry(self._disk, next(self._real))

    def __enter__(self) -> _Entries:
        return self

    def __exit__(self, *_: object) -> None:
        self._real.close()

    def close(self) -> None:
        self._real.close()


class _Entry:
    def __init__(self, disk: Disk, real: os.DirEntry[str]) -> None:
        self._disk, self._real = disk, real
        self.name, self.path = real.name, real.path

    def __fspath__(self) -> str:
        return self.path

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in ("is_file", "is_dir", "is_symlink", "stat"):
            return real

        def call(**options: Any) -> Any:
            self._disk.strike(LOOK, f"entry.{name}", self._disk.below(self.path))
            return real(**options)

        return call
