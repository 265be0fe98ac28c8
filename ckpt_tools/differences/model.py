"""A difference and what it means for the training that follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

__all__ = ["ABSENT", "Difference", "Meaning", "serious_first", "stops"]


class Absent:
    """The value of a setting that is not there; ``None`` is one that is."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent()


class Meaning(str, Enum):
    """What becomes of a new value, the most serious first."""

    BREAKS = "breaks"  # the trainer refuses, restarts, or trains something that does not fit
    INVALID = "invalid"  # a value of a type or size the trainer stops at
    UNKNOWN = "unknown"  # a name the trainer does not have
    IGNORED = "ignored"  # the saved value wins
    SCHEDULE = "schedule"  # taken, and it changes how long or at what rate training goes on
    HONOURED = "honoured"  # taken
    HARMLESS = "harmless"  # whichever value wins, training is the same

    def __str__(self) -> str:
        return self.value

    @property
    def rank(self) -> int:
        return list(Meaning).index(self)


STOPS = (Meaning.BREAKS, Meaning.INVALID, Meaning.UNKNOWN)


@dataclass(frozen=True)
class Difference:
    """One difference: the dotted ``key``, both values, what it means and why.

    ``section`` is where it was found: ``args``, ``data``, ``model``, ``state`` or ``metrics``.
    """

    key: str
    old: Any
    new: Any
    meaning: Meaning
    why: str
    section: str = "args"

    def as_json(self) -> dict[str, Any]:
        """The public fields; a value that is not there is ``None``."""
        old, new = (None if value is ABSENT else value for value in (self.old, self.new))
        return {"key": self.key, "old": old, "new": new, "meaning": str(self.meaning), "why": self.why,
                "section": self.section}  # fmt: skip

    def within(self, section: str, prefix: str = "") -> Difference:
        """The same difference as part of another section, its key behind a prefix."""
        return replace(self, section=section, key=f"{prefix}{self.key}")


def serious_first(differences: Iterable[Difference]) -> list[Difference]:
    """Sorted by meaning; those of one meaning stay in order."""
    return sorted(differences, key=lambda difference: difference.meaning.rank)


def stops(differences: Iterable[Difference]) -> list[Difference]:
    """Those the training can't go on with."""
    return [difference for difference in differences if difference.meaning in STOPS]
