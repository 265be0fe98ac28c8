"""Every change a conversion can make, in the order they are made: names first, then what is left, then its bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ckpt_tools.conversions.device import move_devices
from ckpt_tools.conversions.names import change_prefix, rename_classes, rename_modules
from ckpt_tools.conversions.portable import make_portable, namespaces_as_dicts
from ckpt_tools.conversions.precision import change_precision
from ckpt_tools.conversions.request import Conversion
from ckpt_tools.conversions.scrub import scrub
from ckpt_tools.conversions.state_dict import keep_weights
from ckpt_tools.conversions.strip import strip
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.cures.strides import make_contiguous

__all__ = ["convert"]


class Way(NamedTuple):
    """A change, and what of a request asks for it."""

    asked: Callable[[Conversion], object]
    change: Callable[[Case, Conversion], None]


WAYS: tuple[Way, ...] = (
    Way(lambda asked: asked.modules, rename_modules),
    Way(lambda asked: asked.portable, make_portable),
    Way(lambda asked: asked.args_as_dict, namespaces_as_dicts),
    Way(lambda asked: asked.prefix is not None, change_prefix),
    Way(lambda asked: asked.classes, rename_classes),
    Way(lambda asked: asked.scrub, scrub),
    Way(lambda asked: asked.strip, strip),
    Way(lambda asked: asked.state_dict or asked.to == "safetensors", keep_weights),
    Way(lambda asked: asked.dtype or asked.optimizer_dtype, change_precision),
    Way(lambda asked: asked.device or asked.devices, move_devices),
    Way(lambda asked: asked.to == "safetensors", lambda case, _: make_contiguous(case, repeated=True)),
)


def convert(case: Case, request: Conversion) -> None:
    """Make the changes asked for, each on what the ones before it left; raises ``CkptError`` where one can't be."""
    case.settle()
    for way in WAYS:
        if way.asked(request):
            way.change(case, request)
            case.settle()
