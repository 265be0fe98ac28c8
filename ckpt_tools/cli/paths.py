"""Paths on the command line: files, folders (searched below), and patterns the shell left alone."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from ckpt_tools.checkpoint import CHECKPOINT_NAMES
from ckpt_tools.findings import CkptError, reason_of

__all__ = ["expand"]


def expand(paths: Iterable[str], names: tuple[str, ...] = CHECKPOINT_NAMES) -> tuple[list[str], bool]:
    """Every file meant by ``paths``, and whether it was more than plain files that were named.

    In folders those that end in one of ``names`` are meant. Raises ``CkptError`` when a folder or pattern holds no
    checkpoint at all, or a folder below can't be read.
    """
    found: list[str] = []
    many = False
    for path in paths:
        expanded = os.path.expanduser(path)
        pattern = not os.path.lexists(expanded) and glob.has_magic(expanded)
        if not pattern and not os.path.isdir(expanded):
            found.append(expanded)
            continue
        matched = sorted(glob.glob(expanded, recursive=True)) if pattern else [expanded]
        below = [name for match in matched for name in (_below(match, names) if os.path.isdir(match) else [match])]
        if not below and pattern:
            raise CkptError(f"nothing matches {path}; check the pattern")
        if not below:
            raise CkptError(f"{path} holds no checkpoint ({', '.join(names)}); name a file or another folder")
        found, many = found + below, True
    return list(dict.fromkeys(found)), many or len(found) > 1


def _below(folder: str, names: tuple[str, ...]) -> list[str]:
    """Checkpoints in a folder and below it, in order."""
    found: list[str] = []

    def unreadable(error: OSError) -> None:
        raise CkptError(
            f"{error.filename} can't be searched: {reason_of(error)}; name the folders beside it"
        ) from error

    for room, folders, files in os.walk(folder, onerror=unreadable):
        folders.sort()
        found += [str(Path(room) / name) for name in sorted(files) if name.lower().endswith(names)]
    return found
