"""Data sets and networks small enough to train in a second."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

TASKS = ("detect", "segment", "pose", "obb", "classify")
SIZE = 96
IMAGES = {"train": 8, "val": 4}  # two batches an epoch

BACKBONE: list[list[Any]] = [
    [-1, 1, "Conv", [8, 3, 2]],
    [-1, 1, "Conv", [8, 3, 2]],
    [-1, 1, "C2f", [8, True]],
    [-1, 1, "Conv", [8, 3, 2]],
    [-1, 1, "SPPF", [8, 5]],
]
NECK: list[list[Any]] = [
    [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
    [[-1, 2], 1, "Concat", [1]],
    [-1, 1, "C2f", [8]],
    [-1, 1, "Conv", [8, 3, 2]],
]
HEADS: dict[str, list[Any]] = {
    "detect": ["Detect", ["nc"]],
    "segment": ["Segment", ["nc", 8, 8]],
    "pose": ["Pose", ["nc", "kpt_shape"]],
    "obb": ["OBB", ["nc", 1]],
    "classify": ["Classify", ["nc"]],
}


def write_network(path: Path, task: str) -> Path:
    """Write a network of a few thousand parameters; its two scales read the layers 7 and 8."""
    head = [[-1, 1, *HEADS[task]]] if task == "classify" else [*NECK, [[7, 8], 1, *HEADS[task]]]
    shape = {
        "nc": 2 if task == "classify" else 1,
        "kpt_shape": [3, 3],
        "reg_max": 1,
        "depth_multiple": 1.0,
        "width_multiple": 1.0,
        "backbone": BACKBONE,
        "head": head,
    }
    path.write_text(json.dumps(shape), encoding="utf-8")  # JSON is YAML
    return path


def write_data_set(folder: Path, task: str) -> Path:
    """Write a handful of images with one bright rectangle each; return what the trainer calls `data`."""
    chance = random.Random(task)
    for split, count in IMAGES.items():
        for number in range(count):
            _write_sample(folder, task, split, number, chance)
    if task == "classify":
        return folder
    description: dict[str, Any] = {"path": str(folder), "train": "images/train", "val": "images/val", "nc": 1}
    description["names"] = ["thing"]
    if task == "pose":
        description |= {"kpt_shape": [3, 3], "flip_idx": [1, 0, 2]}
    path = folder / "data.yaml"
    path.write_text(json.dumps(description), encoding="utf-8")
    return path


def _write_sample(folder: Path, task: str, split: str, number: int, chance: random.Random) -> None:
    from PIL import Image

    kind = number % 2
    left, top, width, height = (chance.randint(*span) for span in ((4, 40), (4, 40), (24, 48), (24, 48)))
    image = Image.frombytes("RGB", (SIZE, SIZE), chance.randbytes(3 * SIZE * SIZE))
    image.paste([(60, 60, 230), (230, 200, 40)][kind], (left, top, left + width, top + height))
    parent = folder / split / ("cold", "warm")[kind] if task == "classify" else folder / "images" / split
    parent.mkdir(parents=True, exist_ok=True)
    image.save(parent / f"{number}.jpg", quality=90)
    if task != "classify":
        numbers = [value / SIZE for value in (left, top, width, height)]
        labels = folder / "labels" / split
        labels.mkdir(parents=True, exist_ok=True)
        (labels / f"{number}.txt").write_text(" ".join(map(str, [0, *_label(task, *numbers)])), encoding="utf-8")


def _label(task: str, left: float, top: float, width: float, height: float) -> list[float]:
    right, bottom = left + width, top + height
    middle = [left + width / 2, top + height / 2, width, height]
    if task == "detect":
        return middle
    if task == "pose":
        return [*middle, left, top, 2, right, top, 2, right, bottom, 1]
    return [left, top, right, top, right, bottom, left, bottom]
