"""Nodes as plain data that can be shown, compared and written as JSON: numbers, text, lists and mappings."""

from __future__ import annotations

from typing import Any

from ckpt_tools.findings import as_text, writable
from ckpt_tools.layouts.parts import dict_of, plain
from ckpt_tools.pickles import Call, GlobalRef, SetNode, is_mapping
from ckpt_tools.pickles.nodes import Node

__all__ = ["LONGEST_LIST", "value_of"]

DEEPEST = 12
LONGEST_LIST = 64
MOST_VALUES = 20_000  # values of one setting


def value_of(node: Node, longest: int = LONGEST_LIST) -> Any:
    """A node as plain data: mappings and lists bounded in depth, length and number, objects by their class name.

    A Namespace, under whichever trainer's name, is the mapping it wraps.
    """
    return _Plain(longest).value(node, 0)


class _Plain:
    """Turns nodes into plain data; nodes shared many times over would otherwise unfold without end."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.left = MOST_VALUES

    def value(self, node: Node, depth: int) -> Any:
        self.left -= 1
        node = writable(plain(node))
        if isinstance(node, (str, int, float, bool, type(None))):
            return node
        if depth >= DEEPEST or self.left < 0:
            return "…"
        if is_mapping(node) or (isinstance(node, Call) and node.path.endswith("Namespace") and dict_of(node)):
            return self.mapping(node, depth)
        if isinstance(node, (list, tuple, SetNode)):
            return self.listed(node.items if isinstance(node, SetNode) else node, depth)
        if isinstance(node, GlobalRef):
            return node.path
        if isinstance(node, Call):
            path = node.path.startswith("pathlib.") and isinstance(node.args, tuple)
            return "/".join(map(str, node.args)).replace("//", "/") if path else f"<{node.path}>"
        size = f" of {len(node)} bytes" if isinstance(node, (bytes, bytearray)) else ""
        return f"<{type(node).__name__}{size}>"

    def mapping(self, node: Node, depth: int) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for key, value in dict_of(node).items():
            if self.left < 0:
                break
            shown[as_text(key)] = self.value(value, depth + 1)
        return shown

    def listed(self, items: Any, depth: int) -> list[Any]:
        shown = [self.value(item, depth + 1) for item in items[: self.longest]]
        return [*shown, f"… {len(items) - self.longest} more"] if len(items) > self.longest else shown
