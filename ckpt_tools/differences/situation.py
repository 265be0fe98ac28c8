"""What the meaning of a difference depends on: the run that was saved, the trainer that goes on, and the intent."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.checks.consistency import head_classes
from ckpt_tools.checks.context import Target, release
from ckpt_tools.checks.optimizers import optimizer_kind
from ckpt_tools.configs import Config, read_settings
from ckpt_tools.container import MemberError
from ckpt_tools.layouts import Part, Recognised
from ckpt_tools.layouts.values import value_of
from ckpt_tools.tensors.modules import attributes_of

__all__ = ["Situation"]

MOST_CLASSES = 20_000
LEAST_STRIDE, MOST_STRIDES = 32, 64  # pixels (ultralytics, engine/trainer.py, `gs`)


@dataclass(frozen=True)
class Situation:
    """A checkpoint, a configuration and an intent (``resume`` or ``finetune``); ``here`` asks this machine, too."""

    checkpoint: Checkpoint
    config: Config
    purpose: str = "resume"
    target: Target | None = None
    here: bool = False

    @property
    def resuming(self) -> bool:
        return self.purpose == "resume"

    @functools.cached_property
    def found(self) -> Recognised:
        assert self.checkpoint.recognised is not None
        return self.checkpoint.recognised

    @functools.cached_property
    def saved(self) -> Mapping[str, Any]:
        """The settings a resume starts from: the training arguments in the file, or those it reads beside it."""
        if self.own_settings is not None and not self.compares_own_settings:
            return read_settings(self.own_settings)
        return {key: value_of(value, MOST_CLASSES) for key, value in self.found.args.items()}

    @functools.cached_property
    def own_settings(self) -> Path | None:
        """The file of the run a resume reads its settings from, two folders up from the weights or beside them."""
        name, weights = self.found.layout.settings, Path(self.checkpoint.path).absolute()
        places = (weights.parent.parent / name, weights.parent / name) if name else ()
        return next((place for place in places if os.path.isfile(place)), None)

    @property
    def compares_own_settings(self) -> bool:
        """Whether the configuration is the very file a resume reads."""
        return (
            self.own_settings is not None
            and self.config.path is not None
            and (self.config.path.absolute() == self.own_settings)
        )

    @functools.cached_property
    def version(self) -> tuple[int, ...]:
        """The release that goes on; empty where nobody knows."""
        return release(self.target.version if self.target else self.found.version)

    @property
    def trainer(self) -> str:
        """The trainer in words, as far as it is known."""
        return str(self.target) if self.target else self.found.family

    @functools.cached_property
    def module(self) -> Part | None:
        """The pickled model, the averaged one first, as trainers load it."""
        parts = self.found.role("ema") + self.found.role("model")
        return next((part for part in parts if part.form == "module"), None)

    @functools.cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the pickled model (``names``, ``nc``, ``yaml``, ``stride`` …) as nodes."""
        return attributes_of(self.module.node) if self.module else {}

    @functools.cached_property
    def architecture(self) -> Mapping[str, Any]:
        """The model yaml the trainer keeps in the model; empty where there is none."""
        described = value_of(self.attributes.get("yaml"), MOST_CLASSES)
        return described if isinstance(described, dict) else {}

    @functools.cached_property
    def names(self) -> list[str]:
        """The class names in order; empty where the file has none."""
        return class_list(value_of(self.attributes.get("names"), MOST_CLASSES))

    @functools.cached_property
    def classes(self) -> int | None:
        """How many classes the head predicts by the shape of its weights, else by what the model says."""
        head = head_classes(self.module.layers) if self.module else None
        count = value_of(self.attributes.get("nc"))
        return head if head is not None else count if isinstance(count, int) else len(self.names) or None

    @functools.cached_property
    def stride(self) -> int:
        """What the trainer makes image sizes a multiple of: the model's largest stride, at least 32."""
        from ckpt_tools.tensors.values import tensor_array

        held = self.checkpoint.tensors.get(id(self.attributes.get("stride")))
        listed = value_of(self.attributes.get("stride"))
        if held is not None and self.checkpoint.container is not None and held.numel <= MOST_STRIDES:
            with contextlib.suppress(KeyError, MemberError, ValueError, OSError):
                listed = tensor_array(self.checkpoint.container, held).tolist()
        steps = [int(step) for step in listed if isinstance(step, (int, float))] if isinstance(listed, list) else []
        return max([LEAST_STRIDE, *steps])

    @functools.cached_property
    def optimizer(self) -> str | None:
        """The kind of the saved optimizer, by its groups and state."""
        part = next((part for part in self.found.role("optimizer") if part.groups), None)
        kind = optimizer_kind(part) if part else None
        return kind.name if kind else None

    def place(self, text: str) -> Path:
        """A path of the configuration: relative ones start here, else at the configuration's own folder."""
        path = Path(os.path.expanduser(text))
        beside = self.config.path.parent / path if self.config.path is not None else path
        return path if path.is_absolute() or os.path.exists(path) or not os.path.exists(beside) else beside


def class_list(names: Any) -> list[str]:
    """Class names in the order of their numbers, from a list or a mapping of numbers to names."""
    if isinstance(names, dict):
        keyed = {int(key): str(name) for key, name in names.items() if str(key).isascii() and str(key).isdigit()}
        return [keyed[number] for number in sorted(keyed)]
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else []
