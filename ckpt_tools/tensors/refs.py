"""What a file says about a tensor and the storage it lies in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckpt_tools.pickles import Call
from ckpt_tools.tensors.dtypes import Dtype

__all__ = ["StorageRef", "TensorRef", "contiguous_stride"]


class StorageRef:
    """A run of bytes tensors are views of: ``numel`` elements of ``dtype``, saved from device ``location``."""

    __slots__ = ("dtype", "key", "location", "numel", "window")

    def __init__(
        self, key: str, dtype: Dtype, location: str, numel: int, window: tuple[str, int, int] | None = None
    ) -> None:
        self.key = key
        self.dtype = dtype
        self.location = location
        self.numel = numel
        self.window = window  # legacy only: (key, first element, numel) of a storage that views this one

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.size


@dataclass(eq=False)
class TensorRef:
    """One tensor: ``shape`` and ``stride`` in elements, from element ``offset`` of ``storage`` on.

    ``storage`` is ``None`` for tensors without bytes of their own (meta tensors, and sparse or nested ones, whose
    components are tensors themselves). ``parameter`` is true for what was a ``torch.nn.Parameter``.
    """

    storage: StorageRef | None
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: Dtype
    call: Call
    parameter: bool = False
    layout: str = "strided"
    conj: bool = False
    neg: bool = False

    @property
    def numel(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.size

    @property
    def span(self) -> tuple[int, int]:
        """First element and number of elements of the storage between the tensor's first and last value.

        A tensor without values lies nowhere, whatever its offset says.
        """
        if 0 in self.shape:
            return 0, 0
        reach = sum((length - 1) * step for length, step in zip(self.shape, self.stride))
        return self.offset, reach + 1


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """The row-major stride of ``shape``, in elements."""
    stride: list[int] = []
    step = 1
    for length in reversed(shape):
        stride.append(step)
        step *= max(length, 1)
    return tuple(reversed(stride))
