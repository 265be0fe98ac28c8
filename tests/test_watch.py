"""``ckpt watch``: what is read when, what the ring holds, what is said, and that nothing of it harms a run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from building import Tensor, plain_checkpoint, saved, stripped_checkpoint, ultralytics_checkpoint, weights
from conftest import Run
from damage import cut, flip, storage_member
from watching import Process

import ckpt_tools
from ckpt_tools.checkpoint import Checkpoint, open_checkpoint
from ckpt_tools.findings import CkptError, Severity, Verdict
from ckpt_tools.placing import SPARE
from ckpt_tools.runs import digest, ring
from ckpt_tools.runs.notices import Notices
from ckpt_tools.source import blocks, open_source
from ckpt_tools.verbs import watch
from ckpt_tools.verbs.verify import verify, verify_checkpoint
from ckpt_tools.verbs.watch import Event, Watcher, WatchOptions

START = 1_700_000_000.0
LAST, RING = "train/weights/last.pt", "train/.ckpt-ring"
GB = 10**9
KNOWN = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
ENDINGS = [number for number in KNOWN if signal.getsignal(number) is not signal.SIG_IGN]  # nohup passes that on


def at(epoch: int, **replaced: Any) -> dict[str, Any]:
    """A checkpoint of a run of a hundred epochs."""
    return ultralytics_checkpoint(epoch=epoch, train_args={"task": "detect", "epochs": 100}, **replaced)


def diverged(epoch: int) -> dict[str, Any]:
    """A checkpoint with NaN in a weight."""
    content = at(epoch)
    sequence = content["ema"].state["_modules"]["model"].state["_modules"]
    parameters = sequence["0"].state["_modules"]["conv"].state["_parameters"]
    parameters["weight"] = Tensor((4, 3, 1, 1), float("nan"), parameter=True)
    return content


class Scene:
    """A folder of runs, a watcher, and a clock that goes on only when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = START
        self.watcher: Watcher | None = None

    def save(self, content: Any, name: str = LAST, ago: float = 0.0) -> Path:
        """Write a file as a trainer does, in its place; by the scene's clock, unless another process watches."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else saved(content))
        if self.watcher is not None or ago:
            os.utime(path, (self.now - ago, self.now - ago))
        return path

    def watch(self, *folders: Path, **options: Any) -> Scene:
        """Begin to watch; what there is to say at once is dropped."""
        self.watcher = Watcher(folders or [self.folder], WatchOptions(**options))
        self.look(0.0)
        return self

    def look(self, later: float = 1.0, search: bool = True) -> list[Event]:
        assert self.watcher is not None
        self.now += later
        return list(self.watcher.look(self.now, search=search))

    def settled(self) -> list[Event]:
        """Everything that is said until all that was written has settled."""
        return [event for _ in range(6) for event in self.look()]

    def ring(self, place: str = RING) -> list[str]:
        """Names of what lies in a ring."""
        folder = self.folder / place
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    (tmp_path / "runs").mkdir()
    return Scene(tmp_path / "runs")


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def flipped(content: Any, folder: Path) -> bytes:
    """A file whose structure is sound, and one bit of a tensor is not."""
    path = folder / "whole"
    path.write_bytes(saved(content))
    with open_checkpoint(path) as checkpoint:
        place = storage_member(checkpoint).offset
    return flip(path.read_bytes(), place)


class TestSettling:
    def test_file_is_read_once_it_has_not_changed_for_a_while(self, scene: Scene) -> None:
        scene.watch(settle=1.0)
        scene.save(at(1))
        assert names(scene.look(0.1)) == ["run-appeared"]
        assert names(scene.look(0.5)) == []
        (event,) = scene.look(0.6)
        assert (event.name, event.severity, event.more["verdict"]) == ("verified", Severity.NOTE, "resumable")
        assert event.path == scene.folder / LAST
        assert names(scene.settled()) == []

    def test_file_that_grows_is_left_alone_until_it_is_whole(self, scene: Scene) -> None:
        scene.watch()
        whole = saved(at(1))
        for share in (4, 3, 2):
            scene.save(whole[: len(whole) // share])
            assert "damaged" not in names(scene.look(0.9))
        scene.save(whole)
        assert names(scene.settled()) == ["verified"]

    def test_each_state_of_a_file_is_read_once(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[Path] = []

        def noted(checkpoint: Checkpoint, *arguments: Any, **options: Any) -> Any:
            if not arguments[0].quick:
                read.append(checkpoint.path)
            return verify_checkpoint(checkpoint, *arguments, **options)

        monkeypatch.setattr(watch, "verify_checkpoint", noted)
        scene.watch()
        path = scene.save(at(1))
        scene.settled()
        scene.settled()
        assert read == [path]
        scene.save(at(2))
        scene.settled()
        assert len(read) == 2

    def test_clock_that_is_set_back_delays_nothing_for_long(self, scene: Scene) -> None:
        scene.watch()
        scene.save(at(1))
        scene.look()
        scene.look(-7200)
        assert names(scene.look()) == ["verified"]

    def test_without_a_search_known_folders_are_enough(self, scene: Scene) -> None:
        scene.save(at(0))
        scene.watch()
        scene.settled()
        scene.save(at(1), "train/weights/epoch1.pt")
        scene.save(at(1), "train2/weights/last.pt")
        seen = [event for _ in range(3) for event in scene.look(search=False)]
        assert [event.path for event in seen] == [scene.folder / "train/weights/epoch1.pt"]

    def test_writer_that_comes_back_while_it_is_copied_is_waited_for(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene.watch()
        path = scene.save(at(1))
        calls = iter([True])

        def interrupted(*arguments: Any) -> Iterator[memoryview]:
            yield from blocks(*arguments)
            if next(calls, False):
                scene.save(saved(at(2)) + b" ")
                scene.save(at(2))

        monkeypatch.setattr(ring, "blocks", interrupted)
        scene.look()
        scene.now += 1
        assert names(scene.look(0)) == []
        assert scene.ring() == []
        (event,) = scene.settled()
        assert (event.name, event.more["epoch"]) == ("verified", 2)
        assert digest(event.more["copy"]) == digest(path)


class TestAlerts:
    @pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
    def test_damage_names_the_file_and_the_way_back(self, damage: str, scene: Scene, tmp_path: Path) -> None:
        scene.watch()
        scene.save(at(1))
        (good,) = scene.settled()[1:]
        data = saved(at(2))
        bad = {"cut": cut(data, 5000), "flipped": flipped(at(2), tmp_path), "empty": b""}[damage]
        path = scene.save(bad)
        (event,) = scene.settled()
        assert (event.name, event.severity, event.path) == ("damaged", Severity.ERROR, path)
        assert event.message.endswith(f"next: cp {good.more['copy']} {path}")
        assert event.as_json()["codes"]
        assert verify(good.more["copy"]).verdict is Verdict.RESUMABLE

    def test_way_back_is_a_copy_of_that_very_file(self, scene: Scene, tmp_path: Path) -> None:
        scene.watch()
        scene.save(at(1), "train/best.pt")
        scene.save(at(2), "train/last.pt")
        scene.settled()
        scene.save(cut(saved(at(3)), 5000), "train/best.pt")
        scene.save(b"<!doctype html><html>", "train/yolo11n.pt")
        scene.save(cut(saved(at(3)), 5000), "train/other.pt")
        said = {event.path.name: event.more["next"] for event in scene.settled() if event.path and "next" in event.more}
        assert said["best.pt"].startswith(f"cp {scene.folder / 'train/.ckpt-ring/'}")
        assert "best.pt" in said["best.pt"].split()[1]
        assert said["other.pt"] == f"ckpt latest {scene.folder / 'train/.ckpt-ring'}"
        assert not said["yolo11n.pt"].startswith(("cp", "ckpt latest"))

    def test_without_a_good_copy_the_next_step_is_a_repair_of_the_file_itself(self, scene: Scene) -> None:
        scene.watch()
        path = scene.save(cut(saved(at(1)), 5000))
        (event,) = scene.settled()[1:]
        assert event.more["next"] == f"ckpt repair {path}"
        assert scene.ring() == []

    def test_nan_is_said_and_not_kept(self, scene: Scene) -> None:
        scene.watch()
        scene.save(at(1))
        scene.settled()
        scene.save(diverged(2))
        (event,) = scene.settled()
        assert (event.name, event.severity, event.more["codes"]) == ("non-finite", Severity.ERROR, ["CKPT305"])
        assert scene.ring() == ["000001.epoch1.last.pt"]

    def test_missing_optimizer_is_a_warning(self, scene: Scene) -> None:
        scene.watch()
        scene.save(at(1, optimizer=None))
        (event,) = scene.settled()[1:]
        assert (event.name, event.severity) == ("incomplete", Severity.WARNING)
        assert "next: " in event.message

    def test_foreign_and_unsafe_files_are_called_so(self, scene: Scene) -> None:
        scene.watch()
        scene.save(b"<html>not found</html>")
        (event,) = scene.settled()[1:]
        assert (event.name, event.more["verdict"]) == ("damaged", "foreign")
        assert event.message.startswith("foreign: ")

    def test_weights_alone_are_no_alert_and_not_kept(self, scene: Scene) -> None:
        scene.watch()
        scene.save(weights(), "train/model.pt")
        (event,) = scene.settled()[1:]
        assert (event.name, event.severity, event.more["copy"]) == ("verified", Severity.NOTE, None)

    def test_file_that_cannot_be_read_is_said_once_and_the_others_go_on(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene.watch()

        def failing(path: Any) -> Any:
            if Path(path).name == "bad.pt":
                raise OSError(5, "Input/output error")
            return open_source(path)

        monkeypatch.setattr(ring, "open_source", failing)
        scene.save(at(1), "train/bad.pt")
        scene.save(at(1), "train/last.pt")
        events = scene.settled()[1:]
        assert sorted(names(events)) == ["error", "verified"]
        assert "Input/output error" in next(event.message for event in events if event.name == "error")

    def test_bug_of_ours_ends_nothing(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        scene.watch()
        monkeypatch.setattr(watch, "verify_checkpoint", lambda *_, **__: 1 / 0)
        scene.save(at(1))
        (event,) = scene.settled()[1:]
        assert event.name == "error"
        assert "a bug in ckpt, ZeroDivisionError" in event.message

    def test_rotation_by_the_trainer_is_no_news(self, scene: Scene) -> None:
        scene.watch()
        path = scene.save(at(1))
        scene.settled()
        path.rename(path.with_name("epoch1.pt"))
        assert scene.settled() == []
        path.with_name("epoch1.pt").unlink()
        assert scene.settled() == []
        assert scene.ring() == ["000001.epoch1.last.pt"]

    def test_file_that_goes_while_it_settles_is_no_news(self, scene: Scene) -> None:
        scene.watch()
        path = scene.save(at(1))
        scene.look()
        path.unlink()
        assert scene.settled() == []


class TestRing:
    def test_last_copies_stay(self, scene: Scene) -> None:
        scene.watch(keep=2)
        for epoch in range(5):
            scene.save(at(epoch))
            scene.settled()
        assert scene.ring() == ["000004.epoch3.last.pt", "000005.epoch4.last.pt"]
        assert all(verify(scene.folder / RING / name).verdict is Verdict.RESUMABLE for name in scene.ring())

    def test_last_good_ones_survive_any_number_of_bad_ones(self, scene: Scene) -> None:
        scene.watch(keep=1)
        scene.save(at(1))
        scene.settled()
        for epoch in range(2, 5):
            scene.save(cut(saved(at(epoch)), 5000))
            scene.settled()
            scene.save(diverged(epoch))
            scene.settled()
        assert scene.ring() == ["000001.epoch1.last.pt"]

    def test_last_means_by_epoch_not_by_arrival(self, scene: Scene) -> None:
        scene.watch(keep=2)
        for epoch, name in ((7, "epoch7.pt"), (8, "epoch8.pt"), (3, "copied.pt"), (9, "epoch9.pt")):
            scene.save(at(epoch), f"train/weights/{name}")
            scene.settled()
        assert scene.ring() == ["000002.epoch8.epoch8.pt", "000004.epoch9.epoch9.pt"]

    def test_new_run_in_the_same_folder_gets_its_turn(self, scene: Scene) -> None:
        scene.watch(keep=2)
        for epoch in (50, 51, 0, 1):
            scene.save(at(epoch))
            scene.settled()
        assert scene.ring() == ["000003.epoch0.last.pt", "000004.epoch1.last.pt"]

    def test_what_was_just_written_is_kept_whatever_its_epoch(self, scene: Scene) -> None:
        scene.watch(keep=1)
        for epoch, name in ((50, "epoch50.pt"), (0, "epoch0.pt")):
            scene.save(at(epoch), f"train/weights/{name}")
            scene.settled()
        assert scene.ring() == ["000002.epoch0.epoch0.pt"]

    def test_same_bytes_are_kept_once(self, scene: Scene) -> None:
        scene.watch()
        scene.save(at(1), "train/weights/best.pt")
        scene.save(at(1))
        events = scene.settled()[1:]
        assert names(events) == ["verified", "verified"]
        assert len({event.more["copy"] for event in events}) == 1
        assert scene.ring() == ["000001.epoch1.best.pt"]

    def test_counting_goes_on_after_a_restart_and_nothing_is_kept_twice(self, scene: Scene) -> None:
        scene.watch()
        scene.save(at(1))
        scene.settled()
        assert names(scene.watch().settled()) == ["verified"]
        scene.save(at(2))
        scene.settled()
        assert scene.ring() == ["000001.epoch1.last.pt", "000002.epoch2.last.pt"]

    def test_leftovers_of_a_watcher_that_was_killed_go_and_nothing_else_does(self, scene: Scene) -> None:
        scene.save(at(1))
        for name in (".last.pt.0a1b2c3d.tmp", "notes.txt", ".keep"):
            scene.save(b"x", f"{RING}/{name}", ago=1)
        scene.watch()
        assert scene.ring() == [".keep", "notes.txt"]
        scene.save(b"x", f"{RING}/.last.pt.0a1b2c3d.tmp", ago=1)
        scene.save(at(2))
        scene.settled()
        assert scene.ring() == [".keep", "000001.epoch2.last.pt", "notes.txt"]

    def test_names_are_none_that_a_trainer_resumes_and_all_that_we_find(self, scene: Scene) -> None:
        scene.watch(keep=9)
        for epoch, name in enumerate(("last.pt", "last_1.pt", "model.pth.tar", "läst x.ckpt", f"{'n' * 240}.pt")):
            scene.save(plain_checkpoint(epoch=epoch), f"train/{name}")
        scene.settled()
        assert len(scene.ring()) == 5
        assert not any(fnmatch(name, "last*.pt") or name.startswith(".") for name in scene.ring())
        assert ckpt_tools.latest(scene.folder / RING).path is not None
        assert len(list((scene.folder / RING).glob("*"))) == len(scene.ring())

    def test_copy_is_as_old_and_as_private_as_the_original(self, scene: Scene) -> None:
        scene.watch()
        path = scene.save(at(1))
        path.chmod(0o600)
        scene.settled()
        status = (scene.folder / RING / scene.ring()[0]).stat()
        assert status.st_mtime_ns == path.stat().st_mtime_ns
        assert os.name == "nt" or status.st_mode & 0o777 == 0o600

    def test_without_copies_nothing_is_written(self, scene: Scene) -> None:
        scene.watch(keep=0)
        scene.save(at(1))
        scene.save(cut(saved(at(2)), 5000), "train/weights/epoch2.pt")
        assert sorted(names(scene.settled()[1:])) == ["damaged", "verified"]
        assert sorted(path.name for path in (scene.folder / "train").iterdir()) == ["weights"]

    def test_one_folder_for_all_tells_runs_of_one_name_apart(self, scene: Scene) -> None:
        into = scene.folder.parent / "rings"
        scene.watch(into=into)
        for task in ("detect", "pose"):
            scene.save(at(1), f"{task}/train/weights/last.pt")
        scene.settled()
        held = {folder.name: [path.name for path in folder.iterdir()] for folder in into.iterdir()}
        assert len(held) == 2
        assert all(name.startswith("train-") for name in held)
        assert list(held.values()) == [["000001.epoch1.last.pt"]] * 2
        scene.watch(into=into)
        scene.save(at(2), "pose/train/weights/last.pt")
        events = scene.settled()
        assert not any("rings" in str(event.path) for event in events), "a ring is no run"
        assert {folder.name for folder in into.iterdir()} == set(held)

    def test_ring_that_cannot_be_made_is_said_once_and_files_are_read_all_the_same(
        self, scene: Scene, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_bytes(b"")
        scene.watch(into=tmp_path / "file" / "rings")
        scene.save(at(1))
        assert names(scene.settled()[1:]) == ["error", "verified"]
        scene.save(cut(saved(at(2)), 5000))
        assert names(scene.settled()) == ["damaged"]

    @pytest.mark.parametrize("place", ["runs", "runs/rings", "runs/train/weights"])
    def test_copies_never_lie_among_the_runs(self, scene: Scene, tmp_path: Path, place: str) -> None:
        with pytest.raises(CkptError, match="name another place"):
            scene.watch(into=tmp_path / place)

    @pytest.mark.parametrize("place", [".", "rings", "runs/.rings"])
    def test_copies_may_lie_above_beside_or_hidden(self, scene: Scene, tmp_path: Path, place: str) -> None:
        scene.watch(into=tmp_path / place)
        scene.save(at(1))
        assert names(scene.settled()) == ["run-appeared", "verified"]
        (copy,) = (tmp_path / place).glob("train-*/*.pt")
        assert ckpt_tools.latest(scene.folder).path == scene.folder / LAST
        assert copy.name == "000001.epoch1.last.pt"

    def test_new_run_whose_names_hold_the_epoch_gets_its_turn(self, scene: Scene) -> None:
        scene.watch()
        for epoch in (97, 98, 0, 1, 2):
            scene.save(at(epoch), f"train/weights/epoch{epoch}.pt")
            scene.settled()
        assert scene.ring() == ["000004.epoch1.epoch1.pt", "000005.epoch2.epoch2.pt"]

    def test_files_that_say_no_epoch_are_kept_by_their_time(self, scene: Scene) -> None:
        scene.watch()
        scene.save(at(6), "train/best.pt")
        without_epoch = {key: value for key, value in plain_checkpoint().items() if key != "epoch"}
        for number in range(3):
            scene.settled()
            scene.save({**without_epoch, "note": number}, "train/last.pt")
        scene.settled()
        assert scene.ring() == ["000003.unknown.last.pt", "000004.unknown.last.pt"]

    def test_trainers_file_is_never_written_to(self, scene: Scene) -> None:
        scene.watch()
        for content in (at(1), cut(saved(at(2)), 5000), diverged(3)):
            path = scene.save(content)
            before = (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
            scene.settled()
            assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before


class TestWhatWasThereBefore:
    def test_only_the_newest_of_a_live_run_is_read(self, scene: Scene) -> None:
        for epoch in range(3):
            scene.save(at(epoch), f"train/weights/epoch{epoch}.pt", ago=60 * (3 - epoch))
            scene.save(at(epoch), f"old/weights/epoch{epoch}.pt", ago=86400)
        events = scene.watch().settled()
        assert [(event.name, event.path and event.path.name) for event in events] == [("verified", "epoch2.pt")]
        assert scene.ring() == ["000001.epoch2.epoch2.pt"]
        assert scene.ring("old/.ckpt-ring") == []

    def test_where_it_is_bad_the_one_before_fills_the_ring(self, scene: Scene) -> None:
        for epoch in range(3):
            scene.save(at(epoch), f"train/weights/epoch{epoch}.pt", ago=60 * (3 - epoch))
        scene.save(cut(saved(at(3)), 5000), ago=10)
        assert names(scene.watch().settled()) == ["damaged", "verified"]
        assert scene.ring() == ["000001.epoch2.epoch2.pt"]

    def test_stall_says_how_long_a_run_is_live(self, scene: Scene) -> None:
        scene.save(at(1), ago=2 * 3600)
        assert names(scene.watch().settled()) == []
        assert names(scene.watch(stall=3 * 3600).settled()) == ["verified"]


class TestRunsThatComeAndGo:
    def test_folder_may_come_later(self, scene: Scene) -> None:
        scene.watch(scene.folder / "later")
        assert scene.settled() == []
        scene.save(at(1), "later/train/last.pt")
        assert names(scene.settled()) == ["run-appeared", "verified"]

    def test_run_that_vanishes_is_no_alert_and_is_not_made_anew(self, scene: Scene) -> None:
        scene.watch()
        scene.save(at(1))
        scene.settled()
        scene.save(at(2))
        scene.look()
        shutil.rmtree(scene.folder / "train")
        (event,) = scene.settled()
        assert (event.name, event.severity) == ("run-vanished", Severity.NOTE)
        assert not (scene.folder / "train").exists()

    def test_copy_for_a_run_that_just_went_does_not_make_its_folder_anew(self, scene: Scene) -> None:
        path = scene.save(at(1), "elsewhere.pt", ago=1)
        status = path.stat()
        lost = ring.Ring(scene.folder / RING, 2)
        with (
            pytest.raises(ring.RingError, match="no copy"),
            lost.copied(path, (status.st_size, status.st_mtime_ns), lambda: None),
        ):
            pass
        assert not (scene.folder / "train").exists()

    @pytest.mark.parametrize("into", [None, "rings"])
    def test_run_that_moves_is_known_and_its_ring_goes_with_it(self, into: str | None, scene: Scene) -> None:
        scene.watch(into=scene.folder.parent / into if into else None)
        scene.save(at(1))
        scene.save(cut(saved(at(0)), 5000), "train/weights/epoch0.pt")
        scene.settled()
        (scene.folder / "train").rename(scene.folder / "moved")
        assert names(scene.settled()) == ["run-vanished", "run-appeared"]
        scene.save(at(2), "moved/weights/last.pt")
        (event,) = scene.settled()
        copy = Path(event.more["copy"])
        assert copy.name == "000002.epoch2.last.pt"
        assert sorted(path.name for path in copy.parent.iterdir()) == ["000001.epoch1.last.pt", copy.name]

    def test_root_that_vanishes_and_comes_back_is_known(self, scene: Scene) -> None:
        scene.watch()
        scene.save(at(1))
        scene.settled()
        away = scene.folder.rename(scene.folder.parent / "away")
        assert names(scene.settled()) == ["run-vanished"]
        away.rename(scene.folder)
        assert names(scene.settled()) == ["run-appeared"]
        scene.save(at(2))
        assert names(scene.settled()) == ["verified"]

    def test_another_run_of_the_same_name_is_a_new_one(self, scene: Scene) -> None:
        scene.watch()
        scene.save(at(5))
        scene.settled()
        shutil.rmtree(scene.folder / "train")
        scene.look()
        scene.save(at(0))
        assert names(scene.settled()) == ["run-appeared", "verified"]

    def test_folders_named_twice_are_watched_once(self, scene: Scene) -> None:
        scene.watch(scene.folder, scene.folder / "train/weights")
        scene.save(at(1))
        assert names(scene.settled()) == ["run-appeared", "verified"]

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs rights that can be taken away")
    def test_one_bad_entry_hides_no_other(self, scene: Scene) -> None:
        scene.watch()
        scene.save(at(1))
        scene.settled()
        loop = (scene.folder / LAST).with_name("loop.pt")
        loop.symlink_to(loop)
        scene.save(cut(saved(at(2)), 5000))
        assert names(scene.settled()) == ["damaged"]

    def test_folder_that_cannot_be_read_stops_nothing(self, scene: Scene) -> None:
        scene.watch()
        scene.save(at(1))
        scene.settled()
        (scene.folder / "train").chmod(0)
        try:
            scene.save(at(1), "other/last.pt")
            assert "verified" in names(scene.settled())
        finally:
            (scene.folder / "train").chmod(0o755)


class TestFinished:
    def test_run_that_is_over_is_said_once_and_neither_stalls_nor_counts_as_damage(self, scene: Scene) -> None:
        scene.watch(stall=600)
        scene.save(at(99 - 1))
        scene.settled()
        for name in ("last.pt", "best.pt"):
            scene.save(stripped_checkpoint(), f"train/weights/{name}")
        assert sorted(names(scene.settled())) == ["finished", "verified"]
        assert names(scene.look(3600)) == []
        assert scene.ring() == ["000001.epoch98.last.pt"]

    def test_copy_that_we_stripped_does_not_end_a_run(self, scene: Scene) -> None:
        scene.watch(stall=600)
        path = scene.save(at(1))
        scene.settled()
        with ckpt_tools.plan_convert(path, ckpt_tools.Conversion(strip=True)) as conversion:
            conversion.apply()
        assert "finished" not in names(scene.settled())
        assert names(scene.look(3600)) == ["stalled"]


class TestStall:
    def test_it_is_said_once_and_that_it_is_over_too(self, scene: Scene) -> None:
        scene.watch(stall=1800)
        scene.save(at(1))
        scene.settled()
        assert names(scene.look(1700)) == []
        (event,) = scene.look(200)
        assert (event.name, event.severity, event.run) == ("stalled", Severity.WARNING, scene.folder / "train")
        assert "31 minutes" in event.message or "32 minutes" in event.message
        assert event.message.endswith(f"next: ckpt latest {scene.folder / 'train'}")
        assert names(scene.look(1800)) == []
        scene.save(at(2))
        assert names(scene.settled()) == ["resumed", "verified"]
        assert names(scene.look(1900)) == ["stalled"]

    def test_without_the_option_nothing_stalls(self, scene: Scene) -> None:
        scene.watch()
        scene.save(at(1))
        scene.settled()
        assert names(scene.look(10**6)) == []


class TestSpace:
    @pytest.fixture
    def free(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        """Set the bytes the disk has free."""

        def have(count: int) -> None:
            monkeypatch.setattr(watch, "free_space", lambda _: count)
            monkeypatch.setattr(ring, "free_space", lambda _: count)

        have(GB)
        return have

    def test_it_is_said_one_save_early_and_once(self, scene: Scene, free: Callable[[int], None]) -> None:
        scene.watch()
        path = scene.save(at(1))
        scene.settled()
        size = path.stat().st_size
        free(3 * size)  # two saves and a copy
        assert scene.look() == []
        free(3 * size - 1)
        (event,) = scene.look()
        assert (event.name, event.severity, event.more["saves_left"]) == ("low-space", Severity.WARNING, 1)
        assert event.message.endswith(f"next: ckpt prune {scene.folder / 'train'} --keep-last 2")
        free(2 * size)
        assert scene.look() == []
        free(3 * size)
        assert scene.look() == [], "not enough to call it over"
        free(2 * size)
        assert scene.look() == []
        free(GB)
        assert scene.look() == []
        free(2 * size)
        assert names(scene.look()) == ["low-space"]

    def test_save_is_all_that_is_written_together(self, scene: Scene, free: Callable[[int], None]) -> None:
        scene.watch(keep=0)
        sizes = [scene.save(at(1), f"train/weights/{name}.pt").stat().st_size for name in ("last", "best", "epoch1")]
        scene.settled()
        free(2 * sum(sizes) - 1)
        (event,) = scene.look()
        assert event.more["save"] == sum(sizes)

    def test_old_runs_are_none_to_worry_about(self, scene: Scene, free: Callable[[int], None]) -> None:
        scene.save(at(1), ago=86400)
        free(10)
        assert scene.watch().settled() == []

    def test_without_room_for_a_copy_the_file_itself_is_read(
        self, scene: Scene, free: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene.watch()
        scene.save(at(1))
        scene.settled()
        monkeypatch.setattr(ring, "reflink", lambda *_: False)
        scene.save(flipped(at(2), tmp_path))
        scene.look()
        free(10)
        first, second = scene.settled()
        assert (first.name, second.name) == ("low-space", "damaged")
        assert "where the trainer wrote them" in first.message
        assert scene.ring() == ["000001.epoch1.last.pt"]

    def test_copy_never_takes_the_room_of_the_next_save(
        self, scene: Scene, free: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ring, "reflink", lambda *_: False)
        scene.watch()
        path = scene.save(at(1))
        free(path.stat().st_size * 3 // 2 + SPARE)
        assert "low-space" in names(scene.settled())
        assert scene.ring() == []

    def test_disk_that_fills_up_while_it_is_copied_leaves_no_half_copy(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene.watch()

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(ring, "reflink", lambda *_: False)
        monkeypatch.setattr(ring, "_write", full)
        scene.save(at(1))
        assert names(scene.settled()[1:]) == ["low-space", "verified"]
        assert scene.ring() == []


class TestNotices:
    def test_checkpoints_wake_it_under_the_name_they_were_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "runs/train").mkdir(parents=True)
        notices = Notices([Path("runs"), Path("nowhere")])
        try:
            (tmp_path / "runs/train/log.txt").write_bytes(b"x")
            (tmp_path / "runs/train/last.pt").write_bytes(b"x")
            assert notices.wait(30, threading.Event()) == {Path("runs/train/last.pt")}
        finally:
            notices.close()

    def test_folder_whose_name_begins_like_another_one_s(self, tmp_path: Path) -> None:
        folders = [tmp_path / "run", tmp_path / "run.x"]
        for folder in folders:
            folder.mkdir()
        notices = Notices(folders)
        try:
            (tmp_path / "run.x/last.pt").write_bytes(b"x")
            assert notices.wait(30, threading.Event()) == {tmp_path / "run.x/last.pt"}
        finally:
            notices.close()

    @pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names are text there")
    def test_name_that_is_no_text_is_looked_at_now_and_then(self, tmp_path: Path) -> None:
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff"))
        folder.mkdir()
        notices = Notices([folder])
        assert notices.wait(0.01, threading.Event()) == set()
        notices.close()

    def test_stop_ends_the_wait_also_where_nothing_can_be_listened_to(self, tmp_path: Path) -> None:
        for folder in (tmp_path, tmp_path / "nowhere"):
            stop = threading.Event()
            notices = Notices([folder])
            threading.Timer(0.05, stop.set).start()
            assert notices.wait(60, stop) == set()
            assert stop.is_set()
            notices.close()


@pytest.fixture
def started(tmp_path: Path, environment: Mapping[str, str]) -> Iterator[Callable[..., Process]]:
    """Start to watch ``runs`` in the test's own folder."""
    processes: list[Process] = []

    def start(*arguments: str) -> Process:
        processes.append(Process(tmp_path, environment, "runs", "--settle", "0.2s", *arguments))
        return processes[-1]

    yield start
    for one in processes:
        one.close()


@pytest.mark.skipif(os.name == "nt", reason="signals are sent another way there")
class TestCommand:
    @pytest.mark.parametrize("how", ENDINGS, ids=lambda how: how.name)
    def test_events_come_as_they_happen_and_a_signal_ends_it_cleanly(
        self, how: signal.Signals, scene: Scene, started: Callable[..., Process]
    ) -> None:
        process = started("--json")
        assert process.event("started")["schema"] == "ckpt-tools/watch/1"
        scene.save(at(1))
        good = process.event("verified")
        assert (good["run"], good["path"], good["epoch"]) == ("runs/train", f"runs/{LAST}", 1)
        assert good["time"].endswith("+00:00")
        scene.save(cut(saved(at(2)), 5000))
        assert process.event("damaged")["path"] == f"runs/{LAST}"
        code, said = process.end(how)
        assert (code, said) == (0, "")
        assert scene.ring() == ["000001.epoch1.last.pt"]

    def test_hook_gets_the_event_and_nothing_in_it_is_run(
        self, scene: Scene, started: Callable[..., Process], tmp_path: Path
    ) -> None:
        name = "a; touch harm $(touch harm) `touch harm`.pt"
        process = started("--json", "--on-event", 'cat >> got; echo "$CKPT_EVENT|$CKPT_SEVERITY|$CKPT_PATH" >> facts')
        process.event("started")
        scene.save(b"", f"train/{name}")
        process.event("damaged")
        assert process.end() == (0, "")
        got = [json.loads(line) for line in (tmp_path / "got").read_text(encoding="utf-8").splitlines()]
        assert [event["event"] for event in got] == ["started", "run-appeared", "damaged", "stopped"]
        assert f"damaged|error|runs/train/{name}" in (tmp_path / "facts").read_text(encoding="utf-8").splitlines()
        assert not (tmp_path / "harm").exists()

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
    @pytest.mark.parametrize("what", ["stdout", "stderr"])
    def test_full_disk_does_not_silence_the_hook(
        self, scene: Scene, environment: Mapping[str, str], tmp_path: Path, what: str
    ) -> None:
        command = [sys.executable, "-m", "ckpt_tools", "watch", "runs", "--settle", "0.2s", "--json"]
        command += [
            "--on-event",
            'echo "$CKPT_EVENT" >> got; test "$CKPT_EVENT" = verified && kill -TERM "$WATCHER"; exit 3',
        ]
        with open("/dev/full", "wb") as full:
            pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, what: full}
            shell = 'WATCHER=$$ exec "$@"'
            scene.save(at(1))
            process = subprocess.Popen(["sh", "-c", shell, "sh", *command], cwd=tmp_path, env=environment, **pipes)
            assert process.wait(60) == 0
        assert {"started", "verified"} <= set((tmp_path / "got").read_text(encoding="utf-8").split())

    def test_hook_that_fails_is_said_on_stderr_and_stops_nothing(
        self, scene: Scene, started: Callable[..., Process]
    ) -> None:
        process = started("--json", "--on-event", "exit 3")
        process.event("started")
        scene.save(at(1))
        process.event("verified")
        code, said = process.end()
        assert code == 0
        assert "ckpt: --on-event: exit code 3 for verified" in said

    def test_hook_that_hangs_does_not_hold_up_the_end(self, started: Callable[..., Process], tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        process = started("--json", "--on-event", "echo $$ > pipe; sleep 1000")
        process.event("started")
        hook = int((tmp_path / "pipe").read_text())  # it is running
        assert process.end()[0] == 0
        with pytest.raises(ProcessLookupError):
            os.kill(hook, 0)

    def test_copy_under_way_is_given_up(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        scene.watch()
        assert scene.watcher is not None
        scene.save(at(1))
        scene.look()
        stop = scene.watcher.stop

        def stopped(*arguments: Any) -> Iterator[memoryview]:
            stop.set()
            return blocks(*arguments)

        monkeypatch.setattr(ring, "reflink", lambda *_: False)
        monkeypatch.setattr(ring, "blocks", stopped)
        with contextlib.suppress(watch._StoppedError):
            scene.look()
        assert stop.is_set()
        assert scene.ring() == []

    def test_reader_that_goes_away_ends_it_quietly(self, scene: Scene, started: Callable[..., Process]) -> None:
        process = started("--json")
        process.event("started")
        assert process.process.stdout is not None
        process.process.stdout.close()
        scene.save(at(1))
        assert process.process.wait(60) == 0
        assert process.process.stderr is not None
        assert process.process.stderr.read() == ""

    def test_lines_for_people_are_safe_for_a_terminal(self, scene: Scene, started: Callable[..., Process]) -> None:
        process = started()
        assert process.process.stdout is not None
        assert "started: watching runs" in process.process.stdout.readline()
        scene.save(b"", "train/a\x1b[31m.pt")
        lines = iter(process.process.stdout.readline, "")
        line = next(line for line in lines if "damaged" in line)
        assert "\x1b" not in line
        assert r"runs/train/a\x1b[31m.pt: " in line
        assert "next: no command can be given: the name cannot be typed" in line

    def test_wrong_options_are_said_before_anything_starts(self, ckpt: Run, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        wrong = [
            "--stall soon",
            "--stall 0s",
            "--stall 5mib",
            "--settle 1x",
            "--keep -1",
            "--into file",
            "--into .",
            "--into=",
        ]
        for arguments in (["file"], [], *([".", *options.split()] for options in wrong)):
            done = ckpt("watch", *arguments)
            assert (done.returncode, done.stdout) == (2, ""), arguments


def test_python_names_are_public(scene: Scene) -> None:
    scene.save(at(1))
    watcher = ckpt_tools.Watcher([scene.folder], ckpt_tools.WatchOptions(keep=1, settle=0.0))
    events = watcher.run()
    seen = []
    for event in events:
        seen.append(event.name)
        if event.name == "run-appeared":
            watcher.stop.set()
    assert seen[0] == "started"
    assert seen[-1] == "stopped"
