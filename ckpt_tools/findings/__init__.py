"""Facts about a checkpoint, and the one-word verdict they add up to.

A *finding* is something true of the file and is returned; an *error* is a reason why we could not work
and is raised. Every finding has a code from the one catalogue (:mod:`ckpt_tools.findings.catalogue`).
"""

from ckpt_tools.findings.catalogue import BY_CODE, BY_SLUG, CATALOGUE, Code, example, lookup
from ckpt_tools.findings.model import (
    CkptError,
    Finding,
    Severity,
    Sink,
    StrictReadError,
    Verdict,
    collect,
    decide,
    finding,
    strict,
)
from ckpt_tools.findings.system import reason_of, step_for, trouble
from ckpt_tools.findings.texts import LONGEST_MESSAGE, as_text, escape, plain_json, writable

__all__ = [
    "BY_CODE",
    "BY_SLUG",
    "CATALOGUE",
    "LONGEST_MESSAGE",
    "CkptError",
    "Code",
    "Finding",
    "Severity",
    "Sink",
    "StrictReadError",
    "Verdict",
    "as_text",
    "collect",
    "decide",
    "escape",
    "example",
    "finding",
    "lookup",
    "plain_json",
    "reason_of",
    "step_for",
    "strict",
    "trouble",
    "writable",
]
