"""Whether the bytes of every tensor are there, from the directory and the object graph alone."""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_tools.checkpoint import LEDGER, Checkpoint
from ckpt_tools.checks.names import TensorNames, few
from ckpt_tools.findings import Finding, finding
from ckpt_tools.layouts.parts import flatten
from ckpt_tools.tensors import StorageRef, TensorRef

__all__ = ["OWN_MEMBERS", "check_storages"]

# torch's own members beside the storages, and ours; anything else was added by another tool.
OWN_MEMBERS = frozenset({"data.pkl", "version", "byteorder", ".format_version", ".storage_alignment",
                         ".data/serialization_id", LEDGER})  # fmt: skip
FAT_RATIO, FAT_BYTES = 4, 1 << 20


def check_storages(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Missing, short, ill-sized and unused storages, and tensors that reach outside theirs."""
    container = checkpoint.container
    yield from _misbuilt(checkpoint)
    inline = sum(tensor.layout == "inline" for tensor in checkpoint.tensors.values())
    if inline:
        yield finding("inline-tensors", count=inline)
    if container is None or container.kind not in ("zip", "legacy"):
        return
    names, storages = TensorNames(checkpoint), checkpoint.storages
    missing: list[TensorRef] = []
    short: list[TensorRef] = []
    odd: list[Finding] = []
    for key, (storage, tensors) in storages.items():
        member = container.storage(key)
        if member is None:
            if storage.numel:
                missing += tensors
        elif not member.whole or member.size < storage.nbytes:
            short += [tensor for tensor in tensors if not member.whole or _end(tensor) > member.size] or tensors
        elif member.size != storage.nbytes:
            odd.append(finding("storage-size", f"data/{key}", key=key, size=member.size, wanted=storage.nbytes))
    for slug, hit in (("storage-missing", missing), ("storage-short", short)):
        if hit:
            yield finding(slug, names.of(hit[0]), count=len(hit), tensors=few(map(names.of, hit)))
    yield from odd
    yield from _outside(storages, names)
    yield from _fat(storages)
    yield from _orphans(checkpoint, storages)


def _misbuilt(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Calls no torch can carry out, each by the name of the tensor it should rebuild."""
    if not checkpoint.misbuilt:
        return
    root = checkpoint.recognised.root if checkpoint.recognised else None
    named = {id(problem): name for name, problem in flatten(root, checkpoint.misbuilt)}
    told = {id(problem): problem for problem in checkpoint.misbuilt.values()}
    for key, problem in told.items():
        name = named.get(key) or "a tensor"
        yield finding("tensor-impossible", name, tensor=name, why=str(problem))


def _end(tensor: TensorRef) -> int:
    """The first byte of the storage behind a tensor."""
    first, count = tensor.span
    return (first + count) * tensor.dtype.size


def _outside(storages: dict[str, tuple[StorageRef, list[TensorRef]]], names: TensorNames) -> Iterator[Finding]:
    for storage, tensors in storages.values():
        room = (storage.window[2] if storage.window else storage.numel) * storage.dtype.size
        for tensor in tensors:
            if _end(tensor) > room:
                yield finding("tensor-outside", names.of(tensor))


def _fat(storages: dict[str, tuple[StorageRef, list[TensorRef]]]) -> Iterator[Finding]:
    count = wasted = 0
    for storage, tensors in storages.values():
        used = sum(tensor.nbytes for tensor in tensors)
        if storage.nbytes - used > FAT_BYTES and storage.nbytes > FAT_RATIO * used:
            count, wasted = count + len(tensors), wasted + storage.nbytes - used
    if count:
        yield finding("fat-storage", count=count, wasted=wasted)


def _orphans(checkpoint: Checkpoint, storages: dict[str, tuple[StorageRef, list[TensorRef]]]) -> Iterator[Finding]:
    container, pickle = checkpoint.container, checkpoint.pickle
    if container is None or pickle is None or pickle.trouble is not None:
        return
    orphans = [key for key in container.storage_keys() if key not in storages]
    if orphans and container.kind == "zip":
        size = sum(container.members[f"data/{key}"].size for key in orphans)
        yield finding("orphan-storage", count=len(orphans), size=size)
    extra = [name for name in container.members if not name.startswith("data/") and name not in OWN_MEMBERS]
    if extra and container.kind == "zip" and container.directory:
        yield finding("extra-members", count=len(extra), names=few(extra))
