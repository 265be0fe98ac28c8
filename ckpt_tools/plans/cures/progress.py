"""Cures of what says how far training got: epoch, EMA counter, early stopping, scaler, the marks of a strip."""

from __future__ import annotations

import os

from ckpt_tools.configs import read_settings
from ckpt_tools.findings import CkptError
from ckpt_tools.layouts.parts import dict_of, plain
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.cures.arguments import save_dir
from ckpt_tools.plans.grafts import fitting, graft_args, graft_module
from ckpt_tools.plans.model import Outcome
from ckpt_tools.runs import read_results, trained_epoch

__all__ = [
    "ema_counter",
    "epoch_asked_for",
    "epoch_mark",
    "epoch_missing",
    "missing_role",
    "scaler_empty",
    "stopper",
    "stripped",
]


def ema_counter(case: Case) -> None:
    """The EMA's update counter: a sibling's, else the optimizer's own steps, else an estimate that is named as one."""
    here = case.found.epoch
    for donor in case.nearest:
        theirs = donor.found.value("updates")
        if isinstance(theirs, (int, float)) and donor.epoch is not None and here is not None:
            count = round(theirs * (here + 1) / (donor.epoch + 1))
            case.put("updates", count)
            case.do("no-ema-counter", f"updates {count}, from {donor.name}'s {theirs:g}", loss=True)
            return
    part = case.part("optimizer")
    steps = [case.found.number(state["step"]) for state in part.state.values() if "step" in state] if part else []
    known = [round(step) for step in steps if isinstance(step, (int, float))]
    count = max(known, default=0) or TYPICAL_UPDATES * ((here or 0) + 1)
    source = "the optimizer's own count of steps" if known else f"an estimate: {TYPICAL_UPDATES} for each epoch"
    case.put("updates", count)
    case.do("no-ema-counter", f"updates {count}, {source}", loss=not known)


TYPICAL_UPDATES = 1000  # optimizer steps in an epoch of a mid-sized data set; the EMA's decay is level by then


def scaler_empty(case: Case) -> None:
    """``{}`` becomes ``None``: an enabled scaler then starts afresh instead of refusing."""
    held = case.found.announced("scaler")
    if held is not None and held.form == "empty":
        case.put(held.path, None)
        case.do("scaler-empty", f"{held.path} None: a scaler starts afresh where mixed precision is on")


def stopper(case: Case) -> None:
    """Early stopping as the stored results have it: best fitness, and the epoch of it.

    Which columns make the fitness differs by task and release (``utils/metrics.py``): the one that gives the stored
    best fitness is taken.
    """
    best = plain(case.found.value("best_fitness"))
    table = {str(k): v for k, v in dict_of(case.found.value("train_results")).items() if isinstance(v, list) and v}
    if case.family != "ultralytics" or not isinstance(best, (int, float)):
        return
    for weights in FITNESS:
        columns = [(table[key], weight) for key in table for sign, weight in weights if sign in key]
        rows = min((len(column) for column, _ in columns), default=0)
        fitness = [sum(column[row] * weight for column, weight in columns) for row in range(rows)]
        if fitness and abs(max(fitness) - best) <= 1e-4:
            epoch = fitness.index(max(fitness)) + 1
            case.put("stopper", {"best_fitness": best, "best_epoch": epoch})
            case.do("stopper", f"early stopping: best epoch {epoch}, as the stored results have it")
            return


# Columns of the results and their share of the fitness: 8.3.1xx and newer, older, classification.
FITNESS = (
    (("mAP50-95(", 1.0),),
    (("mAP50-95(", 0.9), ("mAP50(", 0.1)),
    (("accuracy_top1", 0.5), ("accuracy_top5", 0.5)),
)


def epoch_asked_for(case: Case) -> bool:
    """Store the epoch the user named, or the last one of a results.csv; whether one was given."""
    if case.request.epoch is not None:
        case.set_epoch(case.request.epoch, "as asked for", loss=True)
    elif case.request.results is not None:
        case.set_epoch(read_results(case.request.results), f"the last row of {case.request.results.name}")
    return case.request.epoch is not None or case.request.results is not None


def epoch_missing(case: Case) -> None:
    """The epoch from the stored results, or results.csv for last.pt; else it must be said."""
    if epoch_asked_for(case):
        return
    path = case.draft.checkpoint.path
    epoch = trained_epoch(case.found, case.original)
    table = next(
        (f for f in (path.parent / "results.csv", path.parent.parent / "results.csv") if os.path.isfile(f)), None
    )
    if epoch is not None:
        case.set_epoch(epoch, "from the results stored in it")
    elif table is not None and case.original.name.startswith("last"):
        case.set_epoch(read_results(table), f"the last row of {table.name}")
    else:
        raise CkptError("how far these weights were trained is not stored; say so with --epoch N or --epoch-from FILE")


def stripped(case: Case) -> None:
    """Make a stripped file resumable again: the weights become the average, the run folder and the epoch come back."""
    layout = case.found.layout
    model = case.part("model")
    if not layout.stripped or model is None:
        return
    if case.part("ema") is None and case.family in ("ultralytics", "yolov5"):
        case.put("ema", model.node)
        case.put("model", None)
        case.record(model, Outcome.EDITED)
        text = "the stripped weights become the average (ema) a resume starts from"
        case.do("stripped", text, loss=True, consent=True)
    epoch = case.found.value("epoch")
    if not isinstance(epoch, int) or epoch < 0 or case.request.epoch is not None or case.request.results is not None:
        epoch_missing(case)
    if not isinstance(case.found.args.get("save_dir"), str):
        save_dir(case)
    fitness = dict_of(case.found.value("train_metrics")).get("fitness")
    if case.found.value("best_fitness") is None and fitness is not None:
        case.put("best_fitness", fitness)
    case.settle()


def missing_role(case: Case) -> None:
    """Arguments, epoch or the pickled model that are missing: from a sibling, args.yaml, or the stored results."""
    if case.found.stored_epoch is None and "epoch" in case.found.layout.needs:
        epoch_missing(case)
    if "args" in case.found.layout.needs and not case.found.role("args"):
        _args_at_hand(case)
    part = case.weights
    if case.found.layout.module and part is not None and part.form != "module":
        donor = next((donor for donor in case.nearest if not fitting(case, donor)), None)
        if donor is None:
            raise CkptError(
                f"{part.path} is a state dict and the trainer wants a pickled model; --from DIR names a run"
            )
        graft_module(case, part, donor)


def _args_at_hand(case: Case) -> None:
    for donor in case.nearest:
        if donor.found.args:
            holding = donor.holding
            case.put(case.path("args"), case.draft.graft(donor.found.role("args")[0].node, holding))
            case.do("args", f"{case.path('args')} from {donor.name}", loss=True)
            return
    folder = case.draft.checkpoint.path.parent
    for name in ("args.yaml", "opt.yaml", "../args.yaml", "../opt.yaml"):
        if os.path.isfile(folder / name):
            graft_args(case, read_settings(folder / name), name, consent=False)
            return
    raise CkptError("the training arguments are missing; name them with --args-from args.yaml")


def epoch_mark(case: Case) -> None:
    """An epoch below zero beside a live optimizer."""
    epoch_missing(case)
