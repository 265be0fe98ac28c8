"""``ckpt latest`` with the real trainer: what it names is what the trainer goes on with."""

from __future__ import annotations

import shutil
from pathlib import Path

from damage import cut

import ckpt_tools
from oracle.trainer import STOP, Run, Trainer


def copy_of(trainer: Trainer, run: Run) -> Path:
    """A run's folder of weights that may be spoilt, as the trainer left it."""
    place = trainer.place("last.pt").parent
    shutil.copytree(trainer.weights(run), place, dirs_exist_ok=True)
    return place


def test_interrupted_run_goes_on_from_it(trainer: Trainer) -> None:
    place = copy_of(trainer, Run())
    found = ckpt_tools.latest(place.parent)
    assert found.path is not None
    outcome = trainer.resume(found.path)
    assert (outcome.kind, outcome.epoch) == ("resumed", STOP + 1), outcome


def test_run_killed_while_saving_goes_on_from_the_epoch_before(trainer: Trainer) -> None:
    place = copy_of(trainer, Run())
    for name in ("last.pt", f"epoch{STOP}.pt", "best.pt"):
        data = (place / name).read_bytes()
        (place / name).write_bytes(cut(data, len(data) // 2))
    found = ckpt_tools.latest(place.parent)
    assert found.path == place / f"epoch{STOP - 1}.pt"
    outcome = trainer.resume(found.path)
    assert (outcome.kind, outcome.epoch) == ("resumed", STOP), outcome


def test_finished_run_is_over(trainer: Trainer) -> None:
    found = ckpt_tools.latest(copy_of(trainer, Run(stop_after=None)).parent)
    assert (found.path, found.finished) == (None, True)
