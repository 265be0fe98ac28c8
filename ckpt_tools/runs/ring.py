"""The ring: private copies of the last good checkpoints of a run, made so that its trainer never notices.

A copy is a whole file under a name of its own, which no trainer takes for a run to go on with, or it is not there:
``000007.epoch12.last.pt`` is the seventh copy, of the file ``last.pt`` with twelve as its last epoch (from 0).
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ckpt_tools.findings import CkptError
from ckpt_tools.placing import SPARE, beside, free_space, publish, sweep, sync_file
from ckpt_tools.runs.sharing import reflink
from ckpt_tools.source import BUFFER_SIZE, blocks, open_source

__all__ = ["Copy", "NoRoomError", "Ring", "RingError", "UnsettledError"]

NAMED = re.compile(r"(\d{6,})\.(?:epoch(\d{1,9})|unknown)\.(.+)", re.DOTALL)
ANY = re.compile(".*", re.DOTALL)
LONGEST_EPOCH = 10**9
LONGEST_NAME = 180  # bytes of the original's name that are kept, from its end
NUMBER = re.compile(r"\d+")
RIGHTS = 0o666  # of the original's rights those that a copy may have, too


class UnsettledError(Exception):
    """The file was written to, or went, while it was copied."""


class RingError(CkptError):
    """No copy can be made or kept."""


class NoRoomError(RingError):
    """The disk has no room for a copy."""


@dataclass(frozen=True)
class Copy:
    """A good checkpoint in the ring. ``modified``: when its original was written, in nanoseconds."""

    path: Path
    number: int
    epoch: int | None  # the last one it had finished, counted from 0
    original: str  # the name of the file it is a copy of
    modified: int


class Ring:
    """At most ``keep`` copies in a folder, those of the furthest epochs; everything is read from the folder itself.

    The folder is made when the first copy is, the folder it lies in only with ``deep``: a run that went stays away.
    ``reserve`` are bytes that must stay free beside a copy, for the trainer's next save.
    """

    def __init__(self, folder: Path, keep: int, deep: bool = False, reserve: int = 0) -> None:
        self.folder = folder
        self.keep = keep
        self.deep = deep
        self.reserve = reserve

    def copies(self) -> list[Copy]:
        """The copies, the one to go on from last.

        That is by epoch, then by the time of writing of the original; by time alone where some say no epoch. Where a
        file of one name, numbers in it aside, went back to an earlier epoch a new run has begun in the folder:
        whatever was copied before counts as older.
        """
        held = sorted(self._held(), key=lambda copy: copy.number)
        lives: dict[Path, int] = {}
        furthest: dict[str, int] = {}
        life = 0
        for copy in held:
            epoch = -1 if copy.epoch is None else copy.epoch
            name = NUMBER.sub("#", copy.original)
            if epoch < furthest.get(name, epoch):
                life, furthest = life + 1, {}
            furthest[name] = epoch
            lives[copy.path] = life
        vague = {lives[copy.path] for copy in held if copy.epoch is None}

        def order(copy: Copy) -> tuple[int, int, int, int]:
            life = lives[copy.path]
            epoch = -1 if copy.epoch is None or life in vague else copy.epoch
            return life, epoch, copy.modified, copy.number

        return sorted(held, key=order)

    def _held(self) -> Iterator[Copy]:
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                match = NAMED.fullmatch(entry.name)
                if match and entry.is_file(follow_symlinks=False):
                    epoch = int(match[2]) if match[2] else None
                    yield Copy(self.folder / entry.name, int(match[1]), epoch, match[3], entry.stat().st_mtime_ns)

    def tidy(self) -> None:
        """Remove what a watcher that was killed had not done yet."""
        sweep(self.folder, ANY)

    @contextlib.contextmanager
    def copied(self, path: Path, state: tuple[int, int], going_on: Callable[[], None]) -> Iterator[Path]:
        """A private copy of a file, for as long as it is not kept; blocks are shared where the disk can.

        ``state`` is the size and time of writing (ns) it was settled with: raises ``UnsettledError`` where it is
        another before or after, ``RingError`` where the copy can't be written, ``OSError`` or ``CkptError`` where the
        file can't be read. ``going_on`` is called now and then, and may raise to end it.
        """
        before = _status(path)
        if (before.st_size, before.st_mtime_ns) != state:
            raise UnsettledError
        self._make_folder()
        with contextlib.ExitStack() as stack:
            with self._writing():
                temporary = stack.enter_context(beside(self.folder / path.name, before.st_mode & RIGHTS | 0o600))
            shared = False
            with contextlib.suppress(OSError):
                shared = reflink(path, temporary)
            if not shared:
                self._copy(path, temporary, going_on)
            after = _status(path)
            if [(s.st_size, s.st_mtime_ns, s.st_ino) for s in (before, after)].count((*state, before.st_ino)) != 2:
                raise UnsettledError
            with self._writing():
                os.utime(temporary, ns=(before.st_mtime_ns, before.st_mtime_ns))
            yield temporary

    def _make_folder(self) -> None:
        with self._writing(), contextlib.suppress(FileExistsError):
            if self.deep:
                self.folder.mkdir(parents=True, exist_ok=True)
            else:
                self.folder.mkdir()

    def _copy(self, path: Path, temporary: Path, going_on: Callable[[], None]) -> None:
        with open_source(path) as source:
            free = free_space(self.folder)
            if free is not None and free < source.size + self.reserve + SPARE:
                beside = f" beside a save of {self.reserve}" if self.reserve else ""
                raise NoRoomError(f"{self.folder} has no room for a copy of {source.size} bytes{beside}")
            with self._writing():
                new = open(temporary, "wb", buffering=0)  # noqa: SIM115 - errors of reading are not errors of writing
            with new:
                for piece in blocks(source, 0, source.size, memoryview(bytearray(BUFFER_SIZE))):
                    going_on()
                    with self._writing():
                        _write(new, piece)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = NoRoomError if error.errno in (errno.ENOSPC, errno.EDQUOT) else RingError
            raise kind(f"no copy can be kept in {self.folder}: {error.strerror or error}") from error

    def twin(self, temporary: Path) -> Copy | None:
        """The copy that has the same bytes; ``best.pt`` often is ``last.pt`` once more."""
        with contextlib.suppress(OSError):
            size = temporary.stat().st_size
            alike = [copy for copy in self.copies() if copy.path.stat().st_size == size]
            return next((copy for copy in reversed(alike) if filecmp.cmp(temporary, copy.path, shallow=False)), None)
        return None

    def store(self, temporary: Path, original: str, epoch: int | None) -> Path:
        """Keep a copy that was found good; only when it is on the disk the oldest beyond ``keep`` go.

        The new one is never among them. Raises ``RingError`` where it can't be kept.
        """
        number = max((copy.number for copy in self._held()), default=0) + 1
        known = f"epoch{epoch}" if epoch is not None and 0 <= epoch < LONGEST_EPOCH else "unknown"
        name = os.fsencode(original)[-LONGEST_NAME:].decode(errors="ignore")
        path = self.folder / f"{number:06d}.{known}.{name}"
        with self._writing():
            sync_file(temporary)
            publish(temporary, path)
        self.tidy()
        others = [copy for copy in self.copies() if copy.path != path]
        for copy in others[: max(0, len(others) + 1 - self.keep)]:
            with contextlib.suppress(OSError):
                copy.path.unlink()
        return path


def _status(path: Path) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError:
        raise UnsettledError from None


def _write(file: io.FileIO, piece: memoryview) -> None:
    while piece:
        piece = piece[file.write(piece) :]
