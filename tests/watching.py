"""``ckpt watch`` in a process of its own, for tests that wait for what it says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Process:
    """``ckpt watch --json`` as a user runs it; its events are awaited."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ckpt_tools", "watch", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self.limit = threading.Timer(60, self.process.kill)
        self.limit.start()

    def event(self, *wanted: str) -> dict[str, Any]:
        """The next event of one of the names."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] in wanted:
                return event
        raise AssertionError(f"no {wanted}: {self.process.stderr.read() if self.process.stderr else ''}")

    def end(self, how: int = signal.SIGTERM) -> tuple[int, str]:
        """Its exit code, and what it said on stderr."""
        self.process.send_signal(how)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def close(self) -> None:
        """End it, whatever it does."""
        self.limit.cancel()
        self.process.kill()
        self.process.communicate()
