"""A tensor and where its bytes lie, and what can be said of two such without reading them."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from ckpt_tools.container import Container, Member, MemberError
from ckpt_tools.tensors.refs import TensorRef, contiguous_stride

__all__ = ["PARTS", "Held", "in_order", "incomparable", "same_bytes"]

# Complex types, and the type of their real and imaginary parts.
PARTS = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}


@dataclass(frozen=True)
class Held:
    """A tensor and the container its bytes lie in."""

    container: Container
    tensor: TensorRef

    @property
    def swapped(self) -> bool:
        """Whether its bytes are in the other order than this machine's."""
        return (self.container.byteorder == "big") != (sys.byteorder == "big")

    @property
    def key(self) -> str:
        """The key of its storage; empty for a tensor without bytes of its own."""
        return self.tensor.storage.key if self.tensor.storage is not None else ""

    @property
    def member(self) -> Member:
        """The member of its storage; raises ``MemberError`` where there is none."""
        member = self.container.storage(self.key)
        if member is None:
            raise MemberError(f"storage {self.key} is missing")
        return member

    @property
    def start(self) -> int:
        """The first byte within its storage."""
        window = self.tensor.storage.window if self.tensor.storage is not None else None
        return (self.tensor.offset + (window[1] if window else 0)) * self.tensor.dtype.size

    @property
    def cost(self) -> int:
        """How many bytes reading and comparing it takes; what a view only repeats is compared once."""
        once = math.prod(length for length, step in zip(self.tensor.shape, self.tensor.stride) if step)
        return max(once, self.tensor.span[1]) * self.tensor.dtype.size


def incomparable(old: TensorRef, new: TensorRef) -> str:
    """Why the values of two tensors of one shape can't be held against each other; empty if they can."""
    for tensor in (old, new):
        if tensor.storage is None:
            return f"its values are not kept as plain bytes ({tensor.layout})"
    if (old.dtype.name in PARTS) != (new.dtype.name in PARTS):
        return "complex numbers can't be compared with real ones"
    if (old.conj, old.neg) != (new.conj, new.neg):
        return "only one of the two is conjugated or negated on reading"
    scales = _scale(old), _scale(new)
    return "" if scales[0] == scales[1] and None not in scales else "they are quantized by different scales"


def _scale(tensor: TensorRef) -> tuple[object, ...] | None:
    """Scale and zero point of a quantized tensor, ``()`` for any other, ``None`` where each channel has its own."""
    call = tensor.call.args[0] if tensor.parameter and isinstance(tensor.call.args, tuple) else tensor.call
    args = getattr(call, "args", ())
    if not getattr(call, "path", "").endswith("_rebuild_qtensor") or not isinstance(args, tuple):
        return ()
    scale = args[4][1:] if len(args) > 4 and isinstance(args[4], tuple) else (None,)
    return scale if all(isinstance(value, (int, float)) for value in scale) else None


def in_order(old: TensorRef, new: TensorRef) -> bool:
    """Whether the values of two tensors of one shape lie in the same order, without gaps or overlaps."""
    layouts = [_steps(tensor) for tensor in (old, new)]
    dense = sorted(layouts[0], reverse=True)
    steps, lengths = [step for step, _ in dense], [length for _, length in dense]
    return layouts[0] == layouts[1] and contiguous_stride(lengths) == tuple(steps)


def _steps(tensor: TensorRef) -> list[tuple[int, int]]:
    """Stride and length of the dimensions that have any length."""
    return [(step, length) for step, length in zip(tensor.stride, tensor.shape) if length != 1]


def same_bytes(old: Held, new: Held) -> bool | None:
    """Whether two tensors of one shape hold the same bytes by the checksums on record, without reading them.

    ``None`` where those can't tell: there are none, the bytes are cut or in another order, or the tensors are views
    of part of storages that differ somewhere.
    """
    one, other = old.tensor, new.tensor
    members = old.container.storage(old.key), new.container.storage(new.key)
    if any(member is None or member.crc is None or not member.whole for member in members):
        return None
    alike = one.dtype == other.dtype and old.swapped == new.swapped and in_order(one, other)
    (size, crc), (other_size, other_crc) = ((m.size, m.crc) for m in members if m is not None)
    if not alike or old.start != new.start or size != other_size or old.start + one.nbytes > size:
        return None
    return True if crc == other_crc else (False if one.nbytes == size else None)
