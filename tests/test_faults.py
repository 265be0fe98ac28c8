"""Whatever a disk does while a command reads or writes: the files stay whole, and what is said is true."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from building import detector, saved, saved_legacy, stripped_checkpoint, ultralytics_checkpoint
from faults import CHANGE, LOOK, OPEN, READ, WRITE, Disk, Fault, broken, changed, short
from inprocess import invoke

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
    verifying.PAUSE = 0  # type: ignore[assignment]  # between readings of a file that changes
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
    return Outcome(code, out, err, found_in(root), disk.calls, seen[-1] if seen else None, trace)


def verdict_of(path: Path) -> str:
    """What the tool says of a file that was left, on a disk that works."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "np") as opened:  # type: ignore[no-untyped-call]
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
    before = found.changed if found.changed is not None else case.files
    wrong = []
    if found.trace or found.code not in (0, 1, 2, 3):
        wrong.append(f"exit {found.code}: {found.trace or found.err}")
    wrong += [f"{path} {what}" for path, data in before.items() if (what := _hurt(path, data, root, whole, found))]
    wrong += [f"{path} {what}" for path in found.files if path not in before and (what := _unfinished(path, root, whole, found, before))]
    struck = found.calls[number] if number < len(found.calls) else None
    helpless = fault.sticky or found.changed is not None or (struck is not None and struck.name in ("unlink", "remove"))
    left = [path for path in found.files if TEMPORARY.fullmatch(path.rsplit("/", 1)[-1])]
    if left and not helpless:
        wrong.append(f"{left} were left")
    if found.changed is None:
        missing = sorted(set(whole.files) - set(found.files))
        if found.code == whole.code and missing and not case.command.startswith("watch"):
            wrong.append(f"said {found.code}, and {missing} are missing")
        if found.code != whole.code and not (found.code in (1, 2) and _says_why(found, root)):
            wrong.append(f"exit {found.code} instead of {whole.code}: {found.out[-300:]!r} {found.err!r}")
    elif found.code == 2 and not _says_why(found, root):
        wrong.append(f"exit 2: {found.out[-300:]!r} {found.err!r}")
    place = f"{struck.name} {struck.path} from {struck.line}" if struck is not None else "no call"
    return [f"{name}: {fault.name} at {number}, {place}: {line}" for line in wrong]


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
    verdict = verdict_of(root / path)
    return "" if verdict == whole.verdicts.get(path) else f"is not whole: {verdict}, not {whole.verdicts.get(path)}"


def _unfinished(path: str, root: Path, whole: Outcome, found: Outcome, before: Mapping[str, bytes]) -> str:
    """What is wrong with a file a command made."""
    last, data = path.rsplit("/", 1)[-1], found.files[path]
    if TEMPORARY.fullmatch(last):
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
    return str(root) in said and ";" in said
