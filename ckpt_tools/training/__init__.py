"""Saving and loading from Python: whole state, whole files, all ranks. Needs torch (``ckpt-tools[torch]``).

``save_checkpoint`` and ``load_checkpoint`` for one file; ``CheckpointManager`` for a loop of your own: triggers,
rotation, signals; ``ResumableSampler`` for resuming inside an epoch; ``guard`` for ultralytics. The callbacks for
Lightning and transformers lie in :mod:`ckpt_tools.training.lightning` and :mod:`ckpt_tools.training.huggingface`.
"""

from __future__ import annotations

from ckpt_tools.findings import CkptError

try:
    import torch  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError("ckpt_tools.training needs torch: pip install torch, or 'ckpt-tools[torch]'") from error

from ckpt_tools.training.files import load_checkpoint, save_checkpoint
from ckpt_tools.training.manager import CheckpointManager
from ckpt_tools.training.sampler import ResumableSampler
from ckpt_tools.training.state import Loaded
from ckpt_tools.training.ultralytics import guard

__all__ = [
    "CheckpointManager",
    "CkptError",
    "Loaded",
    "ResumableSampler",
    "guard",
    "load_checkpoint",
    "save_checkpoint",
]
