"""Folders of runs, found by the checkpoints in them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ckpt_tools.checkpoint import CHECKPOINT_NAMES
from ckpt_tools.findings import CkptError, trouble

__all__ = ["RING", "Run", "checkpoints_in", "find_runs", "is_backup", "kept_beside"]

BACKUP = re.compile(r"\.(bak|prev)\d*$", re.I)
# In a run's own folder; searches for runs, ours and trainers', pass hidden folders over.
RING = ".ckpt-ring"
EARLIER = re.compile(r"\.prev\d*$", re.I)
# Folders of a run in which trainers keep its checkpoints (YOLO; Lightning and mmengine's own; many scripts).
INNER = ("weights", "checkpoints", "ckpt", "ckpts", "checkpoint")
Unreadable = Callable[[OSError], None]


@dataclass(frozen=True)
class Run:
    """A run: its folder, and its checkpoints with their status, the one written last first."""

    folder: Path
    files: tuple[tuple[Path, os.stat_result], ...]

    @property
    def modified(self) -> int:
        """When the last of them was written, in nanoseconds."""
        return max(status.st_mtime_ns for _, status in self.files)


def _pass_over(error: OSError) -> None:
    """What can't be looked at is left out, where a command can do without."""


def is_backup(name: str) -> bool:
    """Whether a file is what a repair or conversion kept of the original, or a guarded training of the state before.

    ``last.pt.bak``, ``last.pt.bak2``; ``last.pt.prev``.
    """
    return BACKUP.search(name) is not None


def checkpoints_in(
    folder: Path, backups: bool = False, unreadable: Unreadable = _pass_over
) -> list[tuple[Path, os.stat_result]]:
    """The checkpoints directly in a folder with their status, the newest first; none where it can't be read.

    With ``backups`` also what repairs and conversions kept of originals. ``unreadable`` is told of a folder or file
    that can't be looked at, other than one that went meanwhile and a link to nowhere.
    """
    found: list[tuple[Path, os.stat_result]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = BACKUP.sub("", entry.name.lower()) if backups else entry.name.lower()
                try:
                    if name.endswith(CHECKPOINT_NAMES) and entry.is_file():
                        found.append((folder / entry.name, entry.stat()))
                except FileNotFoundError:
                    continue
                except OSError as error:
                    unreadable(error)
    except FileNotFoundError:
        return []
    except OSError as error:
        unreadable(error)
        return []
    return sorted(found, key=lambda item: (-item[1].st_mtime_ns, item[0].name))


def kept_beside(folder: Path) -> list[Path]:
    """Good copies of a folder's files: earlier states a guarded training kept, and those in a watcher's ring."""
    earlier = [path for path, _ in checkpoints_in(folder, backups=True) if EARLIER.search(path.name)]
    run = folder.parent if folder.name in INNER else folder
    return [*earlier, *(path for path, _ in checkpoints_in(run / RING))]


def find_runs(folder: Path, backups: bool = False, unreadable: Unreadable = _pass_over) -> list[Run]:
    """Every run in a folder and below it, the one that was written to last first; links to folders are not followed.

    ``unreadable`` is told of folders and files that can't be looked at. Raises ``CkptError`` where there is no such
    folder.
    """
    try:
        there = stat.S_ISDIR(os.stat(folder).st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        there = False
    except OSError as error:
        raise CkptError(f"{folder} can't be searched: {trouble(error)}") from error
    if not there:
        raise CkptError(f"{folder} is no folder; name a run folder, or one with runs in it")
    found: dict[Path, list[tuple[Path, os.stat_result]]] = {}
    for room in _rooms(folder, unreadable):
        held = checkpoints_in(room, backups, unreadable)
        if held:
            run = room.parent if room.name in INNER and room != folder else room
            found.setdefault(run, []).extend(held)
    runs = [Run(run, tuple(sorted(held, key=lambda item: -item[1].st_mtime_ns))) for run, held in found.items()]
    return sorted(runs, key=lambda run: (-run.modified, str(run.folder)))


def _rooms(folder: Path, unreadable: Unreadable) -> Iterator[Path]:
    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # it went meanwhile
            unreadable(error)

    for room, folders, _ in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(room)
