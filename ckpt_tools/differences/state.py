"""Two checkpoints: how far each got, how good it is, what its optimizer and scheduler hold, and how it is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ckpt_tools.checks.names import few
from ckpt_tools.differences.architecture import compare_architectures
from ckpt_tools.differences.model import ABSENT, Difference, Meaning
from ckpt_tools.differences.settings import Change, changes, flat
from ckpt_tools.differences.situation import Situation
from ckpt_tools.findings import as_text
from ckpt_tools.layouts.metrics import metrics_of
from ckpt_tools.layouts.parts import Part, dict_of
from ckpt_tools.layouts.values import value_of
from ckpt_tools.tensors.modules import class_name

__all__ = ["check_state"]

RECORDS = ("date", "version", "git", "license", "docs")  # what no resume reads
Facts = dict[str, Any]


def check_state(old: Situation, new: Situation) -> Iterator[Difference]:
    """Progress, optimizer, scheduler, scaler, metrics and architecture; tensors are compared elsewhere."""
    for section, meaning, why, read in SECTIONS:
        before, after = read(old), read(new)
        for change in (*changes(before, after), *_gone(before, after)):
            yield Difference(change.key, change.old, change.new, meaning, why, section)
    for role in PARTS:
        yield from _parts(role, old.found.role(role), new.found.role(role), old.optimizer, new.optimizer)
    yield from _settings(old.saved, new.saved)
    yield from _classes(old, new)
    if old.architecture and new.architecture:
        yield from compare_architectures(old, {**new.architecture, "nc": new.classes})
    elif old.module and new.module and class_name(old.module.node) != class_name(new.module.node):
        ours, theirs = class_name(old.module.node), class_name(new.module.node)
        yield Difference("class", ours, theirs, Meaning.BREAKS, "models of different classes", "model")


def _settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Difference]:
    """Settings the second file lacks; where one file keeps none at all, that alone."""
    if ours and theirs:
        for change in _gone(ours, theirs):
            yield Difference(change.key, change.old, ABSENT, Meaning.HARMLESS, "the other file does not keep it")
    elif ours or theirs:
        old, new = (f"{len(flat(held))} settings" if held else ABSENT for held in (ours, theirs))
        yield Difference("args", old, new, Meaning.HARMLESS, "only one of the files keeps its settings")


def _parts(role: str, ours: list[Part], theirs: list[Part], *kinds: str | None) -> Iterator[Difference]:
    """What two parts of a role hold beside tensors; where one file has none, that alone."""
    for number in range(max(len(ours), len(theirs))):
        name = role if not number else f"{role}.{number}"
        if number >= len(theirs):
            meaning, why = LACKING[role]
            yield Difference(
                name, ours[number].path or role, ABSENT, meaning, f"the other file has none: {why}", "state"
            )
        elif number >= len(ours):
            why = "only the other file has one"
            yield Difference(name, ABSENT, theirs[number].path or role, Meaning.HONOURED, why, "state")
        else:
            before, after = PARTS[role](ours[number]), PARTS[role](theirs[number])
            if role == "optimizer" and kinds[0] != kinds[1]:
                before, after = {"kind": kinds[0], "lr": before.get("lr")}, {"kind": kinds[1], "lr": after.get("lr")}
            for change in (*changes(before, after), *_gone(before, after)):
                why = f"each file goes on with its own {role}"
                yield Difference(f"{name}.{change.key}", change.old, change.new, Meaning.HONOURED, why, "state")


def _gone(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """What the second file lacks."""
    ours, theirs = flat(before), flat(after)
    return [Change(key, value, ABSENT) for key, value in ours.items() if key not in theirs]


def _progress(situation: Situation) -> Facts:
    found = situation.found
    stated = {"epoch": found.stored_epoch, "step": found.step}
    updates = value_of(found.value("updates"))
    return {key: value for key, value in {**stated, "updates": updates}.items() if value is not None}


def _origin(situation: Situation) -> Facts:
    facts = {key: value_of(situation.found.value(key)) for key in RECORDS if situation.found.has(key)}
    return {"layout": situation.found.family, **facts}


def _optimizer(part: Part) -> Facts:
    """Groups and their options; what all groups share stands once."""
    facts: Facts = {"groups": [len(group.params) for group in part.groups]}
    for option in dict.fromkeys(key for group in part.groups for key in group.options):
        values = [value_of(group.options.get(option)) for group in part.groups]
        facts[option] = values[0] if all(value == values[0] for value in values) else values
    return facts


def _numbers(part: Part) -> Facts:
    """The numbers and lists of a scheduler or a scaler."""
    facts = {as_text(key): value_of(node) for key, node in dict_of(part.node).items()}
    return {key: value for key, value in facts.items() if isinstance(value, (int, float, str, list, type(None)))}


def _stopper(situation: Situation) -> Facts:
    """Early stopping, where the trainer keeps it."""
    held = value_of(situation.found.value("stopper"))
    return {f"stopper.{key}": value for key, value in held.items()} if isinstance(held, dict) else {}


def _metrics(situation: Situation) -> Facts:
    return metrics_of(situation.found)


def _classes(old: Situation, new: Situation) -> Iterator[Difference]:
    if old.names and new.names and old.names != new.names:
        moved = [name for name in new.names if name in old.names and old.names.index(name) != new.names.index(name)]
        meaning = Meaning.BREAKS if moved or len(old.names) != len(new.names) else Meaning.HONOURED
        gone = [f"{a} → {b}" for a, b in zip(old.names, new.names) if a != b]
        why = f"their classes differ: {few(gone) or f'{len(old.names)} and {len(new.names)}'}"
        yield Difference("names", old.names, new.names, meaning, why, "model")


# Section, what a difference there means for a resume from the second file instead of the first, why, where to look.
SECTIONS = (
    ("state", Meaning.SCHEDULE, "training goes on from another point", _progress),
    ("state", Meaning.SCHEDULE, "each file goes on with its own early stopping", _stopper),
    ("metrics", Meaning.HARMLESS, "a record of how good the weights are", _metrics),
    ("state", Meaning.HARMLESS, "a record that no resume reads", _origin),
)
PARTS: dict[str, Callable[[Part], Facts]] = {"optimizer": _optimizer, "scheduler": _numbers, "scaler": _numbers}
LACKING = {
    "optimizer": (Meaning.BREAKS, "a resume from it would start without momentum, if at all"),
    "scheduler": (Meaning.SCHEDULE, "the learning rate would start over"),
    "scaler": (Meaning.SCHEDULE, "loss scaling would start over"),
}
