"""Trainers other than ultralytics: those that discard what they are given on resume, and scripts that decide.

A script (a plain loop, Lightning, timm, torchvision's references …) builds model, optimizer and scheduler from its own
settings and then loads their states: what lies in a state comes back from the file, the rest is as the script has it
(torch 2.14, ``Optimizer.load_state_dict`` replaces the options of every group, ``LRScheduler.load_state_dict`` all
attributes; Lightning 2.6.6, ``trainer/connectors/checkpoint_connector.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ckpt_tools.differences.model import ABSENT, Meaning
from ckpt_tools.differences.settings import Change, flat, near
from ckpt_tools.differences.situation import Situation
from ckpt_tools.layouts.parts import dict_of, plain
from ckpt_tools.layouts.recognise import PLANNED_KEYS
from ckpt_tools.layouts.values import value_of

__all__ = ["meaning_of"]

Judged = tuple[Meaning, str]

# Settings under the names scripts give them, and the option of the optimizer's groups they end up in.
OPTIONS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^(base_|init(ial)?_|max_)?(lr|learning_rate|lr0)$", re.I), "lr"),
    (re.compile(r"^(optimizer_|opt_|sgd_)?momentum$", re.I), "momentum"),
    (re.compile(r"^(weight_decay|wd|l2)$", re.I), "weight_decay"),
    (re.compile(r"^(adam_|opt_)?betas$", re.I), "betas"),
    (re.compile(r"^(adam_|opt_)?eps(ilon)?$", re.I), "eps"),
    (re.compile(r"^(nesterov|dampening|amsgrad|alpha|rho|lr_decay)$", re.I), ""),
)
OPTIMIZER = re.compile(r"^(opt|optim|optimi[sz]er(_name|_type)?)$", re.I)
KIND_KEYS = ("name", "type", "class_path", "_target_")
PLANNED = frozenset({*PLANNED_KEYS, "max_steps", "num_steps", "total_steps", "max_iters", "max_iter"})
SHAPES = re.compile(
    r"^(nc|num_?classes|n_?classes|arch(itecture)?|model(_name|_type)?|backbone|variant|in_?channels|out_?channels"
    r"|in_chans|hidden(_size|_dim)?|embed_?dim|d_model|width|depth|num_?layers|n_?layers|num_?heads|n_?heads"
    r"|num_queries|vocab_size|patch_size|input_dim|output_dim)$",
    re.I,
)
OWN_FLAGS = {"batch": "batch_size", "img": "imgsz", "img_size": "imgsz"}  # of yolov5 and its kin, besides their names
SCHEDULER_PREFIX = re.compile(r"^(lr_?)?(sched(uler)?_?)?", re.I)
COUNTS = re.compile(r"epoch|batch|step|iter|worker|seed|classes|^nc$", re.I)


def meaning_of(change: Change, situation: Situation) -> Judged:
    """What becomes of one new value."""
    for rule in (_unknown, _invalid):
        judged = rule(change, situation)
        if judged is not None:
            return judged
    if not situation.resuming:
        return _fresh(change)
    if situation.found.layout.settings:
        return _discarded(change, situation)
    for rule in (_planned, _optimizer, _option, _schedule, _shape):
        judged = rule(change, situation)
        if judged is not None:
            return judged
    return Meaning.HONOURED, "the script takes it: the saved settings are only a record"


def _last(change: Change) -> str:
    return change.key.rpartition(".")[2]


def _unknown(change: Change, situation: Situation) -> Judged | None:
    """A name the run did not have; where the file keeps no settings nothing can be said."""
    if change.old is not ABSENT:
        return None
    if situation.config.kind == "checkpoint":
        return Meaning.HONOURED, "only the other file has it"
    own = OWN_FLAGS.get(_last(change).replace("-", "_"), _last(change).replace("-", "_"))
    if situation.found.layout.settings and own in flat(situation.saved):
        return _discarded(change, situation)
    if not situation.saved:
        return Meaning.HONOURED, "the file keeps no settings to compare with: what the script has, it takes"
    hint = near(_last(change), [name.rpartition(".")[2] for name in flat(situation.saved)])
    suggestion = f"did you mean {hint}?" if hint else "the run was made without it; check the spelling"
    return Meaning.UNKNOWN, suggestion


def _invalid(change: Change, situation: Situation) -> Judged | None:
    """A value of another type than the run had."""
    old, new = change.old, change.new
    if isinstance(old, bool) and not isinstance(new, bool) and new not in (0, 1):
        return Meaning.INVALID, "the run had true or false"
    if not _number(old):
        return None
    if isinstance(new, (str, list, dict)) and not _numeric(new):
        hint = " (YAML reads it as text: write a decimal point)" if isinstance(new, str) and _float(new) else ""
        return Meaning.INVALID, f"the run had a number{hint}"
    counted = bool(COUNTS.search(_last(change))) and _number(new)
    if counted and isinstance(old, int) and isinstance(new, float) and not new.is_integer():
        return Meaning.INVALID, "the run had a whole number"
    if counted and new < 0 <= old and new != -1:
        return Meaning.INVALID, "a count below zero"
    return None


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numeric(value: Any) -> bool:
    """Whether a text is a plain number, as one typed in quotes is."""
    return isinstance(value, str) and value.strip().lstrip("+-").replace(".", "", 1).isdigit()


def _float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _fresh(change: Change) -> Judged:
    name = _last(change)
    if name in PLANNED or any(pattern.match(name) for pattern, _ in OPTIONS) or OPTIMIZER.match(name):
        return Meaning.SCHEDULE, "a new run starts with it"
    if SHAPES.match(name):
        return Meaning.HONOURED, "a new run builds its model so; what fits of the weights can be taken over"
    return Meaning.HONOURED, "a new run takes it"


def _discarded(change: Change, situation: Situation) -> Judged:
    """yolov5 and its kin: ``--resume`` reads the settings of the run, and those only.

    yolov5 5081342f, yolov7 a207844 and yolov9 5b1ea9a ``train.py``, YOLOv6 e86a483 ``tools/train.py``.
    """
    own = situation.found.layout.settings
    if situation.compares_own_settings:
        if _last(change) == "epochs":
            return Meaning.SCHEDULE, f"a resume reads this very {own}: the run ends after {change.new} epochs"
        return Meaning.HONOURED, f"a resume reads this very {own}"
    if _last(change) == "data" and isinstance(change.new, str) and "://" in change.new:
        return Meaning.HONOURED, "of the caller's settings a resume takes a data set's address alone"
    return Meaning.IGNORED, f"--resume takes the settings of the run ({own}), and nothing from the command line"


def _planned(change: Change, situation: Situation) -> Judged | None:
    """How long to train; fewer than are done leaves nothing to do."""
    if _last(change) not in PLANNED or not _number(change.new):
        return None
    done = situation.found.epoch
    if done is not None and 0 <= change.new <= done + 1 and "epoch" in _last(change).lower():
        return Meaning.BREAKS, f"{done + 1} epochs are done: nothing is left to train"
    return Meaning.SCHEDULE, f"training goes on to {change.new} instead of {change.old}"


def _optimizer(change: Change, situation: Situation) -> Judged | None:
    kind = situation.optimizer
    room = change.key.split(".")[-2:-1]  # optimizer.name
    named = OPTIMIZER.match(_last(change)) or (_last(change) in KIND_KEYS and room and OPTIMIZER.match(room[0]))
    if not named or kind is None or not isinstance(change.new, str):
        return None
    if change.new.lower().rpartition(".")[2] == kind.lower():
        return Meaning.HARMLESS, f"the state in the file is {kind}'s"
    return Meaning.BREAKS, f"the state in the file is {kind}'s: another optimizer can't go on from it"


def _option(change: Change, situation: Situation) -> Judged | None:
    """What the optimizer's groups hold comes back with its state."""
    name = _last(change)
    option = next((option or name for pattern, option in OPTIONS if pattern.match(name)), None)
    groups = [group for part in situation.found.role("optimizer") for group in part.groups]
    held = next((plain(group.options[option]) for group in groups if option in group.options), None) if option else None
    if held is None:
        return None
    shown = value_of(held)
    return Meaning.IGNORED, f"load_state_dict brings back the {option} in the optimizer's groups ({shown})"


def _schedule(change: Change, situation: Situation) -> Judged | None:
    """What the scheduler's state holds comes back with it."""
    for part in situation.found.role("scheduler"):
        state: Mapping[Any, Any] = dict_of(part.node)
        own = next((name for name in (_last(change), SCHEDULER_PREFIX.sub("", _last(change))) if name in state), None)
        if own is not None:
            return Meaning.IGNORED, f"load_state_dict brings back the scheduler's {own}"
    return None


def _shape(change: Change, situation: Situation) -> Judged | None:
    if not SHAPES.match(_last(change)):
        return None
    return Meaning.BREAKS, "it shapes the model: the saved weights and the optimizer do not fit another one"
