"""``--here``: whether this machine can resume the run. Nothing is imported; packages are only looked for."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.checks.context import Context
from ckpt_tools.checks.names import few
from ckpt_tools.findings import CkptError, Finding, finding
from ckpt_tools.sidefiles import json_of, read_yaml

__all__ = ["check_machine", "check_save_dir", "installed_packages", "installed_version", "missing_device"]

SAVES_AT_ONCE = 3  # last.pt, best.pt and epochN.pt
MOST_PACKAGES = 2000  # that are looked for
# Asks a Python, from 3.8 on, for its packages; nothing is imported from the folder it runs in.
PROBE = """
import sys
sys.path[:] = filter(None, sys.path)
import importlib.util, importlib.metadata, json
names, trainer = json.load(sys.stdin)
found = {}
for name in names:
    try:
        found[name] = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        found[name] = False
try:
    version = importlib.metadata.version(trainer) if trainer else None
except importlib.metadata.PackageNotFoundError:
    version = None
print(json.dumps([found, version]))
"""
# Always there: the standard library under its names in pickles, and what is no package at all; to look for distutils
# would import setuptools, which stands in for it.
ALWAYS = frozenset(sys.stdlib_module_names) | {"__builtin__", "copy_reg", "__main__", "__torch__", "distutils"}


def check_machine(checkpoint: Checkpoint, context: Context) -> Iterator[Finding]:
    """Data set, run folder, device, packages and disk space on this machine."""
    found = checkpoint.recognised
    if found is None or not context.here:
        return
    yield from _packages(checkpoint, context)
    if found.layout.name in ("ultralytics", "yolov5"):
        yield from _data(checkpoint)
        yield from _device(found.args.get("device"))
    yield from _disk(checkpoint)


def check_save_dir(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The run folder stored in the file against the folder the file lies in."""
    found = checkpoint.recognised
    saved = found.args.get("save_dir") if found is not None else None
    if not isinstance(saved, str) or not saved or "\0" in saved:
        return
    folder = Path(os.path.abspath(checkpoint.path)).parent
    run = folder.parent if folder.name == "weights" else folder
    if _same(Path(saved), run):
        return
    yield finding("saves-elsewhere", "train_args.save_dir", save_dir=saved)


def _same(one: Path, other: Path) -> bool:
    """By name alone: a path that comes from a file is not looked up unless the user asks about this machine."""
    return os.path.normcase(os.path.abspath(one)) in (
        os.path.normcase(other),
        os.path.normcase(os.path.realpath(other)),
    )


def installed_packages(names: list[str], python: str | None, trainer: str = "") -> tuple[dict[str, bool], str | None]:
    """Which top-level packages the training environment has, and the version of ``trainer`` there.

    ``python`` names another environment's interpreter; it is run, the packages are not imported.
    """
    names = [name for name in names if name.isidentifier()]  # to look for `a.b` would import `a`
    if python is None or os.path.abspath(python) == os.path.abspath(sys.executable):
        return {name: _spec(name) for name in names}, installed_version(trainer)
    found, version = _ask(python, tuple(names), trainer)
    return dict(found), version


@functools.lru_cache(maxsize=64)
def _ask(python: str, names: tuple[str, ...], trainer: str) -> tuple[dict[str, bool], str | None]:
    """The same from another interpreter, asked once for the same question."""
    import subprocess

    try:
        done = subprocess.run(
            [_program(os.path.expanduser(python)) or python, "-c", PROBE],
            input=json.dumps([names, trainer]),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=sys.prefix,  # the current folder holds files from anywhere
            env=_environment(),
        )
        found, version = json_of(done.stdout)
        return {str(name): bool(there) for name, there in found.items()}, version
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError, TypeError) as error:
        raise CkptError(
            f"--python {python} can't be asked for its packages: {error}; name a Python interpreter"
        ) from error


def _environment() -> dict[str, str]:
    """Our own environment, the path Python imports from without the current folder, which empty entries mean, too."""
    here = os.getcwd()
    entries = [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    kept = os.pathsep.join(entry for entry in entries if os.path.realpath(entry) != os.path.realpath(here))
    return {**os.environ, "PYTHONPATH": kept, "PYTHONSAFEPATH": "1"}


def _program(name: str) -> str | None:
    """Where a program lies: at the path that was named, else in a folder of ``PATH``, never in the current folder."""
    if os.path.dirname(name):
        return os.path.abspath(name)
    endings = ["", *os.environ.get("PATHEXT", "").split(os.pathsep)] if os.name == "nt" else [""]
    places = (os.path.join(folder, name + ending) for folder in os.get_exec_path() for ending in endings)
    return next((place for place in places if Path(place).is_absolute() and _runs(place)), None)


def _runs(place: str) -> bool:
    return os.path.isfile(place) and os.access(place, os.X_OK)


def _spec(name: str) -> bool:
    try:
        return name.isidentifier() and importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


@functools.lru_cache(maxsize=64)
def installed_version(trainer: str) -> str | None:
    """The version of an installed distribution, from its metadata."""
    if not trainer or not _spec(trainer.replace("-", "_")):
        return None
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(trainer)
    except PackageNotFoundError:
        return None


def _packages(checkpoint: Checkpoint, context: Context) -> Iterator[Finding]:
    wanted = sorted(name for name in checkpoint.packages - ALWAYS if name.isidentifier())[:MOST_PACKAGES]
    found, _ = installed_packages(wanted, context.python)
    context.installed.update(found)
    missing = [name for name in wanted if not found.get(name)]
    if missing:
        yield finding("package-missing", missing[0], packages=few(missing, 8))


def _data(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The data yaml and the folder it points to exist, and its class count is the model's."""
    found = checkpoint.recognised
    assert found is not None
    data = found.args.get("data")
    if not isinstance(data, str) or not data or "\0" in data:
        return
    path = Path(os.path.expanduser(data))
    if not os.path.exists(path) and path.name == data:
        return  # a data set by name (coco8.yaml, mnist160): the trainer looks it up among its own
    if not os.path.exists(path):
        yield finding("data-missing", "train_args.data", data=data)
        return
    if os.path.isdir(path) or path.suffix.lower() not in (".yaml", ".yml"):
        return
    try:
        described = read_yaml(path, errors="replace")
    except CkptError:
        return  # the trainer will say what is wrong with it
    if not isinstance(described, dict):
        return
    root = Path(str(described.get("path") or path.parent))
    root = root if root.is_absolute() else path.parent / root
    train = described.get("train")
    where = root / train if isinstance(train, str) else root
    if not os.path.exists(where) and not os.path.exists(root):
        yield finding("data-missing", "train_args.data", data=f"{data} points to {where}")
    names = described.get("names")
    here = len(names) if isinstance(names, (list, dict)) else described.get("nc")
    count = _model_classes(checkpoint)
    if isinstance(here, int) and count is not None and here != count:
        yield finding("class-count-here", "train_args.data", here=here, count=count)


def _model_classes(checkpoint: Checkpoint) -> int | None:
    from ckpt_tools.tensors.modules import attributes_of

    found = checkpoint.recognised
    for part in found.weights if found else []:
        names = attributes_of(part.node).get("names")
        if isinstance(names, (dict, list)) and names:
            return len(names)
    return None


def _device(device: Any) -> Iterator[Finding]:
    """A saved device needs to be there."""
    missing = missing_device(device)
    if missing:
        yield finding("device-missing", "train_args.device", device=missing)


def missing_device(device: Any) -> str:
    """A ``device`` argument this machine can't serve, as text; empty for one it can. Torch is not asked."""
    if device == "mps":
        return "mps" if sys.platform != "darwin" else ""
    if not isinstance(device, (str, int, list)) or isinstance(device, bool) or "cpu" in str(device):
        return ""
    wanted = [int(number) for number in re.findall(r"(?<![-\d])\d{1,4}", str(device)[:100])]
    return str(device) if wanted and max(wanted) >= _cuda_devices() else ""


def _cuda_devices() -> int:
    """The number of NVIDIA devices: what the driver lists, else what ``nvidia-smi`` says."""
    listed = Path("/proc/driver/nvidia/gpus")
    if os.path.isdir(listed):
        return len(list(listed.iterdir()))
    import subprocess

    tool = _program("nvidia-smi")
    if tool is None:
        return 0
    try:
        done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def _disk(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Room for the next saves where a resume would write, or where the file lies."""
    found = checkpoint.recognised
    saved = found.args.get("save_dir") if found else None
    folder = (
        Path(saved)
        if isinstance(saved, str) and "\0" not in saved and os.path.isdir(saved)
        else Path(os.path.abspath(checkpoint.path)).parent
    )
    import shutil

    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return
    need = SAVES_AT_ONCE * checkpoint.source.size
    if free < need:
        yield finding("disk-nearly-full", str(folder), free=_megabytes(free), need=_megabytes(need))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
