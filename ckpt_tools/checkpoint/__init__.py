"""An opened checkpoint: source, container, pickles, tensors, layout and roles in one place."""

from ckpt_tools.checkpoint.ledger import LEDGER, read_ledger
from ckpt_tools.checkpoint.opening import Checkpoint, open_checkpoint, read_checkpoint

__all__ = ["LEDGER", "Checkpoint", "open_checkpoint", "read_checkpoint", "read_ledger"]
