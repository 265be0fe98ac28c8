"""What is left of a checkpoint once its run is over: as the trainer's own strip leaves it, where it has one.

Sources: ``strip_optimizer`` of ultralytics (``utils/torch_utils.py``; what each release does is in
``layouts/ultralytics.json``), of yolov5 7.0 and yolov7 (``utils/general.py``) and of YOLOv6
(``yolov6/utils/checkpoint.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import replace
from typing import Any

from ckpt_tools.checks.names import few
from ckpt_tools.conversions.device import move_tensors
from ckpt_tools.conversions.precision import cast_tensors, floating_tensors, report_range
from ckpt_tools.conversions.request import Conversion
from ckpt_tools.findings import CkptError
from ckpt_tools.layouts import Part
from ckpt_tools.layouts.arguments import default_arguments
from ckpt_tools.layouts.parts import dict_of
from ckpt_tools.layouts.ultralytics import strip_rules
from ckpt_tools.pickles import Call, pairs_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.edits import drop_node, put
from ckpt_tools.plans.model import Outcome
from ckpt_tools.tensors import DTYPES, TensorRef
from ckpt_tools.tensors.modules import attributes_of, class_name, layers

__all__ = ["strip"]

TRAINING = ("optimizer", "scheduler", "scaler", "rng")
# What a distillation is: its class, the submodule that is kept, and the hooks on its layers (nn/distill_model.py).
DISTILLED = {"ultralytics.nn.distill_model.DistillationModel": "student_model"}
HOOK = "ultralytics.nn.distill_model.FeatureHook"
HALVED = ("float32", "float64", "bfloat16")  # what ``half`` changes


def strip(case: Case, request: Conversion) -> None:
    """Leave what inference or a fine-tuning needs; a file that was stripped stays as it is."""
    layout = case.found.layout
    if layout.name == "ultralytics":
        _ultralytics(case, request)
    elif layout.strips:
        _yolo(case, request)
    else:
        _generic(case)


def _ultralytics(case: Case, request: Conversion) -> None:
    if not isinstance(case.root, dict):
        raise CkptError(f"{case.name} is no dictionary, which the trainer's strip needs; nothing was changed")
    version = case.wanted or case.version
    rules = strip_rules(version)
    if _stripped(case, rules["null"]):
        return
    as_dict = {"kept": False, "dict_without_average": case.part("ema") is None, "dict": True}
    node = _averaged_first(case)
    arguments = attributes_of(node).get("args")
    if as_dict[rules["model_args"]] and isinstance(arguments, Call):
        put(node, "args", dict(dict_of(arguments)))
    if rules["criterion"]:
        _without_criterion(node)
    _finish(case, request, rules["null"], rules["head_tensors"])
    _arguments(case, default_arguments(version))
    _front(case, rules["metadata"])
    whose = f"ultralytics {case.target.version}" if case.target and case.target.version else "its trainer"
    _done(case, f"as the strip of {whose} leaves it", rules["null"])


def _without_criterion(node: Node) -> None:
    """The loss becomes ``None`` where it is: an attribute, or (RT-DETR's) a submodule."""
    attributes = attributes_of(node)
    if "criterion" in attributes:
        put(node, "criterion", None)
    if "criterion" in dict(pairs_of(attributes.get("_modules"))):
        put(node, "_modules.criterion", None)


def _arguments(case: Case, defaults: dict[str, Any]) -> None:
    """The release's arguments, all of them and no others: as saved, else by default (its text ``None`` is none)."""
    saved = case.found.args
    if not saved or saved.keys() & defaults.keys():  # 8.0.0 to 8.0.6 saved an omegaconf object, which stays
        own = {name: None if value == "None" else value for name, value in defaults.items()}
        kept = {name: value for name, value in saved.items() if name in own}  # a run saves them in the release's order
        put(case.root, case.path("args"), {**kept, **{n: value for n, value in own.items() if n not in kept}})


def _front(case: Case, metadata: list[str]) -> None:
    """The trainer puts its own entries in front; those the file has keep their value, a date it lacks stays away."""
    told: dict[str, Any] = {
        "version": case.target.version if case.target else None,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
    }
    first = {key: case.root[key] if key in case.root else told.get(key) for key in metadata}
    first = {key: value for key, value in first.items() if value is not None or key in case.root}
    rest = {key: value for key, value in case.root.items() if key not in first}
    case.root.clear()
    case.root.update(first | rest)


def _yolo(case: Case, request: Conversion) -> None:
    layout = case.found.layout
    if not _stripped(case, list(layout.strips)):
        _averaged_first(case)
        _finish(case, request, list(layout.strips), {"": []})
        _done(case, f"as the strip of {layout.trainer} leaves it", list(layout.strips))


def _stripped(case: Case, null: list[str]) -> bool:
    """Whether everything the strip empties is empty."""
    return all(case.root.get(key) is None for key in null) and case.found.layout.stripped.items() <= case.root.items()


def _averaged_first(case: Case) -> Node:
    """The average takes the model's place; of a distillation the student."""
    part = case.part("ema") or case.part("model")
    if part is None or part.form != "module":
        raise CkptError(f"{case.name} holds no pickled model, which the trainer's strip needs; try --state-dict")
    node = part.node
    inner = DISTILLED.get(class_name(node))
    if inner:
        node = dict(pairs_of(attributes_of(node).get("_modules"))).get(inner, node)
        _without_hooks(node)
    put(case.root, case.found.layout.roles["model"], node)
    case.record(part, Outcome.KEPT)
    return node


def _without_hooks(node: Node) -> None:
    """A student's layers lose what a distillation hung on them; ``__getstate__`` leaves that in the file."""
    for layer, _ in layers(node):
        hooks = layer.attributes.get("_forward_hooks")
        kept = [(key, hook) for key, hook in pairs_of(hooks) if class_name(hook) != HOOK]
        if isinstance(hooks, Call) and len(kept) < len(list(pairs_of(hooks))):
            hooks.pairs, hooks.args = kept, ()


def _finish(case: Case, request: Conversion, null: list[str], head: dict[str, list[str]]) -> None:
    """Emptied entries, half precision, no gradients, on the CPU."""
    for key in null:
        put(case.root, key, None)
    for key, value in case.found.layout.stripped.items():
        put(case.root, key, value)
    case.draft.edited = True
    case.settle()
    part = next(iter(case.found.role("model")))
    for tensor in part.tensors.values():
        call = tensor.call
        if tensor.parameter and isinstance(call.args, tuple):
            call.args = (call.args[0], False, *call.args[2:])
    if request.dtype is None:
        tensors = [*floating_tensors(case, part).values(), *_head_tensors(case, part, head)]
        report_range(case, part, "float16", cast_tensors(case, tensors, DTYPES["float16"], {}), underflow=False)
    if request.device is None and not request.devices:
        move_tensors(case, Conversion(device="cpu"), told=False)


def _head_tensors(case: Case, part: Part, names: Mapping[str, list[str]]) -> Iterator[TensorRef]:
    """The tensors ``BaseModel._apply`` casts beside parameters and buffers: attributes of the last layer, by its class.

    They become tensors of its own: the model's ``stride``, which is the same tensor at first, keeps its type.
    """
    blocks = dict(pairs_of(attributes_of(part.node).get("_modules"))).get("model")
    inside = [layer for _, layer in pairs_of(attributes_of(blocks).get("_modules"))]
    if inside:
        head, last = inside[-1], attributes_of(inside[-1])
        for name in names.get(class_name(head).rsplit(".", 1)[-1], names[""]):
            tensor = case.draft.checkpoint.tensors.get(id(last.get(name)))
            if tensor is not None and tensor.dtype.name in HALVED:
                own = copy(tensor.call)
                put(head, name, own)
                yield replace(tensor, call=own)


def _done(case: Case, text: str, null: list[str]) -> None:
    part = next(iter(case.found.role("model")))
    case.record(part, Outcome.CAST)
    case.draft.edited = True
    case.do("strip", f"{text}: without {few(null, 12)}", loss=True, consent=True)


def _generic(case: Case) -> None:
    """A trainer without a strip: what only a resume needs goes."""
    going = [part for role in TRAINING for part in case.found.role(role)]
    if not case.found.weights:
        raise CkptError(f"{case.name} holds no weights, so nothing would be left; `ckpt inspect` lists what it has")
    marks = case.found.layout.stripped
    for part in going:
        if part.path in marks:
            put(case.root, part.path, marks[part.path])
        elif not drop_node(case.root, part.node):
            raise CkptError(f"{part.path} can't be taken out of {case.name}; --state-dict keeps the weights alone")
    if going:
        case.draft.edited = True
        names = few([part.path for part in going], 12)
        case.do("strip", f"without {names}; its trainer has no strip of its own", loss=True, consent=True)
