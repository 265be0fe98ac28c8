"""``save_checkpoint``, ``load_checkpoint`` and ``CheckpointManager`` with real torch: whole, exact, on every rank."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy
import pytest
from damage import flip

import ckpt_tools
from ckpt_tools.checkpoint import open_checkpoint
from ckpt_tools.findings import CkptError, Verdict

torch: Any = pytest.importorskip("torch")
from ckpt_tools import training  # noqa: E402
from ckpt_tools.training import CheckpointManager, ResumableSampler, load_checkpoint, save_checkpoint, state, writing  # noqa: E402
from ckpt_tools.training.signals import STOP, Wish  # noqa: E402

LOOP = Path(__file__).with_name("loop.py")
STEPS = 6  # of an epoch in the loop
KILLS = 3  # of the sample; the full run has 100


class Level(IntEnum):
    HIGH = 2


@dataclass
class Settings:
    lr: float
    betas: tuple[float, float]


def nested(depth: int) -> list[Any]:
    """A list in a list in a list …"""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


class Training:
    """A model with all that belongs to its training, one step done."""

    def __init__(self, seed: int = 0, width: int = 8) -> None:
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.BatchNorm1d(width))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.1, total_steps=20)
        self.scaler = torch.amp.GradScaler("cpu")
        self.ema = torch.optim.swa_utils.AveragedModel(self.model)
        self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.randn(3, 4)).sum().backward()
        self.optimizer.step()
        self.scheduler.step()
        self.ema.update_parameters(self.model)

    @property
    def parts(self) -> dict[str, Any]:
        names = ("model", "optimizer", "scheduler", "scaler", "ema")
        return {name: getattr(self, name) for name in names}

    def equals(self, other: Training) -> bool:
        return all(same(part.state_dict(), other.parts[name].state_dict()) for name, part in self.parts.items())


def same(one: Any, other: Any) -> bool:
    """Whether two nests of containers hold the same tensors and values, bit for bit."""
    if isinstance(one, torch.Tensor):
        return bool(torch.equal(one, other))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "last.pt"


def leftovers(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.name.endswith(".tmp")]


class TestOneFile:
    def test_everything_comes_back(self, path: Path) -> None:
        saved = Training()
        args = Namespace(lr=0.1, epochs=9, data=Path("data.yaml"))
        save_checkpoint(path, **saved.parts, epoch=2, step=30, args=args, metrics={"loss": 0.5}, note="mine")
        numbers = (random.random(), torch.rand(2))
        fresh = Training(seed=1)
        loaded = load_checkpoint(path, **fresh.parts)
        assert fresh.equals(saved)
        assert (loaded.epoch, loaded.step, loaded.metrics, loaded.extra) == (2, 30, {"loss": 0.5}, {"note": "mine"})
        assert loaded.args == {"lr": 0.1, "epochs": 9, "data": "data.yaml"}
        assert same(numbers, (random.random(), torch.rand(2)))

    def test_numpy_goes_on_with_its_own_numbers(self, path: Path) -> None:
        import numpy

        saved = Training()
        save_checkpoint(path, model=saved.model, optimizer=saved.optimizer, epoch=0)
        expected = numpy.random.rand(3)
        load_checkpoint(path, model=saved.model)
        assert (numpy.random.rand(3) == expected).all()

    def test_file_is_resumable_and_loads_with_weights_only(self, path: Path) -> None:
        save_checkpoint(path, **Training().parts, epoch=2, step=30, args={"epochs": 9})
        report = ckpt_tools.verify(path)
        assert report.verdict is Verdict.RESUMABLE
        assert [fact for fact in report.findings if fact.severity != "note"] == []
        assert torch.load(path, weights_only=True)["epoch"] == 2

    def test_file_of_the_last_epoch_says_that_the_run_is_over(self, path: Path) -> None:
        save_checkpoint(path, **Training().parts, epoch=8, args={"epochs": 9})
        assert ckpt_tools.verify(path).verdict is Verdict.FINISHED

    @pytest.mark.parametrize("wrap", [torch.nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
    def test_wrappers_are_looked_through(self, wrap: Callable[[Any], Any], path: Path) -> None:
        saved, fresh = Training(), Training(seed=1)
        save_checkpoint(path, **{**saved.parts, "model": wrap(saved.model)}, epoch=0)
        assert list(torch.load(path, weights_only=True)["model"]) == list(saved.model.state_dict())
        load_checkpoint(path, **{**fresh.parts, "model": wrap(fresh.model)})
        assert fresh.equals(saved)

    def test_several_models_and_optimizers(self, path: Path) -> None:
        saved, fresh = [Training(), Training(seed=1)], [Training(seed=2), Training(seed=3)]

        def both(pair: list[Training]) -> dict[str, Any]:
            model = {"generator": pair[0].model, "critic": pair[1].model}
            return {"model": model, "optimizer": [one.optimizer for one in pair]}

        save_checkpoint(path, **both(saved), epoch=0)
        assert ckpt_tools.verify(path).verdict is Verdict.RESUMABLE
        load_checkpoint(path, **both(fresh))
        assert same(fresh[1].model.state_dict(), saved[1].model.state_dict())
        assert same(fresh[1].optimizer.state_dict(), saved[1].optimizer.state_dict())

    def test_an_average_without_a_state_dict(self, path: Path) -> None:
        saved = Training()
        average = Namespace(ema=Training(seed=1).model, updates=7)
        save_checkpoint(path, model=saved.model, optimizer=saved.optimizer, ema=average, epoch=0)
        fresh = Namespace(ema=Training(seed=2).model, updates=0)
        load_checkpoint(path, ema=fresh)
        assert same(fresh.ema.state_dict(), average.ema.state_dict())
        assert fresh.updates == 7

    def test_file_saved_by_a_wrapped_model_of_someone_else(self, path: Path) -> None:
        saved, fresh = Training(), Training(seed=1)
        path.parent.mkdir()
        torch.save({"model": torch.nn.DataParallel(saved.model).state_dict()}, path)
        load_checkpoint(path, model=fresh.model)
        assert same(fresh.model.state_dict(), saved.model.state_dict())


class TestRefusals:
    @pytest.fixture
    def saved(self, path: Path) -> Training:
        made = Training()
        save_checkpoint(path, **made.parts, epoch=1)
        return made

    def test_nan_takes_no_good_file_s_place(self, saved: Training, path: Path) -> None:
        before = path.read_bytes()
        with torch.no_grad():
            saved.model[0].weight[0, 0] = float("nan")
        with pytest.raises(CkptError, match=r"NaN or infinity: 0\.weight"):
            save_checkpoint(path, **saved.parts, epoch=2)
        assert path.read_bytes() == before
        assert leftovers(path.parent) == []

    def test_object_no_safe_load_brings_back_is_named(self, saved: Training, path: Path) -> None:
        with pytest.raises(CkptError, match=r"args\.loader is a .*object"):
            save_checkpoint(path, **saved.parts, epoch=2, args={"loader": object()})
        assert load_checkpoint(path).epoch == 1

    def test_taken_names(self, saved: Training, path: Path) -> None:
        with pytest.raises(CkptError, match="rng"):
            state.gather_state(saved.parts, epoch=1, step=1, rng=None, args=None, metrics=None, extra={"rng": 1})

    def test_flipped_bit_is_not_loaded(self, saved: Training, path: Path) -> None:
        with open_checkpoint(path) as checkpoint:
            place = max(checkpoint.container.members.values(), key=lambda member: member.size).offset  # type: ignore[union-attr]
        path.write_bytes(flip(path.read_bytes(), place))
        fresh = Training(seed=1)
        with pytest.raises(CkptError, match="damaged"):
            load_checkpoint(path, **fresh.parts)
        assert fresh.equals(Training(seed=1))

    def test_misfit_changes_nothing(self, saved: Training, path: Path) -> None:
        other = Training(seed=1, width=9)
        with pytest.raises(CkptError, match=r"0\.weight is \(8, 4\) in the file and \(9, 4\) here"):
            load_checkpoint(path, **other.parts)
        assert other.equals(Training(seed=1, width=9))

    def test_misfit_of_the_optimizer_changes_nothing(self, saved: Training, path: Path) -> None:
        fresh = Training(seed=1)
        optimizer = torch.optim.AdamW([{"params": [held]} for held in fresh.model.parameters()])
        with pytest.raises(CkptError, match="groups"):
            load_checkpoint(path, model=fresh.model, optimizer=optimizer)
        assert fresh.equals(Training(seed=1))

    def test_part_the_file_lacks_is_named(self, saved: Training, path: Path) -> None:
        sampler = ResumableSampler(range(9))
        with pytest.raises(CkptError, match="no sampler"):
            load_checkpoint(path, model=saved.model, sampler=sampler)
        assert load_checkpoint(path, model=saved.model, sampler=sampler, strict=False).absent == ["sampler"]

    def test_what_fits_is_loaded_where_asked(self, saved: Training, path: Path) -> None:
        other = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        loaded = load_checkpoint(path, model=other, strict=False)
        assert torch.equal(other[0].weight, saved.model[0].weight)
        assert "model.1.running_mean" in loaded.absent

    def test_class_of_someone_is_never_imported(self, path: Path) -> None:
        path.parent.mkdir()
        torch.save({"model": Training().model, "epoch": 1}, path)
        with pytest.raises(CkptError, match="ckpt verify"):
            load_checkpoint(path, model=Training().model)

    def test_disabled_scaler_is_no_misfit(self, path: Path) -> None:
        saved = Training()
        off = torch.amp.GradScaler("cpu", enabled=False)
        save_checkpoint(path, model=saved.model, optimizer=saved.optimizer, scaler=off, epoch=0)
        load_checkpoint(path, model=saved.model, scaler=off)
        with pytest.raises(CkptError, match="no scaler"):
            load_checkpoint(path, model=saved.model, scaler=saved.scaler)


class TestPlainValues:
    @pytest.mark.parametrize(
        ("given", "stored"),
        [
            (Path("data") / "x.yaml", str(Path("data") / "x.yaml")),
            ({"b"}, ["b"]),
            (Level.HIGH, 2),
            ({Level.HIGH: 1}, {2: 1}),
            (Settings(lr=0.1, betas=(0.9, 0.99)), {"lr": 0.1, "betas": (0.9, 0.99)}),
            (Counter("aab"), {"a": 2, "b": 1}),
            (numpy.float64(0.5), 0.5),
            (numpy.complex128(1j), 1j),
            (numpy.bool_(True), True),
            (numpy.longdouble(0.5), 0.5),
            ({numpy.int64(3): numpy.float32(0.5)}, {3: 0.5}),
            (numpy.arange(4.0)[::-1], torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64)),
            (numpy.arange(2, dtype=">i4"), torch.tensor([0, 1], dtype=torch.int32)),
            (torch.float16, torch.float16),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_come_back_as_plain_ones(self, path: Path, given: Any, stored: Any) -> None:
        made = Training()
        save_checkpoint(path, model=made.model, optimizer=made.optimizer, epoch=0, args={"held": given})
        held = load_checkpoint(path).args["held"]
        assert same(held, stored)
        assert type(held) is type(stored)

    @pytest.mark.parametrize(
        "given",
        [
            object(), len, numpy.datetime64("2026-01-01"), numpy.array(["a"]), numpy.array([object()]), {object(): 1},
            torch.empty(3, device="meta"), torch.nn.LazyLinear(2).weight, nested(3000), numpy.add,
        ],
        ids=lambda value: type(value).__name__,
    )  # fmt: skip
    @pytest.mark.parametrize("background", [False, True])
    def test_what_no_safe_load_brings_back_is_refused_at_once(
        self, tmp_path: Path, given: Any, background: bool
    ) -> None:
        made = Training()
        manager = CheckpointManager(
            tmp_path,
            model=made.model,
            optimizer=made.optimizer,
            args={"held": given},
            background=background,
            signals=(),
        )
        with pytest.raises(CkptError, match="held"):
            manager.save(0)
        manager.close()
        assert list(tmp_path.iterdir()) == []


class TestKinds:
    """States of another kind of object: torch takes many of them, and fails, or trains on wrongly, later."""

    def test_another_optimizer(self, path: Path) -> None:
        made = Training()
        save_checkpoint(path, model=made.model, optimizer=made.optimizer, epoch=0)
        with pytest.raises(CkptError, match="another optimizer.* no dampening, momentum"):
            load_checkpoint(path, optimizer=torch.optim.SGD(made.model.parameters(), 0.1, momentum=0.9))

    def test_parameters_in_another_order(self, path: Path) -> None:
        made = Training()
        save_checkpoint(path, model=made.model, optimizer=made.optimizer, epoch=0)
        with pytest.raises(CkptError, match="same order"):
            load_checkpoint(path, optimizer=torch.optim.AdamW(list(made.model.parameters())[::-1]))

    def test_another_scheduler_changes_nothing(self, path: Path) -> None:
        made, fresh = Training(), Training(seed=1)
        save_checkpoint(path, **made.parts, epoch=0)
        fresh.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(fresh.optimizer, 9)
        before = fresh.optimizer.state_dict()["param_groups"]
        with pytest.raises(CkptError, match="another scheduler"):
            load_checkpoint(path, **fresh.parts)
        assert same(fresh.optimizer.state_dict()["param_groups"], before)

    def test_optimizer_of_other_shapes_is_left_out_with_what_does_not_fit(self, path: Path) -> None:
        made, other = Training(), Training(seed=1, width=9)
        save_checkpoint(path, model=made.model, optimizer=made.optimizer, epoch=0)
        loaded = load_checkpoint(path, model=other.model, optimizer=other.optimizer, strict=False)
        assert "optimizer" in loaded.absent
        other.step()

    def test_compiled_modules_inside_of_others(self, path: Path) -> None:
        made, fresh = Training(), Training(seed=1)
        inside = torch.nn.Sequential(torch.compile(made.model[0], backend="eager"), made.model[1])
        save_checkpoint(path, model=inside, optimizer=made.optimizer, epoch=0)
        load_checkpoint(path, model=fresh.model)
        assert same(fresh.model.state_dict(), made.model.state_dict())


class TestTheFileThatWasThere:
    def test_link_leads_to_the_new_file(self, path: Path) -> None:
        path.parent.mkdir()
        path.symlink_to(path.parent / "elsewhere.pt")
        save_checkpoint(path, **Training().parts, epoch=3)
        assert path.is_symlink()
        assert ckpt_tools.verify(path.parent / "elsewhere.pt").epoch == 3

    @pytest.mark.skipif(os.name == "nt", reason="rights of another kind")
    def test_rights_stay(self, path: Path) -> None:
        save_checkpoint(path, **Training().parts, epoch=3)
        path.chmod(0o600)
        save_checkpoint(path, **Training().parts, epoch=4)
        assert path.stat().st_mode & 0o777 == 0o600

    def test_what_a_killed_save_left_is_cleared_away(self, path: Path) -> None:
        path.parent.mkdir()
        left = path.with_name(f".{path.name}.0123abcd.tmp")
        left.write_bytes(b"half")
        os.utime(left, (1, 1))
        save_checkpoint(path, **Training().parts, epoch=3)
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]

    def test_earlier_states_stay_in_their_order(self, path: Path) -> None:
        for epoch in range(4):
            content = {"epoch": epoch, **{name: part.state_dict() for name, part in Training().parts.items()}}
            writing.write_whole(path, lambda place, held=content: writing.save_content(held, place), keep=2)  # type: ignore[misc]
        names = ("last.pt", "last.pt.prev", "last.pt.prev2")
        assert sorted(entry.name for entry in path.parent.iterdir()) == list(names)
        assert [ckpt_tools.verify(path.with_name(name)).epoch for name in names] == [3, 2, 1]


class TestSignals:
    @pytest.fixture(autouse=True)
    def usual(self) -> Any:
        """The signals as they are for whoever comes next."""
        before = {number: signal.getsignal(number) for number in STOP}
        yield
        assert {number: signal.getsignal(number) for number in STOP} == before

    def test_scheduler_and_launcher_may_both_send_it(self) -> None:
        wish = Wish(STOP)
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert wish.number == signal.SIGTERM
        wish.close()

    def test_second_ctrl_c_ends_at_once(self) -> None:
        wish = Wish(STOP)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        wish.close()

    def test_one_that_came_too_late_has_its_usual_effect(self) -> None:
        wish = Wish(STOP)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            wish.close(served=False)

    def test_managers_may_close_in_any_order(self, tmp_path: Path) -> None:
        made = Training()
        first, second = (
            CheckpointManager(tmp_path / name, model=made.model, optimizer=made.optimizer) for name in ("a", "b")
        )
        second.close()
        first.close()


class TestFullDisk:
    @pytest.mark.parametrize("foreseen", [True, False])
    def test_last_good_file_stays(self, small: Path, foreseen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if not foreseen:  # the space goes while the file is written
            monkeypatch.setattr(writing, "free_space", lambda folder: 1 << 40)
        saved = Training(width=40_000)
        save_checkpoint(small / "last.pt", model=saved.model, optimizer=None, epoch=0, rng=False)
        with pytest.raises(CkptError, match="are free" if foreseen else "No space left"):
            save_checkpoint(small / "last.pt", **saved.parts, epoch=1)
        assert [entry.name for entry in small.iterdir()] == ["last.pt"]
        assert load_checkpoint(small / "last.pt", model=saved.model).epoch == 0


class TestSampler:
    def test_every_sample_once_in_an_order_of_its_epoch(self) -> None:
        sampler = ResumableSampler(range(10))
        first = list(sampler)
        sampler.set_epoch(1)
        assert sorted(first) == sorted(sampler) == list(range(10))
        assert list(sampler) != first

    def test_goes_on_behind_what_was_trained(self) -> None:
        sampler, again = ResumableSampler(range(10), seed=4), ResumableSampler(range(10))
        order = list(sampler)
        sampler.advance(6)
        again.load_state_dict(sampler.state_dict())
        assert list(again) == order[6:]
        assert len(again) == 4

    def test_samples_that_were_left_out_end_no_later_epoch(self) -> None:
        sampler = ResumableSampler(range(10))
        loader = torch.utils.data.DataLoader(range(10), batch_size=4, sampler=sampler, drop_last=True)
        for _ in range(3):
            sizes = [len(batch) for batch in loader]
            assert sizes == [4, 4]
            sampler.advance(sum(sizes))
        assert sampler.epoch == 2

    def test_another_data_set_is_refused(self) -> None:
        with pytest.raises(CkptError, match="10 samples"):
            ResumableSampler(range(9)).load_state_dict(ResumableSampler(range(10)).state_dict())

    def test_any_seed_will_do(self) -> None:
        assert sorted(ResumableSampler(range(9), seed=1 << 62)) == list(range(9))

    def test_ranks_share_what_is_left(self) -> None:
        ranks = [ResumableSampler(range(10), rank=rank, replicas=4) for rank in range(4)]
        for one in ranks:
            one.advance(4)
        parts = [list(one) for one in ranks]
        assert {len(part) for part in parts} == {2}
        assert {index for part in parts for index in part} == set(list(ResumableSampler(range(10)))[4:])

    def test_another_pass_is_another_epoch_where_nobody_says_which(self) -> None:
        sampler = ResumableSampler(range(10))
        first = list(sampler)
        sampler.advance(10)
        assert list(sampler) != first
        assert sampler.epoch == 1


class TestManager:
    def managed(self, folder: Path, made: Training, **options: Any) -> CheckpointManager:
        parts = {name: part for name, part in made.parts.items() if name != "scaler"}
        return CheckpointManager(folder, **parts, signals=(), **options)

    def test_triggers(self, tmp_path: Path) -> None:
        made = Training()
        with self.managed(tmp_path, made, every_steps=2, every_epochs=2, keep_last=9) as manager:
            saved = [(step, manager.step(0) is not None) for step in range(1, 6)]
            assert saved == [(1, False), (2, True), (3, False), (4, True), (5, False)]
            assert manager.end_epoch(0) is None
            assert manager.end_epoch(1) is not None

    def test_time_is_a_trigger(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [0.0]
        monkeypatch.setattr("ckpt_tools.training.manager.time.monotonic", lambda: now[0])
        with self.managed(tmp_path, Training(), every_seconds=60, every_epochs=None) as manager:
            assert manager.step(0) is None
            now[0] = 61
            assert manager.step(0) is not None
            assert manager.step(0) is None

    def test_last_and_best_stay(self, tmp_path: Path) -> None:
        losses = [0.5, 0.1, 0.4, 0.3, 0.2]
        with self.managed(tmp_path, Training(), every_steps=1, keep_last=2, keep_best="loss") as manager:
            for loss in losses:
                manager.step(0, {"loss": loss})
            assert manager.best == tmp_path / "step00000002.pt"
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [f"step0000000{n}.pt" for n in (2, 4, 5)]

    def test_file_counts_with_what_was_said_since_the_save_before(self, tmp_path: Path) -> None:
        accuracy = [0.5, 0.9, 0.6]
        with self.managed(tmp_path, Training(), every_steps=2, keep_last=1, keep_best="accuracy") as manager:
            for epoch in range(3):
                for _ in range(5):
                    manager.step(epoch)
                manager.end_epoch(epoch, {"accuracy": accuracy[epoch]})
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step00000010.pt", "step00000015.pt"]
        assert manager.best == tmp_path / "step00000010.pt"

    def test_end_of_an_epoch_keeps_what_its_last_step_said(self, tmp_path: Path) -> None:
        with self.managed(tmp_path, Training(), every_steps=1, keep_last=1, keep_best="loss") as manager:
            manager.step(0, {"loss": 0.1})
            manager.end_epoch(0, {"accuracy": 0.5})
            manager.step(1, {"loss": 0.2})
            assert manager.best == tmp_path / "step00000001.pt"
        assert load_checkpoint(tmp_path / "step00000001.pt").metrics == {"loss": 0.1, "accuracy": 0.5}

    def test_metrics_may_be_tensors_and_must_be_numbers(self, tmp_path: Path) -> None:
        with self.managed(tmp_path, Training(), every_steps=1, keep_last=1, keep_best="loss") as manager:
            for loss in (0.1, 0.3):
                manager.step(0, {"loss": torch.tensor(loss, requires_grad=True)})
            assert manager.best == tmp_path / "step00000001.pt"
            with pytest.raises(CkptError, match="the metric loss is no number"):
                manager.step(0, {"loss": torch.ones(3)})

    def test_metric_nobody_told_is_missed_aloud(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with self.managed(tmp_path, Training(), every_steps=1, keep_best="val_acc") as manager:
            manager.step(0, {"acc": 0.3})
        assert "no save was told val_acc" in caplog.text

    def test_folder_of_another_run_is_refused_at_the_first_step(self, tmp_path: Path) -> None:
        with self.managed(tmp_path, Training(), every_steps=1) as manager:
            for _ in range(3):
                manager.step(0)
        with self.managed(tmp_path, Training()) as manager, pytest.raises(CkptError, match="restore_latest"):
            manager.step(0)

    def test_folder_that_can_t_be_made_is_refused_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(CkptError, match="check the path"):
            self.managed(tmp_path / "file" / "run", Training())

    def test_closed_manager_says_so(self, tmp_path: Path) -> None:
        manager = self.managed(tmp_path, Training(), background=True)
        manager.close()
        with pytest.raises(CkptError, match="closed"):
            manager.save(0)

    def test_failure_in_the_background_is_not_forgotten_by_the_next_step(self, tmp_path: Path) -> None:
        made = Training()
        manager = self.managed(tmp_path, made, background=True, every_epochs=None)
        with torch.no_grad():
            made.model[0].weight[0, 0] = float("inf")
        manager.save(0)
        manager.step(0)
        with pytest.raises(CkptError, match="NaN or infinity"):
            manager.close()

    def test_background_copies_views_of_one_place_in_memory_each_as_they_are(self, tmp_path: Path) -> None:
        made, numbers = Training(), numpy.arange(10.0)
        negative = torch.tensor([1 + 2j]).conj().imag
        args = {
            "some": numbers[:2],
            "all": torch.from_numpy(numbers),
            "part": torch.from_numpy(numbers[:2]),
            "neg": negative,
        }
        with self.managed(tmp_path, made, background=True, args=args) as manager:
            path = manager.save(0)
        held = load_checkpoint(path).args
        assert torch.equal(held["all"], torch.arange(10.0, dtype=torch.float64))
        assert torch.equal(held["part"], held["all"][:2])
        assert held["neg"].tolist() == [-2.0]

    def test_what_is_best_outlives_a_restart(self, tmp_path: Path) -> None:
        with self.managed(tmp_path, Training(), every_steps=1, keep_last=1, keep_best=("accuracy", 1)) as manager:
            manager.step(0, {"accuracy": 0.9})
            manager.step(0, {"accuracy": 0.1})
        with self.managed(tmp_path, Training(), every_steps=1, keep_last=1, keep_best=("accuracy", 1)) as manager:
            assert manager.restore_latest().steps == 2
            manager.step(0, {"accuracy": 0.2})
            assert manager.best == tmp_path / "step00000001.pt"
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step00000001.pt", "step00000003.pt"]

    def test_damaged_files_are_passed_over_and_named(self, tmp_path: Path) -> None:
        made = Training()
        with self.managed(tmp_path, made, every_steps=1) as manager:
            for _ in range(3):
                manager.step(0)
        newest, second = tmp_path / "step00000003.pt", tmp_path / "step00000002.pt"
        newest.write_bytes(newest.read_bytes()[:-2000])
        second.write_bytes(flip(second.read_bytes(), second.stat().st_size // 2))
        with self.managed(tmp_path, Training(seed=1)) as manager:
            start = manager.restore_latest()
        assert (Path(start.path).name, start.steps) == ("step00000001.pt", 1)
        assert [place.name for place, _ in start.skipped] == [newest.name, second.name]
        assert all("damaged" in why for _, why in start.skipped)

    def test_nothing_there_changes_nothing(self, tmp_path: Path) -> None:
        made = Training()
        with self.managed(tmp_path / "none", made) as manager:
            start = manager.restore_latest()
        assert (start.path, start.next_epoch, start.steps) == ("", 0, 0)
        assert made.equals(Training())

    def test_other_files_are_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "last.pt").write_bytes(b"someone else's")
        with self.managed(tmp_path, Training(), every_steps=1, keep_last=1) as manager:
            for _ in range(3):
                manager.step(0)
        assert (tmp_path / "last.pt").read_bytes() == b"someone else's"

    def test_what_a_killed_process_left_is_cleared_away(self, tmp_path: Path) -> None:
        old, fresh = tmp_path / ".step00000001.pt.0123abcd.tmp", tmp_path / ".step00000002.pt.0123abcd.tmp"
        for left in (old, fresh):
            left.write_bytes(b"half")
        os.utime(old, (1, 1))
        with self.managed(tmp_path, Training()):
            assert leftovers(tmp_path) == [fresh.name]  # perhaps one that is being written

    def test_background_saves_the_state_of_its_moment(self, tmp_path: Path) -> None:
        made, then = Training(), Training()
        with self.managed(tmp_path, made, background=True, every_epochs=None) as manager:
            manager.save(0)
            made.step()
        fresh = Training(seed=1)
        with self.managed(tmp_path, fresh) as manager:
            manager.restore_latest()
        assert same(fresh.model.state_dict(), then.model.state_dict())
        assert same(fresh.optimizer.state_dict(), then.optimizer.state_dict())
        assert not same(fresh.model.state_dict(), made.model.state_dict())

    def test_background_failure_is_raised_at_the_next_save(self, tmp_path: Path) -> None:
        made = Training()
        manager = self.managed(tmp_path, made, background=True)
        with torch.no_grad():
            made.model[0].weight[0, 0] = float("inf")
        manager.save(0)
        with pytest.raises(CkptError, match="NaN or infinity"):
            manager.close()

    @pytest.mark.parametrize("wrong", [{"every_steps": 0}, {"every_seconds": -1}, {"keep_last": 0}])
    def test_senseless_numbers_are_refused(self, tmp_path: Path, wrong: dict[str, Any]) -> None:
        with pytest.raises(CkptError, match=next(iter(wrong))):
            self.managed(tmp_path, Training(), **wrong)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]) -> list[str]:
    """What the loop prints when nothing happens to it."""
    command = [sys.executable, str(LOOP), str(tmp_path_factory.mktemp("uninterrupted"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.splitlines()[1:]


class TestTrainingItself:
    """The loop in :mod:`oracle.loop`, in processes that die."""

    def run(self, environment: Mapping[str, str], folder: Path, *arguments: str) -> list[str]:
        command = [sys.executable, str(LOOP), str(folder), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        return done.stdout.splitlines()

    @pytest.mark.parametrize("how", [(), ("--background",)], ids=["", "background"])
    @pytest.mark.parametrize(
        "steps",
        [
            (3, 9, 20),
            pytest.param((6, 12, 23), marks=pytest.mark.full),
            pytest.param((1, 2, 7, 18), marks=pytest.mark.full),
        ],
        ids=str,
    )
    def test_interrupted_it_ends_bit_for_bit_the_same(
        self, environment: Mapping[str, str], uninterrupted: list[str], tmp_path: Path, steps: tuple[int, ...], how: Any
    ) -> None:
        lines: list[str] = []
        for step in steps:
            lines += self.run(environment, tmp_path, "--every-steps", "1", "--die-after", str(step), *how)[1:]
        lines += self.run(environment, tmp_path, "--every-steps", "1", *how)[1:]
        assert lines == uninterrupted

    def test_resumed_at_an_epoch_it_ends_bit_for_bit_the_same(
        self, environment: Mapping[str, str], uninterrupted: list[str], tmp_path: Path
    ) -> None:
        lines = self.run(environment, tmp_path, "--every-epochs", "1", "--die-after", str(2 * STEPS + 1))[1:]
        assert lines[: 2 * STEPS] + self.run(environment, tmp_path, "--every-epochs", "1")[1:] == uninterrupted

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signal_saves_and_ends(self, environment: Mapping[str, str], tmp_path: Path, number: int) -> None:
        command = [sys.executable, str(LOOP), str(tmp_path), "--epochs", "100000"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            steps = [line for line in (process.stdout.readline() for _ in range(5)) if line]
            process.send_signal(number)
            rest = process.stdout.read().splitlines()
        assert process.returncode == 128 + number
        done = int(([*steps, *rest][-1]).split()[1])
        found = ckpt_tools.latest(tmp_path)
        assert found.path is not None
        assert torch.load(found.path, weights_only=True)["step"] >= done

    def kill(self, environment: Mapping[str, str], folder: Path, number: int) -> None:
        """Kill the loop at a random moment behind its first save; a step is hardly more than a save of 3 MB."""
        chance = random.Random(number)
        options = ["--epochs", "100000", "--every-steps", "1", "--width", "40000"]
        options += ["--background"] if number % 2 else []
        command = [sys.executable, str(LOOP), str(folder), *options]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            wanted = 2 + chance.randrange(3)
            while not process.stdout.readline().startswith(f"step {wanted}"):
                assert process.poll() is None
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(chance.random() * 0.1)
            process.kill()

    def goes_on(self, environment: Mapping[str, str], folder: Path) -> bool:
        found = ckpt_tools.latest(folder)
        assert found.path is not None
        step = torch.load(found.path, weights_only=True)["step"]
        resumed = self.run(environment, folder, "--epochs", "0", "--width", "40000")
        return resumed[0].split()[2:] == [str(step), "0"]  # from that very file, none passed over

    @pytest.mark.parametrize("number", range(KILLS))
    def test_killed_at_any_moment_it_goes_on(self, environment: Mapping[str, str], tmp_path: Path, number: int) -> None:
        self.kill(environment, tmp_path, number)
        assert self.goes_on(environment, tmp_path)

    @pytest.mark.full
    def test_killed_at_a_hundred_moments_it_goes_on_every_time(
        self, environment: Mapping[str, str], tmp_path: Path
    ) -> None:
        for number in range(100):
            self.kill(environment, tmp_path, number)
            assert self.goes_on(environment, tmp_path)
            shutil.rmtree(tmp_path)


def launched(
    environment: Mapping[str, str], count: int, folder: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """The loop in several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.run(
        [*command, str(LOOP), str(folder), *arguments],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]) -> Path:
    """The folder of a run of two processes that died after four steps."""
    folder = tmp_path_factory.mktemp("ranks")
    launched(environment, 2, folder, "--every-steps", "1", "--keep-last", "1", "--die-after", "4")
    return folder


class TestSeveralProcesses:
    def test_one_file_with_the_random_state_of_all(self, interrupted: Path) -> None:
        assert [entry.name for entry in interrupted.iterdir() if not entry.name.startswith(".")] == ["step00000004.pt"]
        content = torch.load(interrupted / "step00000004.pt", weights_only=True)
        assert len(content["rng"]) == 2
        assert not any(name.startswith("module.") for name in content["model"])

    @pytest.mark.parametrize("count", [2, 1, 4])
    def test_goes_on_with_other_numbers_of_processes(
        self, environment: Mapping[str, str], interrupted: Path, tmp_path: Path, count: int
    ) -> None:
        folder = shutil.copytree(interrupted, tmp_path / "copy")
        done = launched(environment, count, folder, "--epochs", "2", "--every-seconds", "0.01", "--every-epochs", "1")
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("start 1 4 0") == count
        assert done.stdout.count("end ") == count
        found = ckpt_tools.latest(folder)
        assert found.finished, found

    @pytest.mark.parametrize("how", [(), ("--background",)], ids=["", "background"])
    def test_signal_to_the_whole_job_saves(self, environment: Mapping[str, str], tmp_path: Path, how: Any) -> None:
        """As a scheduler sends it: to the launcher, which passes it on, and to every process."""
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += [str(LOOP), str(tmp_path), "--epochs", "100000", *how]
        options = {"env": {**environment, "OMP_NUM_THREADS": "1"}, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, **options) as process:  # type: ignore[call-overload]
            while not process.stdout.readline().startswith("step 3"):
                assert process.poll() is None
            os.killpg(process.pid, signal.SIGTERM)
            process.stdout.read()
        assert leftovers(tmp_path) == []
        found = ckpt_tools.latest(tmp_path)
        assert found.path is not None
        assert len(torch.load(found.path, weights_only=True)["rng"]) == 2

    def test_what_rank_0_can_t_write_ends_all(self, environment: Mapping[str, str], tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        done = launched(environment, 2, tmp_path / "file" / "run", "--every-steps", "1")
        assert done.returncode != 0
        assert done.stderr.count("can't be written") >= 2


def test_public_names() -> None:
    assert all(hasattr(training, name) for name in training.__all__)
