"""What tells about the machine and its user taken out: folders, git origin, names of hosts and users, passwords."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from ckpt_tools.checks.names import few
from ckpt_tools.checks.portability import ABSOLUTE
from ckpt_tools.conversions.names import class_lists
from ckpt_tools.conversions.request import Conversion
from ckpt_tools.pickles import Call, SetNode, is_mapping, pairs_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.cures.portable import path_objects
from ckpt_tools.plans.draft import FRESH_ROOT
from ckpt_tools.plans.edits import graph, rename_keys, set_item
from ckpt_tools.plans.model import Outcome
from ckpt_tools.sidefiles import json_of
from ckpt_tools.source import BytesSource, JoinedSource
from ckpt_tools.tensors.modules import attributes_of, is_module

__all__ = ["cleaned", "left_in", "scrub"]

# Keys whose text names a person, a machine or an account, whatever it is; and those it may be about.
PERSONAL = re.compile(
    r"_*((.*_)?(passw(or)?d|secret|api_?key|access_?key|private_?key|credentials?)(_.*)?|(host|node|user|login|log|computer)"
    r"_?names?|hosts?|users?|login|e?-?mails?|authors?|fqdn|uname|ip|ip_?addr(ess)?|mac_?addr(ess)?|master_addr|"
    r"platform_?node|wandb_?(id|entity|run.*)|ssh_\w+|slurm_\w+|hub_?(model|api)?_?(key|id|url))",
    re.I,
)
PERHAPS = re.compile(r"_*((.*_)?token(_.*)?|env|environ(ment)?|node|machine|entity|owner|\w*_uri|repo(sitory)?)", re.I)
LIKELY = re.compile(r"@|^\d+(\.\d+){3}|^[\w-]+(\.[\w-]+){2,}$|^(?=\S*\d)(?=\S*[A-Za-z])[\w-]{16,}$")
GIT = re.compile(r"git(_.*)?", re.I)
OF_GIT = {"origin", "branch", "commit", "commit_hash", "remote", "root", "sha", "message", "repo"}
SURE_OF_GIT, FEW_OF_GIT = OF_GIT - {"branch", "remote", "root", "message", "repo"}, 2  # one of these, so many in all
END = r"(?=[/\\\s'\",;:)\]}]|$)"
# Inside longer text, in this order.
INSIDE: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\b([a-z][a-z0-9+.-]*)://[^/\s@'\"]+@", re.I), r"\1://"),
    (re.compile(r"\bfile://(/[^\s'\"]+)"), lambda found: "file:" + _last(found[1])),
    (re.compile(r"\b[\w.-]+@[\w.-]+:[\w.~-]*[/.][\w./~-]+"), "repository"),
    (re.compile(r"\b(https?|ssh|git)://[^\s'\"]+\.git\b"), "repository"),
    (re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+"), "mail"),
    (re.compile(r"(?<![\w/.:])(/home|/Users|/data/home|/mnt/home)(/[^/\s'\",;:)]+|" + END + r")"), "~"),
    (re.compile(r"(?<![\w/.:])/root" + END), "~"),
    (re.compile(r"\b[A-Za-z]:[\\/]+(Users|Documents and Settings)([\\/]+[^\\/\s'\",;:)]+)?"), "~"),
    (re.compile(r"(?<![\w/~])~[A-Za-z_][\w-]*"), "~"),
    (re.compile(r"(--?(?:password|passwd|token|secret|api[-_]?key))[= ]+\S+", re.I), r"\1"),
    (re.compile(r"(?<![\w:/.~<-])(/[\w.@+%-]+){2,}/?"), lambda found: _last(found[0])),
    (
        re.compile(r"\b[A-Za-z]:[\\/]+[^\s'\",;:)]+|(?<![\w\\])\\\\[\w.-]+\\[^\s'\",;:)]+"),
        lambda found: _last(found[0]),
    ),
)
HOME = re.compile(r"(/home|/Users|/data/home|/mnt/home)(/[^/]+)?/?|/root/?|[A-Za-z]:[\\/]+Users([\\/]+[^\\/]+)?[\\/]?")
LONGEST_PATH, LONGEST_TEXT = 4096, 64 << 20  # characters
TELLING, LONGEST_SEARCHED = 6, 1 << 16  # characters of a text, bytes of a storage that is looked into
TEXT_CALLS = ("_codecs.encode", "__builtin__.bytearray", "builtins.bytearray")  # bytes, before protocols 3 and 5
OWN_CODE = ("torch.", "numpy.", "_codecs.", "collections.")


def scrub(case: Case, request: Conversion) -> None:
    """Paths keep their last name, git and personal entries become ``None``; weights and numbers stay."""
    path_objects(case)
    case.settle()
    work = _Scrub(case)
    work.graph(case.root)
    if work.emptied_texts:  # they may stand in other texts, too
        work.graph(case.root)
    if case.beside is not None:
        case.beside = work.plain("", case.beside)
    container = case.draft.checkpoint.container
    extra = case.draft.foreign_members()
    if container is not None and (container.root != FRESH_ROOT or extra):
        work.found["name of the archive"] = None
        work.found.update(dict.fromkeys(cleaned(name) for name in extra))
    if work.found:
        case.draft.bare = case.draft.edited = True
        case.removed |= work.removed
        told = few(list(work.found), 20)
        case.do("scrub", f"paths, git and personal entries taken out: {told}", loss=True, consent=True)
        if any(name in work.found for name in ("save_dir", "data")):
            case.advice.append("a resume writes and reads by the paths taken out: pass save_dir= and data= to it")


def cleaned(text: str) -> str:
    """A path by its last name alone; other text without folders of a home, accounts and addresses."""
    if ABSOLUTE.match(text) and "\n" not in text and len(text) < LONGEST_PATH and " -" not in text:
        return _last(text)
    for pattern, instead in INSIDE:
        text = pattern.sub(instead, text)
    return text


def _last(path: str) -> str:
    """The last name of a path; of a home folder, which is its user's, none."""
    return "~" if HOME.fullmatch(path) else re.split(r"[/\\]+", path.rstrip("/\\"))[-1]


def left_in(case: Case, archive: JoinedSource, sidecars: Iterator[bytes]) -> str:
    """A text that was taken out and is in the result all the same, in a place that can't be looked into."""
    texts = [
        text for text in case.removed if len(text) >= TELLING and (re.search(r"[/\\@]", text) or LIKELY.search(text))
    ]
    sought = {text: (text.encode("utf-8", "surrogatepass"), json.dumps(text)[1:-1].encode()) for text in texts}
    small = (
        s.source for s in archive.stretches if isinstance(s.source, BytesSource) or s.source.size < LONGEST_SEARCHED
    )
    for data in (*sidecars, *(source.read(0, source.size) for source in small)):
        for text, spellings in sought.items():
            if any(spelling in data for spelling in spellings):
                return text
    return ""


class _Scrub:
    """``found`` names what was cleaned, ``removed`` holds the texts that were taken out."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.found: dict[str, None] = {}
        self.removed: set[str] = set()
        self.weights = {id(part.node) for part in case.found.parts if part.form == "state_dict"}
        self.attributes = set(_attribute_rooms(case.root))
        self.emptied_texts: set[str] = set()
        self.classes = {id(value) for _, _, value in class_lists(case)}

    def graph(self, root: Node) -> None:
        """Everything directly inside every mapping, list, set and object."""
        for room in graph(root):
            if id(room) in self.classes:
                continue
            if is_mapping(room):
                self.mapping(room)
            elif isinstance(room, list):
                room[:] = [self.value("", value) for value in room]
            elif isinstance(room, SetNode):
                room.items = [self.value("", value) for value in room.items]
            elif isinstance(room, Call) and (room.path in TEXT_CALLS or not room.path.startswith(OWN_CODE)):
                room.args = self.value("", room.args)
                room.states = [self.value("", state) for state in room.states] if room.states else room.states

    def mapping(self, room: Node) -> None:
        """A mapping's values, and its keys where they are no names of tensors."""
        pairs = [(k, v) for k, v in pairs_of(room)]
        git = {key for key, value in pairs if isinstance(key, str) and key in OF_GIT and isinstance(value, str)}
        git = git if len(git) >= FEW_OF_GIT and git & SURE_OF_GIT else set()
        personal = id(room) not in self.attributes
        for key, value in pairs:
            if id(value) in self.classes:
                continue
            empty = personal and (self.is_personal(key, value) or key in git)
            new = self.emptied(str(key), value) if empty else self.value(str(key), value)
            if new is not value:
                set_item(room, key, new)
        if id(room) not in self.weights and id(room) not in self.attributes:
            self.keys(room)

    def keys(self, room: Node) -> None:
        """Paths among the keys; names that would become one are numbered."""
        names: dict[Node, Node] = {}
        taken = {key for key, _ in pairs_of(room)}
        for key, _ in pairs_of(room):
            new = self.value(str(key) if isinstance(key, str) else "", key) if isinstance(key, (str, tuple)) else key
            if new != key:
                number, first = 2, new
                while new in taken:
                    new, number = (f"{first}-{number}" if isinstance(first, str) else (*first, number)), number + 1
                taken.add(new)
                names[key] = new
                self._moved(key, new)
        if names:
            rename_keys(room, names)

    def _moved(self, key: Node, new: Node) -> None:
        """A part under a key that was cleaned is still there."""
        for part in self.case.found.parts:
            if isinstance(key, str) and part.path.startswith(key):
                self.case.record(part, Outcome.KEPT)

    def is_personal(self, key: Node, value: Node) -> bool:
        """Whether a key says that the texts under it are about somebody."""
        if not isinstance(key, str):
            return False
        if GIT.fullmatch(key):
            return isinstance(value, str) or _only_texts(value)
        texts = list(_texts(value))
        return bool(texts) and bool(
            PERSONAL.fullmatch(key) or (PERHAPS.fullmatch(key) and any(LIKELY.search(text) for text in texts))
        )

    def emptied(self, key: str, value: Node) -> Node:
        """Nothing, in the form of what was there; a record keeps its keys."""
        texts = list(_texts(value))
        if not texts:
            return value
        self.found[cleaned(key)] = None
        self.removed.update(texts)
        self.emptied_texts |= {text for text in texts if len(text) >= TELLING and LIKELY.search(text)}
        if is_mapping(value):
            return dict.fromkeys(inner for inner, _ in pairs_of(value))
        return type(value)() if isinstance(value, (list, tuple)) else None

    def value(self, key: str, value: Node) -> Node:
        """A value that is no room of its own, as it may stay."""
        if isinstance(value, str):
            return self.text(key, value) if len(value) <= LONGEST_TEXT else value
        if isinstance(value, (bytes, bytearray)) and len(value) <= LONGEST_TEXT:
            return self.raw(key, value)
        if isinstance(value, tuple):
            items = tuple(self.value(key, item) for item in value)
            return items if any(a is not b for a, b in zip(items, value)) else value
        return value

    def text(self, key: str, value: str) -> str:
        new = self.json(value) if value[:1] in ("{", "[") else cleaned(value)
        for text in self.emptied_texts:
            new = new.replace(text, "…")
        if new == value:
            return value
        self.found[cleaned(key) or "texts"] = None
        self.removed.add(value)
        self.removed.update(found[0] for pattern, _ in INSIDE for found in pattern.finditer(value))
        return new

    def json(self, value: str) -> str:
        """A text that is JSON, cleaned from within."""
        try:
            held = json_of(value)
        except ValueError:
            return cleaned(value)
        new = self.plain("", held)
        return value if new == held else json.dumps(new)

    def plain(self, key: str, value: Any) -> Any:
        """The same for data that came from JSON."""
        if isinstance(value, dict):
            return {
                cleaned(inner): self.emptied(inner, held) if self.is_personal(inner, held) else self.plain(inner, held)
                for inner, held in value.items()
            }
        if isinstance(value, list):
            return [self.plain(key, held) for held in value]
        return self.value(key, value)

    def raw(self, key: str, value: bytes | bytearray) -> Node:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return value
        new = self.text(key, text)
        return value if new is text else type(value)(new.encode())


def _attribute_rooms(root: Node) -> Iterator[int]:
    """The attributes of pickled modules, and the mappings of their tensors and layers."""
    for node in graph(root):
        if is_module(node):
            state = getattr(node, "state", None)
            yield id(state)
            attributes = attributes_of(node)
            yield from (id(attributes.get(key)) for key in ("_parameters", "_buffers", "_modules"))


def _only_texts(value: Node) -> bool:
    """Whether a node is a mapping of texts, as the git entries of trainers are."""
    return is_mapping(value) and all(isinstance(inner, (str, bool, type(None))) for _, inner in pairs_of(value))


def _texts(value: Node) -> Iterator[str]:
    """The texts a value is made of; none where it is anything else."""
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value).decode("utf-8", "replace")
    held = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
    held += [inner for _, inner in pairs_of(value)] if _only_texts(value) else []
    if all(isinstance(text, (str, bool, type(None))) for text in held):
        yield from (text for text in held if isinstance(text, str) and text)
