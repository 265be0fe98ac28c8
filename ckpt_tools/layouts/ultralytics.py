"""What each ultralytics release expects of a checkpoint it resumes: argument names and types, parameter groups.

The facts are in ``ultralytics.json``, read from the releases themselves; this module only looks them up.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ckpt_tools.tensors.modules import Layer

__all__ = [
    "PlannedGroup",
    "accepted_spelling",
    "auto_choices",
    "group_rules",
    "plan_groups",
    "refused_arguments",
    "resume_rules",
    "structures",
]

Release = tuple[int, ...]
NEWEST: Release = (999,)
WHOLE_FLOATS: Release = (8, 4, 172)  # from here on 5.0 passes for a whole number


@functools.cache
def _facts() -> dict[str, Any]:
    return json.loads(files("ckpt_tools.layouts").joinpath("ultralytics.json").read_text("utf-8"))  # type: ignore[no-any-return]


@functools.cache
def _numbers(text: str) -> Release:
    return tuple(int(part) for part in text.split("."))


def _fold(entries: Iterable[dict[str, Any]], version: Release) -> dict[str, Any]:
    """The rules in force at ``version``: later entries overrule earlier ones; an unknown version is the newest."""
    rules: dict[str, Any] = {}
    for entry in entries:
        if _numbers(entry["since"]) <= (version or NEWEST):
            rules.update(entry)
    return rules


def group_rules(version: Release) -> dict[str, Any]:
    """How ``build_optimizer`` of a release makes its groups (``order``, ``musgd_order``, ``tags``, ``names`` …)."""
    return _fold(_facts()["groups"], version)


def resume_rules(version: Release) -> dict[str, Any]:
    """What a release does on resume (``unknown_args``, ``resume_true_unresumable``, ``required_keys`` …)."""
    return _fold(_facts()["resume"], version)


def structures(version: Release) -> set[str]:
    """The ways of building a model that only some releases have, by name, as far as this release has them."""
    rows = _facts()["structure"]
    here = version or NEWEST
    return {row["name"] for row in rows if _numbers(row["since"]) <= here < _numbers(row["until"])}


@dataclass(frozen=True)
class PlannedGroup:
    """A group the trainer would make: its label (``weight``, ``norm``, ``bias``, ``muon+`` …) and parameter names."""

    label: str
    names: tuple[str, ...]


def plan_groups(layers: list[Layer], rules: dict[str, Any], muon: bool) -> list[PlannedGroup]:
    """The groups a release makes of a model: every layer's own parameters, in order, by kind.

    Source: ``BaseTrainer.build_optimizer`` in ``engine/trainer.py`` of the releases named in ``ultralytics.json``.
    """
    norms = set(_facts()["norm_classes"])
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


def refused_arguments(args: dict[str, Any], version: Release) -> list[str]:
    """Saved arguments a release stops at, each with the reason: unknown names, and values of another type."""
    facts, refused = _facts(), []
    version = version or NEWEST
    unknown_stops = resume_rules(version).get("unknown_args") == "SyntaxError"
    types_stop = resume_rules(version).get("bad_type_raises") is not None
    translated = {name for name, entry in facts["deprecated"].items() if _numbers(entry["since"]) <= version}
    extra = {name for name, entry in facts["extra_allowed"].items() if _numbers(entry["since"]) <= version}
    for name, value in args.items():
        entry = facts["args"].get(name)
        here = entry is not None and _numbers(entry["since"]) <= version and not _gone(entry, version)
        if not here:
            if unknown_stops and name not in translated and name not in extra and name != "session":
                refused.append(f"{name} (unknown)")
        elif types_stop and not _accepted(value, entry, version):
            short = isinstance(value, (int, float, type(None))) or (isinstance(value, str) and len(value) < 40)
            shown = f"={value!r}" if short else ""
            refused.append(f"{name}{shown} (value)")
    return refused


def accepted_spelling(name: str, value: Any, version: Release) -> tuple[str, Any] | None:
    """A refused argument as a release has it, under its older or newer name or with its value in another type."""
    for spelling in _spellings(name, value):
        if not refused_arguments(dict([spelling]), version):
            return spelling
    return None


def _spellings(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    renamed = {old: entry["becomes"] for old, entry in _facts()["deprecated"].items() if "type" not in entry}
    if renamed.get(name):
        yield renamed[name], value
    yield from ((old, value) for old, new in renamed.items() if new == name)
    if isinstance(value, float) and value.is_integer():
        yield name, int(value)
    if name == "multi_scale" and isinstance(value, bool):  # up to 8.3 on or off, meaning half the size more or less
        yield name, 0.5 if value else 0.0
    if name == "multi_scale" and not isinstance(value, bool) and isinstance(value, (int, float)):
        yield name, bool(value)


def _gone(entry: dict[str, Any], version: Release) -> bool:
    return entry.get("until") is not None and _numbers(entry["until"]) <= version


def _at(pairs: list[list[Any]], version: Release) -> Any:
    """The value of the last ``[release, value]`` pair that is not newer than ``version``."""
    return next((value for since, value in reversed(pairs) if _numbers(since) <= version), None)


def _accepted(value: Any, entry: dict[str, Any], version: Release) -> bool:
    if value is None:
        return bool(_at(entry["none_ok_from"], version) if "none_ok_from" in entry else entry["none_ok"])
    kind = _at(entry["type"], version) or "any"
    check = TYPES.get(kind)
    if check is None or not isinstance(value, (str, int, float, bool, list, tuple, dict)):
        return True
    if kind == "int" and isinstance(value, float) and version < WHOLE_FLOATS:
        return False
    least = _at(entry.get("min", []), version)
    small = least is not None and _number(value) and value < least
    return check(value) and not small


def _number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _fraction(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


def _share_or_count(value: Any) -> bool:
    """A share of the data, a number of images, or one of either for each split."""
    if isinstance(value, (list, tuple)):
        return len(value) in (2, 3) and all(_share_or_count(part) for part in value)
    return not isinstance(value, bool) and _number(value) and (0 < value <= 1 or (isinstance(value, int) and value > 1))


def _scale(value: Any) -> bool:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    return all(_number(part) for part in value) if pair else _fraction(value)


QUANTIZED = frozenset("8 16 32 int8 fp16 fp32 w8a8 w16a16 w32a32 w8a16 w8a32".split())

# How ``cfg.check_cfg`` tests the kinds of values; what is not listed is accepted here.
TYPES: dict[str, Callable[[Any], bool]] = {
    "float": _number,
    "fraction": _fraction,
    "fraction>0": lambda value: _fraction(value) and value > 0,
    "fraction|count|list": _share_or_count,
    "scale": _scale,
    "int": lambda value: isinstance(value, int) or (isinstance(value, float) and value.is_integer()),
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "bool|str": lambda value: isinstance(value, (bool, str)),
    "amp": lambda value: isinstance(value, bool) or str(value).lower() in ("fp16", "bf16", "fp32"),
    "quantize": lambda value: not isinstance(value, bool) and str(value).lower() in QUANTIZED,
}


def auto_choices(version: Release) -> set[str]:
    """The optimizers a release may choose for ``optimizer: auto`` (empty where it knows no such thing)."""
    rules = _fold(_facts()["auto"], version)
    return {rules[key][0].lower() for key in ("many", "few") if rules.get("auto") and key in rules}
