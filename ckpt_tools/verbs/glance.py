"""A file of a run as its structure tells: what ``latest`` and ``prune`` choose by, before any tensor is read."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ckpt_tools.checkpoint import open_checkpoint
from ckpt_tools.checks.context import Context, Target
from ckpt_tools.checks.repaired import records, steps_of
from ckpt_tools.findings import CkptError
from ckpt_tools.layouts.metrics import metrics_of
from ckpt_tools.runs import Results, trained_epoch
from ckpt_tools.verbs.verify import Report, verify_checkpoint

__all__ = ["Glance", "best_first", "glance", "lower_is_better"]

# Words in names of metrics whose best value is the smallest; of all others it is the largest.
LOWER_IS_BETTER = set(
    "loss losses error err errors mae mse rmse rmsle mape wer cer eer ece perplexity ppl nll bpb bpd bpc fid kid lpips "
    "chamfer hausdorff distance".split()
)
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@dataclass(frozen=True)
class Glance:
    """The verdict by structure, the last epoch it finished (-1: unknown), when it was written, and its metrics.

    ``stripped_here``: ``convert --strip`` or ``prune --strip-old`` stripped it, which says nothing about its run.
    """

    path: Path
    report: Report
    epoch: int
    status: os.stat_result
    metrics: dict[str, Any]
    stripped_here: bool = False

    @property
    def order(self) -> tuple[int, int]:
        """The newest is the one with the largest: by epoch, then by time of writing."""
        return self.epoch, self.status.st_mtime_ns


def glance(
    path: Path, status: os.stat_result, target: Target | None = None, results: Results = MappingProxyType({})
) -> Glance:
    """Look at a file; metrics it does not hold are those of its epoch in ``results``. Raises ``CkptError``."""
    with open_checkpoint(path) as checkpoint:
        report = verify_checkpoint(checkpoint, Context(quick=True, target=target), siblings=False)
        found = checkpoint.recognised
        epoch = found.epoch if found is not None else None
        if found is not None and (epoch is None or epoch < 0):
            epoch = trained_epoch(found, path)
        metrics = metrics_of(found) if found is not None else {}
        stripped_here = any(step == "strip" for record in records(checkpoint) for step in steps_of(record))
    known = -1 if epoch is None else epoch
    return Glance(path, report, known, status, {**results.get(known, {}), **metrics}, stripped_here)


def lower_is_better(metric: str) -> bool:
    """Whether the best value of a metric is the smallest, by the words in its name: ``val/box_loss``, ``valLoss``."""
    words = [word.lower() for word in WORD.findall(metric)]
    return any(word in LOWER_IS_BETTER or word.endswith("loss") for word in words)


def best_first(files: Sequence[Glance], metric: str) -> list[Glance]:
    """Those that have a metric, the best first; equal ones as given. Raises ``CkptError`` where none has it."""
    names = {name for one in files for name in one.metrics}
    name = metric if metric in names else next((held for held in sorted(names) if metric in held), None)
    values = [(one.metrics.get(name), one) for one in files] if name is not None else []
    known = [(value, one) for value, one in values if isinstance(value, (int, float)) and isfinite(value)]
    if not known and files:
        raise CkptError(f"no checkpoint has a metric {metric}; there are: {', '.join(sorted(names)) or 'none'}")
    down = lower_is_better(str(name))
    return [one for _, one in sorted(known, key=lambda pair: pair[0] if down else -pair[0])]
