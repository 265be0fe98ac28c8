"""What an object of a pickle would be once it is loaded, as far as that decides whether it can run something.

*Inert* objects have no attribute the file could choose that any known function looks up and calls: scalars, containers,
tensors, arrays, names. *Live* ones can be called: functions, classes, bound methods, layers.
"""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_tools.pickles import Call, GlobalRef, Persistent, run
from ckpt_tools.pickles.nodes import Extension, Node, Opaque, OutOfBand, SetNode, pairs_of
from ckpt_tools.policy.known import DUCK_NAMES, MODEL_NAMES, NAMED_TYPES
from ckpt_tools.policy.names import callable_tree, rule_of, well_known

__all__ = ["callee_of", "inert", "is_storage", "leaves", "live", "maker_of", "plain_type", "result_rule", "run_under"]

MOST_LOOKED_AT = 100_000  # nodes of one argument; nobody's data has more in the arguments of one call
SCALARS = frozenset({type(None), bool, int, float, str, bytes, bytearray, OutOfBand})

# Rules of ``rules.py`` whose calls give data that is looked at only by its type.
DATA = frozenset({
    "data", "sized", "items", "pairs", "factory", "enum", "rebuilder", "of_type", "storage", "array", "scalar",
    "own_class", "bit_generator", "latin1", "dill_array", "subscript", "union", "type_of", "named_type",
})  # fmt: skip
PLAIN_TYPES = frozenset({"data", "sized", "items", "pairs"})


def callee_of(call: Call) -> GlobalRef | None:
    """The name of what is called, also where dill or cloudpickle name a built-in type as text."""
    maker = call.callee
    if type(maker) is GlobalRef:
        return maker
    if not isinstance(maker, Call) or maker.target is None:
        return call.target
    rule = rule_of(maker.target.module, maker.target.name)
    match maker.args:
        case (str() as text,) if rule == "named_type" and text in NAMED_TYPES:
            return GlobalRef(*NAMED_TYPES[text], call.position)
        case (GlobalRef(module="zoneinfo", name="ZoneInfo"), "_unpickle") if rule == "attribute":
            return GlobalRef("zoneinfo", "ZoneInfo._unpickle", call.position)
    return None


def maker_of(node: Node) -> GlobalRef | None:
    """The function or class an object is made by, also where ``copyreg`` makes it of a class."""
    callee = callee_of(node) if isinstance(node, Call) else None
    if callee is not None and rule_of(callee.module, callee.name) in ("reconstructor", "newobj"):
        first = node.args[0] if isinstance(node.args, tuple) and node.args else None
        return first if isinstance(first, GlobalRef) else callee
    return callee


def result_rule(node: Node) -> str:
    """The rule of the function or class an object is made by; empty for anything else."""
    maker = maker_of(node)
    return rule_of(maker.module, maker.name) if maker is not None else ""


def is_storage(node: Node) -> bool:
    """Whether a node stands for the bytes of tensors: a persistent id, or a storage pickled inside the pickle."""
    if isinstance(node, Persistent):
        parts = node.id
        if type(parts) is not tuple or len(parts) < 5 or parts[0] != "storage" or type(parts[1]) is not GlobalRef:
            return False
        return all(type(part) in SCALARS or type(part) is tuple for part in parts[2:])
    if not isinstance(node, Call):
        return False
    rule = result_rule(node)
    return rule == "storage" or (rule == "nested" and _nested_storage(node))


def _nested_storage(node: Call) -> bool:
    """Whether the bytes such a call loads are a storage alone, the fourth pickle of torch's old stream."""
    data = node.args[0] if isinstance(node.args, tuple) and node.args else None
    if isinstance(data, Call) and isinstance(data.args, tuple) and data.args and isinstance(data.args[0], str):
        data = data.args[0].encode("latin-1", "replace")
    if not isinstance(data, (bytes, bytearray)):
        return False
    place = 0
    for _ in range(3):
        pickle = run(bytes(data[place : place + 4096]))
        if pickle.trouble is not None:
            return False
        place += pickle.end
    return is_storage(run(bytes(data[place : place + 4096])).root)


def inert(node: Node) -> bool:
    """Whether a node is data all through: nothing in it has attributes that the file chose and a function may call."""
    if not node and type(node) in (tuple, type(None)):
        return True
    waiting: list[Node] = [node]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if kind in SCALARS or kind is GlobalRef:
            continue
        if id(node) in seen:
            continue
        seen.add(id(node))
        if len(seen) > MOST_LOOKED_AT:
            return False
        if kind is tuple or kind is list:
            waiting.extend(node)
        elif kind is dict:
            waiting.extend(node.keys())
            waiting.extend(node.values())
        elif kind is SetNode:
            waiting.extend(node.items)
        elif kind is Persistent:
            if not is_storage(node):
                return False
        elif not (kind is Call and (result_rule(node) in DATA or is_storage(node) or _frame(node))):
            return False
        elif node.states and result_rule(node) == "data":
            waiting.extend(node.states)  # what its class asks of it may come from there
    return True


def _frame(node: Call) -> bool:
    """Whether it is an object of a class tree whose instances can't be called: a frame of pandas, a configuration."""
    maker = maker_of(node)
    return maker is not None and rule_of(maker.module, maker.name) == "layer" and not callable_tree(maker.module)


def live(node: Node) -> bool:
    """Whether a node can be called, and would then run something this file chose.

    Names and instances of packages nobody knows don't count: loading them is the warning ``unknown-code`` already.
    """
    if isinstance(node, GlobalRef):
        rule = rule_of(node.module, node.name)
        if not rule:
            return node.computed or well_known(node.module)
        return rule not in PLAIN_TYPES and (rule != "value" or node.module != "torch")
    if isinstance(node, (Persistent, Extension)):
        return not is_storage(node)
    if not isinstance(node, Call):
        return False
    rule = result_rule(node)
    if rule == "layer":
        return not _frame(node)
    return rule in ("partial", "method", "attribute", "value", "nested", "subscript") or callee_of(node) is None


def run_under(state: Node, model: bool, owner: Node = None) -> str:
    """What is wrong with the attributes of an object: something that can be called, under a name loading looks up.

    With ``model`` also names that a trainer looks up on a layer or model it has loaded. A method of the object itself
    (``self.forward = self.forward_fuse``, as in a fused YOLO model) is nothing else than what its class has.
    """
    names = ALL_NAMES if model else DUCK_NAMES
    for key, value in pairs_of(state):
        if type(key) is not str:
            if type(key) in COMPUTED_KEYS:
                return "the name of an attribute is computed while loading"
        elif (key in names or (key[:2] == "__" and key[-2:] == "__")) and live(value) and not _own(value, owner):
            return f"something that can be called stands under {key}, which loading looks up and calls"
    return ""


def _own(value: Node, owner: Node) -> bool:
    """Whether a value is a method of the object it is an attribute of."""
    return owner is not None and result_rule(value) == "attribute" and value.args[0] is owner


COMPUTED_KEYS = frozenset({Call, GlobalRef, Persistent})
ALL_NAMES = DUCK_NAMES | MODEL_NAMES


def leaves(node: Node) -> Iterator[Node]:
    """What lies in nested tuples, lists and values of dictionaries; an ``Opaque`` at the end where that is too much."""
    waiting: list[Node] = [node]
    for _ in range(MOST_LOOKED_AT):
        if not waiting:
            return
        node = waiting.pop()
        if isinstance(node, (tuple, list)):
            waiting.extend(node)
        elif isinstance(node, dict):
            waiting.extend(node.values())
        else:
            yield node
    yield Opaque(None)


def plain_type(node: Node) -> bool:
    """Whether a node names a type that makes empty data when it is called, also as ``_load_type('dict')`` of dill."""
    if isinstance(node, GlobalRef):
        return rule_of(node.module, node.name) in PLAIN_TYPES | {"factory", "bare"}
    if result_rule(node) == "named_type":
        match node.args:
            case (str() as name,):
                return rule_of(*NAMED_TYPES.get(name, ("", ""))) in PLAIN_TYPES
    return False
