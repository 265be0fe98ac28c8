"""Whether the file is the work of a repair or conversion, and what was lost on the way: notes for whoever gets it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ckpt_tools.checkpoint import Checkpoint, read_ledger
from ckpt_tools.checks.names import few
from ckpt_tools.findings import Finding, finding

__all__ = ["check_repaired", "records", "steps_of"]

LONGEST_HISTORY = 20
OWN = ("kept", "edited", "cast", "dropped")  # outcomes of parts that lost nothing against anybody's will


def check_repaired(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The notes that go with a ledger: of the last repair, and of the last conversion."""
    seen: set[str] = set()
    for record in records(checkpoint):
        slug = "converted" if record.get("command") == "convert" else "repaired"
        if slug not in seen:
            seen.add(slug)
            yield finding(slug, **NOTES[slug](record), **_origin(record))


def records(checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
    """The ledger of a file, and those of the files it was made from, the latest first."""
    record: Any = read_ledger(checkpoint)
    for _ in range(LONGEST_HISTORY):
        if not isinstance(record, dict):
            return
        yield record
        record = record.get("before")


def _origin(record: dict[str, Any]) -> dict[str, Any]:
    sources = [str(source.get("name")) for source in _entries(record, "sources")]
    return {"tool": record.get("tool", "ckpt"), "sources": few(sources, 6) or "itself"}


def _lost(record: dict[str, Any]) -> dict[str, Any]:
    lost = [str(part.get("path")) for part in _entries(record, "parts") if part.get("outcome") not in OWN]
    return {"loss": f"; not the file's own, or not all of it: {few(lost, 6)}" if lost else ""}


def _changes(record: dict[str, Any]) -> dict[str, Any]:
    return {"steps": few(list(dict.fromkeys(steps_of(record))), 6) or "nothing"}


def steps_of(record: dict[str, Any]) -> list[str]:
    """The names of the steps a ledger tells of."""
    return [str(step.get("name")) for step in _entries(record, "steps")]


NOTES = {"repaired": _lost, "converted": _changes}


def _entries(record: dict[str, Any], key: str) -> list[dict[str, Any]]:
    listed = record.get(key)
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
