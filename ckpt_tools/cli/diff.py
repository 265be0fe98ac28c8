"""``ckpt diff``: what differs, what it means for the training that follows, and the command that does it."""

from __future__ import annotations

import difflib
import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckpt_tools.checks.names import few, shape_text
from ckpt_tools.cli.guard import NO, YES
from ckpt_tools.cli.render import COLOURS, command, complain, paint, print_json, progress_bar, say, shown, table
from ckpt_tools.findings import CkptError
from ckpt_tools.findings.commands import following

if TYPE_CHECKING:
    from ckpt_tools.differences.model import Difference, Meaning
    from ckpt_tools.differences.tensors import PartComparison
    from ckpt_tools.tensors.compare import Distance
    from ckpt_tools.verbs.diff import Comparison

__all__ = ["diff"]

LONGEST = 44  # characters of a value in the table
MOST_LAYERS = 12
WEIGHTS = ("model", "ema")
MEANING_COLOURS = {
    "breaks": "red",
    "invalid": "red",
    "unknown": "red",
    "ignored": "yellow",
    "schedule": "cyan",
    "honoured": "green",
    "harmless": None,
}


class Intent(str, Enum):
    """What the checkpoint is wanted for."""

    RESUME = "resume"
    FINETUNE = "finetune"


class Form(str, Enum):
    """How differences are printed."""

    TABLE = "table"
    MARKDOWN = "markdown"
    PATCH = "patch"


def diff(
    old: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint.", show_default=False)],
    new: Annotated[
        list[str],
        typer.Argument(
            metavar="OTHER...",
            help="A training config, args.yaml, data or model yaml, KEY=VALUE settings, or another checkpoint.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="config|args|data|model|checkpoint",
            help="What OTHER is, if not as it looks.",
            show_default=False,
        ),
    ] = None,
    intent: Annotated[Intent, typer.Option("--for", help="What the checkpoint is wanted for.")] = Intent.RESUME,
    target: Annotated[
        str | None, typer.Option(help="Trainer that goes on, e.g. ultralytics==8.4.190.", show_default=False)
    ] = None,
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="Interpreter of the training environment.", show_default=False)
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Also look for data set and device on this machine.")] = False,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="What the config leaves out counts as the trainer's default.")
    ] = False,
    values: Annotated[
        bool, typer.Option("--values", help="Two checkpoints: read every tensor, measure how far they are apart.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(metavar="MEANING,...", help="Only differences of these meanings.", show_default=False),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Leave out keys that match, e.g. 'show*'.", show_default=False),
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="How to print the differences.")] = Form.TABLE,
    as_command: Annotated[
        bool, typer.Option("--command", help="Print the commands that do what the config asks for.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The exit code only.")] = False,
) -> int:
    """Say what a resume (or a fine-tuning run) would do with a config, or how two checkpoints differ."""
    from ckpt_tools.verbs.diff import diff as compare

    meanings = _meanings(only)
    how: dict[str, Any] = {
        "kind": _kind(kind),
        "purpose": intent.value,
        "target": target,
        "here": here,
        "python": python,
    }
    try:
        with progress_bar(_size(old, new) if values else 0, "tensors") as progress:
            found = compare(old, new, defaults=defaults, values=values, progress=progress, **how)
    except CkptError as error:
        if json_:
            print_json("diff", {"old": old, "new": " ".join(new), "error": str(error)})
        raise
    kept = found.kept(meanings, ignore or ())
    again = _again(kind, intent, target, python, here, defaults)
    if json_:
        print_json("diff", kept.as_json())
    elif as_command:
        _print_command(found)
    elif not quiet:
        PRINTERS[form](kept, again)
    return YES if kept.same else NO


def _again(
    kind: str | None, intent: Intent, target: str | None, python: str | None, here: bool, defaults: bool
) -> list[str]:
    """The options that shape the answer, for the next command."""
    given = {"--as": kind, "--for": None if intent is Intent.RESUME else intent.value, "--target": target}
    words = [word for option, value in (given | {"--python": python}).items() if value for word in (option, value)]
    words += [option for option, on in (("--here", here), ("--defaults", defaults)) if on]
    return words


def _kind(text: str | None) -> str | None:
    from ckpt_tools.configs import KINDS
    from ckpt_tools.verbs.diff import CHECKPOINT

    known = [*KINDS, CHECKPOINT]
    if text is not None and text not in known:
        raise CkptError(f"--as {text}: there is no such kind; choose from: {', '.join(known)}")
    return text


def _meanings(text: str | None) -> list[Meaning]:
    from ckpt_tools.differences.model import Meaning

    known = {str(meaning): meaning for meaning in Meaning}
    words = [word.strip().lower() for word in (text or "").split(",") if word.strip()]
    odd = next((word for word in words if word not in known), None)
    if odd is not None:
        raise CkptError(f"--only {odd}: there is no such meaning; choose from: {', '.join(known)}")
    return [known[word] for word in words]


def _size(old: str, new: list[str]) -> int:
    """Bytes that are read where two checkpoints are compared."""
    try:
        return os.path.getsize(old) + os.path.getsize(new[0])
    except OSError:
        return 0


# ---------------------------------------------------------------- a table for people


def _print_table(found: Comparison, again: list[str]) -> None:
    say(_headline(found))
    for difference in found.differences:
        word = str(difference.meaning)
        label = paint(f"{word:<8}", MEANING_COLOURS[word], bold=word in ("breaks", "invalid", "unknown"))
        say(f"  {label} {shown(difference.key)}: {_value(difference.old)} → {_value(difference.new)}")
        say(f"           {shown(difference.why)}")
    _print_tensors(found)
    say(_summary(found))
    say(f"next: {_next(found, again)}")


def _headline(found: Comparison) -> str:
    from ckpt_tools.configs import KINDS

    what = KINDS.get(found.kind, "another checkpoint")
    trainer = f", {found.purpose} with {found.target}" if found.target else f", {found.purpose}"
    return f"{shown(found.old)} against {shown(found.new)} ({what}{shown(trainer)})"


def _value(value: Any) -> str:
    from ckpt_tools.differences.model import ABSENT

    if value is ABSENT:
        return "-"
    text = shown("none" if value is None else value) if not isinstance(value, str) else shown(value) or "''"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _summary(found: Comparison) -> str:
    """Whether it is safe, in a word, and what there is."""
    counts = ", ".join(f"{count} {word}" for word, count in found.counts().items())
    parts = [counts] if counts else []
    if found.tensors:
        parts.append(_weights(found))
    listed = f": {', '.join(parts)}" if parts else ""
    if found.left_out:
        listed += f"{' and' if parts else ':'} {len(found.left_out)} not shown"
    elif found.same and not found.differences:
        listed = ": no difference" + (f", {_weights(found)}" if found.tensors else "")
    if found.kind == "checkpoint":
        word = paint("same" if found.same else "different", "green" if found.same else "yellow", bold=True)
        return f"{word}{listed}"
    if not found.ready:
        word = paint(str(found.verdict), COLOURS[str(found.verdict)], bold=True)
        return f"{paint('unsafe', 'red', bold=True)} to {found.purpose}, the checkpoint itself is {word}{listed}"
    if not found.safe:
        return f"{paint('unsafe', 'red', bold=True)} to {found.purpose} so{listed}"
    ignored = found.counts().get("ignored", 0)
    without = f", but {ignored} of the new values {'has' if ignored == 1 else 'have'} no effect" if ignored else ""
    return f"{paint('safe', 'green', bold=True)} to {found.purpose}{without}{listed}"


def _weights(found: Comparison) -> str:
    if found.same_weights:
        return f"same weights, rounded to {found.rounded_to}" if found.rounded_to else "same weights"
    return "other weights" if found.same_weights is False else "no weights in common"


def _next(found: Comparison, again: list[str]) -> str:
    old, texts = found.situation.checkpoint.path, found.situation.config.texts
    compared = [_as_given(text) for text in texts] or [Path(found.new)]
    if found.kind == "checkpoint":
        known = found.same or found.measured
        template = "ckpt inspect {old}" if known else "ckpt diff {old} {compared} {again} --values"
        return following(template, old=old, compared=compared, again=again)
    if not found.ready:
        return following("ckpt verify {old}", old=old)
    resume = found.situation.found.layout.resume
    if found.safe and not found.differences and not found.left_out and found.purpose == "resume" and resume:
        return following(resume, path=old)
    return following("ckpt diff {old} {compared} {again} --command", old=old, compared=compared, again=again)


def _as_given(text: str) -> str | Path:
    """A file or a setting of the command line, as the next command takes it: ``--lr0=1`` would be an option there."""
    file = os.path.expanduser(text)
    return Path(file) if os.path.lexists(file) else text.lstrip("-")


def _print_tensors(found: Comparison) -> None:
    for part in found.tensors:
        say(f"  {_part_line(part)}")
        for word, names in _shaped(part):
            say(f"           {word}: {shown(few(names))}")
        _print_layers(part, found.measured)


def _print_layers(part: PartComparison, measured: bool) -> None:
    """The layers that changed most, in numbers where those were asked for."""
    if part.rounded_to and not measured:
        return
    columns = ["    layer", "changed", *(["max abs", "relative", "cosine"] if measured else [])]
    rows = []
    for layer in part.layers[:MOST_LAYERS]:
        cells = ["    " + shown(layer.name or "."), f"{layer.changed} of {layer.tensors}"]
        rows.append([*cells, *((_measures(layer.distance) or ["-"] * 3) if measured else [])])
    if rows:
        table(columns, rows, {1, 2, 3, 4})
    if len(part.layers) > len(rows):
        say(f"      … {len(part.layers) - len(rows)} more layers; --json lists all")


def _measures(distance: Distance | None) -> list[str]:
    if distance is None:
        return []
    return [f"{distance.max_abs:.3g}", f"{distance.relative:.3g}", f"{distance.cosine:.6f}"]


def _shaped(part: PartComparison) -> list[tuple[str, list[str]]]:
    """What is not in both, or of another shape, by name."""
    from ckpt_tools.differences.tensors import State

    reshaped = [
        f"{tensor.name} {shape_text(tensor.old.shape)} → {shape_text(tensor.new.shape)}"
        for tensor in part.of(State.RESHAPED)
    ]
    unreadable = [f"{tensor.name} ({tensor.why})" for tensor in part.of(State.UNREADABLE)]
    sides = part.old is not None and part.new is not None
    alone = [("removed", list(part.removed)), ("added", list(part.added))] if sides else []
    return [(word, names) for word, names in (*alone, ("reshaped", reshaped), ("unreadable", unreadable)) if names]


def _part_line(part: PartComparison) -> str:
    """``ema against model: 12 of 140 tensors changed; max abs …``."""
    old, new = part.old, part.new
    if old is None or new is None:
        side, held = ("only in the second", new) if old is None else ("only in the first", old)
        count = len(held.tensors) if held else 0
        return f"{shown((held.path if held else '') or part.role)}: {side} ({count} tensors)"
    name = shown(old.path or old.role)
    name += f" against {shown(new.path or new.role)}" if (new.path or new.role) != (old.path or old.role) else ""
    total = len(part.tensors)
    if not total:
        return f"{name}: no tensor in common"
    if part.same_weights:
        word = "same weights" if part.role in WEIGHTS else "the same"
        retyped = f", {len(part.retyped)} of another type" if part.retyped else ""
        return f"{name}: {word} ({total} tensors{retyped})"
    if part.rounded_to:
        return f"{name}: same weights, rounded to {part.rounded_to} ({total} tensors)"
    retyped = f", {len(part.retyped)} of another type" if part.retyped else ""
    measured = ""
    if part.distance is not None:
        measures = zip(("max abs", "relative", "cosine"), _measures(part.distance))
        measured = "; " + ", ".join(f"{word} {value}" for word, value in measures)
    return f"{name}: {total - part.equal} of {total} tensors changed{retyped}{measured}"


# ---------------------------------------------------------------- other forms


def _print_markdown(found: Comparison, _: list[str]) -> None:
    say(f"**{_headline(found)}**")
    say()
    if found.differences:
        say("| meaning | key | old | new | why |")
        say("|---|---|---|---|---|")
    for difference in found.differences:
        cells = [str(difference.meaning), f"`{shown(difference.key)}`", _value(difference.old), _value(difference.new)]
        say("| " + " | ".join(cell.replace("|", "\\|") for cell in [*cells, shown(difference.why)]) + " |")
    for part in found.tensors:
        say(f"- {_part_line(part)}")
    say()
    say(_summary(found))


def _print_patch(found: Comparison, _: list[str]) -> None:
    """A unified diff of the settings as yaml lines, each new one with its meaning behind it."""
    before = [_line(d, old=True) for d in found.differences if _there(d.old)]
    after = [_line(d, old=False) for d in found.differences if _there(d.new)]
    for line in difflib.unified_diff(before, after, found.old, found.new, n=0, lineterm=""):
        say(shown(line))


def _there(value: Any) -> bool:
    from ckpt_tools.differences.model import ABSENT

    return value is not ABSENT


def _line(difference: Difference, *, old: bool) -> str:
    """``key: value`` as yaml has it."""
    import yaml

    value = difference.old if old else difference.new
    text = yaml.safe_dump({difference.key: value}, default_flow_style=True, width=10**9).strip()[1:-1]
    return text if old else f"{text}  # {difference.meaning}: {difference.why}"


def _print_command(found: Comparison) -> None:
    """The commands on stdout, one line to paste; what they leave out on stderr."""
    from ckpt_tools.differences.command import advise

    if found.kind == "checkpoint":
        raise CkptError("--command needs a configuration to carry out, no other checkpoint; name a yaml or KEY=VALUE")
    advice = advise(found.situation, found.differences, found.ready)
    for note in advice.notes:
        complain(note)
    if advice.commands:
        say(command(" && ".join(advice.commands)))


PRINTERS = {Form.TABLE: _print_table, Form.MARKDOWN: _print_markdown, Form.PATCH: _print_patch}
