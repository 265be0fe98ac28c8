"""``ckpt diff`` against real runs: a run's own settings are no difference, the printed command does what it says."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import ckpt_tools
from ckpt_tools.differences.command import advise
from ckpt_tools.verbs.diff import diff
from oracle.recipes import write_data_set, write_network
from oracle.trainer import EPOCHS, STOP, Run, Trainer, target

SGD = Run()


@pytest.mark.parametrize("run", [SGD, Run(optimizer="auto"), Run(task="classify")], ids=lambda run: run.name)
def test_a_run_s_own_settings_are_no_difference(trainer: Trainer, run: Run) -> None:
    weights = trainer.weights(run)
    found = diff(weights / "last.pt", weights.parent / "args.yaml", target=target(), here=True)
    assert found.kind == "args"
    assert found.same, found.differences
    assert found.safe


def test_the_network_and_the_data_of_a_run_are_no_difference(trainer: Trainer) -> None:
    last = trainer.weights(SGD) / "last.pt"
    network = trainer.weights(SGD).parents[1] / "network.yaml"
    for path in (network, trainer.data("detect")):
        found = diff(last, path, target=target(), here=True)
        assert found.same, found.differences


def saved(path: Path) -> dict[str, Any]:
    """The saved arguments and results of a checkpoint."""
    with ckpt_tools.open(path) as opened:
        from ckpt_tools.layouts.values import value_of

        found = opened.checkpoint.recognised
        assert found is not None
        results = value_of(found.value("train_results"))
        return {key: value_of(value) for key, value in opened.args.items()} | {"results": results}


def carried_out(trainer: Trainer, last: Path, *settings: str) -> dict[str, Any]:
    """What the trainer's last checkpoint holds after the printed command ran in a shell."""
    found = diff(last, settings, target=target())
    advice = advise(found.situation, found.differences, found.ready)
    scripts = sysconfig.get_path("scripts")
    root = Path(ckpt_tools.__file__).parents[1]
    environment = {
        **trainer.environment,
        "PATH": os.pathsep.join([scripts, trainer.environment.get("PATH", "")]),
        "PYTHONPATH": str(root),
    }
    resumes = "resume" in shlex.split(advice.commands[-1])
    options = dict(word.split("=", 1) for word in shlex.split(advice.commands[-1]) if "=" in word)
    folder = Path(options.get("save_dir") or (saved(last)["save_dir"] if resumes else options["project"]))
    line = " && ".join(advice.commands).replace("ckpt repair", "python -m ckpt_tools repair", 1)
    done = subprocess.run(
        line, shell=True, cwd=last.parent, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"
    return saved(folder / "weights" / "last.pt" if resumes else next(folder.rglob("last.pt")))


@pytest.fixture
def last(trainer: Trainer) -> Path:
    """An interrupted run in a folder of its own, which a resume may write on in."""
    source = trainer.weights(SGD)
    path = trainer.place("last.pt")
    run = path.parent.parent
    settings = {"save_dir": str(run), "project": str(run.parent), "name": run.name}
    with ckpt_tools.plan_repair(source / "last.pt", ckpt_tools.Request(settings=settings), path) as repair:
        repair.apply()
    shutil.copyfile(source.parent / "results.csv", run / "results.csv")
    return path


def test_a_resume_with_what_it_takes(trainer: Trainer, last: Path) -> None:
    held = carried_out(trainer, last, "batch=2", "patience=50")
    assert (held["batch"], held["patience"], held["epochs"]) == (2, 50, EPOCHS)
    assert len(held["results"]["epoch"]) == EPOCHS


def test_more_epochs_at_another_rate(trainer: Trainer, last: Path) -> None:
    held = carried_out(trainer, last, "epochs=6", "lr0=0.002", "warmup_epochs=0")
    assert (held["epochs"], held["lr0"]) == (6, 0.002)
    rates = held["results"]["lr/pg0"]
    assert len(rates) == 6
    lf = [(1 - epoch / 6) * (1 - 0.01) + 0.01 for epoch in range(6)]
    assert rates[STOP + 1 :] == pytest.approx([0.002 * share for share in lf[STOP + 1 :]], rel=1e-3)


def test_another_optimizer(trainer: Trainer, last: Path) -> None:
    held = carried_out(trainer, last, "optimizer=AdamW")
    assert held["optimizer"] == "AdamW"
    assert len(held["results"]["epoch"]) == EPOCHS


def test_options_of_the_optimizer_s_groups(trainer: Trainer, last: Path) -> None:
    """They come with a fresh optimizer: the saved groups would bring the old ones back."""
    held = carried_out(trainer, last, "weight_decay=0.01", "momentum=0.5", "warmup_epochs=0", "epochs=5")
    assert (held["weight_decay"], held["momentum"]) == (0.01, 0.5)
    with ckpt_tools.open(last.with_name("last.edited.pt")) as opened:
        (part,) = [part for part in opened.parts if part.role == "optimizer"]
        assert [group.options["momentum"] for group in part.groups] == [0.5] * 3
        assert max(group.options["weight_decay"] for group in part.groups) == pytest.approx(0.01)


def test_more_epochs_for_a_run_that_is_over(trainer: Trainer) -> None:
    """A file that was not stripped yet goes on with all its state."""
    over = trainer.edited(trainer.weights(SGD) / "last.pt", "epochs_shortened")
    found = diff(over, [f"epochs={EPOCHS}"], target=target())
    assert str(found.verdict) == "finished"
    first, second = advise(found.situation, found.differences, found.ready).commands
    assert first.startswith("ckpt repair ")
    assert second.startswith("yolo train resume ")


def test_another_folder(trainer: Trainer, last: Path) -> None:
    held = carried_out(trainer, last, "name=elsewhere")
    assert held["name"] == "elsewhere"
    assert (last.parents[2] / "elsewhere" / "weights" / "last.pt").is_file()


def test_a_new_run_where_a_resume_can_not_have_it(trainer: Trainer, last: Path, tmp_path: Path) -> None:
    network = write_network(tmp_path / "other.yaml", "detect")
    network.write_text(network.read_text("utf-8").replace('"reg_max": 1', '"reg_max": 4'), encoding="utf-8")
    found = diff(last, network, target=target())
    assert [(d.key, str(d.meaning)) for d in found.differences] == [("reg_max", "breaks")]
    held = carried_out(trainer, last, f"model={network}", "epochs=1", f"project={tmp_path / 'runs'}")
    assert (held["epochs"], len(held["results"]["epoch"])) == (1, 1)
    assert held["model"] == str(network)


def test_a_swapped_class_order_really_trains_on_with_the_wrong_rows(trainer: Trainer, tmp_path: Path) -> None:
    """The trainer says nothing about it: it resumes, and each class has the rows of the other."""
    assert write_data_set(tmp_path, "detect").is_file()
    (tmp_path / "data.yaml").write_text(
        f'{{"path": "{tmp_path}", "train": "images/train", "val": "images/val", "names": ["a", "b"]}}', encoding="utf-8"
    )
    folder = tmp_path / "run"
    run = {"epochs": 3, "optimizer": "SGD", "plots": False}
    trainer.ask(do="train", folder=str(folder), network=str(write_network(tmp_path / "n.yaml", "detect")),
                data=str(tmp_path / "data.yaml"), stop_after=0, options=run)  # fmt: skip
    last = folder / "run" / "weights" / "last.pt"
    swapped = tmp_path / "swapped.yaml"
    swapped.write_text(
        (tmp_path / "data.yaml").read_text("utf-8").replace('["a", "b"]', '["b", "a"]'), encoding="utf-8"
    )
    found = diff(last, swapped, target=target())
    assert {d.key: str(d.meaning) for d in found.differences}["names"] == "breaks"
    assert trainer.ask(do="override", path=str(last), overrides={"data": str(swapped)})["kind"] == "resumed"
    more = tmp_path / "more.yaml"
    more.write_text(swapped.read_text("utf-8").replace('["b", "a"]', '["a", "b", "c"]'), encoding="utf-8")
    assert {d.key: str(d.meaning) for d in diff(last, more, target=target()).differences}["nc"] == "breaks"
    assert trainer.ask(do="override", path=str(last), overrides={"data": str(more)})["kind"] == "refused"
