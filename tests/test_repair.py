"""``ckpt repair`` as a user meets it: the file it picks, consent, names of outputs, donors, exit codes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from building import (
    Tensor,
    detector_optimizer,
    optimizer_of,
    plain_checkpoint,
    saved,
    stripped_checkpoint,
    ultralytics_checkpoint,
    weights,
)
from conftest import Run, Write
from damage import append, cut, flip, storage_member
from hostile_samples import SAMPLES
from mending import mend, planned, tensors

from ckpt_tools.checkpoint import read_checkpoint
from ckpt_tools.findings import CkptError, Verdict
from ckpt_tools.plans.apply import backup_name
from ckpt_tools.source import BytesSource
from ckpt_tools.verbs.repair import choose_file
from ckpt_tools.verbs.verify import verify

NO_OPTIMIZER = ultralytics_checkpoint(optimizer=None, epoch=2)
OLDER = ultralytics_checkpoint(epoch=1)
PLAIN = saved(plain_checkpoint())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def document(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def run_folder(write: Write) -> tuple[Path, Path]:
    """A ``last.pt`` without its optimizer, and an older file of the run that has one."""
    return write(NO_OPTIMIZER, "run/weights/last.pt"), write(OLDER, "run/weights/epoch1.pt")


class TestOutcomes:
    def test_named_donor_is_all_the_consent_that_is_needed(self, write: Write, ckpt: Run) -> None:
        last, older = run_folder(write)
        before = contents(last.parent)
        run = ckpt("repair", last, "--optimizer-from", older)
        assert (run.returncode, run.stderr) == (0, "")
        made = last.with_name("last.repaired.pt")
        assert verify(made).verdict is Verdict.RESUMABLE
        assert f"wrote {made}: resumable, goes on at epoch 3" in run.stdout
        assert f"next: ckpt verify {made}" in run.stdout
        assert {name: data for name, data in contents(last.parent).items() if name != made.name} == before

    def test_what_the_tool_picks_by_itself_needs_a_word(self, write: Write, ckpt: Run, tmp_path: Path) -> None:
        last, _ = run_folder(write)
        before = contents(tmp_path)
        run = ckpt("repair", last)
        assert run.returncode == 1
        assert "optimizer from epoch1.pt (epoch 1) (loss)" in run.stdout
        assert "--accept-loss; nothing was written" in run.stdout
        assert contents(tmp_path) == before
        assert ckpt("repair", last, "--accept-loss").returncode == 0

    @pytest.mark.parametrize("kept", ["weights/last.pt.prev", ".ckpt-ring/000004.epoch1.last.pt"])
    def test_what_a_guard_or_a_watcher_kept_is_a_donor(self, write: Write, ckpt: Run, kept: str) -> None:
        last = write(NO_OPTIMIZER, "run/weights/last.pt")
        copy = write(OLDER, f"run/{kept}")
        run = ckpt("repair", last)
        name = copy.name if copy.parent == last.parent else copy
        assert f"optimizer from {name} (epoch 1) (loss)" in run.stdout
        assert ckpt("repair", last, "--optimizer-from", copy).returncode == 0

    @pytest.mark.parametrize("arguments", [["--reinit", "optimizer"], ["--accept-loss"]])
    def test_fresh_optimizer_where_none_is_at_hand(self, arguments: list[str], write: Write, ckpt: Run) -> None:
        last = write(NO_OPTIMIZER)
        assert ckpt("repair", last).returncode == 1
        assert ckpt("repair", last, *arguments).returncode == 0
        assert verify(last.with_name("last.repaired.pt")).verdict is Verdict.RESUMABLE

    @pytest.mark.parametrize("content", [ultralytics_checkpoint(), plain_checkpoint(), weights()])
    def test_good_file_has_nothing_to_do(self, content: Any, write: Write, ckpt: Run, tmp_path: Path) -> None:
        run = ckpt("repair", write(content))
        assert (run.returncode, run.stderr) == (0, "")
        assert "nothing to do" in run.stdout
        assert list(contents(tmp_path)) == ["last.pt"]

    @pytest.mark.parametrize("content", [stripped_checkpoint(), ultralytics_checkpoint(epoch=4)])
    def test_finished_run_is_told_from_a_good_file(self, content: Any, write: Write, ckpt: Run, tmp_path: Path) -> None:
        run = ckpt("repair", write(content))
        assert run.returncode == 3
        assert "nothing to do" in run.stdout
        assert "--set epochs=" in run.stdout
        assert list(contents(tmp_path)) == ["last.pt"]

    @pytest.mark.parametrize(
        ("content", "word"),
        [
            (SAMPLES["zip_member"]("canary"), "unsafe"),
            (b"<!DOCTYPE html><html></html>", "foreign"),
            (append(SAMPLES["zip_member"]("canary"), b"more"), "unsafe"),
        ],
    )
    def test_unsafe_and_foreign_files_are_refused(
        self, content: bytes, word: str, write: Write, ckpt: Run, tmp_path: Path
    ) -> None:
        write(OLDER, "epoch1.pt")
        before = contents(tmp_path) | {"last.pt": content}
        for arguments in ([], ["--accept-loss", "--force"], ["--model-from", "epoch1.pt", "--accept-loss"]):
            run = ckpt("repair", write(content), *arguments)
            assert run.returncode == 1
            assert f"the file is {word}" in run.stdout
            assert contents(tmp_path) == before

    def test_what_can_not_be_mended_says_so(self, write: Write, ckpt: Run, tmp_path: Path) -> None:
        run = ckpt("repair", write(cut(PLAIN, 1000)), "--accept-loss")
        assert run.returncode == 1
        assert "can't be mended" in run.stdout
        assert "nothing was written" in run.stdout
        assert list(contents(tmp_path)) == ["last.pt"]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["none.pt"],
            [],
            ["last.pt", "--optimizer-from", "none.pt"],
            ["last.pt", "--optimizer-from", "page.html"],
            ["last.pt", "--from", "none"],
            ["last.pt", "--epoch-from", "none.csv"],
            ["last.pt", "--args-from", "none.yaml"],
            ["last.pt", "--set", "epochs"],
            ["last.pt", "--set", "x=[1"],
            ["last.pt", "--cure", "everything"],
            ["last.pt", "--reinit", "model"],
            ["last.pt", "--target", "what?"],
            ["last.pt", "--epoch", "-1"],
            ["last.pt", "-o", "new.pt", "--in-place", "--accept-loss"],
            ["last.pt", "-o", "no/such/folder/new.pt", "--accept-loss"],
            ["last.pt", "-o", ".", "--accept-loss"],
            ["."],
            ["*.pt"],
        ],
        ids=" ".join,
    )
    def test_usage_errors_exit_2_and_say_why_on_stderr(
        self, arguments: list[str], write: Write, ckpt: Run, tmp_path: Path
    ) -> None:
        if arguments:
            write(NO_OPTIMIZER)
        write(b"<!DOCTYPE html>", "page.html")
        before = contents(tmp_path)
        run = ckpt("repair", *arguments)
        assert run.returncode in ((1, 2) if "none.csv" in arguments or "none.yaml" in arguments else (2,))
        assert run.stderr.strip() or run.returncode == 1
        assert "Traceback" not in run.stderr
        assert contents(tmp_path) == before

    def test_there_is_no_prompt_without_a_terminal(self, write: Write, ckpt: Run) -> None:
        run = ckpt("repair", write(NO_OPTIMIZER))
        assert "Write it?" not in run.stdout + run.stderr


class TestNames:
    @pytest.mark.parametrize(
        ("name", "output"),
        [
            ("last.pt", "last.repaired.pt"),
            ("epoch 3.pth", "epoch 3.repaired.pth"),
            ("model.tar.ckpt", "model.tar.repaired.ckpt"),
            ("checkpoint", "checkpoint.repaired.pt"),
        ],
    )
    def test_result_is_named_after_the_file(self, name: str, output: str, write: Write, ckpt: Run) -> None:
        path = write(append(PLAIN, b"more"), name)
        assert ckpt("repair", path).returncode == 0
        assert verify(path.with_name(output)).verdict is Verdict.RESUMABLE

    def test_output_goes_where_it_is_told(self, write: Write, ckpt: Run, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        path = write(append(PLAIN, b"more"))
        assert ckpt("repair", path, "-o", "out/new.pt").returncode == 0
        assert sorted(contents(tmp_path)) == ["last.pt", "out/new.pt"]

    def test_nothing_is_overwritten_without_force(self, write: Write, ckpt: Run, tmp_path: Path) -> None:
        path, there = write(append(PLAIN, b"more")), write(b"mine", "last.repaired.pt")
        run = ckpt("repair", path)
        assert run.returncode == 2
        assert "--force" in run.stderr
        assert there.read_bytes() == b"mine"
        assert ckpt("repair", path, "--force").returncode == 0
        assert verify(there).verdict is Verdict.RESUMABLE
        assert sorted(contents(tmp_path)) == ["last.pt", "last.repaired.pt"]

    def test_output_that_is_the_file_itself_keeps_the_original(self, write: Write, ckpt: Run) -> None:
        data = append(PLAIN, b"more")
        path = write(data)
        assert ckpt("repair", path, "-o", path).returncode == 0
        assert path.with_name("last.pt.bak").read_bytes() == data
        assert verify(path).verdict is Verdict.RESUMABLE

    def test_output_that_is_the_donor_is_not_overwritten_by_accident(self, write: Write, ckpt: Run) -> None:
        last, older = run_folder(write)
        before = older.read_bytes()
        assert ckpt("repair", last, "--optimizer-from", older, "-o", older).returncode == 2
        assert older.read_bytes() == before

    def test_output_may_replace_the_donor_where_that_is_forced(self, write: Write, ckpt: Run) -> None:
        last, older = run_folder(write)
        assert ckpt("repair", last, "--optimizer-from", older, "-o", older, "--force").returncode == 0
        assert verify(older, siblings=False).verdict is Verdict.RESUMABLE
        assert verify(older, siblings=False).epoch == 2

    def test_in_place_keeps_the_original_under_another_name(self, write: Write, ckpt: Run, tmp_path: Path) -> None:
        data = append(PLAIN, b"more")
        path = write(data)
        run = ckpt("repair", path, "--in-place")
        assert run.returncode == 0
        assert "the original is last.pt.bak" in run.stdout
        assert (tmp_path / "last.pt.bak").read_bytes() == data
        assert verify(path).verdict is Verdict.RESUMABLE
        again = append(path.read_bytes(), b"more")
        run = ckpt("repair", write(again), "--in-place")
        assert run.returncode == 0
        assert "last.pt.bak2" in run.stdout
        assert (tmp_path / "last.pt.bak").read_bytes() == data
        assert (tmp_path / "last.pt.bak2").read_bytes() == again
        assert sorted(contents(tmp_path)) == ["last.pt", "last.pt.bak", "last.pt.bak2"]

    def test_backups_are_never_taken_for_checkpoints(self, tmp_path: Path) -> None:
        (tmp_path / "last.pt.bak").write_bytes(b"")
        name = backup_name(tmp_path / "last.pt").name
        assert name == "last.pt.bak2"
        assert not name.endswith((".pt", ".pth", ".ckpt"))

    @pytest.mark.parametrize("age", [-30, 0, 30])
    def test_in_place_leaves_a_file_alone_that_was_just_written(self, age: int, write: Write, ckpt: Run) -> None:
        data = append(PLAIN, b"more")
        path = write(data)
        os.utime(path, (time.time() - age, time.time() - age))
        run = ckpt("repair", path, "--in-place")
        assert run.returncode == 2
        assert "--force" in run.stderr
        assert path.read_bytes() == data
        assert ckpt("repair", path, "--in-place", "--force").returncode == 0
        assert verify(path).verdict is Verdict.RESUMABLE

    @pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
    @pytest.mark.parametrize("arguments", [[], ["--in-place"]])
    def test_mode_is_that_of_the_original(self, mode: int, arguments: list[str], write: Write, ckpt: Run) -> None:
        path = write(append(PLAIN, b"more"))
        path.chmod(mode)
        assert ckpt("repair", path, *arguments).returncode == 0
        made = path if arguments else path.with_name("last.repaired.pt")
        assert stat.S_IMODE(made.stat().st_mode) == mode

    @pytest.mark.skipif(os.name == "nt", reason="links need rights there")
    def test_in_place_through_a_link_mends_what_the_link_leads_to(
        self, write: Write, ckpt: Run, tmp_path: Path
    ) -> None:
        path = write(append(PLAIN, b"more"), "store/real.pt")
        link = tmp_path / "last.pt"
        link.symlink_to(path)
        assert ckpt("repair", link, "--in-place").returncode == 0
        assert link.is_symlink()
        assert verify(path).verdict is Verdict.RESUMABLE
        assert path.with_name("real.pt.bak").read_bytes() == append(PLAIN, b"more")


class TestFileLeftOut:
    def test_newest_file_that_needs_it_is_picked_from_the_folder_of_the_donor(self, write: Write, ckpt: Run) -> None:
        last, older = run_folder(write)
        write(b"", "last.pt")  # in the current folder, which comes later
        run = ckpt("repair", "--optimizer-from", older)
        assert run.returncode == 0
        assert f"{last}: incomplete (the newest that needs it)" in run.stdout
        assert last.with_name("last.repaired.pt").exists()

    def test_current_folder_is_looked_into(self, write: Write, ckpt: Run, tmp_path: Path) -> None:
        write(append(PLAIN, b"more"))
        assert ckpt("repair").returncode == 0
        assert sorted(contents(tmp_path)) == ["last.pt", "last.repaired.pt"]

    def test_newest_is_by_epoch_then_by_time(self, write: Write, tmp_path: Path) -> None:
        write(ultralytics_checkpoint(optimizer=None, epoch=3), "last-a.pt")
        write(ultralytics_checkpoint(optimizer=None, epoch=2), "last-b.pt")
        early = write(ultralytics_checkpoint(optimizer=None, epoch=3), "last-c.pt")
        os.utime(early, (1, 1))
        write(ultralytics_checkpoint(epoch=4), "last.pt")
        write(ultralytics_checkpoint(optimizer=None, epoch=4), "best.pt")
        write(ultralytics_checkpoint(optimizer=None, epoch=9), "last.repaired.pt")
        write(ultralytics_checkpoint(optimizer=None, epoch=9), "last.pt.bak")
        assert choose_file([tmp_path]).name == "last-a.pt"

    def test_nothing_that_needs_it_is_an_error(self, write: Write, tmp_path: Path, ckpt: Run) -> None:
        write(ultralytics_checkpoint())
        write(b"<!DOCTYPE html>", "last-page.pt")
        with pytest.raises(CkptError, match="name the file"):
            choose_file([tmp_path, tmp_path / "none"])
        assert ckpt("repair").returncode == 2


class TestPlans:
    @pytest.mark.parametrize("donor", [True, False])
    def test_dry_run_says_the_same_and_writes_nothing(
        self, donor: bool, write: Write, ckpt: Run, tmp_path: Path
    ) -> None:
        last, older = run_folder(write)
        before = contents(tmp_path)
        arguments = ["--optimizer-from", str(older)] if donor else []
        run = ckpt("repair", last, *arguments, "--dry-run")
        assert run.returncode == (0 if donor else 1)
        assert "would write" in run.stdout
        assert contents(tmp_path) == before
        assert ckpt("repair", last, "--dry-run", "--accept-loss").returncode == 0
        done = ckpt("repair", last, *arguments, "--accept-loss").stdout
        assert [line for line in done.splitlines() if line.startswith("  ")] == [
            line.replace(" (loss)", "") if donor else line for line in run.stdout.splitlines() if line.startswith("  ")
        ]

    def test_document_has_the_fields_of_the_contract(self, write: Write, ckpt: Run) -> None:
        last, older = run_folder(write)
        run = ckpt("repair", last, "--optimizer-from", older, "--json")
        found = document(run)
        assert (run.returncode, run.stderr) == (0, "")
        assert found["schema"] == "ckpt-tools/repair/1"
        assert {key: found[key] for key in ("file", "chosen", "output", "written", "verdict", "expected")} == {
            "file": str(last), "chosen": False, "output": str(last.with_name("last.repaired.pt")), "written": True,
            "verdict": "incomplete", "expected": "resumable",
        }  # fmt: skip
        assert (found["resumes_at"], found["needs_consent"], found["refused"]) == (3, False, None)
        assert [set(step) for step in found["steps"]] == [{"name", "text", "loss", "consent"}]
        keys = {"role", "path", "outcome", "source", "epoch", "tensors", "kept", "bytes", "names", "digest"}
        assert [set(part) for part in found["parts"]] == [keys] * 3
        outcomes = {part["path"]: (part["outcome"], part["source"], part["epoch"]) for part in found["parts"]}
        assert outcomes["ema"] == ("kept", None, None)
        assert outcomes["optimizer"] == ("donor", "epoch1.pt", 1)

    def test_document_of_a_refusal_says_why(self, write: Write, ckpt: Run) -> None:
        run = ckpt("repair", write(cut(PLAIN, 1000)), "--json")
        assert run.returncode == 1
        assert (document(run)["written"], bool(document(run)["refused"])) == (False, True)
        run = ckpt("repair", write(NO_OPTIMIZER), "--json")
        assert run.returncode == 1
        assert "--accept-loss" in document(run)["refused"]

    def test_document_of_nothing_to_do(self, write: Write, ckpt: Run) -> None:
        run = ckpt("repair", write(ultralytics_checkpoint()), "--json")
        assert run.returncode == 0
        assert {key: document(run)[key] for key in ("steps", "written", "refused", "expected")} == {
            "steps": [], "written": False, "refused": None, "expected": "resumable",
        }  # fmt: skip

    def test_ledger_says_what_came_from_where(self, write: Write) -> None:
        last, older = run_folder(write)
        mended = mend(last, optimizer_from=older)
        ledger = mended.ledger()
        assert ledger["schema"] == "ckpt-tools/ledger/1"
        assert ledger["tool"].startswith("ckpt-tools ")
        assert [source["name"] for source in ledger["sources"]] == ["last.pt", "epoch1.pt"]
        assert [source["size"] for source in ledger["sources"]] == [path.stat().st_size for path in (last, older)]
        assert (ledger["verdict_before"], ledger["expected"], ledger["resumes_at"]) == ("incomplete", "resumable", 3)
        digests = {part["path"]: part["digest"] for part in ledger["parts"]}
        again = mend(last, optimizer_from=older).ledger()
        assert {part["path"]: part["digest"] for part in again["parts"]} == digests

    def test_names_from_a_file_reach_the_terminal_escaped(self, write: Write, ckpt: Run) -> None:
        data = saved(plain_checkpoint(model_state_dict=weights(**{"a\x1b[31mred": Tensor((2,))})))
        place = storage_member(read_checkpoint(BytesSource(data)), "4").offset
        run = ckpt("repair", write(flip(data, place)))
        assert "\x1b" not in run.stdout + run.stderr
        assert "red" in run.stdout


class TestDonors:
    def test_momentum_is_the_donors_and_the_weights_are_the_files_own(self, write: Write) -> None:
        optimizer = detector_optimizer()
        for state in optimizer["state"].values():
            state["momentum_buffer"] = Tensor(state["momentum_buffer"].shape, 0.75)
        donor = write(ultralytics_checkpoint(optimizer=optimizer, epoch=0), "epoch0.pt")
        last = write(NO_OPTIMIZER)
        found = mend(last, optimizer_from=donor).tensors()
        own, theirs = tensors(last), tensors(donor)
        assert {n: v for n, v in found.items() if n.startswith("ema")} == own
        wanted = {n: v for n, v in theirs.items() if n.startswith("optimizer")}
        assert {n: v for n, v in found.items() if n.startswith("optimizer")} == wanted

    def test_donor_of_an_older_release_is_brought_into_the_order_of_the_file(self, write: Write) -> None:
        optimizer = detector_optimizer(("bias", "weight", "norm"))
        donor = write(ultralytics_checkpoint("8.3.250", optimizer=optimizer, epoch=0), "epoch0.pt")
        mended = mend(write(NO_OPTIMIZER), optimizer_from=donor)
        assert [len(group["params"]) for group in mended.value("optimizer.param_groups")] == [2, 1, 2]
        assert "group-order" in mended.steps

    @pytest.mark.parametrize(
        ("donor", "told"),
        [
            (plain_checkpoint(model_state_dict=weights(**{"linear.bias": Tensor((3,))})), "linear.bias"),
            (plain_checkpoint(model_state_dict=weights(**{"conv.weight": ...})), "conv.weight"),
            (plain_checkpoint(model_state_dict=weights(extra=Tensor((3,)))), "extra"),
            (plain_checkpoint(model_state_dict=weights(**{"linear.bias": Tensor((2,), 1, "int64")})), "linear.bias"),
        ],
        ids=["shape", "missing", "extra", "type"],
    )
    @pytest.mark.parametrize("role", ["model", "optimizer"])
    def test_misfit_is_refused_with_the_first_names(
        self, role: str, donor: Any, told: str, write: Write, ckpt: Run, tmp_path: Path
    ) -> None:
        write(plain_checkpoint(optimizer_state_dict=None))
        write(donor, "other.pt")
        before = contents(tmp_path)
        run = ckpt("repair", "last.pt", f"--{role}-from", "other.pt", "--accept-loss")
        assert run.returncode == 1
        assert "does not fit" in run.stdout
        assert told in run.stdout
        assert contents(tmp_path) == before

    def test_damaged_donor_is_refused(self, write: Write) -> None:
        data = saved(OLDER)
        place = storage_member(read_checkpoint(BytesSource(data)), "9").offset
        donor = write(flip(data, place), "epoch1.pt")
        plan = planned(write(NO_OPTIMIZER), optimizer_from=donor)
        assert plan.refused is not None
        assert "damaged itself" in plan.refused
        plan = planned(write(NO_OPTIMIZER), optimizer_from=write(cut(data, len(data) // 2), "epoch1.pt"))
        assert plan.refused is not None

    def test_unsafe_donor_is_refused(self, write: Write) -> None:
        donor = write(SAMPLES["zip_member"]("canary"), "epoch1.pt")
        with pytest.raises(CkptError, match="can't be a donor"):
            planned(write(NO_OPTIMIZER), optimizer_from=donor)

    def test_donor_without_the_part_is_refused(self, write: Write) -> None:
        donor = write(weights(), "weights.pt")
        for role in ("optimizer", "scheduler", "scaler", "rng"):
            plan = planned(write(plain_checkpoint()), **{f"{role}_from": donor})
            assert plan.refused is not None
            assert f"has no {role}" in plan.refused

    @pytest.mark.parametrize("ours", ["", "module.", "_orig_mod."])
    @pytest.mark.parametrize("theirs", ["", "module.", "_orig_mod.", "_orig_mod.module."])
    def test_weights_of_a_bare_state_dict_fit_whatever_wrapped_them(self, ours: str, theirs: str, write: Write) -> None:
        own = OrderedDict((ours + name, held) for name, held in weights().items())
        new = {name: Tensor(held.shape, 0.5 + number) for number, (name, held) in enumerate(weights().items())}
        path = write(plain_checkpoint(model_state_dict=own))
        donor = write(OrderedDict((theirs + name, held) for name, held in new.items()), "weights.pt")
        mended = mend(path, model_from=donor, epoch=7)
        found = {name: value for name, value in mended.tensors().items() if name.startswith("model_state_dict.")}
        assert list(found) == [f"model_state_dict.{ours}{name}" for name in new]
        assert found[f"model_state_dict.{ours}linear.bias"] == [3.5, 3.5]
        assert mended.plan.resumes_at == 8

    def test_weights_of_a_state_dict_go_into_the_layers_of_a_model(self, write: Write) -> None:
        last = write(ultralytics_checkpoint())
        named = {name.removeprefix("ema."): value for name, value in tensors(last).items() if name.startswith("ema.")}
        assert "model.1.cv3.0.0.bias" in named
        bare = OrderedDict((name, tensor_like(name, value)) for name, value in named.items())
        bare["model.1.cv3.0.0.bias"] = Tensor((2,), [7.0, 8.0])
        mended = mend(last, ema_from=write(bare, "weights.pt"))
        assert mended.tensors()["ema.model.1.cv3.0.0.bias"] == [7.0, 8.0]
        assert mended.report.verdict is Verdict.RESUMABLE

    def test_epoch_goes_with_the_weights(self, write: Write) -> None:
        mended = mend(write(ultralytics_checkpoint(epoch=3)), ema_from=write(OLDER, "epoch1.pt"))
        assert mended.plan.resumes_at == 2
        assert "epoch 1" in mended.text

    def test_weights_of_a_stripped_file_go_into_a_checkpoint(self, write: Write) -> None:
        donor = write(stripped_checkpoint(train_results={"epoch": [1, 2, 3]}), "run/last.pt")
        mended = mend(write(ultralytics_checkpoint(epoch=0)), ema_from=donor)
        assert mended.plan.resumes_at == 3

    def test_scheduler_of_another_epoch_is_moved_to_this_files(self, write: Write) -> None:
        path = write(plain_checkpoint(epoch=6, scheduler=...))
        mended = mend(path, scheduler_from=write(plain_checkpoint(), "epoch2.pt"))
        state = mended.value("scheduler")
        assert (state["last_epoch"], state["_step_count"], state["_last_lr"]) == (7, 8, [0.01])
        assert "scheduler-position" in mended.steps

    def test_scheduler_of_the_same_epoch_is_taken_as_it_is(self, write: Write) -> None:
        mended = mend(write(plain_checkpoint(scheduler=...)), scheduler_from=write(plain_checkpoint(), "epoch2.pt"))
        assert mended.value("scheduler") == plain_checkpoint()["scheduler"]

    def test_scheduler_of_ultralytics_is_not_saved_and_can_not_be_taken(self, write: Write) -> None:
        plan = planned(write(ultralytics_checkpoint()), scheduler_from=write(plain_checkpoint(), "other.pt"))
        assert plan.refused is not None

    def test_scaler_and_random_state_are_taken(self, write: Write) -> None:
        other = plain_checkpoint(
            scaler={**plain_checkpoint()["scaler"], "scale": 64.0}, rng_state=Tensor((8,), 1, "uint8")
        )
        donor = write(other, "epoch2.pt")
        mended = mend(write(plain_checkpoint(scaler=...)), scaler_from=donor, rng_from=donor)
        assert mended.value("scaler.scale") == 64.0
        assert mended.tensors()["rng_state"] == [1] * 8

    def test_lost_optimizer_of_a_loop_of_ones_own_comes_from_its_donor(self, write: Write) -> None:
        donor = write(plain_checkpoint(epoch=1), "epoch1.pt")
        mended = mend(write(plain_checkpoint(optimizer_state_dict=...)), optimizer_from=donor)
        assert mended.tensors() == tensors(donor)
        assert mended.plan.resumes_at == 3

    def test_arguments_come_from_a_yaml_or_another_file(self, write: Write) -> None:
        path = write(ultralytics_checkpoint())
        given = write(b"task: detect\ndata: mine.yaml\nepochs: 30\noptimizer: SGD\n", "args.yaml")
        assert mend(path, args_from=given).report.epochs == 30
        args = {"task": "detect", "epochs": 12, "optimizer": "SGD"}
        assert mend(path, args_from=write(ultralytics_checkpoint(train_args=args), "other.pt")).report.epochs == 12

    def test_arguments_from_nonsense_are_refused(self, write: Write) -> None:
        path = write(ultralytics_checkpoint())
        for number, content in enumerate((b"- a\n- b\n", b"{", b"\xff\xfe\0", b"1: 2\n")):
            plan = planned(path, args_from=write(content, f"args{number}.yaml"))
            assert plan.refused is not None
            assert f"args{number}.yaml" in plan.refused

    def test_settings_are_checked_before_they_are_stored(self, write: Write) -> None:
        path = write(ultralytics_checkpoint())
        for settings in ({"epoches": 9}, {"lr0": "high"}, {"epochs": "many"}):
            plan = planned(path, settings=settings)
            assert plan.refused is not None
            assert next(iter(settings)) in plan.refused
        assert mend(path, settings={"epochs": 200}).report.epochs == 200

    def test_sibling_of_another_size_gives_no_optimizer(self, write: Write) -> None:
        other = plain_checkpoint(
            model_state_dict=OrderedDict(weight=Tensor((3,))),
            optimizer_state_dict=optimizer_of({"weight": Tensor((3,))}),
        )
        write(other, "epoch1.pt")
        assert planned(write(plain_checkpoint(optimizer_state_dict=None))).refused is not None


def tensor_like(name: str, value: Any) -> Tensor:
    """A tensor of the shape of nested lists."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0]
    return Tensor(tuple(shape), 1, "int64") if name.endswith("num_batches_tracked") else Tensor(tuple(shape), 0.5)


class TestGoldens:
    """Text people read and scripts grep: a change of it is a decision. ``CKPT_GOLDENS=write`` writes them anew."""

    GOLDENS = Path(__file__).parent / "goldens" / "repair"
    CASES: dict[str, list[str]] = {
        "named-donor": ["no-optimizer.pt", "--optimizer-from", "epoch1.pt"],
        "needs-consent": ["no-optimizer.pt"],
        "dry-run": ["no-optimizer.pt", "--optimizer-from", "epoch1.pt", "--dry-run"],
        "in-place": ["longer.pt", "--in-place"],
        "better-sibling": ["cut.pt", "--accept-loss"],
        "salvaged": ["plain.pt"],
        "good": ["epoch1.pt"],
        "finished": ["finished.pt"],
        "refused": ["web-page.pt"],
        "misfit": ["no-optimizer.pt", "--optimizer-from", "plain.pt"],
        "json": ["no-optimizer.pt", "--optimizer-from", "epoch1.pt", "--json"],
    }

    @pytest.mark.parametrize("case", CASES)
    def test_output_is_as_agreed(self, case: str, write: Write, ckpt: Run, tmp_path: Path) -> None:
        write(NO_OPTIMIZER, "no-optimizer.pt")
        write(OLDER, "epoch1.pt")
        write(append(PLAIN, b"more"), "longer.pt")
        write(cut(saved(NO_OPTIMIZER), 5000), "cut.pt")
        write(flip(PLAIN, storage_member(read_checkpoint(BytesSource(PLAIN)), "5").offset), "plain.pt")
        write(stripped_checkpoint(), "finished.pt")
        write(b"<!DOCTYPE html><html></html>", "web-page.pt")
        arguments = ["repair", *self.CASES[case], "--target", "ultralytics==8.4.190"]
        run = ckpt(*arguments)
        text = f"$ ckpt {' '.join(arguments)}\n{run.stdout}{run.stderr}(exit {run.returncode})\n"
        text = text.replace(str(tmp_path), "DIR").replace("\\", "/")
        golden = self.GOLDENS / f"{case}.txt"
        if os.environ.get("CKPT_GOLDENS") == "write":
            golden.parent.mkdir(exist_ok=True)
            golden.write_text(text, encoding="utf-8")
        assert text == golden.read_text(encoding="utf-8")

    def test_there_is_no_golden_without_a_case(self) -> None:
        assert {path.stem for path in self.GOLDENS.glob("*.txt")} == set(self.CASES)
