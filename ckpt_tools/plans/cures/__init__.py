"""Known ailments and their cures; ``table.py`` says which cure is whose."""

from ckpt_tools.plans.cures.optimizer import make_optimizer
from ckpt_tools.plans.cures.progress import epoch_asked_for
from ckpt_tools.plans.cures.table import CURES, Cure

__all__ = ["CURES", "Cure", "epoch_asked_for", "make_optimizer"]
