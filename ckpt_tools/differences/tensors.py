"""The tensors of two checkpoints: which are there, which differ, and by how much.

Parts are paired by their role and tensors by their name, without what wrappers put before it, so that a file of one
trainer can be held against one of another.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.differences.pairs import pair_parts, pair_tensors
from ckpt_tools.differences.values import Outcome, compare_values
from ckpt_tools.layouts import Part
from ckpt_tools.tensors import TensorRef

if TYPE_CHECKING:
    from ckpt_tools.tensors.compare import Distance

__all__ = ["LayerComparison", "PartComparison", "State", "TensorComparison", "compare_tensors"]

COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel: no weight, and the averaged model has none


class State(str, Enum):
    """What became of a tensor that both files have."""

    EQUAL = "equal"  # in value; the type may be another
    ROUNDED = "rounded"  # equal once rounded to the narrower of the two types
    CHANGED = "changed"
    RESHAPED = "reshaped"
    UNREADABLE = "unreadable"  # its bytes are missing or cut, or of a kind that is not compared


@dataclass(frozen=True)
class TensorComparison:
    """One tensor of both files, by its name in the old one.

    ``rounded`` names the type one of them was rounded to, ``why`` says why it is unreadable. ``distance`` is there
    where numbers were asked for.
    """

    name: str
    old: TensorRef
    new: TensorRef
    state: State
    rounded: str = ""
    why: str = ""
    distance: Distance | None = None

    @property
    def layer(self) -> str:
        """The name without its last component."""
        return self.name.rpartition(".")[0]

    @property
    def retyped(self) -> bool:
        return self.old.dtype != self.new.dtype

    def as_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": self.name, "state": self.state.value, "shape": list(self.old.shape)}
        entry["dtype"] = str(self.old.dtype)
        if self.state is State.RESHAPED:
            entry["new_shape"] = list(self.new.shape)
        if self.retyped:
            entry["new_dtype"] = str(self.new.dtype)
        if self.why:
            entry["why"] = self.why
        return entry | _numbers(self.distance)


@dataclass(frozen=True)
class LayerComparison:
    """The tensors of one layer: how many both files have and how many of those are not equal, in numbers if asked."""

    name: str
    tensors: int
    changed: int
    distance: Distance | None = None

    @property
    def change(self) -> float:
        """What layers are sorted by: the relative change, or without numbers the share of tensors that differ."""
        relative = self.distance.relative if self.distance is not None else self.changed / self.tensors
        return math.inf if math.isnan(relative) else relative

    def as_json(self) -> dict[str, Any]:
        entry = {"name": self.name, "tensors": self.tensors, "changed": self.changed}
        return entry | _numbers(self.distance)


def _numbers(distance: Distance | None) -> dict[str, Any]:
    if distance is None:
        return {}
    names = ("max_abs", "relative", "cosine", "nonfinite")
    return {name: getattr(distance, name) for name in names}


@dataclass
class PartComparison:
    """A part of both files, or of one where the other has none that goes with it.

    ``tensors`` are those both have; ``added`` and ``removed`` are by the name they have in their own file.
    """

    old: Part | None
    new: Part | None
    tensors: list[TensorComparison] = field(default_factory=list)
    added: dict[str, TensorRef] = field(default_factory=dict)
    removed: dict[str, TensorRef] = field(default_factory=dict)

    @property
    def role(self) -> str:
        """Its role in the old file, or in the new one where only that has it."""
        part = self.old or self.new
        return part.role if part is not None else ""

    def of(self, state: State) -> list[TensorComparison]:
        """The tensors in that state, in the order of the old file."""
        return [tensor for tensor in self.tensors if tensor.state is state]

    @property
    def equal(self) -> int:
        """How many tensors are equal in value."""
        return len(self.of(State.EQUAL))

    @property
    def retyped(self) -> list[TensorComparison]:
        """The tensors whose type changed, whatever became of their values."""
        return [tensor for tensor in self.tensors if tensor.retyped]

    @property
    def matched(self) -> bool:
        """Whether the two files have the same tensors, by name and shape."""
        alone = [name for name in (*self.added, *self.removed) if not name.endswith(COUNTER)]
        return bool(self.tensors) and not alone and not self.of(State.RESHAPED)

    @property
    def same_weights(self) -> bool:
        """Whether every tensor is in both files and equal in value."""
        return self.matched and self.equal == len(self.tensors)

    @property
    def differs(self) -> bool:
        """Whether anything is otherwise than in the old file, if only a type."""
        return not self.same_weights or bool(self.retyped or self.added or self.removed)

    @property
    def rounded_to(self) -> str:
        """The type, or types, to which weights were rounded that are the same otherwise; else empty."""
        rounded = self.of(State.ROUNDED)
        if not self.matched or not rounded or self.equal + len(rounded) < len(self.tensors):
            return ""
        return ", ".join(dict.fromkeys(tensor.rounded for tensor in rounded))

    @functools.cached_property
    def distance(self) -> Distance | None:
        """The numbers over all tensors that were compared, where they were asked for."""
        return _total(self.tensors)

    @functools.cached_property
    def layers(self) -> list[LayerComparison]:
        """The layers in which something is not equal, the one that changed most first."""
        held: dict[str, list[TensorComparison]] = {}
        for tensor in self.tensors:
            held.setdefault(tensor.layer, []).append(tensor)
        layers = [_layer(name, tensors) for name, tensors in held.items()]
        return sorted((layer for layer in layers if layer.changed), key=lambda layer: (-layer.change, -layer.changed))

    def as_json(self) -> dict[str, Any]:
        """Plain data; numbers may be infinite. Tensors that are equal and of the same type are only counted."""
        changed = [t.as_json() for t in self.tensors if t.state is not State.EQUAL or t.retyped]
        return {
            "role": self.role,
            "old": _described(self.old),
            "new": _described(self.new),
            "same_weights": self.same_weights,
            "rounded_to": self.rounded_to or None,
            "tensors": len(self.tensors),
            "counts": {state.value: len(self.of(state)) for state in State} | {"retyped": len(self.retyped)},
            "added": _listed(self.added),
            "removed": _listed(self.removed),
            "differing": changed,
            "layers": [layer.as_json() for layer in self.layers],
            **_numbers(self.distance),
        }


def _described(part: Part | None) -> dict[str, Any] | None:
    return None if part is None else {"role": part.role, "path": part.path, "form": part.form}


def _listed(tensors: Mapping[str, TensorRef]) -> list[dict[str, Any]]:
    return [{"name": name, "shape": list(t.shape), "dtype": str(t.dtype)} for name, t in tensors.items()]


def _layer(name: str, tensors: list[TensorComparison]) -> LayerComparison:
    changed = sum(tensor.state is not State.EQUAL for tensor in tensors)
    return LayerComparison(name, len(tensors), changed, _total(tensors))


def _total(tensors: Iterable[TensorComparison]) -> Distance | None:
    distances = [tensor.distance for tensor in tensors if tensor.distance is not None]
    return functools.reduce(lambda one, other: one + other, distances) if distances else None


def compare_tensors(
    old: Checkpoint, new: Checkpoint, *, values: bool = False, progress: Callable[[int], None] | None = None
) -> list[PartComparison]:
    """Every part with tensors of two checkpoints, held against the one that goes with it.

    Whether values are equal is told by the recorded checksums of whole storages, and by reading where those can't
    tell; zeros of different sign then count as a change. With ``values`` everything is read, and there are numbers.
    Reads through small buffers and changes nothing. ``progress`` is told the bytes that are done with, from several
    threads. A tensor whose bytes are missing is ``unreadable``; raises ``OSError`` where the disk itself fails.
    """
    pairs = [(parts, pair_tensors(*parts)) for parts in pair_parts(old, new)]
    fitting = [(one, other) for _, held in pairs for one, other in held.both.values() if one.shape == other.shape]
    outcomes = iter(compare_values(old, new, fitting, values=values, progress=progress))
    return [
        PartComparison(
            *parts,
            [_compared(name, one, other, outcomes) for name, (one, other) in held.both.items()],
            held.added,
            held.removed,
        )
        for parts, held in pairs
    ]


def _compared(name: str, old: TensorRef, new: TensorRef, outcomes: Iterator[Outcome]) -> TensorComparison:
    """A tensor of both files, with the next outcome if both have one shape."""
    if old.shape != new.shape:
        return TensorComparison(name, old, new, State.RESHAPED)
    outcome = next(outcomes)
    state = State.EQUAL if outcome.equal else State.ROUNDED if outcome.rounded else State.CHANGED
    state = State.UNREADABLE if outcome.why else state
    return TensorComparison(name, old, new, state, outcome.rounded, outcome.why, outcome.distance)
