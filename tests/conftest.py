"""Fixtures of all tests: files in a folder of their own, and the command line as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from building import saved
from hypothesis import HealthCheck, settings

from ckpt_tools.verbs.verify import Report, verify

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "fixtures"
Write = Callable[..., Path]
Verify = Callable[..., Report]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

settings.register_profile(
    "ckpt", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("ckpt")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write bytes, or a checkpoint made of plain data, to a file of the test's own folder, as if an hour ago."""

    def make(content: Any, name: str = "last.pt") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else saved(content))
        an_hour_ago = time.time() - 3600
        os.utime(path, (an_hour_ago, an_hour_ago))
        return path

    return make


@pytest.fixture
def verified(write: Write) -> Verify:
    """Write a checkpoint and verify it."""

    def check(content: Any, name: str = "last.pt", **options: Any) -> Report:
        return verify(write(content, name), **options)

    return check


@pytest.fixture(scope="session")
def environment() -> Mapping[str, str]:
    """The environment of the command line: this source tree, no colours, a fixed width."""
    kept = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "CKPT_DEBUG")}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}


@pytest.fixture
def ckpt(tmp_path: Path, environment: Mapping[str, str]) -> Run:
    """Run ``ckpt`` with the test's own folder as the working directory."""

    def run(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = [sys.executable, "-m", "ckpt_tools", *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={**environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )

    return run
