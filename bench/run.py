"""Measures ckpt against what a user would run instead, as whole processes, and prints the ratios.

    python bench/run.py [--runs 5] [--folder DIR]

Needs torch and ultralytics in the environment (``ckpt-tools[ultralytics]``); picklescan is measured where installed.
Inputs are built once and kept in the folder (about 3 GB, and 3 GB more while writing is measured): a YOLOv8n
``last.pt`` with AdamW state as the trainer saves it, two 0.9 GB checkpoints, and a thousand checkpoints.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CKPT = str(Path(sysconfig.get_path("scripts")) / "ckpt")
MANY = 1000


@dataclass
class Outcome:
    """Medians over several runs: wall-clock seconds and peak memory in MiB (``None`` where the system can't tell)."""

    seconds: float
    memory: float | None


def measure(commands: dict[str, list[str]], runs: int) -> dict[str, Outcome]:
    """Run every command once to warm up, then ``runs`` times, in turns; their output is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    memory: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            peak = run_once(command)
            if turn:
                seconds[name].append(time.perf_counter() - start)
                memory[name] += [peak] if peak is not None else []
    middle = statistics.median
    return {name: Outcome(middle(seconds[name]), middle(memory[name]) if memory[name] else None) for name in commands}


def run_once(command: list[str]) -> float | None:
    """Run a command to its end; its peak memory in MiB where ``wait4`` exists."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / (1 << 10 if sys.platform != "darwin" else 1 << 20)


def build_yolo(path: Path) -> None:
    """A 30 MB interrupted YOLOv8n checkpoint with AdamW state, in the layout of ultralytics 8.4."""
    import copy

    import torch
    import ultralytics
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import DEFAULT_CFG_DICT

    torch.manual_seed(0)
    model = DetectionModel("yolov8n.yaml", nc=80, verbose=False)
    groups: list[list[torch.nn.Parameter]] = [[], [], []]
    for _, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            norm = isinstance(module, torch.nn.BatchNorm2d)
            groups[2 if "bias" in name else 1 if norm else 0].append(parameter)
    optimizer = torch.optim.AdamW([{"params": group} for group in groups], lr=1e-3)
    for group in groups:
        for parameter in group:
            parameter.grad = torch.randn_like(parameter) * 1e-3 if parameter.requires_grad else None
    optimizer.step()
    ema = copy.deepcopy(model).half().eval()
    args = {**DEFAULT_CFG_DICT, "epochs": 100, "optimizer": "AdamW", "data": "data.yaml", "save_dir": "runs/train"}
    torch.save(
        {
            "epoch": 41, "best_fitness": 0.5, "model": None, "ema": ema, "updates": 1000,
            "optimizer": optimizer.state_dict(), "scaler": {}, "train_args": args, "train_metrics": {},
            "train_results": {}, "date": "2026-01-01", "version": ultralytics.__version__,
        },
        path,
    )  # fmt: skip


def build_large(path: Path) -> None:
    """0.9 GB: 72 matrices with AdamW state in a plain checkpoint; other values for another name."""
    import torch

    torch.manual_seed(len(path.name))
    weights = {f"layer{i}.weight": torch.randn(1024, 1024) for i in range(72)}
    state = {
        i: {"step": torch.tensor(5.0), "exp_avg": torch.randn(1024, 1024), "exp_avg_sq": torch.rand(1024, 1024)}
        for i in range(72)
    }
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "params": list(range(72))}
    content = {"model": weights, "optimizer": {"state": state, "param_groups": [group]}, "epoch": 3}
    torch.save({**content, "args": {"epochs": 10}}, path)


def build_many(folder: Path, one: Path) -> None:
    """A thousand names for one checkpoint (links where the file system has them)."""
    folder.mkdir()
    for number in range(MANY):
        try:
            os.link(one, folder / f"epoch{number}.pt")
        except OSError:
            shutil.copyfile(one, folder / f"epoch{number}.pt")


def build(folder: Path) -> tuple[Path, Path, Path, Path]:
    """The inputs, made where they are missing.

    In a process of its own: what this one has ever held would count as the memory of those it starts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    yolo, large, many = folder / "yolov8n-adamw.pt", folder / "large.pt", folder / "many"
    later = folder / "large-later.pt"
    for path, make in ((yolo, build_yolo), (large, build_large), (later, build_large)):
        if not path.exists():
            builder = multiprocessing.get_context("spawn").Process(target=make, args=(path,))
            builder.start()
            builder.join()
    if not many.exists():
        build_many(many, yolo)
    return yolo, large, later, many


def build_run(folder: Path, large: Path) -> Path:
    """A run folder of its own: the 0.9 GB checkpoint as ``last.pt``, and an older file that lends its optimizer."""
    folder.mkdir()
    last, older = folder / "last.pt", folder / "epoch2.pt"
    try:
        os.link(large, last)
    except OSError:
        shutil.copyfile(large, last)
    shutil.copyfile(large, older)
    return last


GENOPS = """
import glob, pickletools, sys, zipfile
for path in sorted(glob.glob(sys.argv[1] + '/*.pt')):
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith('data.pkl'))
        for _ in pickletools.genops(archive.read(name)): pass
"""


def rivals(path: Path) -> dict[str, list[str]]:
    """What a user would run instead on one file."""
    python = sys.executable
    commands = {
        "torch.load": [python, "-c", f"import torch; torch.load({str(path)!r}, weights_only=False)"],
        "zipfile.testzip": [python, "-c", f"import zipfile; zipfile.ZipFile({str(path)!r}).testzip()"],
    }
    if shutil.which("unzip"):
        commands["unzip -t"] = ["unzip", "-tq", str(path)]
    if shutil.which("cat"):
        commands["cat"] = ["cat", str(path)]  # to the null device
    if importlib.util.find_spec("picklescan"):
        commands["picklescan"] = [python, "-m", "picklescan", "-p", str(path)]
    return commands


def compare(title: str, ours: dict[str, list[str]], others: dict[str, list[str]], runs: int) -> None:
    """Print one table: a row per command, and our time as a multiple of each other's."""
    print(f"\n{title}")
    measured = measure({**ours, **others}, runs)
    for name, outcome in measured.items():
        memory = f"{outcome.memory:8.0f} MiB" if outcome.memory is not None else ""
        print(f"  {name:22} {outcome.seconds:8.3f} s {memory}")
    for mine in ours:
        ratios = ", ".join(f"{measured[mine].seconds / measured[name].seconds:.2f} x {name}" for name in others)
        print(f"  {mine} takes {ratios}")


def measure_writing(folder: Path, large: Path, runs: int) -> None:
    """What writes 0.9 GB, against a copy that is on the disk when ``cp`` returns (``sync FILE`` is ``fsync``)."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    try:
        last = build_run(run, large)
        half = ["--dtype", "float16", "--optimizer-dtype", "float16", "--accept-loss"]
        for title, arguments in {
            "its optimizer taken from another file": ["repair", last, "--optimizer-from", str(run / "epoch2.pt")],
            "moved to another device": ["convert", last, "--device", "cuda:1"],
            "cast from float32 to float16": ["convert", last, *half],
        }.items():
            compare_to_copy(f"0.9 GB, {title}", [CKPT, *map(str, arguments)], run, runs)
    finally:
        shutil.rmtree(run, ignore_errors=True)


def compare_to_copy(title: str, command: list[str], run: Path, runs: int) -> None:
    """One command that writes, and the copy."""
    made, copy = str(run / "made.out"), str(run / "copy.out")
    command = [*command, "-o", made]
    # What the turn before wrote goes first: new pages cost more than anything else here, and both shall get them.
    ours = {f"ckpt {command[1]}": ["sh", "-c", 'rm -f "$0" "$1"; shift; exec "$@"', made, copy, *command]}
    script = 'rm -f "$0" "$2"; cp --reflink=never "$1" "$2" && sync "$2"'
    others = {"cp and fsync": ["sh", "-c", script, made, str(run / "last.pt"), copy]}
    compare(title, ours, others, runs)
    Path(made).unlink(missing_ok=True)
    if run_once(command) is not None and not Path(made).exists():
        raise SystemExit(f"{' '.join(command)} wrote nothing: the figures above mean nothing")


def main() -> None:
    """Build the inputs and print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ckpt-bench")
    options = parser.parse_args()
    yolo, large, later, many = build(options.folder)
    verify: Callable[[Path], dict[str, list[str]]] = lambda path: {  # noqa: E731
        "ckpt verify": [CKPT, "verify", str(path)],
        "ckpt verify --quick": [CKPT, "verify", "--quick", str(path)],
    }
    load = f"from ultralytics import YOLO; YOLO({str(yolo)!r})"
    compare("30 MB YOLOv8n", verify(yolo), {**rivals(yolo), "YOLO(path)": [sys.executable, "-c", load]}, options.runs)
    compare("0.9 GB", verify(large), rivals(large), options.runs)
    if shutil.which("cat"):
        both = [str(large), str(later)]
        ours = {"ckpt diff": [CKPT, "diff", *both], "ckpt diff --values": [CKPT, "diff", *both, "--values"]}
        compare("two of 0.9 GB", ours, {"cat of both": ["cat", *both]}, options.runs)
    config = {"ckpt diff": [CKPT, "diff", str(yolo), "lr0=0.1", "epochs=50"]}
    compare("30 MB YOLOv8n against settings", config, {"YOLO(path)": [sys.executable, "-c", load]}, options.runs)
    if sys.platform == "linux":
        measure_writing(options.folder, large, options.runs)
    folder = {f"ckpt --quick, {MANY} files": [CKPT, "verify", "--quick", "-qq", str(many)]}
    compare(f"{MANY} files", folder, {"pickletools.genops": [sys.executable, "-c", GENOPS, str(many)]}, 1)


if __name__ == "__main__":
    main()
