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
    trace = ""
    with Disk(root, fault, number) as disk:
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
    return Outcome(code, out, err, found_in(root), disk.calls, trace)


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


def complaints(name: str, root: Path, fault: Fault, number: int, before: Mapping[str, bytes] | None = None) -> list[str]:
    """What is wrong with how a command took a fault; ``before`` are the files where the fault changed them."""
    case, whole = CASES[name], undisturbed(name, root)
    found = carried_out(root, case, fault, number)
    wrong = []
    if found.trace or found.code not in (0, 1, 2, 3):
        wrong.append(f"exit {found.code}: {found.trace or found.err}")
    before = dict(before if before is not None else case.files)
    for path, data in before.items():
        now = found.files.get(path)
        if now == data or (now is None and path not in whole.files and _kept_elsewhere(path, data, whole, found)):
            continue
        if whole.files.get(path) in (data, None) or now is None:
            wrong.append(f"{path} is {'gone' if now is None else 'another'}")
        elif verdict_of(root / path) != whole.verdicts.get(path):
            wrong.append(f"{path} is not whole: {verdict_of(root / path)}, not {whole.verdicts.get(path)}")
    cleaning = fault.sticky or found.calls[number].name in ("unlink", "remove")
    for path, data in found.files.items():
        if path in before:
            continue
        last = path.rsplit("/", 1)[-1]
        if TEMPORARY.fullmatch(last):
            if not cleaning:
                wrong.append(f"{path} was left")
        elif BACKUP.fullmatch(path) and data == before.get(path.split(".bak")[0]):
            continue
        elif path not in whole.files:
            wrong.append(f"{path} was made")
        elif CHECKPOINT.fullmatch(path):
            if (verdict := verdict_of(root / path)) != whole.verdicts[path]:
                wrong.append(f"{path} is {verdict}, not {whole.verdicts[path]}")
        elif ".ckpt-ring" in path and data not in before.values():
            wrong.append(f"{path} is no copy")
    if found.code == whole.code and set(whole.files) - set(found.files) and not case.command.startswith("watch"):
        wrong.append(f"said {found.code}, and {sorted(set(whole.files) - set(found.files))} are missing")
    if found.code != whole.code and not _says_why(found, root):
        wrong.append(f"exit {found.code} instead of {whole.code}: {found.out[-300:]!r} {found.err!r}")
    call = found.calls[number] if number < len(found.calls) else None
    place = f"{call.name} {call.path} from {call.line}" if call is not None else "no call"
    return [f"{name}: {fault.name} at {number}, {place}: {line}" for line in wrong]


def _kept_elsewhere(path: str, data: bytes, whole: Outcome, found: Outcome) -> bool:
    """Where a plan moves a file it is whole in its new place; where it removes one that is all."""
    moved = [other for other, held in whole.files.items() if held == data and other not in found.files and "moved" in other]
    return not moved


def _says_why(found: Outcome, root: Path) -> bool:
    """Whether an error names what could not be read or written, and what to do."""
    said = found.err + found.out
    return str(root) in said and ";" in said
