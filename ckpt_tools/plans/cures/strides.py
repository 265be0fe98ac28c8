"""Tensors brought into row-major order: channels-last strides that were saved, and code that can't take them."""

from __future__ import annotations

from ckpt_tools.container import Container, MemberError
from ckpt_tools.findings import CkptError
from ckpt_tools.pickles import Persistent
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.edits import strided_call
from ckpt_tools.plans.holdings import Bytes, checksum
from ckpt_tools.source import MadeSource
from ckpt_tools.tensors import TensorRef, contiguous_stride

__all__ = ["make_contiguous"]


def make_contiguous(case: Case) -> None:
    """Give every tensor with other strides a storage of its own in row-major order; raises where bytes are lost."""
    container = case.draft.checkpoint.container
    done = 0
    for part in case.found.parts:
        for tensor in part.tensors.values():
            if container is not None and _odd(tensor):
                _straighten(case, container, tensor)
                done += 1
    if done:
        case.do("contiguous", f"{done} tensors in row-major order")
        case.settle()


def _odd(tensor: TensorRef) -> bool:
    """Whether more than the stride of dimensions of length one differs from row-major order."""
    straight = contiguous_stride(tensor.shape)
    differ = any(a != b and length > 1 for a, b, length in zip(tensor.stride, straight, tensor.shape))
    return differ and tensor.storage is not None and not tensor.conj and not tensor.neg


def _straighten(case: Case, container: Container, tensor: TensorRef) -> None:
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
        steps = tuple(step * tensor.dtype.size for step in tensor.stride)
        view = np.lib.stride_tricks.as_strided(raw, tensor.shape, steps, writeable=False)
        return np.ascontiguousarray(view).tobytes()

    source = MadeSource(tensor.nbytes, straight)
    storage = call.args[0]
    made = Persistent(("storage", storage.id[1], "", storage.id[3], tensor.numel), storage.position)
    case.draft.new_storage(made, Bytes(source, checksum(source), case.holding.content.peaks.get(tensor.storage.key)))
    call.args = (made, 0, call.args[2], contiguous_stride(tensor.shape), *call.args[4:])
