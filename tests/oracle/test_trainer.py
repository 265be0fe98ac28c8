"""The verdict against the real ultralytics: train, kill, change or damage, verify, resume.

A verdict predicts (``resumable``: the trainer goes on at the next epoch with the saved weights and optimizer state;
anything else: it refuses, starts a new run, or loses state). Where we are stricter than the trainer, on purpose,
a situation says why.

A sample runs by default, the rest with ``pytest -m full tests/oracle``, both with ``pytest -m oracle tests/oracle``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ckpt_tools.layouts.arguments import refused_arguments
from ckpt_tools.verbs.verify import Report, verify
from oracle.damage import HARMS
from oracle.trainer import EPOCHS, Outcome, Run, Trainer, target, task_of

LAST = "last.pt"


@dataclass(frozen=True)
class Situation:
    """A checkpoint as it comes about in real life, and the verdict it deserves.

    ``stricter`` says why the verdict is not ``resumable`` although the trainer would go on.
    """

    name: str
    verdict: str
    run: Run = field(default_factory=Run)
    file: str = LAST
    edits: tuple[str, ...] = ()
    harm: str = ""
    stricter: str = ""
    sample: bool = False


SGD, ADAMW, MUSGD = Run(), Run(optimizer="AdamW"), Run(optimizer="MuSGD")
TO_THE_END = Run(stop_after=None)
NOT_FINITE = "training would go on from NaN or infinity"
NOT_SAFE = "loading it runs more than a checkpoint needs"
CHANGED = "bytes are not what the trainer wrote, which torch does not check"


def untouched() -> Iterator[Situation]:
    """Files as the trainer left them."""
    for optimizer in ("SGD", "AdamW", "MuSGD", "auto", "Adam", "Adamax", "NAdam", "RAdam", "RMSprop"):
        common = optimizer in ("SGD", "AdamW", "MuSGD", "auto")
        yield Situation(f"interrupted {optimizer}", "resumable", Run(optimizer=optimizer), sample=common)
    for task in ("segment", "pose", "obb", "classify"):
        yield Situation(f"interrupted {task}", "resumable", Run(task), sample=True)
        for optimizer in ("AdamW", "MuSGD"):
            run = Run(task, optimizer, options=(("val", False),))  # masks of such small images trip the validator
            yield Situation(f"interrupted {task} {optimizer}", "resumable", run)
    yield Situation("first epoch only", "resumable", file="epoch0.pt", sample=True)
    yield Situation("best.pt of an interrupted run", "resumable", file="best.pt")
    yield Situation("finished and stripped", "finished", TO_THE_END, sample=True)
    yield Situation("best.pt of a finished run", "finished", TO_THE_END, "best.pt")
    yield Situation("epochN.pt after the finish", "resumable", TO_THE_END, f"epoch{EPOCHS - 2}.pt", sample=True)
    yield Situation("last epochN.pt after the finish", "finished", TO_THE_END, f"epoch{EPOCHS - 1}.pt")
    yield Situation("killed before the strip", "finished", Run(stop_after=EPOCHS - 1), sample=True)
    patient = Run(stop_after=None, options=(("patience", 1), ("epochs", 9), ("lr0", 0.0)))
    yield Situation("stopped by patience", "finished", patient)
    option_sets: tuple[dict[str, Any], ...] = (
        {"freeze": 3}, {"single_cls": True}, {"cos_lr": True, "close_mosaic": 1}, {"time": 1.0}, {"val": False},
        {"warmup_epochs": 0}, {"multi_scale": 0.5}, {"cls_pw": 0.3}, {"fraction": 0.5}, {"rect": True}, {"nbs": 64},
    )  # fmt: skip
    for options in option_sets:
        named = ", ".join(f"{key}={value}" for key, value in options.items())
        run = Run(options=tuple(options.items()))
        yield Situation(f"interrupted with {named}", "resumable", run, sample="freeze" in options)


def changed() -> Iterator[Situation]:
    """Files that someone, or some script, changed."""
    for edit, verdict in (
        ("optimizer_none", "incomplete"),
        ("optimizer_deleted", "incomplete"),
        ("state_empty", "resumable"),
        ("group_order_of_8_3", "incomplete"),
        ("epoch_minus_one", "incomplete"),
        ("epoch_beyond", "finished"),
        ("updates_deleted", "incomplete"),
        ("average_as_model", "resumable"),
        ("average_without_optimizer", "incomplete"),
        ("average_as_state_dict", "incomplete"),
        ("args_unknown", "incomplete"),
        ("args_other_optimizer", "incomplete"),
        ("args_deleted", "incomplete"),
        ("group_shorter", "incomplete"),
        ("state_wrong_shape", "incomplete"),
        ("initial_lr_missing", "incomplete"),
        ("best_fitness_deleted", "resumable"),
        ("epochs_extended", "resumable"),
    ):
        yield Situation(edit, verdict, edits=(edit,), sample=True)
    for edit, verdict in (
        ("optimizer_hollow", "incomplete"),
        ("optimizer_empty_dict", "incomplete"),
        ("state_partial", "resumable"),
        ("state_transposed", "incomplete"),
        ("group_missing", "incomplete"),
        ("group_tags_missing", "resumable"),
        ("epoch_none", "incomplete"),
        ("epoch_deleted", "incomplete"),
        ("epochs_shortened", "finished"),
        ("updates_none", "incomplete"),
        ("average_and_model", "resumable"),
        ("average_in_fp32", "resumable"),
        ("average_deleted", "incomplete"),
        ("no_modules", "incomplete"),
        ("args_none", "incomplete"),
        ("args_empty", "incomplete"),
        ("args_without_epochs", "resumable"),
        ("args_wrong_type", "incomplete"),
        ("args_unknown_optimizer", "incomplete"),
        ("weight_cut_to_other_width", "incomplete"),
        ("state_dict_only", "weights"),
    ):
        yield Situation(edit, verdict, edits=(edit,))
    yield Situation("auto decides otherwise", "incomplete", edits=("args_auto",), sample=True)
    yield Situation("auto decides the same", "resumable", ADAMW, edits=("args_auto",))
    yield Situation("second moments missing", "incomplete", ADAMW, edits=("state_key_missing",), sample=True)
    no_warm_up = Run(options=(("warmup_epochs", 0),))
    yield Situation("no warm-up needs no initial_lr", "resumable", no_warm_up, edits=("initial_lr_missing",))
    for edit, verdict in (
        ("state_empty", "resumable"),
        ("state_partial", "resumable"),
        ("state_wrong_shape", "incomplete"),
        ("optimizer_none", "incomplete"),
        ("group_shorter", "incomplete"),
    ):
        yield Situation(f"AdamW {edit}", verdict, ADAMW, edits=(edit,))
        yield Situation(f"MuSGD {edit}", verdict, MUSGD, edits=(edit,))
    yield Situation("MuSGD's groups for AdamW", "incomplete", MUSGD, edits=("args_other_optimizer",))
    yield Situation("names of other data", "resumable", edits=("names_of_other_data",))
    yield Situation("state emptied at epoch 0", "resumable", file="epoch0.pt", edits=("state_empty",))


def stricter() -> Iterator[Situation]:
    """Files the trainer goes on from, and we say no: every one of them, with the reason."""
    yield Situation("NaN in a weight", "incomplete", edits=("nan_in_weights",), stricter=NOT_FINITE, sample=True)
    yield Situation("NaN in momentum", "incomplete", edits=("nan_in_momentum",), stricter=NOT_FINITE, sample=True)
    yield Situation("NaN in a moment", "incomplete", ADAMW, edits=("nan_in_momentum",), stricter=NOT_FINITE)
    yield Situation("infinite running mean", "incomplete", edits=("inf_in_running_mean",), stricter=NOT_FINITE)
    yield Situation("calls a function", "unsafe", edits=("calls_print",), stricter=NOT_SAFE, sample=True)
    yield Situation("one bit flipped", "damaged", harm="one bit flipped", stricter=CHANGED, sample=True)
    yield Situation("bytes appended", "damaged", harm="bytes appended", stricter=CHANGED)


def damaged() -> Iterator[Situation]:
    """Files whose bytes suffered."""
    sampled = ("cut at a third", "zeros from the middle on", "storage missing")
    for harm in HARMS:
        if harm not in ("one bit flipped", "bytes appended"):
            verdict = {"error page": "foreign", "written anew": "resumable"}.get(harm, "damaged")
            yield Situation(harm, verdict, harm=harm, sample=harm in sampled)


ALL = [*untouched(), *changed(), *damaged(), *stricter()]
FIXTURES_OF_OLD = ("8.0.44-interrupted-sgd", "8.3.250-interrupted-adamw", "8.3.250-interrupted-sgd")


def cases(situations: list[Situation]) -> list[Any]:
    """Test parameters; what is not in the sample is marked ``full``."""
    marked = [(each, [] if each.sample else [pytest.mark.full]) for each in situations]
    return [pytest.param(each, marks=marks, id=each.name) for each, marks in marked]


def agree(report: Report, outcome: Outcome, stricter: str = "") -> None:
    """The contract between a verdict and what the trainer did."""
    told = f"{report.verdict}, the trainer: {outcome} ({[fact.slug for fact in report.findings if fact.verdict]})"
    if report.verdict == "resumable":
        assert not stricter, told
        assert outcome.kind == "resumed", told
        assert report.epoch is not None
        assert outcome.epoch == report.epoch + 1, told
        assert outcome.loss is not None, told
    elif stricter:
        assert outcome.kind == "resumed", f"no longer stricter than the trainer: {told}"
    else:
        assert outcome.kind in ("refused", "new run", "lost state"), told


@pytest.mark.parametrize("how", ["true", "path"])
@pytest.mark.parametrize("situation", cases(ALL))
def test_verdict_predicts_the_trainer(trainer: Trainer, situation: Situation, how: str) -> None:
    path = trainer.edited(trainer.weights(situation.run) / situation.file, *situation.edits)
    if situation.harm:
        path.write_bytes(HARMS[situation.harm](path.read_bytes()))
    report = verify(path, target=target())
    agree(report, trainer.resume(path, how), situation.stricter)
    assert report.verdict == situation.verdict, [fact.message for fact in report.findings if fact.verdict]


@pytest.mark.parametrize("how", ["true", pytest.param("path", marks=pytest.mark.full)])
def test_fixtures(trainer: Trainer, fixtures: Path, how: str) -> None:
    """Files of a run whose data set is elsewhere: the one for their task is given by hand."""
    files = sorted(fixtures.glob("ultralytics-*.pt"))
    assert len(files) >= 10
    for path in files:
        copied = trainer.edited(path)
        report = verify(copied, target=target())
        agree(report, trainer.resume(copied, how, task=task_of(path.name)))
        if any(old in path.name for old in FIXTURES_OF_OLD):
            assert report.verdict == "incomplete", path.name


def test_optimizer_of_another_model(trainer: Trainer) -> None:
    """Weights of one network beside the optimizer of another: groups of other sizes."""
    from_pose = trainer.weights(Run("pose")) / LAST
    path = trainer.place(LAST)
    trainer.ask(do="graft", source=str(trainer.weights(SGD) / LAST), donor=str(from_pose), target=str(path))
    report = verify(path, target=target())
    assert report.verdict == "incomplete"
    agree(report, trainer.resume(path))


def test_a_wider_model_of_the_same_layers(trainer: Trainer) -> None:
    """The optimizer of the same network with other widths fits in number, not in shape."""
    path = trainer.edited(trainer.weights(SGD) / LAST, "state_of_a_wider_model")
    report = verify(path, target=target())
    assert report.verdict == "incomplete"
    agree(report, trainer.resume(path))


def test_resumed_run_is_resumable_again(trainer: Trainer) -> None:
    """What a resumed run saves is as good as what the first one did."""
    first = trainer.edited(trainer.weights(SGD) / "epoch0.pt")
    folder = trainer.folder / "again"
    outcome = trainer.ask(do="go_on", path=str(first), save_dir=str(folder), stop_after=1)
    assert outcome["kind"] == "stopped"
    second = trainer.edited(folder / "weights" / LAST)
    report = verify(second, target=target())
    assert (report.verdict, report.epoch) == ("resumable", 1)
    agree(report, trainer.resume(second))


@pytest.mark.parametrize("edit", ["data_elsewhere", "device_of_another_machine"])
def test_what_only_this_machine_lacks(trainer: Trainer, edit: str) -> None:
    """Asked about this machine, we foresee what stops the trainer here; otherwise it is none of the file's faults."""
    path = trainer.edited(trainer.weights(SGD) / LAST, edit)
    assert verify(path, target=target()).verdict == "resumable"
    report = verify(path, target=target(), here=True)
    assert report.verdict == "incomplete"
    agree(report, trainer.resume(path))


def test_this_machine_has_it_all(trainer: Trainer) -> None:
    path = trainer.edited(trainer.weights(SGD) / LAST)
    report = verify(path, target=target(), here=True)
    assert report.verdict == "resumable", [fact.message for fact in report.findings if fact.verdict]
    agree(report, trainer.resume(path))


VALUES: list[Any] = [None, True, 0, 1, 2.0, 0.5, -0.5, 1.5, "", "text", "0.5", [0, 1], {}]


@pytest.fixture(scope="module")
def refusals(trainer: Trainer) -> tuple[set[str], set[str]]:
    """Which arguments with which values the trainer's own check refuses, and which we say it does."""
    known = trainer.ask(do="arguments", path=str(trainer.weights(SGD) / LAST))["arguments"]
    answer = trainer.ask(do="accepts", arguments=known, values=VALUES)
    tried = {(name, index): f"{name}={value!r}" for name in known for index, value in enumerate(VALUES)}
    theirs = set(tried.values()) - {tried[name, index] for name, index in answer["passed"]}
    release = tuple(int(part) for part in target().split("==")[1].split(".")[:3])
    ours = {told for (name, index), told in tried.items() if refused_arguments({**known, name: VALUES[index]}, release)}
    return theirs, ours


def test_no_argument_is_called_refused_that_is_not(refusals: tuple[set[str], set[str]]) -> None:
    theirs, ours = refusals
    assert len(ours) > 100
    assert not sorted(ours - theirs)


def test_every_refused_argument_is_foreseen(refusals: tuple[set[str], set[str]]) -> None:
    theirs, ours = refusals
    assert not sorted(theirs - ours)


SAMPLED_NETWORKS = ("11/yolo11n.yaml", "v10/yolov10n.yaml", "26/yolo26n-seg.yaml", "v8/yolov8n-cls.yaml")


@pytest.mark.parametrize("optimizer", ["SGD", "MuSGD"])
@pytest.mark.parametrize("network", SAMPLED_NETWORKS)
def test_groups_of_real_networks(trainer: Trainer, network: str, optimizer: str) -> None:
    """The groups the trainer makes for a network of full size are the ones ``verify`` expects."""
    path = trainer.place(LAST)
    trainer.ask(do="groups", network=str(models() / network), optimizer=optimizer, target=str(path))
    report = verify(path, target=target())
    path.unlink()
    assert report.verdict == "resumable", [fact.message for fact in report.findings if fact.verdict]


@pytest.mark.full
def test_groups_of_every_network(trainer: Trainer) -> None:
    """The same for every network the installed ultralytics describes."""
    wrong, built = [], 0
    for description in sorted(models().glob("*/*.yaml")):
        for optimizer in ("SGD", "MuSGD"):
            path = trainer.place(LAST)
            outcome = trainer.try_to(do="groups", network=str(description), optimizer=optimizer, target=str(path))
            if outcome["kind"] != "saved":  # weights to download, or a package that is not there
                continue
            built += 1
            report = verify(path, target=target())
            path.unlink()
            if report.verdict != "resumable":
                wrong.append((description.name, optimizer, [fact.message for fact in report.findings if fact.verdict]))
    assert built > 60
    assert not wrong


def models() -> Path:
    """Where ultralytics keeps the descriptions of its networks."""
    from importlib.util import find_spec

    spec = find_spec("ultralytics")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "cfg" / "models"
