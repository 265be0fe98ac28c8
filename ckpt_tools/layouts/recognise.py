"""Which layout a file has, and which of its parts plays which role."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ckpt_tools.findings import writable
from ckpt_tools.layouts.parts import (
    MOST_COUNTED,
    Part,
    dict_of,
    find_parts,
    is_args,
    lookup,
    make_part,
    plain,
    whole_number,
)
from ckpt_tools.layouts.table import LAYOUTS, Layout, layout_named
from ckpt_tools.pickles import GlobalRef
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.tensors import TensorRef
from ckpt_tools.tensors.modules import is_module

__all__ = ["Recognised", "epoch_place", "recognise"]

# Where a training script without a known layout may keep its progress, best first.
EPOCH_KEYS = ("epoch", "last_epoch", "current_epoch", "epochs_done", "epoch_num", "cur_epoch", "epochs_run",
              "global_epoch", "completed_epochs", "finished_epochs", "epoch_idx", "ep")  # fmt: skip
NEXT_KEYS = ("start_epoch", "next_epoch")
STEP_KEYS = ("iteration", "global_step", "step", "iter", "steps", "n_iter", "num_steps", "it", "iterations", "update",
             "num_updates", "global_steps", "batch_step", "num_timesteps", "timestep", "i")  # fmt: skip
PLANNED_KEYS = ("epochs", "max_epochs", "num_epochs", "n_epochs", "total_epochs", "num_train_epochs", "max_epoch",
                "nepochs", "n_epoch", "total_epoch", "EPOCHS", "NUM_EPOCHS")  # fmt: skip
VERSION_KEYS = {"lightning": "pytorch-lightning_version", "mmengine": "meta.mmengine_version",
                "rf-detr": "rfdetr_version", "libreyolo": "libreyolo_version", "deepspeed": "ds_version"}  # fmt: skip
FAMILY_MODULES = ("ultralytics.", "yolov5.", "yolov6.", "yolo9.", "models.yolo.", "models.common.")
PROGRESS_ROOMS = (
    "",
    "meta",
    "trainer",
    "train_state",
    "training_state",
    "progress",
    "state",
    "client_state",
    "extra_state",
)


@dataclass
class Recognised:
    """A file's layout, its parts, and the numbers that tell how far training got.

    ``epoch`` is the last finished epoch, counted from 0, where the layout is known to say so, else the number as
    stored (``stored_epoch``). ``step`` is a count of iterations where the file keeps one.
    """

    layout: Layout
    parts: list[Part]
    root: Node = None
    stored_epoch: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    version: str | None = None
    family: str = ""
    scalar: Callable[[Node], Node] | None = None  # reads a tensor without dimensions; any other node as it is

    def role(self, role: str) -> list[Part]:
        """The parts of a role that hold something."""
        return [part for part in self.parts if part.role == role and part.present]

    def announced(self, role: str) -> Part | None:
        """A part of that role whose key is there with nothing (``None``, ``{}``, ``[]``) in it."""
        return next((part for part in self.parts if part.role == role and not part.present), None)

    @property
    def weights(self) -> list[Part]:
        """Every part that is a set of weights, live ones first."""
        return self.role("model") + self.role("ema")

    def has(self, path: str) -> bool:
        return lookup(self.root, path)[0]

    def value(self, path: str) -> Node:
        """What lies at a dotted path (numpy and tensor scalars as numbers), ``None`` where there is nothing."""
        return self.number(lookup(self.root, path)[1])

    def number(self, node: Node) -> Node:
        """A number wrapped in a numpy scalar or a tensor without dimensions, or anything else as it is."""
        unwrapped = plain(node)
        return self.scalar(node) if unwrapped is node and self.scalar is not None else unwrapped

    @property
    def args(self) -> dict[str, Node]:
        """The saved training arguments by name, of several the first that is there; no number is beyond all bounds."""
        part = next(iter(self.role("args")), None)
        held = dict_of(part.node) if part else {}
        return {key: writable(value) for key, value in held.items() if isinstance(key, str)}


def recognise(
    root: Node,
    tensors: Mapping[int, TensorRef],
    globals_: list[GlobalRef],
    scalar: Callable[[Node], Node] | None = None,
) -> Recognised:
    """Find layout, parts and progress of a checkpoint's root node; ``scalar`` reads numbers kept as tensors."""
    names = {ref.module + "." for ref in globals_}
    layout = next((layout for layout in LAYOUTS if _fits(layout, root, names)), None)
    parts = find_parts(root, tensors)
    if layout is None:
        layout = layout_named(_structural(root, parts, tensors))
    found = Recognised(layout, parts, root, scalar=scalar)
    _assign_roles(found, tensors)
    _progress(found)
    _origin(found, globals_)
    return found


def _fits(layout: Layout, root: Node, modules: set[str]) -> bool:
    if layout.only and set(dict_of(root)) != set(layout.only):
        return False
    if layout.module and not _of_family(layout, root, modules):
        return False
    return (
        all(lookup(root, key)[0] for key in layout.keys)
        and (not layout.any_key or any(lookup(root, key)[0] for key in layout.any_key))
        and (not layout.globals or any(name.startswith(layout.globals) for name in modules))
    )


def _of_family(layout: Layout, root: Node, modules: set[str]) -> bool:
    """Whether a file with a YOLO family's keys is one of its own: it pickles the model, or names the trainer.

    A script of the user's own may use the same keys for state dicts.
    """
    content = dict_of(root)
    pickled = any(is_module(content.get(key)) for key in ("ema", "model"))
    named = any(module.startswith(FAMILY_MODULES) for module in modules)
    return pickled or named or (layout.name == "ultralytics" and {"train_args", "updates", "version"} <= content.keys())


def _structural(root: Node, parts: list[Part], tensors: Mapping[int, TensorRef]) -> str:
    """The name of the structural layout that fits."""
    if is_module(root):
        return "module"
    held = [part for part in parts if part.present]
    if any(part.path == "" and part.form in ("state_dict", "tensor") for part in held):
        return "bare" if held[0].form == "state_dict" else "tensors"
    if any(part.role in ("model", "ema") for part in held):
        return "plain"
    if any(part.role in ("optimizer", "scheduler", "scaler", "rng") for part in held):
        return "part"
    return "tensors" if tensors else "none"


def _assign_roles(found: Recognised, tensors: Mapping[int, TensorRef]) -> None:
    """Let the layout's own paths overrule what structure suggested."""
    for role, path in found.layout.roles.items():
        if role == "epoch":
            continue
        there, node = lookup(found.root, path)
        if not there:
            continue
        known = [part for part in found.parts if part.path == path or part.path.startswith(path + ".")]
        for part in known:
            if part.form in ("module", "state_dict") or not part.present or part.role == role:
                part.role = role
        if not known and role == "args" and is_args(node):
            found.parts.append(Part("args", path, "args", node))
        elif not known and role not in ("args", "metrics"):
            found.parts.append(_odd_part(role, path, node, tensors))


def _odd_part(role: str, path: str, node: Node, tensors: Mapping[int, TensorRef]) -> Part:
    """A part at its layout's path whose structure says nothing: absent, empty, or of another kind."""
    if node is None:
        return Part(role, path, "none", node)
    if not (dict_of(node) or (isinstance(node, list) and node)):
        return Part(role, path, "empty", node)
    return make_part(role, path, "other", node, tensors)


def _progress(found: Recognised) -> None:
    path = found.layout.roles.get("epoch", "")
    upcoming = found.layout.epoch_is == "next"
    if "/" in path:
        done, per = (found.value(part.strip()) for part in path.split("/"))
        found.stored_epoch = _whole(done // per) if _number(done) and _number(per) and per else None
    elif path:
        found.stored_epoch = _whole(found.value(path))
    else:
        found.stored_epoch, upcoming = _search_epoch(found, upcoming)
    found.step = _first_number(found, STEP_KEYS)
    found.epochs = _planned(found)
    if found.stored_epoch is not None:
        found.epoch = found.stored_epoch - 1 if upcoming else found.stored_epoch


def _search_epoch(found: Recognised, upcoming: bool) -> tuple[int | None, bool]:
    value = _first_number(found, EPOCH_KEYS)
    if value is not None:
        return value, upcoming
    return _first_number(found, NEXT_KEYS), True


def epoch_place(found: Recognised) -> tuple[str, bool]:
    """Where a file keeps its epoch (``epoch`` where it keeps none), and whether that is the next one to train."""
    upcoming = found.layout.epoch_is == "next"
    path = found.layout.roles.get("epoch", "")
    if path and "/" not in path:
        return path, upcoming
    for keys, ahead in ((EPOCH_KEYS, upcoming), (NEXT_KEYS, True)):
        for room in PROGRESS_ROOMS:
            for key in keys:
                place = f"{room}.{key}" if room else key
                if _whole(found.value(place)) is not None:
                    return place, ahead
    return "epoch", upcoming


def _first_number(found: Recognised, keys: tuple[str, ...]) -> int | None:
    for room in PROGRESS_ROOMS:
        for key in keys:
            value = _whole(found.value(f"{room}.{key}" if room else key))
            if value is not None:
                return value
    return None


def _planned(found: Recognised) -> int | None:
    """How many epochs the run was to have."""
    for path in found.layout.planned:
        value = _whole(found.value(path))
        if value is not None:
            return value
    for part in found.role("args") if not found.layout.planned else ():
        settings = dict_of(part.node)
        for room in (settings, *map(dict_of, settings.values())):  # config.epochs, or config.train.epochs
            for key in PLANNED_KEYS:
                value = _whole(found.number(room.get(key)))
                if value is not None:
                    return value
    top = _first_number(found, PLANNED_KEYS) if not found.layout.planned else None
    return top if top is not None else _planned_in_text(found)


def _planned_in_text(found: Recognised) -> int | None:
    """``max_epochs`` out of a config kept as text (mmengine's ``meta.cfg``)."""
    text = found.value("meta.cfg")
    match = re.search(r"max_epochs\s*[=:]\s*(\d{1,6})\b", text) if isinstance(text, str) else None
    return int(match.group(1)) if match else None


def _number(value: Node) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Node) -> int | None:
    """A whole number of sane size, also one kept as a float."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        value = whole_number(value)
    return value if type(value) is int and abs(value) < MOST_COUNTED else None


def _origin(found: Recognised, globals_: list[GlobalRef]) -> None:
    """Which trainer version wrote the file, and which of several families with the same keys it is of."""
    version = found.value("version")
    found.family = found.layout.name
    if found.layout.name == "ultralytics":
        found.version = version if isinstance(version, str) else None
    elif found.layout.name in ("yolov5", "yolov7"):
        classes = {ref.name for ref in globals_}
        if {"DDetect", "DualDDetect", "TripleDDetect"} & classes:
            found.family = "yolov9"
        elif {"IDetect", "IAuxDetect", "IBin"} & classes:
            found.family = "yolov7"
    else:
        value = found.value(VERSION_KEYS.get(found.layout.name, "?"))
        found.version = value if isinstance(value, str) else None
