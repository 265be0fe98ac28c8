"""A sampler that can go on inside an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from math import ceil
from typing import Any

import torch

from ckpt_tools.findings import CkptError
from ckpt_tools.training import processes

__all__ = ["ResumableSampler"]


class ResumableSampler(torch.utils.data.Sampler[int]):  # type: ignore[misc]
    """Indices of a data set in an order that depends on the seed and the epoch alone, and can be taken up anywhere.

    ``advance`` tells how many samples were trained, over all ranks; what data loader workers fetched ahead does not
    count. A state holds no number of processes, so a run can go on with more or fewer of them. As with torch's
    ``DistributedSampler`` every rank gets equally many: a few samples come twice where they don't divide evenly.
    ``rank`` and ``replicas`` are those of the process group, unless given.
    """

    def __init__(
        self, data: Sized, *, shuffle: bool = True, seed: int = 0, rank: int | None = None, replicas: int | None = None
    ) -> None:
        self.size = len(data)
        self.shuffle, self.seed = shuffle, seed
        self.rank = processes.rank() if rank is None else rank
        self.replicas = processes.size() if replicas is None else replicas
        self.epoch = 0
        self.taken = 0
        self.before_loader: torch.Tensor | None = None
        self._passed = False  # whether all indices of the epoch were asked for

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, counted from 0; the epoch that is under way goes on where it is."""
        if epoch != self.epoch:
            self.epoch, self.taken = epoch, 0
        self._passed = False

    def advance(self, samples: int) -> None:
        """Count samples as trained, those of all ranks together."""
        self.taken = min(self.taken + samples, self.size)

    def end_epoch(self) -> None:
        """Say that the epoch is over, also where some samples were left out; ``CheckpointManager`` does."""
        self.set_epoch(self.epoch + 1)

    def _order(self) -> list[int]:
        if not self.shuffle:
            return list(range(self.size))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % (1 << 63))
        order: list[int] = torch.randperm(self.size, generator=generator).tolist()
        return order

    def __iter__(self) -> Iterator[int]:
        if self.taken and self.before_loader is not None:
            # A data loader that starts draws a number; in a run that was not interrupted it started long before.
            torch.set_rng_state(self.before_loader)
        self.before_loader = None
        if self._passed:
            self.end_epoch()  # another pass, and nobody said which
        left = self._order()[self.taken :]
        short = -len(left) % self.replicas
        left += (left * (short // max(len(left), 1) + 1))[:short]
        yield from left[self.rank :: self.replicas]
        self._passed = True

    def __len__(self) -> int:
        return ceil((self.size - self.taken) / self.replicas)

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("epoch", "taken", "seed", "shuffle", "size")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a state was taken; raises ``CkptError`` where the data set has another size."""
        if state["size"] != self.size:
            raise CkptError(
                f"the data set had {state['size']} samples and has {self.size}: the order can't be gone on with"
            )
        for name in ("epoch", "taken", "seed", "shuffle"):
            setattr(self, name, state[name])
        self._passed = False
