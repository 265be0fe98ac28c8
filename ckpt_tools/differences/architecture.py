"""Model yamls, and names of models, against the architecture a checkpoint holds.

ultralytics keeps the yaml a model was built from in the model, with the ``scale`` it guessed from the file's name and
the number of classes of the data set (``nn/tasks.py``, ``yaml_model_load`` and ``parse_model``).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from ckpt_tools.checks.names import few
from ckpt_tools.configs import is_yaml, read_settings
from ckpt_tools.differences.model import ABSENT, Difference, Meaning, stops
from ckpt_tools.differences.situation import Situation

__all__ = ["check_architecture", "compare_architectures", "named_architecture"]

SCALED = re.compile(r"yolo(?:e-)?v?\d+([nslmx])")  # the letter of the scale in a file's name
STOCK_CLASSES = (80, 1000)  # of the yamls that come with the trainer: COCO and ImageNet
SIZES = ("depth_multiple", "width_multiple")
BLOCKS = ("backbone", "head")
SHAPING = ("reg_max", "end2end", "kpt_shape", "activation", "ch", "channels")
SECTION = "model"
MOST_LAYERS = 4  # of a block that are listed one by one


def check_architecture(situation: Situation) -> Iterator[Difference]:
    """A model yaml against the model in the file: scale, sizes, classes and every layer."""
    described = dict(situation.config.values)
    path = situation.config.path
    described.setdefault("scale", guessed_scale(path.name if path else "", described))
    yield from compare_architectures(situation, described)


def compare_architectures(situation: Situation, described: Mapping[str, Any]) -> Iterator[Difference]:
    """The differences of a model yaml, its ``scale`` filled in, from the one the model was built from."""
    saved = situation.architecture
    if not saved:
        why = "the file keeps no model yaml to compare with; name a checkpoint that holds the whole model"
        yield Difference("yaml", ABSENT, situation.config.name, Meaning.BREAKS, why, SECTION)
        return
    yield from _scale(situation, saved, described)
    yield from _classes(situation, described)
    for key in SHAPING:
        if key in described and described[key] != saved.get(key, described[key]):
            yield _breaks(
                situation, key, saved.get(key), described[key], "the head or the first layer has other shapes"
            )
    for block in BLOCKS:
        yield from _layers(situation, block, saved.get(block), described.get(block))


def _breaks(situation: Situation, key: str, old: Any, new: Any, why: str) -> Difference:
    """A difference of shapes: a resume can't have it, a new run takes over the weights that fit."""
    if situation.resuming:
        return Difference(key, old, new, Meaning.BREAKS, f"{why}: weights and optimizer do not fit", SECTION)
    return Difference(key, old, new, Meaning.HONOURED, f"{why}: what fits of the weights is taken over", SECTION)


def _scale(situation: Situation, saved: Mapping[str, Any], described: Mapping[str, Any]) -> Iterator[Difference]:
    old, new = (str(held.get("scale") or "") for held in (saved, described))
    if old != new and (saved.get("scales") or described.get("scales")):
        yield _breaks(situation, "scale", old, new, "a model of another depth and width")
        return
    ours, theirs = _sizes(saved).get(old), _sizes(described).get(new)
    if ours is not None and theirs is not None and _plain(ours) != _plain(theirs):
        yield _breaks(situation, f"scales.{new}", ours, theirs, "a model of another depth and width")
    for key in SIZES:
        if described.get(key, saved.get(key)) != saved.get(key):
            yield _breaks(situation, key, saved.get(key), described.get(key), "a model of another depth or width")


def _sizes(described: Mapping[str, Any]) -> Mapping[str, Any]:
    """Depth, width and most channels by scale."""
    scales = described.get("scales")
    return scales if isinstance(scales, dict) else {}


def _classes(situation: Situation, described: Mapping[str, Any]) -> Iterator[Difference]:
    count, head = described.get("nc"), situation.classes
    if not isinstance(count, int) or head is None or count == head:
        return
    if count in STOCK_CLASSES or not situation.resuming:
        why = "the number of classes comes from the data set, whatever the model yaml says"
        yield Difference("nc", head, count, Meaning.HARMLESS, why, SECTION)
    else:
        yield _breaks(situation, "nc", head, count, f"the head is built for nc={head}")


def _layers(situation: Situation, block: str, ours: Any, theirs: Any) -> Iterator[Difference]:
    """Layer by layer: where from, how often, which module, its arguments."""
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return
    pairs = list(itertools.zip_longest(ours, theirs, fillvalue=ABSENT))
    differing = [number for number, (old, new) in enumerate(pairs) if _plain(old) != _plain(new)]
    if len(differing) > MOST_LAYERS:
        names = few(f"{block}[{number}]" for number in differing)
        why = f"other layers ({names})"
        yield _breaks(situation, block, f"{len(ours)} layers", f"{len(theirs)} layers", why)
        return
    for number in differing:
        yield _breaks(situation, f"{block}[{number}]", *pairs[number], "another layer")


def _plain(layer: Any) -> Any:
    """A layer with what the trainer reads alike made alike: ``None`` and the text 'None', tuples and lists."""
    if isinstance(layer, (list, tuple)):
        return [_plain(part) for part in layer]
    return None if layer == "None" else layer


def guessed_scale(name: str, described: Mapping[str, Any]) -> str:
    """The scale the trainer takes: by the letter in the file's name, else the first there is."""
    match = SCALED.search(PurePath(name).stem)
    scales = described.get("scales")
    if match is not None:
        return match.group(1)
    return str(next(iter(scales))) if isinstance(scales, dict) and scales else ""


def family(name: str) -> tuple[str, str]:
    """A model's name without scale and suffix, and its scale: ``yolo11n-seg.pt`` is ``yolo11-seg`` and ``n``."""
    stem = PurePath(name.replace("\\", "/")).stem.lower()
    match = SCALED.search(stem)
    if match is None:
        return stem, ""
    return stem[: match.start(1)] + stem[match.end(1) :], match.group(1)


def named_architecture(text: str, situation: Situation) -> str | None:
    """How the model a setting names differs from the one in the file, in words.

    Empty where it is the same architecture, ``None`` where the name does not tell.
    """
    saved = situation.architecture
    path = situation.place(text)
    if saved and is_yaml(path) and os.path.isfile(path):
        described = read_settings(path)
        described.setdefault("scale", guessed_scale(path.name, described))
        broken = stops(compare_architectures(situation, described))
        first = f"{broken[0].key} differs ({broken[0].old} → {broken[0].new})" if broken else ""
        return f"{path.name} is another model: {first}" if first else ""
    origin = str(saved.get("yaml_file") or situation.saved.get("model") or "")
    ours, theirs = family(origin), family(text)
    ours = (ours[0], ours[1] or str(saved.get("scale") or ""))
    if ours == theirs or (ours[0] == theirs[0] and {ours[1], theirs[1]} <= {"", "n"}):
        return ""
    if not theirs[1] and ours[0] != theirs[0]:
        return None  # a name of the user's own that is not at hand
    if ours[0] == theirs[0]:
        scales = (theirs[1] or "n", ours[1] or saved.get("scale") or "n")
        return f"{PurePath(text).name} is scale {scales[0]}, the checkpoint's is {scales[1]}"
    return f"{PurePath(text).name} is another architecture than {PurePath(origin).name or 'the one in the checkpoint'}"
