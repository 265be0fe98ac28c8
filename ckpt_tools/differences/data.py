"""Data yamls against a checkpoint: the classes and their order, channels and key points, and where the images lie.

A resume builds its model anew for the classes of the data set and puts the saved weights into it: another number of
classes gives a head the weights and the optimizer do not fit, another order silently trains each class on the rows of
another (ultralytics 8.4.190, ``check_det_dataset`` in ``data/utils.py``, ``setup_model`` in ``engine/trainer.py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ckpt_tools.checks.names import few
from ckpt_tools.configs import is_yaml, read_settings
from ckpt_tools.differences.model import ABSENT, Difference, Meaning
from ckpt_tools.differences.settings import Change
from ckpt_tools.differences.situation import Situation, class_list
from ckpt_tools.differences.ultralytics import meaning_of
from ckpt_tools.findings import CkptError
from ckpt_tools.layouts.values import value_of

__all__ = ["check_data", "check_named_data"]

SECTION = "data"
REQUIRED = ("train", "val")
REMAPS = (8, 4, 91)  # from here on a new run moves the rows of the head by the names of the classes (cls_remap)


def check_data(situation: Situation) -> Iterator[Difference]:
    """A data yaml the user names: its place against the saved one, and what is in it."""
    path, unread = situation.config.path, False
    saved = situation.saved.get("data")
    if path is not None and situation.found.layout.name == "ultralytics" and isinstance(saved, str):
        change = Change("data", saved, str(path))
        if os.path.realpath(path) != saved and str(path.absolute()) != saved:
            meaning, why = meaning_of(change, situation)
            unread = meaning is Meaning.IGNORED
            yield Difference("data", saved, str(path), meaning, why)
    for difference in compare_data(situation, situation.config.values, path.parent if path else Path()):
        if unread and difference.meaning is not Meaning.HARMLESS:
            why = f"a resume would not read it; if it did: {difference.why}"
            difference = replace(difference, meaning=Meaning.IGNORED, why=why)
        yield difference


def check_named_data(situation: Situation, name: Any) -> Iterator[Difference]:
    """The data yaml a setting names, where it is at hand."""
    path = situation.place(name) if isinstance(name, str) and name else None
    if path is None or not is_yaml(path) or not os.path.isfile(path):
        return
    try:
        described = read_settings(path)
    except CkptError as error:
        yield Difference("data", ABSENT, name, Meaning.INVALID, str(error), SECTION)
        return
    yield from compare_data(situation, described, path.parent)


def compare_data(situation: Situation, described: Mapping[str, Any], folder: Path) -> Iterator[Difference]:
    """Classes, shapes and folders of a data set against the model in the file."""
    yield from _required(described)
    if not situation.saved.get("single_cls"):
        yield from _classes(situation, described)
    yield from _shapes(situation, described)
    if situation.here:
        yield from _folders(described, folder)


def _required(described: Mapping[str, Any]) -> Iterator[Difference]:
    """What every trainer of this family stops at."""
    for key in REQUIRED:
        if key not in described and not (key == "val" and "validation" in described):
            why = "every data yaml must say where its train and val images are; the trainer stops"
            yield Difference(key, ABSENT, None, Meaning.INVALID, why, SECTION)
    names, count = described.get("names"), described.get("nc")
    if isinstance(names, (list, dict)) and isinstance(count, int) and len(names) != count:
        why = f"nc says {count} and names lists {len(names)}; the trainer stops"
        yield Difference("nc", len(names), count, Meaning.INVALID, why, SECTION)
    if names is None and count is None:
        why = "neither names nor nc is there; the trainer stops"
        yield Difference("names", ABSENT, None, Meaning.INVALID, why, SECTION)
    elif names is not None and not isinstance(names, (list, dict)):
        yield Difference(
            "names", ABSENT, names, Meaning.INVALID, "a list or a mapping is wanted; the trainer stops", SECTION
        )
    elif isinstance(names, dict) and {str(key) for key in names} != {str(number) for number in range(len(names))}:
        why = f"the classes must be numbered from 0 to {len(names) - 1}; the trainer stops"
        yield Difference("names", ABSENT, names, Meaning.INVALID, why, SECTION)


def _classes(situation: Situation, described: Mapping[str, Any]) -> Iterator[Difference]:
    """Number of classes against the head, then their names and order."""
    names, count = class_list(described.get("names")), described.get("nc")
    here = len(names) if names else count
    head = situation.classes
    if isinstance(here, int) and head is not None and here != head:
        if situation.resuming:
            why = f"the head is built for nc={head}: its weights and the optimizer do not fit nc={here}"
            yield Difference("nc", head, here, Meaning.BREAKS, why, SECTION)
        else:
            yield Difference("nc", head, here, Meaning.HONOURED, f"the head is made anew for nc={here}", SECTION)
        if names:
            yield from _listed(situation, names)
        return
    if here is not None and head is None and not situation.names:
        why = "the file names no classes: whether these are its own can't be told"
        yield Difference("names" if names else "nc", ABSENT, names or here, Meaning.HONOURED, why, SECTION)
    if names and situation.names and names != situation.names:
        yield from _order(situation, names)


def _listed(situation: Situation, names: list[str]) -> Iterator[Difference]:
    """Which classes came and went."""
    old = situation.names
    gone, new = ([name for name in one if name not in other] for one, other in ((old, names), (names, old)))
    words = [f"{word} {few(listed)}" for word, listed in (("gone:", gone), ("new:", new)) if listed and old]
    if words:
        meaning = Meaning.BREAKS if situation.resuming else Meaning.HONOURED
        yield Difference("names", old, names, meaning, f"other classes ({'; '.join(words)})", SECTION)


def _order(situation: Situation, names: list[str]) -> Iterator[Difference]:
    """As many classes: some stand elsewhere, which mixes them up, or some bear another name."""
    old = situation.names
    moved = [name for number, name in enumerate(names) if name in old and old[number] != name]
    if not moved:
        renamed = [f"{before} is {after}" for before, after in zip(old, names) if before != after]
        why = f"classes renamed ({few(renamed)}): the weights stay those of the old ones"
        yield Difference("names", old, names, Meaning.HONOURED, why, SECTION)
        return
    places = [f"{name} {old.index(name)} → {names.index(name)}" for name in moved]
    if situation.resuming:
        why = f"the order changed ({few(places)}): each class would go on from the weights of another"
        yield Difference("names", old, names, Meaning.BREAKS, why, SECTION)
    elif situation.version >= REMAPS or not situation.version:
        why = f"the order changed ({few(places)}): cls_remap moves the rows of the head by name"
        yield Difference("names", old, names, Meaning.HONOURED, why, SECTION)
    else:
        why = f"the order changed ({few(places)}): each class starts from the weights of another"
        yield Difference("names", old, names, Meaning.BREAKS, why, SECTION)


def _shapes(situation: Situation, described: Mapping[str, Any]) -> Iterator[Difference]:
    """Image channels and key points the model is built for."""
    built = {
        "channels": situation.architecture.get("channels", situation.architecture.get("ch", 3)),
        "kpt_shape": value_of(situation.attributes.get("kpt_shape")),
    }
    for key, old in built.items():
        new = described.get(key)
        if situation.module is None or new is None or old is None or _plain(new) == _plain(old):
            continue
        if situation.resuming:
            why = f"the model is built for {old}: its weights and the optimizer do not fit"
            yield Difference(key, old, new, Meaning.BREAKS, why, SECTION)
        else:
            yield Difference(key, old, new, Meaning.HONOURED, "the layers that depend on it are made anew", SECTION)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _folders(described: Mapping[str, Any], folder: Path) -> Iterator[Difference]:
    """Whether the images are on this machine, looked for as the trainer does."""
    named = described.get("path")
    root = Path(os.path.expanduser(str(named or folder)))
    root = root if root.is_absolute() or os.path.exists(root) else folder / root
    own = bool(named) and not os.path.exists(root) and not Path(str(named)).is_absolute()
    for key in REQUIRED:
        listed = described.get(key)
        for entry in listed if isinstance(listed, list) else [listed]:
            if not isinstance(entry, str) or "://" in entry or _found(root, entry):
                continue
            why = f"there is no {root / entry} on this machine"
            if described.get("download"):
                yield Difference(key, ABSENT, entry, Meaning.HONOURED, f"{why}; the trainer would download it", SECTION)
            elif own:
                why = f"{why}; the trainer looks for {named} in its own folder of data sets"
                yield Difference(key, ABSENT, entry, Meaning.HARMLESS, why, SECTION)
            else:
                yield Difference(key, ABSENT, entry, Meaning.BREAKS, why, SECTION)
            return


def _found(root: Path, entry: str) -> bool:
    """Images below the root; a leading ``../``, as in exported data sets, may be one too many."""
    return os.path.exists(root / entry) or (entry.startswith("../") and os.path.exists(root / entry[3:]))
