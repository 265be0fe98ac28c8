"""The judge: what loading a pickle would import and call, in three tiers.

*known* names rebuild plain data, tensors and layers; *unknown* ones are user code; *dangerous* ones do more than
rebuild objects. It is an allow-list: what is not listed is never known.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from ckpt_tools.pickles import Call, GlobalRef, Pickle
from ckpt_tools.pickles.nodes import Node, is_mapping
from ckpt_tools.policy.known import (
    BIT_GENERATORS,
    CLASS_TREES,
    ENUMS,
    KNOWN,
    OLD_STDLIB,
    REBUILDERS,
    RULES,
    WELL_KNOWN,
)

__all__ = ["Judgement", "Tier", "judge_pickle", "package_of", "tier_of", "well_known"]

STDLIB = frozenset(sys.stdlib_module_names) | OLD_STDLIB
MOST_ELEMENTS = 1 << 24
MOST_ARGUMENTS = 100_000
TENSOR_CALLS = REBUILDERS - {("torch._utils", "_rebuild_wrapper_subclass")}
GETATTR = frozenset({"builtins.getattr", "__builtin__.getattr"})
IDENTIFIER = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
TREES = re.compile("(" + "|".join(re.escape(tree) for tree in CLASS_TREES) + r")(\.|$)")
CONTAINERS = frozenset({"dict", "list", "set", "tuple", "frozenset", "int", "float", "str", "bool", "bytes", "slice",
                        "complex", "range", "object", "type", "NoneType", "OrderedDict", "bytearray"})  # fmt: skip


class Tier(str, Enum):
    """How far a name is trusted."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    DANGEROUS = "dangerous"


@dataclass(frozen=True)
class Judgement:
    """Something in a pickle that is not known: the ``what`` shows the name, or the call with its arguments."""

    tier: Tier
    what: str
    why: str
    position: int


@dataclass
class _Uses:
    """What one pickle does with its names."""

    called: set[int] = field(default_factory=set)  # ids of GlobalRefs that are called, also at second hand
    calls: dict[int, Call] = field(default_factory=dict)  # id of the GlobalRef -> its first call
    found: list[Judgement] = field(default_factory=list)
    nested: list[bytes] = field(default_factory=list)
    fetches: bool = False  # whether getattr is named at all


def package_of(module: str) -> str:
    """The top-level package a module belongs to: what loading would import."""
    return module.split(".", 1)[0]


def well_known(module: str) -> bool:
    """Whether a module is the standard library's or a well-known package's."""
    return package_of(module) in STDLIB or package_of(module) in WELL_KNOWN


@functools.lru_cache(maxsize=4096)
def tier_of(module: str, name: str, called: bool) -> tuple[Tier, str]:
    """The tier of a name and, for the last two, the reason. ``called`` counts any use that runs it."""
    if (module, name) in KNOWN or (module, name) in RULES:
        return Tier.KNOWN, ""
    if not IDENTIFIER.fullmatch(module) or not IDENTIFIER.fullmatch(name):
        return Tier.DANGEROUS, "it is no name Python could have written"
    package = package_of(module)
    if package in STDLIB and package != "__main__":
        return Tier.DANGEROUS, "it belongs to the standard library and is no plain data"
    inside = name.split(".")
    if len(inside) > 1 and (package in WELL_KNOWN or TREES.match(module) or not all(map(_capwords, inside))):
        return Tier.DANGEROUS, "the dotted name reaches into another object"
    if _capwords(name) and TREES.match(module):
        return Tier.KNOWN, ""
    if package == "__torch__":  # TorchScript's own type names
        return Tier.KNOWN, ""
    if package in WELL_KNOWN and called and not _capwords(name):
        return Tier.DANGEROUS, f"it calls a function of {package} that rebuilds no data"
    return Tier.UNKNOWN, f"loading would import {package}"


def _capwords(name: str) -> bool:
    """Whether a name is spelt like a class: ``Conv2d``, ``_BatchNorm``, ``C2f``."""
    return name.lstrip("_")[:1].isupper()


def judge_pickle(pickle: Pickle) -> tuple[list[Judgement], list[bytes]]:
    """Everything in the pickle that is not known, and the byte strings it would load as checkpoints themselves."""
    uses = _Uses(fetches=any(ref.name == "getattr" for ref in pickle.globals))
    for call in pickle.calls:
        _judge_call(call, uses)
    for target, position in pickle.mutated:
        what = target.path if isinstance(target, GlobalRef) else type(target).__name__
        if isinstance(target, GlobalRef):
            uses.found.append(Judgement(Tier.DANGEROUS, what, "it changes a module or class in place", position))
    for call in pickle.calls if uses.fetches else ():
        if call.path in GETATTR and (call.states or call.items or call.pairs):
            why = "it changes an attribute fetched by name"
            uses.found.append(Judgement(Tier.DANGEROUS, _shown(call), why, call.position))
    for extension in pickle.extensions:
        why = "what an extension code means depends on the reading program"
        uses.found.append(Judgement(Tier.DANGEROUS, f"extension {extension.code}", why, extension.position))
    seen: set[tuple[str, str, bool]] = set()
    for ref in pickle.globals:
        _judge_global(ref, uses, seen)
    return uses.found, uses.nested


def _judge_global(ref: GlobalRef, uses: _Uses, seen: set[tuple[str, str, bool]]) -> None:
    if ref.computed:
        uses.found.append(Judgement(Tier.DANGEROUS, "a computed name", "its parts are not constants", ref.position))
        return
    called = id(ref) in uses.called
    if (ref.module, ref.name, called) in seen:
        return
    seen.add((ref.module, ref.name, called))
    tier, why = tier_of(ref.module, ref.name, called)
    if tier is not Tier.KNOWN:
        call = uses.calls.get(id(ref))
        uses.found.append(Judgement(tier, _shown(call) if call else ref.path, why, ref.position))


def _judge_call(call: Call, uses: _Uses) -> None:
    callee = call.target
    if callee is not None and (callee.module, callee.name) in TENSOR_CALLS and not uses.fetches:
        return  # nearly every call of a checkpoint; these run nothing they are given
    if callee is None and _dill_container(call, uses):
        return
    if callee is None:
        why = "it calls something that is computed while loading"
        uses.found.append(Judgement(Tier.DANGEROUS, _shown(call), why, call.position))
        return
    if id(callee) not in uses.called:
        uses.called.add(id(callee))
        uses.calls.setdefault(id(callee), call)
    rule = _rule_of(callee.module, callee.name)
    problem = _rules[rule](call, uses) if rule else ""
    if rule != "built_bare":
        uses.called.update(map(id, _names_handed_over(call)))
    if problem or (uses.fetches and _hands_attribute_over(call)):
        why = problem or "an attribute fetched by name is handed to a call"
        uses.found.append(Judgement(Tier.DANGEROUS, _shown(call), why, call.position))


@functools.lru_cache(maxsize=4096)
def _rule_of(module: str, name: str) -> str:
    """The rule on the arguments of a call: the name's own, none for plain data, else that of layers."""
    return RULES.get((module, name)) or ("" if (module, name) in KNOWN else "built_bare")


def _dill_container(call: Call, uses: _Uses) -> bool:
    """``_load_type('set')(…)``: dill's way of naming a built-in container, which is then called like one."""
    maker = call.callee
    named = isinstance(maker, Call) and maker.path == "dill._dill._load_type" and not _builtin_container(maker, uses)
    return named and not _modest(call, uses)


def _hands_attribute_over(call: Call) -> bool:
    """Whether the result of ``getattr`` is somewhere in the arguments: the function called could call it."""
    waiting: list[Node] = [call.args]
    for _ in range(MOST_ARGUMENTS):
        if not waiting:
            return False
        node = waiting.pop()
        if isinstance(node, Call):
            if node.path in GETATTR:
                return True
        elif isinstance(node, (tuple, list)):
            waiting.extend(node)
        elif isinstance(node, dict):
            waiting.extend(node.values())
    return True  # more arguments than anybody's data has


def _names_handed_over(call: Call) -> Iterator[GlobalRef]:
    """The names among a call's arguments: a known function may call what it is given."""
    for argument in call.args if isinstance(call.args, tuple) else ():
        if isinstance(argument, GlobalRef):
            yield argument
        elif isinstance(argument, tuple):
            yield from (part for part in argument if isinstance(part, GlobalRef))


def _built_bare(call: Call, uses: _Uses) -> str:
    """A class known by its module tree is made without running its constructor; an enumeration gets one value."""
    ref = call.target
    if call.kind.startswith("newobj") or ref is None or tier_of(ref.module, ref.name, True)[0] is not Tier.KNOWN:
        return ""
    args = call.args if isinstance(call.args, tuple) else (None, None)
    if (ref.module, ref.name) in ENUMS:
        return "" if len(args) == 1 and isinstance(args[0], (str, int)) else "an enumeration has one plain value"
    if (ref.module, ref.name) == ("torch.nn.parameter", "UninitializedParameter"):
        return (
            "" if all(isinstance(arg, (bool, GlobalRef, Call)) for arg in args) else "its arguments are no plain data"
        )
    return "a layer or settings class is called, which runs its constructor"


def _latin1(call: Call, uses: _Uses) -> str:
    match call.args:
        case (str(), "latin1" | "latin-1"):
            return ""
    return "only text encoded as latin1 is plain data"


def _attribute_of_class(call: Call, uses: _Uses) -> str:
    match call.args:
        case (GlobalRef() as owner, str() as name) if _capwords(owner.name) and name.isidentifier() and name[0] != "_":
            return ""
    return "only a public attribute of a named class is plain data"


def _nested(call: Call, uses: _Uses) -> str:
    match call.args:
        case (bytes() as data,):
            uses.nested.append(data)
            return ""
        case (Call(args=(str() as text, "latin1")) as inner,) if inner.path == "_codecs.encode":
            uses.nested.append(text.encode("latin-1", "replace"))
            return ""
    return "it loads bytes that are not in the file"


def _builtin_container(call: Call, uses: _Uses) -> str:
    match call.args:
        case (str() as name,) if name in CONTAINERS:
            return ""
    return "only a built-in container is plain data"


def _first_called(call: Call, uses: _Uses) -> str:
    """The callable such a call is given counts as called, however it is handed over."""
    for function in _handed_over(call):
        if isinstance(function, GlobalRef):
            uses.called.add(id(function))
            uses.calls.setdefault(id(function), call)
            rule = _rule_of(function.module, function.name)
            if rule not in LATER_HARMLESS:
                problem = _rules[rule](Call(function, _later_arguments(call), "reduce", call.position), uses)
                if problem:
                    return problem
        elif isinstance(function, Call) and function.path != "functools.partial":
            return "it calls something that is computed while loading"
    return ""


# Rules that say nothing about a callable which is only kept, or whose object is made without its constructor.
LATER_HARMLESS = ("", "value_only", "built_bare")


def _handed_over(call: Call) -> Iterator[Node]:
    if isinstance(call.args, tuple) and call.args:
        yield call.args[0]
        if call.path.endswith("._reconstructor"):
            yield from call.args[1:2]  # the base class makes the object
    for state in call.states or ():  # functools.partial.__setstate__((function, args, kwargs, dict))
        if isinstance(state, tuple) and state:
            yield state[0]


def _later_arguments(call: Call) -> Node:
    """What the callable handed to ``call`` would be called with."""
    if not isinstance(call.args, tuple) or call.path.endswith(("defaultdict", "_reconstructor")):
        return ()
    return call.args[1:]


def _rebuilder(call: Call, uses: _Uses) -> str:
    """``_rebuild_from_type_v2(function, type, args, state)`` calls the function: only torch's own may stand there."""
    match call.args:
        case (GlobalRef() as function, GlobalRef(), *_) if (function.module, function.name) in REBUILDERS:
            return ""
    return "it calls something that rebuilds no tensor"


def _bit_generator(call: Call, uses: _Uses) -> str:
    """numpy's random states name their bit generator, or hand its class over."""
    args = call.args if isinstance(call.args, tuple) else (None,)
    maker = ("numpy.random._pickle", "__bit_generator_ctor")
    for arg in args:
        named = isinstance(arg, GlobalRef) and (
            (arg.module, arg.name) in BIT_GENERATORS or (arg.module, arg.name) == maker
        )
        made = isinstance(arg, Call) and arg.target is not None and (arg.target.module, arg.target.name) == maker
        if not (named or made or isinstance(arg, str)):
            return "it calls something that is no bit generator"
    return ""


def _modest(call: Call, uses: _Uses) -> str:
    """A built-in type called with plain data that can't make it allocate without bound."""
    for argument in call.args if isinstance(call.args, tuple) else ():
        if isinstance(argument, int) and abs(argument) > MOST_ELEMENTS:
            return "it would allocate more than any checkpoint holds"
        if isinstance(argument, Call) and argument.path not in ("_codecs.encode", "collections.OrderedDict"):
            return "its argument is computed while loading"
    return ""


def _value_only(call: Call, uses: _Uses) -> str:
    return "it may be named in a file, not called"


def _empty_array(call: Call, uses: _Uses) -> str:
    """``_reconstruct(ndarray, (0,), b'b')``: an empty array that is filled from bytes in the file."""
    match call.args:
        case (GlobalRef(), (0,) | (), *_):
            return ""
    return "only an empty array is filled from the file"


_rules = {
    "rebuilder": _rebuilder,
    "bit_generator": _bit_generator,
    "built_bare": _built_bare,
    "modest": _modest,
    "value_only": _value_only,
    "empty_array": _empty_array,
    "latin1": _latin1,
    "attribute_of_class": _attribute_of_class,
    "nested": _nested,
    "builtin_container": _builtin_container,
    "first_called": _first_called,
}
assert set(RULES.values()) | {"built_bare"} == set(_rules), "every rule in the data has its function"


def _shown(node: Node, depth: int = 0) -> str:
    """A call as a reader would write it, arguments shortened."""
    if isinstance(node, GlobalRef):
        return node.path
    if isinstance(node, Call):
        if depth > 2:
            return f"{node.path}(…)"
        parts = list(node.args)[:4] if isinstance(node.args, (tuple, list)) else [node.args]
        return f"{node.path}({', '.join(_shown(part, depth + 1) for part in parts)})"
    if isinstance(node, (str, bytes)):
        return repr(node if len(node) <= 80 else node[:80]) + ("" if len(node) <= 80 else "…")
    if isinstance(node, (list, tuple)):
        return "(" + ", ".join(_shown(part, depth + 1) for part in node[:4]) + ")" if depth < 3 else "(…)"
    if is_mapping(node):
        return "{…}"
    if isinstance(node, int) and node.bit_length() > 64:
        return "<large integer>"
    return repr(node) if isinstance(node, (int, float, bool, type(None))) else f"<{type(node).__name__}>"
