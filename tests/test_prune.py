"""``ckpt prune``: what stays and why, what goes, and that a run never loses its last file that can be resumed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from building import optimizer_of, plain_checkpoint, saved, stripped_checkpoint, ultralytics_checkpoint, weights
from conftest import Run, Write
from damage import cut, flip, storage_member
from hypothesis import given, settings
from hypothesis import strategies as st

import ckpt_tools
from ckpt_tools.checkpoint import open_checkpoint
from ckpt_tools.findings import CkptError, Verdict
from ckpt_tools.runs import can_reflink
from ckpt_tools.verbs.prune import Pruning, Rules, plan_prune
from ckpt_tools.verbs.verify import verify

WEIGHTS = "train/weights"
DAY = 86400


def at(epoch: int, **replaced: Any) -> dict[str, Any]:
    return ultralytics_checkpoint(epoch=epoch, train_args={"task": "detect", "epochs": 100}, **replaced)


@pytest.fixture
def run(write: Write) -> Path:
    """A run of eight epochs with a file of each; returns the folder above the run."""
    for epoch in range(8):
        path = write(
            at(epoch, train_metrics={"fitness": [1, 9, 3, 2, 8, 4, 5, 6][epoch]}), f"{WEIGHTS}/epoch{epoch}.pt"
        )
        os.utime(path, (time.time() - (8 - epoch) * DAY,) * 2)
    write(at(1), f"{WEIGHTS}/best.pt")
    return write(at(7), f"{WEIGHTS}/last.pt").parents[2]


def names(pruning: Pruning, action: str) -> list[str]:
    return sorted(entry.path.name for run in pruning.runs for entry in run.of(action))


def reasons(pruning: Pruning, name: str) -> list[str]:
    (entry,) = (entry for run in pruning.runs for entry in run.files if entry.path.name == name)
    return entry.reasons


class TestRules:
    @pytest.mark.parametrize(
        ("rules", "stay"),
        [
            (Rules(last=2), {6, 7}),
            (Rules(best=("fitness", 2)), {1, 4, 7}),
            (Rules(every=3), {0, 3, 6, 7}),
            (Rules(within=2.5 * DAY), {6, 7}),
            (Rules(last=1, every=5), {0, 5, 7}),
        ],
        ids=["last", "best", "every", "within", "two of them"],
    )
    def test_rules_keep_what_they_name(self, rules: Rules, stay: set[int], run: Path) -> None:
        pruning = plan_prune([run], rules)
        kept = {name for name in names(pruning, "keep") if name.startswith("epoch")}
        stay = stay if rules.last else stay - {7} | ({7} if "epoch7.pt" in kept else set())
        assert kept == {f"epoch{epoch}.pt" for epoch in stay}
        assert {"last.pt", "best.pt"} <= set(names(pruning, "keep"))

    def test_every_file_says_why_it_stays_rule_by_rule(self, run: Path) -> None:
        pruning = plan_prune([run], Rules(last=1, best=("fitness", 1), every=7))
        assert reasons(pruning, "epoch7.pt") == ["--keep-last 1", "--keep-every 7"]
        assert reasons(pruning, "epoch1.pt") == ["--keep-best fitness:1"]
        assert "the trainer's own name" in reasons(pruning, "best.pt")
        assert reasons(pruning, "epoch3.pt") == ["no rule keeps it"]

    def test_last_file_that_can_be_resumed_stays_whatever_the_rules(self, write: Write) -> None:
        for epoch in range(3):
            write(
                at(epoch, optimizer=None if epoch else ultralytics_checkpoint()["optimizer"]), f"{WEIGHTS}/e{epoch}.pt"
            )
        folder = write(stripped_checkpoint(), f"{WEIGHTS}/last.pt").parents[2]
        pruning = plan_prune([folder], Rules(last=1))
        assert reasons(pruning, "e0.pt") == ["the last one that can be resumed"]
        assert names(pruning, "remove") == ["e1.pt"]

    def test_metrics_of_results_csv_count_where_files_have_none(self, write: Write) -> None:
        for epoch in range(3):
            write(plain_checkpoint(epoch=epoch), f"run/epoch{epoch}.pt")
        table = write(b"epoch, accuracy, val/loss\n0, 0.9, 3.0\n1, 0.5, 1.0\n2, 0.1, 2.0\n", "run/results.csv")
        assert "epoch0.pt" in names(plan_prune([table.parent], Rules(best=("accuracy", 1))), "keep")
        assert "epoch1.pt" in names(plan_prune([table.parent], Rules(best=("loss", 1))), "keep")

    def test_run_without_the_metric_loses_nothing(self, run: Path, write: Write) -> None:
        for epoch in range(3):
            write(plain_checkpoint(epoch=epoch), f"other/epoch{epoch}.pt")
        pruning = plan_prune([run], Rules(best=("fitness", 1)))
        (other,) = (plan for plan in pruning.runs if plan.folder.name == "other")
        assert len(other.of("keep")) == 3
        assert names(pruning, "remove")

    def test_size_lets_the_oldest_go_first_and_protects_a_run(self, run: Path) -> None:
        size = (run / WEIGHTS / "epoch0.pt").stat().st_size
        pruning = plan_prune([run], Rules(max_size=5 * size + 100))
        assert names(pruning, "remove") == [f"epoch{epoch}.pt" for epoch in range(5)]
        tiny = plan_prune([run], Rules(max_size=1))
        assert {"best.pt", "last.pt"} <= set(names(tiny, "keep"))
        assert any(entry.verdict == "resumable" for plan in tiny.runs for entry in plan.of("keep"))

    def test_no_rule_is_refused(self, run: Path) -> None:
        with pytest.raises(CkptError, match="--keep-last"):
            plan_prune([run], Rules())


class TestStripOld:
    def test_weights_of_old_epochs_stay_and_their_optimizers_go(self, run: Path) -> None:
        pruning = plan_prune([run], Rules(last=1, strip_old=True))
        assert names(pruning, "strip") == [f"epoch{epoch}.pt" for epoch in range(7)]
        before = {path: path.stat() for path in (run / WEIGHTS).iterdir()}
        freed = pruning.freed
        pruning.apply()
        after = {path: path.stat() for path in (run / WEIGHTS).iterdir()}
        assert after.keys() == before.keys()
        assert sum(s.st_size for s in before.values()) - sum(s.st_size for s in after.values()) == freed > 0
        assert verify(run / WEIGHTS / "epoch3.pt", siblings=False).verdict is Verdict.FINISHED
        assert verify(run / WEIGHTS / "last.pt", siblings=False).verdict is Verdict.RESUMABLE
        assert all(after[path].st_mtime_ns == before[path].st_mtime_ns for path in before)
        assert not plan_prune([run], Rules(last=1, strip_old=True)).changes

    def test_alone_it_leaves_each_run_one_file_to_go_on_with(self, run: Path) -> None:
        plan_prune([run], Rules(strip_old=True)).apply()
        resumable = [
            p.name for p in (run / WEIGHTS).iterdir() if verify(p, siblings=False).verdict is Verdict.RESUMABLE
        ]
        assert sorted(resumable) == ["best.pt", "last.pt"]

    def test_size_goes_on_from_there(self, run: Path) -> None:
        pruning = plan_prune([run], Rules(last=1, strip_old=True, max_size=1))
        assert names(pruning, "strip") == []
        assert len(names(pruning, "remove")) == 8


class TestDedupe:
    @pytest.fixture
    def same(self, run: Path) -> Path:
        """The files of the last epoch are one and the same, as the trainer writes them."""
        for name in ("last.pt", "copy.pt", "epoch6.pt"):
            shutil.copy2(run / WEIGHTS / "epoch7.pt", run / WEIGHTS / name)
        return run

    def test_hard_links_are_made_of_all_but_what_trainers_write_over(self, same: Path) -> None:
        pruning = plan_prune([same], Rules(dedupe=True, hardlink=True))
        assert len(names(pruning, "share")) == 2
        before = contents(same)
        pruning.apply()
        assert contents(same) == before
        inodes = {path.name: path.stat().st_ino for path in (same / WEIGHTS).iterdir()}
        assert inodes["epoch7.pt"] == inodes["copy.pt"] == inodes["epoch6.pt"] != inodes["last.pt"]
        assert not plan_prune([same], Rules(dedupe=True, hardlink=True)).changes

    def test_reflinks_are_made_of_all(self, same: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def reflink(source: Path, target: Path) -> bool:  # what a file system with reflinks does, as far as one sees it
            target.write_bytes(source.read_bytes())
            return True

        monkeypatch.setattr("ckpt_tools.verbs.prune.can_reflink", lambda _: True)
        monkeypatch.setattr("ckpt_tools.verbs.prune.reflink", reflink)
        pruning = plan_prune([same], Rules(dedupe=True))
        before = contents(same)
        times = {path.name: path.stat().st_mtime_ns for path in (same / WEIGHTS).iterdir()}
        pruning.apply()
        assert len(names(pruning, "share")) == 3
        assert all(entry.done for entry in pruning.changes)
        assert contents(same) == before
        assert {path.name: path.stat().st_mtime_ns for path in (same / WEIGHTS).iterdir()} == times

    def test_without_reflinks_it_says_what_else_there_is(self, same: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ckpt_tools.verbs.prune.can_reflink", lambda _: False)
        pruning = plan_prune([same], Rules(dedupe=True))
        assert not pruning.changes
        assert any("--hardlink" in why for run in pruning.runs for entry in run.files for why in entry.reasons)

    def test_files_that_differ_by_a_bit_stay_apart(self, same: Path, write: Write) -> None:
        path = same / WEIGHTS / "copy.pt"
        path.write_bytes(flip(path.read_bytes(), path.stat().st_size - 1))
        os.utime(path, (time.time() - DAY,) * 2)
        assert "copy.pt" not in names(plan_prune([same], Rules(dedupe=True, hardlink=True)), "share")

    def test_asking_the_file_system_leaves_nothing_behind(self, same: Path) -> None:
        before = sorted(path.name for path in (same / WEIGHTS).iterdir())
        can_reflink(same / WEIGHTS)
        assert sorted(path.name for path in (same / WEIGHTS).iterdir()) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestWhatIsLeftAlone:
    def add(self, write: Write, kind: str) -> Path:
        data: dict[str, Callable[[], Any]] = {
            "damaged": lambda: cut(saved(at(3)), 5000),
            "foreign": lambda: b"<!DOCTYPE html><html></html>",
            "empty": lambda: b"",
        }
        return write(data[kind](), f"{WEIGHTS}/odd.pt")

    @pytest.mark.parametrize("kind", ["damaged", "foreign", "empty"])
    def test_files_that_are_no_good_checkpoints(self, kind: str, run: Path, write: Write) -> None:
        self.add(write, kind)
        assert names(plan_prune([run], Rules(last=1)), "leave") == ["odd.pt"]

    def test_file_that_was_just_written(self, run: Path, write: Write) -> None:
        path = write(at(2), f"{WEIGHTS}/epoch2.pt")
        os.utime(path)
        pruning = plan_prune([run], Rules(last=1))
        assert names(pruning, "leave") == ["epoch2.pt"]
        assert "seconds ago" in reasons(pruning, "epoch2.pt")[0]

    def test_links_and_what_they_lead_to(self, run: Path) -> None:
        (run / WEIGHTS / "newest.pt").symlink_to("epoch2.pt")
        pruning = plan_prune([run], Rules(last=1))
        assert names(pruning, "leave") == ["newest.pt"]
        assert reasons(pruning, "epoch2.pt") == ["a link leads to it"]

    def test_other_files_and_folders(self, run: Path, write: Write) -> None:
        write(b"notes", f"{WEIGHTS}/notes.txt")
        write(b"", "train/args.yaml")
        before = {path for path in run.rglob("*") if path.suffix != ".pt"}
        plan_prune([run], Rules(last=1)).apply()
        assert {path for path in run.rglob("*") if path.suffix != ".pt"} == before

    def test_backup_counts_as_the_checkpoint_it_is(self, run: Path, write: Write) -> None:
        write(at(2), f"{WEIGHTS}/last.pt.bak")
        assert "last.pt.bak" in names(plan_prune([run], Rules(last=1)), "remove")


class TestBeforeAnythingGoes:
    def test_survivor_with_a_flipped_bit_is_no_survivor(self, run: Path, write: Write) -> None:
        for name in ("last.pt", "epoch7.pt"):
            path = run / WEIGHTS / name
            with open_checkpoint(path) as checkpoint:
                place = storage_member(checkpoint).offset
            write(flip(path.read_bytes(), place), f"{WEIGHTS}/{name}")
        pruning = plan_prune([run], Rules(last=1))
        assert names(pruning, "leave") == ["epoch7.pt", "last.pt"]
        assert "--keep-last 1" in reasons(pruning, "epoch6.pt")

    def test_file_that_changed_since_the_plan_stays(self, run: Path, write: Write) -> None:
        pruning = plan_prune([run], Rules(last=1))
        write(at(50), f"{WEIGHTS}/epoch2.pt")
        pruning.apply()
        assert (run / WEIGHTS / "epoch2.pt").exists()
        assert not (run / WEIGHTS / "epoch3.pt").exists()
        (entry,) = (entry for entry in pruning.removals if entry.error)
        assert entry.path.name == "epoch2.pt"

    def test_nothing_goes_where_what_was_to_stay_is_gone(self, run: Path) -> None:
        pruning = plan_prune([run], Rules(last=1))
        for name in ("last.pt", "best.pt", "epoch7.pt"):
            (run / WEIGHTS / name).unlink()
        pruning.apply()
        assert sorted(path.name for path in (run / WEIGHTS).iterdir()) == [f"epoch{epoch}.pt" for epoch in range(7)]

    def test_names_of_one_file_free_nothing_by_themselves(self, run: Path) -> None:
        os.link(run / WEIGHTS / "epoch7.pt", run / WEIGHTS / "copy.pt")
        pruning = plan_prune([run], Rules(every=100))
        entry = next(entry for entry in pruning.removals if entry.path.name == "copy.pt")
        assert entry.frees == 0 or "epoch7.pt" in names(pruning, "remove")


def test_trainer_that_goes_on_writing_loses_nothing(run: Path) -> None:
    """Files are rewritten in place and new ones come while rounds of pruning go on beside."""
    done, written = threading.Event(), set()

    def train() -> None:
        for epoch in range(8, 40):
            data = saved(at(epoch))
            for name in ("last.pt", f"epoch{epoch}.pt"):
                (run / WEIGHTS / name).write_bytes(data)
                written.add(name)
        done.set()

    trainer = threading.Thread(target=train)
    trainer.start()
    while not done.is_set():
        plan_prune([run], Rules(last=1)).apply()
    trainer.join()
    left = {path.name for path in (run / WEIGHTS).iterdir()}
    assert written <= left
    assert verify(run / WEIGHTS / "last.pt", siblings=False).verdict is Verdict.RESUMABLE


class TestWhereItGoes:
    def test_moved_files_keep_their_place_in_the_run(self, run: Path, tmp_path: Path) -> None:
        pruning = plan_prune([run], Rules(last=1))
        bytes_before = (run / WEIGHTS / "epoch3.pt").read_bytes()
        pruning.apply(move_to=tmp_path / "old")
        assert (tmp_path / "old/train/weights/epoch3.pt").read_bytes() == bytes_before
        assert not (run / WEIGHTS / "epoch3.pt").exists()

    def test_nothing_in_the_other_folder_is_overwritten(self, run: Path, tmp_path: Path) -> None:
        there = tmp_path / "old/train/weights/epoch3.pt"
        there.parent.mkdir(parents=True)
        there.write_bytes(b"mine")
        plan_prune([run], Rules(last=1)).apply(move_to=tmp_path / "old")
        assert there.read_bytes() == b"mine"
        assert there.with_name("epoch3.pt.2").exists()

    def test_into_the_trash(self, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        thrown: list[Path] = []
        monkeypatch.setattr("send2trash.send2trash", lambda path: thrown.append(Path(path)))
        pruning = plan_prune([run], Rules(last=1))
        pruning.apply(trash=True)
        assert sorted(thrown) == sorted(entry.path for entry in pruning.removals)


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"] == "ckpt-tools/prune/1"
    return found


class TestCommand:
    def test_without_a_yes_nothing_goes(self, run: Path, ckpt: Run) -> None:
        before = sorted(run.rglob("*"))
        done = ckpt("prune", run, "--keep-last", "2")
        assert (done.returncode, sorted(run.rglob("*"))) == (0, before)
        assert "remove epoch0.pt (epoch 0" in done.stdout
        assert "next: the same command with --yes" in done.stdout

    def test_with_a_yes_the_plan_is_what_happens(self, run: Path, ckpt: Run) -> None:
        planned = document(ckpt("prune", run, "--keep-last", "2", "--keep-best", "fitness:1", "--json", "--dry-run"))
        done = document(ckpt("prune", run, "--keep-last", "2", "--keep-best", "fitness:1", "--json", "--yes"))
        going = {file["path"] for held in planned["runs"] for file in held["files"] if file["action"] == "remove"}
        assert (done["removed"], done["freed"]) == (len(going), planned["freed"])
        assert not any(os.path.exists(path) for path in going)
        assert {path.name for path in (run / WEIGHTS).iterdir()} == {
            "last.pt", "best.pt", "epoch1.pt", "epoch6.pt", "epoch7.pt",
        }  # fmt: skip

    def test_a_second_time_there_is_nothing_to_do(self, run: Path, ckpt: Run) -> None:
        ckpt("prune", run, "--keep-last", "2", "--yes")
        assert "nothing to do" in ckpt("prune", run, "--keep-last", "2", "--yes").stdout

    @pytest.mark.parametrize(
        "arguments",
        [[], ["--keep-best", "x"], ["--keep-best", "accuracy:1"], ["--max-size", "big"], ["--keep-within", "7x"],
         ["--keep-last", "1", "--trash", "--move-to", "x"]],
        ids=" ".join,
    )  # fmt: skip
    def test_usage_errors_exit_2_and_remove_nothing(self, arguments: list[str], run: Path, ckpt: Run) -> None:
        before = sorted(run.rglob("*"))
        done = ckpt("prune", run, *arguments, "--yes")
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert sorted(run.rglob("*")) == before

    def test_folder_that_is_not_there(self, ckpt: Run, tmp_path: Path) -> None:
        assert ckpt("prune", tmp_path / "nowhere", "--keep-last", "1").returncode == 2


# --- whatever the run and the rules ---------------------------------------------------------------

MODEL = weights()
KINDS: dict[str, Callable[[int], bytes]] = {
    "good": lambda epoch: saved(plain_checkpoint(epoch=epoch, model_state_dict=MODEL)),
    "weights": lambda epoch: saved({"epoch": epoch, "model_state_dict": MODEL}),
    "cut": lambda epoch: cut(saved(plain_checkpoint(epoch=epoch)), 3000),
    "page": lambda epoch: b"<html></html>",
    "optimizer": lambda epoch: saved({"epoch": epoch, "optimizer": optimizer_of(MODEL)}),
}
FILES = st.lists(st.tuples(st.sampled_from(list(KINDS)), st.integers(0, 8), st.integers(0, 20)), min_size=1, max_size=7)
RULES = st.builds(
    Rules,
    last=st.none() | st.integers(1, 4),
    best=st.none() | st.tuples(st.just("other"), st.integers(1, 3)),
    every=st.none() | st.integers(1, 4),
    within=st.none() | st.floats(1, 20 * DAY),
    max_size=st.none() | st.integers(0, 60_000),
    strip_old=st.booleans(),
)
TABLE = "epoch,other\n" + "".join(f"{epoch},{(epoch * 7) % 5}\n" for epoch in range(9))
WRITTEN: dict[tuple[str, int], bytes] = {}


def built(folder: Path, files: list[tuple[str, int, int]]) -> dict[str, bytes]:
    """A run folder of such files, and what is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, (kind, epoch, days) in enumerate(files):
        path = folder / f"{kind}{epoch}-{number}.pt"
        path.write_bytes(WRITTEN.setdefault((kind, epoch), KINDS[kind](epoch)))
        os.utime(path, (time.time() - days * DAY - 3600,) * 2)
    (folder / "results.csv").write_text(TABLE, encoding="utf-8")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def epoch_of(name: str) -> int:
    return int(name.removeprefix("good").split("-")[0])


def holds(folder: Path, files: list[tuple[str, int, int]], rules: Rules) -> None:
    """A file that can be resumed survives where there was one; the plan is what happens; nothing else is touched."""
    before = built(folder, files)
    if not rules.any:
        return
    good = [name for name in before if name.startswith("good")]
    pruning = plan_prune([folder], rules)
    going = {entry.path.name for entry in pruning.removals}
    stripped = {entry.path.name for entry in pruning.changes} - going
    freed = pruning.freed
    assert all(entry.reasons for plan in pruning.runs for entry in plan.files)
    pruning.apply()
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys() - going
    assert {name for name in after if after[name] != before[name]} == stripped
    assert freed == sum(map(len, before.values())) - sum(map(len, after.values()))
    assert not {name for name in going if name.startswith(("cut", "page"))}
    left = [name for name in after.keys() - stripped if name.startswith("good")]
    assert max(map(epoch_of, left), default=None) == max(map(epoch_of, good), default=None)
    if good:
        assert any(verify(folder / name, siblings=False).verdict is Verdict.RESUMABLE for name in left)


@settings(max_examples=60)
@given(files=FILES, rules=RULES)
def test_a_run_never_loses_what_it_needs(
    files: list[tuple[str, int, int]], rules: Rules, tmp_path_factory: pytest.TempPathFactory
) -> None:
    holds(tmp_path_factory.getbasetemp() / "pruned", files, rules)


@pytest.mark.full
@settings(max_examples=500)
@given(files=FILES, rules=RULES)
def test_five_hundred_runs_never_lose_what_they_need(
    files: list[tuple[str, int, int]], rules: Rules, tmp_path_factory: pytest.TempPathFactory
) -> None:
    holds(tmp_path_factory.getbasetemp() / "pruned", files, rules)


def test_python_names_are_public(run: Path) -> None:
    pruning = ckpt_tools.plan_prune([run], ckpt_tools.Rules(last=3))
    assert isinstance(pruning, ckpt_tools.Pruning)
