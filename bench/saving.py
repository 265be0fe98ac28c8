"""Measures saves of ``ckpt_tools.training`` against ``torch.save`` and ``fsync`` of the same state, turn by turn.

    python bench/saving.py [--runs 9] [--folder DIR]

Needs torch, 2.7 GB of memory and 3 GB of disk. The state is a model of 300 MB with AdamW's. Each file takes the place
of the one the turn before wrote. ``held up`` is for how long a save in the background lets training wait.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from ckpt_tools.training import CheckpointManager

LAYERS, WIDTH = 20, 1937  # 75 million parameters: 0.9 GB with AdamW's two averages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    model = torch.nn.ModuleList([torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)])
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        plain = Path(folder, "plain.pt")
        parts = {"model": model, "optimizer": optimizer, "keep_last": 1, "signals": ()}
        with (
            CheckpointManager(Path(folder, "here"), **parts, every_epochs=None) as here,
            CheckpointManager(Path(folder, "behind"), **parts, every_epochs=None, background=True) as behind,
        ):
            behind.step(0)  # has the memory made ready, as the first step of a training does
            behind.wait()
            times: dict[str, list[float]] = {name: [] for name in ("torch.save and fsync", "save", "held up")}
            for turn in range(options.runs + 1):
                took = [measured(lambda: save_plain(model, optimizer, plain)), measured(lambda: save(here))]
                took.append(measured(lambda: save(behind)))
                behind.wait()
                for name, seconds in zip(times, took):
                    times[name] += [seconds] if turn else []
    base = times["torch.save and fsync"]
    print(f"0.9 GB, {options.runs} turns{'':<8}  median   ratio of each turn: median (least to most)")
    for name, all_seconds in times.items():
        ratios = sorted(ours / theirs for ours, theirs in zip(all_seconds, base))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"  {name:<24} {statistics.median(all_seconds):6.2f} s  {spread}")


def save_plain(model: torch.nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}, path)
    handle = os.open(path, os.O_RDWR)
    os.fsync(handle)
    os.close(handle)


def save(manager: CheckpointManager) -> None:
    manager.steps += 1
    manager.save(0)


def measured(work: object) -> float:
    begun = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
