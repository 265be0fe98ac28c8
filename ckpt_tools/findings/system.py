"""Errors of the operating system, and what a user can do about each."""

from __future__ import annotations

import errno

__all__ = ["reason_of", "step_for", "trouble"]

STEPS = {
    errno.EACCES: "ask its owner for the right to it",
    errno.EPERM: "ask its owner for the right to it",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "check the path",
    errno.ELOOP: "check the path",
    errno.ENAMETOOLONG: "check the path",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "name a place on a disk that can be written to",
    errno.EMFILE: "raise the limit of open files: `ulimit -n 4096`",
    errno.ENFILE: "close some programs",
    errno.ESTALE: "mount the server's folder again",
    errno.ENOMEM: "close some programs",
}
ELSE = "check the disk"


def reason_of(error: OSError | ValueError) -> str:
    """What the system says."""
    return getattr(error, "strerror", None) or str(error)


def step_for(error: OSError | ValueError) -> str:
    """What to do about it; a value that is no path at all (a zero byte in it) is a matter of the path."""
    number = getattr(error, "errno", errno.ENOENT)
    return STEPS.get(number, ELSE)


def trouble(error: OSError | ValueError) -> str:
    """Both in a line: ``Permission denied; ask its owner for the right to it``."""
    return f"{reason_of(error)}; {step_for(error)}"
