"""``guard``: an ultralytics training whose saves are whole, verified, and more frequent.

The trainer writes ``last.pt`` over in its place (``torch.save`` in 8.0.200, ``write_bytes`` since 8.2), so a process
that dies inside a save leaves no good file. Guarded, its own ``save_model`` writes to names nobody else looks for;
what it wrote is verified and then renamed.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ckpt_tools.findings import CkptError
from ckpt_tools.placing import sweep
from ckpt_tools.training.manager import check_triggers
from ckpt_tools.training.signals import STOP, Wish
from ckpt_tools.training.writing import check_room, drop_earlier, failed, publish_sound

__all__ = ["guard"]

LOG = logging.getLogger("ckpt_tools")
STAGE, UNREADY = ".ckpt-guard", ".tmp"  # the folder a save is written to, and what its files are called till verified
UPDATED = ["yaml", "nc", "args", "names", "stride", "class_weights"]  # attributes the trainer gives the EMA each epoch


def guard(
    model: Any,
    *,
    every_seconds: float | None = None,
    every_batches: int | None = None,
    keep: int = 1,
    signals: Iterable[int] = STOP,
) -> Any:
    """Guard the training of an ultralytics model (or trainer); returns it. Call it before ``train``, also for a resume.

    - Each save is written aside, synced, verified, and renamed: ``last.pt``, ``best.pt`` and ``epochN.pt`` are always
      whole. A save that is damaged, or holds NaN, is not taken; the last good one stays, and the log says so.
    - ``keep`` earlier states of ``last.pt`` stay as ``last.pt.prev``, ``last.pt.prev2`` …, until the run is over.
    - ``every_seconds`` and ``every_batches`` save inside an epoch, too. The trainer resumes at the beginning of an
      epoch: it repeats the one under way, from the newer weights. A save inside the very first epoch counts as that
      epoch, since the trainer resumes from none before it; what was left of the epoch is not trained then (and a run
      of one single epoch can't be resumed at all). Releases up to 8.3.100 read ``results.csv`` for a save, which is not
      there before the first epoch is over: until then saves are left out.
    - Before a save the free disk space is checked; where it does not suffice, the save is left out, training goes on.
    - After one of ``signals`` the next batch is followed by a save, and the process ends (128 + the signal's number).

    Raises ``CkptError`` where the model takes no callbacks.
    """
    if not hasattr(model, "add_callback"):
        raise CkptError(f"guard wants an ultralytics model or trainer, not a {type(model).__name__}")
    check_triggers(every_seconds=every_seconds, every_batches=every_batches)
    for callbacks in getattr(model, "callbacks", {}).values():  # guarded before: with other numbers now
        callbacks[:] = [held for held in callbacks if not isinstance(getattr(held, "__self__", None), Guard)]
    watchman = Guard(every_seconds, every_batches, keep, tuple(signals))
    model.add_callback("on_train_start", watchman.begin)
    model.add_callback("on_train_batch_end", watchman.batch)
    model.add_callback("on_train_end", watchman.over)
    model.add_callback("teardown", watchman.leave)
    return model


class Guard:
    """The callbacks of one training. With several devices the trainer pickles them for its processes."""

    def __init__(
        self, every_seconds: float | None, every_batches: int | None, keep: int, signals: tuple[int, ...]
    ) -> None:
        self.every_seconds, self.every_batches, self.keep, self.signals = every_seconds, every_batches, keep, signals
        self.save_model: Any = None  # the trainer's own; only the process that writes has it
        self.batches = 0
        self.saved_at = 0.0
        self.size = 0  # bytes the last save needed
        self.missed = False  # whether the last save was left out
        self.wish: Wish | None = None

    def begin(self, trainer: Any) -> None:
        """Put ourselves between the trainer and its files, in the process that writes them."""
        self.leave(trainer)  # of a training before this one
        self.wish = Wish(self.signals)
        self.batches, self.size, self.missed = 0, 0, False
        self.saved_at = time.monotonic()
        if os.environ.get("RANK", "-1") not in ("-1", "0"):
            return  # and outlive the signal until rank 0 has saved
        shutil.rmtree(Path(trainer.wdir, STAGE), ignore_errors=True)  # of a run that was killed
        sweep(Path(trainer.wdir), re.compile(re.escape(Path(trainer.last).name)))
        self.save_model, final_eval = trainer.save_model, trainer.final_eval
        trainer.save_model = lambda: self.save(trainer)
        trainer.final_eval = lambda: self.end(trainer, final_eval)

    def save(self, trainer: Any, within: bool = False) -> bool:
        """Let the trainer save into the stage, and publish what is good; whether ``last.pt`` was."""
        last, best, weights = Path(trainer.last), Path(trainer.best), Path(trainer.wdir)
        stage = Stage(weights / STAGE)
        published = False
        try:
            check_room(weights, self.size)
            stage.mkdir(parents=True, exist_ok=True)
            try:
                trainer.last, trainer.best, trainer.wdir = stage / last.name, stage / best.name, stage
                self.save_model()
            finally:
                trainer.last, trainer.best, trainer.wdir = last, best, weights
            staged = sorted(path for path in stage.iterdir() if not within or path.name == last.name + UNREADY)
            self.size = sum(path.stat().st_size for path in stage.iterdir())
            for path in staged:
                place = weights / path.name.removesuffix(UNREADY)
                publish_sound(path, place, self.keep if place == last else 0)
            published = last.name + UNREADY in {path.name for path in staged}
        except CkptError as error:
            LOG.warning("this save is left out, and what was good before stays: %s", error)
        except (OSError, RuntimeError) as error:
            LOG.warning("this save is left out, and what was good before stays: %s", failed(last, error))
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        self.saved_at = time.monotonic()
        self.missed = not published
        return published

    def batch(self, trainer: Any) -> None:
        """Save inside an epoch, if it is time or the process is to end."""
        if self.save_model is None:
            return
        self.batches += 1
        due = self.every_batches is not None and self.batches % self.every_batches == 0
        due = due or (self.every_seconds is not None and time.monotonic() - self.saved_at >= self.every_seconds)
        ending = self.wish.number if self.wish is not None else 0
        if not (due or ending):
            return
        epoch = trainer.epoch
        trainer.epoch = max(epoch - 1, 0)
        trainer.ema.update_attr(trainer.model, include=UPDATED)
        try:
            saved = self.save(trainer, within=True)
        finally:
            trainer.epoch = epoch
        if ending:
            assert self.wish is not None
            LOG.warning("%s after signal %d; ending", f"saved {trainer.last}" if saved else "could not save", ending)
            self.wish.close()
            raise SystemExit(128 + ending)

    def end(self, trainer: Any, final_eval: Any) -> None:
        """The trainer's last step writes its files over without their optimizer: into copies, that are renamed."""
        modules = [sys.modules[kind.__module__] for kind in type(trainer).__mro__]
        module: Any = next((module for module in modules if hasattr(module, "strip_optimizer")), None)
        if module is None:
            final_eval()
            return
        strip = module.strip_optimizer

        def strip_aside(file: Any, *more: Any, **named: Any) -> Any:
            place = Path(file)
            if self.missed and place == Path(trainer.last):
                LOG.warning("%s is not stripped: the run got further, and only from here it can go on", place)
                return {}
            stage = Stage(place.parent / STAGE)
            aside = stage / place.name
            try:
                stage.mkdir(exist_ok=True)
                shutil.copy2(place, aside)
                stripped = strip(aside, *more, **named)
                publish_sound(aside, place)
                return stripped
            except (CkptError, OSError, RuntimeError) as error:
                LOG.warning("%s could not be stripped of its optimizer and stays as it was: %s", place, error)
                return {}
            finally:
                shutil.rmtree(stage, ignore_errors=True)

        module.strip_optimizer = strip_aside
        try:
            final_eval()
        finally:
            module.strip_optimizer = strip

    def over(self, trainer: Any) -> None:
        """The run is over: no state needs to be gone back to."""
        if self.save_model is not None and not self.missed:
            drop_earlier(Path(trainer.last), self.keep)

    def leave(self, trainer: Any) -> None:
        """Give the signals back; one that came after the last batch has its usual effect now."""
        if self.wish is not None:
            self.wish.close(served=False)


class Stage(type(Path())):  # type: ignore[misc]
    """The folder a save is written to: whatever the trainer calls a file in it, no pattern for checkpoints finds it."""

    def __truediv__(self, name: Any) -> Path:
        return Path(self, f"{name}{UNREADY}")
