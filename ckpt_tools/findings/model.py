"""Finding, the sinks findings are reported to, and the rule that turns findings into a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ckpt_tools.findings.catalogue import BY_SLUG, Code
from ckpt_tools.findings.commands import PLACE, Word, following
from ckpt_tools.findings.texts import LONGEST_MESSAGE, escape
from ckpt_tools.findings.words import Severity, Verdict

__all__ = [
    "CkptError",
    "Finding",
    "Severity",
    "Sink",
    "StrictReadError",
    "Verdict",
    "collect",
    "decide",
    "finding",
    "strict",
]


class CkptError(Exception):
    """We could not work (a path that can't be opened, a bad option). The message ends with what to do.

    It is fit for a terminal, whoever prints it: what can't be seen of the names in it is escaped.
    """

    def __init__(self, message: object) -> None:
        super().__init__(escape(message, LONGEST_MESSAGE))


class StrictReadError(CkptError):
    """A strict read met something a tolerant read would have reported; ``finding`` holds it."""

    def __init__(self, fact: Finding) -> None:
        super().__init__(f"{fact.code} {fact.slug}: {fact.message}")
        self.finding = fact


@dataclass(frozen=True)
class Finding:
    """One fact about one file.

    ``where`` names the place (a member, a tensor, a key, a byte offset) or is empty; ``remedy`` is the next
    command to type. Until :meth:`addressed` fills it, it is a template, and ``names`` has some of the names in it.
    """

    code: str
    slug: str
    severity: Severity
    message: str
    where: str
    remedy: str
    verdict: Verdict | None = None
    names: tuple[tuple[str, Word], ...] = field(default=(), repr=False)

    def addressed(self, path: str, **names: Word) -> Finding:
        """The finding with its remedy made a command for this very file, or a sentence where it can't be typed."""
        where = Path(path)
        remedy = following(self.remedy, **{**dict(self.names), "path": where, "folder": where.parent, **names})
        return replace(self, remedy=remedy, names=())

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
    """Make the finding called ``slug``, its message filled with ``facts``; so is its remedy, once it is addressed.

    Raises ``KeyError`` for a slug that is not in the catalogue: that is our bug, not the file's.
    """
    entry: Code = BY_SLUG[slug]
    shown = {name: escape(value) for name, value in facts.items()}
    remedy = remedy or entry.remedy
    named = [(name, facts[name]) for name in PLACE.findall(remedy) if name in facts]
    return Finding(
        entry.code,
        entry.slug,
        entry.severity,
        entry.message.format(**shown),
        escape(where),
        remedy,
        entry.verdict,
        tuple((name, value if isinstance(value, Path) else str(value)) for name, value in named),
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
