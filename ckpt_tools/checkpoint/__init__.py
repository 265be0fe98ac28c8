"""An opened checkpoint: source, container, pickles, tensors, layout and roles in one place."""

from ckpt_tools.checkpoint.ledger import LEDGER, read_ledger
from ckpt_tools.checkpoint.opening import (
    CHECKPOINT_NAMES,
    SAFETENSORS,
    Checkpoint,
    open_checkpoint,
    read_checkpoint,
    split_name,
)

__all__ = [
    "CHECKPOINT_NAMES",
    "LEDGER",
    "SAFETENSORS",
    "Checkpoint",
    "open_checkpoint",
    "read_checkpoint",
    "read_ledger",
    "split_name",
]
