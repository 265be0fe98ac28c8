"""The command line: options, exit codes and printing. Everything else is in the library."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of ``ckpt``. Exit codes: 0 yes, 1 no, 2 usage, 3 finished, 70 our bug, 130 interrupted."""
    try:
        _prepare()
        from ckpt_tools.cli.app import app

        app()
    except KeyboardInterrupt:  # while modules were still being imported
        print("ckpt: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _prepare() -> None:
    """Streams that take any text, and a collector that does not stop to look at every checkpoint's nodes."""
    import gc

    gc.set_threshold(1_000_000, 50, 50)  # a checkpoint is a hundred thousand small nodes, hardly any of them garbage
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
