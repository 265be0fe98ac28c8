"""Pickled ``torch.nn.Module`` trees: parameter and buffer names recovered from the objects' state.

``torch/nn/modules/module.py`` (torch 2.14): a module's ``__dict__`` holds ``_parameters``, ``_buffers`` and
``_modules``; ``named_modules`` walks them in order and visits a shared module once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ckpt_tools.findings import as_text
from ckpt_tools.pickles import Call, GlobalRef, SetNode, pairs_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.tensors import TensorRef

__all__ = ["Layer", "attributes_of", "class_name", "is_module", "layers", "module_tensors"]

MOST_LAYERS = 200_000


@dataclass
class Layer:
    """One module of a tree: its dotted ``name`` ('' for the root), class name and own tensors."""

    name: str
    kind: str
    attributes: Mapping[str, Node]
    parameters: dict[str, TensorRef] = field(default_factory=dict)
    buffers: dict[str, TensorRef] = field(default_factory=dict)
    children: tuple[str, ...] = ()

    def path(self, own: str) -> str:
        return f"{self.name}.{own}" if self.name else own


def attributes_of(node: Node) -> Mapping[str, Node]:
    """The attributes BUILD gives an object (its ``__dict__``, with slots merged in); empty for anything else."""
    if isinstance(node, Call) and node.states and len(node.states) == 1 and isinstance(node.states[0], dict):
        return node.states[0]
    found: dict[str, Node] = {}
    for state in (node.states or ()) if isinstance(node, Call) else ():
        for part in state if isinstance(state, tuple) else (state,):
            found.update((key, value) for key, value in pairs_of(part) if isinstance(key, str))
    return found


def class_name(node: Node) -> str:
    """Dotted class of an object node: what is constructed, looking through ``_reconstructor`` and ``__newobj__``."""
    if not isinstance(node, Call):
        return ""
    first = node.args[0] if isinstance(node.args, tuple) and node.args else None
    if node.path.endswith(("_reconstructor", "__newobj__", "__newobj_ex__")) and isinstance(first, GlobalRef):
        return first.path
    return node.path


def bound_to(node: Node) -> Node:
    """The object a saved method belongs to (``model.state_dict`` without its parentheses), ``None`` for other nodes."""
    if isinstance(node, Call) and node.path in ("builtins.getattr", "__builtin__.getattr"):
        match node.args:
            case (Call() as owner, str()):
                return owner
    return None


def is_module(node: Node) -> bool:
    """Whether a node is a pickled module: an object whose state has parameters and submodules."""
    if not isinstance(node, Call) or not node.states:
        return False
    state = node.states[-1]
    if isinstance(state, dict):
        return "_parameters" in state and "_modules" in state
    return {"_parameters", "_modules"} <= {key for key, _ in pairs_of(state) if isinstance(key, str)}


def layers(root: Node) -> Iterator[tuple[Layer, bool]]:
    """Every module of the tree, parents first, and whether it was met before under another name.

    ``named_modules`` (and with it the optimizer) visits a shared module once; a state dict has all its names.
    """
    stack: list[tuple[str, Node, frozenset[int]]] = [("", root, frozenset())]
    seen: set[int] = set()
    count = 0
    while stack and count < MOST_LAYERS:
        name, node, above = stack.pop()
        if not isinstance(node, Call) or id(node) in above:
            continue
        count += 1
        attributes = attributes_of(node)
        inside = [(as_text(key), child) for key, child in pairs_of(attributes.get("_modules"))]
        yield Layer(name, class_name(node), attributes, children=tuple(key for key, _ in inside)), id(node) in seen
        seen.add(id(node))
        prefix = name + "." if name else ""
        below = above | {id(node)}
        stack.extend((prefix + key, child, below) for key, child in reversed(inside))


def module_tensors(root: Node, tensors: Mapping[int, TensorRef]) -> list[tuple[Layer, bool]]:
    """The layers of a pickled module with their parameters and persistent buffers, and which were met before."""
    found = list(layers(root))
    for layer, _ in found:
        for key, node in pairs_of(layer.attributes.get("_parameters")):
            if id(node) in tensors:
                layer.parameters[as_text(key)] = tensors[id(node)]
        passing = set(map(str, set_items(layer.attributes.get("_non_persistent_buffers_set"))))
        for key, node in pairs_of(layer.attributes.get("_buffers")):
            if id(node) in tensors and key not in passing:
                layer.buffers[as_text(key)] = tensors[id(node)]
    return found


def set_items(node: Node) -> list[Node]:
    """The members of a set node, whichever protocol wrote it."""
    if isinstance(node, SetNode):
        return node.items
    first = node.args[0] if isinstance(node, Call) and isinstance(node.args, tuple) and node.args else None
    return first if isinstance(first, list) else []
