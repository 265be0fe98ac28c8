"""A wish to end that comes as a signal, kept until the training is at a point where it can be saved."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any

__all__ = ["STOP", "Wish"]

STOP = (signal.SIGTERM, signal.SIGINT)  # schedulers send the one, Ctrl-C the other
LOG = logging.getLogger("ckpt_tools")


class Wish:
    """``number`` is the signal that came, 0 before one has.

    A second Ctrl-C ends the process at once. Other signals may come several times (a scheduler tells every process of a
    job, and a launcher passes it on), and mean no more than once.
    """

    def __init__(self, signals: Iterable[int]) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}
        wanted = tuple(signals)
        if threading.current_thread() is not threading.main_thread():  # Python allows it nowhere else
            if wanted:
                LOG.warning("signals reach the main thread alone: here none is waited for, and none saves")
            return
        for number in wanted:
            self._before[number] = signal.signal(number, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        LOG.warning("signal %d: saving and ending as soon as the step is done", number)
        if number == signal.SIGINT:
            self._give_back(number)

    def _give_back(self, number: int) -> None:
        before = self._before.pop(number, None)
        if signal.getsignal(number) == self._heard:  # nobody else has taken it since
            signal.signal(number, before if before is not None else signal.SIG_DFL)

    def close(self, served: bool = True) -> None:
        """Give the signals back to whoever had them before; one that was not ``served`` has its usual effect now."""
        for number in tuple(self._before):
            self._give_back(number)
        number, self.number = self.number, 0
        if number and not served:
            signal.raise_signal(number)
