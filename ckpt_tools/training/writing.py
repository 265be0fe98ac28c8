"""How a checkpoint comes to its name: written aside, synced, read back, and only then renamed."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ckpt_tools.findings import CkptError, Finding, Verdict
from ckpt_tools.findings.commands import hint
from ckpt_tools.placing import SPARE, adopt, beside, free_space, keep_copy, make_folder, publish, sweep, sync_file
from ckpt_tools.training.snapshot import has_storage, source_of
from ckpt_tools.verbs.verify import Report, verify

__all__ = [
    "broken",
    "check_room",
    "drop_earlier",
    "failed",
    "publish_sound",
    "reason_to_pass",
    "save_content",
    "storages_of",
    "write_state",
    "write_whole",
]

NOT_FINITE = "non-finite"  # slug of the finding about weights and optimizer state
HALF = (Verdict.DAMAGED, Verdict.FOREIGN)
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", -1))


def save_content(content: dict[str, Any], path: Path) -> None:
    """``torch.save`` through a file of ours, so that a full disk is an ``OSError`` that says so."""
    with open(path, "r+b", buffering=0) as file:
        torch.save(content, file)


def write_state(path: Path, content: dict[str, Any]) -> None:
    """Write the state of a training, as :func:`write_whole` does."""
    write_whole(path, lambda temporary: save_content(content, temporary), size_of(content))


def write_whole(path: Path, write: Callable[[Path], None], size: int = 0, keep: int = 0) -> None:
    """Have a checkpoint written to a temporary file, and let it take its name once it was read back and is sound.

    ``size`` is about how many bytes it will have, ``keep`` how many earlier states of the file stay. Mode and owner
    are kept, and a link leads to the new file. Raises ``CkptError``; what bore the name is untouched then.
    """
    place = path.resolve() if path.is_symlink() else path
    try:
        make_folder(place.parent)
        sweep(place.parent, re.compile(re.escape(place.name)))
        check_room(place.parent, size)
        with beside(place) as temporary:
            write(temporary)
            publish_sound(temporary, place, keep)
    except CkptError:
        raise
    except Exception as error:  # of the disk, of torch, of whoever writes
        raise failed(path, error) from error


def publish_sound(temporary: Path, place: Path, keep: int = 0) -> None:
    """Give a file its name once it is on the disk and was read back, with mode and owner of what bore it.

    Raises ``CkptError`` where it is not sound, ``OSError`` where the disk refuses; nothing is changed then.
    """
    with ThreadPoolExecutor(1) as pool:  # the disk has the one to do, the processor the other
        synced = pool.submit(sync_file, temporary)
        report = verify(temporary, siblings=False)
        synced.result()
    why = broken(report)
    if why is not None:
        raise CkptError(f"{place} was not replaced: {why.message}; {_advice(why)}")
    if place.exists():
        adopt(temporary, place)  # last: it may take our own right to write to it
    _publish_keeping(temporary, place, keep)


def check_room(folder: Path, size: int) -> None:
    """Raise ``CkptError`` where a disk has no room for so many bytes."""
    free = free_space(folder) if folder.is_dir() else None
    if free is not None and free < size + SPARE:
        raise CkptError(f"{folder} needs {size} bytes, {free} are free; {_pruning(folder)}")


def _pruning(folder: Path) -> str:
    return hint("ckpt prune {folder}", "{} can free some", folder=folder)


def _advice(why: Finding) -> str:
    if why.slug == NOT_FINITE:
        return "go on from the last good file, with a lower learning rate"
    return "what was written does not read back, check the disk"


def failed(path: Path, error: BaseException) -> CkptError:
    """What kept a checkpoint from being written, with what to do."""
    cause: BaseException | None = error  # torch reports what its writer met as an error of its own
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    text = str(error).splitlines()
    reason = getattr(cause, "strerror", None) or (text[0] if text else type(error).__name__)
    if isinstance(cause, OSError) and cause.errno in FULL:
        advice = f"{free_space(path.parent)} bytes are free, {_pruning(path.parent)}"
    else:
        advice = (
            "check the path and your rights to it" if isinstance(cause, OSError) else "save it with torch.save alone"
        )
    return CkptError(f"{path} can't be written: {reason}; nothing was changed, {advice}")


def _earlier(path: Path, keep: int) -> list[Path]:
    """Where earlier states of a file are kept, the newest first: ``last.pt.prev``, ``last.pt.prev2``, …"""
    return [path.with_name(f"{path.name}.prev{number if number > 1 else ''}") for number in range(1, keep + 1)]


def _publish_keeping(temporary: Path, place: Path, keep: int) -> None:
    """Give a file its name, and what bore it that of an earlier state; the oldest of these goes. Raises ``OSError``."""
    names = _earlier(place, keep)
    if not names or not place.exists():
        publish(temporary, place)
        return
    with beside(place) as held:
        held.unlink()
        keep_copy(place, held)  # a link is enough: the name is given to another file, the old one is never written to
        publish(temporary, place)
        for older, newer in zip(names[:0:-1], names[-2::-1]):
            if newer.exists():
                publish(newer, older)
        publish(held, names[0])


def drop_earlier(path: Path, keep: int) -> None:
    """Remove the earlier states, where a run is over and nobody will go back to them."""
    for name in _earlier(path, keep):
        with contextlib.suppress(OSError):
            name.unlink()


def broken(report: Report) -> Finding | None:
    """Why a file must not take the place of a good one: damaged, or weights or optimizer that are not finite."""
    half = report.verdict in HALF
    return next(
        (fact for fact in report.findings if fact.verdict in HALF or (not half and fact.slug == NOT_FINITE)), None
    )


def reason_to_pass(path: Path) -> str | None:
    """Why a file can't be gone on from, ``None`` where it can: every byte of it is read."""
    try:
        report = verify(path, siblings=False)
    except CkptError as error:
        return str(error)
    why = broken(report) or next((fact for fact in report.findings if fact.verdict is Verdict.UNSAFE), None)
    return f"{report.verdict}: {why.message}" if why is not None else None


def size_of(content: Any) -> int:
    """Bytes of all tensors in a state, each storage once."""
    return sum(storage.nbytes() for storage in storages_of(content))


def storages_of(content: Any) -> list[torch.UntypedStorage]:
    """The storages of all tensors in a state, each once."""
    found: dict[object, torch.UntypedStorage] = {}
    rooms = [content]
    while rooms:
        room = rooms.pop()
        if isinstance(room, torch.Tensor) and has_storage(room):
            found[source_of(room)] = room.untyped_storage()
        elif isinstance(room, Mapping):
            rooms += room.values()
        elif isinstance(room, (list, tuple)):
            rooms += room
    return list(found.values())
