"""Inert nodes written back as a pickle, in the opcodes and the order CPython's pickler uses.

The inverse of :mod:`ckpt_tools.pickles.machine`: what was read and written again is read as the same graph, with
shared objects shared and cycles closed. Only opcodes of protocol 2 are written (torch's ``weights_only`` unpickler
knows no others); what later protocols have opcodes of their own for is spelt as protocol 2 spells it. Classes inside
classes and construction with keywords have no such spelling: a pickle with those is one of protocol 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from struct import pack

from ckpt_tools.pickles.nodes import Call, GlobalRef, Node, Opaque, Persistent, SetNode

__all__ = ["EmitError", "emit"]

PROTOCOL = 2
MOST_VISITS = 20_000_000  # nodes looked at: a graph of more is no checkpoint
Resolve = Callable[[Persistent], Node]
Task = tuple[str, Node]


class EmitError(Exception):
    """The graph holds something that can't be written as a pickle anybody would read the same way."""


def emit(root: Node, persistent: Resolve | None = None, swaps: Mapping[int, Node] | None = None) -> bytes:
    """The pickle (protocol 2; 4 where it needs to be) of a graph of nodes.

    ``persistent`` gives the id to write for a reference to a storage; ``swaps`` maps the ``id`` of a node to the node
    to write in its place. Raises ``EmitError`` for extension codes, out-of-band buffers, and objects that are an
    argument of their own construction.
    """
    emitter = _Emitter(persistent or (lambda node: node.id), swaps or {})
    emitter.count(root)
    emitter.run(root)
    return b"\x80" + bytes([4 if emitter.modern else 2]) + bytes(emitter.out)


LATIN, BYTEARRAY = GlobalRef("_codecs", "encode", -1), GlobalRef("__builtin__", "bytearray", -1)
SET, FROZENSET = GlobalRef("__builtin__", "set", -1), GlobalRef("__builtin__", "frozenset", -1)


class _Emitter:
    def __init__(self, persistent: Resolve, swaps: Mapping[int, Node]) -> None:
        self.out = bytearray()
        self.modern = False
        self.persistent = persistent
        self.swaps = swaps
        self.uses: dict[object, int] = {}
        self.memo: dict[object, int] = {}
        self.making: set[int] = set()  # calls whose arguments are being written
        self.spelt: dict[int, tuple[Node, Node]] = {}  # the node and its protocol 2 spelling, both kept alive
        self.resolved: dict[int, Node] = {}

    def settled(self, node: Node) -> Node:
        """The node to write: swapped where asked for, and in a form protocol 2 has opcodes for."""
        if self.swaps:
            node = self.swaps.get(id(node), node)
        if type(node) is Opaque:
            return self.settled(node.value)
        if type(node) in SPELLINGS:
            if id(node) not in self.spelt:
                self.spelt[id(node)] = (node, _spelling(node))
            return self.spelt[id(node)][1]
        if isinstance(node, Call) and isinstance(node.callee, Persistent):
            target = node.target  # torch < 1.13 wrapped classes as ('module', class, file, source)
            if target is None:
                raise EmitError(f"a call of {node.path} that can't be named")
        return node

    def id_of(self, node: Persistent) -> Node:
        if id(node) not in self.resolved:
            self.resolved[id(node)] = self.persistent(node)
        return self.resolved[id(node)]

    def inside(self, node: Node) -> Iterable[Node]:
        """Everything written as part of ``node``."""
        kind = type(node)
        if kind is Call:
            yield node.target if isinstance(node.callee, Persistent) else node.callee
            yield node.args
            if node.kind == "newobj_ex":
                yield node.kwargs
            yield from node.items or ()
            for pair in node.pairs or ():
                yield from pair
            yield from node.states or ()
        elif kind is dict:
            for pair in node.items():
                yield from pair
        elif kind is list or kind is tuple:
            yield from node
        elif kind is Persistent:
            yield self.id_of(node)

    def count(self, root: Node) -> None:
        """Count how often each node is referred to: only what is met again needs a place in the memo."""
        uses, waiting, visits = self.uses, [root], 0
        while waiting:
            visits += 1
            if visits > MOST_VISITS:
                raise EmitError(f"more than {MOST_VISITS} nodes")
            node = self.settled(waiting.pop())
            self.modern = self.modern or _needs_protocol_4(node)
            key = _key(node)
            if key is None:
                continue
            met = uses.get(key, 0)
            uses[key] = met + 1
            if not met and type(node) is not str:
                waiting.extend(reversed(tuple(self.inside(node))))

    def run(self, root: Node) -> None:
        tasks: list[Task] = [("node", root)]
        out = self.out
        while tasks:
            what, node = tasks.pop()
            if what == "node":
                self.node(self.settled(node), tasks)
            elif what == "raw":
                out += node
            elif what == "made":
                self.making.discard(id(node))
                self.put(id(node))
            else:  # a tuple whose elements are on the stack: they may have made it already
                self.close(node)
        out += b"."

    def put(self, key: object) -> None:
        """Give what is on top of the stack a place in the memo, if it is met again."""
        if self.uses.get(key, 0) > 1:
            place = self.memo[key] = len(self.memo)
            self.out += b"q" + bytes([place]) if place < 256 else b"r" + pack("<I", place)

    def get(self, key: object) -> bool:
        place = self.memo.get(key)
        if place is None:
            return False
        self.out += b"h" + bytes([place]) if place < 256 else b"j" + pack("<I", place)
        return True

    def node(self, node: Node, tasks: list[Task]) -> None:
        kind = type(node)
        simple = SIMPLE.get(kind)
        if simple is not None:
            self.out += simple(node)
            return
        if kind is tuple and not node:
            self.out += b")"
            return
        key = _key(node)
        if key is None:
            raise EmitError(
                f"a node of kind {kind.__name__} has no place in a pickle that everybody reads the same way"
            )
        if self.get(key):
            return
        if kind is str:
            raw = node.encode("utf-8", "surrogatepass")
            self.out += b"X" + pack("<I", len(raw)) + raw
            self.put(key)
        elif kind is GlobalRef:
            if node.computed or "\n" in node.module + node.name:
                raise EmitError(f"the name {node.path!r} can't be written")
            module, name = _modern(node) if self.modern else (node.module, node.name)
            self.out += b"c" + f"{module}\n{name}\n".encode("utf-8", "surrogateescape")
            self.put(key)
        elif kind is dict or kind is list:
            self.out += b"}" if kind is dict else b"]"
            self.put(key)
            filled = [part for pair in node.items() for part in pair] if kind is dict else list(node)
            self.fill(filled, b"u" if kind is dict else b"e", tasks)
        elif kind is tuple:
            tasks.append(("tuple", node))
            tasks.extend(("node", item) for item in reversed(node))
            if len(node) > 3:
                self.out += b"("
        elif kind is Persistent:
            tasks += [("made", node), ("raw", b"Q"), ("node", self.id_of(node))]
        else:
            self.call(node, tasks)

    def fill(self, parts: list[Node], opcode: bytes, tasks: list[Task]) -> None:
        """Tasks that add ``parts`` to what is on top of the stack."""
        if parts:
            tasks.append(("raw", opcode))
            tasks.extend(("node", part) for part in reversed(parts))
            tasks.append(("raw", b"("))

    def close(self, node: tuple[Node, ...]) -> None:
        if id(node) in self.memo:  # met again inside itself, through a list or dict: drop the elements
            self.out += b"1" if len(node) > 3 else b"0" * len(node)
            self.get(id(node))
            return
        self.out += {1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(node), b"t")
        self.put(id(node))

    def call(self, node: Call, tasks: list[Task]) -> None:
        if id(node) in self.making:
            raise EmitError(f"{node.path} is an argument of its own construction")
        self.making.add(id(node))
        states: list[Node] = node.states or []
        for state in reversed(states):
            tasks += [("raw", b"b"), ("node", state)]
        self.fill([part for pair in node.pairs or () for part in pair], b"u", tasks)
        self.fill(list(node.items or ()), b"e", tasks)
        tasks.append(("made", node))
        callee = node.target if isinstance(node.callee, Persistent) else node.callee
        if node.kind in ("obj", "inst"):
            tasks.append(("raw", b"o"))
            tasks.extend(("node", part) for part in reversed((callee, *node.args)))
            tasks.append(("raw", b"("))
        elif node.kind == "newobj_ex":
            tasks += [("raw", b"\x92"), ("node", node.kwargs), ("node", node.args), ("node", callee)]
        else:
            opcode = b"R" if node.kind == "reduce" else b"\x81"
            tasks += [("raw", opcode), ("node", node.args), ("node", callee)]


def _key(node: Node) -> object:
    """What a node is remembered by: its value for text and names, else its identity; ``None``: not at all."""
    kind = type(node)
    if kind is str:
        return node
    if kind is GlobalRef:
        return (node.module, node.name)
    return id(node) if kind in (Call, dict, list, Persistent) or (kind is tuple and node) else None


def _needs_protocol_4(node: Node) -> bool:
    """Names with dots, and objects made with keyword arguments."""
    return (type(node) is GlobalRef and "." in node.name) or (type(node) is Call and node.kind == "newobj_ex")


def _integer(value: int) -> bytes:
    if 0 <= value < 0x10000:
        return b"K" + bytes([value]) if value < 256 else b"M" + pack("<H", value)
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw if len(raw) < 256 else b"\x8b" + pack("<i", len(raw)) + raw


SIMPLE: dict[type, Callable[[Node], bytes]] = {
    type(None): lambda value: b"N",
    bool: lambda value: b"\x88" if value else b"\x89",
    int: _integer,
    float: lambda value: b"G" + pack(">d", value),
}


SPELLINGS = frozenset({bytes, bytearray, SetNode})


def _spelling(node: Node) -> Node:
    """Bytes and sets as protocol 2 writes them (``pickle.py``: ``save_bytes``, ``save_reduce``)."""
    if isinstance(node, (bytes, bytearray)):
        made = Call(LATIN, (bytes(node).decode("latin-1"), "latin1"), "reduce", -1)
        return made if isinstance(node, bytes) else Call(BYTEARRAY, (made,), "reduce", -1)
    return Call(FROZENSET if node.frozen else SET, (node.items,), "reduce", -1)


def _modern(node: GlobalRef) -> tuple[str, str]:
    """A name as protocols above 2 spell it: they no longer translate those of Python 2 (``_compat_pickle``)."""
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    known = (node.module, node.name)
    return NAME_MAPPING.get(known) or (IMPORT_MAPPING.get(node.module, node.module), node.name)
