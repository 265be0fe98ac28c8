"""The typed Python interface: an opened checkpoint with its parts, its tensors as lazy arrays, and its verdict."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_tools.checkpoint import Checkpoint, open_checkpoint
from ckpt_tools.findings import Finding
from ckpt_tools.layouts import Part
from ckpt_tools.tensors import TensorRef

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ckpt_tools.tensors.values import Stats
    from ckpt_tools.verbs.verify import Report

__all__ = ["OpenCheckpoint", "Tensor", "open"]


@dataclass(frozen=True)
class Tensor:
    """One tensor: described at once, read from the file when :meth:`numpy` or :meth:`stats` is called."""

    name: str
    ref: TensorRef
    checkpoint: Checkpoint

    @property
    def shape(self) -> tuple[int, ...]:
        return self.ref.shape

    @property
    def dtype(self) -> str:
        """The torch name of the element type, e.g. ``float16``."""
        return str(self.ref.dtype)

    @property
    def nbytes(self) -> int:
        return self.ref.nbytes

    @property
    def device(self) -> str | None:
        """Where torch.load would put it, e.g. ``cuda:0``; ``None`` for a tensor without bytes of its own."""
        return self.ref.storage.location if self.ref.storage else None

    def numpy(self) -> npt.NDArray[np.generic]:
        """The values. bfloat16 and float8 come as float32, since numpy has no such types.

        Raises ``CkptError`` where the bytes are missing or cut, or the tensor has none of its own.
        """
        from ckpt_tools.container import MemberError
        from ckpt_tools.findings import CkptError
        from ckpt_tools.tensors.values import tensor_array

        if self.checkpoint.container is None:
            raise CkptError(f"{self.name}: the file has no tensor data")
        try:
            return tensor_array(self.checkpoint.container, self.ref)
        except (KeyError, MemberError, ValueError) as error:
            raise CkptError(f"{self.name} can't be read: {error}; `ckpt verify` says what is damaged") from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[np.generic]:
        values = self.numpy()
        return values.astype(dtype) if dtype is not None else values

    def stats(self) -> Stats:
        """Minimum, maximum, mean, deviation, zeros and non-finite values."""
        from ckpt_tools.container import MemberError
        from ckpt_tools.findings import CkptError
        from ckpt_tools.tensors.values import tensor_stats

        if self.checkpoint.container is None:
            raise CkptError(f"{self.name}: the file has no tensor data")
        try:
            return tensor_stats(self.checkpoint.container, self.ref)
        except (KeyError, MemberError, ValueError) as error:
            raise CkptError(f"{self.name} can't be read: {error}; `ckpt verify` says what is damaged") from error


class OpenCheckpoint(Mapping[str, Tensor]):
    """An opened checkpoint: a mapping of tensor names (``ema.model.0.conv.weight``) to lazy tensors.

    Use it as a context manager, or call :meth:`close`.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._tensors: dict[str, Tensor] = {}
        for part in checkpoint.parts:
            for name, ref in part.tensors.items():
                full = f"{part.path}.{name}".strip(".")
                self._tensors[full] = Tensor(full, ref, checkpoint)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def findings(self) -> list[Finding]:
        """What reading the file met; :meth:`verify` adds all checks."""
        return list(self.checkpoint.findings)

    @property
    def layout(self) -> str | None:
        """The trainer family whose layout it has, or ``plain``, ``bare``, ``module``, …"""
        return self.checkpoint.recognised.family if self.checkpoint.recognised else None

    @property
    def parts(self) -> list[Part]:
        return list(self.checkpoint.parts)

    @property
    def epoch(self) -> int | None:
        """The epoch as stored in the file."""
        return self.checkpoint.recognised.stored_epoch if self.checkpoint.recognised else None

    @property
    def args(self) -> dict[str, Any]:
        """The saved training arguments, as inert values."""
        return self.checkpoint.recognised.args if self.checkpoint.recognised else {}

    def verify(self, **options: Any) -> Report:
        """All checks and the verdict; options as in :func:`ckpt_tools.verify`."""
        from ckpt_tools.verbs.verify import verify

        return verify(self.checkpoint.path, **options)

    def close(self) -> None:
        self.checkpoint.close()

    def __enter__(self) -> OpenCheckpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open(path: str | os.PathLike[str], *, strict: bool = False) -> OpenCheckpoint:
    """Open a checkpoint without executing anything in it.

    Raises ``CkptError`` when the path can't be opened; with ``strict`` also where the file is damaged, unsafe or
    no checkpoint.
    """
    return OpenCheckpoint(open_checkpoint(path, strict=strict))
