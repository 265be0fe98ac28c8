"""The ledger: the record of a repair or conversion that travels in its result as an extra member of the archive."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from ckpt_tools import __version__
from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.container import MemberError, member_source
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.holdings import Holding
from ckpt_tools.plans.model import Plan

__all__ = ["ledger"]


def ledger(
    case: Case, plan: Plan, original: Holding, command: str, before: Mapping[str, Any] | None, *, scrubbed: bool = False
) -> bytes:
    """The record that travels in the result of ``command``: what came from where, with checksums.

    ``before`` is the record in the original, of the command it was made by, if it was. One that is ``scrubbed`` tells
    no names.
    """
    sources = {original.checkpoint.source.name: _source(original.checkpoint)}
    if scrubbed:
        sources[original.checkpoint.source.name]["name"] = "the original"
    used = {part.source for part in plan.parts if part.source}
    for donor in (*case.siblings, *case.named.values()):
        if donor.name in used or donor is case.rebased:
            sources[str(donor.path)] = _source(donor.checkpoint)
    content = {
        "schema": "ckpt-tools/ledger/1",
        "command": command,
        "tool": f"ckpt-tools {__version__}",
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "sources": list(sources.values()),
        "steps": [step.as_json() for step in plan.steps],
        "parts": [part.as_json() for part in plan.parts],
        "verdict_before": str(plan.verdict),
        "expected": str(plan.expected),
        "resumes_at": plan.resumes_at,
        "before": before,
        **({"scrubbed": True} if scrubbed else {}),
    }
    return json.dumps(content, indent=1).encode()


def _source(checkpoint: Checkpoint) -> dict[str, Any]:
    """A file parts came from: its name, size, and the CRC-32 of its object graph."""
    from isal.isal_zlib import crc32

    container = checkpoint.container
    main = container.members.get("data.pkl") if container is not None and container.kind == "zip" else None
    crc = None
    with contextlib.suppress(MemberError):  # one that can't be unpacked has none
        crc = crc32(member_source(checkpoint.source, main).read(0, main.size)) if main is not None else None
    return {
        "name": checkpoint.path.name,
        "size": checkpoint.source.size,
        "epoch": checkpoint.recognised.stored_epoch if checkpoint.recognised else None,
        "data_pkl_crc32": f"{crc:08x}" if crc is not None else None,
    }
