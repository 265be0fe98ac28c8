"""An opened checkpoint: source, container, pickles, tensors, layout and roles in one place."""

from ckpt_tools.checkpoint.opening import Checkpoint, open_checkpoint, read_checkpoint

__all__ = ["Checkpoint", "open_checkpoint", "read_checkpoint"]
