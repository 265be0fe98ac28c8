"""The command line without a process of its own: thousands of runs in the time of one."""

from __future__ import annotations

import functools
import io
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["BUG", "Said", "invoke"]

BUG = 70


@dataclass(frozen=True)
class Said:
    """The exit code and what was printed; ``trace`` is the traceback of what should never come out."""

    code: int
    out: str
    err: str
    trace: str = ""


@functools.cache
def _command() -> Any:
    import typer.main

    from ckpt_tools.cli.app import app

    return typer.main.get_command(app)


def invoke(arguments: Sequence[str]) -> Said:
    """Run ``ckpt`` with these arguments. ``CKPT_DEBUG`` must be set, so that bugs show their traceback."""
    streams = {
        name: io.TextIOWrapper(io.BytesIO(), "utf-8", "replace", write_through=True) for name in ("stdout", "stderr")
    }
    before = {name: getattr(sys, name) for name in ("stdin", *streams)}
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), streams["stdout"], streams["stderr"]
    trace, code = "", 0
    try:
        _command().main(args=list(arguments), prog_name="ckpt")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        code, trace = BUG, traceback.format_exc()
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)
    out, err = (stream.buffer.getvalue().decode("utf-8", "replace") for stream in streams.values())
    return Said(code, out, err, trace)
