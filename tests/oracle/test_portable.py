"""``ckpt convert`` for other environments: each is a process of its own in which the original really fails.

There are two with numpy 1 (1.26 knows some of numpy 2's names), one without numpy, one where paths of this system
can't be made, one with the yolov5 package, and one in which the ultralytics of the test environment predicts.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import pickletools
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FIXTURES, Run
from graphs import difference
from mending import converted

import ckpt_tools
from ckpt_tools.conversions import Conversion
from ckpt_tools.verbs.convert import plan_convert
from ckpt_tools.verbs.verify import parse_target
from oracle.packages import CACHE, EXTRAS, installed

torch = pytest.importorskip("torch")

from oracle.standins import bits, load, named_tensors  # noqa: E402

ALL = sorted(FIXTURES.glob("*.pt"))
READABLE = [path for path in ALL if path.stem != "torchscript"]

# --- other environments ---------------------------------------------------------------------------

# What is there before torch is: no module of Python 3.13's pathlib, whatever Python this is.
START = """
import json, os, pathlib, sys, warnings
warnings.simplefilter("ignore")
sys.modules["pathlib._local"] = None
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
"""
NO_NUMPY = "sys.modules['numpy'] = None\n"
OTHER_SYSTEM = """
def refuse(cls, *parts, **options):
    raise NotImplementedError(f"cannot instantiate {cls.__name__!r} on your system")
pathlib.PosixPath.__new__ = refuse
"""
ANSWER = """
import hashlib, torch

def told(value):
    if isinstance(value, torch.Tensor):
        return ["tensor", str(value.dtype), value.tolist()]
    if isinstance(value, torch.nn.Module):
        data = b"".join(bytes(t.contiguous().flatten().view(torch.uint8).tolist()) for t in value.state_dict().values())
        return ["module", type(value).__module__ + "." + type(value).__name__, hashlib.sha256(data).hexdigest()]
    if isinstance(value, dict):
        return ["dict", [[told(key), told(inner)] for key, inner in value.items()]]
    if isinstance(value, (list, tuple)):
        return ["list", [told(inner) for inner in value]]
    if isinstance(value, (set, frozenset)):
        return ["set", sorted(map(json.dumps, map(told, value)))]
    if type(value).__name__ == "Namespace":
        return told(vars(value))
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return ["numpy", told(value.tolist())]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    return value if type(value) in (str, int, float, bool, type(None)) else f"{type(value).__module__}.{value!r}"

def loads(path, plain=False):
    return told(torch.load(path, weights_only=plain, map_location="cpu"))

def predicts(path):
    import numpy
    from ultralytics import YOLO
    model = YOLO(path)
    found = model.predict(numpy.full((64, 64, 3), 127, numpy.uint8), imgsz=64, conf=1e-5, verbose=False, save=False)[0]
    scores = next(part.data for part in (found.probs, found.obb, found.boxes) if part is not None)
    return {"names": list(model.names.values()), "scores": scores.tolist(), "task": model.task}

for line in sys.stdin:
    job = json.loads(line)
    try:
        answer = {"value": globals()[job.pop("do")](**job)}
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), file=out, flush=True)
"""


class Elsewhere:
    """A Python process with a changed environment that loads what it is told to."""

    def __init__(self, folder: Path, before: str = "", *packages: Path) -> None:
        folder.mkdir(parents=True)
        self.log = folder / "log.txt"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, packages)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "YOLO_CONFIG_DIR": str(folder),
            "YOLO_AUTOINSTALL": "false",
            "YOLO_OFFLINE": "true",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START + before + ANSWER], cwd=folder, env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def ask(self, **job: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the process ended: {self.log.read_text()[-2000:]}"
        found: dict[str, Any] = json.loads(answer)
        return found

    def value(self, path: Path, *, plain: bool = False, do: str = "loads") -> Any:
        """What is loaded; the test fails where that can't be."""
        answer = self.ask(do=do, path=str(path), **({"plain": plain} if do == "loads" else {}))
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def error(self, path: Path) -> str:
        """Why a file can't be loaded there, ``""`` where it can."""
        return str(self.ask(do="loads", path=str(path)).get("error", ""))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


class Places:
    """The environments, each started when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, Elsewhere] = {}

    def __getitem__(self, name: str) -> Elsewhere:
        if name not in self.running:
            before, packages = PLACES[name]
            self.running[name] = Elsewhere(self.folder / name, before, *packages())
        return self.running[name]

    def yolov5_clone(self) -> Path:
        """The folder of a clone of yolov5, where ``models`` and ``utils`` are packages of their own."""
        clone, package = self.folder / "clone", yolov5_package() / "yolov5"
        if not clone.is_dir():
            clone.mkdir()
            for name in ("models", "utils"):
                (clone / name).symlink_to(package / name)
            (clone / "yolov5").symlink_to(package)
        return clone


def numpy_1(release: str) -> Path:
    if np.__version__.startswith("1."):
        pytest.skip("this environment has numpy 1 itself")
    return installed((f"numpy=={release}",), CACHE / f"numpy-{release}")


def yolov5_package() -> Path:
    return installed(("yolov5==7.0.14",), CACHE / "yolov5-7.0.14")


PLACES: dict[str, tuple[str, Callable[[], list[Path]]]] = {
    "here": ("", list),
    "numpy 1": ("", lambda: [numpy_1("1.25.2")]),
    "numpy 1.26": ("", lambda: [numpy_1("1.26.4")]),
    "no numpy": (NO_NUMPY, list),
    "other system": (OTHER_SYSTEM, list),
    "trainer": ("", list),
    "yolov5": ("", lambda: [yolov5_package(), installed(EXTRAS, CACHE / "extras")]),
}


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    made = Places(tmp_path_factory.mktemp("places"))
    yield made
    for place in made.running.values():
        place.close()


@pytest.fixture(scope="session")
def clone(places: Places) -> Elsewhere:
    """A process in a clone of yolov5."""
    if "clone" not in places.running:
        places.running["clone"] = Elsewhere(
            places.folder / "in clone", "", places.yolov5_clone(), installed(EXTRAS, CACHE / "extras")
        )
    return places.running["clone"]


# --- forms of data --------------------------------------------------------------------------------


class Made:
    """Pickled as a call of what is given."""

    def __init__(self, kind: Callable[..., object], *parts: object) -> None:
        self.kind = kind
        self.parts = parts

    def __reduce__(self) -> Any:
        return (self.kind, self.parts)


def windows(*parts: str) -> Made:
    return Made(pathlib.WindowsPath, *parts)


def told(value: Any) -> Any:
    """What a converted file is to give, in the words of the other processes: paths are text, numpy data Python's."""
    if isinstance(value, torch.Tensor):
        return ["tensor", str(value.dtype), value.tolist()]
    if isinstance(value, argparse.Namespace):
        return told(vars(value))
    if isinstance(value, dict):
        return ["dict", [[told(key), told(inner)] for key, inner in value.items()]]
    if isinstance(value, (list, tuple)):
        return ["list", [told(inner) for inner in value]]
    if isinstance(value, (set, frozenset)):
        return ["set", sorted(map(json.dumps, map(told, value)))]
    if isinstance(value, (np.generic, np.ndarray)):
        return told(value.tolist())
    if isinstance(value, Made):
        return str(pathlib.PureWindowsPath(*map(str, value.parts)))
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    return str(value) if isinstance(value, pathlib.PurePath) else value


def same(found: Any, expected: Any) -> None:
    """The same values of the same types; ``==`` takes 1, 1.0 and True for one, and NaN for another."""
    assert json.dumps(found, indent=1) == json.dumps(expected, indent=1)


BASE = {"epoch": 3, "model": {"weight": torch.arange(6.0).reshape(2, 3)}}
SHARED = Path("/data/runs/x")
NUMPY = "No module named 'numpy._core"
MISSING = {"numpy 1": NUMPY, "no numpy": "numpy"}
REACHED = ("here", "other system", "numpy 1", "numpy 1.26", "no numpy")
POSIX = {"other system": "cannot instantiate 'PosixPath'|pathlib._local"}


@dataclass(frozen=True)
class Form:
    """Data that can't be loaded everywhere: ``fails`` has the error for each place where it can't be.

    ``plain``: ``weights_only=True`` takes what is left. ``protocol`` is the pickle's.
    """

    content: Callable[[], Any]
    fails: Mapping[str, str]
    plain: bool = True
    protocol: int = 2


def scalars() -> list[Any]:
    kinds = [np.float64(0.5), np.float32(0.1), np.float16(0.1), np.int64(-7), np.int8(-3), np.uint64(2**64 - 1)]
    odd = [np.float64("nan"), np.float64("-inf"), np.float64(-0.0), np.bool_(True), np.bool_(False), np.str_("häß")]
    return [*kinds, *odd]


def arrays() -> dict[str, Any]:
    grid = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {
        "line": np.arange(3), "grid": grid, "fortran": np.asfortranarray(grid), "scalar": np.array(3.5),
        "empty": np.zeros((0, 2)), "empty column": np.zeros((2, 0)), "big-endian": np.arange(3, dtype=">f4"),
        "mask": np.array([True, False]), "strided": np.arange(8)[::2], "cube": np.arange(24).reshape(2, 3, 4),
        "texts": np.array(["a", "bcd"]), "half": np.arange(2, dtype=np.float16),
    }  # fmt: skip


def everywhere() -> dict[str, Any]:
    counted = collections.Counter({"a": np.int64(2)})
    return {"ordered": collections.OrderedDict(path=Path("x"), best=np.float64(1)), "counter": dict(counted)}


FORMS = {
    "path": Form(lambda: {"dir": SHARED, "again": [SHARED, (SHARED, Path())], "rel": Path("a/../b c")}, POSIX),
    "pure path": Form(lambda: {"posix": pathlib.PurePosixPath("/a/b"), "windows": windows("a", "b")}, {
        "here": "cannot instantiate 'WindowsPath'|pathlib._local"}),
    "windows path": Form(lambda: [windows("C:\\", "runs", "my run"), windows("\\\\host\\share\\", "x"), windows("C:/x"),
                                  windows("..", "x"), windows()],
                         {"here": "cannot instantiate 'WindowsPath'|pathlib._local"}),
    "path as key": Form(lambda: {Path("/a"): 1, (Path("t"), 2): {Path("b"), "c"}}, POSIX),
    "path, protocol 4": Form(lambda: [SHARED, SHARED, windows("C:\\", "x")], POSIX, protocol=4),
    "scalars": Form(scalars, MISSING),
    "scalars, protocol 4": Form(scalars, MISSING, protocol=4),
    "scalar as key": Form(lambda: {np.int64(3): "truck", (np.int32(1), "x"): {np.int64(4)}}, MISSING),
    "bytes": Form(lambda: [np.bytes_(b"a\0b"), np.array([b"x", b"yz"])], MISSING),
    "arrays": Form(arrays, MISSING),
    "arrays, protocol 4": Form(arrays, MISSING, protocol=4),
    "arrays, protocol 5": Form(arrays, MISSING, protocol=5),
    "mappings": Form(everywhere, {**MISSING, **POSIX}),
    "defaultdict": Form(lambda: collections.defaultdict(list, {"a": [np.int64(1), Path("x")]}), MISSING, plain=False),
    "namespace": Form(lambda: argparse.Namespace(lr=np.float64(0.1), project=Path("runs"), names=["a"]),
                      {**MISSING, **POSIX}, plain=False),
    "generator": Form(np.random.RandomState(7).get_state, MISSING),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["archive", "stream"])
@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_portable_file_loads_where_the_original_fails(form: Form, stream: bool, places: Places, tmp_path: Path) -> None:
    path, content = tmp_path / "last.pt", {**BASE, "held": form.content()}
    torch.save(content, path, pickle_protocol=form.protocol, _use_new_zipfile_serialization=not stream)
    for name, message in form.fails.items():
        assert re.search(message, places[name].error(path)), name
    made = converted(path, tmp_path / "portable.pt", portable=True)
    for name in form.fails if stream else REACHED:
        for plain in {False, form.plain}:
            same(places[name].value(made.path, plain=plain), told(content))


def with_names_of_python_313(path: Path, target: Path) -> Path:
    """The file as Python 3.13 would have written it; pathlib is a package there, and classes are in ``_local``."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = re.sub(rb"cpathlib(\._local)?\n", b"cpathlib._local\n", old.read(info))
            new.writestr(info.filename, data)
    assert b"cpathlib._local\n" in target.read_bytes()
    return target


def test_paths_of_python_313_load_in_older_ones(places: Places, tmp_path: Path) -> None:
    content = {**BASE, "dir": SHARED, "pure": pathlib.PurePosixPath("/a"), "there": windows("C:\\", "x")}
    torch.save(content, tmp_path / "old.pt")
    path = with_names_of_python_313(tmp_path / "old.pt", tmp_path / "last.pt")
    assert "pathlib._local" in places["here"].error(path)
    made = converted(path, tmp_path / "portable.pt", portable=True)
    for name in ("here", "other system"):
        same(places[name].value(made.path, plain=True), told(content))


UNLIKE_LISTS = {
    "structured": np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "objects": np.array([{"a": 1}, None], dtype=object),
    "dates": np.array(["2024-01-01"], dtype="M8[D]"),
}


@pytest.mark.parametrize("kind", UNLIKE_LISTS)
def test_array_that_is_no_list_stays_and_loads_under_both_numpys(kind: str, places: Places, tmp_path: Path) -> None:
    path, array = tmp_path / "last.pt", UNLIKE_LISTS[kind]
    torch.save({**BASE, "table": array}, path)
    assert NUMPY in places["numpy 1"].error(path)
    made = converted(path, tmp_path / "portable.pt", portable=True)
    assert "numpy object" in made.text
    assert "stay" in made.text
    found = torch.load(made.path, weights_only=False)["table"]
    assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())
    assert places["numpy 1"].value(made.path) == places["here"].value(path)


def test_complex_numbers_keep_their_values(places: Places, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({**BASE, "scalar": np.complex64(1 + 2j), "array": np.array([1 + 1j]), "best": np.float64(0.5)}, path)
    assert NUMPY in places["numpy 1"].error(path)
    made = converted(path, tmp_path / "portable.pt", portable=True)
    found = torch.load(made.path, weights_only=False)
    assert (complex(found["scalar"]), list(found["array"]), found["best"]) == (1 + 2j, [1 + 1j], 0.5)
    assert places["numpy 1"].value(made.path) == places["here"].value(made.path)


def test_array_in_a_module_stays_one(places: Places, tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    model.anchors, model.file, model.gain = np.arange(6.0).reshape(2, 3), Path("a.yaml"), np.float64(0.5)
    path = tmp_path / "last.pt"
    torch.save({"epoch": 1, "model": model}, path)
    assert NUMPY in places["numpy 1"].error(path)
    made = converted(path, tmp_path / "portable.pt", portable=True)
    found = torch.load(made.path, weights_only=False)["model"]
    assert (found.anchors.tolist(), found.file, found.gain) == (model.anchors.tolist(), "a.yaml", 0.5)
    assert type(found.gain) is float
    for name in ("numpy 1", "other system"):
        assert places[name].value(made.path) == places["here"].value(path)


def test_state_of_random_numbers_is_taken_back(tmp_path: Path) -> None:
    state = np.random.RandomState(7)
    path = tmp_path / "last.pt"
    torch.save({**BASE, "rng": {"numpy": state.get_state(), "torch": torch.get_rng_state()}}, path)
    made = converted(path, tmp_path / "portable.pt", portable=True)
    found, other = torch.load(made.path, weights_only=True), np.random.RandomState(1)
    other.set_state(found["rng"]["numpy"])
    assert other.random_sample(5).tolist() == state.random_sample(5).tolist()
    torch.set_rng_state(found["rng"]["torch"])


def test_optimizer_with_rates_of_numpy_is_loaded_and_goes_on(places: Places, tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=np.float64(0.1), momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = tmp_path / "last.pt"
    torch.save({"epoch": 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    assert NUMPY in places["numpy 1"].error(path)
    made = converted(path, tmp_path / "portable.pt", portable=True)
    found = torch.load(made.path, weights_only=True)
    assert type(found["optimizer"]["param_groups"][0]["lr"]) is float
    other = torch.optim.SGD(model.parameters(), lr=1.0)
    other.load_state_dict(found["optimizer"])
    other.step()
    same(places["no numpy"].value(made.path, plain=True), told(torch.load(path, weights_only=False)))


def test_namespace_becomes_a_dict_where_that_is_asked_for(places: Places, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    content = {**BASE, "args": argparse.Namespace(lr=np.float64(0.1), dir=SHARED, deep=argparse.Namespace(n=1))}
    torch.save(content, path)
    stays = converted(path, tmp_path / "portable.pt", portable=True)
    assert "--args-as-dict" in stays.text
    made = converted(path, tmp_path / "dict.pt", portable=True, args_as_dict=True)
    same(places["no numpy"].value(made.path, plain=True), told(content))
    assert "stays" not in made.text


def test_real_run_of_yolov5_loads_under_numpy_1(places: Places, tmp_path: Path) -> None:
    path = FIXTURES / "yolov5-7.0-interrupted.pt"
    assert "yolov5" in places["numpy 1"].error(path) or NUMPY in places["numpy 1"].error(path)
    made = converted(path, tmp_path / "portable.pt", portable=True, state_dict=True)
    held = dict(places["numpy 1"].value(made.path, plain=True)[1])
    before = dict(named_tensors(load(path)["ema"]))
    assert {name: told(tensor) for name, tensor in before.items()} == held


# --- modules that moved ---------------------------------------------------------------------------

OLD = "No module named 'ultralytics.yolo"
HOW: dict[str, dict[str, Any]] = {
    "named": {"modules": {"ultralytics.yolo": "ultralytics"}},
    "wildcard": {"modules": {"ultralytics.yolo.*": "ultralytics.*"}},
    "target": {"portable": True, "target": parse_target("ultralytics==8.4.190")},
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ["interrupted-sgd", "classify-interrupted-adamw"])
def test_file_of_ultralytics_8_0_44_loads_and_predicts_today(
    kind: str, how: str, places: Places, tmp_path: Path
) -> None:
    pytest.importorskip("ultralytics")
    path = FIXTURES / f"ultralytics-8.0.44-{kind}.pt"
    assert OLD in places["here"].error(path)
    made = converted(path, tmp_path / "new.pt", **HOW[how])
    assert places["here"].value(made.path)[0] == "dict"
    assert {name: bits(t) for name, t in named_tensors(load(made.path))} == {
        name: bits(t) for name, t in named_tensors(load(path))
    }
    # it has a way of its own to the old names
    assert places["trainer"].value(made.path, do="predicts") == places["trainer"].value(path, do="predicts")


def test_wildcard_works_on_the_command_line(ckpt: Run, places: Places, tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    path = FIXTURES / "ultralytics-8.0.44-interrupted-sgd.pt"
    run = ckpt("convert", path, "--rename-module", "ultralytics.yolo.*=ultralytics.*", "-o", tmp_path / "new.pt")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "ultralytics.yolo → ultralytics" in run.stdout
    assert places["here"].value(tmp_path / "new.pt")[0] == "dict"


def graph_of(path: Path) -> Any:
    with ckpt_tools.open(path) as opened:
        assert opened.checkpoint.pickle is not None
        return opened.checkpoint.pickle.root


@pytest.mark.parametrize("kind", ["interrupted", "finished"])
def test_names_of_yolov5_move_into_a_clone_and_back(
    kind: str, clone: Elsewhere, places: Places, tmp_path: Path
) -> None:
    path = FIXTURES / f"yolov5-7.0-{kind}.pt"
    before = places["yolov5"].value(path)
    inside = converted(path, tmp_path / "inside.pt", modules={"yolov5.models": "models", "yolov5.utils": "utils"})
    assert "No module named 'models'" in places["here"].error(inside.path)  # the package puts itself on the path
    assert json.dumps(clone.value(inside.path)) == json.dumps(before).replace("yolov5.models.", "models.")
    back = converted(inside.path, tmp_path / "back.pt", modules={"models": "yolov5.models", "utils": "yolov5.utils"})
    assert places["yolov5"].value(back.path) == before
    assert difference(graph_of(back.path), graph_of(path)) == ""


def test_only_whole_names_of_modules_are_renamed(tmp_path: Path) -> None:
    path = FIXTURES / "yolov5-7.0-interrupted.pt"
    with plan_convert(path, Conversion(modules={"yolov5.model": "models"}), tmp_path / "new.pt") as conversion:
        assert conversion.archive is None
        assert conversion.plan.refused is not None
        assert "names no such module" in conversion.plan.refused


# --- prefixes -------------------------------------------------------------------------------------


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(3, 2))


def same_weights(found: Any, model: Any) -> None:
    held = model.state_dict()
    assert list(found) == list(held)
    assert {name: bits(tensor) for name, tensor in found.items()} == {name: bits(t) for name, t in held.items()}
    network().load_state_dict(found, strict=True)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefix_of_a_wrapper_is_removed(prefix: str, tmp_path: Path) -> None:
    model, path = network(), tmp_path / "last.pt"
    held = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 1, "model": held, "ema": dict(held)}, path)
    made = converted(path, tmp_path / "bare.pt", prefix="none")
    found = torch.load(made.path, weights_only=True)
    same_weights(found["model"], model)
    same_weights(found["ema"], model)


def test_prefix_is_put_on_and_data_parallel_takes_it(tmp_path: Path) -> None:
    model, path = network(), tmp_path / "last.pt"
    torch.save({"epoch": 1, "model": model.state_dict()}, path)
    made = converted(path, tmp_path / "wrapped.pt", prefix="module")
    wrapped = torch.nn.DataParallel(network())
    wrapped.load_state_dict(torch.load(made.path, weights_only=True)["model"], strict=True)
    back = converted(made.path, tmp_path / "back.pt", prefix="none")
    same_weights(torch.load(back.path, weights_only=True)["model"], model)


@pytest.mark.parametrize("depth", [1, 2])
def test_pickled_data_parallel_is_unwrapped(depth: int, places: Places, tmp_path: Path) -> None:
    model, path = network(), tmp_path / "last.pt"
    wrapped = model
    for _ in range(depth):
        wrapped = torch.nn.DataParallel(wrapped)
    torch.save({"epoch": 1, "model": wrapped, "ema": wrapped}, path)
    made = converted(path, tmp_path / "bare.pt", prefix="none")
    found = torch.load(made.path, weights_only=False)
    assert type(found["model"]) is torch.nn.Sequential
    assert found["model"] is found["ema"]
    same_weights(found["model"].state_dict(), model)


def test_module_of_distributed_training_loads_without_a_group(places: Places, tmp_path: Path) -> None:
    if not torch.distributed.is_available() or torch.distributed.is_initialized():
        pytest.skip("needs torch.distributed")
    model, path = network(), tmp_path / "last.pt"
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        torch.save({"epoch": 1, "model": torch.nn.parallel.DistributedDataParallel(model)}, path)
    finally:
        torch.distributed.destroy_process_group()
    assert "process group" in places["here"].error(path)
    made = converted(path, tmp_path / "bare.pt", portable=True)
    same_weights(torch.load(made.path, weights_only=False)["model"].state_dict(), model)


# --- storages -------------------------------------------------------------------------------------


def test_small_views_of_big_tensors_are_cut_out_and_go_on_sharing(tmp_path: Path) -> None:
    big, half = torch.arange(1 << 16, dtype=torch.float32), torch.arange(1 << 14).to(torch.bfloat16)
    held = {"a": big[10:20], "b": big[15:25], "far": big[60000:60004], "grid": big[100:112].view(3, 4), "half": half[7]}
    content = {"epoch": 1, "model": held, "ema": {"a": held["a"], "tail": big[22:25]}}
    path = tmp_path / "last.pt"
    torch.save(content, path)
    made = converted(path, tmp_path / "small.pt", portable=True)
    found = torch.load(made.path, weights_only=True)
    assert path.stat().st_size > 290_000
    assert made.path.stat().st_size < 12_000
    for name, tensor in named_tensors(content):
        assert bits(dict(named_tensors(found))[name]) == bits(tensor), name
    model, ema = found["model"], found["ema"]
    assert model["b"].data_ptr() - model["a"].data_ptr() == 20
    assert ema["a"].data_ptr() == model["a"].data_ptr()
    assert ema["tail"].data_ptr() - model["a"].data_ptr() == 48
    model["a"][6] = -1.0
    assert model["b"][1].item() == ema["a"][6].item() == -1.0


def test_tied_parameters_of_a_module_stay_tied(tmp_path: Path) -> None:
    big = torch.randn(1 << 14)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[0].weight = model[1].weight = torch.nn.Parameter(big[:16].view(4, 4))
    model.register_buffer("window", big[8:24])
    path = tmp_path / "last.pt"
    torch.save({"epoch": 1, "model": model}, path)
    made = converted(path, tmp_path / "small.pt", portable=True)
    found = torch.load(made.path, weights_only=False)["model"]
    assert made.path.stat().st_size < path.stat().st_size - 60_000
    assert found[0].weight is found[1].weight
    assert found.window.data_ptr() - found[0].weight.data_ptr() == 32
    assert {n: bits(t) for n, t in found.state_dict().items()} == {n: bits(t) for n, t in model.state_dict().items()}


def test_channels_last_becomes_contiguous(tmp_path: Path) -> None:
    model = network()[0].to(memory_format=torch.channels_last)
    assert not model.weight.is_contiguous()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    path = tmp_path / "last.pt"
    torch.save({"epoch": 1, "model": model, "optimizer": optimizer.state_dict()}, path)
    made = converted(path, tmp_path / "portable.pt", portable=True)
    found = torch.load(made.path, weights_only=False)
    assert found["model"].weight.is_contiguous()
    assert isinstance(found["model"].weight, torch.nn.Parameter)
    assert torch.equal(found["model"].weight, model.weight)
    momentum = found["optimizer"]["state"][0]["momentum_buffer"]
    assert momentum.is_contiguous()
    assert torch.equal(momentum, optimizer.state_dict()["state"][0]["momentum_buffer"])


# --- names of classes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["8.0.200-interrupted-sgd", "8.4-interrupted-sgd", "8.4-finished", "8.4-classify-interrupted"]
)
def test_class_is_renamed_wherever_the_trainer_keeps_it(name: str, places: Places, tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    path = FIXTURES / f"ultralytics-{name}.pt"
    before = places["trainer"].value(path, do="predicts")
    made = converted(path, tmp_path / "new.pt", classes={"0": "truck"})
    after = places["trainer"].value(made.path, do="predicts")
    assert after["names"] == ["truck", *before["names"][1:]]
    assert after["scores"] == before["scores"]
    held = load(made.path)
    models = [held[key] for key in ("model", "ema") if held.get(key) is not None]
    assert models
    assert {model.names[0] for model in models} == {"truck"}


def test_class_is_renamed_in_the_plain_places_too(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    held = {"names": ["car", "bus"], "args": argparse.Namespace(class_names=["car", "bus"]), "ema": {"names": ("car",)}}
    torch.save({**BASE, **held, "hyper": {"id2label": {0: "car", 1: "bus"}, "label2id": {"car": 0, "bus": 1}}}, path)
    made = converted(path, tmp_path / "new.pt", classes={"car": "truck"})
    found = torch.load(made.path, weights_only=False)
    assert (found["names"], found["args"].class_names) == (["truck", "bus"], ["truck", "bus"])
    assert found["hyper"] == {"id2label": {0: "truck", 1: "bus"}, "label2id": {"truck": 0, "bus": 1}}


# --- nothing personal is left ---------------------------------------------------------------------

TOKEN, MAIL, HOST = "ghp_16C7e42F292c6912E7", "ada@lovelace.example.org", "gpu-box-17.cluster.example.org"
SECRETS = (
    TOKEN,
    MAIL,
    HOST,
    "/home/ada",
    "lovelace",
    "adas-laptop",
    "C:\\Users\\ada",
    "/mnt/secret-project",
    "sk-wandb",
)


def telling() -> dict[str, Any]:
    """A checkpoint of a script of one's own that says a lot about whoever ran it."""
    arguments = {"project": Path("/home/ada/runs"), "data": "/mnt/secret-project/coco.yaml", "host": HOST, "lr": 0.1}
    return {
        **BASE,
        "args": argparse.Namespace(**arguments, resume="C:\\Users\\ada\\runs\\last.pt", epochs=5),
        "git": {"origin": f"https://ada:{TOKEN}@github.com/lovelace/engine.git", "branch": "main", "commit": "abc"},
        "remote": f"https://{TOKEN}@github.com/pytorch/pytorch.git",
        "hostname": "adas-laptop",
        "user": {"email": MAIL, "name": "lovelace"},
        "command": f"python train.py --data /home/ada/data/coco.yaml --notify {MAIL} --token {TOKEN}",
        "log": ["reading /home/ada/data/a.jpg", ("saved to", Path("/home/ada/runs/last.pt"))],
        "json": json.dumps({"dir": "/home/ada/x", "email": MAIL, "n": 1}),
        "files": {"/home/ada/data/a.jpg": 3, Path("/home/ada/data/b.jpg"): 4},
        "wandb_api_key": "sk-wandb-1234567890",
    }


def raw_bytes(path: Path) -> bytes:
    """The file as it is, and what its members hold should one be compressed."""
    data = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            data += b"".join(archive.read(name) for name in archive.namelist())
    return data


@pytest.mark.parametrize("stream", [False, True], ids=["archive", "stream"])
def test_nothing_personal_is_in_the_bytes_of_a_scrubbed_file(stream: bool, tmp_path: Path) -> None:
    path = tmp_path / "lovelace.pt"
    torch.save(telling(), path, _use_new_zipfile_serialization=not stream)
    made = converted(path, tmp_path / "clean.pt", scrub=True)
    written = b"".join(raw_bytes(place) for place in tmp_path.iterdir() if place.name.startswith("clean"))
    assert [
        secret for secret in SECRETS if secret.encode() in written or json.dumps(secret)[1:-1].encode() in written
    ] == []
    found = torch.load(made.path, weights_only=False)
    assert bits(found["model"]["weight"]) == bits(BASE["model"]["weight"])  # type: ignore[index]
    assert (found["epoch"], found["args"].lr, found["args"].epochs) == (3, 0.1, 5)
    assert found["args"].data == "coco.yaml"


def test_record_of_earlier_commands_tells_nothing_after_a_scrub(tmp_path: Path) -> None:
    path = tmp_path / "lovelace.pt"
    torch.save(telling(), path)
    first = converted(path, tmp_path / "lovelace-float16.pt", dtype="float16")
    made = converted(first.path, tmp_path / "clean.pt", scrub=True)
    assert [secret for secret in SECRETS if secret.encode() in raw_bytes(made.path)] == []


def test_host_a_file_names_is_taken_out_of_other_texts_too(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({**BASE, "hostname": HOST, "log": [f"[{HOST}] epoch 3 done"]}, path)
    made = converted(path, tmp_path / "clean.pt", scrub=True)
    assert HOST.encode() not in raw_bytes(made.path)


def test_account_of_a_repository_is_taken_out_wherever_its_address_is(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({**BASE, "remote": f"https://{TOKEN}@github.com/lovelace/engine.git", "epochs": 5}, path)
    made = converted(path, tmp_path / "clean.pt", scrub=True)
    assert [secret for secret in SECRETS if secret.encode() in raw_bytes(made.path)] == []


@pytest.mark.parametrize("protocol", [2, 4])
def test_bytes_that_are_text_are_scrubbed(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({**BASE, "raw": f"mail {MAIL}".encode(), "config": b"dir: /home/ada/x"}, path, pickle_protocol=protocol)
    made = converted(path, tmp_path / "clean.pt", scrub=True)
    assert [secret for secret in SECRETS if secret.encode() in raw_bytes(made.path)] == []
    assert type(torch.load(made.path, weights_only=False)["raw"]) is bytes


def texts_of(path: Path) -> list[str]:
    """Every text in the pickles of a file, and its members that are no storages."""
    data, texts = path.read_bytes(), []
    pickles = [data]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickles = [archive.read(name) for name in names if name.endswith(".pkl")]
            texts = [archive.read(n).decode("latin-1") for n in names if not n.endswith(".pkl") and "/data/" not in n]
    for held in pickles:
        texts += [str(value) for _, value, _ in pickletools.genops(held) if isinstance(value, (str, bytes))]
    return texts


PERSONAL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]{2,}|github\.com[/:](?!ultralytics/|meituan/)[\w.-]+/|://[^/\s]+@")


@pytest.mark.parametrize("path", READABLE, ids=lambda path: path.stem)
def test_scrubbed_fixture_names_no_place_and_nobody(path: Path, places: Places, tmp_path: Path) -> None:
    target = tmp_path / "clean.pt"
    with plan_convert(path, Conversion(scrub=True), target) as conversion:
        assert conversion.plan.refused is None
        conversion.apply()
    data = raw_bytes(target)
    assert [place for place in ("/tmp", "/home", "/root", "/work") if place.encode() in data] == []
    assert [text for text in texts_of(target) if PERSONAL.search(text)] == []
    before, after = dict(named_tensors(load(path))), dict(named_tensors(load(target)))
    assert {name: (t.dtype, t.shape, bits(t)) for name, t in after.items()} == {
        name: (t.dtype, t.shape, bits(t)) for name, t in before.items()
    }
    if path.stem in PREDICTING:
        pytest.importorskip("ultralytics")
        assert places["trainer"].value(target, do="predicts") == places["trainer"].value(path, do="predicts")


PREDICTING = {path.stem for path in READABLE if path.stem.startswith("ultralytics-8.") and "8.0.44" not in path.stem}

# --- once is enough -------------------------------------------------------------------------------

ONE_BY_ONE: tuple[dict[str, Any], ...] = (
    {"portable": True}, {"scrub": True}, {"prefix": "none"}, {"device": "cpu"}, {"dtype": "float16"},
    {"state_dict": True}, {"strip": True},
)  # fmt: skip
TOGETHER: dict[str, Any] = {"portable": True, "scrub": True, "prefix": "none", "device": "cpu", "dtype": "float16"}


def requests() -> Iterator[Any]:
    """Every file with everything at once; with each option by itself in the long form."""
    for path in ALL:
        yield pytest.param(path, (TOGETHER, {"state_dict": True}, {"strip": True}), id=path.stem)
        yield pytest.param(path, ONE_BY_ONE, id=f"{path.stem}-one-by-one", marks=pytest.mark.full)


@pytest.mark.parametrize(("path", "requested"), list(requests()))
def test_second_conversion_has_nothing_to_do(path: Path, requested: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    for options in requested:
        first = tmp_path / f"{next(iter(options))}.pt"
        request = Conversion(**options)
        with plan_convert(path, request, first) as conversion:
            if conversion.plan.refused is not None:
                assert path.stem == "torchscript", (options, conversion.plan.refused)
                continue
            conversion.apply()
        with plan_convert(first, request) as conversion:
            again = conversion.plan
            assert (again.refused, [step.text for step in again.steps]) == (None, []), options
            assert conversion.archive is None, options
