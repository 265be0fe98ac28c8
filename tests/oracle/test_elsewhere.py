"""Converted files where the originals do not load: another numpy or none, the other kind of paths, moved packages."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FIXTURES
from mending import converted, tensors

from ckpt_tools.conversions.request import renaming
from ckpt_tools.verbs.verify import parse_target
from oracle.packages import CACHE, EXTRAS, installed
from oracle.trainer import target

torch = pytest.importorskip("torch")

TELL = """
def told(value):
    import torch
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, dict):
        return {str(key): told(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [told(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__

import json, sys, torch
read, found = globals().get("load"), []
for path in sys.argv[2:]:
    try:
        found.append(told(read(path) if read else torch.load(path, weights_only=sys.argv[1] == "plain")))
    except Exception as error:
        found.append(f"{type(error).__name__}: {error}")
print(json.dumps(found))
"""
OTHER_PATHS = """
import pathlib
def refuse(cls, *parts, **options):
    raise NotImplementedError(f"cannot instantiate {cls.__name__!r} on your system")
pathlib.PosixPath.__new__ = refuse
"""
NO_NUMPY = (
    "import torch, sys\nfor name in [n for n in sys.modules if n.split('.')[0] == 'numpy']: sys.modules[name] = None\n"
)


def load(*paths: Path, before: str = "", packages: Sequence[Path] = (), plain: bool = False) -> list[Any]:
    """What another process loads, as JSON has it, of each file; the text of the error where it can't."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, packages))}
    command = [sys.executable, "-c", before + TELL, "plain" if plain else "all", *map(str, paths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="session", params=["1.26.4", "1.25.2"])
def numpy1(request: pytest.FixtureRequest) -> Path:
    """numpy 1, beside the torch of the test environment; from 1.26 on it knows numpy 2's module names."""
    if np.__version__.startswith("1."):
        pytest.skip("this environment has numpy 1 itself")
    return installed((f"numpy=={request.param}",), CACHE / f"numpy-{request.param}")


class WindowsPath:
    """Pickled as a path of a Windows machine."""

    def __reduce__(self) -> Any:
        return (pathlib.WindowsPath, ("C:\\", "runs", "train"))


def checkpoint() -> dict[str, Any]:
    return {
        "epoch": 3,
        "model": {"weight": torch.arange(6.0).reshape(2, 3)},
        "best": np.float64(0.5),
        "count": np.int64(7),
        "half": np.float32(0.25),
        "flag": np.bool_(True),
        "table": np.arange(6, dtype=np.float32).reshape(2, 3),
        "turned": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "none": np.zeros((0, 2)),
        "deep": {"list": [np.float64(1.5), (np.int32(2), "text")]},
    }


PLAIN = {
    "epoch": 3, "best": 0.5, "count": 7, "half": 0.25, "flag": True, "table": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
    "turned": [[0, 1, 2], [3, 4, 5]], "none": [], "deep": {"list": [1.5, [2, "text"]]},
    "model": {"weight": ["torch.float32", [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]},
}  # fmt: skip


def test_numpy_2_data_load_under_numpy_1_and_without_numpy(numpy1: Path, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save(checkpoint(), path)
    made = converted(path, tmp_path / "portable.pt", portable=True)
    old, _ = load(path, made.path, packages=[numpy1])
    assert "No module named 'numpy._core" in old or numpy1.name == "numpy-1.26.4"
    assert load(made.path, packages=[numpy1], plain=True) == [PLAIN]
    if numpy1.name == "numpy-1.26.4":  # once is enough
        assert load(made.path, before=NO_NUMPY, plain=True) == load(made.path, plain=True) == [PLAIN]


def test_real_run_with_numpy_2_names_loads_under_numpy_1(numpy1: Path, tmp_path: Path) -> None:
    before = f"import sys; sys.path.append({str(FIXTURES.parent / 'tests')!r})\nfrom oracle.standins import load\n"
    path = FIXTURES / "yolov5-7.0-interrupted.pt"
    made = converted(path, tmp_path / "portable.pt", portable=True)
    old, held = load(path, made.path, before=before, packages=[numpy1])
    assert "numpy._core" in old or numpy1.name == "numpy-1.26.4"
    assert (held["epoch"], held["ema"]) == (1, "DetectionModel"), held


def test_paths_of_either_system_load_on_the_other(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    args = {"save_dir": pathlib.PurePosixPath("runs/train"), "data": Path("/data/x.yaml")}
    torch.save({"model": torch.ones(2), "here": args, "there": WindowsPath()}, path)
    made = converted(path, tmp_path / "portable.pt", portable=True)
    expected = {
        "model": ["torch.float32", [1.0, 1.0]],
        "here": {"save_dir": "runs/train", "data": "/data/x.yaml"},
        "there": "C:\\runs\\train",
    }
    here, portable_here = load(path, made.path)
    there, portable_there = load(path, made.path, before=OTHER_PATHS)
    assert "cannot instantiate 'WindowsPath'" in here
    assert "cannot instantiate" in there
    assert portable_here == portable_there == expected


def test_path_of_a_newer_python_becomes_text(tmp_path: Path) -> None:
    path, newer = tmp_path / "last.pt", tmp_path / "newer.pt"
    torch.save({"model": torch.ones(2), "dir": Path("/data/run")}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(newer, "w") as new:
        for info in old.infolist():
            data = old.read(info).replace(
                b"cpathlib\nPosixPath", b"cpathlib._local\nPosixPath"
            )  # as Python 3.13 has it
            new.writestr(info.filename, data)
    made = converted(newer, tmp_path / "portable.pt", portable=True)
    old_way, new_way = load(newer, made.path)
    assert "pathlib._local" in old_way
    assert new_way["dir"] == "/data/run"


def test_namespace_becomes_a_dict_that_weights_only_takes(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"model": {"w": torch.ones(1)}, "epoch": 1, "args": argparse.Namespace(lr=0.1, epochs=5)}, path)
    made = converted(path, tmp_path / "dict.pt", args_as_dict=True)
    old, new = load(path, made.path, plain=True)
    assert "weights_only" in old
    assert new["args"] == {"lr": 0.1, "epochs": 5}


# --- packages that moved --------------------------------------------------------------------------

MOVED = {"modules": dict([renaming("ultralytics.yolo.*=ultralytics.*", "--rename-module")])}


@pytest.mark.parametrize("kind", ["interrupted-sgd", "classify-interrupted-adamw"])
def test_file_of_ultralytics_yolo_loads_in_todays(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    path = FIXTURES / f"ultralytics-8.0.44-{kind}.pt"
    named = converted(path, tmp_path / "named.pt", **MOVED)
    aimed = converted(path, tmp_path / "aimed.pt", portable=True, target=parse_target(target()))
    old, *new = load(path, named.path, aimed.path)
    assert "No module named 'ultralytics.yolo'" in old
    for held in new:
        assert (held["epoch"], held["ema"]) in ((1, "DetectionModel"), (1, "ClassificationModel")), held
    assert tensors(named.path) == tensors(aimed.path) == tensors(path)


def test_names_of_yolov5_move_both_ways(tmp_path: Path) -> None:
    yolov5 = installed(("yolov5==7.0.14",), CACHE / "yolov5-7.0.14")
    extras = installed(EXTRAS, CACHE / "extras")
    path = FIXTURES / "yolov5-7.0-interrupted.pt"
    inside = converted(path, tmp_path / "inside.pt", modules={"yolov5.models": "models"})
    back = converted(inside.path, tmp_path / "back.pt", modules={"models": "yolov5.models"})
    moved, again = load(inside.path, back.path, packages=[yolov5, extras])
    assert "No module named 'models'" in moved
    assert again["ema"] == "DetectionModel"
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("models", "utils"):  # as in a clone of the repository, which is on the path itself
        (clone / name).symlink_to(yolov5 / "yolov5" / name)
    (clone / "yolov5").symlink_to(yolov5 / "yolov5")
    assert load(inside.path, packages=[clone, extras])[0]["ema"] == "DetectionModel"
    assert tensors(back.path) == tensors(path)
