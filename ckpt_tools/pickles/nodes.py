"""The inert nodes a pickle is read into.

Plain data becomes plain Python data: ``None``, ``bool``, ``int``, ``float``, ``str``, ``bytes``,
``bytearray``, ``list``, ``tuple`` and ``dict``. Everything a real unpickler would import or call becomes one
of the classes below. Sharing and cycles are kept: two references to one object are one node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

__all__ = [
    "Call",
    "Extension",
    "GlobalRef",
    "Node",
    "Opaque",
    "OutOfBand",
    "Persistent",
    "SetNode",
    "children",
    "is_mapping",
    "pairs_of",
]

Node = Any  # plain data or one of the classes of this module


class GlobalRef:
    """A name the pickle would import: ``module`` and (possibly dotted) ``name``.

    ``computed`` is true when the parts were not string constants, so that nobody can say what it names.
    ``position`` is the offset of the opcode in the pickle, in bytes.
    """

    __slots__ = ("computed", "module", "name", "position")

    def __init__(self, module: str, name: str, position: int, computed: bool = False) -> None:
        self.module = module
        self.name = name
        self.position = position
        self.computed = computed

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"GlobalRef({self.path})"


class Call:
    """An object the pickle would build: ``callee(*args, **kwargs)`` and what is then done to it.

    ``kind`` is the opcode: ``reduce``, ``newobj``, ``newobj_ex``, ``obj`` or ``inst``. ``states`` holds what
    BUILD gave it, ``items`` what APPEND(S) or ADDITEMS added, ``pairs`` what SETITEM(S) set; each is ``None``
    until used.
    """

    __slots__ = ("args", "callee", "items", "kind", "kwargs", "pairs", "position", "states")

    def __init__(self, callee: Node, args: Node, kind: str, position: int, kwargs: Node = None) -> None:
        self.callee = callee
        self.args = args
        self.kind = kind
        self.position = position
        self.kwargs = kwargs
        self.states: list[Node] | None = None
        self.items: list[Node] | None = None
        self.pairs: list[tuple[Node, Node]] | None = None

    @property
    def target(self) -> GlobalRef | None:
        """What is called, if it is named; torch < 1.13 wrapped classes as ``('module', class, file, source)``."""
        callee = self.callee
        if isinstance(callee, Persistent) and isinstance(callee.id, tuple) and callee.id[:1] == ("module",):
            callee = callee.id[1] if len(callee.id) > 1 else None
        return callee if isinstance(callee, GlobalRef) else None

    @property
    def path(self) -> str:
        """Dotted name of what is called, or ``?`` when that is a computed object."""
        callee = self.callee
        if type(callee) is GlobalRef:
            return f"{callee.module}.{callee.name}"
        target = self.target
        return target.path if target is not None else "?"

    @property
    def state(self) -> Node:
        """The last state BUILD gave the object, or ``None``."""
        return self.states[-1] if self.states else None

    def __repr__(self) -> str:
        return f"Call({self.path})"


class Persistent:
    """A reference to something outside the pickle; torch's ``id`` is ``('storage', type, key, location, numel)``."""

    __slots__ = ("id", "position")

    def __init__(self, id: Node, position: int) -> None:
        self.id = id
        self.position = position


class SetNode:
    """A set or frozenset; the members keep the order of the file."""

    __slots__ = ("frozen", "items")

    def __init__(self, items: list[Node], frozen: bool) -> None:
        self.items = items
        self.frozen = frozen


class Extension:
    """A code of the extension registry: what it means depends on the reading program."""

    __slots__ = ("code", "position")

    def __init__(self, code: int, position: int) -> None:
        self.code = code
        self.position = position


class OutOfBand:
    """A protocol 5 buffer that is not in the pickle."""

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position = position


class Opaque:
    """A nested tuple used as a dictionary key, compared by identity (hashing it could take for ever)."""

    __slots__ = ("value",)

    def __init__(self, value: Node) -> None:
        self.value = value


ORDERED_DICTS = frozenset({
    ("collections", "OrderedDict"), ("collections", "defaultdict"), ("collections", "Counter"), ("builtins", "dict"),
    ("__builtin__", "dict"),
})  # fmt: skip


def is_mapping(node: Node) -> bool:
    """Whether ``node`` is a dict, or an object that collected key-value pairs (OrderedDict and its like)."""
    if isinstance(node, dict):
        return True
    if not isinstance(node, Call):
        return False
    callee = node.callee
    return bool(node.pairs) or (isinstance(callee, GlobalRef) and (callee.module, callee.name) in ORDERED_DICTS)


def pairs_of(node: Node) -> Iterable[tuple[Node, Node]]:
    """The key-value pairs of a mapping node (nothing for any other node).

    An OrderedDict arrives as pairs set one by one, or, from old protocols, as one argument listing them.
    """
    if isinstance(node, dict):
        return node.items()
    if not isinstance(node, Call) or not is_mapping(node):
        return ()
    first = node.args[0] if isinstance(node.args, tuple) and node.args else ()
    if not first:
        return node.pairs or ()
    given: Iterable[tuple[Node, Node]] = ()
    if isinstance(first, dict):
        given = first.items()
    elif isinstance(first, (list, tuple)):
        given = [(item[0], item[1]) for item in first if isinstance(item, (list, tuple)) and len(item) == 2]
    return [*given, *node.pairs] if node.pairs else given


def children(node: Node) -> Iterator[Node]:
    """The nodes directly inside ``node``."""
    if isinstance(node, (list, tuple)):
        yield from node
    elif isinstance(node, dict):
        yield from node.keys()
        yield from node.values()
    elif isinstance(node, Call):
        yield node.callee
        yield node.args
        if node.kwargs is not None:
            yield node.kwargs
        yield from node.states or ()
        yield from node.items or ()
        for pair in node.pairs or ():
            yield from pair
    elif isinstance(node, SetNode):
        yield from node.items
    elif isinstance(node, Persistent):
        yield node.id
    elif isinstance(node, Opaque):
        yield node.value
