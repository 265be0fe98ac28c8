"""Changes to a graph of nodes: setting and dropping what lies at a dotted path, and turning one node into another."""

from __future__ import annotations

from collections.abc import Mapping

from ckpt_tools.layouts.parts import dict_of
from ckpt_tools.pickles import Call, GlobalRef, Persistent, is_mapping, pairs_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.tensors import TensorRef

__all__ = [
    "STRIDED",
    "become",
    "drop",
    "drop_node",
    "graph",
    "ordered_dict",
    "put",
    "rename_keys",
    "set_item",
    "strided_call",
]

STRIDED = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")


def put(root: Node, path: str, value: Node) -> None:
    """Set what lies at a dotted path; every key but the last must be there. Raises ``KeyError`` where one is not."""
    *way, last = path.split(".")
    set_item(_reach(root, way), last, value)


def drop_node(root: Node, node: Node) -> bool:
    """Take a node out of every mapping and list it lies in, with lists that are empty then; whether it was anywhere."""
    done = False
    for room in graph(root):
        if isinstance(room, list) and any(inner is node for inner in room):
            room[:] = [inner for inner in room if inner is not node]
            done = True
            if not room:
                drop_node(root, room)
        for key in [key for key, value in pairs_of(room) if value is node] if is_mapping(room) else ():
            done = True
            if isinstance(room, dict):
                del room[key]
            else:
                _as_pairs(room)
                room.pairs = [pair for pair in room.pairs or () if pair[0] is not key]
    return done


def drop(root: Node, path: str) -> None:
    """Take what lies at a dotted path out of its mapping, if it is there."""
    *way, last = path.split(".")
    room = _reach(root, way)
    if isinstance(room, dict):
        room.pop(last, None)
    elif isinstance(room, Call) and is_mapping(room):
        _as_pairs(room)
        room.pairs = [pair for pair in room.pairs or () if pair[0] != last]
    elif isinstance(room, Call) and room.states:
        drop(room.states[-1], last)


def rename_keys(node: Node, names: Mapping[Node, Node]) -> None:
    """Rename the keys of a mapping in their places."""
    if isinstance(node, dict):
        renamed = {names.get(key, key): value for key, value in node.items()}
        node.clear()
        node.update(renamed)
    elif isinstance(node, Call) and is_mapping(node):
        _as_pairs(node)
        node.pairs = [(names.get(key, key) if isinstance(key, str) else key, v) for key, v in node.pairs or ()]


def become(node: Call, other: Call) -> None:
    """Make every reference to ``node`` one to what ``other`` is."""
    for name in Call.__slots__:
        setattr(node, name, getattr(other, name))


def ordered_dict() -> Call:
    """An empty ``collections.OrderedDict``, as state dicts and the hooks of tensors are."""
    return Call(GlobalRef("collections", "OrderedDict", -1), (), "reduce", -1)


def strided_call(tensor: TensorRef) -> Call | None:
    """The call ``_rebuild_tensor*(storage, offset, size, stride, …)`` inside a tensor; ``None`` for other kinds."""
    call: Node = tensor.call
    while isinstance(call, Call) and isinstance(call.args, tuple) and call.args:
        if call.path in STRIDED:
            return call if isinstance(call.args[0], Persistent) else None
        call = call.args[0] if tensor.parameter else None
    return None


def graph(root: Node) -> list[Node]:
    """Every node below ``root`` that is an object, each once."""
    from ckpt_tools.pickles import children

    found: list[Node] = []
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (str, int, float, bytes, type(None))) or id(node) in seen:
            continue
        seen.add(id(node))
        found.append(node)
        waiting.extend(children(node))
    return found


def _reach(root: Node, way: list[str]) -> Node:
    for key in way:
        inside = dict_of(root)
        if key not in inside:
            raise KeyError(key)
        root = inside[key]
    return root


def set_item(room: Node, key: Node, value: Node) -> None:
    """Set one entry of a mapping, or one attribute of an object. Raises ``KeyError`` for anything else."""
    if isinstance(room, dict):
        room[key] = value
    elif isinstance(room, Call) and is_mapping(room):
        _as_pairs(room)
        pairs = room.pairs or []
        place = next((index for index, pair in enumerate(pairs) if pair[0] == key), len(pairs))
        room.pairs = [*pairs[:place], (key, value), *pairs[place + 1 :]]
    elif isinstance(room, Call) and room.states and is_mapping(room.states[-1]):
        set_item(room.states[-1], key, value)
    else:
        raise KeyError(key)


def _as_pairs(room: Call) -> None:
    """A mapping whose pairs came as its argument keeps them as pairs set one by one."""
    if not room.pairs:
        room.pairs = list(pairs_of(room))
        room.args = () if room.pairs else room.args
