"""One set of weights as a plain state dict, which ``torch.load(weights_only=True)`` takes, and what describes it."""

from __future__ import annotations

from typing import Any

from ckpt_tools import __version__
from ckpt_tools.checks.consistency import plain_name
from ckpt_tools.checks.names import few
from ckpt_tools.container import MemberError
from ckpt_tools.conversions.request import WEIGHTS, Conversion
from ckpt_tools.findings import CkptError
from ckpt_tools.layouts import Part
from ckpt_tools.layouts.values import value_of
from ckpt_tools.pickles import Call, GlobalRef, pairs_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.edits import STRIDED, ordered_dict
from ckpt_tools.plans.model import Outcome
from ckpt_tools.tensors import TensorRef
from ckpt_tools.tensors.modules import attributes_of
from ckpt_tools.tensors.values import tensor_array

__all__ = ["keep_weights"]

# Attributes of a YOLO model that whoever builds it anew needs (ultralytics/nn/tasks.py, yolov5/models/yolo.py).
ATTRIBUTES = ("task", "nc", "names", "stride", "yaml", "kpt_shape", "end2end")
LONGEST = 100_000  # elements of a list that is described


def keep_weights(case: Case, request: Conversion) -> None:
    """Leave nothing but the chosen weights, as ``Module.state_dict`` gives them."""
    part = chosen_weights(case, request.weights)
    case.beside = {**described(case, part), **(case.beside or {})}
    if case.family == "bare" and not part.path and all(id(v) in part_nodes(part) for _, v in pairs_of(part.node)):
        return
    names = _names(part)
    pairs: list[tuple[Node, Node]] = [(names[name], _plain(tensor)) for name, tensor in part.tensors.items()]
    made = ordered_dict()
    made.pairs = pairs
    made.states = part.node.states if part.form == "state_dict" and isinstance(part.node, Call) else None  # _metadata
    others = [key for key, value in pairs_of(part.node) if id(value) not in part_nodes(part)] if made.states else []
    if others:
        case.advice.append(f"left out, as it is no tensor: {few([str(key) for key in others])}")
    left = [other.path for other in case.found.parts if other.present and other.path != part.path]
    case.draft.root, case.draft.edited = made, True
    case.record(part, Outcome.KEPT)
    without = f", without {few(left, 12)}" if left else ""
    case.do("state-dict", f"only {part.path or 'the weights'}: a plain state dict of {len(pairs)} tensors{without}",
            loss=True, consent=True)  # fmt: skip


def part_nodes(part: Part) -> set[int]:
    """The nodes a part's tensors are."""
    return {id(tensor.call) for tensor in part.tensors.values()}


def chosen_weights(case: Case, role: str | None) -> Part:
    """The weights asked for: those named, else the average where there is one. Raises ``CkptError`` for none."""
    held = {name: next(iter(case.found.role(name)), None) for name in WEIGHTS}
    part = held[role] if role else held["ema"] or held["model"]
    if part is None or not part.tensors:
        other = next((name for name, other in held.items() if other is not None and name != role), None)
        hint = f"take --weights {other}" if other else f"`ckpt inspect {case.name}` lists what it has"
        raise CkptError(f"{case.name} holds no {role or 'weights'}; {hint}")
    return part


def _names(part: Part) -> dict[str, str]:
    """The names of tensors without the prefix of a wrapper, where no two become one by that."""
    bare = {name: plain_name(name) for name in part.tensors}
    return bare if len(set(bare.values())) == len(bare) else {name: name for name in bare}


def _plain(tensor: TensorRef) -> Call:
    """A tensor as a state dict holds it: no parameter, no gradient, no hooks."""
    call = _unwrapped(tensor.call)
    if call is None:
        return tensor.call
    plain = GlobalRef(
        "torch._utils", "_rebuild_tensor_v2" if not call.path.endswith("_v3") else "_rebuild_tensor_v3", -1
    )
    return Call(plain, (*call.args[:4], False, ordered_dict(), *call.args[6:]), "reduce", -1)


def _unwrapped(call: Node) -> Call | None:
    """The call that makes the plain tensor inside a parameter or a tensor of a class of its own."""
    while isinstance(call, Call) and isinstance(call.args, tuple) and call.args:
        if call.path in STRIDED:
            return call
        if call.path.startswith("torch._utils._rebuild_parameter"):
            call = call.args[0]
        elif call.path.endswith("_rebuild_from_type_v2") and len(call.args) > 2:
            call = Call(call.args[0], call.args[2], "reduce", call.position)
        else:
            return None
    return None


def described(case: Case, part: Part) -> dict[str, Any]:
    """What whoever loads the weights needs to know: classes, strides, architecture, settings, and their origin."""
    found = case.found
    attributes = attributes_of(part.node) if part.form == "module" else {}
    told = {key: _value(case, attributes[key]) for key in ATTRIBUTES if key in attributes}
    if isinstance(told.get("names"), (dict, list)):
        told.setdefault("nc", len(told["names"]))  # a classifier has no attribute of that name
    args = {key: value_of(value, LONGEST) for key, value in found.args.items()}
    if isinstance(args.get("task"), str):
        told.setdefault("task", args["task"])
    return {
        "schema": "ckpt-tools/weights/1",
        "tool": f"ckpt-tools {__version__}",
        "source": case.name,
        "part": part.path,
        "trainer": found.family,
        "version": found.version,
        "epoch": found.stored_epoch,
        "tensors": len(part.tensors),
        "dtypes": part.dtypes(),
        **told,
        "args": args,
    }


def _value(case: Case, node: Node) -> Any:
    """An attribute as plain data; a tensor as the numbers in it."""
    tensor = case.draft.checkpoint.tensors.get(id(node))
    container = case.draft.checkpoint.container
    if tensor is None or container is None:
        return value_of(node, LONGEST)
    if tensor.numel > LONGEST:
        return None
    try:
        return tensor_array(container, tensor).tolist()
    except (KeyError, MemberError, ValueError):
        return None
