"""``ckpt prune``: why each file stays, what goes and what that frees; nothing goes without a yes."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckpt_tools.checks.names import counted
from ckpt_tools.cli.guard import NO, YES
from ckpt_tools.cli.plans import DryRun, Json, asked
from ckpt_tools.cli.render import bytes_text, command, paint, print_json, progress_bar, say, shown
from ckpt_tools.cli.units import BYTES, SECONDS, measured
from ckpt_tools.findings import CkptError

if TYPE_CHECKING:
    from ckpt_tools.verbs.prune import Entry, Pruning

__all__ = ["prune"]

COUNT = {"metavar": "N", "show_default": False}
DEFAULT_METRIC = "fitness"
COLOURS = {"keep": "green", "remove": "red", "strip": "yellow", "share": "yellow", "leave": "cyan"}


def prune(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Run folders, or folders of runs.", show_default=False)
    ],
    keep_last: Annotated[int | None, typer.Option(min=1, help="Keep the files of the last N epochs.", **COUNT)] = None,
    keep_best: Annotated[
        str | None,
        typer.Option(
            metavar="[METRIC:]N", help="Keep the N best by a metric, e.g. mAP50-95:2 (fitness).", show_default=False
        ),
    ] = None,
    keep_every: Annotated[
        int | None, typer.Option(min=1, help="Keep epochs (counted from 0) that N divides.", **COUNT)
    ] = None,
    keep_within: Annotated[
        str | None, typer.Option(metavar="TIME", help="Keep what was written in, e.g. 7d, 12h.", show_default=False)
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Let more go until all runs fit, e.g. 20G.", show_default=False),
    ] = None,
    strip_old: Annotated[
        bool, typer.Option("--strip-old", help="Strip what no rule keeps, instead of removing it.")
    ] = False,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Let identical files share their bytes (reflinks).")] = False,
    hardlink: Annotated[
        bool, typer.Option("--hardlink", help="Share them as names of one file; never last* or best*.")
    ] = False,
    trash: Annotated[bool, typer.Option("--trash", help="Into the trash instead of removing.")] = False,
    move_to: Annotated[
        str | None, typer.Option(metavar="DIR", help="Move below DIR instead of removing.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Carry the plan out without asking.")] = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> int:
    """Free disk space: keep what the rules name, never touch a run's last file that can be resumed."""
    from ckpt_tools.verbs.prune import Rules, plan_prune

    try:
        if trash and move_to is not None:
            raise CkptError("--trash and --move-to exclude each other; leave one of them out")
        rules = Rules(
            last=keep_last,
            best=_best(keep_best) if keep_best is not None else None,
            every=keep_every,
            within=measured(keep_within, SECONDS, "--keep-within", "7d, 12h, 30m") if keep_within else None,
            max_size=int(measured(max_size, BYTES, "--max-size", "20G, 500M")) if max_size else None,
            strip_old=strip_old,
            dedupe=dedupe or hardlink,
            hardlink=hardlink,
        )
        pruning = plan_prune([Path(os.path.expanduser(path)) for path in paths], rules)
    except CkptError as error:
        if json_:
            print_json("prune", {"runs": [], "error": str(error)})
        raise
    if not json_:
        _print_plan(pruning)
    question = f"Change or remove {counted(len(pruning.changes), 'file')}?"
    agreed = bool(pruning.changes) and not dry_run and (yes or asked(question, json_))
    if agreed:
        place = Path(os.path.realpath(os.path.expanduser(move_to))) if move_to is not None else None
        with progress_bar(pruning.freed, "prune") as progress:
            pruning.apply(trash=trash, move_to=place, progress=progress)
    failed = [entry for entry in pruning.changes if entry.error]
    if json_:
        print_json("prune", _document(pruning, agreed))
    else:
        _print_end(pruning, agreed, yes or dry_run)
    for entry in failed:
        print(f"ckpt: {command(f'{entry.path}: {entry.error}')}; it stays", file=sys.stderr)
    return NO if failed else YES


def _best(text: str) -> tuple[str, int]:
    """``2`` or ``METRIC:2``."""
    metric, _, count = text.rpartition(":")
    if not count.isdecimal() or int(count) < 1:
        raise CkptError(f"--keep-best {text}: write how many, e.g. 2 or mAP50-95:2")
    return metric or DEFAULT_METRIC, int(count)


def _document(pruning: Pruning, agreed: bool) -> dict[str, object]:
    runs = [{"folder": str(run.folder), "files": [entry.as_json() for entry in run.files]} for run in pruning.runs]
    freed = sum(entry.frees for entry in pruning.changes if entry.done or not agreed)
    return {
        "runs": runs,
        "removed": sum(entry.done for entry in pruning.removals),
        "stripped": sum(entry.done for entry in pruning.changes if entry.action == "strip"),
        "freed": freed,
        "dry_run": not agreed,
    }


def _print_plan(pruning: Pruning) -> None:
    for run in pruning.runs:
        say(f"{shown(run.folder)}:")
        for entry in run.files:
            action = paint(f"{entry.action:<6}", COLOURS[entry.action])
            say(f"  {action} {_described(entry)}: {shown('; '.join(entry.reasons))}")


def _described(entry: Entry) -> str:
    epoch = f"epoch {entry.epoch}, " if entry.epoch is not None else ""
    return f"{shown(entry.path.name)} ({epoch}{bytes_text(entry.size)})"


def _print_end(pruning: Pruning, agreed: bool, told: bool) -> None:
    if not pruning.changes:
        say("nothing to do: the rules keep everything there is")
        return
    if agreed:
        done = [entry for entry in pruning.changes if entry.done]
        say(f"freed {bytes_text(sum(entry.frees for entry in done))}: {counted(len(done), 'file')}")
        say(f"next: {command(f'ckpt latest {shlex.quote(str(pruning.runs[0].folder))}')}")
        return
    say(f"would free {bytes_text(pruning.freed)}: {counted(len(pruning.changes), 'file')}; nothing was changed")
    say("next: the same command without --dry-run" if told else "next: the same command with --yes")
