"""``ckpt latest``: one path for a shell to use, or an exit code that says why there is none."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from building import plain_checkpoint, saved, stripped_checkpoint, ultralytics_checkpoint, weights
from conftest import ROOT, Run, Write
from damage import append, cut, flip, storage_member

import ckpt_tools
from ckpt_tools.checkpoint import open_checkpoint
from ckpt_tools.findings import CkptError, Verdict
from ckpt_tools.verbs.latest import latest

HOUR = 3600
WEIGHTS = "runs/detect/train/weights"


def at(epoch: int, **replaced: Any) -> dict[str, Any]:
    """A checkpoint of a run of five epochs, the last finished one counted from 0."""
    return ultralytics_checkpoint(epoch=epoch, **replaced)


def aged(path: Path, hours: float) -> Path:
    """The file as if it had been written so many hours before the others."""
    then = path.stat().st_mtime - hours * HOUR
    os.utime(path, (then, then))
    return path


def flipped(write: Write, content: Any, name: str) -> Path:
    """A file whose structure is sound, and one bit of a tensor is not."""
    path = write(content, name)
    with open_checkpoint(path) as checkpoint:
        place = storage_member(checkpoint).offset
    return write(flip(path.read_bytes(), place), name)


@pytest.fixture
def run(write: Write) -> Path:
    """A run that died in its fourth epoch."""
    aged(write(at(1), f"{WEIGHTS}/epoch1.pt"), 2)
    aged(write(at(0), f"{WEIGHTS}/best.pt"), 3)
    return write(at(2), f"{WEIGHTS}/last.pt").parents[4]


class TestWhichFile:
    def test_the_furthest_epoch_wins_whatever_was_written_last(self, run: Path, write: Write) -> None:
        aged(run / WEIGHTS / "last.pt", 5)
        assert latest(run).path == run / WEIGHTS / "last.pt"

    def test_of_one_epoch_the_file_written_last_wins(self, run: Path, write: Write) -> None:
        aged(write(at(2), f"{WEIGHTS}/epoch2.pt"), -1)
        assert latest(run).path == run / WEIGHTS / "epoch2.pt"

    @pytest.mark.parametrize("folder", [WEIGHTS, "runs/detect/train", "runs", "."])
    def test_folder_may_be_the_run_or_any_above_it(self, folder: str, run: Path) -> None:
        assert latest(run / folder).path == run / WEIGHTS / "last.pt"

    def test_run_written_to_last_comes_first(self, run: Path, write: Write) -> None:
        newer = aged(write(at(0), "runs/detect/train2/weights/last.pt"), -1)
        assert latest(run).path == newer

    def test_flipped_bit_is_passed_over_and_told(self, run: Path, write: Write) -> None:
        flipped(write, at(3), f"{WEIGHTS}/last.pt")
        found = latest(run)
        assert found.path == run / WEIGHTS / "epoch1.pt"
        assert [(path.name, why[:7]) for path, why in found.passed] == [("last.pt", "damaged")]

    def test_quick_trusts_structure(self, run: Path, write: Write) -> None:
        flipped(write, at(3), f"{WEIGHTS}/last.pt")
        assert latest(run, quick=True).path == run / WEIGHTS / "last.pt"

    def test_newest_run_without_a_good_file_gives_way_to_an_older_one(self, run: Path, write: Write) -> None:
        aged(write(cut(saved(at(1)), 5000), "runs/detect/train2/weights/last.pt"), -1)
        found = latest(run)
        assert found.path == run / WEIGHTS / "last.pt"
        assert found.run == run / "runs/detect/train"

    def test_repaired_file_counts_as_what_it_is_and_a_backup_is_no_checkpoint(self, run: Path, write: Write) -> None:
        write(cut(saved(at(3)), 5000), f"{WEIGHTS}/last.pt")
        write(at(3), f"{WEIGHTS}/last.pt.bak")
        repaired = write(at(2), f"{WEIGHTS}/last.repaired.pt")
        assert latest(run).path == repaired

    def test_plain_loops_count_too(self, write: Write) -> None:
        write(plain_checkpoint(epoch=1), "out/epoch1.pth")
        path = write(plain_checkpoint(epoch=2), "out/epoch2.pth")
        assert latest(path.parent).path == path

    def test_best_is_by_a_metric_of_the_files(self, run: Path, write: Write) -> None:
        best = write(at(1, train_metrics={"metrics/mAP50(B)": 0.9, "fitness": 0.1}), f"{WEIGHTS}/epoch1.pt")
        low = write(at(0, train_metrics={"val/box_loss": 0.1, "fitness": 0.2}), f"{WEIGHTS}/epoch0.pt")
        assert latest(run, best="mAP50").path == best
        assert latest(run, best="val/box_loss").path == low
        with pytest.raises(CkptError, match="there are: .*fitness"):
            latest(run, best="accuracy")

    def test_links_to_folders_are_not_followed(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        (tmp_path / "other/link").symlink_to(run / "runs", target_is_directory=True)
        assert latest(tmp_path / "other").path is None


class TestWhenARunIsOver:
    def finish(self, write: Write, **replaced: Any) -> Path:
        results = {"epoch": [1, 2, 3, 4, 5], "time": [1.0, 2.0, 3.0, 4.0, 5.0]}
        return aged(write(stripped_checkpoint(train_results=results, **replaced), f"{WEIGHTS}/last.pt"), -1)

    def test_stripped_last_says_so_though_older_files_could_go_on(self, run: Path, write: Write) -> None:
        self.finish(write)
        found = latest(run)
        assert (found.path, found.finished) == (None, True)
        assert "is over" in found.reason

    def test_for_inference_it_is_what_is_wanted(self, run: Path, write: Write) -> None:
        path = self.finish(write)
        assert latest(run, purpose="inference").path == path

    def test_older_run_that_is_over_does_not_count(self, run: Path, write: Write) -> None:
        self.finish(write)
        newer = aged(write(at(0), "runs/detect/train2/weights/last.pt"), -2)
        assert latest(run).path == newer

    def test_copy_that_was_stripped_here_does_not_end_a_run(self, run: Path) -> None:
        last = run / WEIGHTS / "last.pt"
        with ckpt_tools.plan_convert(last, ckpt_tools.Conversion(strip=True)) as conversion:
            conversion.apply()
        assert latest(run).path == last

    def test_new_run_in_the_same_folder_goes_on(self, run: Path, write: Write) -> None:
        aged(write(stripped_checkpoint(), f"{WEIGHTS}/best.pt"), 4)
        assert latest(run).path == run / WEIGHTS / "last.pt"


class TestCommand:
    def test_path_and_nothing_else_is_on_stdout(self, run: Path, ckpt: Run) -> None:
        done = ckpt("latest", run)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{run / WEIGHTS / 'last.pt'}\n", "")

    def test_path_with_odd_letters_is_printed_as_it_is(self, write: Write, ckpt: Run) -> None:
        path = write(plain_checkpoint(), "läuf 1/last.pt")
        assert ckpt("latest", path.parent).stdout == f"{path}\n"

    def test_finished_is_3_none_is_1_and_a_wrong_folder_2(self, run: Path, write: Write, ckpt: Run) -> None:
        aged(write(stripped_checkpoint(), f"{WEIGHTS}/last.pt"), -1)
        over = ckpt("latest", run)
        assert (over.returncode, over.stdout) == (3, "")
        assert "is over" in over.stderr
        (run / "empty").mkdir()
        none = ckpt("latest", run / "empty")
        assert (none.returncode, none.stdout) == (1, "")
        assert "no checkpoint" in none.stderr
        assert ckpt("latest", run / "nowhere").returncode == 2

    def test_weights_alone_are_none_to_resume_but_fine_to_infer_with(self, write: Write, ckpt: Run) -> None:
        path = write(weights(), "w/model.pt")
        assert ckpt("latest", path.parent).returncode == 1
        assert ckpt("latest", path.parent, "--for", "inference").stdout == f"{path}\n"

    def test_json_is_one_document(self, run: Path, write: Write, ckpt: Run) -> None:
        flipped(write, at(3), f"{WEIGHTS}/last.pt")
        found = json.loads(ckpt("latest", run, "--json").stdout)
        assert (found["schema"], found["verdict"]) == ("ckpt-tools/latest/1", "resumable")
        assert found["path"].endswith("epoch1.pt")
        assert found["passed"][0]["path"].endswith("last.pt")
        assert "error" in json.loads(ckpt("latest", run / "nowhere", "--json").stdout)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
class TestScriptOfTheReadme:
    """The pre-resume script as it stands in the README, with stand-ins for the trainer and for ckpt's place."""

    def resume(self, run: Path, environment: Mapping[str, str]) -> tuple[int, str]:
        script = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
        tools = run / "bin"
        tools.mkdir()
        for name, body in (("yolo", 'echo "yolo $*"'), ("ckpt", f'exec "{sys.executable}" -m ckpt_tools "$@"')):
            (tools / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
            (tools / name).chmod(0o755)
        path = os.pathsep.join((str(tools), environment.get("PATH", "")))
        done = subprocess.run(
            ["bash", "-c", script, "resume.sh", "runs/detect/train"],
            cwd=run, env={**environment, "PATH": path}, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""

    def test_good_last_is_resumed(self, run: Path, environment: Mapping[str, str]) -> None:
        assert self.resume(run, environment) == (0, f"yolo train resume model={WEIGHTS}/last.pt")

    def test_damaged_last_gives_way_to_an_older_file(
        self, run: Path, write: Write, environment: Mapping[str, str]
    ) -> None:
        write(cut(saved(at(2)), 5000), f"{WEIGHTS}/last.pt")
        assert self.resume(run, environment) == (0, f"yolo train resume model={WEIGHTS}/epoch1.pt")

    def test_what_can_be_mended_is_mended(self, run: Path, write: Write, environment: Mapping[str, str]) -> None:
        for name in ("best.pt", "epoch1.pt"):
            (run / WEIGHTS / name).unlink()
        write(append(saved(at(2)), b"more"), f"{WEIGHTS}/last.pt")
        assert self.resume(run, environment) == (0, f"yolo train resume model={WEIGHTS}/last.pt")
        assert latest(run).path == run / WEIGHTS / "last.pt"

    def test_finished_run_ends_the_job(self, run: Path, write: Write, environment: Mapping[str, str]) -> None:
        aged(write(stripped_checkpoint(), f"{WEIGHTS}/last.pt"), -1)
        assert self.resume(run, environment) == (0, "the run is over")

    def test_hopeless_run_fails(self, run: Path, write: Write, environment: Mapping[str, str]) -> None:
        for name in ("best.pt", "epoch1.pt", "last.pt"):
            write(b"", f"{WEIGHTS}/{name}")
        assert self.resume(run, environment)[0] == 1


def test_python_name_is_public(run: Path) -> None:
    found = ckpt_tools.latest(run)
    assert found.report is not None
    assert found.report.verdict is Verdict.RESUMABLE
