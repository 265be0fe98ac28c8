"""``ckpt watch``: events of runs as they happen, a line each, until it is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckpt_tools.cli.guard import YES
from ckpt_tools.cli.hook import Hook
from ckpt_tools.cli.render import COLOURS, command, complain, json_text, paint, say
from ckpt_tools.cli.units import SECONDS, measured
from ckpt_tools.findings import CkptError

if TYPE_CHECKING:
    from ckpt_tools.verbs.watch import Event

__all__ = ["watch"]

ENDINGS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # a closed terminal; the last is Ctrl-Break on Windows
FACTS = ("event", "severity", "path", "run", "message")  # what a hook finds in its environment


def watch(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR...", help="Run folders, or folders of runs; also such to come.", show_default=False
        ),
    ],
    keep: Annotated[int, typer.Option(min=0, metavar="N", help="Keep copies of the last N good ones.")] = 2,
    into: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Keep them below DIR, not hidden in each run.", show_default=False),
    ] = None,
    stall: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Say so when a run has not saved for, e.g. 30m, 2h.", show_default=False),
    ] = None,
    settle: Annotated[str, typer.Option(metavar="TIME", help="A file is read when unchanged for so long.")] = "1s",
    on_event: Annotated[
        str | None,
        typer.Option(
            metavar="CMD", help="Run it for each event: JSON on stdin, CKPT_EVENT, CKPT_PATH …", show_default=False
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document per line.")] = False,
) -> int:
    """Verify each checkpoint as soon as it is written, and keep copies of the last good ones; Ctrl-C ends it."""
    from ckpt_tools.verbs.watch import Watcher, WatchOptions

    for folder in folders:
        if os.path.exists(os.path.expanduser(folder)) and not os.path.isdir(os.path.expanduser(folder)):
            raise CkptError(f"{folder} is no folder; name a run folder, or one with runs in it")
    options = WatchOptions(
        keep=keep,
        into=_named(into) if into is not None else None,
        settle=measured(settle, SECONDS, "--settle", "1s, 0.5s, 1m"),
        stall=_above_zero(measured(stall, SECONDS, "--stall", "30m, 2h")) if stall is not None else None,
    )
    watcher = Watcher(folders, options)
    with _ending(watcher.stop), contextlib.ExitStack() as stack:
        hook = Hook(on_event) if on_event is not None else None
        complained = False
        if hook is not None:
            stack.callback(hook.close)
        for event in stack.enter_context(contextlib.closing(watcher.run())):
            now = datetime.now(timezone.utc)
            content = {**event.as_json(), "time": now.isoformat(timespec="milliseconds")}
            line = json_text("watch", content)
            if hook is not None:
                hook.send(line, {name: str(content[name] or "") for name in FACTS})
            try:
                if not say(line if json_ else _line(event, now), at_once=True):
                    break
            except OSError as error:  # a full disk must not silence the hook, nor the next alert
                if not complained:
                    with contextlib.suppress(OSError):
                        complain(f"events can't be printed: {error.strerror}; free some space")
                complained = True
    return YES


def _named(into: str) -> Path:
    if not into:
        raise CkptError("--into names no folder; is a variable of your shell empty?")
    return Path(into)


def _above_zero(seconds: float) -> float:
    if not seconds:
        raise CkptError("--stall 0 would say it at once; write it as e.g. 30m, 2h")
    return seconds


def _line(event: Event, now: datetime) -> str:
    severity = paint(f"{event.severity!s:<7}", COLOURS[str(event.severity)])
    place = event.path or event.run
    about = f" {place}" if place is not None else ""
    name = paint(event.name, bold=True)
    return f"{now.astimezone():%H:%M:%S} {severity} {name}{command(f'{about}: {event.message}')}"


@contextlib.contextmanager
def _ending(stop: threading.Event) -> Iterator[None]:
    """Let the signals that end a process set ``stop``; a second one ends it at once."""

    def end(_: int, __: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before: dict[int, Any] = {}
    for number in (getattr(signal, name) for name in ENDINGS if hasattr(signal, name)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell leaves it for what runs in the background
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
