"""One checkpoint, saved so that it is whole, and loaded so that it fits."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ckpt_tools.findings import CkptError, Finding, Verdict
from ckpt_tools.placing import SPARE, beside, free_space, publish, sync_file
from ckpt_tools.training import processes
from ckpt_tools.training.snapshot import has_storage
from ckpt_tools.training.state import Loaded, gather_state, restore_state
from ckpt_tools.verbs.verify import Report, verify

__all__ = [
    "broken",
    "drop_earlier",
    "keep_earlier",
    "load_checkpoint",
    "place",
    "reason_to_pass",
    "save_checkpoint",
    "save_content",
    "size_of",
    "storages_of",
    "write_on_first",
    "write_whole",
]

NOT_FINITE = "non-finite"  # slug of the finding about weights and optimizer state
HALF = (Verdict.DAMAGED, Verdict.FOREIGN)


def save_checkpoint(
    path: str | os.PathLike[str],
    *,
    model: Any,
    optimizer: Any,
    scheduler: Any = None,
    scaler: Any = None,
    ema: Any = None,
    epoch: int | None,
    step: int | None = None,
    rng: bool = True,
    sampler: Any = None,
    args: Any = None,
    metrics: Mapping[str, float] | None = None,
    **extra: Any,
) -> Path:
    """Save the full state of a training in one file that is whole or not there.

    Written beside ``path``, synced to the disk, read back and checked, and only then renamed: killed at any moment, or
    with the disk full, the file that was there stays. Each part is one object, or a list or mapping of them; wrappers
    (``DataParallel``, ``DistributedDataParallel``, ``torch.compile``) are looked through. ``epoch`` is the last
    finished one, counted from 0 (``None`` before the first is). With several processes all must call it: rank 0 writes,
    the others wait. Raises ``CkptError``, on every rank, where the file could not be written, or weights or optimizer
    hold NaN or infinity.
    """
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "ema": ema}
    parts["sampler"] = sampler
    content = gather_state(parts, epoch=epoch, step=step, rng=rng, args=args, metrics=metrics, extra=extra)
    return write_on_first(content, Path(path))


def write_on_first(content: dict[str, Any], path: Path) -> Path:
    """Rank 0 writes, the others wait; what went wrong is raised on all of them."""
    failure = None
    if processes.rank() == 0:
        try:
            write_whole(path, lambda temporary: save_content(content, temporary), size_of(content))
        except CkptError as error:
            failure = str(error)
    failure = processes.shared(failure)
    if failure is not None:
        raise CkptError(failure)
    return path


def save_content(content: dict[str, Any], path: Path) -> None:
    """``torch.save`` through a file of ours, so that a full disk is an ``OSError`` that says so."""
    with open(path, "r+b", buffering=0) as file:
        torch.save(content, file)


def write_whole(path: Path, write: Callable[[Path], None], size: int = 0, keep: int = 0) -> Report:
    """Have a checkpoint written to a temporary file, and let it take its name once it was read back and is sound.

    ``size`` is about how many bytes it will have, ``keep`` how many earlier states of the file stay. Raises
    ``CkptError``; what bore the name is untouched then.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = free_space(path.parent)
        if free is not None and free < size + SPARE:
            raise CkptError(f"{path} needs {size} bytes, {free} are free; `ckpt prune {path.parent}` can free some")
        with beside(path) as temporary:
            try:
                write(temporary)
            except RuntimeError as error:  # how torch reports what its own writer met
                raise _failed(path, error) from error
            with ThreadPoolExecutor(1) as pool:  # the disk has the one to do, the processor the other
                synced = pool.submit(sync_file, temporary)
                report = verify(temporary, siblings=False)
                synced.result()
            why = broken(report)
            if why is not None:
                raise CkptError(f"{path} was not replaced: {why.message}; {_ADVICE[why.slug == NOT_FINITE]}")
            keep_earlier(path, keep)
            publish(temporary, path)
            return report
    except OSError as error:
        raise _failed(path, error) from error


_ADVICE = (
    "what was written does not read back, check the disk",
    "go on from the last good file, with a lower learning rate",
)


def _failed(path: Path, error: Exception) -> CkptError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    reason = getattr(cause, "strerror", None) or str(error).splitlines()[0]
    free = free_space(path.parent)
    room = f" ({free} bytes are free)" if free is not None else ""
    return CkptError(f"{path} can't be written: {reason}{room}; nothing was changed, `ckpt prune` frees disk space")


def _earlier(path: Path, keep: int) -> list[Path]:
    """Where earlier states of a file are kept, the newest first: ``last.pt.bak``, ``last.pt.bak2``, …"""
    return [path.with_name(f"{path.name}.bak{number if number > 1 else ''}") for number in range(1, keep + 1)]


def keep_earlier(path: Path, keep: int) -> None:
    """Let a file that is about to be replaced stay under a backup's name, and the oldest backup go."""
    names = _earlier(path, keep)
    if not names or not path.exists():
        return
    for older, newer in zip(names[:0:-1], names[-2::-1]):
        if newer.exists():
            os.replace(newer, older)
    names[0].unlink(missing_ok=True)
    try:
        os.link(path, names[0])  # the name is given to another file, the old one is never written to
    except OSError:
        shutil.copy2(path, names[0])


def drop_earlier(path: Path, keep: int) -> None:
    """Remove the backups, where a run is over and nobody will go back to them."""
    for name in _earlier(path, keep):
        with contextlib.suppress(OSError):
            name.unlink(missing_ok=True)


def broken(report: Report) -> Finding | None:
    """Why a file must not take the place of a good one: damaged, or weights or optimizer that are not finite."""
    half = report.verdict in HALF
    return next(
        (fact for fact in report.findings if fact.verdict in HALF or (not half and fact.slug == NOT_FINITE)), None
    )


def size_of(content: Any) -> int:
    """Bytes of all tensors in a state, each storage once."""
    return sum(storage.nbytes() for storage in storages_of(content))


def storages_of(content: Any) -> list[torch.UntypedStorage]:
    """The storages of all tensors in a state, each once."""
    found: dict[tuple[str, int], torch.UntypedStorage] = {}
    rooms = [content]
    while rooms:
        room = rooms.pop()
        if isinstance(room, torch.Tensor) and has_storage(room):
            found[str(room.device), room.untyped_storage().data_ptr()] = room.untyped_storage()
        elif isinstance(room, Mapping):
            rooms += room.values()
        elif isinstance(room, (list, tuple)):
            rooms += room
    return list(found.values())


def reason_to_pass(path: Path) -> str | None:
    """Why a file can't be gone on from, ``None`` where it can: every byte of it is read."""
    try:
        report = verify(path, siblings=False)
    except CkptError as error:
        return str(error)
    why = broken(report) or next((fact for fact in report.findings if fact.verdict is Verdict.UNSAFE), None)
    return f"{report.verdict}: {why.message}" if why is not None else None


def place(
    path: str | os.PathLike[str], parts: Mapping[str, Any], *, rng: bool, map_location: Any, strict: bool
) -> Loaded:
    """Load a file that was verified before, without executing anything in it, and give its state to the parts."""
    try:
        content = torch.load(path, map_location="cpu" if map_location is None else map_location, weights_only=True)
    except Exception as error:  # pickle, zip and tensor errors of every kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CkptError(f"{path} can't be loaded: {reason}; `ckpt verify {path}` looks at it") from error
    if not isinstance(content, Mapping):
        raise CkptError(f"{path} holds no training state; `ckpt inspect {path}` shows what it is")
    try:
        loaded = restore_state(content, parts, rng=rng, strict=strict)
    except CkptError as error:
        raise CkptError(f"{path}: {error}") from error
    loaded.path = str(path)
    return loaded


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    model: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    scaler: Any = None,
    ema: Any = None,
    sampler: Any = None,
    rng: bool = True,
    map_location: Any = None,
    strict: bool = True,
) -> Loaded:
    """Verify a checkpoint, load it safely, and give each part its state.

    The file is checked byte by byte first and loaded with ``weights_only=True``; whether everything fits is settled
    before anything is changed. ``map_location`` is where tensors come to lie on their way (default: the CPU, which
    every machine has; the parts keep their own devices). ``strict=False`` loads what fits and lists the rest in
    ``absent``. Every rank loads for itself. Raises ``CkptError`` where the file is damaged or unsafe, or does not fit.
    """
    why = reason_to_pass(Path(path))
    if why is not None:
        raise CkptError(f"{path} is {why}; `ckpt latest` finds another, `ckpt repair` may mend it")
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "ema": ema}
    return place(path, {**parts, "sampler": sampler}, rng=rng, map_location=map_location, strict=strict)
