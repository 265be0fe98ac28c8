"""Forms that load on every system: without path objects, one version's numpy names, wrappers and dragged buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckpt_tools.checks.names import counted
from ckpt_tools.conversions.names import change_prefix, moved_by_target
from ckpt_tools.conversions.request import Conversion
from ckpt_tools.layouts.parts import dict_of
from ckpt_tools.pickles import Call, GlobalRef, Persistent, is_mapping, pairs_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.cures.portable import numpy2_names, path_objects
from ckpt_tools.plans.cures.strides import make_contiguous
from ckpt_tools.plans.edits import graph, strided_call
from ckpt_tools.plans.holdings import Bytes, checksum
from ckpt_tools.source import WindowSource
from ckpt_tools.tensors import StorageRef, TensorRef

__all__ = ["make_portable", "namespaces_as_dicts"]

PLAIN_CHARACTERS = "?bhilqBHILQefdUS"  # numpy's types whose values Python has a type of its own for
LATIN = ("_codecs.encode", "builtins.bytearray", "__builtin__.bytearray")  # what makes bytes of such text
LONGEST = 1 << 20  # elements of an array that becomes a list
NAMESPACES = ("argparse.Namespace", "types.SimpleNamespace")
BUILTIN = {"dict", "list", "set", "tuple", "frozenset", "bool", "int", "float", "complex", "str", "bytes", "bytearray",
           "object", "slice", "range", "type"}  # fmt: skip


def make_portable(case: Case, request: Conversion) -> None:
    """Every form only some systems or versions can read, in one all can read."""
    for change in CHANGES:
        change(case)
        case.settle()
    change_prefix(case, Conversion(prefix="none"))
    case.settle()
    if case.found.layout.plain_args:
        namespaces_as_dicts(case, request)
    elif not request.args_as_dict and any(
        isinstance(node, Call) and node.path in NAMESPACES for node in graph(case.root)
    ):
        case.advice.append(
            "a Namespace stays one: the script that wrote it may read its attributes; --args-as-dict makes it a dict"
        )


def namespaces_as_dicts(case: Case, request: Conversion) -> None:
    """Namespaces of settings as plain mappings, which ``torch.load(weights_only=True)`` takes."""
    found = [node for node in graph(case.root) if isinstance(node, Call) and node.path in NAMESPACES]
    for node in found:
        case.draft.swaps[id(node)] = dict(dict_of(node))
    if found:
        case.draft.edited = True
        case.do("namespace", f"{len(found)} Namespace{'s become dicts' if len(found) > 1 else ' becomes a dict'}")


def numpy_data(case: Case) -> None:
    """numpy scalars become Python's numbers, and arrays lists; those inside objects, whose code wants them, stay."""
    plain = _in_plain_data(case.root)
    staying = 0
    counts = {"number": 0, "list": 0}
    for node in graph(case.root):
        if not isinstance(node, Call) or id(node) in case.draft.swaps:
            continue
        if node.path.endswith("core.multiarray.scalar"):
            held, kind = _scalar(node), "number"
            staying += held is None
        elif node.path.endswith("core.multiarray._reconstruct"):
            held, kind = _array(node) if id(node) in plain else None, "list"
            staying += held is None
        elif node.path.endswith("core.numeric._frombuffer"):
            held, kind = _buffer(node) if id(node) in plain else None, "list"
            staying += held is None
        else:
            continue
        if held is not None:
            case.draft.swaps[id(node)] = held[0]
            counts[kind] += 1
    if staying:
        case.advice.append(
            f"{counted(staying, 'numpy object')} stay as they are, inside others or of types Python has no numbers for"
        )
    if any(counts.values()):
        case.draft.edited = True
        text = " and ".join(counted(count, kind) for kind, count in counts.items() if count)
        case.do("numpy", f"numpy objects become plain Python: {text}")


def _in_plain_data(root: Node) -> set[int]:
    """The nodes that lie in nothing but mappings, lists and tuples."""
    found: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found.add(id(node))
            inside = [value for _, value in pairs_of(node)] if is_mapping(node) else node
            waiting += inside if isinstance(inside, (list, tuple)) else []
    return found


def _scalar(node: Call) -> tuple[Any] | None:
    """The value of ``scalar(dtype, bytes)``; ``None`` where Python has no such type."""
    if not (isinstance(node.args, tuple) and len(node.args) == 2):
        return None
    values = _values(node.args[0], node.args[1], (1,))
    return (values[0],) if values is not None else None


def _array(node: Call) -> tuple[Any] | None:
    """An array as nested lists: state ``(version, shape, dtype, is_fortran, bytes)`` (numpy/core/src, 1.26 and 2)."""
    state = node.state
    if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[1], tuple)):
        return None
    values = _values(state[2], state[4], state[1], fortran=state[3] is True)
    return (values,) if values is not None else None


def _buffer(node: Call) -> tuple[Any] | None:
    """An array as protocol 5 writes it: ``_frombuffer(bytes, dtype, shape, order)`` (numpy/_core/numeric.py)."""
    if not (isinstance(node.args, tuple) and len(node.args) == 4 and isinstance(node.args[2], tuple)):
        return None
    data, dtype, shape, order = node.args
    values = _values(dtype, data, shape, fortran=order == "F")
    return (values,) if values is not None else None


def _values(dtype: Node, data: Node, shape: tuple[Any, ...], *, fortran: bool = False) -> Any:
    """Numbers or texts from their bytes; ``None`` where they are not of a plain kind, or too many."""
    import numpy as np

    raw = _raw(data)
    name = dtype.args[0] if isinstance(dtype, Call) and isinstance(dtype.args, tuple) and dtype.args else None
    state = dtype.state if isinstance(dtype, Call) else None
    order = state[1] if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">") else ""
    if raw is None or not isinstance(name, str) or not all(type(length) is int for length in shape):
        return None
    try:
        kind = np.dtype(order + name.lstrip("<>=|"))
        if kind.char not in PLAIN_CHARACTERS:
            return None
        values = np.frombuffer(raw, kind).reshape(shape, order="F" if fortran else "C")
    except (TypeError, ValueError):
        return None
    return values.tolist() if values.size <= LONGEST else None


def _raw(data: Node) -> bytes | None:
    """The bytes of a numpy object; protocols before 3 write them as ``_codecs.encode(text, 'latin1')``."""
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    if isinstance(data, Call) and data.path == "__builtin__.bytes" and data.args == ():  # no bytes, before protocol 3
        return b""
    if isinstance(data, Call) and data.path in LATIN and isinstance(data.args, tuple) and data.args:
        text = data.args[0]
        return text.encode("latin-1", "replace") if isinstance(text, str) else _raw(text)
    return None


def dill_names(case: Case) -> None:
    """What dill wrote in its own way about builtin types, as pickle writes it."""
    done = 0
    for node in graph(case.root):
        if isinstance(node, Call) and node.path == "dill._dill._load_type" and isinstance(node.args, tuple):
            name = node.args[0] if node.args else None
            if name in BUILTIN:
                case.draft.swaps[id(node)] = GlobalRef("__builtin__", str(name), node.position)
                done += 1
    if done:
        case.draft.edited = True
        case.do("dill-names", f"{done} types named without dill")


def compact_storages(case: Case) -> None:
    """Storages cut down to what tensors use of them: a view no longer drags along the buffer it was taken from."""
    saved = count = 0
    for storage, tensors in case.draft.checkpoint.storages.values():
        runs = _runs(tensors)
        used = sum(end - start for start, end in runs)
        calls = [strided_call(tensor) for tensor in tensors]
        sizes = {tensor.dtype.size for tensor in tensors}  # a storage of bytes says nothing of what is in it
        left = storage.nbytes - used * max(sizes)
        if left <= 0 or storage.window is not None or None in calls or len(sizes) > 1:
            continue
        if _cut(case, storage, tensors, runs):
            saved += left
            count += 1
    if count:
        case.do("compact", f"{counted(count, 'storage')} cut down to what tensors use of them: {saved} bytes less")


def _runs(tensors: list[TensorRef]) -> list[tuple[int, int]]:
    """The stretches of a storage that tensors use, in elements, those that touch or overlap joined."""
    runs: list[tuple[int, int]] = []
    for start, end in sorted((first, first + count) for first, count in (tensor.span for tensor in tensors) if count):
        if runs and start <= runs[-1][1]:
            runs[-1] = (runs[-1][0], max(runs[-1][1], end))
        else:
            runs.append((start, end))
    return runs


def _cut(case: Case, storage: StorageRef, tensors: list[TensorRef], runs: list[tuple[int, int]]) -> bool:
    held = case.holding.storage(storage)
    if held is None:
        return False
    size = tensors[0].dtype.size
    parts: dict[int, Bytes] = {}
    for start, end in runs or [(0, 0)]:
        window = WindowSource(held.source, start * size, (end - start) * size, f"part of storage {storage.key}")
        parts[start] = Bytes(window, checksum(window))
    for tensor in tensors:
        call = strided_call(tensor)
        assert call is not None
        first, count = tensor.span
        start, end = next(((a, b) for a, b in runs if a <= first and first + count <= b and count), (0, 0))
        if start not in parts:
            parts[start] = Bytes(WindowSource(held.source, 0, 0, "empty"), 0)
        old = call.args[0]
        new = Persistent(
            ("storage", old.id[1], "", old.id[3], (end - start) * size // storage.dtype.size), old.position
        )
        case.draft.new_storage(new, parts[start])
        call.args = (new, first - start if count else 0, *call.args[2:])
    return True


CHANGES: tuple[Callable[[Case], None], ...] = (
    moved_by_target, path_objects, numpy_data, numpy2_names, dill_names, compact_storages, make_contiguous,
)  # fmt: skip
