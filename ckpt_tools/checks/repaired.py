"""Whether the file was put together by a repair, and what was lost on the way: a note for whoever gets it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ckpt_tools.checkpoint import Checkpoint, read_ledger
from ckpt_tools.checks.names import few
from ckpt_tools.findings import Finding, finding

__all__ = ["check_repaired"]


def check_repaired(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The note that goes with a ledger."""
    ledger = read_ledger(checkpoint)
    if ledger is None:
        return
    sources = [str(source.get("name")) for source in _entries(ledger, "sources")]
    parts = _entries(ledger, "parts")
    lost = [str(part.get("path")) for part in parts if part.get("outcome") not in ("kept", "edited")]
    loss = f"; not the file's own, or not all of it: {few(lost, 6)}" if lost else ""
    yield finding("repaired", tool=ledger.get("tool", "ckpt"), sources=few(sources, 6) or "itself", loss=loss)


def _entries(ledger: dict[str, Any], key: str) -> list[dict[str, Any]]:
    listed = ledger.get(key)
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
