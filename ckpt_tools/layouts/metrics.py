"""Numbers in a checkpoint that say how good its weights are."""

from __future__ import annotations

from typing import Any

from ckpt_tools.findings import as_text
from ckpt_tools.layouts.parts import dict_of
from ckpt_tools.layouts.recognise import Recognised
from ckpt_tools.layouts.values import value_of

__all__ = ["metrics_of"]

METRIC_KEYS = ("best_fitness", "best_acc", "best_acc1", "loss", "acc", "metric", "best_ap", "curr_ap", "fitness")


def metrics_of(found: Recognised) -> dict[str, Any]:
    """The metrics by name, as far as the file keeps them."""
    stored = dict_of(found.value(found.layout.roles.get("metrics", "metrics")))
    metrics = {as_text(key): value_of(value) for key, value in stored.items()}
    for key in METRIC_KEYS:
        value = value_of(found.value(key))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            metrics.setdefault(key, value)
    return metrics
