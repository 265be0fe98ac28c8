"""The command line: options, exit codes and printing. Everything else is in the library."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of ``ckpt``. Exit codes: 0 yes, 1 no, 2 usage, 3 finished, 70 our bug, 130 interrupted."""
    import gc

    gc.set_threshold(1_000_000, 50, 50)  # a checkpoint is a hundred thousand small nodes, hardly any of them garbage
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    from ckpt_tools.cli.app import app

    app()
