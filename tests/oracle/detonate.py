"""Loads files for real, each in a process of its own: ``python detonate.py`` with lines of JSON on standard input.

A line is ``[name, path, canary, loader]``; the answer is ``[name, whether the canary is there, what was raised]``. The
libraries are imported once, before the first of them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import sys
import time
import warnings

PATIENCE = 30  # seconds for one file
IMPORTED = ("torch", "ultralytics", "ultralytics.nn.tasks", "transformers", "transformers.integrations.integration_utils",
            "transformers.training_args", "transformers.generation.configuration_utils", "lightning.pytorch", "torchmetrics",
            "accelerate.data_loader", "sympy", "cv2", "psutil", "matplotlib.backends.backend_pdf",
            "torch.distributed.tensor", "torch.package")  # fmt: skip


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


def detonated(path: str, loader: str) -> str:
    """What was raised in a child that loads the file."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        said = "loaded"
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        if hasattr(signal, "alarm"):
            signal.alarm(PATIENCE)
        try:
            load(path, loader)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            os.write(theirs, said.encode("utf-8", "replace")[:1000])
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    return said or f"ended by signal {status & 127}"


def main() -> None:
    os.environ.update(OMP_NUM_THREADS="1", YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", HF_HUB_OFFLINE="1")
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for module in IMPORTED:
            with contextlib.suppress(Exception):
                importlib.import_module(module)
    asked = [json.loads(line) for line in sys.stdin]
    said = {name: detonated(path, loader) for name, path, _, loader in asked}
    patient = time.monotonic() + 2  # processes that were started, and nobody waited for, get a moment
    while time.monotonic() < patient and any(os.fstat(0) and not os.path.exists(canary) for _, _, canary, _ in asked):
        time.sleep(0.05)
    for name, _, canary, _ in asked:
        print(json.dumps([name, os.path.exists(canary), said[name]]))


if __name__ == "__main__":
    main()
