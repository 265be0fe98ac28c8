"""Shells a command is pasted into: real ones with stand-ins for the programs, and the rules of cmd and PowerShell."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PROGRAMS = ("ckpt", "yolo", "python", "pip", "cp", "copy")
BEGINNING = re.compile(rf"(?:{'|'.join(PROGRAMS)}) ")
STAND_IN = """#!/bin/sh
printf '%s\\0' "$#" "${0##*/}" "$@" >> "$CALLS"
"""


class RanError(AssertionError):
    """A part of a name would be run or replaced."""


def commands_in(line: str) -> Iterator[str]:
    """The commands a line shows: behind ``next:``, behind the ``>`` of a remedy, and between backticks."""
    for mark in ("next: ", "> "):
        before, found, after = line.partition(mark)
        if found and not before.strip(" ") and BEGINNING.match(after):
            yield after
            return
    _, found, after = line.rpartition("; next: ")
    if found and BEGINNING.match(after):
        yield after
        line = line[: -len(after)]
    at = 0
    while (at := line.find("`", at)) >= 0:
        at += 1
        if BEGINNING.match(line, at):
            text = line[at : _end(line, at)]
            yield text
            at += len(text) + 1


def _end(line: str, at: int) -> int:
    """Where a command between backticks ends: at the first one that is not quoted."""
    quote = ""
    while at < len(line):
        if line[at] == "\\" and quote != "'":
            at += 1
        elif line[at] == quote:
            quote = ""
        elif not quote and line[at] in "'\"":
            quote = line[at]
        elif not quote and line[at] == "`":
            return at
        at += 1
    raise AssertionError(f"no end of a command: {line}")


class Posix:
    """A real shell, in which the programs a command may begin with only note how they were called."""

    def __init__(self, shell: str, folder: Path) -> None:
        self.shell, self.calls = shell, folder / "calls"
        self.programs = folder / "programs"
        self.programs.mkdir(parents=True)
        for name in PROGRAMS:
            (self.programs / name).write_text(STAND_IN)
            (self.programs / name).chmod(0o755)

    def run(self, lines: Sequence[str], room: Path) -> list[list[str]]:
        """Paste lines; how the programs were called. Raises where anything else happened."""
        self.calls.write_bytes(b"")
        before = listing(room)
        environment = {"PATH": f"{self.programs}:/usr/bin:/bin", "HOME": str(room), "CALLS": str(self.calls), "X": "x"}
        script = "".join(f"{line}\n" for line in lines)
        done = subprocess.run(
            [self.shell],
            input=os.fsencode(script),
            cwd=room,
            env={**environment, "LANG": "C.UTF-8"},
            capture_output=True,
            timeout=60,
            check=False,
        )
        if listing(room) != before or done.stderr or done.stdout or done.returncode:
            raise RanError(f"{script}: {done.stdout + done.stderr!r}")
        return list(self._noted())

    def _noted(self) -> Iterator[list[str]]:
        words = iter(self.calls.read_bytes().split(b"\0")[:-1])
        for count in words:
            yield [os.fsdecode(next(words)) for _ in range(int(count) + 1)]


def listing(room: Path) -> list[str]:
    return sorted(str(path) for place in (room, room.parent) for path in place.iterdir())


# --- Windows --------------------------------------------------------------------------------------

DEFINED = {"PATH": "C:\\Windows", "X": "x", "HOME": "C:\\"}


def cmd(line: str, defined: Mapping[str, str] = DEFINED) -> list[list[str]]:
    """The argument lists of the programs cmd would start for a typed line."""
    names = "|".join(defined)
    if re.search(rf"%({names})(:[^%]*)?%", line, re.I):
        raise RanError(f"a variable is replaced: {line}")
    if re.search(r"[\r\n\x1a]", line):
        raise RanError(f"a line ends: {line!r}")
    made, word, quoted, at = [], "", False, 0
    while at < len(line):
        letter = line[at]
        if letter == '"':
            quoted = not quoted
        if quoted or letter not in "^&|<>()":
            word += letter
        elif letter == "^":
            at += 1
            word += line[at : at + 1]
        elif line.startswith(" && ", at - 1):
            made.append(word)
            word, at = "", at + 1
        else:
            raise RanError(f"{letter} is not quoted: {line}")
        at += 1
    return [arguments(text) for text in (*made, word)]


def arguments(line: str) -> list[str]:
    """What a program gets of its command line (``CommandLineToArgvW``, and the C runtime's)."""
    found: list[str] = []
    word: str | None = None
    quoted, at = False, 0
    while at < len(line):
        slashes = len(line[at:]) - len(line[at:].lstrip("\\"))
        behind = line[at + slashes : at + slashes + 1]
        if slashes:
            word = (word or "") + "\\" * (slashes // 2 if behind == '"' else slashes)
            at += slashes
            if behind == '"' and slashes % 2:
                word, at = word + '"', at + 1
        elif behind == '"':
            word = word or ""
            if quoted and line[at + 1 : at + 2] == '"':
                word, at = word + '"', at + 1
            else:
                quoted = not quoted
            at += 1
        elif behind in " \t" and not quoted:
            found += [word] if word is not None else []
            word, at = None, at + 1
        else:
            word, at = (word or "") + behind, at + 1
    assert not quoted, f"a quote is left open: {line}"
    return [*found, word] if word is not None else found


DOUBLE, SINGLE, DASHES = '"\u201c\u201d\u201e', "'\u2018\u2019\u201a\u201b", "-\u2013\u2014\u2015"


def powershell(line: str) -> list[list[str]]:
    """The argument lists of the programs PowerShell would start for a typed line; it writes command lines itself."""
    calls: list[list[str]] = [[]]
    at = 0
    while at < len(line):
        if line[at] == " ":
            at += 1
        elif line.startswith("&& ", at):
            calls.append([])
            at += 2
        else:
            word, at = _powershell_word(line, at)
            calls[-1].append(word)
    spaced = [" ".join(f'"{word}"' if " " in word or not word else word for word in call) for call in calls]
    return [arguments(text) for text in spaced]


def _powershell_word(line: str, at: int) -> tuple[str, int]:
    begun, word, quote = at, "", ""
    while at < len(line):
        letter = line[at]
        if quote != SINGLE and letter == "$" and re.match(r"\$[\w({:$^?]", line[at:]):
            raise RanError(f"a variable is replaced: {line}")
        if quote and letter in quote:
            if line[at + 1 : at + 2] and line[at + 1] in quote:
                word, at = word + letter, at + 1
            else:
                quote = ""
                if line[begun] in DOUBLE + SINGLE and line[at + 1 : at + 2] not in ("", " "):
                    raise RanError(f"a word is cut in two: {line}")
        elif quote != SINGLE and letter == "`":
            raise RanError(f"a backtick is lost: {line}")
        elif not quote and letter in DOUBLE + SINGLE:
            quote = DOUBLE if letter in DOUBLE else SINGLE
        elif not quote and (letter in ";|&(){}<>,\r\n" or (at == begun and letter in "@#~")):
            raise RanError(f"{letter} is not quoted: {line}")
        elif not quote and letter == " ":
            break
        else:
            word += letter
        at += 1
    assert not quote, f"a quote is left open: {line}"
    if line[begun] in DASHES and (word == "--%" or line[begun] != "-" or re.match(r"-[^-]*[.:]", word)):
        raise RanError(f"{word} is taken for an option of PowerShell's: {line}")
    return word, at
