"""Known ailments and their cures: one table, from the finding that names the ailment to the function that mends it.

A cure changes the draft and notes a step, or does nothing; it raises ``CkptError`` where it would have to guess. Each
can be asked for alone by the name of its finding (``--cure group-order``); some are only done on request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckpt_tools.checks.context import release
from ckpt_tools.checks.names import few
from ckpt_tools.checks.optimizers import optimizer_kind
from ckpt_tools.checks.portability import PREFIXES
from ckpt_tools.checks.values import nonfinite_tensors, underflowed_states
from ckpt_tools.findings import CkptError
from ckpt_tools.layouts import Part
from ckpt_tools.layouts.parts import dict_of, plain
from ckpt_tools.layouts.ultralytics import accepted_spelling, auto_choices, group_rules, refused_arguments
from ckpt_tools.pickles import Call, GlobalRef, is_mapping, pairs_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.donors import Donor, read_results, read_settings
from ckpt_tools.plans.edits import drop, graph
from ckpt_tools.plans.grafts import fitting, graft_part, graft_weights
from ckpt_tools.plans.model import Outcome
from ckpt_tools.plans.optimizers import OPTIONS, fresh, is_muon, parameter_names, rearranged
from ckpt_tools.plans.salvage import leave_states_out, rebase, replace_by_twin, reset_optimizer, twin_of
from ckpt_tools.plans.strides import make_contiguous

__all__ = ["CURES", "Cure", "epoch_asked_for"]


@dataclass(frozen=True)
class Cure:
    """What mends one ailment: done unasked where the verdict needs it, or only on request."""

    mend: Callable[[Case], None]
    what: str
    on_request: bool = False


def group_order(case: Case) -> None:
    """Bring the parameter groups into the target's order, each state on its own parameter."""
    part = case.part("optimizer")
    wanted = release(case.target.version if case.target else None)
    if part is None or not wanted or not case.layers:
        return
    made = rearranged(part, case.layers, case.version, wanted)
    if made is None:
        raise CkptError(f"the optimizer's groups can't be brought into the order of {case.target}")
    optimizer, left_out = made
    case.put(part.path, optimizer)
    names = [name for name in part.tensors if name.startswith(tuple(f"state.{key}." for key in _keys(case, left_out)))]
    case.record(part, Outcome.SALVAGED if left_out else Outcome.EDITED, None, names)
    order = "musgd_order" if is_muon(part.groups) else "order"
    listed = ", ".join(group_rules(wanted)[order])
    started = f"; those of {few(left_out)} start afresh, trained otherwise there" if left_out else ""
    text = f"parameter groups as {case.target} has them ({listed}), each state on its own parameter{started}"
    case.do("group-order", text, loss=bool(left_out))
    if case.found.has("version") and case.target is not None:
        case.put("version", case.target.version)


def _keys(case: Case, names: list[str]) -> list[Node]:
    """The parameter ids of names."""
    part = case.part("optimizer")
    known = parameter_names(part, case.layers, case.version) if part is not None and names else {}
    return [key for key, name in known.items() if name in names]


def args_refused(case: Case) -> None:
    """Translate the saved arguments the target renamed; drop those it refuses, which then have its default."""
    version = release(case.target.version if case.target else None)
    path = case.path("args")
    named = case.target is not None and case.target.source == "flag"
    dropped, translated = [], []
    for key, value in list(case.found.args.items()):
        if not refused_arguments({key: plain(value)}, version):
            continue
        drop(case.root, f"{path}.{key}")
        case.draft.edited = True
        spelling = accepted_spelling(key, plain(value), version)
        if spelling is not None and (spelling[0] == key or spelling[0] not in case.found.args):
            case.put(f"{path}.{spelling[0]}", spelling[1])
            translated.append(f"{key}={plain(value)} → {spelling[0]}={spelling[1]}")
        else:
            dropped.append(key)
    names = [name.lower() for name in group_rules(version)["names"]]
    optimizer = case.found.args.get("optimizer")
    if isinstance(optimizer, str) and optimizer.lower() not in names:
        optimizer_name(case)
    if translated:
        case.do("args-refused", f"saved arguments translated for {case.target}: {few(translated, 20)}")
    if dropped:
        text = f"saved arguments {case.target} refuses are left out, its defaults hold: {few(dropped, 20)}"
        case.do("args-refused", text, loss=True, consent=named)


def optimizer_name(case: Case) -> None:
    """Let the saved arguments name the optimizer whose state is in the file."""
    part = case.part("optimizer")
    kind = optimizer_kind(part) if part is not None else None
    if kind is None or not case.path("args"):
        return
    names = {name.lower(): name for name in group_rules(case.version)["names"]}
    name = names.get(kind.name.lower(), kind.name)
    before = case.found.args.get("optimizer")
    if isinstance(before, str) and before.lower() in (name.lower(), "adam" if name == "AdamW" else name.lower()):
        return
    rate = next((group.options.get("initial_lr") for group in part.groups), None) if part is not None else None
    case.put(f"{case.path('args')}.optimizer", name)
    text = f"optimizer = {name}, which the groups show (was {before})"
    if isinstance(rate, float) and str(before).lower() == "auto":
        case.put(f"{case.path('args')}.lr0", rate)
        text += f", lr0 = {rate:g} as they have it"
    case.do("optimizer-auto", text)


def no_optimizer(case: Case) -> None:
    """An optimizer from the nearest sibling that has one, else a fresh one with the right groups."""
    if "optimizer" not in case.request.reinit:
        for donor in case.nearest:
            if donor.part("optimizer") is None or fitting(case, donor):
                continue
            try:
                graft_part(case, donor, "optimizer", consent=False)
            except CkptError:
                continue
            case.advice.append(f"instead of {donor.name}'s optimizer: --optimizer-from FILE, or --reinit optimizer")
            return
    make_optimizer(case, consent="optimizer" in case.request.reinit)


def make_optimizer(case: Case, *, consent: bool) -> None:
    """A fresh optimizer for the file's model; raises ``CkptError`` where its groups can't be known."""
    part = case.part("optimizer")
    if part is not None and part.groups:
        reset_optimizer(case, part, consent=consent)
        return
    if case.family != "ultralytics" or not case.layers:
        for donor in case.nearest:
            theirs = donor.part("optimizer")
            if theirs is not None and theirs.groups and not fitting(case, donor):
                _groups_of(case, donor, consent=consent)
                return
        why = f"{case.name} has no optimizer, and how its script groups the parameters can't be known"
        raise CkptError(f"{why}; name a file of the same run with --optimizer-from")
    kind = _kind_to_make(case)
    version = release(case.target.version if case.target else None) or case.version
    made = fresh(case.layers, version, kind, case.found.args)
    case.put("optimizer", made)
    if case.version != version and case.target is not None:
        case.put("version", case.target.version)
    case.settle()
    made_part = case.part("optimizer")
    if made_part is not None:
        case.record(made_part, Outcome.REINITIALISED)
    sizes = " + ".join(str(len(group["params"])) for group in made["param_groups"])
    case.do("reinit", f"a fresh {kind} with {sizes} parameters: no momentum", loss=True, consent=consent)
    optimizer_name(case)


def _groups_of(case: Case, donor: Donor, *, consent: bool) -> None:
    """A sibling's parameter groups without their states."""
    graft_part(case, donor, "optimizer", consent=consent)
    case.steps.pop()
    case.settle()
    for path in [part.path for part in case.found.role("optimizer")]:
        part = next(part for part in case.found.role("optimizer") if part.path == path)
        case.records.pop(path, None)
        reset_optimizer(case, part, consent=consent)
    case.do("groups", f"parameter groups and their settings as in {donor.name}", consent=True)


def _kind_to_make(case: Case) -> str:
    """The optimizer the saved arguments name; what ``auto`` chose, from a sibling or where there is only one choice."""
    name = case.found.args.get("optimizer")
    if isinstance(name, str) and name.lower() != "auto":
        known = {kind.lower(): kind for kind in OPTIONS}
        if name.lower() in known:
            return known[name.lower()]
        raise CkptError(f"no fresh {name} can be made here; add --set optimizer=NAME, one of {', '.join(OPTIONS)}")

    for donor in case.nearest:
        part = donor.part("optimizer")
        kind = optimizer_kind(part) if part is not None else None
        if kind is not None and kind.name in OPTIONS:
            return kind.name
    raise CkptError(
        f"the saved arguments say optimizer=auto ({' or '.join(sorted(auto_choices(case.version)))}), and nothing here "
        "shows which it was; add e.g. --set optimizer=AdamW"
    )


def optimizer_misfit(case: Case) -> None:
    """An optimizer that does not fit its model: one that does, from a sibling, else a fresh one."""
    part = case.part("optimizer")
    wanted = release(case.target.version if case.target else None)
    made = rearranged(part, case.layers, case.version, wanted) if part is not None and case.layers and wanted else None
    sizes = [len(group.params) for group in part.groups] if part is not None else []
    if made is not None and [len(group["params"]) for group in made[0]["param_groups"]] != sizes:
        group_order(case)  # the same parameters, grouped otherwise (MuSGD before 8.4.113)
        return
    if part is not None and part.path in case.records and case.records[part.path].outcome is not Outcome.KEPT:
        raise CkptError("the optimizer does not fit the model's parameters; name another with --optimizer-from")
    if case.family == "ultralytics":
        case.put("optimizer", None)
        case.settle()
        no_optimizer(case)


def non_finite(case: Case) -> None:
    """NaN and infinity: the other set of weights or a sibling, and for an optimizer those states afresh."""
    checkpoint, content = case.draft.checkpoint, case.holding.content
    for part in case.found.weights:
        bad = nonfinite_tensors(checkpoint, content, part)
        if not bad:
            continue
        twin = twin_of(case, part)
        if twin is not None and not nonfinite_tensors(checkpoint, content, twin):
            replace_by_twin(case, part, twin)
            return
        for donor in sorted(case.nearest, key=lambda donor: -(donor.epoch or 0)):
            theirs = donor.part(part.role)
            sound = theirs is not None and not nonfinite_tensors(donor.checkpoint, donor.holding.content, theirs)
            if sound and not fitting(case, donor) and donor.holding.intact and donor.part("optimizer") is not None:
                if case.request.edits:
                    graft_weights(case, donor, part.role, consent=False)
                else:
                    rebase(case, donor, f"{part.path} holds NaN or infinity ({few(bad)})")
                return
        raise CkptError(f"{part.path} holds NaN or infinity ({few(bad)}), and no finite file of the run is here")
    part_of = case.part("optimizer")
    if part_of is not None:
        bad = nonfinite_tensors(checkpoint, content, part_of)
        keys = {name.split(".")[1] for name in bad if name.startswith("state.")}
        found = [key for key in part_of.state if str(key) in keys]
        if found:
            leave_states_out(case, part_of, found, "they hold NaN or infinity")


def underflowed(case: Case) -> None:
    """Start the Adam state of the parameters afresh whose second moments underflowed."""
    part = case.part("optimizer")
    keys = underflowed_states(case.draft.checkpoint, case.holding.content, part) if part is not None else []
    if part is not None and keys:
        leave_states_out(case, part, keys, "their second moments had underflowed in float16")


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


def initial_lr(case: Case) -> None:
    """Groups without ``initial_lr``: the rate the run began with, three times that in MuSGD's boosted groups."""
    part = case.part("optimizer")
    rate = plain(case.found.args.get("lr0"))
    if part is None or not isinstance(rate, (int, float)):
        return
    groups = dict_of(part.node).get("param_groups")
    rates = [plain(group.options.get("lr")) for group in part.groups]
    least = min((rate for rate in rates if isinstance(rate, (int, float)) and rate > 0), default=0)
    for group, current in zip(groups if isinstance(groups, list) else [], rates):
        factor = round(current / least) if isinstance(current, (int, float)) and least else 1
        if isinstance(group, dict):
            group.setdefault("initial_lr", rate * (factor if factor in (1, 3) else 1))
        elif isinstance(group, Call) and "initial_lr" not in dict(pairs_of(group)):
            group.pairs = [*pairs_of(group), ("initial_lr", rate * (factor if factor in (1, 3) else 1))]
    case.draft.edited = True
    case.record(part, Outcome.EDITED)
    case.do("no-initial-lr", f"initial_lr {rate:g} in every parameter group (the saved lr0)")


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
        case.set_epoch(case.request.epoch, "as asked for")
    elif case.request.results is not None:
        case.set_epoch(read_results(case.request.results), f"the last row of {case.request.results.name}")
    return case.request.epoch is not None or case.request.results is not None


def epoch_missing(case: Case) -> None:
    """The epoch from the stored results, or results.csv for last.pt; else it must be said."""
    if epoch_asked_for(case):
        return
    from ckpt_tools.plans.donors import trained_epoch

    path = case.draft.checkpoint.path
    epoch = trained_epoch(case.found, Path(case.request_name()))
    table = next((f for f in (path.parent / "results.csv", path.parent.parent / "results.csv") if f.is_file()), None)
    if epoch is not None:
        case.set_epoch(epoch, "from the results stored in it")
    elif table is not None and case.request_name().startswith("last"):
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


def save_dir(case: Case) -> None:
    """Let a resume write into the folder the file lies in."""
    folder = Path(case.output).resolve().parent
    run = folder.parent if folder.name == "weights" else folder
    path = case.path("args")
    if path and case.found.args.get("save_dir") != str(run):
        case.put(f"{path}.save_dir", str(run))
        case.do("saves-elsewhere", f"save_dir = {run}")


def missing_role(case: Case) -> None:
    """Arguments or epoch that are missing: from a sibling or the run's own args.yaml; the epoch from its results."""
    if case.found.stored_epoch is None and "epoch" in case.found.layout.needs:
        epoch_missing(case)
    if "args" in case.found.layout.needs and not case.found.role("args"):
        _args_at_hand(case)


def _args_at_hand(case: Case) -> None:
    from ckpt_tools.plans.grafts import graft_args

    for donor in case.nearest:
        if donor.found.args:
            holding = donor.holding
            case.put(case.path("args"), case.draft.graft(donor.found.role("args")[0].node, holding))
            case.do("args", f"{case.path('args')} from {donor.name}", loss=True)
            return
    folder = case.draft.checkpoint.path.parent
    for name in ("args.yaml", "opt.yaml", "../args.yaml", "../opt.yaml"):
        if (folder / name).is_file():
            graft_args(case, read_settings(folder / name), name, consent=False)
            return
    raise CkptError("the training arguments are missing; name them with --args-from args.yaml")


def epoch_mark(case: Case) -> None:
    """An epoch below zero beside a live optimizer."""
    epoch_missing(case)


def path_objects(case: Case) -> None:
    """Paths become text, which loads on every system."""
    changed = 0
    for node in graph(case.root):
        if isinstance(node, Call) and node.path.startswith("pathlib.") and isinstance(node.args, tuple):
            separator = "\\" if "Windows" in node.path else "/"
            parts = [str(part) for part in node.args]
            text = separator.join(parts).replace(separator * 2, separator, 1) if parts else "."
            case.draft.swaps[id(node)] = text
            changed += 1
    if changed:
        case.draft.edited = True
        case.do("path-objects", f"{changed} path objects become text")


def numpy2_names(case: Case) -> None:
    """numpy's objects under the module names numpy 1 and 2 both know."""
    changed = 0
    for node in graph(case.root):
        if isinstance(node, GlobalRef) and node.module.startswith("numpy._core"):
            node.module = node.module.replace("numpy._core", "numpy.core", 1)
            changed += 1
    if changed:
        case.draft.edited = True
        case.do("numpy2-names", "numpy objects under the module names of numpy 1, which numpy 2 knows, too")


def name_prefix(case: Case) -> None:
    """Cut the prefixes of wrappers off the names of a state dict."""
    for part in case.found.weights:
        prefix = next((p for p in PREFIXES if part.tensors and all(name.startswith(p) for name in part.tensors)), None)
        if prefix and part.form == "state_dict" and is_mapping(part.node):
            _rename(part, prefix)
            case.draft.edited = True
            case.record(part, Outcome.EDITED)
            case.do("name-prefix", f"{part.path or 'names'} without the prefix {prefix}")


def _rename(part: Part, prefix: str) -> None:
    node: Any = part.node

    def bare(key: Node) -> Node:
        return key.removeprefix(prefix) if isinstance(key, str) else key

    if isinstance(node, dict):
        renamed = {bare(key): value for key, value in node.items()}
        node.clear()
        node.update(renamed)
    else:
        node.pairs = [(bare(key), value) for key, value in node.pairs or ()]


CURES: dict[str, Cure] = {
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
