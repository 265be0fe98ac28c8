"""Packages beside those of the test environment, in folders of their own that are kept for later sessions."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CACHE = Path(tempfile.gettempdir()) / "ckpt-releases"
# What older releases of trainers import and the test environment does not have.
EXTRAS = ("hub-sdk", "pandas", "py-cpuinfo", "python-dateutil", "pytz", "scipy", "seaborn", "setuptools==80.9.0",
          "six", "thop", "tqdm", "tzdata")  # fmt: skip


def installed(requirements: tuple[str, ...], folder: Path) -> Path:
    """A folder with packages, filled once for all sessions; the test is skipped where they can't be had."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as room:
        made = Path(room, "made")
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(made), *requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{requirements[0]} can't be installed: {done.stderr[-200:]}")
        with contextlib.suppress(OSError):  # another test process was first
            made.rename(folder)
    return folder
