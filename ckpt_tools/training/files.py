"""One checkpoint, saved so that it is whole, and loaded so that it fits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ckpt_tools.findings import CkptError
from ckpt_tools.findings.commands import hint
from ckpt_tools.training import processes
from ckpt_tools.training.state import PARTS, Loaded, gather_state, restore_state
from ckpt_tools.training.writing import failed, reason_to_pass, write_state

__all__ = ["load_checkpoint", "place", "save_checkpoint", "save_together"]

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


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
    finished one, counted from 0 (``None`` before the first is). ``args`` and ``extra`` hold plain values: paths become
    texts, sets lists, a ``Namespace`` or dataclass a dict, arrays tensors.

    With several processes all must call it, never only rank 0: rank 0 writes, the others wait. Raises ``CkptError``, on
    every rank, where the file could not be written, something could not be loaded safely again, or weights or optimizer
    hold NaN or infinity.
    """
    parts = dict(zip(PARTS, (model, optimizer, scheduler, scaler, ema, sampler)))
    place = Path(path)

    def write() -> None:
        content = gather_state(parts, epoch=epoch, step=step, rng=states, args=args, metrics=metrics, extra=extra)
        write_state(place, content)

    states = processes.random_states() if rng else None
    save_together(write, place)
    return place


def save_together(write: Callable[[], None], path: Path) -> None:
    """Have rank 0 write, while the others wait; what went wrong is raised as ``CkptError`` on all of them."""
    failure = None
    if processes.rank() == 0:
        try:
            write()
        except CkptError as error:
            failure = str(error)
        except Exception as error:  # whatever it is, the other ranks wait for a word
            if not processes.together():
                raise
            failure = str(failed(path, error))
    failure = processes.shared(failure)
    if failure is not None:
        raise CkptError(failure)


def place(
    path: str | os.PathLike[str], parts: Mapping[str, Any], *, rng: bool, map_location: Any, strict: bool
) -> Loaded:
    """Load a file that was verified before, without executing anything in it, and give its state to the parts."""
    try:
        content = torch.load(path, map_location="cpu" if map_location is None else map_location, weights_only=True)
    except Exception as error:  # pickle, zip and tensor errors of every kind
        look = hint("ckpt verify {path}", "{} looks at it", path=Path(path))
        raise CkptError(f"{path} can't be loaded: {_reason(error)}; {look}") from error
    if not isinstance(content, Mapping):
        look = hint("ckpt inspect {path}", "{} shows what it is", path=Path(path))
        raise CkptError(f"{path} holds no training state; {look}")
    try:
        loaded = restore_state(content, parts, rng=rng, strict=strict)
    except CkptError as error:
        raise CkptError(f"{path}: {error}") from error
    loaded.path = str(path)
    return loaded


def _reason(error: Exception) -> str:
    """What torch says, without its advice to load the file unsafely."""
    lines = COLOURS.sub("", str(error)).splitlines() or [type(error).__name__]
    return next((line.strip() for line in lines if "GLOBAL" in line), lines[0])


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

    The file is checked byte by byte first and loaded with ``weights_only=True``. Whether names, shapes, parameter
    groups and kinds of optimizer and scheduler fit is settled before anything is changed. ``map_location`` is where
    tensors come to lie on their way (default: the CPU, which every machine has; the parts keep their own devices).
    ``strict=False`` loads what fits and lists the rest in ``absent``. Every rank loads for itself. Raises ``CkptError``
    where the file is damaged or unsafe, or does not fit.
    """
    why = reason_to_pass(Path(path))
    if why is not None:
        raise CkptError(f"{path} is {why}; `ckpt latest` finds another, `ckpt repair` may mend it")
    parts = dict(zip(PARTS, (model, optimizer, scheduler, scaler, ema, sampler)))
    return place(path, parts, rng=rng, map_location=map_location, strict=strict)
