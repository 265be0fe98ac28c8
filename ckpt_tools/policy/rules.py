"""The rules on calls of known names: what their arguments may be, so that the call does no more than rebuild data.

Each rule takes the call and what the judge has collected so far, and returns what is wrong with it, or an empty text.
``known.py`` says which name has which rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ckpt_tools.pickles import Call, GlobalRef, Persistent
from ckpt_tools.pickles.nodes import Node, Opaque, SetNode, is_mapping, pairs_of
from ckpt_tools.policy.kinds import callee_of, inert, leaves, maker_of, plain_type, result_rule, run_under
from ckpt_tools.policy.known import BIT_GENERATORS, NAMED_TYPES, REBUILDERS
from ckpt_tools.policy.names import Tier, in_tree, is_class, of_model, rule_of, tier_of, well_known

__all__ = ["OWN_HASH", "RULES", "RUNNING", "Uses", "handed_over", "plain_hash", "running", "state_problem"]

MOST_ELEMENTS = 1 << 24
NOT_DATA = "its arguments are no plain data"
CONSTRUCTOR = "a layer or settings class is called, which runs its constructor"
COMPUTED = "it calls something that is computed while loading"


@dataclass
class Uses:
    """What one pickle does with its names."""

    called: set[int] = field(default_factory=set)  # ids of GlobalRefs that are called, also at second hand
    calls: dict[int, Call] = field(default_factory=dict)  # id of the GlobalRef -> its first call
    nested: list[bytes] = field(default_factory=list)  # byte strings that are loaded as checkpoints themselves

    def call(self, ref: GlobalRef, call: Call) -> None:
        """Note that loading calls a name."""
        self.called.add(id(ref))
        self.calls.setdefault(id(ref), call)


Rule = Callable[[Call, Uses], str]


def _arguments(call: Call) -> tuple[Node, ...]:
    return call.args if isinstance(call.args, tuple) else (call.args,)


def _data(call: Call, uses: Uses) -> str:
    """Plain data, tensors, arrays and names."""
    return "" if inert(call.args) and inert(call.kwargs) else NOT_DATA


ABSURD = "it would allocate more than any checkpoint holds"


def _absurd(argument: Node) -> bool:
    """Whether a number asks for more elements than any checkpoint has."""
    return isinstance(argument, int) and abs(argument) > MOST_ELEMENTS


def _sized(call: Call, uses: Uses) -> str:
    """The same for a type that makes as many elements as a number says."""
    args = _arguments(call)
    if any(map(_absurd, args)):
        return ABSURD
    if len(args) > 1 and args[1] not in ENCODINGS:
        return "the file chooses an encoding, which Python would import"
    return _data(call, uses)


ENCODINGS = ("latin1", "latin-1", "ascii", "utf-8", "utf8")


def _items(call: Call, uses: Uses) -> str:
    """A container made of the items of a list or tuple that stands in the file; the items may be anything."""
    problem = "" if inert(call.kwargs) else NOT_DATA
    callee = callee_of(call)
    name = callee.name if callee is not None else ""
    if name == "iter" and len(_arguments(call)) != 1:
        return "it calls a function again and again"
    hashed = name in ("set", "frozenset")
    for argument in _arguments(call):
        if isinstance(argument, GlobalRef):
            return NOT_DATA
        if hashed and isinstance(argument, (list, tuple)) and not all(map(plain_hash, argument)):
            return OWN_HASH
        if not isinstance(argument, (list, tuple, SetNode, dict)) and not inert(argument):
            problem = NOT_DATA
        if _absurd(argument):
            problem = ABSURD
    return problem


def _pairs(call: Call, uses: Uses) -> str:
    """A mapping made of a dictionary or of a list of pairs that stand in the file; keys and values may be anything."""
    for argument in _arguments(call):
        if isinstance(argument, (list, tuple)):
            if not all(isinstance(pair, (list, tuple)) for pair in argument):
                return NOT_DATA
            if not all(plain_hash(pair[0]) for pair in argument if pair):
                return OWN_HASH
        elif isinstance(argument, GlobalRef) or (not isinstance(argument, dict) and not inert(argument)):
            return NOT_DATA
    return "" if inert(call.kwargs) else NOT_DATA


OWN_HASH = "a key is an object whose class computes its own hash"


def plain_hash(key: Node) -> bool:
    """Whether hashing a key runs no code of a trainer's class.

    Those of transformers and torchmetrics look into the state; a placement of ``torch.distributed`` that was made
    without its constructor ends the process.
    """
    callee = maker_of(key)
    own = callee is not None and rule_of(callee.module, callee.name) in ("layer", "bare")
    return callee is None or not own or callee.module.startswith(("torch.nn.", "torch.optim."))


def _bare(call: Call, uses: Uses) -> str:
    """Made without arguments, or with plain ones, which such a class does not look into."""
    if not call.args and not call.kwargs:
        return ""
    if call.kind.startswith("newobj"):
        return "" if inert(call.args) and not call.kwargs else NOT_DATA
    return CONSTRUCTOR


def _layer(call: Call, uses: Uses) -> str:
    """A class of a trainer is made without running its constructor."""
    if call.kind.startswith("newobj"):
        return "" if inert(call.args) and inert(call.kwargs) else NOT_DATA
    bare = call.kind in ("obj", "inst") and not call.args
    return "" if bare else CONSTRUCTOR


def _enum(call: Call, uses: Uses) -> str:
    """An enumeration is called with its one value."""
    args = _arguments(call)
    maker = maker_of(args[0]) if args else None
    weights = maker is not None and maker.path == "torchvision.models._api.Weights"
    plain = len(args) == 1 and (isinstance(args[0], (str, int, float)) or weights)
    return "" if plain and not call.kwargs else "an enumeration has one plain value"


def _value(call: Call, uses: Uses) -> str:
    return "it may be named in a file, not called"


def _storage(call: Call, uses: Uses) -> str:
    """``TypedStorage(wrap_storage=…, dtype=…, _internal=True)``."""
    given = call.kwargs.values() if isinstance(call.kwargs, dict) else ()
    return "" if inert(call.args) and all(map(inert, given)) else NOT_DATA


def _of_type(call: Call, uses: Uses) -> str:
    """``_rebuild_from_type_v2(function, type, args, state)`` calls the function: only torch's own may stand there."""
    match call.args:
        case (GlobalRef() as function, GlobalRef() as kind, args, *state):
            if (function.module, function.name) not in REBUILDERS:
                return "it calls something that rebuilds no tensor"
            uses.called.add(id(kind))
            if not inert(args):
                return NOT_DATA
            return "; ".join(filter(None, (state_problem(part, False) for part in state)))
    return "it calls something that rebuilds no tensor"


def _rebuilder(call: Call, uses: Uses) -> str:
    """Storages, sizes, hooks and, for parameters with attributes, a state."""
    args = call.args
    if not inert(args) or not inert(call.kwargs):
        return NOT_DATA
    if isinstance(args, tuple) and len(args) > 3 and call.path.endswith("_with_state"):
        return state_problem(args[3], False)
    return ""


def _array(call: Call, uses: Uses) -> str:
    """``_reconstruct(ndarray, (0,), b'b')``: an empty array that is filled from bytes in the file."""
    args = _arguments(call)
    kinds = [argument for argument in args if isinstance(argument, GlobalRef)]
    shapes = [argument for argument in args if isinstance(argument, tuple)]
    known = all(
        rule_of(kind.module, kind.name) in ("value", "bare") or in_tree(kind.module, kind.name) for kind in kinds
    )
    empty = all(shape in ((0,), ()) for shape in shapes)
    if not (kinds and known and empty and inert(args)):
        return "only an empty array is filled from the file"
    return ""


def _scalar(call: Call, uses: Uses) -> str:
    """``scalar(dtype, bytes)``. Of the type object it would give back the very object it was given."""
    args = _arguments(call)
    raw = all(isinstance(part, (bytes, str)) or result_rule(part) == "latin1" for part in args[1:])
    return "" if raw and inert(args[:1]) else NOT_DATA


def _own_class(call: Call, uses: Uses) -> str:
    """``_new_Index(class, {…})``: a class of the same package, and data."""
    package = call.path.split(".", 1)[0]
    match call.args:
        case (GlobalRef() as kind, *rest) if kind.module.split(".", 1)[0] == package and is_class(kind.name):
            return "" if inert(rest) else NOT_DATA
    return "it makes something of another package"


def _latin1(call: Call, uses: Uses) -> str:
    match call.args:
        case (str(), "latin1" | "latin-1"):
            return ""
    return "only text encoded as latin1 is plain data"


def _attribute(call: Call, uses: Uses) -> str:
    """A method kept as an attribute (``Detect.forward``), or bound to a layer (``model.state_dict``)."""
    match call.args:
        case (GlobalRef() as owner, str() as name) if is_class(owner.name) and _public(name):
            return ""
        case (GlobalRef() as owner, str() as name) if rule_of(owner.module, owner.name) in ("layer", "bare"):
            return "" if name.isidentifier() and not name.startswith("__") else ONLY_PUBLIC
        case (GlobalRef(module="zoneinfo", name="ZoneInfo"), "_unpickle"):
            return ""
        case (Call() as owner, str() as name) if name.isidentifier() and not name.startswith("__"):
            target = owner.target
            if target is not None and result_rule(owner) == "layer" and of_model(target.module):
                return ""
            if target is not None and not result_rule(owner) and not well_known(target.module):
                return ""  # an attribute of user code, which is a warning by itself
    return ONLY_PUBLIC


ONLY_PUBLIC = "only a public attribute of a named class is plain data"


def _public(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_")


def _nested(call: Call, uses: Uses) -> str:
    match call.args:
        case (bytes() | bytearray() as data,):
            uses.nested.append(bytes(data))
            return ""
        case (Call(args=(str() as text, "latin1" | "latin-1")) as inner,) if result_rule(inner) == "latin1":
            uses.nested.append(text.encode("latin-1", "replace"))
            return ""
    return "it loads bytes that are not in the file"


def _named_type(call: Call, uses: Uses) -> str:
    match call.args:
        case (str() as name,) if name in NAMED_TYPES:
            return ""
    return "only a built-in type is plain data"


def _method(call: Call, uses: Uses) -> str:
    """A method bound to an object: ``MethodType(getattr(Module, 'state_dict'), model)``."""
    match call.args:
        case (Call() as function, owner) if result_rule(function) == "attribute" and isinstance(owner, Call):
            return "" if result_rule(owner) in ("layer", "") and callee_of(owner) is not None else ONLY_PUBLIC
    return ONLY_PUBLIC


def _partial(call: Call, uses: Uses) -> str:
    """A call that is kept for later, with its arguments: harmless where calling it now would be."""
    given: list[tuple[Node, Node, Node]] = [(_arguments(call)[:1], _arguments(call)[1:], call.kwargs)]
    for state in call.states or ():  # partial.__setstate__((function, args, kwargs, attributes))
        if not isinstance(state, tuple) or len(state) != 4 or not isinstance(state[1], tuple):
            return "that is no state of a partial call"
        given.append((state[:1], state[1], state[2]))
        problem = state_problem(state[3], True)
        if problem:
            return problem
    for function, args, keywords in given:
        problem = _kept(function[0], args, keywords, call, uses) if function else COMPUTED
        if problem:
            return problem
    return ""


def _quiet(given: Node) -> bool:
    """Whether the arguments a constructor would get hold no text, no bytes and no objects."""
    for part in leaves(given):
        if isinstance(part, (str, bytes, Persistent, Opaque)):
            return False
        if isinstance(part, Call) and result_rule(part) not in ("partial", "enum", "data", "rebuilder"):
            return False
    return True


def _kept(function: Node, args: Node, keywords: Node, call: Call, uses: Uses) -> str:
    """What is wrong with a function that is kept to be called later, with those arguments and more."""
    if isinstance(function, Persistent):
        function = Call(function, (), "reduce", call.position).target
    if isinstance(function, GlobalRef):
        uses.call(function, call)
        rule = rule_of(function.module, function.name)
        if rule in RUNNING:
            return f"it keeps a call of {function.path} for later"
        if rule == "layer" and not function.module.startswith("torch.nn.") and not _quiet((args, keywords)):
            return f"it keeps a call of {function.path} with text for later"
        return "" if rule in KEPT else RULES[rule](Call(function, args, "reduce", call.position), uses)
    return "" if result_rule(function) == "partial" or plain_type(function) else COMPUTED


# Rules that say nothing about a callable which is only kept.
KEPT = ("", "value", "layer", "bare", "enum", "data", "sized", "items", "pairs", "factory", "type_of")


def _factory(call: Call, uses: Uses) -> str:
    """``defaultdict(list)``: the factory is called without arguments whenever a key is missing."""
    args = _arguments(call)
    if len(args) > 1 or call.kwargs:
        return NOT_DATA
    if not args or args[0] is None or plain_type(args[0]):
        return ""
    factory = args[0]
    if isinstance(factory, Call) and result_rule(factory) == "partial":
        given = _arguments(factory)
        return "" if given and plain_type(given[0]) and inert(given[1:]) else COMPUTED
    if isinstance(factory, GlobalRef):
        uses.call(factory, call)
        rule = rule_of(factory.module, factory.name)
        return "" if rule in ("", "value") else "it calls something that makes no plain data"
    return COMPUTED


def _reconstructor(call: Call, uses: Uses) -> str:
    """``_reconstructor(class, base, state)``: the base makes the object and, if it isn't ``object``, fills it."""
    match call.args:
        case (GlobalRef() as kind, base, state) if _builtin(base):
            uses.call(kind, call)
            rule = rule_of(kind.module, kind.name)
            if rule not in ("", "bare", "layer", "data", "items", "pairs", "sized"):
                return CONSTRUCTOR
            return "" if inert(state) or isinstance(state, (dict, list, tuple)) else NOT_DATA
    return "only a built-in type makes plain data"


def _builtin(node: Node) -> bool:
    return plain_type(node) and (not isinstance(node, GlobalRef) or node.module in ("builtins", "__builtin__"))


def _newobj(call: Call, uses: Uses) -> str:
    """``__newobj__(class, …)`` and ``__newobj_ex__(class, args, kwargs)``: what the opcodes of that name do."""
    args = _arguments(call)
    kind = args[0] if args else None
    if not isinstance(kind, GlobalRef):
        return COMPUTED
    uses.call(kind, call)
    rule = rule_of(kind.module, kind.name)
    extended = call.path.endswith("_ex__")
    inner = Call(kind, args[1] if extended and len(args) > 1 else args[1:], "newobj", call.position)
    if extended:
        inner.kwargs = args[2] if len(args) > 2 else None
    return RULES[rule](inner, uses) if rule else ""


def _bit_generator(call: Call, uses: Uses) -> str:
    """numpy's random states name their bit generator, or hand its class over."""
    maker = ("numpy.random._pickle", "__bit_generator_ctor")
    for arg in _arguments(call):
        uses.called.add(id(arg))
        named = isinstance(arg, GlobalRef) and (
            (arg.module, arg.name) in BIT_GENERATORS or (arg.module, arg.name) == maker
        )
        made = isinstance(arg, Call) and arg.target is not None and (arg.target.module, arg.target.name) == maker
        if not (named or made or isinstance(arg, str)):
            return "it calls something that is no bit generator"
    return ""


def _dill_array(call: Call, uses: Uses) -> str:
    """``_create_array(function, args, state, attributes)``: numpy's own maker of arrays, called by dill."""
    match call.args:
        case (GlobalRef() as function, tuple() as args, tuple() as state, *attributes):
            if rule_of(function.module, function.name) != "array":
                return "it calls something that makes no array"
            inner = _array(Call(function, args, "reduce", call.position), uses)
            held = state[:-1] if isinstance(state[-1:], tuple) and isinstance(state[-1], list) else state
            plain = all(part is None or isinstance(part, dict) for part in attributes)
            return inner or ("" if inert(held) and plain and inert(list(attributes)) else NOT_DATA)
    return NOT_DATA


def _subscript(call: Call, uses: Uses) -> str:
    """``typing.Optional[int]`` and the like, written as ``operator.getitem(typing.Optional, int)``."""
    match call.args:
        case (GlobalRef(module="typing", name="Literal"), argument) if inert(argument):
            return ""
        case (owner, argument) if _type_form(owner) and _type_form(argument):
            return ""
    return "only a type is subscripted in plain data"


def _union(call: Call, uses: Uses) -> str:
    """``int | None``, written as ``functools.reduce(operator.or_, (int, type(None)))``."""
    match call.args:
        case (GlobalRef(module="operator" | "_operator", name="or_"), tuple() as types) if _type_form(types):
            return ""
    return "only a union of types is plain data"


def _type_form(node: Node) -> bool:
    """Whether a node is a type, a form of ``typing``, or a tuple or list of them."""
    for part in leaves(node):
        if isinstance(part, GlobalRef):
            dangerous = tier_of(part.module, part.name, True)[0] is Tier.DANGEROUS
            if not (part.module in TYPE_MODULES or plain_type(part) or (is_class(part.name) and not dangerous)):
                return False
        elif not (part is None or result_rule(part) in ("subscript", "union", "type_of", "named_type")):
            return False
    return True


TYPE_MODULES = frozenset({"typing", "collections.abc"})


def _type_of(call: Call, uses: Uses) -> str:
    """``type(None)``, which has no name of its own."""
    match call.args:
        case (None | GlobalRef(name="Ellipsis" | "NotImplemented"),):
            return ""
    return "only the type of a constant is plain data"


RULES: dict[str, Rule] = {
    "array": _array,
    "attribute": _attribute,
    "bare": _bare,
    "bit_generator": _bit_generator,
    "method": _method,
    "named_type": _named_type,
    "data": _data,
    "dill_array": _dill_array,
    "enum": _enum,
    "factory": _factory,
    "items": _items,
    "latin1": _latin1,
    "layer": _layer,
    "nested": _nested,
    "newobj": _newobj,
    "of_type": _of_type,
    "own_class": _own_class,
    "pairs": _pairs,
    "partial": _partial,
    "rebuilder": _rebuilder,
    "reconstructor": _reconstructor,
    "scalar": _scalar,
    "sized": _sized,
    "storage": _storage,
    "subscript": _subscript,
    "type_of": _type_of,
    "union": _union,
    "value": _value,
}


def state_problem(state: Node, layer: bool, owner: Node = None) -> str:
    """What is wrong with what BUILD gives an object: a dictionary, a pair (attributes, slots), or other plain data."""
    pair = isinstance(state, tuple) and len(state) == 2
    for part in state if isinstance(state, tuple) else (state,):
        whole = part is state or pair
        if whole and (isinstance(part, (GlobalRef, Persistent)) or (isinstance(part, Call) and not _known_state(part))):
            return "the state of an object is computed while loading"
        problem = run_under(part, layer, owner)
        if problem:
            return problem
    if pair and is_mapping(state[1]):
        for key, value in pairs_of(state[1]):
            if isinstance(key, str) and key.startswith("__"):
                return f"it sets {key} of an object"
            if layer and not inert(value):
                return f"it sets {key} of a layer, which runs code of its class"
    return ""


def _known_state(state: Call) -> bool:
    return is_mapping(state) or inert(state)


# Rules of names that run what they are given: no function nobody knows may get hold of one.
RUNNING = frozenset({"nested", "of_type", "bit_generator", "reconstructor", "newobj", "partial", "attribute"})


def handed_over(call: Call) -> Iterator[GlobalRef]:
    """The names a call gives to a function nobody knows, which may call them."""
    return (part for part in leaves((call.args, call.kwargs)) if isinstance(part, GlobalRef))


def running(ref: GlobalRef) -> bool:
    """Whether calling a name with anything at all could run something that the file chose."""
    return rule_of(ref.module, ref.name) in RUNNING or tier_of(ref.module, ref.name, True)[0] is Tier.DANGEROUS
