"""A sample of the fuzzer's inputs; many: ``python tests/fuzz.py --count 10000``."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")


@pytest.mark.skipif(sys.platform != "linux", reason="limits, timers and processes as Linux has them")
def test_inputs_of_all_sorts_end_with_a_code_that_means_something() -> None:
    """In a process of its own: what other tests have imported would count as memory of the commands."""
    import fuzz

    arguments = [sys.executable, str(FUZZ), "--count", "120", "--jobs", "1"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong: 0" in done.stdout
    table = [row for row in csv.reader(done.stdout.splitlines()) if len(row) == 3 and row[2].isdigit()]
    assert {row[0] for row in table} == set(fuzz.COMMANDS)
    assert sum(int(row[2]) for row in table) == 120
