"""Writing: killed at any moment, on a full disk, or from a file that changes, whatever was there is still whole."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from building import detector, plain_checkpoint, saved, ultralytics_checkpoint
from conftest import Run, Write
from damage import append
from mending import request_of

from ckpt_tools.findings import CkptError, Verdict
from ckpt_tools.plans import apply
from ckpt_tools.plans.apply import Planned, backup_name
from ckpt_tools.verbs.repair import plan_repair
from ckpt_tools.verbs.verify import verify

NO_OPTIMIZER = saved(ultralytics_checkpoint(optimizer=None, epoch=2, model=detector()))
OLDER = saved(ultralytics_checkpoint(epoch=1))
LAST, DONOR, NEW = "last.pt", "epoch1.pt", "last.repaired.pt"

# Carries the same repair out again and again, each time in a process of its own that is killed at the next of all
# calls that change the disk: before it, or halfway through where it writes.
KILLER = """
import os, shutil, signal, sys, tempfile
from pathlib import Path
from ckpt_tools.plans import Request
from ckpt_tools.verbs.repair import plan_repair

folder, in_place = Path(sys.argv[1]), sys.argv[2] == "in-place"
STEPS = ("pwrite", "fsync", "replace", "link", "chmod", "chown", "unlink", "remove", "open")

def armed(name, left):
    call = getattr(os, name)
    def wrapped(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            if name == "pwrite":
                call(arguments[0], arguments[1][: len(arguments[1]) // 2], *arguments[2:])
            print(name, file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return wrapped

for number in range(1000):
    copy = folder / f"{number}"
    shutil.copytree(folder / "run", copy)
    child = os.fork()
    if child == 0:
        last = copy / "last.pt"
        output = last if in_place else copy / "last.repaired.pt"
        with plan_repair(last, Request(donors={"optimizer": copy / "epoch1.pt"}), output) as repair:
            left = [number]
            for name in STEPS:
                setattr(os, name, armed(name, left))
            repair.apply(force=True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        break
    assert status == -signal.SIGKILL, status
print(number)
"""


def left_behind(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def in_the_way(name: str) -> bool:
    """Whether a trainer or a script that looks for checkpoints would take the file for one."""
    return name.endswith((".pt", ".pth", ".ckpt"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes")
@pytest.mark.parametrize("mode", ["over an older result", "in-place", pytest.param("beside", marks=pytest.mark.full)])
def test_killed_at_any_moment_leaves_everything_whole(
    mode: str, write: Write, tmp_path: Path, environment: Mapping[str, str]
) -> None:
    write(NO_OPTIMIZER, f"run/{LAST}")
    write(OLDER, f"run/{DONOR}")
    before = {LAST: NO_OPTIMIZER, DONOR: OLDER}
    if mode == "over an older result":
        write(OLDER, f"run/{NEW}")
    command = [sys.executable, "-c", KILLER, str(tmp_path), mode]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    moments = int(run.stdout)
    assert moments >= 50
    calls = set(run.stderr.split())
    assert {"pwrite", "fsync", "replace", "open"} <= calls
    assert ("link" in calls) is (mode == "in-place")
    target = LAST if mode == "in-place" else NEW
    replaced = 0
    for number in range(moments + 1):
        found = left_behind(tmp_path / str(number))
        assert found[DONOR] == OLDER, number
        assert {name for name in found if in_the_way(name)} <= {LAST, DONOR, NEW}, number
        old = {LAST: NO_OPTIMIZER, NEW: OLDER}[target] if target in before or mode != "beside" else None
        if found.get(target) != old:
            replaced += 1
            report = verify(tmp_path / str(number) / target, siblings=False)
            assert (report.verdict, report.epoch) == (Verdict.RESUMABLE, 2), number
            if mode == "in-place":
                assert found[f"{LAST}.bak"] == NO_OPTIMIZER, number
        if mode != "in-place":
            assert found[LAST] == NO_OPTIMIZER, number
        if f"{LAST}.bak" in found:
            assert found[f"{LAST}.bak"] == NO_OPTIMIZER, number
    assert 0 < replaced < moments
    assert sorted(left_behind(tmp_path / str(moments))) == sorted(
        {LAST, DONOR, *([f"{LAST}.bak"] if mode == "in-place" else [NEW])}
    )


# --- what goes wrong while writing ----------------------------------------------------------------


@pytest.fixture
def run_folder(write: Write) -> Path:
    write(OLDER, f"run/{DONOR}")
    return write(NO_OPTIMIZER, f"run/{LAST}").parent


def started(folder: Path, in_place: bool = False) -> Planned:
    output = folder / (LAST if in_place else NEW)
    return plan_repair(folder / LAST, request_of(optimizer_from=folder / DONOR), output)


def fails(folder: Path, during: Callable[[], object], *, in_place: bool = False) -> str:
    """What the user is told; nothing was changed."""
    with started(folder, in_place) as repair:
        during()
        before = left_behind(folder)
        with pytest.raises((CkptError, FileNotFoundError)) as raised:
            repair.apply()
    after = left_behind(folder)
    if in_place and f"{LAST}.bak" in after:  # a second name of the original does no harm
        assert after.pop(f"{LAST}.bak") == before[LAST]
    assert after == before
    return str(raised.value)


@pytest.fixture(params=["several threads", "one thread", "no pwrite"])
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the call that writes, in each of the ways an archive is copied."""
    if request.param == "several threads":
        monkeypatch.setattr(apply, "SEVERAL_FROM", 0)
    elif request.param == "no pwrite":
        monkeypatch.delattr("os.pwrite", raising=False)
    return "os.pwrite" if hasattr(os, "pwrite") else "os.write"


def test_every_way_to_copy_gives_the_same(writer: str, run_folder: Path) -> None:
    with started(run_folder) as repair:
        assert repair.archive is not None
        expected = repair.archive.read(0, repair.archive.size)
        repair.apply()
    assert (run_folder / NEW).read_bytes() == expected


@pytest.mark.parametrize("in_place", [False, True], ids=["beside", "in place"])
@pytest.mark.parametrize("call", [0, 1, 7, 20])
def test_full_disk_leaves_everything_as_it_was(
    call: int, in_place: bool, writer: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [call]
    real = getattr(os, writer.removeprefix("os."))

    def write(handle: int, data: Any, *place: int) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data[: max(1, len(data) // 2)], *place)  # and short writes up to then

    told = fails(run_folder, lambda: monkeypatch.setattr(writer, write), in_place=in_place)
    monkeypatch.undo()
    assert os.strerror(errno.ENOSPC) in told
    assert "nothing was changed" in told


@pytest.mark.parametrize("step", ["fsync", "replace", "link"])
@pytest.mark.parametrize("in_place", [False, True], ids=["beside", "in place"])
def test_failing_steps_leave_everything_as_it_was(
    step: str, in_place: bool, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if step == "link":  # not every file system has links: the backup is a copy then
        monkeypatch.setattr("os.link", refuse)
        with started(run_folder, in_place) as repair:
            repair.apply()
        assert verify(run_folder / (LAST if in_place else NEW), siblings=False).verdict is Verdict.RESUMABLE
        assert not in_place or (run_folder / f"{LAST}.bak").read_bytes() == NO_OPTIMIZER
        return
    told = fails(run_folder, lambda: monkeypatch.setattr(f"os.{step}", refuse), in_place=in_place)
    monkeypatch.undo()
    assert os.strerror(errno.EIO) in told


def test_disk_that_is_too_small_is_seen_before_anything_is_written(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(run_folder)._replace(free=1000)
    told = fails(run_folder, lambda: monkeypatch.setattr("shutil.disk_usage", lambda _: usage))
    assert "1000 bytes free" in told


@pytest.mark.skipif(os.name == "nt", reason="limits of processes are POSIX's")
@pytest.mark.parametrize("limit", [1, 100, 4000])
@pytest.mark.parametrize("arguments", [[], ["--in-place"]], ids=["beside", "in place"])
def test_limit_on_the_size_of_files_leaves_everything_as_it_was(
    limit: int, arguments: list[str], run_folder: Path, environment: Mapping[str, str]
) -> None:
    before = left_behind(run_folder)
    script = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from ckpt_tools.cli import main\nmain()"
    )
    command = [sys.executable, "-c", script, "repair", LAST, "--optimizer-from", DONOR, *arguments]
    run = subprocess.run(
        command, cwd=run_folder, env={**environment, "PYTHONDONTWRITEBYTECODE": "1"}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (run.returncode, "Traceback" in run.stderr) == (2, False)
    assert "nothing was changed" in run.stderr
    assert left_behind(run_folder) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs rights that count")
def test_folder_that_can_not_be_written_to_is_told(run_folder: Path) -> None:
    told = fails(run_folder, lambda: run_folder.chmod(0o500))
    run_folder.chmod(0o700)
    assert "can't be written" in told


def test_bytes_that_do_not_read_back_are_not_kept(
    writer: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(handle: int, data: Any, *place: int) -> int:
        return len(data)  # the disk says it has them

    told = fails(run_folder, lambda: monkeypatch.setattr(writer, lose))
    monkeypatch.undo()
    assert "does not read back" in told


# --- files that change ----------------------------------------------------------------------------


def rewritten(path: Path, data: bytes) -> None:
    """New bytes in the same file, which looks untouched."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "grew": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:4000]),
    "emptied": lambda path: path.write_bytes(b""),
    "touched": os.utime,
    "replaced": lambda path: (shutil.copy(path, path.with_name("copy.tmp")), path.with_name("copy.tmp").replace(path)),
    "deleted": lambda path: path.unlink(),
    "other bytes, same time": lambda path: rewritten(
        path, path.read_bytes().translate(bytes(255 - n for n in range(256)))
    ),
}


@pytest.mark.skipif(os.name == "nt", reason="open files can't be replaced there")
@pytest.mark.parametrize("name", [LAST, DONOR])
@pytest.mark.parametrize("kind", CHANGES)
def test_file_that_changes_between_plan_and_copy_is_noticed(kind: str, name: str, run_folder: Path) -> None:
    told = fails(run_folder, lambda: CHANGES[kind](run_folder / name))
    assert "try again" in told or kind == "deleted"
    assert not (run_folder / NEW).exists()


@pytest.mark.skipif(os.name == "nt", reason="open files can't be replaced there")
@pytest.mark.parametrize("kind", [kind for kind in CHANGES if kind != "other bytes, same time"])
def test_file_that_changes_during_the_copy_is_noticed(kind: str, run_folder: Path) -> None:
    seen: list[set[str]] = []

    def copied(_: int) -> None:
        seen.append({path.name for path in run_folder.iterdir()})
        if len(seen) == 10:
            CHANGES[kind](run_folder / LAST)

    with started(run_folder) as repair, pytest.raises(CkptError, match="try again"):
        repair.apply(progress=copied)
    assert len(seen) >= 10
    for names in seen:
        assert {name for name in names if in_the_way(name)} <= {LAST, DONOR}
    assert {path.name for path in run_folder.iterdir()} <= {LAST, DONOR}


@pytest.mark.skipif(os.name == "nt", reason="open files can't be replaced there")
def test_trainer_that_saves_anew_while_its_file_is_replaced_loses_nothing(run_folder: Path) -> None:
    newer = saved(ultralytics_checkpoint(epoch=4))
    with started(run_folder, in_place=True) as repair, pytest.raises(CkptError, match="try again"):
        repair.apply(progress=lambda _: rewritten(run_folder / LAST, newer))
    assert (run_folder / LAST).read_bytes() == newer
    assert sorted(left_behind(run_folder)) == [DONOR, LAST]


# --- what is written ------------------------------------------------------------------------------


def test_progress_adds_up_to_the_size_of_the_result(run_folder: Path) -> None:
    told: list[int] = []
    with started(run_folder) as repair:
        output = repair.apply(progress=told.append)
    assert sum(told) == output.stat().st_size


def test_name_of_a_backup_is_the_first_that_is_free(tmp_path: Path) -> None:
    path = tmp_path / LAST
    names = []
    for _ in range(3):
        names.append(backup_name(path).name)
        backup_name(path).write_bytes(b"")
    assert names == [f"{LAST}.bak", f"{LAST}.bak2", f"{LAST}.bak3"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_backup_name_taken_by_a_dangling_link_is_taken(tmp_path: Path) -> None:
    (tmp_path / f"{LAST}.bak").symlink_to(tmp_path / "none")
    assert backup_name(tmp_path / LAST).name == f"{LAST}.bak2"


def test_backup_is_the_very_file(write: Write, ckpt: Run) -> None:
    path = write(append(saved(plain_checkpoint()), b"more"))
    number = path.stat().st_ino
    assert ckpt("repair", path, "--in-place").returncode == 0
    assert path.with_name(f"{LAST}.bak").stat().st_ino == number
    assert path.stat().st_ino != number


def test_result_does_not_depend_on_the_size_of_the_buffer(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for size in (7, 1 << 20):
        monkeypatch.setattr(apply, "BUFFER_SIZE", size)
        with started(run_folder) as repair:
            made.append(verify(repair.apply(force=True), siblings=False).verdict)
    assert made == [Verdict.RESUMABLE] * 2
