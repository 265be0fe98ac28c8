"""The callbacks with real Lightning and real transformers: what they write is whole, and what is good stays."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import cut, flip

import ckpt_tools
from ckpt_tools.findings import CkptError, Verdict

torch: Any = pytest.importorskip("torch")


class PowerCut(Exception):  # noqa: N818
    """The process would end here."""


class TestLightning:
    def fit(
        self,
        folder: Path,
        stop_at: int | None = None,
        spoil_at: int | None = None,
        resume: Path | None = None,
        **options: Any,
    ) -> list[int]:
        """Train five epochs; the epochs that were begun."""
        lightning: Any = pytest.importorskip("lightning")
        from lightning.pytorch.callbacks import Callback, ModelCheckpoint

        from ckpt_tools.training.lightning import VerifyCheckpoints

        begun: list[int] = []

        class Model(lightning.LightningModule):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.net = torch.nn.Linear(4, 2)

            def training_step(self, batch: Any, _: int) -> Any:
                if self.current_epoch == spoil_at:
                    with torch.no_grad():
                        self.net.weight.fill_(float("nan"))
                return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), 0.02, momentum=0.9)

        class Watch(Callback):  # type: ignore[misc]
            def on_train_epoch_start(self, trainer: Any, _: Any) -> None:
                begun.append(trainer.current_epoch)
                if trainer.current_epoch == stop_at:
                    raise PowerCut

        data = torch.utils.data.DataLoader([(torch.randn(4), number % 2) for number in range(8)], batch_size=4)
        saving = ModelCheckpoint(folder, filename="{epoch}", save_last=options.pop("save_last", True))
        trainer = lightning.Trainer(
            max_epochs=5, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[saving, Watch(), VerifyCheckpoints(**options)],
        )  # fmt: skip
        with contextlib.suppress(PowerCut):
            trainer.fit(Model(), data, ckpt_path=resume, weights_only=False)
        return begun

    def test_interrupted_run_goes_on(self, tmp_path: Path) -> None:
        assert self.fit(tmp_path, stop_at=3, keep=2) == [0, 1, 2, 3]
        names = sorted(entry.name for entry in tmp_path.iterdir())
        assert names == ["epoch=2.ckpt", "last.ckpt", "last.ckpt.prev", "last.ckpt.prev2"]
        assert {name: ckpt_tools.verify(tmp_path / name).epoch for name in names[1:]} == dict(zip(names[1:], (2, 1, 0)))
        assert self.fit(tmp_path, resume=ckpt_tools.latest(tmp_path).path) == [3, 4]
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["epoch=4.ckpt", "last.ckpt", "last.ckpt.prev2"]

    def test_nan_takes_no_good_file_s_place(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert self.fit(tmp_path, spoil_at=2) == [0, 1, 2, 3, 4]
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["epoch=1.ckpt", "last.ckpt", "last.ckpt.prev"]
        assert ckpt_tools.verify(tmp_path / "last.ckpt").verdict is Verdict.RESUMABLE
        assert "NaN or infinity" in caplog.text
        assert "epoch=1.ckpt stays" in caplog.text

    def test_link_to_the_last_good_file_stays(self, tmp_path: Path) -> None:
        self.fit(tmp_path, spoil_at=2, save_last="link")
        assert (tmp_path / "last.ckpt").resolve() == tmp_path / "epoch=1.ckpt"
        assert self.fit(tmp_path, resume=tmp_path / "last.ckpt", stop_at=3) == [2, 3]

    def test_full_disk_costs_a_save_and_not_the_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("ckpt_tools.training.writing.free_space", lambda folder: 0)
        assert self.fit(tmp_path) == [0, 1, 2, 3, 4]
        assert list(tmp_path.iterdir()) == []
        assert "are free" in caplog.text


class TestTransformers:
    def train(
        self,
        folder: Path,
        stop_at: int | None = None,
        spoil: Callable[[Path], None] | None = None,
        fresh: bool = False,
        save_only_model: bool = False,
        **options: Any,
    ) -> int | None:
        """Train five epochs of four steps; the step it began at. ``spoil`` is given the folder of the third epoch."""
        transformers: Any = pytest.importorskip("transformers")
        pytest.importorskip("accelerate")
        from ckpt_tools.training.huggingface import VerifyCheckpoints, latest_checkpoint

        started: list[int] = []

        class Spoil(transformers.TrainerCallback):  # type: ignore[misc]
            def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                started.append(state.global_step)

            def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                if spoil is not None and state.global_step == 12:
                    spoil(Path(args.output_dir, f"checkpoint-{state.global_step}"))

        class Stop(transformers.TrainerCallback):  # type: ignore[misc]
            def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                if state.global_step == stop_at:
                    raise PowerCut

        torch.manual_seed(0)
        shape = transformers.BertConfig(
            vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=32,
        )  # fmt: skip
        trainer = transformers.Trainer(
            transformers.BertForSequenceClassification(shape),
            transformers.TrainingArguments(
                str(folder), num_train_epochs=5, per_device_train_batch_size=8, save_strategy="epoch", report_to=[],
                use_cpu=True, disable_tqdm=True, save_only_model=save_only_model,
            ),
            train_dataset=[{"input_ids": torch.randint(0, 64, (16,)), "labels": number % 2} for number in range(32)],
            callbacks=[Spoil(), VerifyCheckpoints(**options), Stop()],
        )  # fmt: skip
        with contextlib.suppress(PowerCut):
            trainer.train(resume_from_checkpoint=None if fresh else latest_checkpoint(folder))
        return started[0]

    def names(self, folder: Path) -> list[str]:
        return sorted(entry.name for entry in folder.iterdir())

    def test_interrupted_run_goes_on_and_the_newest_stay(self, tmp_path: Path) -> None:
        assert self.train(tmp_path, stop_at=12, keep=2) == 0
        assert self.names(tmp_path) == ["checkpoint-12", "checkpoint-8"]
        assert self.train(tmp_path, keep=2) == 12
        assert self.names(tmp_path) == ["checkpoint-16", "checkpoint-20"]

    @pytest.mark.parametrize(
        ("name", "spoil"),
        [
            ("optimizer.pt", lambda data: cut(data, len(data) - 900)),
            ("optimizer.pt", lambda data: flip(data, len(data) // 2)),
            ("model.safetensors", lambda data: cut(data, len(data) - 9)),
            ("trainer_state.json", lambda data: cut(data, 40)),
        ],
        ids=["cut optimizer", "flipped optimizer", "cut weights", "cut state"],
    )
    def test_what_is_damaged_is_put_aside_and_the_good_ones_stay(
        self, tmp_path: Path, name: str, spoil: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        def hit(folder: Path) -> None:
            (folder / name).write_bytes(spoil((folder / name).read_bytes()))

        self.train(tmp_path, stop_at=12, spoil=hit, keep=1)
        assert self.names(tmp_path) == ["checkpoint-8", "damaged-checkpoint-12"]
        assert "renamed to damaged-checkpoint-12" in caplog.text
        assert self.train(tmp_path, stop_at=12, keep=1) == 8

    def test_folder_a_kill_left_unfinished_is_passed_over(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.train(tmp_path, stop_at=12, keep=3)
        (tmp_path / "checkpoint-12" / "optimizer.pt").unlink()
        (tmp_path / "checkpoint-8" / "trainer_state.json").unlink()
        assert self.train(tmp_path, stop_at=12) == 4
        assert "the optimizer is missing" in caplog.text

    def test_new_run_in_the_folder_of_an_old_one_keeps_its_own(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.train(tmp_path, keep=2)
        self.train(tmp_path, stop_at=8, keep=2, fresh=True)
        assert self.names(tmp_path) == ["checkpoint-4", "checkpoint-8"]

    def test_weights_alone_are_good_where_they_were_asked_for(self, tmp_path: Path) -> None:
        self.train(tmp_path, stop_at=8, keep=3, save_only_model=True)
        assert self.names(tmp_path) == ["checkpoint-4", "checkpoint-8"]
        assert self.train(tmp_path, stop_at=4) == 0  # nothing to go on from

    @pytest.mark.parametrize("name", ["model.safetensors", "scheduler.pt", "optimizer.pt"])
    def test_folder_that_lacks_a_file_is_passed_over(self, tmp_path: Path, name: str) -> None:
        self.train(tmp_path, stop_at=8, keep=3)
        (tmp_path / "checkpoint-8" / name).unlink()
        assert self.train(tmp_path, stop_at=8) == 4

    def test_rotation_of_the_trainer_is_warned_of(self, caplog: pytest.LogCaptureFixture) -> None:
        pytest.importorskip("transformers")
        from argparse import Namespace

        from ckpt_tools.training.huggingface import VerifyCheckpoints

        with caplog.at_level(logging.WARNING):
            VerifyCheckpoints().on_train_begin(
                Namespace(save_total_limit=2), Namespace(is_world_process_zero=True), None
            )
        assert "save_total_limit" in caplog.text
        with pytest.raises(CkptError, match="keep=0"):
            VerifyCheckpoints(keep=0)
