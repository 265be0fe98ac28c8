"""``inspect``: what is inside a checkpoint, as plain data a caller can print or store."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from ckpt_tools.api import OpenCheckpoint, Tensor
from ckpt_tools.checkpoint import Checkpoint, read_ledger
from ckpt_tools.findings import as_text
from ckpt_tools.layouts import Part
from ckpt_tools.layouts.metrics import metrics_of
from ckpt_tools.layouts.parts import dict_of
from ckpt_tools.layouts.values import LONGEST_LIST, value_of
from ckpt_tools.pickles import is_mapping, pairs_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.policy import tier_of

__all__ = ["args_table", "globals_table", "overview", "select_tensors", "tree"]


def overview(checkpoint: Checkpoint) -> dict[str, Any]:
    """Layout, version, progress, metrics and the parts with their sizes."""
    found = checkpoint.recognised
    container = checkpoint.container
    described: dict[str, Any] = {
        "path": checkpoint.source.name,
        "size": checkpoint.source.size,
        "kind": checkpoint.kind.what or (container.kind if container else checkpoint.kind.name),
        "layout": found.family if found else None,
        "version": found.version if found else None,
        "epoch": found.stored_epoch if found else None,
        "epochs": found.epochs if found else None,
        "step": found.step if found else None,
        "date": value_of(found.value("date")) if found else None,
        "metrics": metrics_of(found) if found else {},
        "parts": [_part(part) for part in checkpoint.parts if part.role != "args"],
        "averaged": _averaged(checkpoint),
        "members": len(container.members) if container else 0,
        "ledger": read_ledger(checkpoint),
        "findings": [fact.addressed(checkpoint.source.name).as_json() for fact in checkpoint.findings],
    }
    if found is None:
        described["first_bytes"] = checkpoint.source.read(0, 64).hex(" ")
    return described


def _averaged(checkpoint: Checkpoint) -> bool:
    """Whether what the file calls its model are averaged (EMA) weights; mmengine swaps the names while averaging."""
    found = checkpoint.recognised
    return found is not None and (
        found.layout.averaged or (found.layout.name == "mmengine" and bool(found.role("ema")))
    )


def _part(part: Part) -> dict[str, Any]:
    """One part; an optimizer also tells its groups."""
    entry: dict[str, Any] = {
        "role": part.role,
        "path": part.path,
        "form": part.form,
        "tensors": len(part.tensors),
        "parameters": part.numel,
        "bytes": part.nbytes,
        "dtypes": part.dtypes(),
        "devices": part.devices(),
    }
    if part.role == "optimizer" and part.present:
        entry["groups"] = [
            {"parameters": len(group.params), "options": {key: value_of(value) for key, value in group.options.items()}}
            for group in part.groups
        ]
    return entry


def args_table(checkpoint: Checkpoint) -> dict[str, Any]:
    """The saved training arguments by name."""
    found = checkpoint.recognised
    return {key: value_of(value) for key, value in found.args.items()} if found else {}


def globals_table(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Every name the file's pickles would import, with its tier and how often it stands there."""
    counts: dict[tuple[str, str, str, bool], int] = {}
    for place, pickle in checkpoint.pickles:
        targets = {id(call.target) for call in pickle.calls}
        for ref in pickle.globals:
            key = (place, ref.module, ref.name, id(ref) in targets)
            counts[key] = counts.get(key, 0) + 1
    table = []
    for (place, module, name, called), count in counts.items():
        tier, why = tier_of(module, name, called)
        table.append(
            {
                "name": f"{module}.{name}",
                "tier": tier.value,
                "why": why,
                "called": called,
                "count": count,
                "where": place,
            }
        )
    return sorted(
        table,
        key=lambda row: (["dangerous", "unknown", "mentioned", "known"].index(str(row["tier"])), str(row["name"])),
    )


def select_tensors(opened: OpenCheckpoint, pattern: str = "*") -> list[Tensor]:
    """Tensors in whose name a pattern matches somewhere (``*`` any run of characters, ``?`` any one)."""
    return [tensor for name, tensor in opened.items() if fnmatchcase(name, f"*{pattern}*")]


def tree(checkpoint: Checkpoint, depth: int = 3) -> Iterator[str]:
    """The file's structure as indented lines, mappings and objects opened down to ``depth``."""
    found = checkpoint.recognised
    if found is None:
        return
    waiting: list[tuple[str, Node, int]] = [("", found.root, 0)]
    seen: set[int] = set()
    while waiting:
        key, node, level = waiting.pop()
        yield f"{'  ' * level}{key}{': ' if key else ''}{_label(node, checkpoint)}"
        inside = list(dict_of(node).items()) if id(node) not in checkpoint.tensors else []
        if not inside and isinstance(node, (list, tuple)):
            inside = [(index, item) for index, item in enumerate(node)]
        if level >= depth or not inside or id(node) in seen:
            continue
        seen.add(id(node))
        if len(inside) > LONGEST_LIST:
            waiting.append((f"… {len(inside) - LONGEST_LIST} more", None, level + 1))
        waiting.extend((as_text(name), child, level + 1) for name, child in reversed(inside[:LONGEST_LIST]))


def _label(node: Node, checkpoint: Checkpoint) -> str:
    tensor = checkpoint.tensors.get(id(node))
    if tensor is not None:
        return f"{tensor.dtype} {list(tensor.shape)}"
    if isinstance(node, dict) or is_mapping(node):
        return f"mapping of {len(list(pairs_of(node)))}"
    if isinstance(node, (list, tuple)):
        simple = all(isinstance(item, (int, float, str, bool, type(None))) for item in node)
        return str(value_of(node)) if simple and len(node) <= 8 else f"{type(node).__name__} of {len(node)}"
    if isinstance(node, str):
        return repr(node if len(node) <= 80 else node[:79] + "…")
    return str(value_of(node))
