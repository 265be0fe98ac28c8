"""Conversions: what ``ckpt convert`` changes in a checkpoint, each in a file of its own; ``table.py`` lists them."""

from ckpt_tools.conversions.request import Conversion

__all__ = ["Conversion"]
