"""Values of options that are numbers with a unit: ``30m``, ``20G``."""

from __future__ import annotations

import re

from ckpt_tools.findings import CkptError

__all__ = ["BYTES", "SECONDS", "measured"]

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def measured(text: str, units: dict[str, int], option: str, examples: str) -> float:
    """A number with one of the units, in the smallest of them; raises ``CkptError`` for anything else."""
    end = "i?b?" if "" in units else ""  # GiB, kB
    match = re.fullmatch(rf"(\d{{1,15}}(?:\.\d{{1,15}})?)\s*([a-z]?){end}", text.strip().lower())
    if match is None or match[2] not in units:
        raise CkptError(f"{option} {text}: write it as e.g. {examples}")
    return float(match[1]) * units[match[2]]
