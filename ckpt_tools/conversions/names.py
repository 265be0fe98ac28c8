"""Names in a checkpoint: of the modules its classes live in, of its tensors, and of the classes it predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ckpt_tools.checks.consistency import plain_name
from ckpt_tools.checks.names import few
from ckpt_tools.conversions.request import Conversion
from ckpt_tools.findings import CkptError
from ckpt_tools.findings.commands import hint
from ckpt_tools.layouts import Part
from ckpt_tools.layouts.parts import dict_of, whole_number
from ckpt_tools.layouts.ultralytics import moved_modules
from ckpt_tools.pickles import Call, GlobalRef, is_mapping, pairs_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.edits import graph, put, rename_keys
from ckpt_tools.plans.model import Outcome
from ckpt_tools.tensors.modules import attributes_of, class_name

__all__ = ["change_prefix", "class_lists", "moved_by_target", "rename_classes", "rename_modules", "unwrap_modules"]

NO_PREFIX = ("none", "")
# Modules that wrap another one: their class, and the name of the wrapped one (torch 2.14).
WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
}
# Where trainers keep the names of classes: YOLO models, Lightning and rf-detr arguments, mmengine, transformers.
CLASS_KEYS = frozenset({"names", "class_names", "classes", "CLASSES", "id2label", "label2id", "classnames"})


def rename_modules(case: Case, request: Conversion) -> None:
    """Let classes come from modules of another name; the longest old name that fits wins."""
    renamed = _rename(case, request.modules)
    unused = [old for old in request.modules if old not in renamed]
    if unused and len(unused) == len(request.modules) and not _already(case, request.modules):
        held = sorted({ref.module.split(".")[0] for ref in _names(case)})
        raise CkptError(f"--rename-module {unused[0]}: {case.name} names no such module; it names {few(held, 12)}")


def moved_by_target(case: Case) -> None:
    """Modules the target moved to another place."""
    if case.family == "ultralytics":
        _rename(case, moved_modules(case.version, case.wanted))


def _rename(case: Case, modules: Mapping[str, str]) -> set[str]:
    found: dict[str, int] = {}
    longest_first = sorted(((_bare(old), _bare(new)) for old, new in modules.items()), key=lambda pair: -len(pair[0]))
    for ref in _names(case):
        for old, new in longest_first:
            if ref.module == old or ref.module.startswith(f"{old}."):
                ref.module = new + ref.module[len(old) :]
                found[f"{old} → {new}"] = found.get(f"{old} → {new}", 0) + 1
                break
    if found:
        case.draft.edited = True
        listed = ", ".join(f"{rule} ({count} names)" for rule, count in found.items())
        case.do("rename-module", f"classes come from other modules: {listed}")
    return {old for old in modules if any(rule.startswith(f"{_bare(old)} →") for rule in found)}


def _bare(name: str) -> str:
    return name.removesuffix(".*").strip(".")


def _names(case: Case) -> Iterator[GlobalRef]:
    return (node for node in graph(case.root) if isinstance(node, GlobalRef))


def _already(case: Case, modules: Mapping[str, str]) -> bool:
    """Whether the file has the new names already: then there is nothing to do."""
    new = tuple(_bare(name) for name in modules.values())
    return any(ref.module in new or ref.module.startswith(tuple(f"{name}." for name in new)) for ref in _names(case))


def change_prefix(case: Case, request: Conversion) -> None:
    """Names of weights with the prefix of a wrapper, or without any."""
    wanted = "" if request.prefix in NO_PREFIX else f"{str(request.prefix).rstrip('.')}."
    if not wanted:
        unwrap_modules(case)
    parts = [part for part in case.found.weights if part.form == "state_dict" and part.tensors]
    if wanted and not parts:
        raise CkptError(f"{case.name} has no state dict whose names could begin with {wanted}")
    for part in parts:
        _prefix(case, part, wanted)


def _prefix(case: Case, part: Part, wanted: str) -> None:
    names = [key for key, _ in pairs_of(part.node) if isinstance(key, str)]
    bare = [plain_name(name) for name in names]
    held = {name[: len(name) - len(short)] for name, short in zip(names, bare)} - {""}
    new = {name: wanted + short for name, short in zip(names, bare) if name.endswith(short)}
    if len(set(new.values())) != len(names):
        raise CkptError(f"{part.path or case.name}: without their prefixes two names would be one; nothing was changed")
    if all(name == other for name, other in new.items()):
        return
    rename_keys(part.node, new)
    for optimizer in case.found.role("optimizer"):
        _in_optimizer(optimizer, new)
    case.draft.edited = True
    case.record(part, Outcome.EDITED)
    change = f"without {few(sorted(held))}" if not wanted else f"with {wanted}"
    renamed = sum(name != other for name, other in new.items())
    case.do("prefix", f"{part.path or 'the weights'}: {renamed} names {change}")


def _in_optimizer(part: Part, new: Mapping[str, str]) -> None:
    """Names of parameters in an optimizer: as keys of its state (FSDP), and in its groups (torch since 2.6)."""
    inside = dict_of(part.node)
    rename_keys(inside.get("state"), new)
    for group in inside.get("param_groups") or ():
        for key in ("params", "param_names"):
            listed = dict_of(group).get(key)
            if isinstance(listed, list):
                listed[:] = [new.get(name, name) if isinstance(name, str) else name for name in listed]


def unwrap_modules(case: Case) -> None:
    """Pickled modules taken out of DataParallel and its like."""
    wrapped: dict[str, int] = {}
    for node in graph(case.root):
        inner: Node = node
        while (within := _wrapped(inner)) is not None and within is not node:
            name = class_name(inner).rsplit(".", 1)[-1]
            wrapped[name] = wrapped.get(name, 0) + 1
            inner = within
        if inner is not node:
            case.draft.swaps[id(node)] = inner
    if wrapped:
        case.draft.edited = True
        case.do("prefix", f"models taken out of {', '.join(wrapped)}")


def _wrapped(node: Node) -> Node | None:
    """The module a wrapper holds; ``None`` where a node is none."""
    name = WRAPPERS.get(class_name(node)) if isinstance(node, Call) and node.states else None
    return dict(pairs_of(attributes_of(node).get("_modules"))).get(name) if name else None


def rename_classes(case: Case, request: Conversion) -> None:
    """Other names for classes, given by number or by name, wherever the file keeps names."""
    known = class_lists(case)
    if not known:
        look = hint("ckpt inspect {path}", "{} shows what it has", path=case.original)
        raise CkptError(f"--rename-class: {case.name} keeps no class names; {look}")
    names = _by_number(max((value for _, _, value in known), key=_count))
    for old, new in request.classes.items():
        number = _number(case, old, new, names)
        taken = next((other for other, name in names.items() if name == new and other != number), None)
        if taken is not None:
            raise CkptError(f"--rename-class {old}={new}: class {taken} is called {new} already; use another name")
        was, names[number] = names[number], new
        places = 0
        for place, (room, key, value) in enumerate(known):
            if _by_number(value).get(number) == was != new:
                changed = _renamed(value, number, was, new)
                put(room, key, changed)
                known[place] = (room, key, changed)
                places += 1
        if places:
            case.draft.edited = True
            case.do("rename-class", f"class {number} {was} → {new}, in {places} place{'s' if places > 1 else ''}")


def class_lists(case: Case) -> list[tuple[Node, str, Node]]:
    """Every list of class names, also in what describes weights: the mapping it lies in, its key, and itself."""
    found: list[tuple[Node, str, Node]] = []
    for node in (*graph(case.root), case.beside or {}):
        if is_mapping(node):
            found += [(node, k, v) for k, v in pairs_of(node) if k in CLASS_KEYS and _texts(v) and "." not in k]
    return found


def _texts(value: Node) -> bool:
    """Whether a node names classes: texts in order, by number, or numbers by text."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(name, str) for name in value)
    pairs = list(pairs_of(value)) if is_mapping(value) else []
    return bool(pairs) and (
        all(isinstance(name, str) and _index(key) is not None for key, name in pairs)
        or all(isinstance(key, str) and type(number) is int for key, number in pairs)
    )


def _index(key: Node) -> int | None:
    """A class number, also one that JSON made a text."""
    return key if type(key) is int else whole_number(key) if isinstance(key, str) else None


def _by_number(value: Node) -> dict[int, str]:
    """The names in a list of classes by their number."""
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    pairs = list(pairs_of(value))
    if all(isinstance(name, str) for _, name in pairs):
        return {index: name for key, name in pairs if (index := _index(key)) is not None}
    return {number: name for name, number in pairs}


def _count(value: Node) -> int:
    return len(_by_number(value))


def _number(case: Case, old: str, new: str, names: dict[int, str]) -> int:
    """The class meant by a number or a name; raises ``CkptError`` where there is no such class, or more than one."""
    asked = whole_number(old)
    if asked is not None and asked in names:
        return asked
    meant = [number for number, name in names.items() if name == old] or [n for n, name in names.items() if name == new]
    if len(meant) == 1:
        return meant[0]
    listed = few([f"{number} {name}" for number, name in names.items()], 20)
    if meant:
        raise CkptError(
            f"--rename-class {old}: classes {few(list(map(str, meant)))} are called so; name one by its number"
        )
    raise CkptError(f"--rename-class {old}: {case.name} has no such class; it has {listed}")


def _renamed(value: Node, number: int, old: str, new: str) -> Any:
    """The same list of classes with another name."""
    if isinstance(value, (list, tuple)):
        return type(value)([*value[:number], new, *value[number + 1 :]])
    pairs = list(pairs_of(value))
    if all(isinstance(name, str) for _, name in pairs):
        return {key: new if _index(key) == number else name for key, name in pairs}
    return {new if name == old else name: count for name, count in pairs}
