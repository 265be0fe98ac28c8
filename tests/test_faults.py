"""Whatever a disk does while a command reads or writes: the files stay whole, and what is said is true."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from building import detector, saved, saved_legacy, ultralytics_checkpoint
from faults import CHANGE, ERRORS, READ, Disk, Fault, broken, changed, short
from inprocess import Said, invoke

from ckpt_tools.findings import CkptError
from ckpt_tools.verbs import verify as verifying
from ckpt_tools.verbs.verify import verify
from ckpt_tools.verbs.watch import Watcher, WatchOptions

TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")
CHECKPOINT = re.compile(r".*\.(pt|pth|ckpt|safetensors)", re.I)
BACKUP = re.compile(r"(.+)\.bak\d*")
HOUR = 3600


def at(epoch: int, **replaced: Any) -> bytes:
    metrics = {"fitness": [0.1, 0.4, 0.2, 0.3][epoch]}
    return saved(ultralytics_checkpoint(epoch=epoch, train_metrics=metrics, **replaced))


ARGS = b"task: detect\nmode: train\nmodel: yolov8n.yaml\ndata: data.yaml\nepochs: 5\noptimizer: SGD\nlr0: 0.02\n"
DATA = b"path: .\ntrain: images\nval: images\nnames:\n  0: class 0\n  1: class 1\n"
RESULTS = b"epoch, train/box_loss, metrics/mAP50(B)\n1, 3.0, 0.1\n2, 2.0, 0.4\n3, 1.0, 0.2\n4, 0.5, 0.3\n"
GOOD = {
    "run/args.yaml": ARGS,
    "run/results.csv": RESULTS,
    "run/weights/last.pt": at(3),
    "run/weights/best.pt": at(1),
    "run/weights/epoch0.pt": at(0),
    "run/weights/epoch2.pt": at(2),
    "run/weights/epoch3.pt": at(3),
    "data.yaml": DATA,
}  # fmt: skip
NO_OPTIMIZER = {**GOOD, "run/weights/last.pt": at(3, optimizer=None, model=detector())}
NO_EPOCH = {**GOOD, "run/weights/last.pt": saved(ultralytics_checkpoint(epoch=...))}
LEGACY = {"run/weights/last.pt": saved_legacy(ultralytics_checkpoint(epoch=3)), "run/args.yaml": ARGS}
TAKEN = {**GOOD, "run/weights/last.converted.pt": at(0)}
EARLIER = {**GOOD, "run/weights/state_dict.last.pt": at(0), "run/weights/state_dict.last.pt.json": b'{"a": 1}'}
LINKED = {**GOOD, "run/weights/last.pt.bak": at(0)}
LAST, EPOCH2 = "run/weights/last.pt", "run/weights/epoch2.pt"


@dataclass(frozen=True)
class Case:
    """A command with the files it works on; ``{name}`` in an argument becomes a path."""

    command: str
    files: Mapping[str, bytes] = field(default_factory=lambda: GOOD)

    def arguments(self, root: Path) -> list[str]:
        return [word.replace("@", str(root) + os.sep) for word in self.command.split()]


CASES = {
    "verify": Case(f"verify @{LAST}"),
    "verify a folder": Case("verify @run"),
    "verify --here": Case(f"verify --here @{LAST}"),
    "verify an incomplete file": Case(f"verify @{LAST}", NO_OPTIMIZER),
    "verify a stream": Case(f"verify @{LAST}", LEGACY),
    "verify --json": Case(f"verify --json @{LAST}"),
    "inspect": Case(f"inspect @{LAST}"),
    "inspect all": Case(f"inspect @{LAST} --tree --tensors --stats --args --globals"),
    "diff with args": Case(f"diff @{LAST} @run/args.yaml"),
    "diff with data": Case(f"diff @{LAST} @data.yaml --here"),
    "diff with a checkpoint": Case(f"diff @{LAST} @{EPOCH2} --values"),
    "latest": Case("latest @run"),
    "latest by metric": Case("latest @run --best fitness --json"),
    "convert --device": Case(f"convert @{LAST} --device cuda:0"),
    "convert --dtype": Case(f"convert @{LAST} --dtype float16 -o @new.pt"),
    "convert --strip": Case(f"convert @{LAST} --strip"),
    "convert --state-dict": Case(f"convert @{LAST} --state-dict"),
    "convert --to safetensors": Case(f"convert @{LAST} --to safetensors --accept-loss"),
    "convert --to legacy": Case(f"convert @{LAST} --to legacy --accept-loss"),
    "convert in place": Case(f"convert @{LAST} --device cuda:0 --in-place"),
    "convert a folder": Case("convert @run --device cuda:0 --out-dir @out"),
    "convert to a name that is taken": Case(f"convert @{LAST} --device cuda:0", TAKEN),
    "convert over an earlier result": Case(f"convert @{LAST} --state-dict --force", EARLIER),
    "convert in place again": Case(f"convert @{LAST} --device cuda:0 --in-place --force", LINKED),
    "repair with a donor": Case(f"repair @{LAST} --optimizer-from @{EPOCH2} --accept-loss", NO_OPTIMIZER),
    "repair in place": Case(f"repair @{LAST} --optimizer-from @{EPOCH2} --accept-loss --in-place", NO_OPTIMIZER),
    "repair by itself": Case("repair --from @run/weights --accept-loss --json", NO_OPTIMIZER),
    "repair with results": Case(f"repair @{LAST} --epoch-from @run/results.csv --accept-loss", NO_EPOCH),
    "repair with args": Case(f"repair @{LAST} --args-from @run/args.yaml --accept-loss"),
    "prune": Case("prune @run --keep-last 1 --yes"),
    "prune by metric": Case("prune @run --keep-best mAP50:1 --yes"),
    "prune --strip-old": Case("prune @run --keep-last 1 --strip-old --yes"),
    "prune --move-to": Case("prune @run --keep-last 1 --move-to @moved --yes"),
    "prune --dedupe": Case("prune @run --dedupe --hardlink --yes", {**GOOD, EPOCH2: GOOD["run/weights/epoch3.pt"]}),
    "watch": Case("watch @run"),
}  # fmt: skip


@dataclass
class Outcome:
    """What a command left and said."""

    code: int
    out: str
    err: str
    files: dict[str, bytes]
    calls: list[Any]
    command: str = ""
    changed: dict[str, bytes] | None = None  # the files as the fault left them, where it changed any
    trace: str = ""
    verdicts: dict[str, str] = field(default_factory=dict)


def lay_out(root: Path, files: Mapping[str, bytes]) -> None:
    """The files, the first of them written last, all more than an hour ago."""
    shutil.rmtree(root, ignore_errors=True)
    then = time.time() - HOUR
    for age, (name, data) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (then - age, then - age))


def found_in(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)).replace(os.sep, "/"): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def watch_once(root: Path) -> int:
    """Two rounds of a watcher: files are seen, settle, and are read; one is written meanwhile."""
    watcher = Watcher([root / "run"], WatchOptions(keep=2))
    now = time.time()
    events = [*watcher.look(now - 10), *watcher.look(now)]
    shown = [event.as_json() for event in events]
    assert not any("bug in ckpt" in event["message"] for event in shown), shown
    return 0


def carried_out(root: Path, case: Case, fault: Fault | None = None, number: int = -1) -> Outcome:
    """Run a command on fresh files, with a fault at one of its calls."""
    lay_out(root, case.files)
    verifying._glance.cache_clear()
    trace, seen = "", []
    with Disk(root, fault, number, after=lambda place: seen.append(found_in(place))) as disk:
        if case.command.startswith("watch"):
            code, out, err = 0, "", ""
            try:
                watch_once(root)
            except CkptError as error:
                code, err = 2, str(error)
            except BaseException:
                code, trace = 70, traceback.format_exc()
        else:
            said = invoke(case.arguments(root))
            code, out, err, trace = said.code, said.out, said.err, said.trace
    return Outcome(code, out, err, found_in(root), disk.calls, case.command, seen[-1] if seen else None, trace)


def verdict_of(path: Path) -> str:
    """What the tool says of a file that was left, on a disk that works."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "np") as opened:
            return str(sorted(opened.keys()))
    try:
        return str(verify(path, siblings=False).verdict)
    except CkptError as error:
        return f"unreadable: {error}"


_whole: dict[str, Outcome] = {}


def undisturbed(name: str, root: Path) -> Outcome:
    """The command on a disk that works."""
    if name not in _whole:
        made = carried_out(root, CASES[name])
        assert not made.trace, made.trace
        made.verdicts = {path: verdict_of(root / path) for path in made.files if CHECKPOINT.fullmatch(path)}
        _whole[name] = made
    return _whole[name]


def complaints(name: str, root: Path, fault: Fault, number: int) -> list[str]:
    """What is wrong with how a command took a fault."""
    case, whole = CASES[name], undisturbed(name, root)
    found = carried_out(root, case, fault, number)
    before = {path: data for path, data in (found.changed or case.files).items() if not _is_temporary(path)}
    before = {path: data for path, data in before.items() if not _leads_there_now(path, case, whole)}
    wrong = []
    if found.trace or found.code not in (0, 1, 2, 3):
        wrong.append(f"exit {found.code}: {found.trace or found.err}")
    wrong += [f"{path} {what}" for path, data in before.items() if (what := _hurt(path, data, root, whole, found))]
    wrong += [
        f"{path} {what}"
        for path in found.files
        if path not in before and (what := _unfinished(path, root, whole, found, before))
    ]
    struck = found.calls[number] if number < len(found.calls) else None
    helpless = fault.sticky or found.changed is not None or (struck is not None and struck.name in ("unlink", "remove"))
    left = [path for path in found.files if _is_temporary(path)]
    if left and not helpless:
        wrong.append(f"{left} were left")
    if found.changed is None:
        missing = sorted(set(whole.files) - set(found.files))
        told = case.command.startswith("watch") or ("prune" in case.command and "can't be" in found.out)
        if found.code == whole.code and missing and not told:
            wrong.append(f"said {found.code}, and {missing} are missing")
        if found.code != whole.code and not (found.code in (1, 2) and _says_why(found, root)):
            wrong.append(f"exit {found.code} instead of {whole.code}: {found.out[-300:]!r} {found.err!r}")
    elif found.code == 2 and not _says_why(found, root):
        wrong.append(f"exit 2: {found.out[-300:]!r} {found.err!r}")
    place = f"{struck.name} {struck.path} from {struck.line}" if struck is not None else "no call"
    return [f"{name}: {fault.name} at {number}, {place}: {line}" for line in wrong]


def _is_temporary(path: str) -> bool:
    return TEMPORARY.fullmatch(path.rsplit("/", 1)[-1]) is not None


def _leads_there_now(path: str, case: Case, whole: Outcome) -> bool:
    """Whether a file of a folder that was swapped in stands where the user told the command to write.

    What comes between the last look and the writing can't be noticed; the folder swapped away must stay whole.
    """
    named = path.replace("elsewhere/", "run/", 1)
    written = whole.files.get(named)
    return path.startswith("elsewhere/") and written is not None and written != case.files.get(named)


def _hurt(path: str, data: bytes, root: Path, whole: Outcome, found: Outcome) -> str:
    """What is wrong with a file that was there before the command, or before somebody changed it."""
    now, planned = found.files.get(path), whole.files.get(path)
    if now == data:
        return ""
    if now is None:
        elsewhere = [other for other, held in whole.files.items() if held == data and other.startswith("moved/")]
        allowed = path in CASES_FILES and planned is None and all(other in found.files for other in elsewhere)
        return "" if allowed else "is gone"
    if path not in CASES_FILES or planned == data:
        return "is another"
    if found.code != whole.code and "prune" not in found.command:
        return "is another, though the command failed"
    if not CHECKPOINT.fullmatch(path):
        return "" if isinstance(json.loads(now), dict) else "is not whole"
    verdict = verdict_of(root / path)
    return "" if verdict == whole.verdicts.get(path) else f"is not whole: {verdict}, not {whole.verdicts.get(path)}"


def _unfinished(path: str, root: Path, whole: Outcome, found: Outcome, before: Mapping[str, bytes]) -> str:
    """What is wrong with a file a command made."""
    data = found.files[path]
    if _is_temporary(path):
        return ""
    if BACKUP.fullmatch(path):
        return "" if data in before.values() else "is no copy of anything"
    if ".ckpt-ring" in path:
        return "" if data in before.values() else "is no copy of anything"
    if path not in whole.files and found.changed is None:
        return "was made"
    if CHECKPOINT.fullmatch(path):
        verdict, wanted = verdict_of(root / path), whole.verdicts.get(path)
        return "" if verdict == wanted or (wanted is None and verdict in WHOLE) else f"is {verdict}, not {wanted}"
    return ""


# What somebody else may do to the files meanwhile. Another version of a checkpoint is as whole as the first.
OTHERS = {
    GOOD[LAST]: at(2, updates=99),
    NO_OPTIMIZER[LAST]: at(3, optimizer=None, model=detector(), updates=99),
    NO_EPOCH[LAST]: saved(ultralytics_checkpoint(epoch=..., updates=99)),
    LEGACY[LAST]: saved_legacy(ultralytics_checkpoint(epoch=3, updates=99)),
    RESULTS: RESULTS[:60],
    ARGS: ARGS.replace(b"0.02", b"0.03"),
    DATA: DATA.replace(b"class 1", b"class 2"),
}


def replaced(root: Path, path: Path) -> None:
    """As trainers save: the whole file under another name, then renamed."""
    if path.is_file() and not TEMPORARY.fullmatch(path.name):
        data = path.read_bytes()
        path.with_name("saving").write_bytes(OTHERS.get(data, data))
        path.with_name("saving").replace(path)


def cut(root: Path, path: Path) -> None:
    if path.is_file() and not TEMPORARY.fullmatch(path.name):
        os.truncate(path, path.stat().st_size // 2)


def grown(root: Path, path: Path) -> None:
    if path.is_file() and not TEMPORARY.fullmatch(path.name):
        with path.open("ab") as file:
            file.write(b"\0" * 1000)


def gone(root: Path, path: Path) -> None:
    if path.is_file() and not TEMPORARY.fullmatch(path.name):
        path.unlink()


def moved(root: Path, path: Path) -> None:
    if (root / "run").is_dir():
        (root / "run").rename(root / "away")


def swapped(root: Path, path: Path) -> None:
    """The folder is another one now, by a link; in it lies somebody else's run."""
    if (root / "run").is_dir() and not (root / "run").is_symlink():
        (root / "run").rename(root / "away")
        shutil.copytree(root / "away", root / "elsewhere")
        for other in (root / "elsewhere").rglob("*.pt"):
            other.write_bytes(OTHERS[GOOD[LAST]])
        (root / "run").symlink_to("elsewhere")


CHANGES = [changed(act.__name__, act) for act in (replaced, cut, grown, gone, moved, swapped)]
WHOLE = ("resumable", "weights", "finished", "incomplete")
CASES_FILES = {path for case in CASES.values() for path in case.files}


def _says_why(found: Outcome, root: Path) -> bool:
    """Whether an error names what could not be read or written, and what to do."""
    said = found.err + found.out
    return (str(root) in said or any(Path(path).name in said for path in found.files)) and ";" in said


# --- every call, every fault ----------------------------------------------------------------------

NUMBERS = sorted({number for numbers in ERRORS.values() for number in numbers})
FAULTS = [
    *(broken(number) for number in NUMBERS),
    *(broken(number, sticky=True) for number in (errno.EIO, errno.EACCES, errno.ENOSPC)),
    short(),
    *CHANGES,
]
SAMPLE = 6  # faults of each case in the short form


@pytest.fixture(autouse=True)
def debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bugs show their traceback, and nobody waits between readings of a file that changes."""
    monkeypatch.setenv("CKPT_DEBUG", "1")
    monkeypatch.setattr(verifying, "PAUSE", 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path.resolve() / "work"


def struck_places(name: str, root: Path) -> list[tuple[int, Fault]]:
    """Each line of the package that touches a file, at the first and the last time it does, with each fault."""
    found: dict[Any, list[int]] = {}
    calls = undisturbed(name, root).calls
    for number, call in enumerate(calls):
        found.setdefault((call.name, call.place), []).append(number)
    numbers = sorted({number for listed in found.values() for number in (listed[0], listed[-1])})
    return [(number, fault) for number in numbers for fault in FAULTS if fault.fits(calls[number])]


@pytest.mark.parametrize("name", CASES)
def test_sampled_faults_leave_files_whole_and_are_told(name: str, root: Path) -> None:
    places = struck_places(name, root)
    assert len(places) > 100
    for number, fault in random.Random(name).sample(places, SAMPLE):
        assert not complaints(name, root, fault, number)


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_every_fault_at_every_line_leaves_files_whole_and_is_told(name: str, root: Path) -> None:
    wrong = [line for number, fault in struck_places(name, root) for line in complaints(name, root, fault, number)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_disk_that_fails_at_any_call_at_all(name: str, root: Path) -> None:
    calls = undisturbed(name, root).calls
    wrong = [line for number in range(len(calls)) for line in complaints(name, root, broken(errno.EIO), number)]
    assert not wrong, "\n".join(wrong)


# --- what is said, and what is never done ---------------------------------------------------------


def first_call(name: str, root: Path, kind: str, path: str = LAST) -> int:
    calls = undisturbed(name, root).calls
    return next(number for number, call in enumerate(calls) if call.kind == kind and call.path == path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE], ids=["EIO", "ESTALE"])
@pytest.mark.parametrize("name", ["verify", "inspect all", "convert --device", "diff with a checkpoint"])
def test_disk_that_fails_while_reading_is_no_damage(name: str, number: int, root: Path) -> None:
    found = carried_out(root, CASES[name], broken(number), first_call(name, root, READ))
    assert found.code == 2
    assert "can't be read" in found.err
    assert {errno.EIO: "check the disk", errno.ESTALE: "mount"}[number] in found.err
    assert "damaged" not in found.out + found.err


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("prune", "watch"))])
def test_reads_and_writes_that_move_half_of_the_bytes_change_nothing(name: str, root: Path) -> None:
    whole = undisturbed(name, root)
    found = carried_out(root, CASES[name], replace(short(), sticky=True), 0)
    assert (found.code, found.trace) == (whole.code, "")
    made = {path: verdict_of(root / path) for path in found.files if CHECKPOINT.fullmatch(path)}
    assert made == whole.verdicts


@pytest.mark.parametrize(
    "data", [at(3), GOOD[LAST][:3000], b"PK\3\4" * 3000, LEGACY[LAST]], ids=["whole", "cut", "noise", "stream"]
)
def test_file_that_is_cut_while_it_is_read_ends_the_reading(data: bytes, root: Path) -> None:
    case = Case(f"verify @{LAST}", {LAST: data})
    calls = carried_out(root, case).calls
    for number in range(len(calls)):
        found = carried_out(root, case, changed("cut", cut), number)
        assert (found.trace, found.code in (0, 1, 2)) == ("", True)


def test_name_that_can_not_be_looked_at_is_not_written_over(root: Path) -> None:
    name = "convert to a name that is taken"
    case = CASES[name]
    calls = undisturbed(name, root).calls
    looks = [n for n, call in enumerate(calls) if call.name == "stat" and call.path.endswith(".converted.pt")]
    assert looks
    for number in looks:
        found = carried_out(root, case, broken(errno.EIO), number)
        assert (found.code, found.files) == (2, dict(case.files))


def test_earlier_results_come_back_where_a_later_step_fails(root: Path) -> None:
    name = "convert over an earlier result"
    calls = undisturbed(name, root).calls
    assert undisturbed(name, root).files != EARLIER
    renames = [number for number, call in enumerate(calls) if call.name == "replace"]
    assert len(renames) == 2
    for number in renames:
        found = carried_out(root, CASES[name], broken(errno.EACCES), number)
        assert (found.code, found.files) == (2, EARLIER)


def test_earlier_backup_is_never_written_over(root: Path) -> None:
    name = "convert in place again"
    for number, call in enumerate(undisturbed(name, root).calls):
        if ".bak" in call.path:
            found = carried_out(root, CASES[name], broken(errno.EIO), number)
            assert found.files["run/weights/last.pt.bak"] == LINKED["run/weights/last.pt.bak"]


def test_file_saved_at_the_last_moment_is_not_replaced(root: Path) -> None:
    name = "convert in place"
    calls = undisturbed(name, root).calls
    (link,) = (number for number, call in enumerate(calls) if call.name == "link")
    found = carried_out(root, CASES[name], changed("replaced", replaced), link)
    assert found.code == 2
    assert "written to meanwhile" in found.err
    assert found.files == {**GOOD, LAST: OTHERS[GOOD[LAST]]}


def test_what_a_failing_disk_left_goes_with_the_next_run(root: Path) -> None:
    name = "convert --device"
    calls = undisturbed(name, root).calls
    (sync,) = (number for number, call in enumerate(calls) if call.name == "fsync" and call.path[-7:] != "weights")
    carried_out(root, CASES[name], broken(errno.EIO, CHANGE, sticky=True), sync)
    (left,) = (path for path in found_in(root) if _is_temporary(path))
    os.utime(root / left, (time.time() - HOUR,) * 2)
    assert invoke(CASES[name].arguments(root)).code == 0
    assert left not in found_in(root)


@pytest.mark.parametrize("command", ["latest @run", "prune @run --keep-last 1 --yes"])
def test_folder_that_can_not_be_searched_is_named(command: str, root: Path) -> None:
    case = Case(command)
    calls = carried_out(root, case).calls
    numbers = [n for n, call in enumerate(calls) if call.name == "scandir" and call.path == "run/weights"]
    assert len(numbers) >= 2
    for number in numbers[:2]:
        found = carried_out(root, case, broken(errno.EACCES), number)
        assert str(root / "run" / "weights") in found.err
        assert "Permission denied" in found.err
        assert found.files == GOOD


# --- as an ordinary user --------------------------------------------------------------------------


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Rights count here: an administrator becomes somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


NOBODY = 65534


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of everybody, where the folders of tests are their user's alone."""
    folder = Path(tempfile.mkdtemp(prefix="ckpt-rights-")).resolve()
    folder.chmod(0o755)
    yield folder / "work"
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


def owned(root: Path, mine: bool) -> None:
    """Everything belongs to the ordinary user, or to the administrator."""
    for path in (root, *root.rglob("*")):
        if os.geteuid() == 0 and mine:
            os.chown(path, NOBODY, NOBODY)
        path.chmod(0o755 if path.is_dir() else 0o644)


# What is set on a path before a command is run by its owner.
RIGHTS = {
    "unreadable file": (LAST, 0o000),
    "read-only file": (LAST, 0o444),
    "unreadable donor": (EPOCH2, 0o000),
    "read-only folder": ("run/weights", 0o555),
    "unlistable folder": ("run/weights", 0o300),
    "closed folder": ("run/weights", 0o000),
    "closed run": ("run", 0o000),
    "unreadable args": ("run/args.yaml", 0o000),
    "unreadable data": ("data.yaml", 0o000),
    "unreadable results": ("run/results.csv", 0o000),
}


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights are POSIX's")
@pytest.mark.parametrize("what", RIGHTS)
def test_rights_that_are_missing_are_told_and_nothing_is_lost(what: str, shared: Path) -> None:
    path, mode = RIGHTS[what]
    for name, case in CASES.items():
        whole = undisturbed(name, shared)  # also imports what the ordinary user may have no right to read
        lay_out(shared, case.files)
        owned(shared, mine=True)
        before = found_in(shared)
        if not (shared / path).exists():
            continue
        (shared / path).chmod(mode)
        verifying._glance.cache_clear()
        with ordinary_user():
            said = watched(shared) if name == "watch" else invoke(case.arguments(shared))
        (shared / path).chmod(0o755)
        after = found_in(shared)
        assert not said.trace, f"{name}: {said.trace}"
        assert said.code in (0, 1, 2, 3), name
        if said.code != whole.code:
            found = Outcome(said.code, said.out, said.err, after, [])
            assert _says_why(found, shared), f"{name}: {said.err}"
            if not name.startswith("prune"):
                assert {held: data for held, data in after.items() if held in before} == before, name
        assert not [left for left in after if _is_temporary(left)], name


def watched(root: Path) -> Said:
    watch_once(root)
    return Said(0, "", "")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="files of two users")
@pytest.mark.parametrize("name", ["convert in place", "repair in place", "prune", "prune --strip-old"])
def test_files_of_others_in_a_shared_folder_stay(name: str, shared: Path) -> None:
    undisturbed(name, shared)
    lay_out(shared, CASES[name].files)
    owned(shared, mine=False)
    for folder in (shared, shared / "run", shared / "run/weights"):
        folder.chmod(0o1777)
    with ordinary_user():
        said = invoke(CASES[name].arguments(shared))
    assert said.code in (1, 2)
    assert "not permitted" in said.out + said.err
    assert found_in(shared) == dict(CASES[name].files)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights are POSIX's")
@pytest.mark.parametrize(
    "command", [f"verify --here @{LAST}", f"diff @{LAST} @run/args.yaml --here", f"diff @{LAST} lr0=0.1"]
)
def test_paths_in_a_file_may_lead_where_nobody_may_look(command: str, shared: Path) -> None:
    closed = shared / "closed"
    saved_args = {
        "task": "detect",
        "epochs": 5,
        "data": str(closed / "data.yaml"),
        "save_dir": str(closed / "run"),
        "model": str(closed / "m.yaml"),
    }
    files = {
        LAST: at(3, train_args=saved_args),
        "run/args.yaml": f"data: {closed}/other.yaml\nmodel: {closed}/x.yaml\n".encode(),
    }
    case = Case(command, {**files, "closed/data.yaml": DATA})
    carried_out(shared, case)
    owned(shared, mine=True)
    closed.chmod(0)
    with ordinary_user():
        said = invoke(case.arguments(shared))
    assert (said.trace, said.code in (0, 1)) == ("", True), said.err
