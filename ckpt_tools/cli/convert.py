"""``ckpt convert``: the plan of one file in full, many files a line each; results beside, in a folder, or in place."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckpt_tools.checkpoint import CHECKPOINT_NAMES, SAFETENSORS, split_name
from ckpt_tools.checks.names import counted
from ckpt_tools.cli.guard import BUG, NO, USAGE, YES, bug_text, worst
from ckpt_tools.cli.paths import expand
from ckpt_tools.cli.plans import (
    WORD,
    AcceptLoss,
    DryRun,
    Force,
    How,
    InPlace,
    Json,
    Output,
    carry_out,
    file_size,
    print_plan,
    print_refusal,
    print_result,
    waits,
)
from ckpt_tools.cli.pool import each, workers_for
from ckpt_tools.cli.render import COLOURS, command, paint, print_json, progress_bar, say, shown
from ckpt_tools.findings import CkptError

if TYPE_CHECKING:
    from ckpt_tools.conversions import Conversion
    from ckpt_tools.plans import Plan

__all__ = ["convert"]

DTYPE = {"metavar": "DTYPE", "show_default": False}
PAIR = {"metavar": "OLD=NEW", "show_default": False}


def convert(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Checkpoints, folders (searched below) or patterns.", show_default=False
        ),
    ],
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="Move everything to cpu, cuda:N, mps, xpu:N or npu:N.", show_default=False),
    ] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="Move one device, e.g. cuda:1=cuda:0.", **PAIR)
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Cast the weights to float32, float16 or bfloat16.", **DTYPE)
    ] = None,
    optimizer_dtype: Annotated[str | None, typer.Option(help="Cast the optimizer's state.", **DTYPE)] = None,
    strip: Annotated[
        bool, typer.Option("--strip", help="Leave what the trainer's own strip leaves at the end of a run.")
    ] = False,
    state_dict: Annotated[
        bool, typer.Option("--state-dict", help="Leave the weights alone, for weights_only=True.")
    ] = False,
    weights: Annotated[
        str | None, typer.Option(metavar="ema|model", help="Which ones, where both are there.", show_default=False)
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Write as zip, legacy or safetensors.", show_default=False)
    ] = None,
    scrub: Annotated[bool, typer.Option("--scrub", help="Take out paths, git, host and user names.")] = False,
    portable: Annotated[
        bool, typer.Option("--portable", help="Into forms every system, numpy and trainer version can read.")
    ] = False,
    args_as_dict: Annotated[
        bool, typer.Option("--args-as-dict", help="Turn Namespaces into dicts, also where a script may mind.")
    ] = False,
    prefix: Annotated[
        str | None,
        typer.Option(metavar="NAME|none", help="Begin names of weights with NAME., or none.", show_default=False),
    ] = None,
    rename_module: Annotated[
        list[str] | None, typer.Option(help="Classes of package OLD come from NEW.", **PAIR)
    ] = None,
    rename_class: Annotated[
        list[str] | None, typer.Option(help="Name a class anew, e.g. 3=truck, wherever names are kept.", **PAIR)
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Trainer it is for, e.g. ultralytics==8.4.190.", show_default=False)
    ] = None,
    output: Output = None,
    out_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write every file below DIR.", show_default=False)
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Files at once; 0: one per processor.")] = 1,
    in_place: InPlace = False,
    force: Force = False,
    accept_loss: AcceptLoss = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> int:
    """Move checkpoints between devices, precisions, platforms, versions and formats, without executing them."""
    asked = {"device": device, "map": map_, "dtype": dtype, "optimizer_dtype": optimizer_dtype, "strip": strip,
             "state_dict": state_dict, "weights": weights, "to": to, "scrub": scrub, "portable": portable,
             "args_as_dict": args_as_dict, "prefix": prefix, "modules": rename_module, "classes": rename_class,
             "target": target}  # fmt: skip
    how = How(output, in_place, force, accept_loss, dry_run, json_)
    try:
        request = _request(asked)
        jobs_, many = _jobs(paths, request, how, out_dir)
    except CkptError as error:
        if json_:
            print_json("convert", {"files": [], "error": str(error)})
        raise
    done: list[_Done] = []
    try:
        done.extend(_run(jobs_, request, how, jobs, many))
    except CkptError as error:
        if not many:
            raise
        done += [_Done(job.file, error=str(error)) for job in jobs_[len(done) :]]
        print(f"ckpt: {command(str(error))}", file=sys.stderr)
    finally:  # also where the user interrupts: what is done is told
        if json_ and done:
            print_json("convert", {"files": [one.as_json() for one in done]})
        elif many:
            _print_summary(done)
    return worst(one.code(how) for one in done)


# --- what is to be done ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One file, and where its result goes; ``None``: beside it, under a name of its own. ``below``: to --out-dir."""

    file: str
    output: str | None
    below: bool = False


def _request(asked: dict[str, Any]) -> Conversion:
    """What was asked for; raises ``CkptError`` for words nobody knows."""
    from ckpt_tools.conversions import Conversion
    from ckpt_tools.conversions.request import renaming
    from ckpt_tools.verbs.verify import parse_target

    def pairs(key: str, option: str) -> dict[str, str]:
        return dict(renaming(text, option) for text in asked.pop(key) or ())

    target = asked.pop("target")
    return Conversion(
        devices=pairs("map", "--map"),
        modules=pairs("modules", "--rename-module"),
        classes=pairs("classes", "--rename-class"),
        target=parse_target(target) if target else None,
        **asked,
    )


def _jobs(paths: list[str], request: Conversion, how: How, out_dir: str | None) -> tuple[list[_Job], bool]:
    """Every file with its place, and whether they are many; raises ``CkptError`` where places are not to be had."""
    places = [
        name for name, value in (("-o", how.output), ("--out-dir", out_dir), ("--in-place", how.in_place)) if value
    ]
    if len(places) > 1:
        raise CkptError(f"{' and '.join(places)} exclude each other; leave one of them out")
    if not (request.asked or how.output):
        raise CkptError("nothing to convert was asked for; `ckpt convert --help` lists what there is")
    names = (*CHECKPOINT_NAMES, SAFETENSORS) if request.to in ("zip", "legacy") else CHECKPOINT_NAMES
    files, many = expand(paths, names)
    if out_dir is not None:
        return _below(Path(os.path.expanduser(out_dir)), files, paths, request), many
    if many and not how.in_place:
        raise CkptError(
            "several files need a place to go: name a folder with --out-dir, or replace them with --in-place"
        )
    if how.in_place:
        real = {os.path.realpath(file): file for file in reversed(files)}  # a file under two names is one
        return [_Job(file, str(path)) for path, file in reversed(real.items())], many
    return [_Job(file, os.path.expanduser(how.output) if how.output else None) for file in files], many


def _below(folder: Path, files: list[str], paths: list[str], request: Conversion) -> list[_Job]:
    """Files with their places below a folder, laid out as they lie below what was named."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise CkptError(f"--out-dir {folder} is a file; name a folder")
    inside = Path(os.path.realpath(folder))
    named = [os.path.abspath(os.path.expanduser(path)) for path in paths]
    files = [f for f in files if os.path.abspath(f) in named or inside not in Path(os.path.realpath(f)).parents]
    if not files:
        raise CkptError(f"every file lies in {folder} already; name another folder, or use --in-place")
    tops = [path for path in named if os.path.isdir(path)]
    tops += [parent for file in files if not _under(parent := os.path.dirname(os.path.abspath(file)), tops)]
    try:
        top = os.path.commonpath(tops)
    except ValueError:
        raise CkptError("the files lie on several drives; convert those of each drive by themselves") from None
    jobs: dict[str, _Job] = {}
    for file in files:
        place = _suffixed(folder / os.path.relpath(os.path.abspath(file), top), request)
        key = os.path.normcase(os.path.realpath(place))
        if key in jobs:
            raise CkptError(f"{jobs[key].file} and {file} would both become {place}; convert them one by one")
        if os.path.realpath(place) == os.path.realpath(file):
            raise CkptError(f"{file} lies in {folder} already; name another folder, or use --in-place")
        jobs[key] = _Job(file, str(place), below=True)
    return list(jobs.values())


def _under(path: str, tops: Iterable[str]) -> bool:
    return any(path == top or path.startswith(top.rstrip(os.sep) + os.sep) for top in tops)


def _suffixed(place: Path, request: Conversion) -> Path:
    """The place with the suffix of the format that is to be written."""
    if request.to == "safetensors":
        return place.with_name(split_name(place.name)[0].removesuffix(SAFETENSORS) + SAFETENSORS)
    turned = request.to is not None and place.suffix.lower() == SAFETENSORS
    return place.with_suffix(".pt") if turned else place


# --- doing it -------------------------------------------------------------------------------------


@dataclass
class _Done:
    """What became of one file: its plan, or why there is none."""

    file: str
    plan: Plan | None = None
    ready: bool = False  # there was something to write
    error: str = ""
    bug: bool = False

    def code(self, how: How) -> int:
        if self.plan is None or self.error:
            return BUG if self.bug else USAGE
        if self.plan.refused is not None:
            return NO
        return NO if self.ready and waits(self.plan, how) else YES

    def as_json(self) -> dict[str, Any]:
        entry = self.plan.as_json() if self.plan is not None else {"file": self.file, "written": False}
        return {**entry, "error": self.error} if self.error else entry


def _run(jobs: list[_Job], request: Conversion, how: How, workers: int, many: bool) -> Iterator[_Done]:
    """What became of each file, in their order; printed as it comes."""
    if not many:
        yield _one(jobs[0], request, how, alone=True)
        return
    work = functools.partial(_one, request=request, how=how)
    several = workers_for(workers, len(jobs)) > 1
    outcomes = each(work, jobs, workers, largest_chunk=1) if several else map(work, jobs)
    sizes = [file_size(Path(job.file)) for job in jobs]
    with progress_bar(sum(sizes), f"{len(jobs)} files") as progress:
        for size, one in zip(sizes, outcomes):
            if not how.json_:
                _print_line(one, how)
            if progress is not None:
                progress(size)
            yield one


def _one(job: _Job, request: Conversion, how: How, alone: bool = False) -> _Done:
    """Plan and write one file; whatever goes wrong with it is in the outcome, and costs the others nothing."""
    from ckpt_tools.verbs.convert import plan_convert

    done, tell = _Done(job.file), alone and not how.json_
    try:
        with progress_bar(file_size(Path(job.file)) if alone else 0, os.path.basename(job.file)) as progress:
            planned = plan_convert(job.file, request, job.output, progress=progress)
        with planned:
            done.plan = planned.plan
            if tell:
                print_plan(planned.plan)
            done.ready = carry_out(planned, how, alone=alone, make_folder=job.below)
        if tell:
            _print_end(planned.plan, how, done.ready)
    except CkptError as error:
        if tell:
            raise
        done.error = str(error)
    except Exception as error:
        if tell or os.environ.get("CKPT_DEBUG"):
            raise
        done.error, done.bug = bug_text(error), True
    return done


# --- saying it ------------------------------------------------------------------------------------


def _print_end(plan: Plan, how: How, ready: bool) -> None:
    for line in plan.advice:
        say(f"  hint: {shown(line)}")
    if plan.refused is not None and plan.refused != WORD:
        print_refusal(plan, "converted")
    elif ready:
        print_result(plan, how, _following(plan))
    else:
        say("nothing to do: it is as asked for")


def _following(plan: Plan) -> str:
    output = shlex.quote(plan.output)
    if plan.format == "safetensors":
        return f"ckpt convert {output} --to zip   # the way back; load it with safetensors.torch.load_file"
    return f"ckpt verify {output}"


def _word(one: _Done, how: How) -> tuple[str, str]:
    """What became of a file in one word, and its colour."""
    plan = one.plan
    if one.error or plan is None:
        return "failed", "red"
    if plan.refused is not None:
        return "refused", "yellow"
    if not one.ready:
        return "unchanged", "cyan"
    if how.dry_run:
        return "planned", "cyan"
    return ("converted", "green") if plan.steps else ("copied", "cyan")


def _print_line(one: _Done, how: How) -> None:
    if one.error:
        print(f"ckpt: {command(one.error if one.file in one.error else f'{one.file}: {one.error}')}", file=sys.stderr)
        return
    plan = one.plan
    assert plan is not None
    word, colour = _word(one, how)
    if plan.refused is not None:
        tail = f": {command(plan.refused)}"
    elif one.ready:
        tail = f" → {shown(plan.output)}: {paint(str(plan.expected), COLOURS[str(plan.expected)])}"
    else:
        tail = f": {paint(str(plan.verdict), COLOURS[str(plan.verdict)])}"
    say(f"{paint(f'{word:<9}', colour, bold=True)} {shown(one.file)}{tail}")
    for line in plan.advice:
        say(f"          hint: {shown(line)}")


def _print_summary(done: list[_Done]) -> None:
    how = How()
    counts = Counter(_word(one, how)[0] for one in done)
    say(f"{counted(len(done), 'file')}: {', '.join(f'{count} {word}' for word, count in counts.items())}")
