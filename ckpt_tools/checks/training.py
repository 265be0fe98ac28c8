"""Whether a trainer can go on from it: roles present, epochs done and planned, marks of a strip, known traps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.checks.context import Context, release
from ckpt_tools.checks.names import few
from ckpt_tools.checks.optimizers import check_optimizer, check_state
from ckpt_tools.findings import Finding, finding
from ckpt_tools.layouts import Part, Recognised
from ckpt_tools.layouts.parts import dict_of
from ckpt_tools.layouts.ultralytics import resume_rules
from ckpt_tools.pickles import is_mapping

__all__ = ["check_training", "is_weights"]

ROLE_WORDS = {"optimizer": "an optimizer", "scheduler": "a learning-rate scheduler", "scaler": "a gradient scaler",
              "rng": "a random state"}  # fmt: skip


def check_training(checkpoint: Checkpoint, context: Context) -> Iterator[Finding]:
    """Findings about resuming. A file that is weights by design gets a note and nothing else."""
    found = checkpoint.recognised
    if found is None or found.layout.name == "none":
        return
    if is_weights(found):
        yield finding("weights-only")
        return
    if not found.weights:
        held = [ROLE_WORDS[part.role] for part in found.parts if part.role in ROLE_WORDS and part.present]
        yield finding("no-weights", what=" and ".join(dict.fromkeys(held)) or "settings")
        return
    if _stripped(found):
        yield finding("stripped", progress=_trained(found))
        yield from _trap(found, context)
        return
    hollow = [name for part in found.weights for name, tensor in part.tensors.items() if tensor.layout == "meta"]
    if hollow:
        yield finding("meta-tensors", hollow[0], count=len(hollow), tensors=few(hollow))
    yield from _optimizer(checkpoint, found, context)
    yield from _epoch(checkpoint, found)
    yield from _roles(found)
    yield from _afresh(found)


def is_weights(found: Recognised) -> bool:
    """Whether nothing in the file was meant to resume a run: only weights, numbers and settings."""
    layout = found.layout
    if layout.name in ("bare", "module", "tensors"):
        return True
    if not found.weights:
        return False
    training = any(part.role in ROLE_WORDS and (part.present or part.role == "optimizer") for part in found.parts)
    if layout.name == "plain":
        return not training
    return bool(layout.weights_mark) and not training and not any(found.has(key) for key in layout.weights_mark)


def _stripped(found: Recognised) -> bool:
    """Whether the file bears its layout's own mark of a strip."""
    marks = found.layout.stripped
    return bool(marks) and all(_marked(found, path, value) for path, value in marks.items())


def _marked(found: Recognised, path: str, value: Any) -> bool:
    if not found.has(path):
        return False
    held = found.value(path)
    return held is None if value is None else type(held) is type(value) and bool(held == value)


def _trained(found: Recognised) -> str:
    """How far a stripped run got: rows of its stored results against the planned epochs."""
    rows = [len(column) for column in dict_of(found.value("train_results")).values() if isinstance(column, list)]
    if rows and found.epochs:
        early = " (stopped early)" if max(rows) < found.epochs else ""
        return f"; trained {max(rows)} of {found.epochs} epochs{early}"
    return f"; {found.epochs} epochs were planned" if found.epochs else ""


def _optimizer(checkpoint: Checkpoint, found: Recognised, context: Context) -> Iterator[Finding]:
    parts = found.role("optimizer")
    usable = [part for part in parts if not _hollow(part) and (is_mapping(part.node) or not found.layout.module)]
    if usable:
        for part in usable:
            if part.groups and not part.state and _keeps_state(part):
                yield finding("empty-optimizer", part.path)
            yield from check_state(part)
        if found.layout.name == "ultralytics":
            yield from check_optimizer(found, usable[0], context)
        return
    announced = found.announced("optimizer")
    needed = "optimizer" in found.layout.needs
    others = [part for part in found.parts if part.role in ("scheduler", "scaler", "rng") and part.present]
    if announced or needed or parts:
        path = announced.path if announced else found.layout.roles.get("optimizer", "optimizer")
        how = (
            ("is None" if announced.form == "none" else "is empty")
            if announced
            else (_fault(parts[0]) if parts else "is absent")
        )
        if found.layout.name == "deepspeed" and announced:
            if _shards_beside(checkpoint, found):
                return
            how = "should be in zero_pp_rank_* files beside this one, and not all of them are there"
        yield finding("no-optimizer", path, path_in_file=f"key {path}", how=how, effect=_effect(found))
        yield from _trap(found, context)
    elif others:
        yield finding("part-without-optimizer", others[0].path, what=ROLE_WORDS[others[0].role].split(" ", 1)[1])


def _fault(part: Part) -> str:
    """Why an optimizer that is there is of no use."""
    return "can't be loaded" if part.groups else "is empty"


def _shards_beside(checkpoint: Checkpoint, found: Recognised) -> bool:
    """DeepSpeed under ZeRO: one optimizer file per data-parallel rank lies beside the model states."""
    world = found.value("dp_world_size")
    there = len(list(checkpoint.path.parent.glob("*zero_pp_rank_*_optim_states.pt")))
    return there >= (world if type(world) is int and world > 0 else 1)


def _hollow(part: Part) -> bool:
    """An optimizer without groups, or whose state is no mapping: torch can load neither."""
    content = dict_of(part.node)
    if "param_groups" in content:
        return not part.groups or not (dict_of(content.get("state")) or content.get("state") == {})
    return not content and not part.tensors


def _keeps_state(part: Part) -> bool:
    """Plain SGD without momentum keeps no state, so an empty one is what it should be."""
    momentum = [group.options.get("momentum") for group in part.groups]
    adaptive = any("betas" in group.options or "alpha" in group.options for group in part.groups)
    return adaptive or any(value not in (0, 0.0, None) for value in momentum)


def _effect(found: Recognised) -> str:
    if found.layout.name in ("yolov5", "ultralytics"):
        return "; a resume restarts or goes on with a fresh optimizer"
    return ""


def _trap(found: Recognised, context: Context) -> Iterator[Finding]:
    """What ``resume=True`` does with a file it can't resume (ultralytics before 8.4.29 stops)."""
    if found.layout.name != "ultralytics":
        return
    version = release(context.target.version if context.target else found.version)
    if resume_rules(version)["resume_true_unresumable"] == "new-run":
        yield finding("resume-trap")


def _epoch(checkpoint: Checkpoint, found: Recognised) -> Iterator[Finding]:
    number = found.stored_epoch
    if number is None:
        if "epoch" in found.layout.needs:
            yield finding("missing-role", found.layout.roles.get("epoch", "epoch"), role="the epoch")
        elif found.step is None and found.role("optimizer"):
            yield finding("no-epoch")
        return
    has_optimizer = bool(found.role("optimizer"))
    if number < 0 and has_optimizer:
        yield finding("epoch-mark", epoch=number)
    elif found.epoch is not None and found.epochs is not None and found.epochs > 0 and found.epoch + 1 >= found.epochs:
        yield finding("run-complete", epoch=found.epoch + 1, epochs=found.epochs)
        if has_optimizer and found.layout.stripped:
            size = sum(part.nbytes for part in found.role("optimizer"))
            yield finding("not-stripped", size=size)


def _roles(found: Recognised) -> Iterator[Finding]:
    for role in found.layout.needs:
        if role in ("optimizer", "epoch") or found.role(role):
            continue
        yield finding("missing-role", found.layout.roles.get(role, role), role=found.layout.roles.get(role, role))
    first = next(iter(found.role("ema") or found.role("model")), None)
    if found.layout.module and first is not None and first.form != "module":
        yield finding("missing-role", first.path, role=f"a pickled model ({first.path} is a {first.form})")
    if (
        found.layout.name == "ultralytics"
        and found.role("ema")
        and not isinstance(found.value("updates"), (int, float))
    ):
        yield finding("no-ema-counter", "updates")


def _afresh(found: Recognised) -> Iterator[Finding]:
    """What even a good resume does not bring back."""
    if not found.role("optimizer"):
        return
    lost = list(found.layout.lost)
    if found.layout.name == "ultralytics":
        if found.role("model"):
            lost.remove("live weights")
        scaler = found.announced("scaler")
        if not found.has("scaler"):
            lost.append("gradient scaler")
        elif scaler and scaler.form == "empty":
            yield finding("scaler-empty", "scaler")
        if not found.has("stopper"):
            lost.append("early-stopping patience")
    elif found.layout.name in ("plain", "ignite") and not found.role("rng"):
        lost.append("random state")
    if lost:
        yield finding("lost-on-resume", what=", ".join(lost))
