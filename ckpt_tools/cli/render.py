"""Text for people: colour on terminals, plain lines in pipes, one JSON document with ``--json``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from ckpt_tools.findings import escape, plain_json

__all__ = [
    "COLOURS",
    "bytes_text",
    "command",
    "discard_output",
    "json_text",
    "paint",
    "print_json",
    "progress_bar",
    "say",
    "shown",
    "table",
]

COLOURS = {
    "resumable": "green",
    "finished": "cyan",
    "weights": "cyan",
    "incomplete": "yellow",
    "damaged": "red",
    "foreign": "magenta",
    "unsafe": "red",
    "error": "red",
    "warning": "yellow",
    "note": "blue",
}
LONGEST_COMMAND = 16_384  # characters; several times the longest path there is
SHOW_BAR_FROM = 256 << 20  # bytes; less is done before a bar could be read


def paint(text: str, colour: str | None = None, *, bold: bool = False) -> str:
    """Colour for a terminal that wants it (``NO_COLOR`` and pipes don't)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return typer.style(text, fg=colour, bold=bold or None)


def say(text: str = "", *, at_once: bool = False) -> bool:
    """A line of result on stdout; ``at_once``: it is not held back in a buffer.

    A reader that went away loses the rest, not the exit code; whether there still is one, as far as that is known.
    """
    try:
        print(text, flush=at_once)
    except BrokenPipeError:
        discard_output()
        return False
    return True


def shown(value: object) -> str:
    """A value from a file, safe for a terminal."""
    return escape(value)


def discard_output() -> None:
    """Send what is still to be printed nowhere, so that Python's own flush at exit stays quiet, too."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def command(text: str) -> str:
    """A command to type that holds a path from outside, safe for a terminal however long it is."""
    return escape(text, LONGEST_COMMAND)


def print_json(command: str, content: dict[str, Any]) -> None:
    """The one JSON document of a command."""
    say(json_text(command, content, indent=2))


def json_text(command: str, content: dict[str, Any], indent: int | None = None) -> str:
    """A JSON document, on one line without ``indent``; numbers JSON has no word for (NaN, infinity) become text."""
    document = {"schema": f"ckpt-tools/{command}/1", **plain_json(content)}
    return json.dumps(document, indent=indent, ensure_ascii=True, allow_nan=False, default=str)


def table(columns: list[str], rows: list[list[str]], right: set[int]) -> None:
    """A table: aligned text, as wide as its content, so that it can be piped into other tools."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for index, row in enumerate([columns, *rows]):
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths))
        ]
        say(paint("  " + "  ".join(cells).rstrip(), bold=index == 0))


def bytes_text(count: int) -> str:
    """``30.4 MB``; decimal units, as file managers show them."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


@contextmanager
def progress_bar(total: int, label: str) -> Iterator[Any]:
    """A progress bar on stderr for long work on a terminal; yields a function that takes bytes done, or ``None``."""
    if total < SHOW_BAR_FROM or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.advance(task, done)
