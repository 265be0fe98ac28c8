"""Every setting of a configuration against the saved ones, each with what it means for the training that follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace
from typing import Any

from ckpt_tools.differences import scripts, ultralytics
from ckpt_tools.differences.architecture import check_architecture
from ckpt_tools.differences.data import check_data, check_named_data
from ckpt_tools.differences.model import ABSENT, Difference, Meaning
from ckpt_tools.differences.settings import Change, changes, flat
from ckpt_tools.differences.situation import Situation
from ckpt_tools.layouts.arguments import default_arguments

__all__ = ["check_config"]

JUDGES: dict[str, Callable[[Change, Situation], tuple[Meaning, str]]] = {"ultralytics": ultralytics.meaning_of}


def check_config(situation: Situation, defaults: Mapping[str, Any] | None = None) -> Iterator[Difference]:
    """The differences of a configuration of any kind; ``defaults`` fill what it leaves out."""
    yield from CHECKS.get(situation.config.kind, check_arguments)(situation, defaults or {})


def check_arguments(situation: Situation, defaults: Mapping[str, Any]) -> Iterator[Difference]:
    """Settings of a training run, and the data set they name."""
    judge = JUDGES.get(situation.found.layout.name, scripts.meaning_of)
    situation = replace(situation, config=situation.config.over(defaults))
    saved, wanted = _completed(situation), situation.config.values
    found = changes(saved, wanted, exact=situation.found.layout.name == "ultralytics")
    yield from _refused(situation, saved, wanted, {change.key for change in found})
    data_set = wanted.get("data")
    for change in found:
        meaning, why = judge(change, situation)
        yield Difference(change.key, change.old, change.new, meaning, why)
        if change.key == "data" and meaning in (Meaning.IGNORED, Meaning.BREAKS):
            data_set = None  # the trainer does not get to see it
    yield from (difference.within("data", "data.") for difference in check_named_data(situation, data_set))


def _refused(
    situation: Situation, saved: Mapping[str, Any], wanted: Mapping[str, Any], differing: Set[str]
) -> Iterator[Difference]:
    """Settings the trainer stops at although the file has the same: it was made by another release."""
    if situation.found.layout.name != "ultralytics":
        return
    for key, value in flat(wanted).items():
        if key not in differing:
            old = saved.get(key, ABSENT)
            refused = ultralytics.refusal(Change(key, old, value), situation)
            if refused is not None:
                yield Difference(key, old, value, *refused)


def _completed(situation: Situation) -> Mapping[str, Any]:
    """The saved settings; where a file leaves one out, the trainer goes on with the default of its release."""
    if situation.found.layout.name != "ultralytics":
        return situation.saved
    return {**default_arguments(situation.version), **situation.saved}


def _data(situation: Situation, _: Mapping[str, Any]) -> Iterator[Difference]:
    return check_data(situation)


def _model(situation: Situation, _: Mapping[str, Any]) -> Iterator[Difference]:
    return check_architecture(situation)


CHECKS: dict[str, Callable[[Situation, Mapping[str, Any]], Iterator[Difference]]] = {"data": _data, "model": _model}
