"""Run folders: which checkpoints belong to one run, and how far its own records say it got."""

from ckpt_tools.runs.folders import RING, Run, checkpoints_in, find_runs, is_backup, kept_beside
from ckpt_tools.runs.results import Results, read_results, results_of, trained_epoch
from ckpt_tools.runs.sharing import can_reflink, digest, reflink

__all__ = [
    "RING",
    "Results",
    "Run",
    "can_reflink",
    "checkpoints_in",
    "digest",
    "find_runs",
    "is_backup",
    "kept_beside",
    "read_results",
    "reflink",
    "results_of",
    "trained_epoch",
]
