"""Known ailments and their cures: one table, from the finding that names the ailment to the function that mends it.

A cure changes the draft and notes a step, or does nothing; it raises ``CkptError`` where it would have to guess. Each
can be asked for alone by the name of its finding (``--cure group-order``); some are only done on request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ckpt_tools.plans.case import Case
from ckpt_tools.plans.cures.arguments import args_refused, save_dir
from ckpt_tools.plans.cures.optimizer import (
    group_order,
    initial_lr,
    no_optimizer,
    optimizer_misfit,
    optimizer_name,
    underflowed,
)
from ckpt_tools.plans.cures.portable import numpy2_names, path_objects
from ckpt_tools.plans.cures.progress import ema_counter, epoch_mark, missing_role, scaler_empty, stopper, stripped
from ckpt_tools.plans.cures.strides import make_contiguous
from ckpt_tools.plans.cures.weights import name_prefix, non_finite, saved_method

__all__ = ["CURES", "Cure"]


@dataclass(frozen=True)
class Cure:
    """What mends one ailment: done unasked where the verdict needs it, or only on request."""

    mend: Callable[[Case], None]
    what: str
    on_request: bool = False


CURES: dict[str, Cure] = {
    "saved-method": Cure(saved_method, "the object itself instead of a method of it that was saved"),
    "stripped": Cure(stripped, "make a stripped file resumable again"),
    "missing-role": Cure(missing_role, "arguments and epoch from the run folder"),
    "epoch-mark": Cure(epoch_mark, "the epoch the weights are of"),
    "non-finite": Cure(non_finite, "NaN and infinity replaced from the twin or a donor"),
    "no-optimizer": Cure(no_optimizer, "an optimizer from a sibling, or a fresh one"),
    "group-order": Cure(group_order, "parameter groups in the target's order"),
    "args-refused": Cure(args_refused, "saved arguments translated or left out for the target"),
    "optimizer-misfit": Cure(optimizer_name, "the saved arguments name the optimizer the groups show"),
    "optimizer-shape": Cure(optimizer_misfit, "another optimizer where this one does not fit"),
    "group-sizes": Cure(optimizer_misfit, "another optimizer where this one does not fit"),
    "no-initial-lr": Cure(initial_lr, "initial_lr in every parameter group"),
    "no-ema-counter": Cure(ema_counter, "the EMA's update counter"),
    "optimizer-auto": Cure(optimizer_name, "optimizer=auto becomes what the groups show", on_request=True),
    "underflowed-moments": Cure(underflowed, "Adam states that underflowed start afresh", on_request=True),
    "scaler-empty": Cure(scaler_empty, "an empty scaler state becomes None", on_request=True),
    "stopper": Cure(stopper, "early stopping as the stored results have it", on_request=True),
    "saves-elsewhere": Cure(save_dir, "a resume writes into this file's own run folder", on_request=True),
    "path-objects": Cure(path_objects, "path objects become text", on_request=True),
    "numpy2-names": Cure(numpy2_names, "numpy objects under names numpy 1 knows, too", on_request=True),
    "name-prefix": Cure(name_prefix, "names without module. and _orig_mod.", on_request=True),
    "contiguous": Cure(make_contiguous, "tensors in row-major order", on_request=True),
}
