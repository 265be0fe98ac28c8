"""Carrying out a plan: a temporary file beside its place, read again before it takes the name.

Killed at any moment, or with the disk full, the file that was there is whole and nothing half-written bears a
checkpoint's name.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ckpt_tools.checkpoint import open_checkpoint
from ckpt_tools.findings import CkptError, Verdict, decide, reason_of, step_for, trouble
from ckpt_tools.placing import PRIVATE, SPARE, adopt, beside, free_space, keep_copy, publish, sweep_beside
from ckpt_tools.plans.model import Plan
from ckpt_tools.sidefiles import first_bytes
from ckpt_tools.source import BUFFER_SIZE, BytesSource, JoinedSource, Stretch, blocks

__all__ = ["Check", "Planned", "apply_archive", "backup_name", "check_place", "reads_back"]

SETTLED = 60  # seconds after the last write before a file is replaced without being asked twice
SEND, SEND_FROM = 8 << 20, 1 << 20  # bytes that are sent on their way to the disk at once: at most, at least
WRITERS, SEVERAL_FROM = 2, 128 << 20  # threads, and bytes of an archive from which they pay
Check = Callable[[Path, JoinedSource], None]  # raises ``CkptError`` where a file is not what was to be written
Progress = Callable[[int], None]


def reads_back(temporary: Path, archive: JoinedSource) -> None:
    """Read a written checkpoint with the reader that will be asked about it later."""
    with open_checkpoint(temporary) as made:
        broken = decide(made.findings) in (Verdict.DAMAGED, Verdict.FOREIGN, Verdict.UNSAFE)
        if broken or made.source.size != archive.size:
            why = made.findings[0].message if made.findings else f"{made.source.size} of {archive.size} bytes"
            raise CkptError(f"what was written does not read back ({why}); nothing was changed, check the disk")


@dataclass
class Planned:
    """A plan with all that it needs to be carried out; use it as a context manager.

    ``archive`` is the result, ``None`` where there is nothing to write; ``sidecars`` are small files beside it.
    """

    plan: Plan
    archive: JoinedSource | None = None
    sidecars: Mapping[Path, bytes] = field(default_factory=dict)
    check: Check = reads_back
    files: ExitStack = field(default_factory=ExitStack)

    def apply(self, *, force: bool = False, progress: Progress | None = None) -> Path:
        """Write the result; where its place is the original's, that is kept as ``<name>.bak``.

        Raises ``CkptError`` where there is nothing to write or it can't be written; nothing was changed then.
        """
        output, original = self.check_places(force=force), Path(os.path.realpath(self.plan.file))
        assert self.archive is not None
        backup = backup_name(original) if output == original else None
        for path in (output, *self.sidecars):
            sweep_beside(path)
        with ExitStack() as aside, ExitStack() as undo:
            for path, data in self.sidecars.items():
                undo.callback(_put_back, path, aside.enter_context(_second_name(path)))
                _write_beside(path, data, original)
            apply_archive(self.archive, output, original, self.check, self.files.close, backup, progress)
            undo.pop_all()
        self.plan.written, self.plan.backup = True, backup.name if backup is not None else None
        return output

    def check_places(self, *, force: bool = False) -> Path:
        """Where the result goes; raises ``CkptError`` where it, or a file beside it, can't or must not be written."""
        if self.archive is None or self.plan.refused is not None:
            raise CkptError(self.plan.refused or f"there is nothing to do for {self.plan.file}")
        output, original = Path(self.plan.output), Path(os.path.realpath(self.plan.file))
        in_place = _there(output) and _there(original) and os.path.samefile(output, original)
        check_place(output, original, self.archive.size, in_place=in_place, force=force)
        for path, data in self.sidecars.items():
            check_place(path, original, len(data), in_place=False, force=force or (in_place and _is_ours(path)))
        return original if in_place else output

    def __enter__(self) -> Planned:
        return self

    def __exit__(self, *_: object) -> None:
        self.files.close()


def _is_ours(path: Path) -> bool:
    """Whether a file is a description or ledger this tool wrote: they begin with the name of their schema."""
    try:
        return re.match(rb'\{\s*"schema": "ckpt-tools/', first_bytes(path, 100)) is not None
    except CkptError:
        return False


def _there(path: Path) -> bool:
    """Whether a path leads to something; raises ``CkptError`` where that can't be told: it must not be overwritten."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise CkptError(f"{path} can't be looked at: {trouble(error)}") from error
    return True


@contextlib.contextmanager
def _second_name(path: Path) -> Iterator[Path | None]:
    """Another name of a file, for as long as it may have to be put back; ``None`` where there is no file."""
    if not _there(path):
        yield None
        return
    with ExitStack() as stack:
        try:
            kept = stack.enter_context(beside(path, PRIVATE))
            kept.unlink()
            keep_copy(path, kept)
        except OSError as error:
            raise CkptError(f"{path} can't be replaced: {trouble(error)}") from error
        yield kept


def _put_back(path: Path, before: Path | None) -> None:
    with contextlib.suppress(OSError):
        if before is not None:
            os.replace(before, path)
        else:
            path.unlink()


def _write_beside(path: Path, data: bytes, like: Path) -> None:
    """Write a small file."""
    source = JoinedSource([Stretch(BytesSource(data))], str(path))
    apply_archive(source, path, like, lambda temporary, archive: None, lambda: None)


def check_place(output: Path, original: Path, size: int, *, in_place: bool, force: bool) -> None:
    """Raise ``CkptError`` where the output can't or should not be written."""
    folder = output.parent
    if not os.path.isdir(folder):
        raise CkptError(f"the folder {folder} does not exist; make it, or name another output with -o")
    if os.path.isdir(output):
        raise CkptError(f"{output} is a folder; name a file with -o")
    if not in_place and _there(output) and not force:
        raise CkptError(f"{output} is there already; name another output with -o, or overwrite it with --force")
    try:
        age = time.time() - original.stat().st_mtime
    except OSError as error:
        raise CkptError(f"{original} is gone: {reason_of(error)}; nothing was written, {step_for(error)}") from error
    if in_place and age < SETTLED and not force:
        raise CkptError(
            f"{original} was written to {max(0, round(age))} seconds ago, perhaps by a trainer that still runs; "
            "wait a minute, or add --force"
        )
    free = free_space(folder)
    if free is not None and free < size + SPARE:
        raise CkptError(f"{folder} has {free} bytes free, the result needs {size}; free some space, or name -o")


def backup_name(path: Path) -> Path:
    """Where the original goes: ``last.pt.bak``, or with a number where that is taken."""
    first = path.with_name(path.name + ".bak")
    return next(
        name
        for name in (first, *(first.with_name(f"{first.name}{number}") for number in range(2, 1000)))
        if not os.path.lexists(name)
    )


def apply_archive(
    archive: JoinedSource,
    output: Path,
    like: Path,
    check: Check,
    close: Callable[[], None],
    backup: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Write ``archive`` to ``output``, with mode and owner of ``like``; the file there is kept as ``backup``.

    ``check`` reads the temporary file; ``close`` lets go of the files the bytes come from, before one of them is
    replaced. Raises ``CkptError`` where a source changed meanwhile, a checksum is not what it was, or the disk
    refuses; nothing is changed then.
    """
    try:
        with beside(output, PRIVATE) as temporary:
            with open(temporary, "r+b", buffering=0) as file:
                _copy(archive, file.fileno(), progress)
                os.fsync(file.fileno())
            check(temporary, archive)
            _refuse_changed(archive, output, like)
            adopt(temporary, like)
            with ExitStack() as undo:
                if backup is not None:
                    keep_copy(output, backup)
                    undo.callback(backup.unlink)
                _refuse_changed(archive, output, like)  # once more: what was saved meanwhile must not be replaced
                close()
                publish(temporary, output)
                undo.pop_all()
    except OSError as error:
        why = f"{reason_of(error)}; nothing was changed, {step_for(error)}"
        raise CkptError(f"{output} can't be written: {why}") from error


def _refuse_changed(archive: JoinedSource, output: Path, like: Path) -> None:
    if archive.changed():
        raise CkptError(
            f"{like.name}, or another file {output.name} is made of, was written to meanwhile; "
            "nothing was changed, try again"
        )


def _copy(archive: JoinedSource, handle: int, progress: Progress | None) -> None:
    """Copy every stretch, large archives by several threads, each to its place."""
    work = iter(list(archive.places()))  # the threads take turns
    stop = threading.Event()

    def copy() -> None:
        buffer = memoryview(bytearray(BUFFER_SIZE))
        try:
            for place, stretch in work:
                if stop.is_set():
                    return
                _copy_stretch(stretch, place, handle, buffer)
                if progress is not None:
                    progress(stretch.source.size)
        except BaseException:
            stop.set()
            raise

    if archive.size < SEVERAL_FROM or not hasattr(os, "pwrite"):
        copy()
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(WRITERS) as pool:
        for job in [pool.submit(copy) for _ in range(WRITERS)]:
            job.result()


def _copy_stretch(stretch: Stretch, place: int, handle: int, buffer: memoryview) -> None:
    """Copy one stretch through a buffer, and hold it against the checksum it must have."""
    from isal.isal_zlib import crc32

    crc = done = sent = 0
    for piece in _pieces(stretch, buffer):
        crc = crc32(piece, crc) if stretch.crc is not None else 0
        _write(handle, piece, place + done)
        done += len(piece)
        if done - sent >= SEND:
            _send(handle, place + sent, done - sent)
            sent = done
    _send(handle, place + sent, done - sent)
    if done != stretch.source.size or (stretch.crc is not None and crc != stretch.crc):
        raise CkptError(f"{stretch.name} changed while it was copied; nothing was changed, try again")


def _pieces(stretch: Stretch, buffer: memoryview) -> Iterator[memoryview]:
    """The bytes of a stretch; raises ``CkptError`` where its file can't be read."""
    try:
        yield from blocks(stretch.source, 0, stretch.source.size, buffer)
    except OSError as error:
        raise CkptError(f"{stretch.name or stretch.source.name} can't be read: {trouble(error)}") from error


def _write(handle: int, piece: memoryview, place: int) -> None:
    while piece:
        if hasattr(os, "pwrite"):
            count = os.pwrite(handle, piece, place)
        else:
            os.lseek(handle, place, os.SEEK_SET)
            count = os.write(handle, piece)
        piece, place = piece[count:], place + count


def _send(handle: int, start: int, count: int) -> None:
    """Have the system begin to put bytes on the disk, so that the sync at the end has less to wait for."""
    if count >= SEND_FROM and hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(handle, start, count, os.POSIX_FADV_DONTNEED)
