"""A sample of the fuzzer's inputs; many: ``python tests/fuzz.py --count 10000``."""

from __future__ import annotations

import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="limits, timers and processes as Linux has them")
def test_inputs_of_all_sorts_end_with_a_code_that_means_something() -> None:
    import fuzz

    tally = fuzz.run(120, jobs=1)
    assert not tally.wrong, "\n".join(f"{one.number}: {one.command} {one.what}" for one in tally.wrong)
    assert sum(tally.codes.values()) == 120
    assert {name for name, _ in tally.codes} == set(fuzz.COMMANDS)
    assert tally.memory < fuzz.MOST_MEMORY
