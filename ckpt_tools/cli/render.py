"""Text for people: colour on terminals, plain lines in pipes, one JSON document with ``--json``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from ckpt_tools.findings import LONGEST_MESSAGE, escape, plain_json

__all__ = [
    "COLOURS",
    "bytes_text",
    "command",
    "complain",
    "discard_output",
    "json_text",
    "paint",
    "print_json",
    "print_path",
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
    """A line that holds paths from outside, safe for a terminal and long enough for commands in it to stay whole."""
    return escape(text, LONGEST_MESSAGE)


def complain(text: str) -> None:
    """A line about what went wrong, on stderr, safe for a terminal."""
    print(f"ckpt: {command(text)}", file=sys.stderr)


def print_path(path: Path) -> None:
    """A path alone on stdout, for another program: byte for byte as the system has it; on a terminal as it is shown."""
    raw = None if sys.stdout.isatty() or os.name == "nt" else getattr(sys.stdout, "buffer", None)
    if raw is None:
        say(command(str(path)) if sys.stdout.isatty() else str(path))
        return
    try:
        sys.stdout.flush()
        raw.write(os.fsencode(path) + b"\n")
    except BrokenPipeError:
        discard_output()


def print_json(command: str, content: dict[str, Any]) -> None:
    """The one JSON document of a command."""
    say(json_text(command, content, indent=2))


def json_text(command: str, content: dict[str, Any], indent: int | None = None) -> str:
    """A JSON document, on one line without ``indent``; numbers JSON has no word for (NaN, infinity) become text."""
    document = {"schema": f"ckpt-tools/{command}/1", **plain_json(content)}
    return json.dumps(document, indent=indent, allow_nan=False, default=_as_text)


def _as_text(value: object) -> Any:
    return plain_json(str(value))


def table(columns: list[str], rows: list[list[str]], right: set[int]) -> None:
    """A table: aligned text, as wide as its content, so that it can be piped into other tools."""
    lines = [[shown(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for index, row in enumerate(lines):
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

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(shown(label), total=total)
        yield lambda done: progress.advance(task, done)
