"""The ledger a repair or conversion leaves in its result: read within bounds and on no trust, as all of a file is."""

from __future__ import annotations

from typing import Any

from ckpt_tools.checkpoint.opening import Checkpoint
from ckpt_tools.container import MemberError, member_bytes
from ckpt_tools.sidefiles import LONGEST_TEXT, json_of

__all__ = ["LEDGER", "read_ledger"]

LEDGER = ".ckpt_tools/ledger.json"  # below the archive's root folder


def read_ledger(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The ledger as it stands in the file; ``None`` where there is none that can be read."""
    container = checkpoint.container
    member = container.members.get(LEDGER) if container is not None and container.kind == "zip" else None
    if member is None or container is None:
        return None
    try:
        content = json_of(member_bytes(container.source, member, LONGEST_TEXT))
    except (MemberError, ValueError):
        return None
    return content if isinstance(content, dict) else None
