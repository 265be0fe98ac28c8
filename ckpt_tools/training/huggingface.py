"""transformers: the folders its ``Trainer`` writes are verified, rotated, and found again."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from os import PathLike
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ckpt_tools.checkpoint import CHECKPOINT_NAMES, SAFETENSORS
from ckpt_tools.container import read_safetensors
from ckpt_tools.findings import CkptError
from ckpt_tools.placing import sync_file, sync_folder
from ckpt_tools.sidefiles import read_json
from ckpt_tools.source import open_source
from ckpt_tools.training import processes
from ckpt_tools.training.writing import broken
from ckpt_tools.verbs.verify import verify

__all__ = ["VerifyCheckpoints", "latest_checkpoint"]

LOG = logging.getLogger("ckpt_tools")
NAME = re.compile(r"checkpoint-(\d+)")
STATE = "trainer_state.json"  # written last (transformers 5.23, trainer.py _save_checkpoint)
LONGEST_STATE = 64 << 20  # bytes: the state holds every entry of the log
WEIGHTS = ("*.safetensors", "*model*.bin", "pytorch_model*", "global_step*")
OPTIMIZERS = ("optimizer.*", "optimizer_*", "global_step*")  # plain, FSDP, DeepSpeed


class VerifyCheckpoints(TrainerCallback):  # type: ignore[misc]
    """A callback in place of ``save_total_limit``: ``Trainer(…, callbacks=[VerifyCheckpoints(keep=3)])``.

    After each save every file of the folder is synced and verified. A folder that is not good is renamed to
    ``damaged-checkpoint-N``, so that no resume takes it; of the good ones the newest ``keep`` stay, and the trainer's
    best. Nothing is removed before the new one was verified.
    """

    def __init__(self, keep: int = 3) -> None:
        if keep < 1:
            raise CkptError(f"keep={keep}: at least the newest checkpoint must stay; give 1 or more")
        self.keep = keep

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Say where the trainer's own rotation could remove the last good folder."""
        if args.save_total_limit and state.is_world_process_zero:
            LOG.warning(
                "save_total_limit removes folders before new ones are verified; leave it out, keep=%d rotates",
                self.keep,
            )

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Verify what was just written, then let go of what is no longer needed."""
        processes.agreed(0)  # every rank writes a file of its own into the folder
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if not folder.is_dir():
            return
        _sync(folder)
        why = problem(folder, weights_only=args.save_only_model)
        if why is not None:
            aside = _free_name(folder)
            folder.rename(aside)
            LOG.warning("%s is not good and was renamed to %s: %s", folder, aside.name, why)
            return
        best = Path(state.best_model_checkpoint) if state.best_model_checkpoint else None
        written = sorted(_found(folder.parent), key=lambda one: (one == folder, _written_at(one)), reverse=True)
        for old in written[self.keep :]:
            if best is None or old.resolve() != best.resolve():
                shutil.rmtree(old, ignore_errors=True)


def latest_checkpoint(output_dir: str | PathLike[str]) -> str | None:
    """The folder of the last step that is whole and verified, for ``resume_from_checkpoint``; ``None`` without one.

    Folders that are passed over are named in the log, each with why; and one of an earlier step that was written later,
    as by another run into the same place.
    """
    found = _found(Path(output_dir))
    for folder in found:
        why = problem(folder)
        if why is None:
            later = [other.name for other in found if _written_at(other) > _written_at(folder)]
            if later and folder == found[0]:
                LOG.warning(
                    "%s has the last step, but %s was written later; if it is of a new run, name it", folder, later[0]
                )
            return str(folder)
        LOG.warning("passed over %s: %s", folder, why)
    return None


def problem(folder: Path, weights_only: bool = False) -> str | None:
    """Why a training can't go on from a folder, ``None`` where it can."""
    try:
        state = read_json(folder / STATE, LONGEST_STATE)
        if not isinstance(state, dict) or "global_step" not in state:
            return f"{STATE} holds no state"
        missing = [name for name in _shards(folder) if not (folder / name).exists()]
        if missing or not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
            return f"the weights are missing: {', '.join(missing) or 'no file of them'}"
        if not weights_only and not any(next(folder.glob(pattern), None) for pattern in OPTIMIZERS):
            return "the optimizer is missing: a resume would start a fresh one without a word"
        if (folder / "optimizer.pt").exists() and not (folder / "scheduler.pt").exists():
            return "the scheduler is missing: a resume would start a fresh one without a word"
        for path in sorted(folder.rglob("*")):
            why = _problem_of(path) if path.is_file() else None
            if why is not None:
                return f"{path.name}: {why}"
    except (CkptError, OSError, ValueError, AttributeError, TypeError) as error:
        return str(error)
    return None


def _shards(folder: Path) -> set[str]:
    """The files an index of sharded weights names."""
    names: set[str] = set()
    for index in folder.glob("*.index.json"):
        names |= set(read_json(index, LONGEST_STATE).get("weight_map", {}).values())
    return names


def _written_at(folder: Path) -> int:
    try:
        return (folder / STATE).stat().st_mtime_ns
    except OSError:
        return 0


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            sync_file(path)
    sync_folder(folder)


def _problem_of(path: Path) -> str | None:
    name = path.name.lower()
    try:
        if name.endswith(SAFETENSORS):
            with open_source(path) as source:
                read_safetensors(source)
        elif name.endswith((*CHECKPOINT_NAMES, ".bin")) and path.name != "training_args.bin":
            fact = broken(verify(path, siblings=False))
            return fact.message if fact is not None else None
    except CkptError as error:
        return str(error)
    return None


def _found(folder: Path) -> list[Path]:
    """The checkpoint folders in a run's folder, the one of the last step first."""
    steps = {path: NAME.fullmatch(path.name) for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else {}
    return sorted((path for path, match in steps.items() if match), key=lambda path: -int(path.name.split("-")[1]))


def _free_name(folder: Path) -> Path:
    names = (folder.with_name(f"damaged-{folder.name}{f'.{number}' if number else ''}") for number in range(1000))
    return next(name for name in names if not name.exists())
