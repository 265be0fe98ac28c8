"""ultralytics: what a resume, or a new run from the weights, makes of each setting that differs.

Before anything else every override passes the same check as in a new run (``get_cfg`` in ``cfg/__init__.py``); what
becomes of it then is in :mod:`ckpt_tools.differences.overrides`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ckpt_tools.differences.model import Meaning
from ckpt_tools.differences.overrides import IN_A_NEW_RUN, ON_RESUME, Judged, fresh, resumed
from ckpt_tools.differences.settings import Change, near
from ckpt_tools.differences.situation import Situation
from ckpt_tools.layouts.arguments import (
    argument_releases,
    default_arguments,
    known_arguments,
    read_in_training,
    refused_value,
    renamed,
    taken_on_resume,
)
from ckpt_tools.layouts.parts import whole_number
from ckpt_tools.layouts.ultralytics import Release, numbers

__all__ = ["meaning_of", "refusal"]

SHARES = (8, 2, 29)  # from here on a batch may be a share of the memory
IDLE_DEVICE = (8, 3, 126)  # from here on device -1 asks for an idle one


def meaning_of(change: Change, situation: Situation) -> Judged:
    """What becomes of one new value: the first rule that knows."""
    judged = _renamed(change, situation) or refusal(change, situation)
    judged = judged or _special(change, situation) or _unread(change, situation)
    if judged is not None:
        return judged
    return resumed(change, situation) if situation.resuming else fresh(change)


def refusal(change: Change, situation: Situation) -> Judged | None:
    """Why the trainer stops at a setting, whether or not it differs from the saved one."""
    if renamed(change.key, situation.version) is not None:
        return None
    if change.key == "resume" and situation.resuming and "resume" in situation.config.overrides and not change.new:
        return Meaning.BREAKS, "resume=False starts a new run"
    return _unknown(change, situation) or _invalid(change, situation)


def _renamed(change: Change, situation: Situation) -> Judged | None:
    """A name of older releases that this one still translates, or drops with a warning."""
    old = renamed(change.key, situation.version)
    if old is None:
        return None
    if old.flag and not isinstance(change.new, (bool, type(None))):
        return Meaning.INVALID, "true or false is wanted; the trainer stops"
    if old.becomes is None:
        mattered = bool(change.new) and change.key not in NEVER_TRAINED
        meaning = Meaning.IGNORED if mattered else Meaning.HARMLESS
        return meaning, f"{change.key} is gone since {old.since}: the trainer drops it with a warning"
    value = TRANSLATED[change.key](change.new) if change.key in TRANSLATED else change.new
    if value == situation.saved.get(old.becomes, default_arguments(situation.version).get(old.becomes)):
        return Meaning.HARMLESS, f"{old.becomes} since {old.since}, with the saved value"
    becoming = Change(old.becomes, situation.saved.get(old.becomes), value)
    judged, why = meaning_of(becoming, situation)
    return judged, f"{old.becomes} since {old.since}: {why}"


NEVER_TRAINED = frozenset({"keras", "crop_fraction", "save_hybrid"})  # dropped names that never shaped a training
# What the trainer makes of the value of a name it translates (``cfg/__init__.py``, ``_handle_deprecation``).
TRANSLATED: dict[str, Callable[[Any], Any]] = {
    "half": lambda value: 16 if value else None,
    "int8": lambda value: 8 if value else None,
    "hide_labels": lambda value: not value,
    "hide_conf": lambda value: not value,
    "end2end": lambda value: False if value else None,
}


def _unknown(change: Change, situation: Situation) -> Judged | None:
    known = known_arguments(situation.version)
    if change.key in known:
        return None
    releases = argument_releases(change.key)
    if releases is not None:
        since, until = releases
        gone = until is not None and situation.version >= numbers(until)
        when = f"{until} dropped it" if gone else f"it came with {since}"
        return Meaning.UNKNOWN, f"{situation.trainer} has no such argument ({when}) and stops (SyntaxError)"
    hint = near(change.key.rpartition(".")[2], sorted(known))
    suggestion = f"did you mean {hint}?" if hint else "check the spelling:"
    return Meaning.UNKNOWN, f"{suggestion} the trainer stops at names it does not know (SyntaxError)"


def _invalid(change: Change, situation: Situation) -> Judged | None:
    wanted = refused_value(change.key, change.new, situation.version) or _odd_value(change, situation)
    if not wanted:
        return None
    hint = ""
    if isinstance(change.new, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", change.new):
        hint = f" (YAML reads {change.new} as text: write {float(change.new):.1e})"
    return Meaning.INVALID, f"{wanted} is wanted{hint}; the trainer stops"


def _odd_value(change: Change, situation: Situation) -> str:
    """What is wanted instead of a value the trainer does not check, but fails at where it takes it."""
    taken = not situation.resuming or change.key in taken_on_resume(situation.version)
    check = ODD_VALUES.get(change.key)
    return check[1] if check is not None and taken and not check[0](change.new, situation.version) else ""


def _image_size(value: Any, _: Release) -> bool:
    if isinstance(value, str):
        return whole_number(value) is not None
    sizes = value if isinstance(value, (list, tuple)) else [value]
    return bool(sizes) and all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)


def _batch_size(value: Any, version: Release) -> bool:
    """A number of images, -1 to measure it, or, from 8.2.29 on, a share of the memory."""
    if version and version < SHARES:
        return isinstance(value, int) and (value > 0 or value == -1)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole or (isinstance(value, float) and value < 1)


def _device_name(value: Any, version: Release) -> bool:
    if version and version < IDLE_DEVICE and "-1" in str(value):
        return False
    text = re.sub(r"[\s()\[\]'\"]", "", str(value).lower()) if isinstance(value, (str, list, tuple)) else ""
    return re.fullmatch(r"(none|(cpu|mps|cuda|npu|xpu|tpu|hpu|intel:\w+)?(:?-?\d+,?)*)?", text) is not None


ODD_VALUES: dict[str, tuple[Callable[[Any, Release], bool], str]] = {
    "imgsz": (_image_size, "a whole number of pixels"),
    "batch": (_batch_size, "a whole number of images, -1, or a share of the memory below 1"),
    "device": (_device_name, "a device like 0, 0,1 or cpu"),
    "augmentations": (lambda value, _: value is None or isinstance(value, list), "a list"),
    "close_mosaic": (lambda value, _: value is not None, "a whole number"),
}


def _special(change: Change, situation: Situation) -> Judged | None:
    rule = (ON_RESUME if situation.resuming else IN_A_NEW_RUN).get(change.key)
    return rule(change, situation) if rule else None


def _unread(change: Change, situation: Situation) -> Judged | None:
    if read_in_training(change.key) or change.key in taken_on_resume(situation.version):
        return None
    return Meaning.HARMLESS, "training does not read it"
