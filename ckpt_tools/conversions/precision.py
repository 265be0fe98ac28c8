"""Weights and optimizer state in another element type; what does not fit into it is counted first.

As ``Module._apply`` and ``Module.half`` of torch do it: every floating parameter and buffer, nothing else. Steps of an
optimizer keep their type, as ``Optimizer._process_value_according_to_param_policy`` wants them (torch 2.14).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ckpt_tools.checks.names import counted, few
from ckpt_tools.conversions.request import Conversion
from ckpt_tools.findings import CkptError, as_text
from ckpt_tools.findings.commands import hint
from ckpt_tools.layouts import Part
from ckpt_tools.pickles import GlobalRef, Persistent, pairs_of
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.edits import strided_call
from ckpt_tools.plans.holdings import Bytes
from ckpt_tools.plans.model import Outcome
from ckpt_tools.source import Source
from ckpt_tools.tensors import DTYPES, Dtype, StorageRef, TensorRef
from ckpt_tools.tensors.dtypes import storage_class

__all__ = ["Tally", "cast_tensors", "change_precision", "floating_tensors", "report_range"]

READERS = 2  # threads: casting lets others run
# The types values are cast between: their digits of the significand and of the exponent, in bits.
BITS = {"float64": (53, 11), "float32": (24, 8), "float16": (11, 5), "bfloat16": (8, 8)}


@dataclass
class Tally:
    """What casting did: tensors, values that became infinite, values that became zero."""

    tensors: int = 0
    overflow: int = 0
    underflow: int = 0
    rounded: bool = False


def change_precision(case: Case, request: Conversion) -> None:
    """Cast what was asked for; a plan that loses range needs a word, mere rounding was asked for."""
    wanted = [
        ("weights", request.dtype, ("model", "ema")),
        ("optimizer state", request.optimizer_dtype, ("optimizer",)),
    ]
    for what, dtype, roles in wanted:
        parts = [part for role in roles for part in case.found.role(role)] if dtype else []
        made: dict[str, Bytes] = {}
        if dtype and not parts:
            look = hint("ckpt inspect {path}", "{} lists what it has", path=case.original)
            raise CkptError(f"{case.name} holds no {what} to convert; {look}")
        for part in parts:
            tally = cast_tensors(case, floating_tensors(case, part).values(), DTYPES[str(dtype)], made)
            if tally.tensors:
                case.record(part, Outcome.CAST)
                _report(case, part, str(dtype), tally)


def _report(case: Case, part: Part, dtype: str, tally: Tally) -> None:
    where = part.path or part.role
    exact = "" if tally.rounded else ", exactly"
    case.do("dtype", f"{where}: {counted(tally.tensors, 'tensor')} to {dtype}{exact}", loss=tally.rounded, consent=True)
    report_range(case, part, dtype, tally)


def report_range(case: Case, part: Part, dtype: str, tally: Tally, underflow: bool = True) -> None:
    """Steps for values that do not fit, which need a word."""
    counts = [(tally.overflow, f"too large for {dtype} and becomes infinite"),
              (tally.underflow if underflow else 0, f"too small for {dtype} and becomes zero")]  # fmt: skip
    for count, words in counts:
        if count:
            one, many = f"value is {words}", f"values are {words.replace('becomes', 'become')}"
            case.do("range", f"{part.path or part.role}: {count} {one if count == 1 else many}", loss=True)


def floating_tensors(case: Case, part: Part) -> dict[str, TensorRef]:
    """The tensors of a part that have a floating type its own kind of part is cast with."""
    tensors = case.draft.checkpoint.tensors
    named = {**part.tensors, **dict(_passing_buffers(part, tensors))}
    if part.role == "optimizer":
        named = {name: t for name, t in named.items() if "state." in name and not name.endswith(".step")}
    fit = {name: t for name, t in named.items() if t.dtype.name in BITS and strided_call(t) is not None}
    odd = [name for name, t in named.items() if t.dtype.floating and name not in fit]
    if odd:
        case.advice.append(f"{part.path or part.role}: {few(odd)} keep their type, which can't be cast")
    return fit


def _passing_buffers(part: Part, tensors: dict[int, TensorRef]) -> Iterator[tuple[str, TensorRef]]:
    """The buffers of a pickled module that its state dict leaves out."""
    for layer in part.layers:
        for key, node in pairs_of(layer.attributes.get("_buffers")):
            if id(node) in tensors:
                yield layer.path(as_text(key)), tensors[id(node)]


def cast_tensors(case: Case, tensors: Iterable[TensorRef], dtype: Dtype, made: dict[str, Bytes]) -> Tally:
    """Give tensors storages in another type; those that share one, also over calls with one ``made``, still do."""
    tally = Tally()
    calls = [(tensor, strided_call(tensor)) for tensor in tensors if tensor.dtype != dtype]
    storages = {tensor.storage.key: tensor.storage for tensor, call in calls if tensor.storage is not None and call}
    _cast(case, [storage for key, storage in storages.items() if key not in made], dtype, made, tally)
    for tensor, call in calls:
        if call is None or tensor.storage is None:
            continue
        old = call.args[0]
        kind = GlobalRef(*storage_class(dtype), old.position)
        new = Persistent(("storage", kind, "", old.id[3], tensor.storage.numel), old.position)
        case.draft.new_storage(new, made[tensor.storage.key])
        call.args = (new, *call.args[1:])
        tally.tensors += 1
        tally.rounded |= any(a > b for a, b in zip(BITS[tensor.dtype.name], BITS[dtype.name]))
    return tally


def _cast(case: Case, storages: list[StorageRef], new: Dtype, made: dict[str, Bytes], tally: Tally) -> None:
    """Read storages once, by two threads: what the values become, and how many are lost on the way."""
    from concurrent.futures import ThreadPoolExecutor

    from ckpt_tools.tensors.cast import CastSource, survey

    container = case.draft.checkpoint.container
    swap = container is not None and container.byteorder == "big"
    held = [_held(case, storage) for storage in storages]
    with ThreadPoolExecutor(READERS) as pool:
        seen = pool.map(lambda pair: survey(pair[0], pair[1].dtype, new, swap=swap), zip(held, storages))
        for storage, source, found in zip(storages, held, seen):
            tally.overflow += found.overflow
            tally.underflow += found.underflow
            made[storage.key] = Bytes(CastSource(source, storage.dtype, new, swap=swap), found.crc, found.peak)


def _held(case: Case, storage: StorageRef) -> Source:
    held = case.holding.storage(storage)
    if held is None:
        raise CkptError(f"storage {storage.key} can't be read; `ckpt repair` the file first")
    return held.source
