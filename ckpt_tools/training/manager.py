"""Checkpoints of a loop of your own: when to save, what to keep, where to go on, and how to end in time."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ckpt_tools.findings import CkptError
from ckpt_tools.placing import make_folder, sweep
from ckpt_tools.training import processes
from ckpt_tools.training.files import place, save_together
from ckpt_tools.training.sampler import ResumableSampler
from ckpt_tools.training.signals import STOP, Wish
from ckpt_tools.training.snapshot import Snapshot
from ckpt_tools.training.state import PARTS, Loaded, gather_state, numbers
from ckpt_tools.training.writing import failed, reason_to_pass, storages_of, write_state
from ckpt_tools.verbs.glance import glance, lower_is_better

__all__ = ["CheckpointManager", "Restored", "check_triggers"]

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
    better is told by the metric's name, or by ``lower_is_better``. A file counts with what was said of the metric since
    the save before. ``background`` writes while training goes on: only copying the tensors in memory holds it up. After
    one of ``signals`` the next step saves, and ends the process.

    With several processes make one on every rank, and call everything on all of them; rank 0 writes. Use it as a
    context manager, or call :meth:`close` at the end. Raises ``CkptError`` where the folder can't be made.
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
        check_triggers(every_seconds=every_seconds, every_steps=every_steps, every_epochs=every_epochs)
        if keep_last < 1:
            raise CkptError(f"keep_last={keep_last}: at least the newest file must stay; give 1 or more")
        self.keep_best = (keep_best, 1) if isinstance(keep_best, str) else keep_best
        if self.keep_best is not None and self.keep_best[1] < 1:
            raise CkptError(f"keep_best={keep_best}: give 1 or more, or leave it out")
        self.folder = Path(folder)
        self.parts = dict(zip(PARTS, (model, optimizer, scheduler, scaler, ema, sampler)))
        self.args, self.rng = args, rng
        self.every_seconds, self.every_steps, self.every_epochs = every_seconds, every_steps, every_epochs
        self.keep_last = keep_last
        self._down = lower_is_better
        self.steps = 0
        self.metrics: dict[str, float] = {}  # what was said since the last save
        self._files: dict[Path, Mapping[str, Any]] = {}  # what rotation may touch, with the metrics of each
        self._saved_at = time.monotonic()
        self._begun = self._told = self._closed = False
        self._listens = bool(signals := tuple(signals)) or every_seconds is not None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ckpt") if background else None
        self._writing: Future[None] | None = None
        self._snapshot = Snapshot()
        save_together(self._take_stock, self.folder)
        self._wish = Wish(signals)

    def _take_stock(self) -> None:
        """Clear away what a killed process left half-written, and learn what is there."""
        try:
            make_folder(self.folder)
        except OSError as error:
            raise failed(self.folder, error) from error
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

    def step(self, epoch: int, metrics: Mapping[str, Any] | None = None) -> Path | None:
        """Count an optimizer step of an epoch (counted from 0), and save if it is time; the path if it was saved.

        After a signal it saves and raises ``SystemExit`` (128 + the signal's number). Raises ``CkptError`` as
        :func:`save_checkpoint` does, and at the first step where the folder holds an earlier run.
        """
        self._begin()
        self.steps += 1
        self.metrics |= numbers(metrics)
        due = self.every_steps is not None and self.steps % self.every_steps == 0
        return self._save_if(due, epoch, finished=False)

    def end_epoch(self, epoch: int, metrics: Mapping[str, Any] | None = None) -> Path | None:
        """Say that an epoch (counted from 0) is finished, and save if it is time; otherwise as :meth:`step`."""
        self._begin()
        self.metrics |= numbers(metrics)
        if isinstance(self.parts["sampler"], ResumableSampler):
            self.parts["sampler"].end_epoch()
        due = self.every_epochs is not None and (epoch + 1) % self.every_epochs == 0
        return self._save_if(due, epoch, finished=True)

    def _begin(self) -> None:
        """What the first step finds: no other run's files, and memory for copies to be made ready."""
        if self._begun:
            return
        self._begun = True
        save_together(self._refuse_another_run, self.folder)

    def _refuse_another_run(self) -> None:
        ahead = [path for path in self._files if _step_of(path) > self.steps]
        if ahead:
            raise CkptError(
                f"{self.folder} holds a run that got to step {max(map(_step_of, ahead))}; "
                "call restore_latest() first to go on with it, or give another folder"
            )

    def _save_if(self, due: bool, epoch: int, finished: bool) -> Path | None:
        if self.every_seconds is not None:
            due = due or time.monotonic() - self._saved_at >= self.every_seconds
        what = SAVE * due + END * self._wish.number
        if self._listens:
            what = processes.agreed(what)
        if what >= END:
            self._end(what // END, epoch, finished)
        elif what:
            return self.save(epoch, finished=finished)
        elif self._writer is not None and self._writing is None and processes.rank() == 0:
            self._prepare()
        return None

    def _prepare(self) -> None:
        """Have memory for a copy made ready; the optimizer has its state by now."""
        assert self._writer is not None
        if not self._snapshot.ready:
            self._snapshot.ready = True
            content = self._gathered(None, None, torch.Tensor.detach)
            self._writing = self._writer.submit(self._snapshot.expect, storages_of(content))

    def _end(self, number: int, epoch: int, finished: bool) -> None:
        """Save after a signal and end the process, once the file is there, or it is known that it can't be."""
        try:
            path = self.save(epoch, finished=finished)
            save_together(self.wait, path)
            LOG.warning("saved %s after signal %d; ending", path, number)
        except CkptError as error:
            LOG.error("ending after signal %d without a save: %s", number, error)
        self._wish.close()
        raise SystemExit(128 + number)

    def save(self, epoch: int, *, finished: bool = False, metrics: Mapping[str, Any] | None = None) -> Path:
        """Save now. ``finished`` tells that the epoch is over, so that a resume begins the next one.

        Raises ``CkptError``, on every rank, where this save could not be written, or the one before it that was under
        way in the background.
        """
        self._begin()
        if self._closed:
            raise CkptError("this manager is closed; make a new one to save again")
        self.metrics |= numbers(metrics)
        path = self.folder / f"step{self.steps:08d}.pt"
        done = epoch if finished else epoch - 1
        states = processes.random_states() if self.rng else None
        new, self.metrics = self.metrics, {}
        before: list[CkptError] = []

        def write() -> None:
            try:
                self.wait()
            except CkptError as error:
                before.append(error)
            said = {**self._files.get(path, {}), **new}  # the same step may be saved twice, at the end of an epoch
            if self._writer is None:
                self._write(self._gathered(states, done, torch.Tensor.detach, said, finished), path, said)
            else:
                self._snapshot.begin()
                content = self._gathered(states, done, self._snapshot.take, said, finished)
                self._snapshot.finish()
                self._writing = self._writer.submit(self._write, content, path, said)
            if before:
                raise before[0]

        save_together(write, path)
        self._saved_at = time.monotonic()
        return path

    def _gathered(
        self,
        states: list[Any] | None,
        done: int | None,
        take: Callable[[torch.Tensor], torch.Tensor],
        metrics: Mapping[str, float] | None = None,
        finished: bool = False,
    ) -> dict[str, Any]:
        epoch = done if done is not None and done >= 0 else None
        extra = {"within": not finished}
        return gather_state(
            self.parts,
            epoch=epoch,
            step=self.steps,
            rng=states,
            args=self.args,
            metrics=metrics,
            extra=extra,
            take=take,
        )

    def _write(self, content: dict[str, Any], path: Path, metrics: Mapping[str, float]) -> None:
        write_state(path, content)
        self._written(path, metrics)

    def _written(self, path: Path, metrics: Mapping[str, float]) -> None:
        """Count a file that was verified, and let go of what no longer needs to stay."""
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
        known = {path: value for path, value in known.items() if isfinite(value) and path.exists()}
        if not known and self._files and not self._told:
            self._told = True
            LOG.warning("keep_best: no save was told %s yet, so none is kept for it", name)
        return sorted(known, key=lambda path: (known[path] if down else -known[path], _step_of(path)))

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
        skipped: list[tuple[Path, str]] = []
        found: list[Path | None] = [None]

        def choose() -> None:
            self.wait()
            found[0] = self._first_good(skipped)

        save_together(choose, self.folder)
        chosen, skipped = processes.shared((found[0], skipped))
        if chosen is None:
            return Restored(skipped=skipped)
        loaded, failure = Loaded(), None
        try:
            loaded = place(chosen, self.parts, rng=self.rng, map_location=map_location, strict=strict)
        except CkptError as error:
            failure = error
        if processes.agreed(failure is not None):
            raise failure or CkptError(f"{chosen} could not be loaded by another rank; its message says why")
        self.steps = loaded.step or 0
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
        """Finish what is under way, and give the signals back; one that came too late to be saved after is raised."""
        self._closed = True
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.shutdown()
            self._wish.close(served=False)

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_triggers(**values: float | None) -> None:
    """Raise ``CkptError`` for a trigger that would never, or always, fire."""
    for name, value in values.items():
        if value is not None and value <= 0:
            raise CkptError(f"{name}={value}: give a number above 0, or None for never")


def _step_of(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    return int(match[1]) if match else -1
