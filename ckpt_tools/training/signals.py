"""A wish to end that comes as a signal, kept until the training is at a point where it can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any

__all__ = ["STOP", "Wish"]

STOP = (signal.SIGTERM, signal.SIGINT)  # schedulers send the one, Ctrl-C the other


class Wish:
    """``number`` is the signal that came, 0 before one has. The same signal again has its usual effect at once."""

    def __init__(self, signals: Iterable[int]) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for number in signals:
                self._before[number] = signal.signal(number, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        before = self._before.pop(number, None)
        signal.signal(number, before if before is not None else signal.SIG_DFL)

    def close(self) -> None:
        """Give the signals back to whoever had them before."""
        for number, before in self._before.items():
            signal.signal(number, before if before is not None else signal.SIG_DFL)
        self._before.clear()
