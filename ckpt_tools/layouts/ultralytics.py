"""What each ultralytics release expects of a checkpoint it resumes: parameter groups, and what its resume does.

The facts are in ``ultralytics.json``, read from the releases themselves; this module only looks them up.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ckpt_tools.tensors.modules import Layer

__all__ = [
    "NEWEST",
    "PlannedGroup",
    "Release",
    "auto_choices",
    "facts",
    "group_rules",
    "moved_modules",
    "numbers",
    "optimizer_names",
    "plan_groups",
    "resume_rules",
    "strip_rules",
    "structures",
]

Release = tuple[int, ...]
NEWEST: Release = (999,)


@functools.cache
def facts() -> dict[str, Any]:
    """The facts as they stand in the file."""
    return json.loads(files("ckpt_tools.layouts").joinpath("ultralytics.json").read_text("utf-8"))  # type: ignore[no-any-return]


@functools.cache
def numbers(text: str) -> Release:
    """``8.4.172`` as ``(8, 4, 172)``."""
    return tuple(int(part) for part in text.split("."))


def _fold(entries: Iterable[dict[str, Any]], version: Release) -> dict[str, Any]:
    """The rules in force at ``version``: later entries overrule earlier ones; an unknown version is the newest."""
    rules: dict[str, Any] = {}
    for entry in entries:
        if numbers(entry["since"]) <= (version or NEWEST):
            rules.update(entry)
    return rules


def group_rules(version: Release) -> dict[str, Any]:
    """How ``build_optimizer`` of a release makes its groups (``order``, ``musgd_order``, ``tags``, ``names`` …)."""
    return _fold(facts()["groups"], version)


def optimizer_names(version: Release) -> list[str]:
    """The optimizers a release can build, in lower case."""
    return [name.lower() for name in group_rules(version)["names"]]


def resume_rules(version: Release) -> dict[str, Any]:
    """What a release does on resume (``unknown_args``, ``resume_true_unresumable``, ``required_keys`` …)."""
    return _fold(facts()["resume"], version)


def strip_rules(version: Release) -> dict[str, Any]:
    """What ``strip_optimizer`` of a release does (``null``, ``model_args``, ``criterion``, ``train_args`` …)."""
    return _fold(facts()["strip"], version)


def structures(version: Release) -> set[str]:
    """The ways of building a model that only some releases have, by name, as far as this release has them."""
    rows = facts()["structure"]
    here = version or NEWEST
    return {row["name"] for row in rows if numbers(row["since"]) <= here < numbers(row["until"])}


def moved_modules(old: Release, new: Release) -> dict[str, str]:
    """The modules of one release under the names another has for them: old names with new ones."""
    rows = facts()["moved"]
    return {row["from"]: row["to"] for row in rows if (old or NEWEST) < numbers(row["since"]) <= (new or NEWEST)}


@dataclass(frozen=True)
class PlannedGroup:
    """A group the trainer would make: its label (``weight``, ``norm``, ``bias``, ``muon+`` …) and parameter names."""

    label: str
    names: tuple[str, ...]


def plan_groups(layers: list[Layer], rules: dict[str, Any], muon: bool) -> list[PlannedGroup]:
    """The groups a release makes of a model: every layer's own parameters, in order, by kind.

    Source: ``BaseTrainer.build_optimizer`` in ``engine/trainer.py`` of the releases named in ``ultralytics.json``.
    """
    norms = set(facts()["norm_classes"])
    kinds: dict[str, list[str]] = {"weight": [], "norm": [], "bias": [], "muon": []}
    only_two = rules["walk"].startswith("modules()")
    for layer in layers:
        for own, tensor in layer.parameters.items():
            name = layer.path(own)
            if only_two and own not in ("weight", "bias"):
                continue
            if muon and _muon_shape(len(tensor.shape), rules):
                kinds["muon"].append(name)
            elif "bias" in name:
                kinds["bias"].append(name)
            elif layer.kind.rsplit(".", 1)[-1] in norms or any(part in name for part in rules["norm_names"]):
                kinds["norm"].append(name)
            else:
                kinds["weight"].append(name)
    if not muon:
        return [PlannedGroup(kind, tuple(kinds[kind])) for kind in rules["order"]]
    boosted = _boosted(layers, rules)
    groups = []
    for label in rules["musgd_order"]:
        wanted = label.endswith("+")
        groups.append(PlannedGroup(label, tuple(name for name in kinds[label[:-1]] if boosted(name) == wanted)))
    return groups


def _muon_shape(dimensions: int, rules: dict[str, Any]) -> bool:
    return dimensions in (2, 4) if rules["musgd_muon_ndim"] == "2|4" else dimensions >= 2


def _boosted(layers: list[Layer], rules: dict[str, Any]) -> Callable[[str], bool]:
    """Which parameters MuSGD gives three times the learning rate: those of the classification branches."""
    rule: str = rules["musgd_boosted"]
    if rule.startswith("name matches "):
        pattern = re.compile(rule.removeprefix("name matches "))
        return lambda name: bool(pattern.search(name))
    blocks = next((layer for layer in layers if layer.name == "model"), None)
    head = f"model.{blocks.children[-1]}" if blocks and blocks.children else "model"
    branches = (f"{head}.cv3.", f"{head}.one2one_cv3.")
    return lambda name: name.startswith(branches) or "proto.semseg" in name or "SemanticSegment" in name


def auto_choices(version: Release) -> set[str]:
    """The optimizers a release may choose for ``optimizer: auto`` (empty where it knows no such thing)."""
    rules = _fold(facts()["auto"], version)
    return {rules[key][0].lower() for key in ("many", "few") if rules.get("auto") and key in rules}
