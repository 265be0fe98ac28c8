"""Writes ``docs/findings.md`` from the catalogue: the same text as ``ckpt explain``."""

from __future__ import annotations

from pathlib import Path

from ckpt_tools.findings import CATALOGUE, Code, example

HEAD = """# Findings

Made from the catalogue by `python docs/make_findings.py`; `ckpt explain CODE` prints the same text. An *error*
decides the verdict, a *warning* deserves a look, a *note* informs.
"""
ROOMS = {
    "0": "The file",
    "1": "The archive",
    "2": "The pickle",
    "3": "Tensors",
    "4": "Parts that must fit",
    "5": "Training state",
    "6": "Safety",
    "7": "Portability and this machine",
    "9": "Outcome of a repair",
}


def page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD]
    room = ""
    for entry in CATALOGUE:
        if entry.code[4] != room:
            room = entry.code[4]
            parts.append(f"## {ROOMS[room]}\n")
        parts.append(section(entry))
    return "\n".join(parts)


def section(entry: Code) -> str:
    """One finding: what it says, what it means, how to fix it."""
    verdict = f", verdict `{entry.verdict}`" if entry.verdict else ""
    remedy = example(entry.remedy)
    return (
        f"### {entry.code} {entry.slug}\n\n*{entry.severity}{verdict}* — “{entry.message}”\n\n"
        f"{entry.explanation}\n\n{entry.cure} Next: `{remedy}`\n"
    )


if __name__ == "__main__":
    (Path(__file__).parent / "findings.md").write_text(page(), encoding="utf-8")
