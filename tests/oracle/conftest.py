"""The oracle tests need torch, the trainer tests ultralytics too; without them they are skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from oracle.trainer import Trainer, running

HERE = Path(__file__).parent
FIXTURES = HERE.parents[1] / "fixtures"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is an oracle test."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("oracle")


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """The real ultralytics trainer."""
    if find_spec("ultralytics") is None or not hasattr(os, "fork"):
        pytest.skip("needs ultralytics and fork")
    yield from running(tmp_path_factory.mktemp("trainer"))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """The folder of a disk of 3 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of real checkpoints."""
    return FIXTURES
