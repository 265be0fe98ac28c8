"""Several processes that train one model: which of them writes, and what they must agree on."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from ckpt_tools.training.randomness import random_state

__all__ = ["agreed", "gathered", "random_states", "rank", "shared", "size", "together"]


def together() -> bool:
    """Whether this is one of several processes of a run."""
    return bool(dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


def rank() -> int:
    """The number of this process; 0 writes."""
    return dist.get_rank() if together() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if together() else 1


def gathered(value: Any) -> list[Any]:
    """The values of all ranks, in their order; complete on rank 0, on the others only their own. All must call it."""
    if not together():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.gather_object(value, values if rank() == 0 else None, dst=0)
    return values if rank() == 0 else [value]


def random_states() -> list[Any]:
    """The random state of every rank, complete on rank 0. All must call it."""
    return gathered(random_state())


def shared(value: Any) -> Any:
    """Rank 0's value, on every rank. All must call it."""
    if not together():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _device() -> Any:
    """Where the backend of the process group takes tensors from."""
    if dist.get_backend() in ("gloo", "mpi"):
        return "cpu"
    return "cuda" if torch.cuda.is_available() else torch.accelerator.current_accelerator()


def agreed(number: int) -> int:
    """The largest of all ranks' numbers. All must call it."""
    if not together():
        return number
    largest = torch.tensor([number], device=_device())
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest.item())
