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


PLAIN = {"→": "->", "…": "..."}  # what we print ourselves and not every terminal has


def _spelled_out(error: UnicodeError) -> tuple[str, int]:
    """What the encoding of a stream does not have: in plain characters, or escaped as on a screen."""
    assert isinstance(error, UnicodeEncodeError)
    held = error.object[error.start : error.end]
    plain = "".join(PLAIN.get(character, character) for character in held)
    return plain.encode("ascii", "backslashreplace").decode("ascii"), error.end


def _prepare() -> None:
    """Streams that take any text, and a collector that does not stop to look at every checkpoint's nodes."""
    import codecs
    import gc

    codecs.register_error("ckpt", _spelled_out)
    gc.set_threshold(1_000_000, 50, 50)  # a checkpoint is a hundred thousand small nodes, hardly any of them garbage
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="ckpt")
