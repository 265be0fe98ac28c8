"""Generators of findings, one file per family. Nothing here prints and nothing here decides a verdict."""

from ckpt_tools.checks.context import Context, Target

__all__ = ["Context", "Target"]
