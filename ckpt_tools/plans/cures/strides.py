"""Tensors brought into row-major order: channels-last strides that were saved, and code that can't take them."""

from __future__ import annotations

from ckpt_tools.checks.names import counted
from ckpt_tools.container import Container, MemberError
from ckpt_tools.findings import CkptError
from ckpt_tools.pickles import Persistent
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.edits import strided_call
from ckpt_tools.plans.holdings import Bytes, checksum
from ckpt_tools.source import MadeSource
from ckpt_tools.tensors import TensorRef, contiguous_stride

__all__ = ["make_contiguous"]

LARGEST = 256 << 20  # bytes of a tensor that repeats a few values


def make_contiguous(case: Case, repeated: bool = False) -> None:
    """Give every tensor with other strides a storage of its own in row-major order.

    Views of the same values go on sharing one. Those that repeat values only with ``repeated``, as they grow by that.
    Raises ``CkptError`` where bytes are lost, or a tensor would grow beyond :data:`LARGEST`.
    """
    container = case.draft.checkpoint.container
    made: dict[tuple[object, ...], Persistent] = {}
    done = 0
    for tensor in case.draft.checkpoint.tensors.values():
        if container is None or not _odd(tensor) or (_repeats(tensor) and not repeated):
            continue
        assert tensor.storage is not None
        if tensor.nbytes > max(LARGEST, 0 if _repeats(tensor) else tensor.storage.nbytes):
            raise CkptError(
                f"a view of {tensor.storage.nbytes} bytes would become {tensor.nbytes}; save a copy of its values"
            )
        key = (tensor.storage.key, tensor.offset, tensor.shape, tensor.stride, tensor.dtype.name)
        _straighten(case, container, tensor, made, key)
        done += 1
    if done:
        case.do("contiguous", f"{counted(done, 'tensor')} in row-major order")
        case.settle()


def _odd(tensor: TensorRef) -> bool:
    """Whether more than the stride of dimensions of length one differs from row-major order."""
    straight = contiguous_stride(tensor.shape)
    differ = any(a != b and length > 1 for a, b, length in zip(tensor.stride, straight, tensor.shape))
    return differ and tensor.storage is not None and tensor.numel > 0 and not tensor.conj and not tensor.neg


def _repeats(tensor: TensorRef) -> bool:
    """Whether a tensor has more values than there are in its storage."""
    return any(step == 0 and length > 1 for step, length in zip(tensor.stride, tensor.shape))


def _straighten(
    case: Case,
    container: Container,
    tensor: TensorRef,
    made: dict[tuple[object, ...], Persistent],
    key: tuple[object, ...],
) -> None:
    import numpy as np

    from ckpt_tools.tensors.values import tensor_raw

    call = strided_call(tensor)
    if call is None or tensor.storage is None:
        return

    def straight() -> bytes:
        try:
            raw = np.frombuffer(tensor_raw(container, tensor), f"V{tensor.dtype.size}")
        except (KeyError, MemberError) as error:
            raise CkptError(f"a tensor's bytes can't be read: {error}; repair the file first") from error
        sizes = zip(tensor.shape, tensor.stride)
        steps = tuple(step * tensor.dtype.size if length > 1 else 0 for length, step in sizes)
        view = np.lib.stride_tricks.as_strided(raw, tensor.shape, steps, writeable=False)
        return np.ascontiguousarray(view).tobytes()

    if key not in made:
        source = MadeSource(tensor.nbytes, straight)
        storage = call.args[0]
        numel = tensor.nbytes // tensor.storage.dtype.size
        made[key] = Persistent(("storage", storage.id[1], "", storage.id[3], numel), storage.position)
        peak = case.holding.content.peaks.get(tensor.storage.key)
        case.draft.new_storage(made[key], Bytes(source, checksum(source), peak))
    call.args = (made[key], 0, call.args[2], contiguous_stride(tensor.shape), *call.args[4:])
