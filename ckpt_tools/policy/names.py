"""The tier of a name: known, mentioned, unknown or dangerous. What is not listed is not known."""

from __future__ import annotations

import functools
import re
import sys
from enum import Enum

from ckpt_tools.policy.known import (
    CLASS_TREES,
    DATA_TREES,
    EFFECTS_OF_IMPORT,
    EXECUTABLES,
    KNOWN,
    MODEL_TREES,
    OLD_STDLIB,
    OPENERS,
    OPENING_NAMES,
    PATTERNS,
    WELL_KNOWN,
)

__all__ = ["Tier", "callable_tree", "in_tree", "is_class", "of_model", "package_of", "rule_of", "tier_of", "well_known"]

STDLIB = frozenset(sys.stdlib_module_names) | OLD_STDLIB
IDENTIFIER = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def _below(modules: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("(" + "|".join(map(re.escape, modules)) + r")(\.|$)")


TREES, DATA, MODELS = _below(CLASS_TREES), _below(DATA_TREES), _below(MODEL_TREES)
OPENING, OPENING_CLASS = re.compile("|".join(OPENERS)), re.compile(OPENING_NAMES)
RULED = tuple((re.compile(module), re.compile(name), rule) for module, name, rule in PATTERNS)


class Tier(str, Enum):
    """How far a name is trusted; ``mentioned`` is a name of the standard library or a well-known package that loading
    imports and does not call."""

    KNOWN = "known"
    MENTIONED = "mentioned"
    UNKNOWN = "unknown"
    DANGEROUS = "dangerous"


def package_of(module: str) -> str:
    """The top-level package a module belongs to: what loading would import."""
    return module.split(".", 1)[0]


def well_known(module: str) -> bool:
    """Whether a module is the standard library's or a well-known package's."""
    return package_of(module) in STDLIB or package_of(module) in WELL_KNOWN


def is_class(name: str) -> bool:
    """Whether a name is spelt like a class: ``Conv2d``, ``_BatchNorm``, ``C2f``."""
    return name.lstrip("_")[:1].isupper()


@functools.lru_cache(maxsize=4096)
def in_tree(module: str, name: str) -> bool:
    """Whether it is a class of a known trainer, by the modules such classes lie in."""
    return is_class(name) and "." not in name and bool(TREES.match(module)) and not _opens(module, name)


def _opens(module: str, name: str) -> bool:
    """Whether a class opens files, or starts something, when it is made, gets its state or is thrown away."""
    by_name = name in EXECUTABLES or OPENING_CLASS.fullmatch(name)
    return bool(by_name or OPENING.fullmatch(module)) and bool(TREES.match(module))


def callable_tree(module: str) -> bool:
    """Whether an instance of a class of that tree can be called: a layer, a transform, a metric."""
    return not DATA.match(module)


def of_model(module: str) -> bool:
    """Whether a class of that module is a layer or a model."""
    return bool(MODELS.match(module))


@functools.lru_cache(maxsize=4096)
def rule_of(module: str, name: str) -> str:
    """The rule on calls of a name, a function of ``rules.py``; empty for a name nobody knows."""
    rule = KNOWN.get((module, name))
    if rule is not None:
        return rule
    for modules, names, rule in RULED:
        if modules.fullmatch(module) and names.fullmatch(name):
            return rule
    return "layer" if in_tree(module, name) else ""


@functools.lru_cache(maxsize=4096)
def tier_of(module: str, name: str, called: bool) -> tuple[Tier, str]:
    """The tier of a name and, where it is not known, the reason. ``called`` counts any use that runs it."""
    if rule_of(module, name) or package_of(module) == "__torch__":  # the latter are TorchScript's own type names
        return Tier.KNOWN, ""
    if not IDENTIFIER.fullmatch(module) or not IDENTIFIER.fullmatch(name):
        return Tier.DANGEROUS, "it is no name Python could have written"
    if "__main__" in module.split(".")[1:] or module in EFFECTS_OF_IMPORT:
        return Tier.DANGEROUS, "importing that module runs a program"
    if "." in name:
        found = _dotted(module, name, called)
        if found is not None:
            return found
    package = package_of(module)
    if package in STDLIB and package != "__main__":
        if called:
            return Tier.DANGEROUS, "it belongs to the standard library and is no plain data"
        return Tier.MENTIONED, "it is named, and not called"
    if called and _opens(module, name):
        return Tier.DANGEROUS, "such a class opens files, or starts something, when it is made or gets its state"
    if package in WELL_KNOWN:
        if not called:
            return Tier.MENTIONED, "it is named, and not called"
        if not is_class(name):
            return Tier.DANGEROUS, f"it calls a function of {package} that rebuilds no data"
    return Tier.UNKNOWN, f"loading would import {package}"


def _dotted(module: str, name: str, called: bool) -> tuple[Tier, str] | None:
    """A name in a name: a nested class, or a method kept as an attribute; anything else reaches into a module."""
    owner, _, inside = name.rpartition(".")
    if not called and rule_of(module, owner) in ("layer", "bare") and not inside.startswith("__"):
        return Tier.KNOWN, ""
    foreign = not well_known(module) and not TREES.match(module)
    if all(map(is_class, name.split("."))) and (foreign or not called):
        return None
    return Tier.DANGEROUS, "the dotted name reaches into another object"
