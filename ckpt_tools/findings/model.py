"""Finding, the sinks findings are reported to, and the rule that turns findings into a verdict."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ckpt_tools.findings.catalogue import BY_SLUG, Code
from ckpt_tools.findings.words import Severity, Verdict

__all__ = [
    "CkptError",
    "Finding",
    "Severity",
    "Sink",
    "StrictReadError",
    "Verdict",
    "as_text",
    "collect",
    "decide",
    "escape",
    "finding",
    "plain_json",
    "strict",
    "writable",
]

LONGEST_INTEGER = 1000  # bits: less than the largest float has
LONGEST_TEXT = 400  # characters of a name or message from a file that reach a report


@functools.cache
def _unprintable() -> re.Pattern[str]:
    """Control, bidirectional and zero-width characters, surrogates and private planes."""
    return re.compile(
        r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010fffd]|[\u200b-\u200f\u2028-\u202e\u2066-\u2069]"
    )


class CkptError(Exception):
    """We could not work (a path that can't be opened, a bad option). The message ends with what to do."""


class StrictReadError(CkptError):
    """A strict read met something a tolerant read would have reported; ``finding`` holds it."""

    def __init__(self, fact: Finding) -> None:
        super().__init__(f"{fact.code} {fact.slug}: {fact.message}")
        self.finding = fact


@dataclass(frozen=True)
class Finding:
    """One fact about one file.

    ``where`` names the place (a member, a tensor, a key, a byte offset) or is empty; ``remedy`` is the next
    command to type.
    """

    code: str
    slug: str
    severity: Severity
    message: str
    where: str
    remedy: str
    verdict: Verdict | None = None

    def as_json(self) -> dict[str, str]:
        """The six public fields, in the order of the JSON contract."""
        return {
            "code": self.code,
            "slug": self.slug,
            "severity": str(self.severity),
            "message": self.message,
            "where": self.where,
            "remedy": self.remedy,
        }


Sink = Callable[[Finding], None]


def finding(slug: str, where: str = "", /, *, remedy: str = "", **facts: object) -> Finding:
    """Make the finding called ``slug``, its message filled with ``facts``.

    Raises ``KeyError`` for a slug that is not in the catalogue: that is our bug, not the file's.
    """
    entry: Code = BY_SLUG[slug]
    shown = {name: escape(value) for name, value in facts.items()}
    return Finding(
        entry.code,
        entry.slug,
        entry.severity,
        entry.message.format(**shown),
        escape(where),
        remedy or entry.remedy,
        entry.verdict,
    )


def collect() -> tuple[list[Finding], Sink]:
    """A list and the sink that fills it: the tolerant way of reading."""
    found: list[Finding] = []
    return found, found.append


def strict(fact: Finding) -> None:
    """The sink of strict reading: anything that decides a verdict raises ``StrictReadError``."""
    if fact.verdict is not None:
        raise StrictReadError(fact)


def decide(findings: Iterable[Finding], otherwise: Verdict = Verdict.RESUMABLE) -> Verdict:
    """The first verdict in order of precedence that any finding carries, else ``otherwise``."""
    present = {fact.verdict for fact in findings}
    return next((verdict for verdict in Verdict if verdict in present), otherwise)


def writable(value: object) -> object:
    """The value itself, or words for an integer so long that Python refuses to write it in decimal."""
    if isinstance(value, int) and value.bit_length() > LONGEST_INTEGER:
        return f"<integer of {value.bit_length()} bits>"
    return value


def as_text(value: object) -> str:
    """A key or number from a file as text; words for what is too long or too deep to be written."""
    try:
        return value if isinstance(value, str) else str(writable(value))
    except (ValueError, RecursionError):  # a tuple with such an integer in it, or of tuples in tuples
        return f"<{type(value).__name__}>"


def plain_json(value: Any) -> Any:
    """The same value without numbers that JSON can't hold."""
    if isinstance(value, dict):
        return {as_text(key): plain_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return writable(value)


def escape(value: object, longest: int = LONGEST_TEXT) -> str:
    """Text from a file made safe for a terminal: control and bidirectional characters escaped, length bounded."""
    text = as_text(value)
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return _unprintable().sub(
        lambda found: found.group().encode("unicode_escape", "backslashreplace").decode("ascii"), text
    )
