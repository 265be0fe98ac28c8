"""``guard`` with the real trainer: whatever moment it dies at, there is a file it goes on from."""

from __future__ import annotations

import pickle
import random
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

import ckpt_tools
from ckpt_tools.findings import CkptError, Verdict
from ckpt_tools.training import guard
from ckpt_tools.training.ultralytics import Stage
from ckpt_tools.verbs.verify import parse_target
from oracle.packages import CACHE, EXTRAS, installed
from oracle.recipes import TASKS, write_network
from oracle.trainer import Run, Trainer

SAMPLE, FULL = 3, 100  # kills
NETWORK, LARGER = "yolov8n.yaml", "yolov8s.yaml"  # files of 12 and of 45 MB, whose writing takes its time


def killed_run(trainer: Trainer, number: int, guarded: bool, network: str = NETWORK) -> Path:
    """The folder of a run that saved behind every batch and was killed at a random moment of a save."""
    folder = trainer.folder / "killed" / f"{'guarded' if guarded else 'bare'}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    chance = random.Random(f"{number}")
    outcome = trainer.ask(
        do="killed",
        folder=str(folder),
        network=network,
        data=trainer.data("detect"),
        guarded=guarded,
        save=chance.randrange(3, 6),
        share=chance.random(),
        options={"epochs": 100, "optimizer": "SGD", "val": False},
    )
    assert outcome["kind"] == "stopped", outcome
    return folder / "run"


def goes_on(trainer: Trainer, run: Path, release: str | None = None) -> bool:
    """Whether ``ckpt latest`` names a file, and the trainer resumes from it."""
    found = ckpt_tools.latest(run, target=parse_target(f"ultralytics=={release}") if release else None)
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


def guarded_run(
    trainer: Trainer, folder: Path, mishap: str | None = None, at: int = 3, task: str = "detect", **guard: Any
) -> dict[str, Any]:
    """Train two epochs of two batches under the guard, with a mishap behind a batch."""
    folder.mkdir(parents=True, exist_ok=True)
    return trainer.ask(
        do="guarded",
        folder=str(folder),
        network=str(write_network(trainer.folder / f"{task}.yaml", task)),
        data=trainer.data(task),
        guard=guard,
        mishap=mishap,
        at=at,
        options={"epochs": 2, "optimizer": "SGD"},
    )


def names(run: Path) -> list[str]:
    return sorted(entry.name for entry in (run / "run" / "weights").iterdir())


def weights_of(path: Path) -> dict[str, bytes]:
    with ckpt_tools.open(path) as checkpoint:
        return {name: tensor.numpy().tobytes() for name, tensor in checkpoint.items() if name.startswith("model")}


@pytest.mark.parametrize("task", TASKS)
def test_a_run_ends_as_without_it(trainer: Trainer, tmp_path: Path, task: str) -> None:
    outcomes = [
        guarded_run(trainer, tmp_path / "often", task=task, every_batches=1, keep=3),
        guarded_run(trainer, tmp_path / "usual", task=task),
    ]
    bare = trainer.weights(Run(task, stop_after=None, options=(("epochs", 2),)))
    assert [outcome["kind"] for outcome in outcomes] == ["finished"] * 2
    for run in (tmp_path / "often", tmp_path / "usual"):
        assert names(run) == ["best.pt", "last.pt"]
        for name in names(run):
            path = run / "run" / "weights" / name
            assert ckpt_tools.verify(path).verdict is Verdict.FINISHED
            assert weights_of(path) == weights_of(bare / name)


def test_save_inside_an_epoch_repeats_it(trainer: Trainer, tmp_path: Path) -> None:
    guarded_run(trainer, tmp_path, "die", at=4, every_batches=1, keep=2)  # behind the last batch of epoch 1
    last = tmp_path / "run" / "weights" / "last.pt"
    assert ckpt_tools.verify(last).epoch == 0
    outcome = trainer.resume(trainer.edited(last))
    assert (outcome.kind, outcome.epoch) == ("resumed", 1), outcome
    assert names(tmp_path) == ["best.pt", "last.pt", "last.pt.prev", "last.pt.prev2"]
    assert all(ckpt_tools.verify(last.parent / name).verdict is Verdict.RESUMABLE for name in names(tmp_path))


def test_save_inside_the_first_epoch_can_be_resumed(trainer: Trainer, tmp_path: Path) -> None:
    guarded_run(trainer, tmp_path, "die", at=1, every_batches=1)
    assert names(tmp_path) == ["last.pt"]
    outcome = trainer.resume(trainer.edited(tmp_path / "run" / "weights" / "last.pt"))
    assert (outcome.kind, outcome.epoch) == ("resumed", 1), outcome


def test_time_is_a_trigger(trainer: Trainer, tmp_path: Path) -> None:
    guarded_run(trainer, tmp_path, "die", at=1, every_seconds=1e-6)
    assert names(tmp_path) == ["last.pt"]


def test_signal_saves_and_ends(trainer: Trainer, tmp_path: Path) -> None:
    outcome = guarded_run(trainer, tmp_path, "terminate", at=3)
    assert outcome == {"kind": "ended", "message": "exit status 143"}
    assert goes_on(trainer, tmp_path / "run")


def test_nan_takes_no_good_file_s_place(trainer: Trainer, tmp_path: Path) -> None:
    assert guarded_run(trainer, tmp_path, "nan", at=3, every_batches=1)["kind"] == "finished"
    last = tmp_path / "run" / "weights" / "last.pt"
    assert "NaN or infinity" in trainer.log.read_text("utf-8")
    assert ckpt_tools.verify(last).finite_weights


@pytest.mark.parametrize("mishap", ["full disk", "sudden full disk"])
def test_full_disk_costs_a_save_and_not_the_run(trainer: Trainer, small: Path, mishap: str) -> None:
    outcome = guarded_run(trainer, small, mishap, at=3)
    assert outcome["kind"] == "finished"
    assert "this save is left out" in trainer.log.read_text("utf-8")
    assert [path.name for path in (small / "run").rglob("*.tmp")] == []
    assert goes_on(trainer, small / "run")


def test_killed_while_the_optimizer_is_stripped_the_file_is_whole(trainer: Trainer, tmp_path: Path) -> None:
    assert guarded_run(trainer, tmp_path, "die in the strip", at=0)["kind"] == "stopped"
    for name in ("last.pt", "best.pt"):
        assert ckpt_tools.verify(tmp_path / "run" / "weights" / name).verdict in (Verdict.FINISHED, Verdict.RESUMABLE)


def test_no_name_a_search_for_checkpoints_would_find_is_ever_half_written(tmp_path: Path) -> None:
    stage = Stage(tmp_path / ".ckpt-guard")
    assert [(stage / name).name for name in ("last.pt", "epoch3.pt")] == ["last.pt.tmp", "epoch3.pt.tmp"]


class Model:
    """What ``guard`` needs of a model."""

    def __init__(self) -> None:
        self.callbacks: dict[str, list[Any]] = {}

    def add_callback(self, event: str, callback: Any) -> None:
        self.callbacks.setdefault(event, []).append(callback)


def test_it_can_be_sent_to_the_processes_of_other_devices() -> None:
    assert len(pickle.loads(pickle.dumps(guard(Model(), every_seconds=60).callbacks))) == 4


def test_guarding_twice_is_guarding_once_with_the_later_numbers() -> None:
    model = guard(guard(Model(), every_batches=5), every_batches=7)
    assert {event: len(held) for event, held in model.callbacks.items()} == dict.fromkeys(model.callbacks, 1)
    assert model.callbacks["on_train_batch_end"][0].__self__.every_batches == 7


@pytest.mark.parametrize(("rank", "writes"), [("0", True), ("1", False)])
def test_one_process_alone_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, writes: bool) -> None:
    """Ranks beside 0 have no EMA and no metrics: a save there would end the job."""
    monkeypatch.setenv("RANK", rank)
    saved: list[int] = []
    average = Namespace(update_attr=lambda model, include: None)
    trainer = Namespace(
        epoch=1, wdir=tmp_path, last=tmp_path / "last.pt", best=tmp_path / "best.pt", ema=average, model=None
    )
    trainer.save_model, trainer.final_eval = lambda: saved.append(trainer.epoch), lambda: None
    watchman = guard(Model(), every_seconds=1e-9, signals=()).callbacks["on_train_batch_end"][0].__self__
    watchman.begin(trainer)
    watchman.batch(trainer)
    assert saved == ([0] if writes else [])


@pytest.mark.parametrize("release", ["8.3.100", pytest.param("8.2.103", marks=pytest.mark.full), "8.0.200"])
def test_older_releases(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, release: str) -> None:
    packages = [installed((f"ultralytics=={release}",), CACHE / release), installed(EXTRAS, CACHE / "extras")]
    older = Trainer(tmp_path_factory.mktemp("older") / release, packages)
    try:
        guarded_run(older, tmp_path / "died", "die", at=4, every_batches=1)
        assert goes_on(older, tmp_path / "died" / "run", release)
        assert guarded_run(older, tmp_path / "over", every_batches=1)["kind"] == "finished"
        assert names(tmp_path / "over") == ["best.pt", "last.pt"]
        assert ckpt_tools.latest(tmp_path / "over").finished
    finally:
        older.close()


def test_what_takes_no_callbacks_is_refused() -> None:
    with pytest.raises(CkptError, match="ultralytics model"):
        guard(object())


@pytest.mark.full
def test_killed_at_a_hundred_moments_it_goes_on_every_time(
    trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, goes = dict.fromkeys((True, False), 0), dict.fromkeys((True, False), 0)
    for guarded in whole:
        for number in range(FULL):
            run = killed_run(trainer, number, guarded, LARGER)
            whole[guarded] += ckpt_tools.verify(run / "weights" / "last.pt").verdict is Verdict.RESUMABLE
            goes[guarded] += goes_on(trainer, run)
            shutil.rmtree(run)
    with capsys.disabled():
        for guarded, words in ((True, "guarded"), (False, "without the guard")):
            print(f"\n{words}: last.pt is whole {whole[guarded]} of {FULL} times, a file to go on from {goes[guarded]}")
    assert whole[True] == goes[True] == FULL
    assert whole[False] < FULL
