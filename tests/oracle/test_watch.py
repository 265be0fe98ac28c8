"""``ckpt watch`` beside the real trainer, which is killed in the middle of a save."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from watching import Process

from ckpt_tools.findings import Verdict
from ckpt_tools.verbs.verify import verify
from oracle.recipes import write_network
from oracle.trainer import EPOCHS, Trainer

KILLED = 2  # the epoch in whose save it dies, counted from 0


def test_run_killed_in_mid_write_goes_on_from_the_ring(
    trainer: Trainer, tmp_path: Path, environment: Mapping[str, str]
) -> None:
    weights = tmp_path / "run/weights"
    watcher = Process(tmp_path, environment, str(tmp_path), "--settle", "0.2s", "--json")
    try:
        watcher.event("started")
        ended = trainer.try_to(
            do="train",
            folder=str(tmp_path),
            network=str(write_network(tmp_path / "network.yaml", "detect")),
            data=trainer.data("detect"),
            stop_after=None,
            die_in=KILLED,
            options={"epochs": EPOCHS, "optimizer": "SGD", "save_period": 1},
        )
        assert ended["message"] == "exit status -9", f"it was not killed, see {trainer.log}"
        assert verify(weights / "last.pt").verdict is Verdict.DAMAGED
        events = [watcher.event("verified", "damaged")]
        wanted = {("damaged", str(weights / "last.pt")), ("verified", str(weights / f"epoch{KILLED - 1}.pt"))}
        while not wanted <= {(event["event"], event["path"]) for event in events}:
            events.append(watcher.event("verified", "damaged"))
        assert watcher.end() == (0, "")
    finally:
        watcher.close()
    ring = tmp_path / "run/.ckpt-ring"
    copy = max(path for path in ring.iterdir() if f".epoch{KILLED - 1}." in path.name)
    outcome = trainer.resume(copy)
    outcome = trainer.resume(copy)
    assert (outcome.kind, outcome.epoch) == ("resumed", KILLED), outcome
    (damaged,) = (event for event in events if event["event"] == "damaged")
    if damaged["next"].startswith("cp "):  # unless it was read before the first good one was
        subprocess.run(damaged["next"], shell=True, check=True)
        assert verify(weights / "last.pt").verdict is Verdict.RESUMABLE
        outcome = trainer.resume(weights / "last.pt")
        assert (outcome.kind, outcome.epoch) == ("resumed", KILLED), outcome
