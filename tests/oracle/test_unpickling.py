"""Random pickles from the grammar of the policy, loaded by CPython's unpickler and by torch: nothing may happen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("torch", "ultralytics", "lightning", "transformers"):
    pytest.importorskip(package)
SCRIPT = Path(__file__).with_name("unpickling.py")
PATIENCE = 3600  # seconds for the long form, on the slowest of machines
SUMMARY = re.compile(r"(\d+) pickles in \d+ s, (\d+) unsafe, (\d+) loaded to their end, (\d+) too slow or too large")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("count", [3_000, pytest.param(200_000, marks=pytest.mark.full)])
def test_nothing_happens_on_a_pickle_that_is_not_unsafe(count: int) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--count", str(count), "--processes", "2"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    summary = SUMMARY.search(done.stdout)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2000:]
    assert summary is not None
    tried, _, whole, slow = map(int, summary.groups())
    assert tried == count
    assert whole > tried / 20, "too few were loaded to their end for this to say anything"
    assert slow < tried / 100
