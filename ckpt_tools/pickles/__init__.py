"""Pickle bytes turned into inert nodes. Nothing a pickle names is imported or called."""

from ckpt_tools.pickles.machine import MOST_BYTES, MOST_OPCODES, TROUBLES, Pickle, Trouble, read_pickle, run
from ckpt_tools.pickles.nodes import (
    Call,
    Extension,
    GlobalRef,
    Opaque,
    OutOfBand,
    Persistent,
    SetNode,
    children,
    is_mapping,
    pairs_of,
)

__all__ = [
    "MOST_BYTES",
    "MOST_OPCODES",
    "TROUBLES",
    "Call",
    "Extension",
    "GlobalRef",
    "Opaque",
    "OutOfBand",
    "Persistent",
    "Pickle",
    "SetNode",
    "Trouble",
    "children",
    "is_mapping",
    "pairs_of",
    "read_pickle",
    "run",
]
