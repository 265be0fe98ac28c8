"""The judge: what loading a pickle would import and call.

*known* names rebuild plain data, tensors and layers; *mentioned* ones are of the standard library or a well-known
package and are not called; *unknown* ones are user code; *dangerous* is what does more than rebuild objects. The judge
looks at every call the opcodes make, and at those Python makes by itself on the way: a method of an object that BUILD,
APPENDS or a known function looks up on the instance.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ckpt_tools.pickles import Call, GlobalRef, Persistent, Pickle
from ckpt_tools.pickles.nodes import Node, Opaque, SetNode, children, is_mapping, pairs_of
from ckpt_tools.policy.kinds import callee_of, inert, is_storage, leaves, live, maker_of, result_rule
from ckpt_tools.policy.known import EVALUATED, EXECUTABLES, LAYER_NAME, NOT_LAYERS, SHARED
from ckpt_tools.policy.names import Tier, callable_tree, package_of, rule_of, tier_of, well_known
from ckpt_tools.policy.rules import (
    OWN_HASH,
    RULES,
    RUNNING,
    Uses,
    handed_over,
    plain_hash,
    running,
    state_problem,
)

__all__ = ["Judgement", "Tier", "judge_pickle", "package_of", "tier_of", "well_known"]


@dataclass(frozen=True)
class Judgement:
    """Something in a pickle that is not known: the ``what`` shows the name, or the call with its arguments."""

    tier: Tier
    what: str
    why: str
    position: int


def judge_pickle(pickle: Pickle) -> tuple[list[Judgement], list[bytes]]:
    """Everything in the pickle that is not known, and the byte strings it would load as checkpoints themselves."""
    uses = Uses()
    found = list(_dangers(pickle, uses))
    seen: set[tuple[str, str, bool]] = set()
    for ref in pickle.globals:
        found += _of_name(ref, uses, seen)
        if pickle.protocol >= TRANSLATED_BELOW and package_of(ref.module) in PYTHON_2:
            why = (
                f"protocol {pickle.protocol} does not translate this name of Python 2: a file of that name is imported"
            )
            found.append(Judgement(Tier.UNKNOWN, ref.path, why, ref.position))
    return found, uses.nested


# Modules of Python 2 that are known, and the protocol from which on their names stand for themselves.
PYTHON_2 = frozenset({"__builtin__", "copy_reg", "exceptions", "UserDict", "UserList", "UserString", "urlparse"})
TRANSLATED_BELOW = 3


def _dangers(pickle: Pickle, uses: Uses) -> Iterator[Judgement]:
    rules = {id(ref): rule_of(ref.module, ref.name) for ref in pickle.globals}
    for call in pickle.calls:
        if call.states is None and call.items is None and call.kwargs is None:
            rule = rules.get(id(call.callee))
            if (rule == "rebuilder" and _usual(call.args)) or (rule == "pairs" and not call.args):
                continue  # nearly every call of a checkpoint: a tensor, or an empty dictionary that is filled later
        why = next(_of_call(call, uses), "")  # one cause is enough
        if why:
            yield Judgement(Tier.DANGEROUS, _shown(call), why, call.position)
    yield from _besides_calls(pickle, uses)


def _besides_calls(pickle: Pickle, uses: Uses) -> Iterator[Judgement]:
    """Changes of what the file did not make, names kept as values, keys, and references out of the pickle."""
    for target, position in pickle.mutated:
        what = target.path if isinstance(target, GlobalRef) else type(target).__name__
        yield Judgement(Tier.DANGEROUS, what, "it changes something that this file did not make", position)
    for call, position in pickle.reopened:
        yield Judgement(Tier.DANGEROUS, _shown(call), "it changes an object again that was complete", position)
    for key, position in pickle.rewritten:
        yield Judgement(Tier.DANGEROUS, _shown(key), "one entry of a dictionary is set twice", position)
    for key in pickle.keys:
        if not plain_hash(key):
            yield Judgement(Tier.DANGEROUS, _shown(key), OWN_HASH, key.position)
    for ref in _kept_running(pickle, uses):
        yield Judgement(Tier.DANGEROUS, ref.path, "it is kept as a value, and whoever calls it runs code", ref.position)
    for persistent in pickle.persistents:
        if not _plain_reference(persistent):
            why = "a reference out of the pickle is no storage, and not only data"
            yield Judgement(Tier.DANGEROUS, "a persistent id", why, persistent.position)
    for extension in pickle.extensions:
        why = "what an extension code means depends on the reading program"
        yield Judgement(Tier.DANGEROUS, f"extension {extension.code}", why, extension.position)


def _kept_running(pickle: Pickle, uses: Uses) -> Iterator[GlobalRef]:
    """Names of functions that run what they are given, where they are not called but lie about as values."""
    running = {id(ref): ref for ref in pickle.globals if rule_of(ref.module, ref.name) in RUNNING}
    if not running:
        return
    yield from (ref for key, ref in running.items() if key not in uses.called)
    waiting: list[Node] = [pickle.root, *pickle.rest, *pickle.calls]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        handed = isinstance(node, Call) and result_rule(node) == "bit_generator"
        for child in children(node):
            called = isinstance(node, Call) and child is node.callee
            if id(child) in running and not called and not handed and id(child) in uses.called:
                yield running[id(child)]
            elif isinstance(child, (list, tuple, dict, SetNode, Opaque, Persistent)):
                waiting.append(child)


def _plain_reference(persistent: Persistent) -> bool:
    """Whether a persistent id that names no storage at least holds no objects; the class of a module may be one."""
    parts = persistent.id if isinstance(persistent.id, tuple) else (persistent.id,)
    return USUAL_PARTS.issuperset(map(type, parts)) or all(map(inert, parts))


SIMPLE = frozenset({type(None), bool, int, float, str})
USUAL_PARTS = SIMPLE | {GlobalRef}


def _usual(args: Node) -> bool:
    """Whether a tensor is rebuilt as nearly always: from a storage or another tensor, numbers, and no hooks."""
    if not isinstance(args, tuple):
        return False
    for part in args:
        kind = type(part)
        if kind in SIMPLE or (kind is Persistent and is_storage(part)):
            continue
        if kind is tuple and all(type(item) is int for item in part):
            continue
        if kind is Call and not part.args and not part.pairs and part.states is None and part.path == EMPTY:
            continue
        return False
    return True


EMPTY = "collections.OrderedDict"


def _of_name(ref: GlobalRef, uses: Uses, seen: set[tuple[str, str, bool]]) -> Iterator[Judgement]:
    if ref.computed:
        yield Judgement(Tier.DANGEROUS, "a computed name", "its parts are not constants", ref.position)
        return
    called = id(ref) in uses.called
    if (ref.module, ref.name, called) in seen:
        return
    seen.add((ref.module, ref.name, called))
    tier, why = tier_of(ref.module, ref.name, called)
    if tier is not Tier.KNOWN:
        call = uses.calls.get(id(ref))
        yield Judgement(tier, _shown(call) if call else ref.path, why, ref.position)


def _of_call(call: Call, uses: Uses) -> Iterator[str]:
    """What is wrong with a call, and with what is done to its result."""
    callee = callee_of(call)
    if callee is None:
        yield "it calls something that is computed while loading"
        return
    rule = rule_of(callee.module, callee.name)
    if not rule or rule in RUNNING:
        uses.call(callee, call)
    if rule:
        problem = RULES[rule](call, uses)
        if problem:
            yield problem
    else:
        yield from _of_unknown_call(call, callee, uses)
    yield from _afterwards(call, callee, rule)


def _of_unknown_call(call: Call, callee: GlobalRef, uses: Uses) -> Iterator[str]:
    """A call of user code is a warning; handing it something dangerous, or a well-known way to run things, is more."""
    if tier_of(callee.module, callee.name, True)[0] is Tier.DANGEROUS:
        return  # the name alone says it
    name = callee.name.rsplit(".", 1)[-1]
    runs = call.kind in ("reduce", "obj", "inst")
    one_value = isinstance(call.args, tuple) and len(call.args) == 1 and isinstance(call.args[0], int)
    if name in EXECUTABLES and runs and not one_value:
        yield "a function or class of that name starts programs, opens files or imports code"
    if well_known(callee.module) and runs and _has_text(call) and not name.endswith(("Error", "Exception", "Warning")):
        yield f"a class of {package_of(callee.module)} that is not known as data is called with text"
    for ref in handed_over(call):
        if running(ref):
            yield f"{ref.path} is handed to a call"
    for argument in call.args if isinstance(call.args, tuple) else ():
        if result_rule(argument) in ("attribute", "nested"):
            yield "an attribute fetched by name is handed to a call"


def _has_text(call: Call) -> bool:
    """Whether text is among the arguments, also in lists: it may be the path of a file, or an expression."""
    return any(isinstance(part, (str, bytes, Opaque)) or result_rule(part) == "sized" for part in leaves(call.args))


# Rules whose results are containers of Python, and what may be put into them.
TAKES_ITEMS = frozenset({"items", "sized", ""})
TAKES_PAIRS = frozenset({"pairs", "factory", "layer", "data", ""})
TAKES_STATE = frozenset({
    "array", "bare", "bit_generator", "data", "dill_array", "factory", "items", "layer", "of_type", "own_class",
    "pairs", "partial", "sized", "",
})  # fmt: skip


def _afterwards(call: Call, callee: GlobalRef, rule: str) -> Iterator[str]:
    """What is wrong with the items, pairs and attributes an object gets after it was made."""
    maker = maker_of(call)
    if maker is not None and maker is not callee:  # an object of a class that ``copyreg`` was given
        callee, rule = maker, rule_of(maker.module, maker.name)
    made = (callee.module, callee.name)
    shared = made in SHARED and (call.states or call.items or call.pairs)
    if shared or (call.items and rule not in TAKES_ITEMS) or (call.pairs and rule not in TAKES_PAIRS):
        yield "only a container of Python is given items"
    if call.pairs and rule == "layer" and callable_tree(callee.module) and callee.module.startswith("torch."):
        yield "a layer is given items as if it were a dictionary"
    if not call.states:
        return
    if rule not in TAKES_STATE:
        yield "what it makes is complete, and yet it is given attributes"
    for state in call.states:
        layer = rule == "layer" and callable_tree(callee.module)
        problem = state_problem(state, rule not in CHOSEN_BY_USERS, call) if rule else _user_state_problem(state)
        if problem:
            yield problem
        if layer:
            yield from _of_layer(state[0] if isinstance(state, tuple) and state else state)


# Rules of objects whose attributes are named by whoever wrote the script.
CHOSEN_BY_USERS = frozenset({"bare", "pairs", "factory", "items", "partial"})


def _user_state_problem(state: Node) -> str:
    """User code may get any state; only what Python itself would look up on the instance counts."""
    return state_problem(state, False) if isinstance(state, (dict, tuple)) else ""


ROOMS = ("_parameters", "_buffers", "_modules")


def _of_layer(state: Node) -> Iterator[str]:
    """What a layer or model holds: dictionaries of tensors and layers, hooks, and text its trainer evaluates."""
    for key, value in pairs_of(state):
        if type(value) is Call and not value.pairs and not value.args:
            continue  # an empty dictionary, as nearly all hooks are, or an object without parts
        if key in ROOMS:
            yield from _of_room(key, value)
        elif type(key) is str and key[-6:] == "_hooks" and is_mapping(value):
            yield from _of_hooks(key, value)
        elif key in EVALUATED and is_mapping(value):
            yield from _of_evaluated(dict(pairs_of(value)))


def _of_room(room: str, held: Node) -> Iterator[str]:
    if held is not None and not is_mapping(held):
        yield f"its {room} are no dictionary"
    for _, value in pairs_of(held):
        if value is None:
            continue
        if type(value) is GlobalRef or (result_rule(value) not in ("rebuilder", "layer", "") and live(value)):
            yield f"among its {room} is something else that can be called"


def _of_hooks(key: str, hooks: Node) -> Iterator[str]:
    for _, hook in pairs_of(hooks):
        if isinstance(hook, GlobalRef) and tier_of(hook.module, hook.name, True)[0] is Tier.DANGEROUS:
            yield f"the first use of that layer would call {hook.path}, one of its {key}"


LONGEST_EXPRESSION = 200  # characters of an activation or an argument in a model yaml
LITERAL = re.compile(r"[\w.\[\](), +*/=:'\"-]*")


def _of_evaluated(yaml: dict[Node, Node]) -> Iterator[str]:
    """Text in a model yaml that its trainer hands to ``eval``: an activation, modules and their arguments."""
    if any(isinstance(key, Call) for key in yaml):
        yield "a key of its model yaml, which the trainer evaluates, is computed while loading"
    for key in ("activation", "act"):
        text = yaml.get(key)
        if isinstance(text, str) and not re.match(r"(torch\.)?nn\.[A-Z]", text):
            yield f"the trainer evaluates the text {text[:80]!r} of its model yaml"
            return
    for row in (row for key in ("backbone", "head") for row in _rows(yaml.get(key))):
        name = row[2] if len(row) > 2 else None
        if isinstance(name, str) and not _layer_name(name):
            yield f"the trainer calls {name[:80]!r}, which is no layer, with arguments of its model yaml"
    for value in leaves([yaml.get(key) for key in ("activation", "act", "backbone", "head")]):
        if isinstance(value, (Call, GlobalRef, Opaque)):
            yield "a part of its model yaml, which the trainer evaluates, is computed while loading"
        elif isinstance(value, str) and not _harmless_expression(value):
            yield f"the trainer evaluates the text {value[:80]!r} of its model yaml"


def _rows(node: Node) -> list[Node]:
    return [row for row in node if isinstance(row, (list, tuple))] if isinstance(node, (list, tuple)) else []


def _layer_name(name: str) -> bool:
    spelled = re.fullmatch(LAYER_NAME, name) is not None and "__" not in name
    return spelled and name not in NOT_LAYERS and name not in EXECUTABLES and not name.endswith("Model")


EXPRESSION_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Attribute, ast.Call, ast.keyword, ast.List, ast.Tuple, ast.Load,
    ast.UnaryOp, ast.USub, ast.UAdd, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv,
)  # fmt: skip


def _harmless_expression(text: str) -> bool:
    """Whether evaluating a text makes no more than a number, a name or a layer of ``torch.nn``."""
    if re.fullmatch(r"[\w.-]*", text):
        return "__" not in text
    if len(text) > LONGEST_EXPRESSION or not LITERAL.fullmatch(text) or "__" in text:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True  # it can't be evaluated either: the trainer takes it as text, or stops
    nodes = list(ast.walk(tree))
    calls = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    return all(isinstance(node, EXPRESSION_NODES) for node in nodes) and all(
        re.fullmatch(r"(torch\.)?nn\.[A-Z]\w*", name) for name in calls
    )


def _shown(node: Node, depth: int = 0) -> str:
    """A call as a reader would write it, arguments shortened."""
    if isinstance(node, GlobalRef):
        return node.path
    if isinstance(node, Call):
        if depth > 2:
            return f"{node.path}(…)"
        parts: Iterable[Node] = list(node.args)[:4] if isinstance(node.args, (tuple, list)) else [node.args]
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
