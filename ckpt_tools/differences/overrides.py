"""ultralytics: the settings a resume, or a new run, treats in a way of their own, and how it treats all others.

A resume builds its arguments anew from those in the file and takes a short list of the caller's over, which grew from
release to release (``BaseTrainer.check_resume`` in ``engine/trainer.py``; ``layouts/ultralytics.json`` has the lists).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ckpt_tools.checks.context import release
from ckpt_tools.checks.machine import missing_device
from ckpt_tools.differences.architecture import BLOCKS, named_architecture
from ckpt_tools.differences.model import ABSENT, Meaning
from ckpt_tools.differences.settings import Change
from ckpt_tools.differences.situation import Situation
from ckpt_tools.layouts.arguments import taken_on_resume
from ckpt_tools.layouts.ultralytics import auto_choices, group_rules, optimizer_names, resume_rules

__all__ = ["IN_A_NEW_RUN", "IN_GROUPS", "ON_RESUME", "Judged", "fresh", "resumed"]

Judged = tuple[Meaning, str]
Rule = Callable[[Change, Situation], "Judged | None"]
OWN_COPY = (8, 3, 4)  # from here on the trainer switches mosaics off in a copy of its arguments
RESOLVED = (8, 4, 172)  # from here on the optimizer that `auto` chose is stored, with its lr0
CPU_DEVICES = ("cpu", "mps")
IN_GROUPS = frozenset({"momentum", "weight_decay"})  # kept in the optimizer's groups, which come back with its state


def resumed(change: Change, situation: Situation) -> Judged:
    """What the list of overrides says."""
    if change.key in taken_on_resume(situation.version):
        return Meaning.HONOURED, "a resume takes the new value"
    silent = "" if resume_rules(situation.version).get("unknown_override_warned") else ", without a word"
    if change.key in IN_GROUPS:
        return Meaning.IGNORED, f"the saved value wins{silent}; it also lies in the optimizer's groups"
    return Meaning.IGNORED, f"the saved value wins{silent}"


def fresh(change: Change) -> Judged:
    """A new run takes what it is given."""
    if change.key in SHAPES_SCHEDULE:
        return Meaning.SCHEDULE, SHAPES_SCHEDULE[change.key]
    return Meaning.HONOURED, "a new run takes it"


SHAPES_SCHEDULE = {
    "epochs": "the learning rate falls over this many epochs",
    "time": "ends the run after so many hours, whatever the epochs",
    "patience": "ends the run after so many epochs without a better result",
    "batch": "changes the steps of an epoch, and how many batches make one",
    "nbs": "changes how many batches make one step",
    "lr0": "the learning rate starts here",
    "lrf": "the learning rate ends at this share of lr0",
    "cos_lr": "the learning rate falls along a cosine instead of a line",
    "warmup_epochs": "the warm-up takes this long",
    "warmup_momentum": "the warm-up starts with this momentum",
    "warmup_bias_lr": "the warm-up of the biases starts at this rate",
    "close_mosaic": "mosaics end so many epochs before the run does",
}


def _model(change: Change, situation: Situation) -> Judged:
    """On resume the weights and the architecture are the checkpoint's, whatever ``model`` says."""
    if not isinstance(change.new, str) or not change.new:
        return Meaning.HARMLESS, "the command names the checkpoint"
    if _same_file(change.new, situation):
        return Meaning.HARMLESS, "it is this checkpoint"
    if situation.resuming and "model" in situation.config.overrides:
        why = "on the command line model= names the checkpoint to go on from"
        return Meaning.BREAKS, f"{why}: {named_architecture(change.new, situation) or 'name this one there'}"
    other = named_architecture(change.new, situation)
    if other is None:
        return Meaning.IGNORED, "a resume goes on with the checkpoint's own weights and architecture"
    if not other:
        return Meaning.HARMLESS, "the same architecture as the checkpoint's"
    if not situation.resuming:
        return Meaning.HONOURED, f"{other}; what fits of the weights is taken over"
    return Meaning.BREAKS, f"{other}: its weights and optimizer do not fit; a resume keeps the checkpoint's own model"


def _same_file(text: str, situation: Situation) -> bool:
    try:
        return os.path.samefile(situation.place(text), situation.checkpoint.path)
    except (OSError, ValueError):
        return False


def _data(change: Change, situation: Situation) -> Judged:
    if not change.new:
        return Meaning.HARMLESS, "the saved data set is used"
    if isinstance(change.new, str) and isinstance(change.old, str):
        place = situation.place(change.new)
        unseen = not place.is_absolute() and not os.path.exists(place) and Path(change.old).parts[-len(place.parts) :]
        here = Path(os.path.expanduser(change.new))
        if place != here and os.path.exists(place):
            why = f"the trainer looks for {here} from where it is started: do that in {place.parent}"
            return (Meaning.BREAKS, f"there is no {here} here") if situation.here else (Meaning.HONOURED, why)
        if str(place.absolute()) == change.old or (os.path.exists(place) and os.path.realpath(place) == change.old):
            return Meaning.HARMLESS, "the same file"
        if unseen == place.parts:
            return Meaning.HARMLESS, "the same file, as far as its relative path tells"
    how = resume_rules(situation.version)["data_from_caller"]
    there = isinstance(change.old, str) and os.path.exists(change.old) if situation.here else True
    if not situation.resuming or how == "always" or (how == "if_missing" and not there):
        if situation.here and _is_path(change.new) and not os.path.exists(situation.place(change.new)):
            return Meaning.BREAKS, "there is no such data set here"
        return Meaning.HONOURED, "training goes on with this data set"
    if how == "if_missing":
        return Meaning.IGNORED, "the saved data set is used where it is still there"
    return Meaning.IGNORED, "the saved data set is used"


def _is_path(data: Any) -> bool:
    """Whether a data set is named by a place; plain names (coco8.yaml) the trainer looks up among its own."""
    return isinstance(data, str) and ("/" in data or "\\" in data) and "://" not in data


def _epochs(change: Change, situation: Situation) -> Judged:
    done = situation.found.epoch
    reached = f", {done + 1} of them done" if done is not None and done >= 0 else ""
    fewer = done is not None and isinstance(change.new, (int, float)) and change.new <= done + 1
    over = " (fewer than are done: the run would be over)" if fewer else ""
    saved = f"the run goes on to the saved {_shown(change.old)}{reached}"
    return Meaning.IGNORED, f"{saved}; {change.new} is not taken{over}"


def _optimizer(change: Change, situation: Situation) -> Judged:
    kind = situation.optimizer
    asked = str(change.new).lower()
    if asked == "auto" and _resolved(situation):
        return Meaning.HARMLESS, f"auto chose {_shown(change.old)} in this run, and a resume keeps it"
    if str(change.old).lower() == "auto":
        return (
            Meaning.IGNORED,
            f"the saved 'auto' decides again{f'; the state in the file is of {kind}' if kind else ''}",
        )
    state = f", and the state in the file is {kind}'s" if kind else ""
    unknown = asked not in optimizer_names(situation.version)
    return Meaning.IGNORED, f"the saved optimizer wins{state}{'; no release has one of that name' if unknown else ''}"


def _resolved(situation: Situation) -> bool:
    """Whether the saved optimizer and rate are what ``auto`` chose, and the new configuration says ``auto``."""
    own = release(situation.found.version) or situation.version
    chosen = {name.lower() for name in auto_choices(own)}
    saved = str(situation.saved.get("optimizer")).lower()
    return own >= RESOLVED and saved in chosen


def _rate(change: Change, situation: Situation) -> Judged | None:
    """Rates where ``auto`` decides about them, in both configurations; it has ``warmup_bias_lr`` stored as 0."""
    saved = str(situation.saved.get("optimizer")).lower()
    asked = str(situation.config.values.get("optimizer", saved)).lower()
    if asked == "auto" and (saved == "auto" or _resolved(situation)):
        return Meaning.HARMLESS, "with optimizer=auto the trainer sets it, and a resume keeps what it set"
    return None


def _closed(change: Change, situation: Situation) -> Judged | None:
    """Up to 8.3.3 the augmentations that end with the mosaics were stored as 0 once these had ended."""
    epoch, epochs = situation.found.epoch, situation.found.epochs
    closing = situation.saved.get("close_mosaic")
    written = release(situation.found.version)
    if epoch is None or epochs is None or not isinstance(closing, int) or change.old != 0:
        return None
    if written and written < OWN_COPY and epoch + 1 >= epochs - closing:
        return Meaning.HARMLESS, f"the last {closing} epochs have begun, in which it is off"
    return None


def _batch(change: Change, situation: Situation) -> Judged:
    judged, why = resumed(change, situation)
    if judged is not Meaning.HONOURED:
        return judged, why
    nominal = situation.saved.get("nbs", 64)
    before, after = (_accumulated(batch, nominal) for batch in (change.old, change.new))
    if before and after and before != after:
        why = f"a resume takes it; {after} batches make one step instead of {before} (nbs {nominal})"
    elif not isinstance(change.new, int) or change.new <= 0:
        why = "a resume takes it: the trainer measures how many images fit the memory"
    if str(situation.saved.get("optimizer")).lower() == "auto":
        why += "; the saved optimizer is 'auto', which may choose another one for another batch"
    return Meaning.HONOURED, why


def _accumulated(batch: Any, nominal: Any) -> int | None:
    """How many batches make one optimizer step: ``max(round(nbs / batch), 1)``."""
    if not isinstance(batch, int) or not isinstance(nominal, int) or batch <= 0 or nominal <= 0:
        return None
    return max(round(nominal / batch), 1)


def _imgsz(change: Change, situation: Situation) -> Judged:
    judged, why = resumed(change, situation)
    if judged is not Meaning.HONOURED:
        return judged, why
    largest = max(change.new) if isinstance(change.new, list) else int(change.new)
    stride = situation.stride
    used = max(-(-largest // stride) * stride, stride)
    if used == change.old:
        return Meaning.HARMLESS, f"the trainer makes it {used}, a multiple of the stride {stride}"
    if used != change.new:
        why = f"a resume takes it, as {used}: one number, a multiple of the stride {stride}"
    return judged, why


def _workers(change: Change, situation: Situation) -> Judged:
    judged, why = resumed(change, situation)
    device = str(situation.config.values.get("device", situation.saved.get("device")))
    if judged is Meaning.HONOURED and device in CPU_DEVICES:
        return Meaning.HARMLESS, f"on {device} the trainer sets it to 0"
    return judged, why


def _device(change: Change, situation: Situation) -> Judged:
    judged, why = resumed(change, situation) if situation.resuming else fresh(change)
    missing = missing_device(change.new) if situation.here and judged is Meaning.HONOURED else ""
    return (Meaning.BREAKS, f"this machine has no {missing}") if missing else (judged, why)


def _time(change: Change, situation: Situation) -> Judged:
    judged, why = resumed(change, situation)
    if judged is Meaning.HONOURED:
        if not change.new and not change.old:
            return Meaning.HARMLESS, "no limit, as before"
        late = isinstance(change.new, (int, float)) and change.new < 0
        why = f"the run ends after {change.new} more hours" if change.new else "the saved number of epochs ends the run"
        return Meaning.SCHEDULE, "the run ends after its next epoch" if late else f"{why}; the learning rate follows"
    return judged, why


def _close_mosaic(change: Change, situation: Situation) -> Judged:
    judged, why = resumed(change, situation)
    epochs = situation.found.epochs
    if judged is Meaning.HONOURED and isinstance(change.new, int) and change.new > 0 and epochs:
        why = f"a resume takes it: mosaics end after epoch {max(epochs - change.new, 0)} of {epochs}"
    return judged, why


def _freeze(change: Change, situation: Situation) -> Judged:
    judged, why = resumed(change, situation) if situation.resuming else fresh(change)
    layers = sum(len(situation.architecture.get(block) or ()) for block in BLOCKS)
    if judged is Meaning.HONOURED and isinstance(change.new, int) and layers and change.new >= layers:
        return Meaning.BREAKS, f"the model has {layers} layers: nothing would be left to train"
    if judged is Meaning.HONOURED and isinstance(change.new, str):
        return judged, "a text freezes nothing; a number of layers or a list is wanted"
    return judged, why


def _teacher(change: Change, situation: Situation) -> Judged:
    """A teacher brings parameters of its own into the optimizer's groups."""
    judged, why = resumed(change, situation)
    if judged is Meaning.HONOURED and bool(change.old) != bool(change.new):
        return Meaning.BREAKS, "the teacher's parameters belong to the optimizer's groups: the saved state does not fit"
    return judged, why


def _task(change: Change, situation: Situation) -> Judged:
    return Meaning.IGNORED, f"the task is the model's own ({_shown(change.old)})"


def _folder_name(change: Change, situation: Situation) -> Judged:
    return Meaning.IGNORED, "a resume writes on into the saved save_dir"


def _by_command(change: Change, situation: Situation) -> Judged:
    return Meaning.HARMLESS, "the command decides it"


def _pretrained(change: Change, situation: Situation) -> Judged:
    return Meaning.HARMLESS, "a resume takes its weights from the checkpoint"


def _save_dir(change: Change, situation: Situation) -> Judged:
    judged, why = resumed(change, situation)
    if judged is Meaning.HONOURED and not change.new:
        return judged, "without one the saved project and name make the folder"
    return judged, "the run goes on in this folder" if judged is Meaning.HONOURED else why


def _shown(value: Any) -> str:
    return "none" if value is ABSENT else str(value)


ON_RESUME: dict[str, Rule] = {
    "model": _model,
    "data": _data,
    "epochs": _epochs,
    "optimizer": _optimizer,
    "lr0": _rate,
    "warmup_bias_lr": _rate,
    "momentum": _rate,
    **dict.fromkeys(("mosaic", "mixup", "copy_paste"), _closed),
    "batch": _batch,
    "imgsz": _imgsz,
    "workers": _workers,
    "device": _device,
    "time": _time,
    "close_mosaic": _close_mosaic,
    "freeze": _freeze,
    "distill_model": _teacher,
    "task": _task,
    "project": _folder_name,
    "name": _folder_name,
    "exist_ok": _folder_name,
    "save_dir": _save_dir,
    "mode": _by_command,
    "resume": _by_command,
    "cfg": _by_command,
    "pretrained": _pretrained,
}


def _new_optimizer(change: Change, situation: Situation) -> Judged:
    if str(change.new).lower() not in optimizer_names(situation.version):
        names = group_rules(situation.version)["names"]
        return Meaning.INVALID, f"one of {', '.join(names)} is wanted; the trainer stops"
    return Meaning.SCHEDULE, "a new run starts with an optimizer of its own"


def _no_resume(change: Change, situation: Situation) -> Judged:
    if change.new:
        return Meaning.BREAKS, "it would go on with a run that was interrupted instead of starting a new one"
    return Meaning.HARMLESS, "a new run is no resume"


def _from_scratch(change: Change, situation: Situation) -> Judged:
    if change.new is False:
        return Meaning.BREAKS, "a new run would not start from these weights"
    return Meaning.HONOURED, "the weights the new run starts from"


IN_A_NEW_RUN: dict[str, Rule] = {
    "model": _model,
    "data": _data,
    "device": _device,
    "freeze": _freeze,
    "optimizer": _new_optimizer,
    "mode": _by_command,
    "resume": _no_resume,
    "pretrained": _from_scratch,
    "cfg": _by_command,
    "task": _task,
}
