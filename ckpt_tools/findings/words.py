"""The two vocabularies every other room speaks: severities and verdicts."""

from __future__ import annotations

from enum import Enum


class Severity(str, Enum):
    """How much a finding matters: ``error`` decides the verdict, ``warning`` deserves a look, ``note`` informs."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    def __str__(self) -> str:
        return self.value

    @property
    def rank(self) -> int:
        """0 for what matters most; sorting by it puts errors first."""
        return list(Severity).index(self)


class Verdict(str, Enum):
    """One word per file. The order is the order of precedence: the first that applies wins."""

    UNSAFE = "unsafe"
    FOREIGN = "foreign"
    DAMAGED = "damaged"
    INCOMPLETE = "incomplete"
    FINISHED = "finished"
    WEIGHTS = "weights"
    RESUMABLE = "resumable"

    def __str__(self) -> str:
        return self.value
