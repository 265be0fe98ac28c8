"""Small files that lie beside a checkpoint or are named with it: yaml, JSON, csv. All of them are read here.

They come from anywhere, so that they are read as a checkpoint is: regular files only, never more than so many bytes,
for so long, and what is made of them stays small. A pipe or a device is refused before it could block.
"""

from __future__ import annotations

import codecs
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckpt_tools.findings import CkptError, trouble
from ckpt_tools.source import blocks, open_source

if TYPE_CHECKING:
    import yaml

__all__ = [
    "LONGEST_TEXT",
    "TooMuchError",
    "first_bytes",
    "json_of",
    "read_json",
    "read_small",
    "read_table",
    "read_yaml",
    "yaml_of",
]

LONGEST_TEXT = 4 << 20  # bytes of a yaml or JSON file
LONGEST_TABLE = 32 << 20  # bytes of a csv file
PIECE = 1 << 16  # bytes that are read at a time
LONGEST_ROW = 1 << 20  # characters of one row of it
LONGEST_WAIT = 20.0  # seconds for one file
MOST_VALUES, DEEPEST = 200_000, 40  # values in a yaml, aliases unfolded, and rooms within rooms
DEEPEST_JSON = 200  # a ledger holds those of the files before it
MOST_DIRECTIVES = 100  # lines that begin with % in a yaml: the parser compares each with all others
LONGEST_NUMBER = 300  # characters of an integer in a yaml


class TooMuchError(ValueError):
    """A document holds more values than a file of settings does, or has them too deep inside each other."""


def read_small(path: Path, most: int = LONGEST_TEXT) -> bytes:
    """All bytes of a small file; raises ``CkptError`` for what is none, is larger, or can't be read in time."""
    return b"".join(_pieces(path, most))


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file of any size; raises ``CkptError`` where it can't be read."""
    with open_source(path) as source:
        try:
            return source.read(0, count)
        except OSError as error:
            raise _unread(path, error) from error


def _pieces(path: Path, most: int) -> Iterator[bytes]:
    end = time.monotonic() + LONGEST_WAIT
    with open_source(path) as source:
        if source.size > most:
            raise CkptError(
                f"{path} is too large to be read ({source.size} bytes, the most are {most}); check the file"
            )
        try:
            for piece in blocks(source, 0, source.size, memoryview(bytearray(PIECE))):
                yield bytes(piece)
                _in_time(path, end)
        except OSError as error:
            raise _unread(path, error) from error


def _unread(path: Path, error: OSError) -> CkptError:
    return CkptError(f"{path} can't be read: {trouble(error)}")


def _in_time(path: Path, end: float) -> None:
    if time.monotonic() > end:
        raise CkptError(f"{path} can't be read within {LONGEST_WAIT:.0f} seconds; check the file and its disk")


# --- JSON -----------------------------------------------------------------------------------------


def json_of(text: str | bytes, most: int = LONGEST_TEXT) -> Any:
    """What a JSON text holds; raises ``ValueError`` for one that is no JSON, too long, or too deep to be walked."""
    if len(text) > most:
        raise TooMuchError(f"{len(text)} characters, the most are {most}")
    try:
        content = json.loads(text)
    except RecursionError:
        raise TooMuchError("too deep") from None
    waiting = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST_JSON:
            raise TooMuchError("too deep")
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting.extend((inner, depth + 1) for inner in inside if isinstance(inner, (dict, list)))
    return content


def read_json(path: Path, most: int = LONGEST_TEXT) -> Any:
    """What a JSON file of at most so many bytes holds; raises ``CkptError`` where it can't be read."""
    try:
        return json_of(read_small(path, most), most)
    except ValueError as error:
        raise CkptError(f"{path} can't be read as JSON: {error}; check the file") from error


# --- yaml -----------------------------------------------------------------------------------------


def yaml_of(text: str) -> Any:
    """What a yaml text holds (JSON is yaml); raises ``ValueError`` for one that is no yaml, or holds too much.

    Its size is known from the parser's events before anything is made of it: an alias counts for all it stands for.
    """
    import yaml

    try:
        if len(re.findall(r"^%", text, re.M)) > MOST_DIRECTIVES:
            raise TooMuchError("too many directives (lines that begin with %)")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where PyYAML was built with it
        _measure(yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=_loader(loader))  # derived from the safe loader
    # what the constructors of ill-tagged scalars raise (`!!bool x`, `!!int ""`, `!!timestamp x`), too
    except (yaml.YAMLError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def read_yaml(path: Path, errors: str = "strict") -> Any:
    """What a yaml file holds; raises ``CkptError`` where it can't be read.

    ``errors="replace"`` reads also what is no UTF-8, as trainers do.
    """
    try:
        return yaml_of(read_small(path).decode("utf-8-sig", errors))
    except TooMuchError as error:
        raise CkptError(f"{path} holds {error} for a file of settings; check the file") from error
    except ValueError as error:
        raise CkptError(f"{path} can't be read as YAML: {error}; check the file") from error


def _measure(events: Iterator[yaml.Event]) -> None:
    """Raise ``TooMuchError`` where a document, with its aliases unfolded, has too many values or too deep ones."""
    import yaml

    end = time.monotonic() + LONGEST_WAIT
    known: dict[str, tuple[int, int]] = {}  # values and depth of what an anchor names
    rooms: list[list[Any]] = [["", 0, 0]]  # of every open room: its anchor, values so far, depth so far
    for event in events:
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            rooms.append([event.anchor, 1, 0])
            if event.anchor:
                known[event.anchor] = (MOST_VALUES, DEEPEST)  # whoever holds itself
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            anchor, count, depth = rooms.pop()
            if anchor:
                known[anchor] = (count, depth)
            _add(rooms[-1], count, depth + 1)
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                known[event.anchor] = (1, 0)
            _add(rooms[-1], 1, 1)
        elif isinstance(event, yaml.AliasEvent):
            count, depth = known.get(event.anchor or "", (1, 0))
            _add(rooms[-1], count, depth + 1)
        if len(rooms) - 2 + rooms[-1][2] > DEEPEST or sum(room[1] for room in rooms) >= MOST_VALUES:
            raise TooMuchError("too many values, or too deep ones")
        if time.monotonic() > end:
            raise TooMuchError("too much to be read in time")


def _add(room: list[Any], count: int, depth: int) -> None:
    room[1], room[2] = room[1] + count, max(room[2], depth)


def _loader(base: type[Any]) -> type[Any]:
    """The safe loader, which takes no integer of thousands of digits."""

    class Loader(base):  # type: ignore[misc]
        def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
            if len(node.value) > LONGEST_NUMBER:
                raise TooMuchError(f"an integer too long ({len(node.value)} characters)")
            return super().construct_yaml_int(node)  # type: ignore[no-any-return]

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    return Loader


# --- csv ------------------------------------------------------------------------------------------


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a csv file by its headings, one after the other; raises ``CkptError`` where it can't be read."""
    import csv

    used = 0  # characters of the row that is being read, which may go over many lines

    def lines() -> Iterator[str]:
        nonlocal used
        for line in _lines(path):
            used += len(line)
            if used > LONGEST_ROW:
                raise CkptError(f"{path} has a row of more than {LONGEST_ROW} characters; check the file")
            yield line

    names: list[str] = []
    try:
        for row in csv.reader(lines()):
            used = 0
            if names:
                yield {name: value for name, value in zip(names, row) if name}
            else:
                names = [name.strip() for name in row]
    except csv.Error as error:
        raise CkptError(f"{path} can't be read as CSV: {error}; check the file") from error


def _lines(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest = ""
    try:
        for piece in _pieces(path, LONGEST_TABLE):
            *whole, rest = (rest + decoder.decode(piece)).split("\n")
            if len(rest) > LONGEST_ROW:
                raise CkptError(f"{path} has a row of more than {LONGEST_ROW} characters; check the file")
            yield from (f"{line}\n" for line in whole)
        yield from filter(None, (rest + decoder.decode(b"", True),))
    except UnicodeDecodeError as error:
        raise CkptError(f"{path} is no text: {error}; check the file") from error
