"""``ckpt repair`` against the real trainers: train, kill, damage, repair, go on.

A plan is a promise: the file it writes is ``resumable``, the trainer goes on at the epoch the plan named, and every
tensor comes, bit for bit, from where the plan says. Where nothing can be mended, nothing is written.

A sample runs by default, the rest with ``pytest -m full tests/oracle``.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from damage import append, cut, flip, lose_directory, zero_directory, zero_tail

import ckpt_tools
from ckpt_tools.verbs.verify import verify
from oracle.damage import Extent, extents, rewritten
from oracle.trainer import EPOCHS, STOP, Run, Trainer, target, task_of

torch = pytest.importorskip("torch")

from oracle.standins import bits, load, named_tensors  # noqa: E402

LAST, BEST, OLDER, SAME = "last.pt", "best.pt", f"epoch{STOP - 1}.pt", f"epoch{STOP}.pt"
SGD, ADAMW, MUSGD = Run(), Run(optimizer="AdamW"), Run(optimizer="MuSGD")
TO_THE_END = Run(stop_after=None)
HOUR = 3600

Harm = Callable[[Path], bytes]
State = dict[str, Any]


# ---------------------------------------------------------------- the command, and what it said


@dataclass(frozen=True)
class Repaired:
    """What ``ckpt repair --json`` said and did."""

    status: int
    said: dict[str, Any]
    folder: Path

    @property
    def output(self) -> Path:
        """The file that was written."""
        assert self.status == 0, self.said
        assert self.said["written"], self.said
        return self.folder / str(self.said["output"])

    def part(self, path: str) -> dict[str, Any]:
        """What became of one part."""
        found: dict[str, Any] = next(part for part in self.said["parts"] if part["path"] == path)
        return found

    def promise(self) -> dict[str, Any]:
        """What must not depend on whether the plan was carried out."""
        parts = [(part["path"], part["outcome"], part["source"], part["kept"]) for part in self.said["parts"]]
        return {key: self.said[key] for key in ("verdict", "expected", "resumes_at", "steps")} | {"parts": parts}


Repair = Callable[..., Repaired]


@pytest.fixture
def repair(tmp_path: Path, environment: Mapping[str, str]) -> Repair:
    """Run ``ckpt repair`` as a user does; ``cwd`` is the working directory."""

    def run(*arguments: str | Path, cwd: Path = tmp_path) -> Repaired:
        command = [sys.executable, "-m", "ckpt_tools", "repair", *map(str, arguments), "--json"]
        ended = subprocess.run(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert ended.returncode in (0, 1), ended.stderr
        said = json.loads(ended.stdout)
        assert said["schema"] == "ckpt-tools/repair/1"
        return Repaired(ended.returncode, said, cwd)

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refused(done: Repaired, folder: Path, before: dict[str, bytes]) -> str:
    """Nothing was written, and the reason is told."""
    assert done.status == 1, done.said
    assert not done.said["written"]
    assert contents(folder) == before
    assert done.said["refused"], done.said
    return str(done.said["refused"])


def ledger_of(path: Path) -> str:
    """The text of the ledger that travels in a result."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/.ckpt_tools/ledger.json"))
        text = archive.read(name).decode()
    assert isinstance(json.loads(text), dict)
    return text


# ---------------------------------------------------------------- run folders, and harm


def scene(trainer: Trainer, harm: Harm | None, run: Run = SGD, beside: Iterable[str] = (OLDER,)) -> Path:
    """The harmed ``last.pt`` of a run in a folder of its own, with the files named ``beside`` it, an hour later."""
    weights = trainer.weights(run)
    last = trainer.place(LAST)
    for name in ("args.yaml", "results.csv"):
        shutil.copyfile(weights.parent / name, last.parent.parent / name)
    for name in beside:
        shutil.copyfile(weights / name, last.with_name(name))
    last.write_bytes(harm(weights / LAST) if harm else (weights / LAST).read_bytes())
    an_hour_ago = time.time() - HOUR
    for path in last.parent.iterdir():
        os.utime(path, (an_hour_ago, an_hour_ago))
    return last


def storage_of(original: Path, part: str) -> tuple[str, Extent]:
    """The largest tensor of a part, and where its bytes lie."""
    with ckpt_tools.open(original) as opened:
        name = max((name for name in opened if name.startswith(f"{part}.")), key=lambda name: opened[name].nbytes)
        storage = opened[name].ref.storage
        assert storage is not None
        member = f"/data/{storage.key}"
    return name, next(extent for extent in extents(original.read_bytes()) if extent.name.endswith(member))


def flipped(part: str) -> Harm:
    """The lowest bit of the first value of the largest tensor of a part."""
    return lambda original: flip(original.read_bytes(), storage_of(original, part)[1].start)


def at(percent: int, harm: Callable[[bytes, int], bytes]) -> Harm:
    """Harm from a place on, told in percent of the file."""
    return lambda original: harm(original.read_bytes(), original.stat().st_size * percent // 100)


def whole_file(harm: Callable[[bytes], bytes]) -> Harm:
    """Harm that needs no place."""
    return lambda original: harm(original.read_bytes())


DAMAGE: dict[str, Harm] = {
    "cut at 95 %": at(95, cut),  # in files as small as these nothing but the directory lies behind it
    "cut at 85 %": at(85, cut),
    "cut at 70 %": at(70, cut),
    "cut at 40 %": at(40, cut),
    "cut at 10 %": at(10, cut),
    "zeros from 80 %": at(80, zero_tail),
    "a byte of the average flipped": flipped("ema"),
    "a byte of the optimizer flipped": flipped("optimizer"),
}
MORE_DAMAGE: dict[str, Harm] = {
    "zeros from 45 %": at(45, zero_tail),
    "zeros from 5 %": at(5, zero_tail),
    "cut at 2 %": at(2, cut),
    "storage missing": whole_file(lambda data: rewritten(data, skip="data/3")),
    "emptied": whole_file(lambda data: cut(data, 0)),
}
LOSSLESS: dict[str, Harm] = {
    "directory lost": whole_file(lose_directory),
    "directory zeroed": whole_file(zero_directory),
    "bytes appended": whole_file(lambda data: append(data, bytes(512))),
}


def untouched_parts(original: Path, harmed: bytes) -> set[str]:
    """The parts all of whose bytes are where they were; none where the pickle is hit."""
    data = original.read_bytes()
    spared = {
        extent.name.split("/", 1)[1]
        for extent in extents(data)
        if harmed[extent.start : extent.start + extent.size] == data[extent.start : extent.start + extent.size]
    }
    if "data.pkl" not in spared:
        return set()
    with ckpt_tools.open(original) as opened:
        members = {
            part.path: {f"data/{ref.storage.key}" for ref in part.tensors.values() if ref.storage and ref.nbytes}
            for part in opened.parts
        }
    return {path for path, needed in members.items() if needed and needed <= spared}


# ---------------------------------------------------------------- judging


@functools.lru_cache(maxsize=64)
def tensors(path: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint by its dotted name, as the real torch sees it."""
    return dict(named_tensors(load(path)))


def of_part(path: Path, part: str) -> dict[str, bytes]:
    """The bytes of the tensors of a part, by name."""
    return {name: bits(value) for name, value in tensors(path).items() if name.startswith(f"{part}.")}


def goes_on(trainer: Trainer, done: Repaired, task: str | None = None, held: Path | None = None) -> None:
    """The result is what the plan promised: resumable, and resumed by the trainer at the epoch it named."""
    report = verify(done.output, target=target(), siblings=False)
    told = f"{done.said}, {[fact.message for fact in report.findings if fact.verdict]}"
    assert report.verdict == done.said["expected"] == "resumable", told
    outcome = trainer.resume(done.output, task=task, held=held)
    assert outcome.kind == "resumed", f"{outcome}, {told}"
    assert outcome.epoch == done.said["resumes_at"], told
    assert outcome.loss is not None, told


def told_truly(done: Repaired, original: Path) -> None:
    """Every tensor is bit for bit the one of the file it is said to come from, and the ledger knows that file."""
    ledger = ledger_of(done.output)
    assert ckpt_tools.__version__ in ledger
    for part in done.said["parts"]:
        outcome, path = part["outcome"], part["path"]
        donor = Path(part["source"] or "").name
        if donor:
            assert donor in ledger, part
        source = of_part(done.output.with_name(donor) if outcome == "donor" else original, path)
        result = of_part(done.output, path)
        if outcome in ("kept", "donor"):
            assert result == source, part
        elif outcome == "edited":
            assert sorted(result.values()) == sorted(source.values()), part
        elif outcome == "salvaged":
            spared = [name for name, value in result.items() if source.get(name) == value]
            assert 0 < part["kept"] < part["tensors"] == len(source), part
            assert len(spared) >= part["kept"], part
            assert part["names"], part


def epoch_of_weights(done: Repaired, original: Path, donors: Mapping[Path, int]) -> int | None:
    """The epoch whose weights a result holds, found by comparing them; ``None`` for a mixture."""
    mine = of_part(done.output, "ema")
    stored = {original: STOP, **donors}
    return next((epoch for path, epoch in stored.items() if of_part(path, "ema") == mine), None)


# ---------------------------------------------------------------- damage, with an older checkpoint at hand


def damages() -> Iterator[Any]:
    """Damage and the run it befalls."""
    for name, harm in DAMAGE.items():
        yield pytest.param(harm, SGD, id=name)
    for name, harm in MORE_DAMAGE.items():
        yield pytest.param(harm, SGD, id=name, marks=pytest.mark.full)
    for run in (ADAMW, MUSGD, Run("segment"), Run("classify")):
        for name, harm in {**DAMAGE, **MORE_DAMAGE}.items():
            yield pytest.param(harm, run, id=f"{run.task} {run.optimizer} {name}", marks=pytest.mark.full)


@pytest.mark.parametrize(("harm", "run"), [*damages()])
def test_mended_with_an_older_checkpoint(trainer: Trainer, repair: Repair, harm: Harm, run: Run) -> None:
    original = trainer.weights(run) / LAST
    last = scene(trainer, harm, run)
    before = contents(last.parent)
    planned = repair(last, "--accept-loss", "--dry-run")
    assert planned.status == 0
    assert not planned.said["written"]
    assert contents(last.parent) == before

    done = repair(last, "--accept-loss")
    assert done.promise() == planned.promise()
    assert done.said["verdict"] in ("damaged", "foreign")
    assert done.output == last.with_name("last.repaired.pt")
    assert contents(last.parent) == before | {done.output.name: done.output.read_bytes()}
    told_truly(done, original)
    epoch = epoch_of_weights(done, original, {last.with_name(OLDER): STOP - 1})
    assert epoch is None or done.said["resumes_at"] == epoch + 1
    untouched = untouched_parts(original, last.read_bytes())
    if "ema" in untouched:
        assert epoch == STOP, "whole weights are not thrown away"
    if {"ema", "optimizer"} <= untouched:
        assert done.part("optimizer")["outcome"] == "kept"
    goes_on(trainer, done)


@pytest.mark.parametrize("part", ["ema", "optimizer"])
def test_the_flipped_tensor_is_named(trainer: Trainer, repair: Repair, part: str) -> None:
    name, _ = storage_of(trainer.weights(SGD) / LAST, part)
    last = scene(trainer, flipped(part))
    done = repair(last, "--accept-loss", "--dry-run")
    named = [hit.removeprefix(f"{part}.") for hit in done.part(part)["names"]]
    assert named == [name.removeprefix(f"{part}.")]


@pytest.mark.full
@pytest.mark.parametrize("name", DAMAGE)
def test_mended_with_a_checkpoint_of_the_same_epoch(trainer: Trainer, repair: Repair, name: str) -> None:
    """``epochN.pt`` of the very epoch that was being saved: nothing at all need be lost."""
    original = trainer.weights(SGD) / LAST
    last = scene(trainer, DAMAGE[name], beside=(OLDER, SAME))
    done = repair(last, "--accept-loss")
    assert done.said["resumes_at"] == STOP + 1
    for part in ("ema", "optimizer"):
        assert of_part(done.output, part) == of_part(original, part)
    goes_on(trainer, done)


@pytest.mark.parametrize("name", [*LOSSLESS])
def test_what_is_all_there_needs_no_consent(trainer: Trainer, repair: Repair, name: str) -> None:
    original = trainer.weights(SGD) / LAST
    last = scene(trainer, LOSSLESS[name])
    done = repair(last)
    assert {part["outcome"] for part in done.said["parts"]} <= {"kept", "edited"}
    assert not any(step["loss"] for step in done.said["steps"])
    assert {name: bits(value) for name, value in tensors(done.output).items()} == {
        name: bits(value) for name, value in tensors(original).items()
    }
    assert done.said["resumes_at"] == STOP + 1
    goes_on(trainer, done)


def test_in_place(trainer: Trainer, repair: Repair) -> None:
    last = scene(trainer, LOSSLESS["directory lost"])
    before = contents(last.parent)
    done = repair(last, "--in-place")
    assert done.output == last
    after = contents(last.parent)
    assert after[LAST] != before[LAST]
    assert after == {**before, LAST: after[LAST], "last.pt.bak": before[LAST]}
    goes_on(trainer, done)


def test_loss_needs_a_word(trainer: Trainer, repair: Repair) -> None:
    last = scene(trainer, DAMAGE["cut at 70 %"])
    before = contents(last.parent)
    assert "--accept-loss" in refused(repair(last), last.parent, before)


def test_a_donor_that_was_named_is_consent(trainer: Trainer, repair: Repair) -> None:
    last = scene(trainer, flipped("optimizer"))
    done = repair("--optimizer-from", OLDER, cwd=last.parent)
    assert of_part(done.output, "optimizer") == of_part(last.with_name(OLDER), "optimizer")
    assert done.said["resumes_at"] == STOP + 1
    goes_on(trainer, done)


# ---------------------------------------------------------------- damage, and nothing beside it


@pytest.mark.parametrize("consent", [("--accept-loss",), ("--reinit", "optimizer")], ids=" ".join)
@pytest.mark.parametrize(
    "name",
    ["cut at 70 %", *(pytest.param(name, marks=pytest.mark.full) for name in ("cut at 85 %", "zeros from 80 %"))],
)
def test_only_the_optimizer_is_hit(trainer: Trainer, repair: Repair, name: str, consent: tuple[str, ...]) -> None:
    """Without a donor the weights go on, and the optimizer starts afresh where it has to."""
    original = trainer.weights(SGD) / LAST
    last = scene(trainer, DAMAGE[name], beside=())
    before = contents(last.parent)
    refused(repair(last), last.parent, before)
    done = repair(last, *consent)
    told_truly(done, original)
    assert of_part(done.output, "ema") == of_part(original, "ema")
    assert done.said["resumes_at"] == STOP + 1
    if "--reinit" in consent:
        assert done.part("optimizer")["outcome"] == "reinitialised"
        assert not of_part(done.output, "optimizer")
    goes_on(trainer, done)


@pytest.mark.parametrize("name", ["cut at 10 %", "cut at 40 %", "a byte of the average flipped"])
def test_without_weights_nothing_is_written(trainer: Trainer, repair: Repair, name: str) -> None:
    last = scene(trainer, DAMAGE[name], beside=())
    assert "ema" not in untouched_parts(trainer.weights(SGD) / LAST, last.read_bytes())
    before = contents(last.parent)
    refused(repair(last, "--accept-loss"), last.parent, before)


def test_a_hit_tensor_kept_as_it_is(trainer: Trainer, repair: Repair) -> None:
    """The user looked at the tensor and says that it will do."""
    original = trainer.weights(SGD) / LAST
    name, _ = storage_of(original, "ema")
    last = scene(trainer, flipped("ema"), beside=())
    done = repair(last, "--keep-corrupt", "--accept-loss")
    theirs, mine = of_part(original, "ema"), of_part(done.output, "ema")
    assert [each for each in theirs if mine[each] != theirs[each]] == [name]
    assert of_part(done.output, "optimizer") == of_part(original, "optimizer")
    assert done.said["resumes_at"] == STOP + 1
    goes_on(trainer, done)


# ---------------------------------------------------------------- an optimizer from a sibling


def combinations() -> Iterator[Any]:
    """Tasks and optimizers."""
    sample = (("detect", "SGD"), ("detect", "MuSGD"), ("detect", "AdamW"), ("classify", "SGD"))
    for task in ("detect", "segment", "pose", "classify"):
        for optimizer in ("SGD", "AdamW", "MuSGD"):
            plain = task == "detect" or optimizer == "SGD"
            options = () if plain else (("val", False),)  # masks of such small images trip the validator
            marks = () if (task, optimizer) in sample else pytest.mark.full
            yield pytest.param(Run(task, optimizer, options=options), id=f"{task} {optimizer}", marks=marks)


@pytest.mark.parametrize("run", [*combinations()])
def test_optimizer_of_a_sibling(trainer: Trainer, repair: Repair, run: Run) -> None:
    """The file is left out: it is the ``last.pt`` of this folder, which lacks its optimizer."""
    weights = trainer.weights(run)
    last = trainer.edited(weights / LAST, "optimizer_none")
    donor = last.with_name(OLDER)
    shutil.copyfile(weights / OLDER, donor)
    done = repair("--optimizer-from", OLDER, cwd=last.parent)
    assert (done.folder / done.said["file"]).resolve() == last.resolve()
    assert done.said["verdict"] == "incomplete"
    assert done.part("optimizer")["outcome"] == "donor"
    assert of_part(done.output, "optimizer") == of_part(donor, "optimizer")
    assert load(done.output)["optimizer"]["param_groups"] == load(donor)["optimizer"]["param_groups"]
    assert of_part(done.output, "ema") == of_part(last, "ema")
    assert done.said["resumes_at"] == STOP + 1
    told_truly(done, last)
    goes_on(trainer, done)


def test_optimizer_of_another_model_is_refused(trainer: Trainer, repair: Repair) -> None:
    last = trainer.edited(trainer.weights(SGD) / LAST, "optimizer_none")
    donor = last.with_name("epoch3.pt")
    shutil.copyfile(trainer.weights(Run("pose")) / LAST, donor)
    before = contents(last.parent)
    refused(repair(last, "--optimizer-from", donor, "--accept-loss"), last.parent, before)


# ---------------------------------------------------------------- files of older releases

OLD = ("8.0.44", "8.0.200", "8.1.47", "8.2.103", "8.3.250")
BEFORE_8_4, SINCE_8_4 = ("bias", "weight", "norm"), ("weight", "norm", "bias")
NORMS = tuple(kind for name, kind in vars(torch.nn).items() if "Norm" in name)


def parameters_in_order(model: Any, order: Iterable[str]) -> list[list[str]]:
    """The parameters of each group, as ``build_optimizer`` of the releases collects them from the modules."""
    kinds: dict[str, list[str]] = {"bias": [], "weight": [], "norm": []}
    for path, module in model.named_modules():
        for own, _ in module.named_parameters(recurse=False):
            name = f"{path}.{own}" if path else own
            kinds["bias" if "bias" in name else "norm" if isinstance(module, NORMS) else "weight"].append(name)
    return [kinds[kind] for kind in order]


def by_name(content: Any, order: Iterable[str]) -> tuple[dict[str, State], dict[str, State]]:
    """The optimizer's state, and what its groups say of learning, by the name of the parameter they are for."""
    model = content["ema"] if content["ema"] is not None else content["model"]
    optimizer, states, settings = content["optimizer"], {}, {}
    names = parameters_in_order(model, order)
    assert [len(group["params"]) for group in optimizer["param_groups"]] == [len(group) for group in names]
    for group, members in zip(optimizer["param_groups"], names):
        for key, name in zip(group["params"], members):
            settings[name] = {key: group[key] for key in ("lr", "initial_lr", "weight_decay") if key in group}
            if key in optimizer["state"]:
                states[name] = optimizer["state"][key]
    assert states
    return states, settings


def check_states(saved: dict[str, State], held: dict[str, State], *, moments_reset: bool) -> None:
    """Each parameter has the state it had; second moments that float16 made zero may have been reset."""
    assert saved.keys() == held.keys()
    for name, state in saved.items():
        assert state.keys() == held[name].keys(), name
        for key, value in state.items():
            if value is None:
                assert held[name][key] is None, (name, key)
                continue
            theirs = held[name][key]
            assert value.shape == theirs.shape, (name, key)
            equal = value.double() == theirs.double()
            if moments_reset and value.ndim and "exp_avg_sq" in state:
                equal |= state["exp_avg_sq"] == 0
            assert bool(equal.all()), (name, key)


def resets_moments(done: Repaired) -> bool:
    """Whether a step of the plan says so."""
    return any("moment" in step["name"] for step in done.said["steps"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("version", OLD)
def test_files_of_older_releases(
    trainer: Trainer, repair: Repair, fixtures: Path, version: str, optimizer: str
) -> None:
    """They resume in the installed release, every state on its own parameter, as the trainer itself names it."""
    (source,) = fixtures.glob(f"ultralytics-{version}*-interrupted-{optimizer}.pt")
    output = trainer.place(LAST)
    done = repair(source, "-o", output, "--target", target(), "--accept-loss")
    assert done.output == output
    old, new = load(source), load(output)
    states, settings = by_name(old, BEFORE_8_4)
    moved_states, moved_settings = by_name(new, SINCE_8_4)
    assert moved_settings == settings
    reset = resets_moments(done)
    check_states(states, moved_states, moments_reset=reset)
    assert of_part(output, "ema") == of_part(source, "ema")
    assert done.said["resumes_at"] == old["epoch"] + 1
    held = output.with_name("held.state")
    goes_on(trainer, done, task=task_of(source.name), held=held)
    check_states(states, torch.load(held), moments_reset=reset)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_there_and_back(trainer: Trainer, repair: Repair, fixtures: Path, optimizer: str) -> None:
    """A file of 8.3 for the installed release, and again for 8.3: the groups are the original's again."""
    source = fixtures / f"ultralytics-8.3.250-interrupted-{optimizer}.pt"
    newer, again = trainer.place("newer.pt"), trainer.place(LAST)
    assert repair(source, "-o", newer, "--target", target(), "--accept-loss").output == newer
    assert repair(newer, "-o", again, "--target", "ultralytics==8.3.250", "--accept-loss").output == again
    assert verify(again, target="ultralytics==8.3.250", siblings=False).verdict == "resumable"
    before, after = load(source)["optimizer"], load(again)["optimizer"]
    assert after["param_groups"] == before["param_groups"]
    check_states(by_name(load(source), BEFORE_8_4)[0], by_name(load(again), BEFORE_8_4)[0], moments_reset=False)


def test_a_head_that_the_target_does_not_build_is_not_promised(repair: Repair, fixtures: Path) -> None:
    """A yaml with ``reg_max`` means another head before 8.4: no order of groups helps."""
    done = repair(fixtures / "ultralytics-8.4-interrupted-sgd.pt", "--target", "ultralytics==8.3.250", "--accept-loss")
    assert done.status == 1
    assert "other layers" in done.said["refused"]


# ---------------------------------------------------------------- more epochs for a finished run


def finished_run(trainer: Trainer) -> Path:
    """The weights folder of a run that ended: ``last.pt`` and ``best.pt`` are stripped."""
    last = scene(trainer, None, TO_THE_END, beside=(BEST, *(f"epoch{epoch}.pt" for epoch in range(EPOCHS))))
    assert verify(last, siblings=False).verdict == "finished"
    return last.parent


def weights_of_stripped(path: Path) -> dict[str, bytes]:
    """What a stripped file holds under ``model``, named as the average it was."""
    return {name.replace("model.", "ema.", 1): value for name, value in of_part(path, "model").items()}


@pytest.mark.parametrize("file", [LAST, BEST])
def test_a_finished_run_goes_on(trainer: Trainer, repair: Repair, file: str) -> None:
    folder, newest = finished_run(trainer), f"epoch{EPOCHS - 1}.pt"
    output = trainer.place(LAST)
    arguments = ("--optimizer-from", newest, "--set", f"epochs={EPOCHS + 2}", "--accept-loss", "-o", output)
    done = repair(file, *arguments, cwd=folder)
    assert done.output == output
    saved = load(output)
    assert saved["train_args"]["epochs"] == EPOCHS + 2
    assert of_part(output, "optimizer") == of_part(folder / newest, "optimizer")
    here = "ema" if of_part(output, "ema") else "model"
    mine = {name.replace(f"{here}.", "ema.", 1): value for name, value in of_part(output, here).items()}
    assert mine == weights_of_stripped(folder / file)
    assert done.said["resumes_at"] == saved["epoch"] + 1
    siblings = {epoch: of_part(folder / f"epoch{epoch}.pt", "ema") for epoch in range(EPOCHS)}
    assert saved["epoch"] in [epoch for epoch, weights in siblings.items() if weights == mine]
    assert file == BEST or done.said["resumes_at"] == EPOCHS
    goes_on(trainer, done)


def test_the_epoch_of_a_table_of_results(trainer: Trainer, repair: Repair) -> None:
    folder = finished_run(trainer)
    output = trainer.place(LAST)
    donors = ("--optimizer-from", f"epoch{EPOCHS - 1}.pt", "--epoch-from", folder.parent / "results.csv")
    done = repair(LAST, *donors, "--set", f"epochs={EPOCHS + 2}", "--accept-loss", "-o", output, cwd=folder)
    assert done.said["resumes_at"] == EPOCHS
    goes_on(trainer, done)


# ---------------------------------------------------------------- a loop of one's own


class Loop:
    """The loop of the PyTorch tutorials: a classifier of noise, AdamW, a schedule."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        block = (torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
        self.model = torch.nn.Sequential(
            *block, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 5)
        self.epoch = -1

    def train(self, epochs: int) -> float:
        """Train for some epochs; the last loss."""
        for _ in range(epochs):
            self.epoch += 1
            for _ in range(3):
                images, classes = torch.randn(8, 3, 8, 8), torch.randint(4, (8,))
                loss = torch.nn.functional.cross_entropy(self.model(images), classes)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            self.scheduler.step()
        return float(loss.detach())

    def save(self, path: Path, *left_out: str) -> Path:
        """Save as most people do, some parts left out."""
        content = {
            "epoch": self.epoch,
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scheduler_state_dict": self.scheduler.state_dict(),
        }
        torch.save({key: value for key, value in content.items() if key not in left_out}, path)
        return path

    def load(self, path: Path) -> None:
        """Load every part; torch raises where one does not fit."""
        saved = torch.load(path, weights_only=True)
        self.model.load_state_dict(saved["model_state_dict"])
        self.optimizer.load_state_dict(saved["optimizer_state_dict"])
        self.scheduler.load_state_dict(saved["scheduler_state_dict"])
        self.epoch = saved["epoch"]


def loop_goes_on(path: Path, epoch: int) -> Loop:
    """A new process's loop takes the file up and trains on; returned as it was before the first step."""
    loop, again = Loop(), Loop()
    loop.load(path)
    again.load(path)
    assert loop.epoch == epoch
    assert loop.train(1) < float("inf")
    assert loop.epoch == epoch + 1
    return again


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    """A loop two epochs on, the first of which it saved whole."""
    loop = Loop()
    loop.train(1)
    loop.save(tmp_path / "epoch_0.pt")
    loop.train(1)
    return loop


@pytest.mark.parametrize("left", ["out", "None"])
def test_a_loop_without_its_scheduler(repair: Repair, tmp_path: Path, loop: Loop, left: str) -> None:
    sibling = loop.save(tmp_path / "epoch_1.pt")
    path = loop.save(tmp_path / "checkpoint.pt", "scheduler_state_dict")
    if left == "None":
        torch.save(torch.load(path) | {"scheduler_state_dict": None}, path)
    done = repair(path, "--scheduler-from", sibling)
    again = loop_goes_on(done.output, epoch=1)
    assert again.scheduler.state_dict() == loop.scheduler.state_dict()
    for part in ("model_state_dict", "optimizer_state_dict"):
        assert of_part(done.output, part) == of_part(path, part)


def cut_before_the_optimizer(whole: Path, path: Path) -> None:
    """The loop was killed while it saved: the pickle and the weights are there, the moments are not."""
    with ckpt_tools.open(whole) as opened:
        storages = [each.ref.storage for name, each in opened.items() if name.startswith("optimizer_state_dict.")]
        members = {f"/data/{storage.key}" for storage in storages if storage}
    data = whole.read_bytes()
    ours = (extent.start for extent in extents(data) if extent.name.endswith(tuple(members)))
    path.write_bytes(cut(data, min(ours)))


@pytest.mark.parametrize(
    "donor", [("--optimizer-from", "epoch_0.pt"), ("--from", ".", "--accept-loss")], ids=["named", "found"]
)
def test_a_loop_with_a_lost_optimizer(repair: Repair, tmp_path: Path, loop: Loop, donor: tuple[str, ...]) -> None:
    whole = loop.save(tmp_path / "whole.bin")
    cut_before_the_optimizer(whole, tmp_path / "checkpoint.pt")
    done = repair("checkpoint.pt", *donor)
    again = loop_goes_on(done.output, epoch=1)
    assert of_part(done.output, "model_state_dict") == of_part(whole, "model_state_dict")
    older = of_part(tmp_path / "epoch_0.pt", "optimizer_state_dict")
    assert of_part(done.output, "optimizer_state_dict") == older
    assert len(again.optimizer.state_dict()["state"]) == len(list(again.model.parameters()))


@pytest.mark.parametrize("consent", [("--reinit", "optimizer"), ("--accept-loss",)], ids=" ".join)
def test_a_loop_whose_optimizer_starts_afresh(
    repair: Repair, tmp_path: Path, loop: Loop, consent: tuple[str, ...]
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    whole = loop.save(tmp_path / "whole.bin")
    cut_before_the_optimizer(whole, alone / "checkpoint.pt")
    before = contents(alone)
    refused(repair("checkpoint.pt", cwd=alone), alone, before)
    done = repair("checkpoint.pt", *consent, cwd=alone)
    again = loop_goes_on(done.output, epoch=1)
    assert not again.optimizer.state_dict()["state"]
    assert of_part(done.output, "model_state_dict") == of_part(whole, "model_state_dict")
    assert again.scheduler.state_dict() == loop.scheduler.state_dict()
