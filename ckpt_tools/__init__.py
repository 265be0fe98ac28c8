"""ckpt_tools: the fsck for training checkpoints.

``open`` reads a checkpoint without executing it, ``verify`` says whether it can be resumed, ``plan_repair`` what would
mend it, ``plan_convert`` what would move it to another device, version, platform or format, ``diff`` what another
configuration would make of it. None of them imports torch, a trainer, or anything the file names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckpt_tools.api import OpenCheckpoint, Tensor, open
    from ckpt_tools.conversions import Conversion
    from ckpt_tools.findings import CkptError, Finding, Severity, Verdict
    from ckpt_tools.plans import Plan, Request
    from ckpt_tools.plans.apply import Planned
    from ckpt_tools.verbs.convert import plan_convert
    from ckpt_tools.verbs.diff import Comparison, diff
    from ckpt_tools.verbs.latest import Newest, latest
    from ckpt_tools.verbs.prune import Pruning, Rules, plan_prune
    from ckpt_tools.verbs.repair import plan_repair
    from ckpt_tools.verbs.verify import Report, verify
    from ckpt_tools.verbs.watch import Event, Watcher, WatchOptions

__version__ = "0.1.0"
__all__ = [
    "CkptError",
    "Comparison",
    "Conversion",
    "Event",
    "Finding",
    "Newest",
    "OpenCheckpoint",
    "Plan",
    "Planned",
    "Pruning",
    "Report",
    "Request",
    "Rules",
    "Severity",
    "Tensor",
    "Verdict",
    "WatchOptions",
    "Watcher",
    "__version__",
    "diff",
    "latest",
    "open",
    "plan_convert",
    "plan_prune",
    "plan_repair",
    "verify",
]

_HOMES = {
    "OpenCheckpoint": "ckpt_tools.api",
    "Tensor": "ckpt_tools.api",
    "open": "ckpt_tools.api",
    "CkptError": "ckpt_tools.findings",
    "Finding": "ckpt_tools.findings",
    "Severity": "ckpt_tools.findings",
    "Verdict": "ckpt_tools.findings",
    "Conversion": "ckpt_tools.conversions",
    "Plan": "ckpt_tools.plans",
    "Planned": "ckpt_tools.plans.apply",
    "Request": "ckpt_tools.plans",
    "plan_convert": "ckpt_tools.verbs.convert",
    "plan_repair": "ckpt_tools.verbs.repair",
    "Pruning": "ckpt_tools.verbs.prune",
    "Rules": "ckpt_tools.verbs.prune",
    "plan_prune": "ckpt_tools.verbs.prune",
    "Comparison": "ckpt_tools.verbs.diff",
    "diff": "ckpt_tools.verbs.diff",
    "Newest": "ckpt_tools.verbs.latest",
    "latest": "ckpt_tools.verbs.latest",
    "Report": "ckpt_tools.verbs.verify",
    "verify": "ckpt_tools.verbs.verify",
    "Event": "ckpt_tools.verbs.watch",
    "WatchOptions": "ckpt_tools.verbs.watch",
    "Watcher": "ckpt_tools.verbs.watch",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that ``import ckpt_tools`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
