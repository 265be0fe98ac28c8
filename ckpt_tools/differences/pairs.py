"""Which part of one checkpoint goes with which of another, and which tensor with which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.checks.consistency import spelled_as
from ckpt_tools.layouts import Part
from ckpt_tools.layouts.parts import flatten
from ckpt_tools.tensors import TensorRef

__all__ = ["PairedTensors", "pair_parts", "pair_tensors"]

Pair = tuple["Part | None", "Part | None"]

WEIGHTS = ("model", "ema")
MOST_ALIKE = 32  # parts of one role that are looked at for the one that fits best


@dataclass(frozen=True)
class PairedTensors:
    """The tensors of two parts: ``both`` by their name in the old one, and those only one has by their own name."""

    both: dict[str, tuple[TensorRef, TensorRef]]
    added: dict[str, TensorRef]
    removed: dict[str, TensorRef]


def pair_tensors(old: Part | None, new: Part | None) -> PairedTensors:
    """Tensors of the same name, whatever wrappers put before it."""
    ours, theirs = old.tensors if old else {}, new.tensors if new else {}
    spelling = spelled_as(ours, theirs)
    other = {spelling[name]: tensor for name, tensor in theirs.items()}
    both = {name: (tensor, other[name]) for name, tensor in ours.items() if name in other}
    added = {name: tensor for name, tensor in theirs.items() if spelling[name] not in ours}
    return PairedTensors(both, added, {name: tensor for name, tensor in ours.items() if name not in other})


def pair_parts(old: Checkpoint, new: Checkpoint) -> list[Pair]:
    """Every part with tensors, with the one of the same role in the other file; those without one come last.

    Of several parts of a role those at the same path go together, then those with most names in common. Weights
    of another role stand in where a file has no other; a file that is nothing but a model's weights is held against
    those the other file's trainer would use.
    """
    ours, theirs = list(_parts(old)), list(_parts(new))
    order = {id(part): place for place, part in enumerate(ours)}
    pairs = _weights_alone(old, ours, new, theirs)
    for match in (_at_its_path, _most_alike):
        for part in list(ours):
            other = match(part, [held for held in theirs if held.role == part.role])
            if other is not None:
                pairs.append(_take(part, ours, other, theirs))
    if not any(_is_weights(part) and _is_weights(other) for part, other in pairs):
        pairs += _stand_in(old, ours, new, theirs)
    pairs.sort(key=lambda pair: order[id(pair[0])])
    return [*pairs, *((part, None) for part in ours), *((None, part) for part in theirs)]


def _parts(checkpoint: Checkpoint) -> Iterator[Part]:
    """The parts that hold tensors, and the tensors outside of all parts as one more."""
    yield from (part for part in checkpoint.parts if part.tensors)
    counted = {id(tensor) for part in checkpoint.parts for tensor in part.tensors.values()}
    modules = [part.path for part in checkpoint.parts if part.form == "module"]
    root = checkpoint.recognised.root if checkpoint.recognised else None
    loose = {
        name: tensor
        for name, tensor in flatten(root, checkpoint.tensors)
        if id(tensor) not in counted and not any(not path or name.startswith(path + ".") for path in modules)
    }
    if loose:
        yield Part("other", "", "loose", root, loose)


def _is_weights(part: Part | None) -> bool:
    return part is not None and part.role in WEIGHTS


def _take(part: Part, ours: list[Part], other: Part, theirs: list[Part]) -> Pair:
    ours[:] = [held for held in ours if held is not part]
    theirs[:] = [held for held in theirs if held is not other]
    return part, other


def _at_its_path(part: Part, others: list[Part]) -> Part | None:
    return next((other for other in others if other.path == part.path), None)


def _most_alike(part: Part, others: list[Part]) -> Part | None:
    """The one with most names in common."""
    return max(others[:MOST_ALIKE], key=lambda other: len(pair_tensors(part, other).both), default=None)


def _weights_alone(old: Checkpoint, ours: list[Part], new: Checkpoint, theirs: list[Part]) -> list[Pair]:
    """A file that holds only a model's weights with those a trainer would use, where the other has several."""
    if _only_weights(ours) and len(_used(new, theirs)) > 1:
        return [_take(ours[0], ours, _used(new, theirs)[0], theirs)]
    if _only_weights(theirs) and len(_used(old, ours)) > 1:
        return [_take(_used(old, ours)[0], ours, theirs[0], theirs)]
    return []


def _only_weights(parts: list[Part]) -> bool:
    """Whether there is but one set of weights: a bare state dict, or a stripped file, whose weights are the EMA."""
    return [part.role for part in parts] == ["model"]


def _stand_in(old: Checkpoint, ours: list[Part], new: Checkpoint, theirs: list[Part]) -> list[Pair]:
    """Weights of one role with those of another."""
    mine, other = _used(old, ours), _used(new, theirs)
    return [_take(mine[0], ours, other[0], theirs)] if mine and other else []


def _used(checkpoint: Checkpoint, parts: list[Part]) -> list[Part]:
    """The weights, those first a trainer would use: averaged ones in the layouts of the YOLO families."""
    averaged = checkpoint.recognised is not None and checkpoint.recognised.layout.module
    first = "ema" if averaged else "model"
    return sorted(filter(_is_weights, parts), key=lambda part: part.role != first)
