"""``ckpt explain``: what a finding means, why it hurts, how to fix it."""

from __future__ import annotations

import textwrap
from typing import Annotated

import typer

from ckpt_tools.cli.guard import YES
from ckpt_tools.cli.render import paint, print_json, say
from ckpt_tools.findings import BY_SLUG, CATALOGUE, CkptError, Code, example, lookup

__all__ = ["explain"]


def explain(
    code: Annotated[
        str, typer.Argument(help="A code (CKPT104) or its name (checksum-mismatch); left out: list all.")
    ] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Say what a finding code means, why it hurts and how to fix it."""
    entries = list(CATALOGUE) if not code else [_entry(code)]
    if json_:
        print_json("explain", {"codes": [_as_json(entry) for entry in entries]})
    elif code:
        _print(entries[0])
    else:
        for entry in entries:
            say(f"{entry.code}  {entry.severity:<8} {entry.slug}")
    return YES


def _entry(code: str) -> Code:
    entry = lookup(code)
    if entry is None:
        import difflib

        near = difflib.get_close_matches(code.lower(), [*BY_SLUG, *(entry.code.lower() for entry in CATALOGUE)], 1)
        hint = f"did you mean {near[0].upper() if near[0].startswith('ckpt') else near[0]}? " if near else ""
        raise CkptError(f"there is no finding {code}; {hint}`ckpt explain` lists all")
    return entry


def _as_json(entry: Code) -> dict[str, str | None]:
    return {
        "code": entry.code,
        "slug": entry.slug,
        "severity": str(entry.severity),
        "verdict": str(entry.verdict) if entry.verdict else None,
        "explanation": entry.explanation,
        "cure": entry.cure,
    }


def _print(entry: Code) -> None:
    verdict = f", verdict {entry.verdict}" if entry.verdict else ", never changes the verdict"
    say(f"{paint(entry.code, bold=True)} {entry.slug} ({entry.severity}{verdict})")
    say()
    say(textwrap.fill(entry.explanation, 88, break_on_hyphens=False))
    say()
    say(textwrap.fill(entry.cure, 88, break_on_hyphens=False))
    say()
    say(f"Next: {example(entry.remedy)}")
