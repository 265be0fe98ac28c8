"""Converted files where the originals do not load: another numpy or none, the other kind of paths, moved packages."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import pickle
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
from oracle.packages import CACHE, installed
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
print(json.dumps(told(torch.load(sys.argv[1], weights_only=sys.argv[2] == "plain", map_location="cpu"))))
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


def load(path: Path, before: str = "", packages: Sequence[Path] = (), plain: bool = False) -> Any:
    """What another process loads, as JSON; the last line of its error where it can't."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, packages)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", before + TELL, str(path), "plain" if plain else "all"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def numpy1() -> Path:
    """numpy 1.26, beside the torch of the test environment."""
    if np.__version__.startswith("1."):
        pytest.skip("this environment has numpy 1 itself")
    return installed(("numpy==1.26.4",), CACHE / "numpy-1.26.4")


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
    assert "No module named 'numpy._core" in load(path, packages=[numpy1])
    made = converted(path, tmp_path / "portable.pt", portable=True)
    for before, packages in (("", [numpy1]), (NO_NUMPY, []), ("", [])):
        assert load(made.path, before, packages, plain=True) == PLAIN


def test_real_run_with_numpy_2_names_loads_under_numpy_1(numpy1: Path, tmp_path: Path) -> None:
    yolov5 = installed(("yolov5==7.0.14",), CACHE / "yolov5-7.0.14")
    path = FIXTURES / "yolov5-7.0-interrupted.pt"
    assert "numpy._core" in load(path, packages=[numpy1, yolov5])
    made = converted(path, tmp_path / "portable.pt", portable=True)
    held = load(made.path, "import warnings; warnings.simplefilter('ignore')\n", [numpy1, yolov5])
    assert (held["epoch"], held["ema"]) == (1, "DetectionModel"), held


def test_paths_of_either_system_load_on_the_other(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    args = {"save_dir": pathlib.PurePosixPath("runs/train"), "data": Path("/data/x.yaml")}
    torch.save({"model": torch.ones(2), "here": args, "there": WindowsPath()}, path)
    assert "cannot instantiate 'WindowsPath'" in load(path)
    assert "cannot instantiate" in load(path, OTHER_PATHS)
    made = converted(path, tmp_path / "portable.pt", portable=True)
    expected = {
        "model": ["torch.float32", [1.0, 1.0]],
        "here": {"save_dir": "runs/train", "data": "/data/x.yaml"},
        "there": "C:\\runs\\train",
    }
    assert load(made.path, OTHER_PATHS, plain=True) == expected
    assert load(made.path, plain=True) == expected


def test_path_of_a_newer_python_becomes_text(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"model": torch.ones(2), "dir": Path("/data/run")}, path)
    newer = tmp_path / "newer.pt"
    with_names = pickle.dumps({"dir": Path("/data/run")}, 2)
    assert b"cpathlib\nPosixPath" in with_names
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(newer, "w") as new:
        for info in old.infolist():
            data = old.read(info).replace(
                b"cpathlib\nPosixPath", b"cpathlib._local\nPosixPath"
            )  # as Python 3.13 has it
            new.writestr(info.filename, data)
    assert "pathlib._local" in load(newer)
    made = converted(newer, tmp_path / "portable.pt", portable=True)
    assert load(made.path, plain=True)["dir"] == "/data/run"


def test_namespace_becomes_a_dict_that_weights_only_takes(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"model": {"w": torch.ones(1)}, "epoch": 1, "args": argparse.Namespace(lr=0.1, epochs=5)}, path)
    assert "weights_only" in str(load(path, plain=True)) or "Unsupported" in str(load(path, plain=True))
    made = converted(path, tmp_path / "dict.pt", args_as_dict=True)
    assert load(made.path, plain=True)["args"] == {"lr": 0.1, "epochs": 5}


# --- packages that moved --------------------------------------------------------------------------

MOVED = {"modules": dict([renaming("ultralytics.yolo.*=ultralytics.*", "--rename-module")])}


@pytest.mark.parametrize("how", ["named", "for the target"])
@pytest.mark.parametrize("kind", ["interrupted-sgd", "classify-interrupted-adamw"])
def test_file_of_ultralytics_yolo_loads_in_todays(kind: str, how: str, tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    path = FIXTURES / f"ultralytics-8.0.44-{kind}.pt"
    assert "No module named 'ultralytics.yolo'" in load(path)
    asked: dict[str, Any] = MOVED if how == "named" else {"portable": True, "target": parse_target(target())}
    made = converted(path, tmp_path / "new.pt", **asked)
    held = load(made.path)
    assert held["epoch"] == 1, held
    assert held["ema"] in ("DetectionModel", "ClassificationModel")
    assert tensors(made.path) == tensors(path)


def test_names_of_yolov5_move_both_ways(tmp_path: Path) -> None:
    yolov5 = installed(("yolov5==7.0.14",), CACHE / "yolov5-7.0.14")
    path = FIXTURES / "yolov5-7.0-interrupted.pt"
    inside = converted(path, tmp_path / "inside.pt", modules={"yolov5.models": "models"})
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("models", "utils"):  # as in a clone of the repository, which is on the path itself
        (clone / name).symlink_to(yolov5 / "yolov5" / name)
    (clone / "yolov5").symlink_to(yolov5 / "yolov5")
    assert "No module named 'models'" in load(inside.path, packages=[yolov5])
    assert load(inside.path, packages=[clone])["ema"] == "DetectionModel"
    back = converted(inside.path, tmp_path / "back.pt", modules={"models": "yolov5.models"})
    assert load(back.path, packages=[yolov5])["ema"] == "DetectionModel"
    assert tensors(back.path) == tensors(path)
