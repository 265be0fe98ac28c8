"""Cures of what stops a file from loading elsewhere."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

from ckpt_tools.checks.names import counted
from ckpt_tools.pickles import Call, GlobalRef
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.edits import graph

__all__ = ["numpy2_names", "path_objects"]


def path_objects(case: Case) -> None:
    """Paths become text, which loads on every system."""
    changed = 0
    for node in graph(case.root):
        if isinstance(node, Call) and node.path.startswith("pathlib.") and isinstance(node.args, tuple):
            flavour = PureWindowsPath if "Windows" in node.path else PurePosixPath
            case.draft.swaps[id(node)] = str(flavour(*map(str, node.args)))
            changed += 1
    if changed:
        case.draft.edited = True
        case.do("path-objects", f"{counted(changed, 'path object')} turned into text")


def numpy2_names(case: Case) -> None:
    """numpy's objects under the module names numpy 1 and 2 both know."""
    changed = 0
    for node in graph(case.root):
        if isinstance(node, GlobalRef) and node.module.startswith("numpy._core"):
            node.module = node.module.replace("numpy._core", "numpy.core", 1)
            changed += 1
    if changed:
        case.draft.edited = True
        case.do("numpy2-names", "numpy objects under the module names of numpy 1, which numpy 2 knows, too")
