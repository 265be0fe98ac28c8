"""The formats a checkpoint is read from and written in: torch's zip archive and its older stream, and safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckpt_tools.checkpoint import LEDGER, Checkpoint
from ckpt_tools.checkpoint.stream import stream
from ckpt_tools.checks.content import Content
from ckpt_tools.container import NewTensor, read_safetensors, safetensors_archive
from ckpt_tools.findings import CkptError
from ckpt_tools.pickles import Call, GlobalRef, Persistent
from ckpt_tools.pickles.emit import EmitError, emit
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.apply import Check, reads_back
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.draft import Draft
from ckpt_tools.plans.edits import ordered_dict, strided_call
from ckpt_tools.plans.holdings import Bytes, Holding, checksum
from ckpt_tools.sidefiles import json_of
from ckpt_tools.source import JoinedSource, Source, WindowSource, open_source
from ckpt_tools.tensors import DTYPES, StorageRef, TensorRef, contiguous_stride, dtype_of_storage_class
from ckpt_tools.tensors.dtypes import storage_class

__all__ = ["CHECKS", "SAYS", "WRITERS", "Written", "beside", "format_of", "read_weights"]

SAYS = {
    "zip": "written as a zip archive, which torch reads since 1.6",
    "legacy": "written as a stream of pickles, as torch did before 1.6 and reads to this day",
    "safetensors": "written in the safetensors format",
}
MARKS = ("conj", "neg")  # bits of a tensor whose values are not the bytes of its storage


@dataclass(frozen=True)
class Written:
    """The result in its format, and what lies beside it."""

    archive: JoinedSource
    sidecars: Mapping[Path, bytes] = field(default_factory=dict)


def format_of(checkpoint: Checkpoint) -> str:
    """The format a file is in; empty for one that is none of those written here."""
    if checkpoint.kind.name == "safetensors":
        return "safetensors"
    kind = checkpoint.container.kind if checkpoint.container is not None else ""
    return kind if kind in ("zip", "legacy") else ""


def beside(output: Path) -> Path:
    """Where the description of a state dict lies: ``weights.pt.json`` beside ``weights.pt``."""
    return output.with_name(f"{output.name}.json")


# --- writing --------------------------------------------------------------------------------------


def as_zip(case: Case, output: Path, ledger: bytes) -> Written:
    """Torch's own archive, with the ledger as a member of its own."""
    return Written(case.draft.read(str(output), {LEDGER: ledger}).archive)


def as_stream(case: Case, output: Path, ledger: bytes) -> Written:
    """What ``torch.save(…, _use_new_zipfile_serialization=False)`` writes; the ledger lies beside it."""
    _refuse_big_endian(case, "a stream")
    storages: dict[str, tuple[int, Source, int | None]] = {}

    def resolve(node: Persistent) -> Node:
        if not (isinstance(node.id, tuple) and len(node.id) >= 5 and node.id[0] == "storage"):
            return node.id
        kind, key, location, numel = node.id[1:5]
        if isinstance(kind, GlobalRef) and kind.name == "UntypedStorage":  # the stream's reader wants one with a dtype
            kind = GlobalRef("torch", "ByteStorage", kind.position)
        if str(key) not in storages:
            held = _storage(case, kind, str(key), location, numel)
            storages[str(key)] = (numel, held.source, held.crc)
        return ("storage", kind, str(key), location, numel, None)

    try:
        pickle = emit(case.root, resolve)
    except EmitError as error:
        raise CkptError(f"{case.name} can't be written anew: {error}") from error
    sidecar = output.with_name(f"{output.name}.ledger.json")
    return Written(stream(pickle, storages, str(output)), {sidecar: ledger})


def _storage(case: Case, kind: Node, key: str, location: str, numel: int) -> Bytes:
    held = case.draft.checkpoint.storages.get(key)
    dtype = dtype_of_storage_class(kind.module, kind.name) if isinstance(kind, GlobalRef) else None
    found = held[0] if held else StorageRef(key, dtype, location, numel) if dtype else None
    made = case.holding.storage(found) if found is not None else None
    if made is None:
        raise CkptError(f"{case.name}: storage {key} can't be read; `ckpt verify` it")
    return made


def as_safetensors(case: Case, output: Path, ledger: bytes) -> Written:
    """The weights in the safetensors format; ledger and description are in its metadata."""
    _refuse_big_endian(case, "safetensors")
    part = case.part("model")
    held = part.tensors.items() if part is not None else ()
    tensors = [_new_tensor(case, name, tensor) for name, tensor in held]
    told = dict(case.beside or {})
    metadata = {**told.pop("metadata", {}), "format": "pt", "ledger": ledger.decode()}
    if told:
        metadata["weights"] = json.dumps(told)
    return Written(safetensors_archive(tensors, metadata, str(output)))


def _new_tensor(case: Case, name: str, tensor: TensorRef) -> NewTensor:
    """A tensor in row-major order as it lies in its storage; those that share one are written out each."""
    call, storage = strided_call(tensor), tensor.storage
    marks = [mark for mark in MARKS if getattr(tensor, mark)]
    if call is None or storage is None or marks:
        what = " and ".join(marks) or tensor.layout
        raise CkptError(f"{case.name}: safetensors has no place for {name} ({what}); leave --to safetensors out")
    held = case.holding.storage(storage)
    if held is None:
        raise CkptError(f"{case.name}: the bytes of {name} can't be read; `ckpt verify` it")
    if tensor.nbytes == held.source.size:
        return NewTensor(name, tensor.dtype.name, tensor.shape, held.source, held.crc)
    window = WindowSource(held.source, tensor.offset * tensor.dtype.size, tensor.nbytes, name)
    return NewTensor(name, tensor.dtype.name, tensor.shape, window, checksum(window))


def _reads_as_safetensors(temporary: Path, archive: JoinedSource) -> None:
    with open_source(temporary) as source:
        read_safetensors(source)
        if source.size != archive.size:
            raise CkptError(f"{source.size} of {archive.size} bytes were written; nothing was changed, check the disk")


def _refuse_big_endian(case: Case, what: str) -> None:
    container = case.draft.checkpoint.container
    if container is not None and container.byteorder == "big":
        raise CkptError(f"{case.name} was written on a big-endian machine, {what} is little-endian; keep it a zip")


WRITERS: dict[str, Callable[[Case, Path, bytes], Written]] = {
    "zip": as_zip,
    "legacy": as_stream,
    "safetensors": as_safetensors,
}
CHECKS: dict[str, Check] = {"zip": reads_back, "legacy": reads_back, "safetensors": _reads_as_safetensors}


# --- reading --------------------------------------------------------------------------------------


def read_weights(checkpoint: Checkpoint) -> tuple[Draft, dict[str, Any]]:
    """A safetensors file as a draft of the state dict it holds, and what our own writer noted about it.

    Raises ``CkptError`` for a file that is not as the format wants it.
    """
    found = read_safetensors(checkpoint.source)
    draft = Draft(Holding(checkpoint, Content()))
    root = ordered_dict()
    root.pairs = []
    for name, entry in found.tensors.items():
        window = WindowSource(checkpoint.source, entry.offset, entry.size, name)
        dtype = DTYPES[entry.dtype]
        kind = GlobalRef(*storage_class(dtype), -1)
        typed = kind.name != "UntypedStorage"
        numel = entry.size // (dtype.size if typed else 1)
        storage = Persistent(("storage", kind, "", "cpu", numel), -1)
        draft.new_storage(storage, Bytes(window, checksum(window)))
        root.pairs.append((name, _tensor(storage, entry.shape, None if typed else entry.dtype)))
    draft.root = root
    noted = {key: held for key in ("weights", "ledger") if (held := _mapping(found.metadata.get(key)))}
    others = {key: text for key, text in found.metadata.items() if key not in (*noted, "format")}
    if others:
        noted["weights"] = {**noted.get("weights", {}), "metadata": others}
    return draft, noted


def _tensor(storage: Persistent, shape: tuple[int, ...], dtype: str | None) -> Call:
    """The call that rebuilds a plain tensor; types without a storage class of their own are named in it."""
    version = "_rebuild_tensor_v2" if dtype is None else "_rebuild_tensor_v3"
    more = (GlobalRef("torch", dtype, -1),) if dtype is not None else ()
    args = (storage, 0, shape, contiguous_stride(shape), False, ordered_dict(), *more)
    return Call(GlobalRef("torch._utils", version, -1), args, "reduce", -1)


def _mapping(text: str | None) -> dict[str, Any] | None:
    """JSON of a mapping; ``None`` for anything else: the file may be anybody's."""
    try:
        found = json_of(text or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
