"""Exit codes, and the wrapper that turns what goes wrong in a command into one of them."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import ParamSpec

import typer

from ckpt_tools.cli.render import command as command_text
from ckpt_tools.cli.render import complain, discard_output
from ckpt_tools.findings import CkptError, trouble

__all__ = ["BUG", "BUG_WORDS", "FINISHED", "INTERRUPTED", "NO", "USAGE", "YES", "bug_text", "guarded", "worst"]

YES, NO, USAGE, FINISHED, BUG, INTERRUPTED = 0, 1, 2, 3, 70, 130
BUG_WORDS = "this is a bug in ckpt, not in your file; run it again with CKPT_DEBUG=1 and report what it prints"
SERIOUS_FIRST = (BUG, USAGE, NO, FINISHED, YES)
P = ParamSpec("P")


def bug_text(error: Exception) -> str:
    """What to tell a user about a bug of ours."""
    return f"{BUG_WORDS} ({type(error).__name__}: {error})"


def worst(codes: Iterable[int]) -> int:
    """The most serious of several exit codes: 70, 2, 1, 3, 0."""
    present = set(codes)
    return next((code for code in SERIOUS_FIRST if code in present), YES)


def guarded(command: Callable[P, int]) -> Callable[P, None]:
    """Run a command and exit with the code it returns; never let a traceback out.

    ``CKPT_DEBUG=1`` shows the traceback of our own bugs.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        raise typer.Exit(_code(command, *args, **kwargs))

    return run


def _code(command: Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> int:
    try:
        code = command(*args, **kwargs)
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            discard_output()
        return code
    except CkptError as error:
        complain(str(error))
        return USAGE
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except (typer.Exit, typer.Abort):
        raise
    except OSError as error:
        complain(f"{error.filename or 'the output'}: {trouble(error)}")
        discard_output()
        return USAGE
    except Exception as error:
        if os.environ.get("CKPT_DEBUG"):
            for line in traceback.format_exc().splitlines():
                print(command_text(line), file=sys.stderr)
        complain(bug_text(error))
        return BUG
