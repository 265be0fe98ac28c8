"""``guard`` with the real trainer: whatever moment it dies at, there is a file it goes on from."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

import ckpt_tools
from oracle.trainer import Trainer

SAMPLE, FULL = 3, 100  # kills
LONGEST = 2.0  # seconds from the first save to the kill: some ten saves
NETWORK = "yolov8n.yaml"  # files of 12 MB, so that a kill often falls into the writing of one


def killed_run(trainer: Trainer, number: int, guarded: bool) -> Path:
    """The folder of a run that was killed at a random moment while it saved behind every batch."""
    folder = trainer.folder / "killed" / f"{'guarded' if guarded else 'bare'}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    chance = random.Random(f"{number}")
    outcome = trainer.ask(
        do="killed",
        folder=str(folder),
        network=NETWORK,
        data=trainer.data("detect"),
        guarded=guarded,
        after=chance.random() * LONGEST,
        options={"epochs": 100, "optimizer": "SGD", "val": False},
    )
    assert outcome["kind"] == "stopped", outcome
    return folder / "run"


def goes_on(trainer: Trainer, run: Path) -> bool:
    """Whether ``ckpt latest`` names a file, and the trainer resumes from it."""
    found = ckpt_tools.latest(run)
    if found.path is None:
        return False
    outcome = trainer.resume(trainer.edited(found.path))
    assert outcome.kind == "resumed", (found.path, outcome)
    return True


@pytest.mark.parametrize("number", range(SAMPLE))
def test_killed_at_any_moment_it_goes_on(trainer: Trainer, number: int) -> None:
    run = killed_run(trainer, number, guarded=True)
    assert goes_on(trainer, run)
    shutil.rmtree(run)


@pytest.mark.full
def test_killed_at_a_hundred_moments_it_goes_on_every_time(
    trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = dict.fromkeys((True, False), 0)
    for guarded in counts:
        for number in range(FULL):
            run = killed_run(trainer, number, guarded)
            counts[guarded] += goes_on(trainer, run)
            shutil.rmtree(run)
    with capsys.disabled():
        print(f"\ngoes on: {counts[True]} of {FULL} guarded, {counts[False]} of {FULL} without the guard")
    assert counts[True] == FULL
    assert counts[False] < FULL
