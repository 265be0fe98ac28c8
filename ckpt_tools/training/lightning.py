"""Lightning: what its ``ModelCheckpoint`` writes is whole and verified, and what it would remove is worth removing."""

from __future__ import annotations

import logging
import sys
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckpt_tools.findings import CkptError
from ckpt_tools.training.writing import drop_earlier, write_whole

if TYPE_CHECKING or ("pytorch_lightning" in sys.modules and "lightning" not in sys.modules):
    from pytorch_lightning import Callback
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback

__all__ = ["VerifyCheckpoints"]

LOG = logging.getLogger("ckpt_tools")


class VerifyCheckpoints(Callback):  # type: ignore[misc]
    """A callback beside the trainer's own: ``Trainer(callbacks=[ModelCheckpoint(…), VerifyCheckpoints()])``.

    Every checkpoint is written aside, synced, verified and renamed. One that is damaged, does not fit on the disk, or
    holds NaN, is left out with a warning, and training goes on; the older files stay then, also those the trainer
    would remove. ``keep`` earlier states of a file that is written over (``last.ckpt``) stay as ``last.ckpt.prev`` …,
    until the run is over. Files on remote storage, and folders of sharded strategies, are written as without it.
    A save you ask for yourself (``trainer.save_checkpoint``) is left out the same way: look whether the file is there.
    """

    def __init__(self, keep: int = 1) -> None:
        self.keep = keep

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Put ourselves between the trainer and its files."""
        if stage == "fit" and not isinstance(trainer.strategy.checkpoint_io, VerifiedIO):
            trainer.strategy.checkpoint_io = VerifiedIO(trainer.strategy.checkpoint_io, self.keep)
            for callback in trainer.checkpoint_callbacks:
                if hasattr(callback, "_link_checkpoint"):  # of save_last="link"
                    callback._link_checkpoint = _link_to_files(callback._link_checkpoint)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """The run is over: no state needs to be gone back to."""
        written = trainer.strategy.checkpoint_io
        if isinstance(written, VerifiedIO) and not (trainer.interrupted or written.failed):
            for path in written.good:
                drop_earlier(path, self.keep)


def _link_to_files(link: Any) -> Any:
    """Let a link stay as it is where the save it would lead to was left out."""

    def link_if_there(trainer: Any, filepath: str, linkpath: str) -> None:
        if Path(filepath).exists():
            link(trainer, filepath, linkpath)

    return link_if_there


class VerifiedIO:
    """A checkpoint IO around the trainer's own; ``good`` are the files that were verified."""

    def __init__(self, inner: Any, keep: int) -> None:
        self.inner, self.keep = inner, keep
        self.good: set[Path] = set()
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def save_checkpoint(self, checkpoint: Any, path: str | PathLike[str], storage_options: Any = None) -> None:
        """Write a checkpoint whole, or leave it out; called on rank 0 alone."""
        if "://" in str(path) or "Async" in type(self.inner).__name__:
            self.inner.save_checkpoint(checkpoint, path, storage_options=storage_options)
            return
        place = Path(path)

        def write(temporary: Path) -> None:
            self.inner.save_checkpoint(checkpoint, temporary, storage_options=storage_options)

        try:
            write_whole(place, write, keep=self.keep)
            self.good.add(place)
            self.failed = False
        except CkptError as error:
            self.failed = True
            LOG.warning("this save is left out, and the last good files stay: %s", error)

    def remove_checkpoint(self, path: str | PathLike[str]) -> None:
        """Remove what the trainer no longer wants, unless what was to take its place could not be written."""
        if self.failed:
            LOG.warning("%s stays: the save that was to take its place was left out", path)
            return
        self.good.discard(Path(path))
        self.inner.remove_checkpoint(path)
