"""Checkpoints of a loop of your own: when to save, what to keep, where to go on, and how to end in time."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

from ckpt_tools.findings import CkptError
from ckpt_tools.placing import sweep
from ckpt_tools.training import processes
from ckpt_tools.training.files import (
    place,
    reason_to_pass,
    save_content,
    size_of,
    storages_of,
    write_on_first,
    write_whole,
)
from ckpt_tools.training.signals import STOP, Wish
from ckpt_tools.training.snapshot import Snapshot
from ckpt_tools.training.state import Loaded, gather_state
from ckpt_tools.verbs.glance import glance, lower_is_better

__all__ = ["CheckpointManager", "Restored"]

NAME = re.compile(r"step(\d{8,})\.pt")
LOG = logging.getLogger("ckpt_tools")
SAVE, END = 1, 2  # what ranks agree on: signals count from END on


@dataclass
class Restored(Loaded):
    """Where to go on: at ``next_epoch``, with ``steps`` done; ``path`` is empty where nothing was there to go on from.

    ``within`` tells that the epoch had begun; ``skipped`` are newer files that were passed over, each with why.
    """

    next_epoch: int = 0
    steps: int = 0
    within: bool = False
    skipped: list[tuple[Path, str]] = field(default_factory=list)


class CheckpointManager:
    """Saves the full state of a training into a folder of its own, and finds the way back.

    ``every_seconds``, ``every_steps`` and ``every_epochs`` say when; any of them may be left out. ``keep_last`` files
    stay, and the best by a metric: ``keep_best="loss"`` the one best, ``("accuracy", 2)`` the two best; whether less is
    better is told by the metric's name, or by ``lower_is_better``. ``background`` writes while training goes on: only
    copying the tensors in memory holds it up. After one of ``signals`` the next step saves, and ends the process.

    With several processes make one on every rank, and call everything on all of them; rank 0 writes. Use it as a
    context manager, or call :meth:`close` at the end.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        model: Any,
        optimizer: Any,
        scheduler: Any = None,
        scaler: Any = None,
        ema: Any = None,
        sampler: Any = None,
        args: Any = None,
        rng: bool = True,
        every_seconds: float | None = None,
        every_steps: int | None = None,
        every_epochs: int | None = 1,
        keep_last: int = 3,
        keep_best: str | tuple[str, int] | None = None,
        lower_is_better: bool | None = None,
        background: bool = False,
        signals: Iterable[int] = STOP,
    ) -> None:
        for name, value in (
            ("every_seconds", every_seconds),
            ("every_steps", every_steps),
            ("every_epochs", every_epochs),
        ):
            if value is not None and value <= 0:
                raise CkptError(f"{name}={value}: give a number above 0, or None for never")
        if keep_last < 1:
            raise CkptError(f"keep_last={keep_last}: at least the newest file must stay; give 1 or more")
        self.folder = Path(folder)
        self.parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "ema": ema}
        self.parts["sampler"] = sampler
        self.args, self.rng = args, rng
        self.every_seconds, self.every_steps, self.every_epochs = every_seconds, every_steps, every_epochs
        self.keep_last = keep_last
        self.keep_best = (keep_best, 1) if isinstance(keep_best, str) else keep_best
        self._down = lower_is_better
        self.steps = 0
        self.metrics: dict[str, float] = {}
        self._files: dict[Path, Mapping[str, Any]] = {}  # what rotation may touch, with the metrics of each
        self._saved_at = time.monotonic()
        self._wish = Wish(signals := tuple(signals))
        self._listens = bool(signals) or every_seconds is not None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ckpt") if background else None
        self._writing: Future[None] | None = None
        self._snapshot, self._prepared = Snapshot(), False
        if processes.rank() == 0:
            self._take_stock()

    def _take_stock(self) -> None:
        """Clear away what a killed process left half-written, and learn what is there."""
        if self.folder.is_dir():
            sweep(self.folder, NAME)
        for path in self._found():
            try:
                self._files[path] = glance(path, path.stat()).metrics
            except (CkptError, OSError) as error:
                LOG.warning("%s can't be read and is left alone: %s", path, error)

    def _found(self) -> list[Path]:
        """Our files, the one of the last step first."""
        try:
            names = [path for path in self.folder.iterdir() if NAME.fullmatch(path.name)]
        except OSError:
            return []
        return sorted(names, key=_step_of, reverse=True)

    def step(self, epoch: int, metrics: Mapping[str, float] | None = None) -> Path | None:
        """Count an optimizer step of an epoch (counted from 0), and save if it is time; the path if it was saved.

        After a signal it saves and raises ``SystemExit`` (128 + the signal's number). Raises ``CkptError`` as
        :func:`save_checkpoint` does.
        """
        self.steps += 1
        self.metrics |= metrics or {}
        if self._writer is not None and not self._prepared:
            self._prepare()
        due = self.every_steps is not None and self.steps % self.every_steps == 0
        return self._save_if(due, epoch, finished=False)

    def end_epoch(self, epoch: int, metrics: Mapping[str, float] | None = None) -> Path | None:
        """Say that an epoch (counted from 0) is finished, and save if it is time; otherwise as :meth:`step`."""
        self.metrics |= metrics or {}
        due = self.every_epochs is not None and (epoch + 1) % self.every_epochs == 0
        return self._save_if(due, epoch, finished=True)

    def _prepare(self) -> None:
        """Have memory for a copy made ready, once the first step has made the optimizer's state."""
        assert self._writer is not None
        self._prepared = True
        content = gather_state(self.parts, epoch=None, step=None, rng=False, args=None, metrics=None, extra={})
        self._writing = self._writer.submit(self._snapshot.expect, storages_of(content))

    def _save_if(self, due: bool, epoch: int, finished: bool) -> Path | None:
        if self.every_seconds is not None:
            due = due or time.monotonic() - self._saved_at >= self.every_seconds
        what = SAVE * due + END * self._wish.number
        if self._listens:
            what = processes.agreed(what)
        if not what:
            return None
        path = self.save(epoch, finished=finished)
        if what >= END:
            self.close()
            LOG.warning("saved %s after signal %d; ending", path, what // END)
            raise SystemExit(128 + what // END)
        return path

    def save(self, epoch: int, *, finished: bool = False, metrics: Mapping[str, float] | None = None) -> Path:
        """Save now. ``finished`` tells that the epoch is over, so that a resume begins the next one.

        Raises ``CkptError`` where this save, or the one still under way in the background, could not be written.
        """
        self.metrics |= metrics or {}
        self.wait()
        path = self.folder / f"step{self.steps:08d}.pt"
        done = epoch if finished else epoch - 1
        held = {"epoch": done if done >= 0 else None, "step": self.steps, "rng": self.rng, "args": self.args}
        extra = {"within": not finished}
        if self._writer is None:
            content = gather_state(self.parts, **held, metrics=self.metrics, extra=extra)
            write_on_first(content, path)
            self._written(path, dict(self.metrics))
        else:
            self._snapshot.begin()
            content = gather_state(self.parts, **held, metrics=self.metrics, extra=extra, take=self._snapshot.take)
            self._snapshot.finish()
            if processes.rank() == 0:
                self._writing = self._writer.submit(self._write, content, path, dict(self.metrics))
        self._saved_at = time.monotonic()
        return path

    def _write(self, content: dict[str, Any], path: Path, metrics: Mapping[str, float]) -> None:
        write_whole(path, lambda temporary: save_content(content, temporary), size_of(content))
        self._written(path, metrics)

    def _written(self, path: Path, metrics: Mapping[str, float]) -> None:
        """Count a file that was verified, and let go of what no longer needs to stay."""
        if processes.rank():
            return
        self._files[path] = metrics
        newest = sorted(self._files, key=_step_of, reverse=True)
        stay = {path, *newest[: self.keep_last], *self._best_first()[: self.keep_best[1] if self.keep_best else 0]}
        for old in newest:
            if old not in stay:
                try:
                    old.unlink(missing_ok=True)
                except OSError as error:
                    LOG.warning("%s can't be removed: %s", old, error.strerror)
                del self._files[old]

    def _best_first(self) -> list[Path]:
        if self.keep_best is None:
            return []
        name = self.keep_best[0]
        down = lower_is_better(name) if self._down is None else self._down
        known = {path: held[name] for path, held in self._files.items() if isinstance(held.get(name), (int, float))}
        known = {path: value for path, value in known.items() if isfinite(value)}
        return sorted(known, key=lambda path: (known[path] if down else -known[path], -_step_of(path)))

    @property
    def best(self) -> Path | None:
        """The best file by the metric of ``keep_best``, on rank 0."""
        return next(iter(self._best_first()), None)

    @property
    def latest(self) -> Path | None:
        """The file of the last step, on rank 0."""
        return max(self._files, key=_step_of, default=None)

    def restore_latest(self, *, map_location: Any = None, strict: bool = True) -> Restored:
        """Go on from the newest file that is good; where there is none, nothing is changed and ``path`` is empty.

        Files that are damaged, or hold NaN or infinity, are passed over, left where they are, and named in ``skipped``
        and in the log. Raises ``CkptError`` where a good file does not fit the parts.
        """
        self.wait()
        skipped: list[tuple[Path, str]] = []
        chosen = None
        if processes.rank() == 0:
            chosen = self._first_good(skipped)
        chosen, skipped = processes.shared((chosen, skipped))
        if chosen is None:
            return Restored(skipped=skipped)
        loaded = place(chosen, self.parts, rng=self.rng, map_location=map_location, strict=strict)
        self.steps, self.metrics = loaded.step or 0, dict(loaded.metrics)
        within = bool(loaded.extra.pop("within", False))
        begun = 0 if loaded.epoch is None else loaded.epoch + 1
        self._saved_at = time.monotonic()
        return Restored(**vars(loaded), next_epoch=begun, steps=self.steps, within=within, skipped=skipped)

    def _first_good(self, skipped: list[tuple[Path, str]]) -> Path | None:
        for path in self._found():
            why = reason_to_pass(path)
            if why is None:
                return path
            LOG.warning("passed over %s: %s", path, why)
            skipped.append((path, why))
            self._files.pop(path, None)
        return None

    def wait(self) -> None:
        """Wait for a save in the background; raises ``CkptError`` where it failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Finish what is under way, and give the signals back."""
        self._wish.close()
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.shutdown()

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _step_of(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    return int(match[1]) if match else -1
