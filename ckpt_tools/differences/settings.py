"""Saved settings against new ones: which differ in value, however they are nested, spelt or typed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckpt_tools.differences.model import ABSENT

__all__ = ["Change", "changes", "flat", "near"]

PATH_KEYS = frozenset({"data", "model", "project", "save_dir", "weights", "cfg", "hyp", "source", "distill_model"})
DIGITS = 12  # significant ones; more is noise of the way a number was written
# How DeepDiff compares: 4 is 4.0, numbers by their leading digits, names that begin with underscores like all others.
COMPARING: dict[str, Any] = {
    "ignore_numeric_type_changes": True,
    "significant_digits": DIGITS,
    "number_format_notation": "e",
    "ignore_private_variables": False,
    "threshold_to_diff_deeper": 0,
}
# What other trainers call a setting, for those who come from there.
ALIASES = {
    "lr": ("lr0",),
    "learning_rate": ("lr0", "lr"),
    "lr0": ("lr", "learning_rate"),
    "batch_size": ("batch",),
    "batch": ("batch_size",),
    "bs": ("batch", "batch_size"),
    "img": ("imgsz",),
    "img_size": ("imgsz",),
    "image_size": ("imgsz",),
    "num_workers": ("workers",),
    "gpu": ("device",),
    "gpus": ("device",),
    "dataset": ("data",),
    "wd": ("weight_decay",),
    "max_epochs": ("epochs",),
    "epochs": ("max_epochs", "num_epochs"),
}


@dataclass(frozen=True)
class Change:
    """A setting whose value differs; ``old`` or ``new`` may be :data:`ABSENT`."""

    key: str
    old: Any
    new: Any


def changes(saved: Mapping[str, Any], new: Mapping[str, Any], *, exact: bool = False) -> list[Change]:
    """What ``new`` has otherwise than ``saved``, in the order of ``new``; what it leaves out stays as it is.

    Unless names are ``exact``, a flat one finds its nested twin (``lr`` that of ``optimizer.lr``), if it has just one.
    """
    from deepdiff import DeepDiff

    ours, theirs = flat(saved), flat(new)
    names = {key: key if exact else _saved_name(key, ours) for key in theirs}
    old = {key: _comparable(key, ours[name]) for key, name in names.items() if name in ours}
    wanted = {key: _comparable(key, value) for key, value in theirs.items()}
    found = DeepDiff(old, wanted, view="tree", **COMPARING)
    differing = {item.path(output_format="list")[0] for items in found.values() for item in items}
    return [Change(key, ours.get(names[key], ABSENT), theirs[key]) for key in theirs if key in differing]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings by dotted names; an empty mapping, and one with keys that are not text, is a value."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        rooms = isinstance(value, Mapping) and bool(value) and all(isinstance(inner, str) for inner in value)
        if rooms:
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def near(key: str, names: Sequence[str]) -> str:
    """The name a misspelt one is most like, or an empty text."""
    import difflib

    alias = next((name for name in ALIASES.get(key.lower(), ()) if name in names), "")
    if alias:
        return alias
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in names}
    stem = re.sub(r"[^a-z0-9]", "", key.lower())
    if stem in plain:
        return plain[stem]
    close = difflib.get_close_matches(key.lower(), list(names), 1, 0.6)
    if close:
        return close[0]
    longer = sorted((name for name in names if len(stem) > 1 and name.lower().startswith(stem)), key=len)
    return longer[0] if longer else ""


def _saved_name(key: str, saved: Mapping[str, Any]) -> str:
    """The name in the file of a setting: its own, or that of the only nested one that ends in it."""
    if key in saved:
        return key
    alike = [name for name in saved if name.endswith("." + key) or key.endswith("." + name)]
    return alike[0] if len(alike) == 1 else key


def _comparable(key: str, value: Any) -> Any:
    """A value in the form in which equal ones are alike: flags are no numbers, tuples are lists, paths are whole."""
    if isinstance(value, bool):
        return f"flag {value}"
    last = key.rpartition(".")[2]
    if last == "device":
        return _device(value)
    if isinstance(value, str):
        return _path(value) if last in PATH_KEYS else value
    if isinstance(value, Mapping):
        return {str(name): _comparable("", inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_comparable("", inner) for inner in value]
    if isinstance(value, int) and abs(value) >= 10**DIGITS:
        return f"integer {value}"
    return value if isinstance(value, (int, float, type(None))) else f"{type(value).__name__} {value}"


def _device(value: Any) -> str:
    """``0``, ``'0'``, ``[0]`` and ``'cuda:0'`` are one device, nothing is the trainer's choice."""
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str("" if value is None else value)
    return re.sub(r"[\s()\[\]'\"]|cuda:?", "", text.lower())


def _path(value: str) -> str:
    """Paths to one place are alike however they are spelt; a plain name is a name."""
    if "/" not in value and "\\" not in value:
        return value
    return os.path.normcase(os.path.normpath(value.replace("\\", "/") if os.sep == "/" else value))
