"""What to call a tensor in a finding: its part and its name there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.layouts.parts import flatten
from ckpt_tools.tensors import TensorRef

__all__ = ["TensorNames", "counted", "few", "shape_text"]

MOST_NAMED = 3


class TensorNames:
    """Names of a checkpoint's tensors, e.g. ``ema.model.0.conv.weight``; made when the first one is asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._names: dict[int, str] | None = None

    def of(self, tensor: TensorRef) -> str:
        if self._names is None:
            self._names = self._collect()
        return self._names.get(id(tensor), f"tensor {shape_text(tensor.shape)}")

    def _collect(self) -> dict[int, str]:
        names: dict[int, str] = {}
        for part in self._checkpoint.parts:
            for name, tensor in part.tensors.items():
                names.setdefault(id(tensor), f"{part.path}.{name}".strip("."))
        root = self._checkpoint.recognised.root if self._checkpoint.recognised else None
        for name, tensor in flatten(root, self._checkpoint.tensors):
            names.setdefault(id(tensor), name)
        return names


def counted(count: int, noun: str) -> str:
    """``1 tensor``, ``2 tensors``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def few(names: Iterable[str], most: int = MOST_NAMED) -> str:
    """The first names and how many more there are."""
    listed = list(dict.fromkeys(names))
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def shape_text(shape: Sequence[int]) -> str:
    """``8x3x3x3``, or ``scalar``."""
    return "x".join(map(str, shape)) or "scalar"
