"""Loads files for real: ``python detonate.py``, with lines of JSON on standard input.

A line is ``[name, path, canary, loader, alone]``; the answer is ``[name, whether the canary is there, what was
raised]``. The libraries are imported once; the files are loaded in children, many by one, those that change the
program for all after them each in its own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import signal
import sys
import time
import warnings

PATIENCE = 30  # seconds for one file
IMPORTED = ("torch", "ultralytics.nn.tasks", "transformers.training_args", "lightning.pytorch", "torchmetrics", "sympy",
            "torch.distributed.tensor")  # fmt: skip
Job = tuple[str, str, str, str, bool]


def load(path: str, loader: str) -> None:
    """Load one file the way its user would."""
    if loader == "torch":
        import torch

        torch.load(path, weights_only=False, map_location="cpu")
        return
    from ultralytics import YOLO

    model = YOLO(path).model
    if loader == "build":  # what a training that goes on from the file does with the stored configuration
        type(model)(dict(model.yaml), verbose=False)


def said(path: str, loader: str) -> str:
    """What loading the file raises."""
    try:
        load(path, loader)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    return "loaded"


def in_child(jobs: list[Job]) -> list[tuple[str, str]]:
    """What was raised for each of the files, as far as the child came; the last of them may have ended it."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        for name, path, _, loader, _ in jobs:
            os.write(theirs, f"{json.dumps([name, 'ended the process'])}\n".encode())
            signal.alarm(PATIENCE)
            os.write(theirs, f"{json.dumps([name, said(path, loader)])}\n".encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, encoding="utf-8") as pipe:
        found = [tuple(json.loads(line)) for line in pipe]
    os.waitpid(child, 0)
    return found


def detonated(jobs: list[Job]) -> dict[str, str]:
    """What was raised for every file."""
    found: dict[str, str] = {}
    for job in [job for job in jobs if job[4]]:
        found.update(in_child([job]))
    left = [job for job in jobs if not job[4]]
    while left:
        found.update(in_child(left))
        left = [job for job in left if job[0] not in found]
    return found


def main() -> None:
    os.environ.update(OMP_NUM_THREADS="1", YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", HF_HUB_OFFLINE="1")
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for module in IMPORTED:
            with contextlib.suppress(Exception):
                importlib.import_module(module)
    gc.collect()
    gc.freeze()
    jobs: list[Job] = [tuple(json.loads(line)) for line in sys.stdin]
    found = detonated(jobs)
    patient = time.monotonic() + PATIENCE  # a process that was started, and nobody waited for, gets a moment
    while time.monotonic() < patient and any(
        job[0].startswith("psutil") and not os.path.exists(job[2]) for job in jobs
    ):
        time.sleep(0.05)
    for name, _, canary, _, _ in jobs:
        print(json.dumps([name, os.path.exists(canary), found[name]]))


if __name__ == "__main__":
    main()
