"""Measures saves of ``ckpt_tools.training`` against ``torch.save`` and ``fsync`` of the same state, in turns.

    python bench/saving.py [--runs 5] [--folder DIR]

Needs torch, 2.7 GB of memory and 3 GB of disk. The state is a model of 300 MB with AdamW's. Each file takes the place
of the one before. A round is several saves of one kind in a row, then of the next; the first of them, which use memory
and disk the other kind gave back, don't count. ``held up`` is for how long a save in the background lets training wait.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ckpt_tools.training import CheckpointManager

WARM = 2  # saves of a round that don't count
LAYERS, WIDTH = 20, 1937  # 75 million parameters: 0.9 GB with AdamW's two averages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
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
            ways: dict[str, Callable[[], object]] = {
                "torch.save and fsync": lambda: save_plain(model, optimizer, plain),
                "save": lambda: save(here),
                "held up": lambda: save(behind),
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(options.runs):
                for name, way in ways.items():
                    took = []
                    for _ in range(WARM + 3):
                        took.append(measured(way))
                        behind.wait()
                    times[name].append(statistics.median(took[WARM:]))
    base = times["torch.save and fsync"]
    print(f"0.9 GB, {options.runs} rounds   median    ratio of each round: median (least to most)")
    for name, all_seconds in times.items():
        ratios = sorted(ours / theirs for ours, theirs in zip(all_seconds, base))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"  {name:<22} {statistics.median(all_seconds):6.2f} s  {spread}")


def save_plain(model: torch.nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}, path)
    handle = os.open(path, os.O_RDWR)
    os.fsync(handle)
    os.close(handle)


def save(manager: CheckpointManager) -> None:
    manager.steps += 1
    manager.save(0)


def measured(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
