"""Commands to be pasted into a shell, with names from outside in them.

A template is a command with places for names (``ckpt verify {path}``). Each name is quoted, as one word with what
stands around its place (``model={path}``), for the shells it may be typed in: on POSIX systems sh, bash, dash, zsh and
fish; on Windows cmd and PowerShell, by the one way of quoting both understand. Where a name can't be typed, or no
quoting protects it, there is no command but a sentence that says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence

from ckpt_tools.findings.texts import unprintable

__all__ = ["POSIX", "WINDOWS", "UntypableError", "command", "copying", "filled", "following", "hint", "remarked"]

POSIX, WINDOWS = "posix", "windows"
HERE = WINDOWS if os.name == "nt" else POSIX
LONGEST_COMMAND = 8191  # characters cmd takes; the others take more
PLACE = re.compile(r"\{(\w+)\}")
WITH_PLACE = re.compile(r" ?(\S*\{\w+\}\S*)")

Word = str | os.PathLike[str]  # a path, or any other word, which is left as it is whatever it begins with


class UntypableError(ValueError):
    """What can't be part of a command. The message says so, without the name: it stands where a command would."""

    def __init__(self, why: str, *, file: bool = True) -> None:
        super().__init__(f"no command can be given: {why}{', rename the file first' if file else ''}")


class _UnprotectedError(ValueError):
    """A word no quotes protect."""


def _posix(word: str) -> str:
    """Plain words as they are, others in single quotes; backslashes stand outside of them, where all shells agree."""
    if re.fullmatch(r"[\w@%+:,./-][\w@%+=:,./-]*", word, re.ASCII):
        return word
    return "'" + re.sub(r"[\\']", lambda found: rf"'\{found[0]}'", word) + "'"


def _windows(word: str) -> str:
    r"""Plain words as they are, others in double quotes, in which most characters mean nothing to cmd and PowerShell.

    Nothing keeps cmd from replacing ``%NAME%`` in them, nor PowerShell from reading ``$``, a backtick and the curly
    quotes; and what a program makes of a backslash before the closing quote depends on the shell.
    """
    if re.fullmatch(r"[\w.:\\/+-][\w.:\\/+=-]*", word, re.ASCII):
        return word
    if re.search(r"[%$`\"\u201c-\u201e]|\\\Z", word):
        raise _UnprotectedError
    return f'"{word}"'


QUOTING: Mapping[str, Callable[[str], str]] = {POSIX: _posix, WINDOWS: _windows}
SEPARATOR = {POSIX: "/", WINDOWS: "\\"}
COPY = {POSIX: "cp", WINDOWS: "copy"}


def filled(template: str, shell: str | None = None, /, **names: Word | Sequence[Word]) -> str:
    """A template with names in its places, ready to be pasted; several names for one place become several words.

    ``shell`` is the family it is for, by default that of this system. Raises ``UntypableError``.
    """
    shell = shell or HERE

    def fill(found: re.Match[str]) -> str:
        word = found[1]
        space = found[0].removesuffix(word)
        alone = PLACE.fullmatch(word)
        value = names[alone[1]] if alone else ""
        if not isinstance(value, (str, os.PathLike)):
            typed = [_quoted(_spelled(one, shell, first=True), one, shell) for one in value]
            return space + " ".join(typed) if typed else ""
        held: list[Word] = []

        def put(place: re.Match[str]) -> str:
            one = names[place[1]]
            assert isinstance(one, (str, os.PathLike))
            held.append(one)
            return _spelled(one, shell, first=place.start() == 0)

        return space + _quoted(PLACE.sub(put, word), held[-1], shell)

    made = WITH_PLACE.sub(fill, template)
    if len(made) > LONGEST_COMMAND:
        raise UntypableError("it would be too long to be typed")
    return made


def command(*words: Word, shell: str | None = None) -> str:
    """A command of these words, ready to be pasted. Raises ``UntypableError``."""
    return filled("{words}", shell, words=words)


def copying(source: Word, place: Word, shell: str | None = None) -> str:
    """The command that copies a file. Raises ``UntypableError``."""
    shell = shell or HERE
    if shell == WINDOWS and re.search(r"[\[\]]", f"{source}{place}"):
        raise UntypableError("PowerShell takes brackets in the name for a pattern")
    return command(COPY[shell], source, place, shell=shell)


def following(template: str, shell: str | None = None, /, **names: Word | Sequence[Word]) -> str:
    """A template with names in its places; for a name that can't be typed the sentence that says so."""
    try:
        return filled(template, shell, **names)
    except UntypableError as error:
        return str(error)


def hint(template: str, sentence: str, shell: str | None = None, /, **names: Word | Sequence[Word]) -> str:
    """A sentence with a command in the place of its ``{}``: ``{} says more``; else why there is none."""
    try:
        return sentence.replace("{}", f"`{filled(template, shell, **names)}`")
    except UntypableError as error:
        return str(error)


def remarked(text: str, remark: str, shell: str | None = None) -> str:
    """A command with a remark behind it, where shells know remarks; cmd does not."""
    return text if (shell or HERE) == WINDOWS else f"{text}   # {remark}"


def _spelled(value: Word, shell: str, *, first: bool) -> str:
    """A name as it is typed: a path that looks like an option or a home folder begins with the current folder."""
    text = os.fspath(value)
    if not isinstance(value, str) and (text.startswith("~") or (first and text.startswith("-"))):
        return f".{SEPARATOR[shell]}{text}"
    return text


def _quoted(word: str, value: Word, shell: str) -> str:
    """A word quoted for a shell; ``value`` is the name in it."""
    file = not isinstance(value, str)
    what = "the name" if file else "a value in it"
    if unprintable(word):
        raise UntypableError(f"{what} cannot be typed", file=file)
    try:
        return QUOTING[shell](word)
    except _UnprotectedError:
        raise UntypableError(f"cmd and PowerShell have no quotes that protect {what}", file=file) from None
