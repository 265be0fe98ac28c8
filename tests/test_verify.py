"""``verify``: the verdict on each situation of the contract, and what the report says beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from building import (
    Tensor,
    detector,
    detector_optimizer,
    module,
    optimizer_of,
    plain_checkpoint,
    saved,
    saved_legacy,
    stripped_checkpoint,
    ultralytics_checkpoint,
    weights,
)
from conftest import Verify, Write
from damage import append, cut, storage_member

import ckpt_tools
from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.findings import CkptError, Verdict
from ckpt_tools.verbs.verify import parse_target, verify

MODEL = weights()
YOLO, PLAIN = ultralytics_checkpoint, plain_checkpoint

SITUATIONS: dict[str, tuple[Any, str]] = {
    "interrupted": (YOLO(), "resumable"),
    "after the first epoch": (YOLO(epoch=0), "resumable"),
    "live model beside the average": (YOLO(model=detector()), "resumable"),
    "module without an average": (YOLO(model=detector(), ema=None, updates=None), "resumable"),
    "optimizer without state": (YOLO(optimizer=detector_optimizer(state={})), "resumable"),
    "optimizer is None": (YOLO(optimizer=None), "incomplete"),
    "optimizer is gone": (YOLO(optimizer=...), "incomplete"),
    "optimizer without groups": (YOLO(optimizer={"state": {}, "param_groups": []}), "incomplete"),
    "no arguments": (YOLO(train_args={}), "incomplete"),
    "epoch mark with a live optimizer": (YOLO(epoch=-1), "incomplete"),
    "no epoch": (YOLO(epoch=...), "incomplete"),
    "arguments are gone": (YOLO(train_args=...), "incomplete"),
    "average without a module": (YOLO(ema=weights()), "incomplete"),
    "optimizer whose state is a list": (YOLO(optimizer=detector_optimizer(state=[])), "incomplete"),
    "random state alone": ({"rng_state": Tensor((5056,), 0, "uint8")}, "incomplete"),
    "counter of the average is gone": (YOLO(updates=...), "incomplete"),
    "group sizes of another model": (YOLO(optimizer=optimizer_of(MODEL)), "incomplete"),
    "stripped": (stripped_checkpoint(), "finished"),
    "last epoch done, not stripped": (YOLO(epoch=4), "finished"),
    "epoch beyond the planned ones": (YOLO(epoch=50), "finished"),
    "own loop": (PLAIN(), "resumable"),
    "own loop without an epoch": (PLAIN(epoch=...), "resumable"),
    "own loop at its end": (PLAIN(epoch=9), "finished"),
    "scheduler without an optimizer": (PLAIN(optimizer_state_dict=...), "incomplete"),
    "optimizer alone": (PLAIN()["optimizer_state_dict"], "incomplete"),
    "scheduler alone": ({"scheduler": PLAIN()["scheduler"], "x": Tensor((2,))}, "incomplete"),
    "bare state dict": (weights(), "weights"),
    "weights and numbers": ({"model": weights(), "epoch": 3, "best_acc": 0.5}, "weights"),
    "pickled module": (detector(), "weights"),
    "no tensors at all": ({"epoch": 3}, "foreign"),
}


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
def test_situation_gets_its_verdict(situation: str, quick: bool, verified: Verify) -> None:
    content, verdict = SITUATIONS[situation]
    report = verified(content, quick=quick)
    assert report.verdict == verdict, [fact.message for fact in report.findings]
    assert report.checked == ("structure" if quick else "full")


@pytest.mark.parametrize("situation", SITUATIONS)
def test_verdict_is_that_of_a_finding_or_the_file_is_good(situation: str, verified: Verify) -> None:
    report = verified(SITUATIONS[situation][0])
    decided = {fact.verdict for fact in report.findings if fact.verdict is not None}
    assert report.verdict in (decided or {Verdict.RESUMABLE, Verdict.WEIGHTS})


@pytest.mark.parametrize("make", [saved, saved_legacy], ids=["archive", "stream"])
@pytest.mark.parametrize("situation", ["own loop", "stripped", "scheduler without an optimizer", "bare state dict"])
def test_old_and_new_format_get_the_same_verdict(situation: str, make: Any, verified: Verify) -> None:
    content, verdict = SITUATIONS[situation]
    assert verified(make(content)).verdict == verdict


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_non_finite_weight_is_incomplete_and_named(value: float, dtype: str, verified: Verify) -> None:
    bad = plain_checkpoint(model_state_dict=weights(**{"linear.weight": Tensor((2, 4), [1.0] * 7 + [value], dtype)}))
    report = verified(bad)
    assert report.verdict is Verdict.INCOMPLETE
    assert "linear.weight" in next(fact.message for fact in report.findings if fact.slug == "non-finite")
    assert not report.allows("inference")


def test_non_finite_optimizer_state_leaves_the_weights_usable(verified: Verify) -> None:
    optimizer = optimizer_of(MODEL)
    optimizer["state"][0]["momentum_buffer"] = Tensor((4, 3, 3, 3), float("nan"))
    report = verified(plain_checkpoint(optimizer_state_dict=optimizer))
    assert report.verdict is Verdict.INCOMPLETE
    assert report.allows("inference")


def test_infinity_elsewhere_is_a_note(verified: Verify) -> None:
    report = verified(plain_checkpoint(callbacks={"best_score": Tensor((), float("inf"))}))
    assert report.verdict is Verdict.RESUMABLE
    assert "non-finite-elsewhere" in {fact.slug for fact in report.findings}


@pytest.mark.parametrize(
    ("situation", "resume", "inference"),
    [
        ("interrupted", True, True),
        ("stripped", False, True),
        ("bare state dict", False, True),
        ("optimizer is None", False, True),
        ("optimizer alone", False, False),
        ("no tensors at all", False, False),
    ],
)
def test_what_a_verdict_allows(situation: str, resume: bool, inference: bool, verified: Verify) -> None:
    report = verified(SITUATIONS[situation][0])
    assert (report.allows("resume"), report.allows("inference")) == (resume, inference)


def test_report_says_how_far_training_got(verified: Verify) -> None:
    report = verified(ultralytics_checkpoint())
    assert (report.layout, report.epoch, report.epochs, report.version) == ("ultralytics", 1, 5, "8.4.190")
    assert report.kind == "torch-zip"
    assert report.size == len(saved(ultralytics_checkpoint()))


def test_errors_come_before_warnings_and_notes(verified: Verify) -> None:
    report = verified(stripped_checkpoint())
    ranks = [["error", "warning", "note"].index(str(fact.severity)) for fact in report.findings]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) > 1


def test_every_remedy_is_a_command_for_this_file(verified: Verify) -> None:
    report = verified(stripped_checkpoint(), "my run/last.pt")
    for fact in report.findings:
        assert fact.remedy
        assert "{" not in fact.remedy, fact.remedy
    assert any("my run/last.pt'" in fact.remedy for fact in report.findings)


class TestTarget:
    OLD = ("bias", "weight", "norm")

    def test_the_files_own_version_is_the_default(self, verified: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ckpt_tools.verbs.verify.installed_packages", lambda names, python, trainer="": ({}, None))
        report = verified(ultralytics_checkpoint())
        assert report.target is not None
        assert (str(report.target), report.target.source) == ("ultralytics==8.4.190", "file")

    def test_the_installed_version_comes_before_the_files_own(
        self, verified: Verify, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "ckpt_tools.verbs.verify.installed_packages", lambda names, python, trainer="": ({}, "8.4.1")
        )
        report = verified(ultralytics_checkpoint())
        assert report.target is not None
        assert (report.target.version, report.target.source) == ("8.4.1", "installed")

    def test_groups_in_the_order_of_an_older_version_are_refused_by_a_newer_one(self, verified: Verify) -> None:
        old = ultralytics_checkpoint("8.3.250", optimizer=detector_optimizer(self.OLD))
        assert verified(old, target="ultralytics==8.3.250").verdict is Verdict.RESUMABLE
        newer = verified(old, target="ultralytics==8.4.190")
        assert newer.verdict is Verdict.INCOMPLETE
        assert "group-order" in {fact.slug for fact in newer.findings}

    def test_groups_in_the_new_order_are_refused_by_an_older_version(self, verified: Verify) -> None:
        report = verified(ultralytics_checkpoint(), target="ultralytics==8.3.250")
        assert "group-order" in {fact.slug for fact in report.findings}

    def test_arguments_the_target_does_not_know_are_named(self, verified: Verify) -> None:
        args = {"epochs": 5, "optimizer": "SGD", "no_such_argument": 1}
        report = verified(ultralytics_checkpoint(train_args=args), target="ultralytics==8.4.190")
        assert report.verdict is Verdict.INCOMPLETE
        assert "no_such_argument" in next(fact.message for fact in report.findings if fact.slug == "args-refused")

    def test_target_of_another_trainer_changes_nothing(self, verified: Verify) -> None:
        assert verified(plain_checkpoint(), target="ultralytics==8.4.190").verdict is Verdict.RESUMABLE

    def test_a_short_version_means_its_first_release(self, verified: Verify) -> None:
        assert verified(ultralytics_checkpoint(), target="ultralytics==8.4").verdict is Verdict.RESUMABLE

    @pytest.mark.parametrize("text", ["ultralytics==", "ultralytics==new", "==8.4", "a b==1"])
    def test_a_target_that_is_none_is_an_error(self, text: str) -> None:
        with pytest.raises(CkptError, match="--target"):
            parse_target(text)


class TestSibling:
    def test_the_newest_resumable_sibling_is_named(self, write: Write) -> None:
        last = write(stripped_checkpoint())
        write(ultralytics_checkpoint(epoch=1), "epoch1.pt")
        write(ultralytics_checkpoint(epoch=3), "epoch3.pt")
        write(cut(saved(ultralytics_checkpoint(epoch=3)), 900), "epoch4.pt")
        report = verify(last)
        assert report.sibling == str(last.with_name("epoch3.pt"))
        assert "epoch3.pt (epoch 3)" in next(fact.message for fact in report.findings if fact.slug == "sibling")

    def test_files_of_another_kind_are_no_siblings(self, write: Write) -> None:
        last = write(stripped_checkpoint())
        write(plain_checkpoint(), "other.pt")
        assert verify(last).sibling is None

    def test_a_file_is_not_its_own_sibling(self, write: Write) -> None:
        last = write(stripped_checkpoint())
        assert verify(last).sibling is None


class TestChanging:
    def test_a_file_that_keeps_changing_is_damaged(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(plain_checkpoint())
        monkeypatch.setattr("ckpt_tools.verbs.verify.PAUSE", 0)
        monkeypatch.setattr("ckpt_tools.checkpoint.Checkpoint.changed", lambda self: True)
        report = verify(path)
        assert report.verdict is Verdict.DAMAGED
        assert report.findings[0].slug == "keeps-changing"

    def test_a_file_that_settles_is_judged_as_it_then_is(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(cut(saved(plain_checkpoint()), 3000))
        monkeypatch.setattr("ckpt_tools.verbs.verify.PAUSE", 0)
        original = Checkpoint.changed

        def finish_the_save(checkpoint: Checkpoint) -> bool:
            if path.stat().st_size == 3000:
                path.write_bytes(saved(plain_checkpoint()))
            return original(checkpoint)

        monkeypatch.setattr("ckpt_tools.checkpoint.Checkpoint.changed", finish_the_save)
        assert verify(path).verdict is Verdict.RESUMABLE


class TestFindings:
    def test_damaged_file_that_was_just_written_may_not_be_done_yet(self, write: Write) -> None:
        path = write(cut(saved(plain_checkpoint()), 3000))
        assert "just-written" not in {fact.slug for fact in verify(path).findings}
        os.utime(path)
        assert "just-written" in {fact.slug for fact in verify(path).findings}

    def test_alike_findings_are_counted_not_repeated(self, verified: Verify) -> None:
        evil = {f"k{number}": Tensor((2,), numel=1) for number in range(60)}
        report = verified({"model": evil})
        assert report.verdict is Verdict.DAMAGED
        slugs = [fact.slug for fact in report.findings]
        assert max(map(slugs.count, slugs)) <= 20
        assert any("more like this" in fact.message for fact in report.findings)

    def test_names_from_a_file_can_not_write_to_the_terminal(self, verified: Verify) -> None:
        name = "\x1b[2J\u202egpj.linear.weight"
        report = verified(plain_checkpoint(model_state_dict=weights(**{name: Tensor((1, 2), float("nan"))})))
        told = next(fact for fact in report.findings if fact.slug == "non-finite")
        assert "\x1b" not in told.message + told.where
        assert "\u202e" not in told.message + told.where
        assert r"\x1b[2J" in told.message

    def test_trust_silences_a_package(self, verified: Verify) -> None:
        content = plain_checkpoint(settings=module("my_project.models.Net"))
        assert "unknown-code" in {fact.slug for fact in verified(content).findings}
        for trusted in ("my_project", "my_project.models", "my_project.models:Net"):
            assert "unknown-code" not in {fact.slug for fact in verified(content, trust=[trusted]).findings}
        assert "unknown-code" in {fact.slug for fact in verified(content, trust=["my_project.models:Other"]).findings}

    def test_appended_bytes_are_damage(self, verified: Verify) -> None:
        report = verified(append(saved(plain_checkpoint()), b"\0" * 100 + b"x"))
        assert report.verdict is Verdict.DAMAGED


class TestPaths:
    def test_missing_file_is_an_error_not_a_verdict(self, tmp_path: Path) -> None:
        with pytest.raises(CkptError, match="does not exist"):
            verify(tmp_path / "none.pt")

    def test_folder_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(CkptError, match="folder"):
            verify(tmp_path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_pipe_is_an_error_and_does_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.pt")
        with pytest.raises(CkptError, match="not a regular file"):
            verify(tmp_path / "pipe.pt")

    def test_home_is_expanded(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(weights())
        monkeypatch.setenv("HOME", str(path.parent))
        monkeypatch.setenv("USERPROFILE", str(path.parent))
        assert verify("~/last.pt").verdict is Verdict.WEIGHTS

    def test_verifying_changes_nothing_in_the_folder(self, write: Write, tmp_path: Path) -> None:
        path = write(stripped_checkpoint())
        before = (path.stat().st_mtime_ns, path.read_bytes())
        shutil.copy(path, tmp_path / "copy.bin")
        verify(path)
        assert (path.stat().st_mtime_ns, path.read_bytes()) == before
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copy.bin", "last.pt"]


def test_progress_counts_the_bytes_of_all_members(write: Write) -> None:
    path = write(plain_checkpoint())
    done: list[int] = []
    verify(path, progress=done.append)
    with ckpt_tools.open(path) as opened:
        assert opened.checkpoint.container is not None
        assert sum(done) == sum(member.stored for member in opened.checkpoint.container.members.values())
        assert storage_member(opened.checkpoint).size > 0
