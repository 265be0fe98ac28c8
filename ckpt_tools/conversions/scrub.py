"""What tells about the machine and its user taken out: folders, git origin, names of hosts and users, passwords."""

from __future__ import annotations

import re

from ckpt_tools.checks.names import few
from ckpt_tools.checks.portability import ABSOLUTE
from ckpt_tools.conversions.request import Conversion
from ckpt_tools.layouts import Part
from ckpt_tools.pickles import Call, is_mapping, pairs_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.cures.portable import path_objects
from ckpt_tools.plans.edits import graph, rename_keys
from ckpt_tools.plans.model import Outcome

__all__ = ["scrub"]

# Keys whose value names a machine, a person or an account, whatever it is.
PERSONAL = re.compile(
    r"^_*(host(_?name)?|node(_?name)?|machine|fqdn|ip(_?addr(ess)?)?|mac(_?addr(ess)?)?|user(_?name)?|login|author|owner|"
    r"e?-?mail|home|cwd|pwd|hub_?(model|api)?_?(key|id|url)|api_?key|token|password|secret|wandb_?(id|entity|run)|"
    r"entity|mlflow_?uri|tracking_?uri|master_addr|env(iron(ment)?)?|uname|platform_?node|slurm_.*)$",
    re.I,
)
GIT = re.compile(r"^(git(_.*)?|repo(sitory)?|remote|commit(_hash)?|branch|sha)$", re.I)
# Inside longer text: home folders, accounts and passwords in addresses, other absolute folders between quotes.
INSIDE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(https?|ssh|git|s3|ftp)://[^/\s@]+@"), r"\1://"),
    (re.compile(r"\b[\w.-]+@[\w-]+(\.[\w-]+)+:[\w./-]+"), "repository"),
    (re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+"), "mail"),
    (re.compile(r"(/home|/Users|/root|/data/home|/mnt/home)(/[^/\s'\",;:)]+)?"), "~"),
    (re.compile(r"[A-Za-z]:(\\\\?|/)Users(\\\\?|/)[^\\/\s'\",;:)]+"), "~"),
    (re.compile(r"(?<=['\"=])((/[\w.@+ -]+){2,}|[A-Za-z]:\\\\?[\w.@+ \\-]+)(?=['\"])"), "path"),
)
LONGEST = 1 << 20  # characters of a text looked into


def scrub(case: Case, request: Conversion) -> None:
    """Paths keep their last name, git and personal entries become ``None``; weights and numbers stay."""
    path_objects(case)
    case.settle()
    weights = _tensor_rooms(case.found.parts)
    found: dict[str, str] = {}
    for room in graph(case.root):
        if id(room) not in weights:
            _room(case, room, found)
    if not found:
        return
    case.draft.edited = True
    case.do("scrub", f"paths, git and personal entries taken out: {few(list(found), 20)}", loss=True, consent=True)
    part = case.part("args")
    if part is not None:
        case.record(part, Outcome.EDITED)
    if any(name in found for name in ("save_dir", "data")):
        case.advice.append("a resume writes and reads by the paths that were taken out: pass save_dir= and data= to it")


def _tensor_rooms(parts: list[Part]) -> set[int]:
    """The state dicts: their keys are names of tensors, not paths."""
    return {id(part.node) for part in parts if part.form == "state_dict"}


def _room(case: Case, room: Node, found: dict[str, str]) -> None:
    """Everything directly inside a mapping, list or object."""
    if is_mapping(room):
        _mapping(room, found)
    elif isinstance(room, list):
        for index, value in enumerate(room):
            room[index] = _clean(value, str(index), found)
    elif isinstance(room, Call) and isinstance(room.args, tuple) and not room.path.startswith(("torch.", "_codecs.")):
        room.args = tuple(_clean(value, room.path, found) for value in room.args)
        room.states = [_clean(state, room.path, found) for state in room.states] if room.states else room.states


def _mapping(room: Node, found: dict[str, str]) -> None:
    changed = {key: _entry(str(key), value, found) for key, value in pairs_of(room)}
    keys = {key: _text(key) for key in changed if isinstance(key, str) and ABSOLUTE.match(key)}
    for key, value in list(pairs_of(room)):
        if changed[key] is not value:
            _set(room, key, changed[key])
    if keys and len(set(keys.values())) == len(keys):
        rename_keys(room, keys)
        found.update(dict.fromkeys(keys.values(), ""))


def _set(room: Node, key: Node, value: Node) -> None:
    if isinstance(room, dict):
        room[key] = value
    elif room.pairs:
        room.pairs = [(k, value if k == key else v) for k, v in room.pairs]


def _entry(key: str, value: Node, found: dict[str, str]) -> Node:
    """A value as it may stay under its key."""
    if GIT.match(key) and (isinstance(value, str) or _only_texts(value)):
        emptied = {inner: None for inner, _ in pairs_of(value)} if is_mapping(value) else None
        if emptied is not None and all(inner is None for _, inner in pairs_of(value)):
            return value
        found[key] = ""
        return emptied
    if PERSONAL.match(key) and isinstance(value, str) and value:
        found[key] = ""
        return None
    return _clean(value, key, found)


def _only_texts(value: Node) -> bool:
    """Whether a node is a mapping of texts, as the git entries of trainers are."""
    return is_mapping(value) and all(isinstance(inner, (str, bool, type(None))) for _, inner in pairs_of(value))


def _clean(value: Node, key: str, found: dict[str, str]) -> Node:
    if isinstance(value, str) and len(value) <= LONGEST:
        cleaned = _text(value)
        if cleaned != value:
            found[key] = ""
        return cleaned
    if isinstance(value, tuple) and any(isinstance(item, (str, tuple)) for item in value):
        cleaned_items = tuple(_clean(item, key, found) for item in value)
        return cleaned_items if any(a is not b for a, b in zip(cleaned_items, value)) else value
    return value


def _text(value: str) -> str:
    """A path by its last name alone; other text without folders of a home, accounts and addresses."""
    if ABSOLUTE.match(value) and "\n" not in value and len(value) < 4096:
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    for pattern, instead in INSIDE:
        value = pattern.sub(instead, value)
    return value
