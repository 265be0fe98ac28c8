"""What each ultralytics release knows of its arguments: names, types, defaults, and which a resume takes anew.

The facts are in ``ultralytics.json``, read from the releases themselves; this module only looks them up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ckpt_tools.layouts.ultralytics import NEWEST, Release, facts, numbers, resume_rules

__all__ = [
    "Renamed",
    "accepted_spelling",
    "argument_releases",
    "default_arguments",
    "known_arguments",
    "read_in_training",
    "refused_arguments",
    "refused_value",
    "renamed",
    "taken_on_resume",
]

WHOLE_FLOATS: Release = (8, 4, 172)  # from here on 5.0 passes for a whole number


class Renamed(NamedTuple):
    """An argument a release no longer has: what it becomes (``None``: it is dropped), and since which release."""

    becomes: str | None
    since: str
    flag: bool = False  # whether it must be true or false


def known_arguments(version: Release) -> set[str]:
    """The names a release has in its defaults, and those it allows beside them."""
    version = version or NEWEST
    own = {name for name, entry in facts()["args"].items() if _there(entry, version)}
    return own | {name for name, entry in facts()["extra_allowed"].items() if numbers(entry["since"]) <= version}


def argument_releases(name: str) -> tuple[str, str | None] | None:
    """The first release with an argument, and the first without it again; ``None`` for a name none ever had."""
    entry = facts()["args"].get(name)
    return (entry["since"], entry.get("until")) if entry else None


def default_arguments(version: Release) -> dict[str, Any]:
    """The defaults of a release, as its ``cfg/default.yaml`` has them."""
    version = version or NEWEST
    return {name: _at(entry["default"], version) for name, entry in facts()["args"].items() if _there(entry, version)}


def renamed(name: str, version: Release) -> Renamed | None:
    """What a release makes of an argument it no longer has; ``None`` for one it has, or stops at."""
    entry = facts()["deprecated"].get(name)
    if entry is None or numbers(entry["since"]) > (version or NEWEST):
        return None
    return Renamed(entry["becomes"], entry["since"], "type" in entry)


def taken_on_resume(version: Release) -> set[str]:
    """The arguments for which a resume takes the caller's value; for all others the saved one wins."""
    rows = facts()["resume_overrides"]
    return {name for row in rows if numbers(row["since"]) <= (version or NEWEST) for name in row["add"]}


def read_in_training(name: str) -> bool:
    """Whether a training run reads the argument at all; those of predict, track and export are only stored."""
    return name not in facts()["not_in_training"]


def refused_value(name: str, value: Any, version: Release) -> str:
    """What a release wants instead of a value it stops at, in words; empty for a value it takes."""
    version = version or NEWEST
    entry = facts()["args"].get(name)
    if entry is None or not _there(entry, version) or resume_rules(version).get("bad_type_raises") is None:
        return ""
    odd = value is not None and not isinstance(value, (str, int, float, list, tuple, dict))  # a date, say
    if _accepted(value, entry, version) and not (odd and (_at(entry["type"], version) or "any") in TYPES):
        return ""
    least = _at(entry.get("min", []), version)
    wanted = WANTED.get(_at(entry["type"], version) or "any", "another value")
    return wanted if least is None else f"{wanted}, at least {least}"


def refused_arguments(args: dict[str, Any], version: Release) -> list[str]:
    """Saved arguments a release stops at, each with the reason: unknown names, and values of another type."""
    refused: list[str] = []
    version = version or NEWEST
    unknown_stops = resume_rules(version).get("unknown_args") == "SyntaxError"
    types_stop = resume_rules(version).get("bad_type_raises") is not None
    translated = {name for name, entry in facts()["deprecated"].items() if numbers(entry["since"]) <= version}
    extra = {name for name, entry in facts()["extra_allowed"].items() if numbers(entry["since"]) <= version}
    for name, value in args.items():
        entry = facts()["args"].get(name)
        if entry is None or not _there(entry, version):
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
    renamed = {old: entry["becomes"] for old, entry in facts()["deprecated"].items() if "type" not in entry}
    if renamed.get(name):
        yield renamed[name], value
    yield from ((old, value) for old, new in renamed.items() if new == name)
    if isinstance(value, float) and value.is_integer():
        yield name, int(value)
    if name == "multi_scale" and isinstance(value, bool):  # up to 8.3 on or off, meaning half the size more or less
        yield name, 0.5 if value else 0.0
    if name == "multi_scale" and not isinstance(value, bool) and isinstance(value, (int, float)):
        yield name, bool(value)


def _there(entry: dict[str, Any], version: Release) -> bool:
    """Whether a release has an argument."""
    until = entry.get("until")
    return numbers(entry["since"]) <= version and (until is None or version < numbers(until))


def _at(pairs: list[list[Any]], version: Release) -> Any:
    """The value of the last ``[release, value]`` pair that is not newer than ``version``."""
    return next((value for since, value in reversed(pairs) if numbers(since) <= version), None)


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
    if isinstance(value, (list, tuple)):  # for train, val and, which may be none, test
        parts = value[:2] if len(value) == 3 and value[2] == 0 else value
        return len(value) in (2, 3) and all(not isinstance(p, (list, tuple)) and _share_or_count(p) for p in parts)
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

# The same in words.
WANTED = {
    "float": "a number",
    "fraction": "a number from 0 to 1",
    "fraction>0": "a number above 0 and up to 1",
    "fraction|count|list": "a share above 0 and up to 1, a count above 1, or a list of them",
    "scale": "a number from 0 to 1, or two numbers",
    "int": "a whole number",
    "bool": "true or false",
    "str": "a text",
    "bool|str": "true, false or a text",
    "amp": "true, false, fp16, bf16 or fp32",
    "quantize": "8, 16, 32 or a name like int8, fp16, w8a16",
}
