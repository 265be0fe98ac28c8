"""Paths on the command line: files, folders (searched below), and patterns the shell left alone."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from ckpt_tools.findings import CkptError

__all__ = ["CHECKPOINT_NAMES", "expand"]

CHECKPOINT_NAMES = (".pt", ".pth", ".ckpt", ".pt.tar", ".pth.tar")


def expand(paths: Iterable[str]) -> tuple[list[str], bool]:
    """Every file meant by ``paths``, and whether it was more than plain files that were named.

    Raises ``CkptError`` when a folder or pattern holds no checkpoint at all.
    """
    found: list[str] = []
    many = False
    for path in paths:
        expanded = os.path.expanduser(path)
        if os.path.isdir(expanded):
            below = _below(expanded)
            if not below:
                raise CkptError(
                    f"{path} holds no checkpoint ({', '.join(CHECKPOINT_NAMES)}); name a file or another folder"
                )
            found, many = found + below, True
        elif not os.path.lexists(expanded) and glob.has_magic(expanded):
            matched = sorted(name for name in glob.glob(expanded, recursive=True) if os.path.isfile(name))
            if not matched:
                raise CkptError(f"nothing matches {path}; check the pattern")
            found, many = found + matched, True
        else:
            found.append(expanded)
    return list(dict.fromkeys(found)), many or len(found) > 1


def _below(folder: str) -> list[str]:
    """Checkpoints in a folder and below it, in order; folders that can't be read are passed over."""
    found: list[str] = []
    for room, folders, files in os.walk(folder):
        folders.sort()
        found += [str(Path(room) / name) for name in sorted(files) if name.lower().endswith(CHECKPOINT_NAMES)]
    return found
