"""The test's side of :mod:`oracle.trainer_process`: runs by name, edited copies, resumes with a structured outcome."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from oracle.recipes import TASKS, write_data_set, write_network

EPOCHS = 4
STOP = 1  # epochs count from 0: two of four are done
TESTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Outcome:
    """What the trainer did with a file.

    ``kind`` is ``resumed`` (at ``epoch``, with the saved weights and optimizer state, for a whole epoch),
    ``refused``, ``new run`` or ``lost state``. ``loss`` is ``None`` where it was not finite.
    """

    kind: str
    epoch: int | None = None
    message: str = ""
    loss: float | None = None
    where: str = ""

    def __str__(self) -> str:
        if self.kind == "resumed":
            return f"resumed at epoch {self.epoch}"
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True)
class Run:
    """One training: of what, how, and when its process dies (``None``: it ends by itself)."""

    task: str = "detect"
    optimizer: str = "SGD"
    stop_after: int | None = STOP
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """A folder name."""
        extra = "-".join(f"{key}={value}" for key, value in self.options)
        return "-".join(filter(None, (self.task, self.optimizer, f"stop-{self.stop_after}", extra)))


class Trainer:
    """The real trainer in a process of its own, with everything it has trained so far.

    ``packages`` are folders with another release and what it wants beside it; without any it is the installed one.
    """

    def __init__(self, folder: Path, packages: Sequence[Path] = ()) -> None:
        self.folder = folder
        self.runs: dict[Run, Path] = {}
        self.count = 0
        self.log = folder / "log.txt"
        settings = folder / "settings"
        settings.mkdir(parents=True)
        self.environment = os.environ | {
            "YOLO_CONFIG_DIR": str(settings),
            "YOLO_AUTOINSTALL": "false",
            "YOLO_OFFLINE": "true",
            "YOLO_VERBOSE": "true",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(TESTS), *map(str, packages), os.environ.get("PYTHONPATH", "")))
            ),
        }
        command = [sys.executable, "-m", "oracle.trainer_process", str(self.log)]
        self.process = subprocess.Popen(
            command, cwd=folder, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **job: Any) -> dict[str, Any]:
        """Have a job done; fails the test where it could not be."""
        outcome = self.try_to(**job)
        assert outcome["kind"] != "failed", f"{job}: {outcome['message']}, see {self.log}"
        return outcome

    def try_to(self, **job: Any) -> dict[str, Any]:
        """Have a job done that may fail."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the trainer's process ended, see {self.log}"
        outcome: dict[str, Any] = json.loads(answer)
        return outcome

    def data(self, task: str) -> str:
        """The data set of a task."""
        folder = self.folder / "data" / task
        described = folder if task == "classify" else folder / "data.yaml"
        return str(described if folder.exists() else write_data_set(folder, task))

    def weights(self, run: Run) -> Path:
        """The weights folder of a run, trained the first time it is asked for."""
        if run not in self.runs:
            folder = self.folder / "runs" / run.name
            folder.mkdir(parents=True, exist_ok=True)
            outcome = self.ask(
                do="train",
                folder=str(folder),
                network=str(write_network(folder / "network.yaml", run.task)),
                data=self.data(run.task),
                stop_after=run.stop_after,
                options={"epochs": EPOCHS, "optimizer": run.optimizer, "save_period": 1, **dict(run.options)},
            )
            assert outcome["kind"] == ("finished" if run.stop_after is None else "stopped"), (
                f"{outcome}, see {self.log}"
            )
            self.runs[run] = folder / "run" / "weights"
        return self.runs[run]

    def place(self, name: str) -> Path:
        """A fresh path for a copy, in a folder laid out as the trainer's own."""
        self.count += 1
        folder = self.folder / "copies" / f"{self.count}" / "weights"
        folder.mkdir(parents=True)
        return folder / name

    def edited(self, source: Path, *edits: str) -> Path:
        """A copy of a checkpoint with changes named in :mod:`oracle.edits`; an exact one without any."""
        target = self.place("last.pt")
        if edits:
            self.ask(do="edit", source=str(source), target=str(target), edits=list(edits))
        else:
            shutil.copyfile(source, target)
        return target

    def resume(self, path: Path, how: str = "true", task: str | None = None, held: Path | None = None) -> Outcome:
        """Resume from a copy for one epoch; ``task`` names the data set for files whose own was never here.

        ``held`` is a file for what the optimizer holds for each parameter, by name, before the first step.
        """
        save_dir = path.parent.parent / f"resumed-{how}"
        data = self.data(task) if task else None
        where = {"path": str(path), "save_dir": str(save_dir), "held": str(held) if held else None}
        return Outcome(**self.ask(do="resume", how=how, data=data, **where))

    def close(self) -> None:
        """End the process."""
        if self.process.stdin:
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.process.kill()
        self.process.wait()


def running(folder: Path) -> Iterator[Trainer]:
    """A trainer for as long as the tests need it."""
    trainer = Trainer(folder)
    yield trainer
    trainer.close()


def target() -> str:
    """The release the outcomes come from, as ``verify`` wants it."""
    return f"ultralytics=={version('ultralytics')}"


def task_of(name: str) -> str:
    """The task a fixture's name tells."""
    return next((task for task in TASKS if task in name), "detect")
