"""``ckpt diff`` against the real trainer: every setting, overridden in a resume, fares as its label says.

For each argument of a release's defaults a real interrupted run of about that release is resumed with another value,
and ``trainer.args`` is looked at when training starts. The newest release is asked about every argument, older ones
across the changes of the list of overrides about a sample; ``pytest -m full tests/oracle/test_overrides.py`` asks all
of them about everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import ckpt_tools
from ckpt_tools.differences.model import Meaning
from ckpt_tools.layouts.arguments import default_arguments, taken_on_resume
from ckpt_tools.layouts.ultralytics import numbers
from ckpt_tools.verbs.diff import diff
from ckpt_tools.verbs.verify import parse_target
from oracle.conftest import FIXTURES
from oracle.packages import CACHE, EXTRAS, installed
from oracle.trainer import Trainer, target

INSTALLED = target().partition("==")[2] if find_spec("ultralytics") else "8.4.190"
# Older releases, the fixture each resumes, whether it is asked by default; between them the list of overrides changed.
OLDER = {
    "8.0.200": ("8.0.200", True),
    "8.1.47": ("8.1.47", False),
    "8.2.103": ("8.2.103", True),
    "8.3.100": ("8.2.103", False),
    "8.3.250": ("8.3.250", True),
    "8.4.40": ("8.4", False),
    "8.4.100": ("8.4", True),
    "8.4.150": ("8.4", False),
}
EXTRAS_UNTIL = (8, 3, 200)  # what older releases import and the newest no longer brings
SAMPLE = ("lr0", "epochs", "batch", "imgsz", "patience", "workers", "optimizer", "save_dir", "plots", "show", "amp")

# Another legal value, for arguments whose type does not tell one.
OTHERS: dict[str, Any] = {
    "task": "segment", "mode": "val", "data": "OTHER DATA", "epochs": 9, "imgsz": 96, "batch": 2, "device": "cpu",
    "time": 1.0, "project": "elsewhere", "name": "other", "optimizer": "AdamW", "freeze": 1, "split": "train",
    "conf": 0.3, "quantize": 16, "nms": True, "source": "x.jpg", "classes": [0], "embed": [1], "line_width": 2,
    "opset": 12, "workspace": 4, "channels_last": False, "distill_model": "nowhere.pt", "copy_paste_mode": "mixup",
    "auto_augment": "augmix", "format": "onnx", "tracker": "bytetrack.yaml", "amp": False, "compile": True,
    "cache": "disk", "fraction": 0.5, "exist_ok": False, "plots": True, "pretrained": False, "model": "yolov8n.yaml",
    "show_labels": False, "boxes": False, "crop_fraction": 0.5, "end2end": True, "save_dir": "elsewhere",
    "line_thickness": 2,
}  # fmt: skip
# `resume` is the question itself, `cfg` a file whose content counts, tuning takes no resume.
NOT_ASKED = ("resume", "cfg")


@dataclass(frozen=True)
class Asked:
    """One override put to one release."""

    release: str
    key: str
    value: Any


def another(key: str, default: Any) -> Any:
    """A legal value that is not the saved one."""
    if key in OTHERS:
        return OTHERS[key]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        return default * 0.5 if default else 0.25
    raise KeyError(f"{key}: say in OTHERS what else it can be")


def questions() -> Iterator[Any]:
    """Every argument with another value; wrong values and a misspelt name."""
    for release, always in [(INSTALLED, True), *((name, sampled) for name, (_, sampled) in OLDER.items())]:
        version = numbers(release)
        defaults = {"save_dir": None, **default_arguments(version)}
        for key, default in defaults.items():
            if key not in NOT_ASKED:
                sampled = release == INSTALLED or (always and key in SAMPLE)
                yield question(Asked(release, key, another(key, default)), sampled)
        wrong = [("lr_0", 0.1), ("epochs", "many"), ("cos_lr", "yes"), ("lr0", 2.0), ("mosaic", -1), ("batch", -1),
                 ("imgsz", 70), ("imgsz", "big"), ("optimizer", "Sophia"), ("epochs", 1), ("lr0", None)]  # fmt: skip
        for key, value in wrong:
            yield question(Asked(release, key, value), release == INSTALLED or (always and key in ("lr_0", "cos_lr")))


def question(asked: Asked, sampled: bool) -> Any:
    marks = [] if sampled else [pytest.mark.full]
    return pytest.param(asked, marks=marks, id=f"{asked.release}-{asked.key}={asked.value}")


class Releases:
    """A trainer of each release that is asked for, and a checkpoint it can resume."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = CACHE
        self.running: dict[str, Trainer] = {}
        self.checkpoints: dict[tuple[str, str], Path] = {}

    def trainer(self, release: str) -> Trainer:
        if release not in self.running:
            packages = [] if release == INSTALLED else [installed((f"ultralytics=={release}",), self.cache / release)]
            if packages and numbers(release) < EXTRAS_UNTIL:
                packages.append(installed(EXTRAS, self.cache / "extras"))
            self.running[release] = Trainer(self.folder / release, packages)
        return self.running[release]

    def checkpoint(self, release: str, device: str = "cpu") -> Path:
        """A real interrupted run, made one of this machine by ``ckpt repair --target``."""
        trainer = self.trainer(release)
        if (release, device) not in self.checkpoints:
            origin = OLDER.get(release, ("8.4", True))[0]
            place = trainer.place("last.pt")
            folder = place.parent.parent
            run = {"save_dir": str(folder), "project": str(folder.parent), "name": folder.name}
            request = ckpt_tools.Request(
                settings={**run, "device": device, "data": trainer.data("detect")},
                target=parse_target(f"ultralytics=={release}"),
                accept_loss=True,
            )
            source = FIXTURES / f"ultralytics-{origin}-interrupted-sgd.pt"
            with ckpt_tools.plan_repair(source, request, place) as repair:
                repair.apply()
            self.checkpoints[release, device] = place
        return self.checkpoints[release, device]

    def close(self) -> None:
        for trainer in self.running.values():
            trainer.close()


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releases]:
    if find_spec("ultralytics") is None or not hasattr(os, "fork"):
        pytest.skip("needs ultralytics and fork")
    made = Releases(tmp_path_factory.mktemp("releases"))
    yield made
    made.close()


def copied_data(trainer: Trainer) -> str:
    """The same data set under another name."""
    origin = Path(trainer.data("detect"))
    copy = origin.with_name("other.yaml")
    copy.write_text(origin.read_text("utf-8"), encoding="utf-8")
    return str(copy)


@pytest.mark.parametrize("asked", list(questions()))
def test_an_override_fares_as_its_label_says(releases: Releases, asked: Asked, tmp_path: Path) -> None:
    trainer = releases.trainer(asked.release)
    movable = asked.key == "device" and "device" in taken_on_resume(numbers(asked.release))
    path = releases.checkpoint(asked.release, "0" if movable else "cpu")
    value = asked.value
    if asked.key == "device" and not movable:
        value = "0"
    if asked.key == "data":
        value = copied_data(trainer)
    elif asked.key in ("project", "save_dir"):
        value = str(tmp_path / "elsewhere")
    found = diff(path, [f"{asked.key}={value}"], target=f"ultralytics=={asked.release}", here=asked.key != "device")
    if not found.differences and isinstance(value, (int, float)):  # the fixture's run happens to have it
        found = diff(path, [f"{asked.key}={value * 0.5}"], target=f"ultralytics=={asked.release}")
    label = next((d for d in found.differences if d.key == asked.key), None)
    assert label is not None, f"no difference: {asked.key} is {found.situation.saved.get(asked.key)!r}"
    outcome = trainer.ask(do="override", path=str(path), overrides={asked.key: label.new})
    if label.meaning in (Meaning.BREAKS, Meaning.INVALID, Meaning.UNKNOWN):
        assert outcome["kind"] in ("refused", "new run"), f"{label.meaning} ({label.why}), but it resumed"
        return
    assert outcome["kind"] == "resumed", f"{label.meaning} ({label.why}), but: {outcome.get('message')}"
    assert outcome["arguments"].get(asked.key) in winners(label, outcome), f"{label.meaning}: {label.why}"


def winners(label: Any, outcome: Any) -> list[Any]:
    """What the trainer may have of a setting, for each meaning."""
    new, old = label.new, None if repr(label.old) == "absent" else label.old
    if label.key == "imgsz" and label.meaning is Meaning.HONOURED:
        return [-(-new // 32) * 32]  # a multiple of the stride, as the label says
    if label.key == "mosaic":
        return [old, 0.0]  # up to 8.2 the trainer sets it to 0 where the run is in its last `close_mosaic` epochs
    if label.meaning in (Meaning.HONOURED, Meaning.SCHEDULE):
        return [new] if new != -1 else [outcome["arguments"]["batch"]]  # -1: measured
    return [old] if label.meaning is Meaning.IGNORED else [old, new]


def test_the_list_grew_between_the_releases_that_are_asked() -> None:
    sizes = [len(taken_on_resume(numbers(release))) for release in ("8.0.100", *OLDER, INSTALLED)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= 6
