"""A command of the user's that is run for every event, one after the other, in a thread of its own."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping

from ckpt_tools.cli.render import complain

__all__ = ["Hook"]

LONGEST = 60.0  # seconds a command may take
GRACE = 5.0  # seconds that are left for what waits when the watcher stops
MOST_WAITING = 1000


class Hook:
    """Runs a command through the shell with an event's JSON line on its stdin and its facts in the environment.

    Nothing of an event is ever put into the command itself: paths come from outside. What the command prints goes to
    stderr. One that fails, or takes too long, is said there, and stops nothing.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._waiting: queue.Queue[tuple[str, Mapping[str, str]] | None] = queue.Queue(MOST_WAITING)
        self._running: subprocess.Popen[str] | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def send(self, line: str, facts: Mapping[str, str]) -> None:
        """Have the command run for an event; returns at once."""
        try:
            self._waiting.put_nowait((line, facts))
        except queue.Full:
            _complain(f"{MOST_WAITING} events wait for it already; this one is left out")

    def close(self) -> None:
        """Let what waits be run for a few seconds, then end it."""
        end = time.monotonic() + GRACE
        try:
            with contextlib.suppress(queue.Full):
                self._waiting.put(None, timeout=GRACE)
            self._thread.join(max(0.0, end - time.monotonic()))
        finally:
            self._closing = True
            if (running := self._running) is not None:
                _end(running)
            left = self._waiting.qsize() - 1
            if left > 0:
                _complain(f"{left} events were left out")

    def _work(self) -> None:
        while (event := self._waiting.get()) is not None and not self._closing:
            self._run(*event)

    def _run(self, line: str, facts: Mapping[str, str]) -> None:
        environment = {**os.environ, **{f"CKPT_{name.upper()}": value for name, value in facts.items()}}
        try:
            self._running = process = subprocess.Popen(
                self._command,
                shell=True,
                stdin=subprocess.PIPE,
                stdout=sys.stderr.fileno(),
                env=environment,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for us, and what it started can be ended with it
            )
            process.communicate(line + "\n", timeout=LONGEST)
            if process.returncode:
                _complain(f"exit code {process.returncode} for {facts['event']}")
        except subprocess.TimeoutExpired:
            _end(process)
            _complain(f"ended after {LONGEST:.0f} s for {facts['event']}")
        except (OSError, ValueError) as error:
            _complain(f"{error} for {facts['event']}")
        finally:
            self._running = None


def _end(process: subprocess.Popen[str]) -> None:
    """End a command and whatever it started."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _complain(what: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads it, or the disk is full
        complain(f"--on-event: {what}")
