"""What gets imported when, and which room of the package may import which."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from building import ultralytics_checkpoint
from conftest import ROOT, Write

PACKAGE = ROOT / "ckpt_tools"
HEAVY = ("torch", "torchvision", "ultralytics", "cv2", "pandas", "matplotlib")
LIGHT = (*HEAVY, "numpy", "rich", "deepdiff", "yaml", "isal")

# Each room may import itself and what is listed; `cli` stands at the end and may import everything.
ROOMS: dict[str, set[str]] = {
    "findings": set(),
    "source": {"findings"},
    "sidefiles": {"findings", "source"},
    "placing": set(),
    "container": {"findings", "source"},
    "pickles": {"findings"},
    "policy": {"findings", "pickles"},
    "tensors": {"findings", "source", "container", "pickles"},
    "layouts": {"findings", "pickles", "tensors"},
    "checkpoint": {"findings", "source", "sidefiles", "container", "pickles", "policy", "tensors", "layouts"},
    "checks": {
        *("findings", "source", "sidefiles", "container", "pickles", "policy", "tensors", "layouts", "checkpoint"),
    },
    "configs": {"findings", "sidefiles"},
    "runs": {"findings", "source", "sidefiles", "placing", "layouts", "checkpoint"},
    "plans": {
        *("findings", "source", "container", "pickles", "policy", "tensors", "layouts", "checkpoint", "checks"),
        *("sidefiles", "placing", "configs", "runs"),
    },
    "conversions": {
        *("findings", "source", "sidefiles", "container", "pickles", "tensors", "layouts", "checkpoint", "checks"),
        *("configs", "plans"),
    },
    "differences": {"findings", "container", "pickles", "tensors", "layouts", "checkpoint", "checks", "configs"},
    "verbs.verify": {"findings", "source", "checkpoint", "checks", "runs"},
    "api": {"findings", "container", "tensors", "layouts", "checkpoint", "verbs.verify"},
    "verbs.repair": {
        *("findings", "source", "container", "checkpoint", "checks", "configs", "runs", "plans", "verbs.verify"),
    },
    "verbs.glance": {"findings", "checkpoint", "checks", "layouts", "runs", "verbs.verify"},
    "verbs.latest": {"findings", "checks", "runs", "verbs.glance", "verbs.verify"},
    "verbs.watch": {"findings", "placing", "checkpoint", "checks", "runs", "verbs.glance", "verbs.verify"},
    "verbs.convert": {"findings", "source", "checkpoint", "checks", "plans", "conversions", "verbs.verify"},
    "verbs.prune": {"findings", "placing", "conversions", "runs", "verbs.convert", "verbs.glance", "verbs.verify"},
    "training": {
        *("findings", "source", "sidefiles", "placing", "container", "checkpoint", "verbs.verify", "verbs.glance"),
    },
    "verbs.diff": {
        *("findings", "sidefiles", "layouts", "checkpoint", "checks", "configs", "differences", "verbs.verify"),
    },
    "verbs.inspect": {"findings", "pickles", "policy", "tensors", "layouts", "checkpoint", "api"},
}
# These, and nobody else, may import torch or a trainer.
OPTIONAL = {"training"}
# What a package is made of: the public names, and the way in.
DOORS = {"__init__", "__main__", "verbs.__init__"}


def loaded(code: str, names: tuple[str, ...], environment: Mapping[str, str], *arguments: str) -> set[str]:
    """Those of ``names`` that are imported after ``code`` ran in a process of its own."""
    program = f"import sys\n{code}\nprint('LOADED', *sorted(set({names!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


COMMAND = """
from ckpt_tools.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
"""


def test_importing_the_package_loads_next_to_nothing(environment: Mapping[str, str]) -> None:
    assert loaded("import ckpt_tools", (*LIGHT, "typer", "zipfile", "pickle"), environment) == set()


def test_a_quick_look_loads_no_numpy(write: Write, environment: Mapping[str, str]) -> None:
    path = str(write(ultralytics_checkpoint()))
    assert loaded(COMMAND, LIGHT, environment, "verify", path, "--quick", "--target", "ultralytics==8.4.190") == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "PATH"],
        ["verify", "PATH", "--json"],
        ["inspect", "PATH"],
        ["inspect", "PATH", "--tree", "--args", "--globals"],
        ["inspect", "PATH", "--tensors", "--stats"],
        ["explain"],
        ["repair", "PATH"],
        ["repair", "PATH", "--set", "epochs=9", "--dry-run", "--json"],
        ["convert", "PATH", "--device", "cuda:0", "--dtype", "float16", "--portable", "--scrub", "--dry-run"],
        ["convert", "PATH", "--to", "safetensors", "--dry-run", "--json"],
        ["latest", "FOLDER"],
        ["prune", "FOLDER", "--keep-last", "1"],
        ["diff", "PATH", "epochs=5"],
        ["diff", "PATH", "PATH", "--values", "--json"],
    ],
    ids=" ".join,
)
def test_no_command_loads_torch_or_a_trainer(
    arguments: list[str], write: Write, environment: Mapping[str, str]
) -> None:
    path = str(write(ultralytics_checkpoint()))
    names = {"PATH": path, "FOLDER": os.path.dirname(path)}
    filled = [names.get(argument, argument) for argument in arguments]
    assert loaded(COMMAND, HEAVY, environment, *filled) == set()


WATCH = """
import ckpt_tools
import ckpt_tools.cli.watch
watcher = ckpt_tools.Watcher(sys.argv[1:], ckpt_tools.WatchOptions(settle=0.0))
for event in watcher.run():
    if event.name == "verified":
        watcher.stop.set()
"""


def test_a_watcher_loads_no_torch_or_trainer(write: Write, environment: Mapping[str, str]) -> None:
    path = write(ultralytics_checkpoint())
    os.utime(path)  # a run that saved a moment ago is read at once
    assert loaded(WATCH, HEAVY, environment, str(path.parent)) == set()


def test_a_check_of_this_machine_imports_none_of_the_packages(write: Write, environment: Mapping[str, str]) -> None:
    path = str(write(ultralytics_checkpoint()))
    code = f"from ckpt_tools import verify\nverify({path!r}, here=True)"
    assert loaded(code, HEAVY, environment) == set()


def room_of(parts: Sequence[str]) -> str:
    """The room a module lies in; every verb is a room of its own."""
    return ".".join(parts[:2] if parts[0] == "verbs" else parts[:1])


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """Every module of the package: its room, its name, its tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        inner = path.relative_to(PACKAGE).with_suffix("")
        yield room_of(inner.parts), ".".join(inner.parts), ast.parse(path.read_text(encoding="utf-8"), str(path))


MODULES = {name: (room, tree) for room, name, tree in modules()}


def imported_rooms(tree: ast.Module) -> set[str]:
    """The rooms a module imports, at whatever depth, also only for types."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("ckpt_tools", "ckpt_tools.verbs"):
            inside = [f"{node.module}.{alias.name}".split(".")[1:] for alias in node.names]
            names |= {room_of(parts) for parts in inside if room_of(parts) in ROOMS}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ckpt_tools."):
            names.add(room_of((node.module or "").split(".")[1:]))
        elif isinstance(node, ast.Import):
            ours = [alias.name for alias in node.names if alias.name.startswith("ckpt_tools.")]
            names |= {room_of(name.split(".")[1:]) for name in ours}
    return names


def test_every_room_is_in_the_table() -> None:
    assert {room for room, _ in MODULES.values()} - DOORS - {"cli"} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(name for name, (room, _) in MODULES.items() if room in ROOMS))
def test_rooms_import_only_what_lies_below_them(name: str) -> None:
    room, tree = MODULES[name]
    assert imported_rooms(tree) - {room} <= ROOMS[room]


@pytest.mark.parametrize("name", sorted(name for name, (room, _) in MODULES.items() if room not in ("cli",)))
def test_nobody_but_the_command_line_prints(name: str) -> None:
    _, tree = MODULES[name]
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & {"print", "input"}
    assert not {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys"
    } & {"stdout", "stderr", "stdin"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_can_unpickle_or_evaluate(name: str) -> None:
    room, tree = MODULES[name]
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    trainers = set() if room in OPTIONAL else {"torch", "ultralytics", "lightning", "transformers"}
    assert not {entry.split(".")[0] for entry in imported} & {"pickle", "marshal", "shelve", *trainers}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__"}


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert Path(PACKAGE / "__init__.py").is_file()
