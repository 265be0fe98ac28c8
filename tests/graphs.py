"""Whether two graphs are one: the same data in the same places, shared where shared, closed where closed."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from ckpt_tools.pickles import Call, GlobalRef, Opaque, Persistent, SetNode

__all__ = ["difference"]

ATOMS = (type(None), bool, int, float, str, bytes, complex)


def difference(one: Any, other: Any) -> str:
    """Where two graphs of nodes, or two Python objects made of plain containers, part; empty where they are one.

    Two references to one object on one side must be two references to one object on the other. Text and bytes count
    as values: whether two equal ones are the same object nobody can tell.
    """
    ours: dict[int, Any] = {}
    theirs: dict[int, Any] = {}
    waiting: list[tuple[Any, Any, str]] = [(one, other, "root")]
    while waiting:
        left, right, place = waiting.pop()
        left, right = unwrapped(left), unwrapped(right)
        if type(left) is not type(right):
            return f"{place}: {left!r} and {right!r}"
        if isinstance(left, ATOMS) or left == () or isinstance(left, frozenset):
            if not same_value(left, right):
                return f"{place}: {left!r} and {right!r}"
            continue
        if isinstance(left, GlobalRef):
            if left.path != right.path:
                return f"{place}: {left!r} and {right!r}"
            continue
        if (id(left) in ours) != (id(right) in theirs):
            return f"{place}: shared on one side only"
        if id(left) in ours:
            if ours[id(left)] is not right or theirs[id(right)] is not left:
                return f"{place}: shared with something else"
            continue
        ours[id(left)], theirs[id(right)] = right, left
        inner, outer = list(parts(left)), list(parts(right))
        if [name for name, _ in inner] != [name for name, _ in outer]:
            return f"{place}: {[name for name, _ in inner][:9]} and {[name for name, _ in outer][:9]}"
        waiting.extend((a, b, f"{place}/{name}") for (name, a), (_, b) in zip(inner, outer))
    return ""


def unwrapped(node: Any) -> Any:
    return node.value if isinstance(node, Opaque) else node


def same_value(one: Any, other: Any) -> bool:
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", other)
    return bool(one == other)


def parts(node: Any) -> Iterable[tuple[str, Any]]:
    """What an object is made of, each part under a name that says which it is."""
    if isinstance(node, (list, tuple)):
        return [(str(number), item) for number, item in enumerate(node)]
    if isinstance(node, dict):
        return [part for n, (key, value) in enumerate(node.items()) for part in ((f"key {n}", key), (f"{n}", value))]
    if isinstance(node, (set, bytearray)):
        return [("members", frozenset(node) if isinstance(node, set) else bytes(node))]
    if isinstance(node, SetNode):
        return [("frozen", node.frozen), ("items", node.items)]
    if isinstance(node, Persistent):
        return [("id", node.id)]
    assert isinstance(node, Call), node
    found = [("kind", "obj" if node.kind == "inst" else node.kind), ("callee", node.callee), ("args", node.args)]
    found += [("kwargs", node.kwargs)] if node.kwargs is not None else []
    found += [(f"state {number}", state) for number, state in enumerate(node.states or ())]
    found += [(f"item {number}", item) for number, item in enumerate(node.items or ())]
    for number, (key, value) in enumerate(node.pairs or ()):
        found += [(f"pair {number} key", key), (f"pair {number}", value)]
    return found
