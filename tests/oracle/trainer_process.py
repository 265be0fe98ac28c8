"""A process in which the real ultralytics trains, edits and resumes: jobs come in as JSON lines, outcomes go out.

    python -m oracle.trainer_process LOG

The imports are paid for once: every job runs in a fork of this process, so that a run can end like a crashed one,
with ``os._exit`` right behind a save. What ultralytics prints goes to LOG.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from oracle.edits import EDITS

LONGEST_JOB = 240  # seconds
STOPPED_DEAD = 9
SMALL: dict[str, Any] = {
    "imgsz": 64, "batch": 4, "nbs": 4, "device": "cpu", "workers": 0, "plots": False, "seed": 0,
}  # fmt: skip

Job = dict[str, Any]
Outcome = dict[str, Any]


def train(job: Job) -> Outcome:
    """Train in ``folder``; with ``stop_after`` the process dies behind the save of that epoch (counted from 0).

    With ``die_in`` it is killed while it writes the ``last.pt`` of that epoch.
    """
    from ultralytics import YOLO

    if job.get("die_in") is not None:
        die_writing(job["die_in"])
    model = YOLO(job["network"])
    if job["stop_after"] is not None:
        model.add_callback(
            "on_model_save", lambda trainer: trainer.epoch == job["stop_after"] and os._exit(STOPPED_DEAD)
        )
    model.train(project=job["folder"], name="run", exist_ok=True, data=job["data"], **SMALL | job["options"])
    return {"kind": "finished"}


def die_writing(epoch: int) -> None:
    """Let this process be killed when half of an epoch's ``last.pt`` is written."""
    write_bytes, saves = Path.write_bytes, itertools.count()

    def write_half(path: Path, data: bytes) -> int:
        if path.name != "last.pt" or next(saves) != epoch:
            return write_bytes(path, data)
        with open(path, "wb", buffering=0) as file:
            file.write(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    Path.write_bytes = write_half  # type: ignore[assignment,method-assign]


def edit(job: Job) -> Outcome:
    """Load a checkpoint, change it, save it under another name."""
    import torch
    from ultralytics.nn.tasks import torch_safe_load

    content = torch_safe_load(job["source"])[0]
    for name in job["edits"]:
        EDITS[name](content)
    torch.save(content, job["target"])
    return {"kind": "edited"}


def graft(job: Job) -> Outcome:
    """Give a checkpoint the optimizer of another."""
    import torch
    from ultralytics.nn.tasks import torch_safe_load

    content = torch_safe_load(job["source"])[0]
    torch.save(content | {"optimizer": torch_safe_load(job["donor"])[0]["optimizer"]}, job["target"])
    return {"kind": "edited"}


def go_on(job: Job) -> Outcome:
    """Resume and die behind a later save."""
    from ultralytics import YOLO

    model = YOLO(job["path"])
    model.add_callback("on_model_save", lambda trainer: trainer.epoch == job["stop_after"] and os._exit(STOPPED_DEAD))
    model.train(resume=True, save_dir=job["save_dir"])
    return {"kind": "finished"}


def killed(job: Job) -> Outcome:
    """Train with a save behind every batch, and be killed inside the ``save``-th, a ``share`` of its time gone.

    ``guarded`` tells whether :func:`ckpt_tools.training.guard` makes the saves, or the trainer itself.
    """
    from ultralytics import YOLO

    from ckpt_tools.training import guard

    clock = {"saves": 0, "begun": 0.0, "took": 0.0}

    def begin(trainer: Any) -> None:
        clock["saves"] += 1
        clock["begun"] = time.monotonic()
        process = os.getpid()
        if clock["saves"] == job["save"] and os.fork() == 0:
            time.sleep(job["share"] * clock["took"])
            os.kill(process, signal.SIGKILL)
            os._exit(0)

    def end(trainer: Any) -> None:
        clock["took"] = time.monotonic() - clock["begun"]

    model = YOLO(job["network"])
    model.add_callback("on_train_batch_end", begin)
    if job["guarded"]:
        guard(model, every_batches=1)
    else:
        model.add_callback("on_train_batch_end", lambda trainer: trainer.save_model())
    model.add_callback("on_train_batch_end", end)
    model.train(project=job["folder"], name="run", exist_ok=True, data=job["data"], **SMALL | job["options"])
    return {"kind": "finished"}


def guarded(job: Job) -> Outcome:
    """Train under :func:`ckpt_tools.training.guard`; behind batch ``at`` something happens, one of :data:`MISHAPS`."""
    from ultralytics import YOLO

    from ckpt_tools.training import guard

    batches = [0]

    def count(trainer: Any) -> None:
        batches[0] += 1
        if batches[0] == job["at"]:
            MISHAPS[job["mishap"]](trainer)

    model = guard(YOLO(job["network"]), **job["guard"])
    model.add_callback("on_train_batch_end", count)
    if job["mishap"] == "die in the strip":
        MISHAPS[job["mishap"]](None)
    try:
        model.train(project=job["folder"], name="run", exist_ok=True, data=job["data"], **SMALL | job["options"])
    except SystemExit as end:
        return {"kind": "ended", "message": f"exit status {end.code}"}
    return {"kind": "finished"}


def _die(trainer: Any) -> None:
    os._exit(STOPPED_DEAD)


def _terminate(trainer: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _spoil(trainer: Any) -> None:
    for state in trainer.optimizer.state.values():
        for value in state.values():
            value.fill_(float("nan"))


def _fill_disk(trainer: Any) -> None:
    with open(trainer.wdir / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(1 << 12))
        except OSError:
            filler.truncate(os.fstat(filler.fileno()).st_size - (1 << 14))


def _hide_full_disk(trainer: Any) -> None:
    """As before, and nobody sees it coming."""
    from unittest.mock import patch

    patch("ckpt_tools.training.writing.free_space", lambda folder: 1 << 40).start()
    _fill_disk(trainer)


def _die_in_strip(trainer: Any) -> None:
    import ultralytics.engine.trainer as engine

    def strip(file: Any, *more: Any, **named: Any) -> None:
        Path(file).write_bytes(b"half")
        os._exit(STOPPED_DEAD)

    engine.strip_optimizer = strip


MISHAPS = {
    None: lambda trainer: None,
    "die": _die,
    "terminate": _terminate,
    "nan": _spoil,
    "full disk": _fill_disk,
    "sudden full disk": _hide_full_disk,
    "die in the strip": _die_in_strip,
}


class NewRunError(BaseException):
    """The trainer set out on a run of its own instead of resuming."""


def resume(job: Job) -> Outcome:
    """Resume as a user would, for one epoch, and tell what became of the saved state.

    ``how`` is ``true`` (``resume=True``) or ``path`` (``resume=PATH``); ``save_dir`` keeps the run that made the
    file untouched, ``data`` replaces a data set that was never on this machine. ``held`` is a file for what the
    optimizer holds for each parameter before the first step.
    """
    import torch
    from ultralytics import YOLO
    from ultralytics.engine.trainer import BaseTrainer

    seen: Outcome = {}
    check_resume = BaseTrainer.check_resume

    def stop_a_new_run(trainer: Any, overrides: Any) -> None:
        check_resume(trainer, overrides)
        if not trainer.resume:
            raise NewRunError(f"a new run on {trainer.args.data}")

    def started(trainer: Any) -> None:
        seen.update(restored(trainer, path))
        if job["held"]:
            torch.save(state_by_name(trainer), job["held"])

    def done(trainer: Any) -> None:
        loss = float(trainer.loss.detach())
        reply(seen | {"loss": loss if loss == loss and abs(loss) != float("inf") else None})
        os._exit(0)

    BaseTrainer.check_resume = stop_a_new_run
    path = job["path"]
    try:
        model = YOLO(path)
        model.add_callback("on_train_start", started)
        model.add_callback("on_train_epoch_end", done)
        data = {"data": job["data"]} if job["data"] else {}
        model.train(resume=True if job["how"] == "true" else path, save_dir=job["save_dir"], **data)
    except NewRunError as error:
        return {"kind": "new run", "message": str(error)}
    except Exception as error:
        (*_, place) = traceback.extract_tb(error.__traceback__)
        where = f"{Path(place.filename).name}:{place.name}"
        return {"kind": "refused", "message": f"{type(error).__name__}: {error}"[:400], "where": where}
    return {"kind": "refused", "message": "training ended before an epoch was trained"}


def override(job: Job) -> Outcome:
    """Resume with settings of the caller's, and tell what the trainer has of them when it starts to train.

    ``model`` among them is what the command line would load and resume instead of the checkpoint.
    """
    from ultralytics import YOLO

    def started(trainer: Any) -> None:
        kind = "resumed" if trainer.resume else "new run"
        arguments = {key: plain(value) for key, value in vars(trainer.args).items()}
        reply({"kind": kind, "epoch": trainer.start_epoch, "arguments": arguments})
        os._exit(0)

    try:
        model = YOLO(job["overrides"].pop("model", job["path"]))
        model.add_callback("on_train_start", started)
        model.train(resume=True, **job["overrides"])
    except (Exception, SystemExit) as error:
        return {"kind": "refused", "message": f"{type(error).__name__}: {error}"[:300]}
    return {"kind": "refused", "message": "training ended before an epoch was trained"}


def plain(value: Any) -> Any:
    """A value as JSON has it, paths and devices as text."""
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def restored(trainer: Any, path: str) -> Outcome:
    """Compare what the trainer holds before its first step with what the file holds."""
    from ultralytics.nn.tasks import torch_safe_load

    saved = torch_safe_load(path)[0]
    outcome = {"kind": "resumed", "epoch": trainer.start_epoch, "message": ""}
    optimizer = saved.get("optimizer")
    lost = "the optimizer" if not optimizer else _differs(optimizer["state"], trainer.optimizer.state_dict()["state"])
    average = (saved.get("ema") or saved.get("model")).float().state_dict()
    lost = lost or _differs(average, trainer.ema.ema.state_dict())
    if lost:
        outcome |= {"kind": "lost state", "message": lost}
    return outcome


def state_by_name(trainer: Any) -> dict[str, Any]:
    """What the trainer's optimizer holds for each parameter, by the parameter's name in the trainer's own model."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    return {names[id(parameter)]: state for parameter, state in trainer.optimizer.state.items()}


def _differs(saved: Any, held: Any, place: str = "") -> str:
    """The first place at which two nests of dicts and tensors differ in value; an empty text where none does."""
    import torch

    if isinstance(saved, torch.Tensor):
        same = isinstance(held, torch.Tensor) and saved.shape == held.shape
        return "" if same and torch.equal(saved.double().nan_to_num(), held.double().nan_to_num()) else place
    if isinstance(saved, dict):
        if set(saved) != set(held):
            return f"{place} keys"
        return next(filter(None, (_differs(saved[key], held[key], f"{place}.{key}") for key in saved)), "")
    return "" if saved == held else place


def groups(job: Job) -> Outcome:
    """Save what a run of an architecture would save, optimizer state left out."""
    import torch
    from ultralytics import __version__
    from ultralytics.cfg import get_cfg
    from ultralytics.engine.trainer import BaseTrainer
    from ultralytics.utils import DEFAULT_CFG

    network: Any = described(job["network"])
    trainer: Any = object.__new__(BaseTrainer)
    trainer.args = get_cfg(DEFAULT_CFG, {"optimizer": job["optimizer"], "epochs": 5, "model": job["network"]})
    trainer.data = {"nc": 80}
    trainer.model = network
    trainer.train_loader = [None] * 100
    optimizer = trainer.build_optimizer(network, name=job["optimizer"], lr=0.01, momentum=0.9, decay=5e-4)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)  # adds initial_lr, as in a run
    content = {
        "epoch": 1,
        "model": None,
        "ema": network.half().eval(),
        "updates": 10,
        "optimizer": optimizer.state_dict(),
        "train_args": vars(trainer.args),
        "version": __version__,
    }
    torch.save(content, job["target"])
    return {"kind": "saved", "parameters": sum(value.numel() for value in network.parameters())}


def accepts(job: Job) -> Outcome:
    """Which of the saved arguments, each replaced by each of some values, the trainer's own check lets pass."""
    from ultralytics.cfg import get_cfg

    saved = job["arguments"]
    passed = []
    for name in saved:
        for index, value in enumerate(job["values"]):
            try:
                get_cfg({**saved, name: value})
                passed.append([name, index])
            except Exception:  # whatever it raises, it stops
                traceback.print_exc(limit=-1)
    return {"kind": "tried", "passed": passed, "saved": saved}


def arguments(job: Job) -> Outcome:
    """The saved arguments of a checkpoint."""
    from ultralytics.nn.tasks import torch_safe_load

    return {"kind": "read", "arguments": torch_safe_load(job["path"])[0]["train_args"]}


def described(network: str) -> Any:
    """Build a network from its description, by the class of model its name tells."""
    import ultralytics

    signs = {"rtdetr": "RTDETR", "world": "YOLOWorld", "yoloe": "YOLOE"}
    kind = next((kind for sign, kind in signs.items() if sign in Path(network).name), "YOLO")
    return getattr(ultralytics, kind)(network).model


def strip(job: Job) -> Outcome:
    """The trainer's own strip, in place."""
    from ultralytics.utils.torch_utils import strip_optimizer

    strip_optimizer(job["path"])
    return {"kind": "stripped"}


JOBS = {
    "accepts": accepts,
    "arguments": arguments,
    "strip": strip,
    "train": train,
    "edit": edit,
    "graft": graft,
    "go_on": go_on,
    "killed": killed,
    "override": override,
    "resume": resume,
    "groups": groups,
    "guarded": guarded,
}
reply_to = -1


def reply(outcome: Outcome) -> None:
    """Send an outcome from a job's process to the one that waits for it."""
    os.write(reply_to, json.dumps(outcome).encode() + b"\n")


def run(job: Job) -> Outcome:
    """Do one job in a fork and return what it said before it ended, in whatever way it did."""
    global reply_to
    reading, reply_to = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(LONGEST_JOB)
        try:
            reply(JOBS[job["do"]](job))
        except BaseException as error:
            traceback.print_exc()
            reply({"kind": "failed", "message": f"{type(error).__name__}: {error}"[:400]})
        sys.stdout.flush()
        os._exit(0)
    os.close(reply_to)
    with os.fdopen(reading) as pipe:
        said = pipe.readline()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if said:
        return dict(json.loads(said))
    return {
        "kind": "stopped" if status in (STOPPED_DEAD, -signal.SIGKILL) else "failed",
        "message": f"exit status {status}",
    }


def warm_up() -> None:
    """Import before the first fork what every job would import behind it."""
    import matplotlib.pyplot
    import numpy
    import torch

    load = torch.load
    torch.load = lambda *args, **options: load(*args, **{"weights_only": False, **options})  # the default until 2.5
    numpy.trapz = getattr(numpy, "trapz", None) or numpy.trapezoid  # type: ignore[attr-defined]
    import ultralytics.models  # noqa: F401

    matplotlib.use("agg")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)  # imports half of torch
    torch.use_deterministic_algorithms(False)


def main() -> None:
    """Answer jobs until the pipe is closed."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    warm_up()
    for line in sys.stdin:
        job = json.loads(line)
        print("job", line, flush=True)
        outcome = run(job)
        print("outcome", outcome, flush=True)
        answers.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
