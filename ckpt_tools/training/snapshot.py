"""A copy of a training's tensors in memory, so that training can go on while they are written."""

from __future__ import annotations

from collections.abc import Iterable

import torch

__all__ = ["Snapshot", "has_storage", "source_of"]

Source = tuple[str, int, int]  # of a copy: device, address, bytes


def has_storage(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a view of one run of bytes (no sparse or quantized tensor)."""
    return tensor.layout is torch.strided and not tensor.is_quantized


def source_of(tensor: torch.Tensor) -> Source:
    """What tells a tensor's storage from others."""
    storage = tensor.untyped_storage()
    return str(tensor.device), storage.data_ptr(), storage.nbytes()


class Snapshot:
    """Copies of storages, in buffers that are used again at the next save: fresh memory costs more than the copy.

    Views that share a storage share its copy, as they do in the file.
    """

    def __init__(self) -> None:
        self.ready = False  # whether buffers were asked for beforehand
        self._spare: dict[tuple[int, bool], list[torch.Tensor]] = {}
        self._taken: dict[Source, torch.Tensor] = {}
        self._held: list[tuple[tuple[int, bool], torch.Tensor]] = []

    def expect(self, storages: Iterable[torch.UntypedStorage]) -> None:
        """Have buffers ready for copies of these: what fresh memory costs is paid here, in another thread."""
        for storage in storages:
            key = (storage.nbytes(), storage.device.type == "cuda")
            self._spare.setdefault(key, []).append(torch.zeros(key[0], dtype=torch.uint8, pin_memory=key[1]))

    def begin(self) -> None:
        """Forget the last copy; its buffers may be written over."""
        for key, buffer in self._held:
            self._spare.setdefault(key, []).append(buffer)
        self._held.clear()
        self._taken.clear()

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a tensor on the CPU, of its storage as a whole."""
        if not has_storage(tensor):
            return tensor.detach().cpu().clone()
        source = source_of(tensor)
        if source not in self._taken:
            self._taken[source] = self._copied(tensor.untyped_storage())
        shell = torch.empty(0, dtype=tensor.dtype)
        shape, stride = tensor.size(), tensor.stride()
        copy = shell.set_(self._taken[source].untyped_storage(), tensor.storage_offset(), shape, stride)
        copy = copy.conj() if tensor.is_conj() else copy
        return torch._neg_view(copy) if tensor.is_neg() else copy

    def _copied(self, storage: torch.UntypedStorage) -> torch.Tensor:
        pinned = storage.device.type == "cuda"
        key = (storage.nbytes(), pinned)
        spare = self._spare.get(key)
        buffer = spare.pop() if spare else torch.empty(key[0], dtype=torch.uint8, pin_memory=pinned)
        self._held.append((key, buffer))
        raw = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        buffer.copy_(raw, non_blocking=pinned)
        return buffer

    def finish(self) -> None:
        """Wait for copies that are still on their way from a device, and let go of buffers nobody asked for."""
        for device in {name for name, _, _ in self._taken if name.startswith("cuda")}:
            torch.cuda.synchronize(device)
        self._spare.clear()
