"""Exit codes, and the wrapper that turns what goes wrong in a command into one of them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable
from typing import ParamSpec

import typer

from ckpt_tools.cli.render import command as command_text
from ckpt_tools.cli.render import discard_output
from ckpt_tools.findings import CkptError

__all__ = ["BUG", "FINISHED", "INTERRUPTED", "NO", "USAGE", "YES", "guarded", "worst"]

YES, NO, USAGE, FINISHED, BUG, INTERRUPTED = 0, 1, 2, 3, 70, 130
SERIOUS_FIRST = (BUG, USAGE, NO, FINISHED, YES)
P = ParamSpec("P")


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
        print(f"ckpt: {command_text(str(error))}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("ckpt: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (typer.Exit, typer.Abort):
        raise
    except OSError as error:
        print(f"ckpt: {error.filename or 'the output'}: {error.strerror or error}; check the disk", file=sys.stderr)
        discard_output()
        return USAGE
    except Exception as error:
        if os.environ.get("CKPT_DEBUG"):
            raise
        kind = type(error).__name__
        print(f"ckpt: this is a bug in ckpt, not in your file ({kind}: {error}).", file=sys.stderr)
        print("ckpt: run it again with CKPT_DEBUG=1 and report what it prints.", file=sys.stderr)
        return BUG
