"""What the system says of changes in folders: it wakes a watcher up early, and is never relied on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_tools.checkpoint import CHECKPOINT_NAMES

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

__all__ = ["Notices"]

STEP, GATHERED = 100, 400  # milliseconds: between two looks at the stop event; for which changes are put together


class Notices:
    """Waits for changes of checkpoints in folders and below them, as far as the system reports any.

    Folders that are not there yet, or are there again, are taken up at the next wait. Network file systems report
    nothing of what other machines do, and the system may refuse: then it only waits.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._watched: dict[str, tuple[Path, int, int]] = {}  # by the real path, which the system reports
        self._notify: RustNotify | None = None
        self._renew()

    def wait(self, seconds: float, stop: threading.Event) -> set[Path]:
        """The checkpoints that changed, as soon as there are any; none when the time is up or ``stop`` is set.

        To be called in the main thread. Raises ``KeyboardInterrupt`` where a handler of a signal does.
        """
        self._renew()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not stop.is_set():
            if self._notify is None:
                stop.wait(left)
                continue
            try:
                found = self._notify.watch(GATHERED, STEP, max(1, int(left * 1000)), stop)
            except (OSError, RuntimeError):
                self._notify = None
                continue
            if found == "signal":
                raise KeyboardInterrupt
            if isinstance(found, set) and (changed := self._checkpoints(found)):
                return changed
        return set()

    def _checkpoints(self, found: set[tuple[int, str]]) -> set[Path]:
        """The checkpoints among changed paths, under the name of their folder as it was given; none that are hidden."""
        changed: set[Path] = set()
        for path in (path for _, path in found if path.lower().endswith(CHECKPOINT_NAMES)):
            for root, (folder, *_) in sorted(self._watched.items(), key=lambda item: -len(item[0])):
                inside = root.rstrip(os.sep) + os.sep
                if path.startswith(inside):
                    inner = Path(path.removeprefix(inside))
                    if not any(part.startswith(".") for part in inner.parts):  # e.g. in a ring
                        changed.add(folder / inner)
                    break
        return changed

    def _renew(self) -> None:
        """Listen to the folders that are there, and anew where one of them is another than before."""
        there: dict[str, tuple[Path, int, int]] = {}
        for folder in self._folders:
            try:
                status = os.stat(folder)
            except OSError:
                continue
            there[os.path.realpath(folder)] = (folder, status.st_dev, status.st_ino)
        if there == self._watched:
            return
        self.close()
        self._watched = there
        if there:
            from watchfiles._rust_notify import RustNotify

            try:
                self._notify = RustNotify(list(there), False, False, 0, True, True)
            except (OSError, RuntimeError, ValueError):  # the system's limit on watched folders; a name that is no text
                self._notify = None

    def close(self) -> None:
        """Stop listening."""
        if self._notify is not None:
            self._notify.close()
        self._notify, self._watched = None, {}
