"""Crafted attacks, loaded for real: whatever runs there is called unsafe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from attacks import ATTACKS

from ckpt_tools.findings import Verdict
from ckpt_tools.verbs.verify import verify

pytest.importorskip("torch")
PATIENCE = 600  # seconds for all files, on the slowest of machines
MOST = 0.9  # of the files have to run, or the corpus proves nothing


class Outcome(NamedTuple):
    """What became of one file."""

    ran: bool
    said: str
    verdict: Verdict | None


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    """Every attack, judged first and then loaded."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    folder = tmp_path_factory.mktemp("attacks")
    jobs = []
    verdicts = {}
    for name, attack in ATTACKS.items():
        path, canary = folder / f"{name}.pt", folder / f"{name}.canary"
        path.write_bytes(attack.build(str(canary)))
        verdicts[name] = verify(path).verdict
        assert not canary.exists(), f"reading {name} has run it"
        jobs.append([name, str(path), str(canary), attack.loader, attack.alone])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("detonate.py"))],
        input="\n".join(map(json.dumps, jobs)),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    answers = map(json.loads, done.stdout.splitlines())
    return {name: Outcome(ran, said, verdicts[name]) for name, ran, said in answers}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_that_runs_is_unsafe(name: str, outcomes: Mapping[str, Outcome]) -> None:
    outcome = outcomes[name]
    assert outcome.verdict is Verdict.UNSAFE or not outcome.ran, outcome.said


def test_most_attacks_still_run(outcomes: Mapping[str, Outcome]) -> None:
    kinds = {ATTACKS[name].kind for name, outcome in outcomes.items() if outcome.ran}
    assert sum(outcome.ran for outcome in outcomes.values()) >= MOST * len(ATTACKS)
    assert kinds == {"A1", "A2", "A4", "A5"}
