"""The random number generators of a process: Python's, numpy's and torch's."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["random_state", "restore_random_state"]

DEVICES = ("cuda", "xpu")  # modules of torch with a generator for each device


def random_state() -> dict[str, Any]:
    """The state of the generators, as plain values and tensors; numpy's where it is in use."""
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        name, keys, *rest = sys.modules["numpy"].random.get_state()
        state["numpy"] = (str(name), torch.tensor(keys.tolist(), dtype=torch.int64), *rest)
    for name in DEVICES:
        device = getattr(torch, name, None)
        if device is not None and device.is_available() and device.is_initialized():
            state[name] = device.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Give the generators back what :func:`random_state` took, as far as this machine has them."""
    if "python" in state:
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
    if "torch" in state:
        torch.set_rng_state(state["torch"].cpu())
    if "numpy" in state:
        import numpy

        name, keys, *rest = state["numpy"]
        numpy.random.set_state((name, keys.cpu().numpy().astype(numpy.uint32), *rest))
    for name in DEVICES:
        device = getattr(torch, name, None)
        if device is not None and device.is_available():
            for number, held in enumerate(state.get(name, ())[: device.device_count()]):
                device.set_rng_state(held.cpu(), number)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())
