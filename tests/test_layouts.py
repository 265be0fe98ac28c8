"""Layouts and parts: told by structure, then by the records of known trainers."""

from __future__ import annotations

from typing import Any

import pytest
from building import Called, Instance, Tensor, detector, optimizer_of, plain_checkpoint, ultralytics_checkpoint, weights
from conftest import Write

import ckpt_tools
from ckpt_tools.api import OpenCheckpoint
from ckpt_tools.layouts import LAYOUTS, layout_named
from ckpt_tools.layouts.arguments import refused_arguments
from ckpt_tools.layouts.ultralytics import group_rules, resume_rules, strip_rules

MODEL = weights()
OPTIMIZER = optimizer_of(MODEL)
EMPTIED = ["optimizer", "best_fitness", "ema", "updates"]
SCHEDULER = {"last_epoch": 3, "_step_count": 4, "_last_lr": [0.01]}
AMP = {"scale": 2.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 9, "_growth_tracker": 0}


def opened(content: Any, write: Write) -> OpenCheckpoint:
    with ckpt_tools.open(write(content)) as found:
        return found


def roles(found: OpenCheckpoint) -> dict[str, str]:
    return {part.path: part.role for part in found.parts}


@pytest.mark.parametrize("model", ["model", "net", "state_dict", "model_state_dict", "weights", "anything"])
@pytest.mark.parametrize("optimizer", ["optimizer", "optim", "opt", "optimizer_state_dict", "anything else"])
def test_parts_of_a_loop_are_told_by_structure_not_by_name(model: str, optimizer: str, write: Write) -> None:
    found = opened({model: MODEL, optimizer: OPTIMIZER, "sched": SCHEDULER, "amp": AMP, "epoch": 3}, write)
    assert found.layout == "plain"
    assert roles(found) == {model: "model", optimizer: "optimizer", "sched": "scheduler", "amp": "scaler"}
    assert found.epoch == 3


@pytest.mark.parametrize("key", ["ema", "model_ema", "ema_state_dict", "averaged_model", "teacher"])
def test_an_average_is_told_by_its_name(key: str, write: Write) -> None:
    assert roles(opened({"model": MODEL, key: MODEL, "optimizer": OPTIMIZER}, write))[key] == "ema"


def test_several_models_and_optimizers(write: Write) -> None:
    content = {"generator": MODEL, "critic": weights(), "optimizers": [OPTIMIZER, optimizer_of(MODEL)], "step": 70}
    found = opened(content, write)
    assert sorted(roles(found).values()) == ["model", "model", "optimizer", "optimizer"]
    recognised = found.checkpoint.recognised
    assert recognised is not None
    assert recognised.step == 70


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        (ultralytics_checkpoint(), "ultralytics"),
        (plain_checkpoint(), "plain"),
        ({"epoch": 1, "best_fitness": 0.1, "model": detector(tree="models"), "ema": None,
          "updates": None, "optimizer": OPTIMIZER, "opt": {"epochs": 9}}, "yolov5"),
        ({"start_epoch": 2, "model": MODEL, "optimizer": OPTIMIZER, "best_ap": 0.1}, "yolox"),
        ({"meta": {"epoch": 2}, "state_dict": MODEL, "optimizer": OPTIMIZER, "message_hub": {}}, "mmengine"),
        ({"pytorch-lightning_version": "2.6.6", "state_dict": MODEL, "optimizer_states": [OPTIMIZER], "epoch": 2},
         "lightning"),
        ({"arch": "resnet18", "state_dict": MODEL, "optimizer": OPTIMIZER, "epoch": 2, "best_acc1": 0.5},
         "imagenet-example"),
        (detector(), "module"),
    ],
)  # fmt: skip
def test_known_trainers_are_recognised_by_their_keys(content: Any, layout: str, write: Write) -> None:
    assert opened(content, write).layout == layout


@pytest.mark.parametrize("key", ["epoch", "last_epoch", "current_epoch", "epochs_done"])
def test_epoch_is_found_under_usual_names(key: str, write: Write) -> None:
    assert opened({"model": MODEL, "optimizer": OPTIMIZER, key: 4}, write).epoch == 4


@pytest.mark.parametrize("value", [4.0, "4", Called("numpy.core.multiarray", "scalar", ("i8", b"\4\0\0\0\0\0\0\0"))])
def test_epoch_may_be_a_float_or_a_bare_scalar(value: Any, write: Write) -> None:
    if isinstance(value, Called):
        kind = Called("numpy", "dtype", ("i8", False, True))
        value = Called(value.module, value.name, (kind, value.arguments[1]))
    assert opened({"model": MODEL, "optimizer": OPTIMIZER, "epoch": value}, write).epoch == 4


@pytest.mark.parametrize("value", ["four", True, 4.5, None, 1 << 70])
def test_what_is_no_epoch_is_none(value: Any, write: Write) -> None:
    assert opened({"model": MODEL, "optimizer": OPTIMIZER, "epoch": value}, write).epoch is None


@pytest.mark.parametrize(
    "args", [{"lr": 0.1, "epochs": 7}, Instance("argparse", "Namespace", {"lr": 0.1, "epochs": 7})]
)
@pytest.mark.parametrize("key", ["args", "opt", "config", "hparams", "hyper_parameters"])
def test_arguments_are_found_in_dicts_and_namespaces(args: Any, key: str, write: Write) -> None:
    found = opened({"model": MODEL, "optimizer": OPTIMIZER, key: args}, write)
    assert found.args == {"lr": 0.1, "epochs": 7}
    assert found.checkpoint.recognised is not None
    assert found.checkpoint.recognised.epochs == 7


def test_tensors_have_the_names_a_user_would_write(write: Write) -> None:
    found = opened(ultralytics_checkpoint(), write)
    assert "ema.model.0.conv.weight" in found
    assert "optimizer.state.0.momentum_buffer" in found
    assert found["ema.model.0.conv.weight"].shape == (4, 3, 1, 1)
    assert found["ema.model.0.conv.weight"].device == "cpu"


def test_every_layout_can_be_looked_up_by_its_name() -> None:
    assert all(layout_named(layout.name).name == layout.name for layout in LAYOUTS)
    with pytest.raises(KeyError):
        layout_named("none of them")


def test_a_state_dict_with_scalars_in_it_is_still_one(write: Write) -> None:
    held = weights(**{"bn.num_batches_tracked": Tensor((), 3, "int64")})
    assert opened(held, write).checkpoint.parts[0].form == "state_dict"


@pytest.mark.parametrize(
    ("version", "order"),
    [
        ((8, 0, 44), ["bias", "weight", "norm"]),
        ((8, 3, 250), ["bias", "weight", "norm"]),
        ((8, 4, 0), ["weight", "norm", "bias"]),
        ((), ["weight", "norm", "bias"]),
        ((9, 0, 0), ["weight", "norm", "bias"]),
    ],
)
def test_order_of_groups_per_release(version: tuple[int, ...], order: list[str]) -> None:
    assert group_rules(version)["order"] == order


def test_rules_of_a_resume_per_release() -> None:
    assert resume_rules((8, 0, 10))["resume_true_unresumable"] == "assert"
    assert resume_rules((8, 4, 100))["resume_true_unresumable"] == "new-run"


@pytest.mark.parametrize(
    ("version", "scaler", "model_args", "criterion", "metadata", "student"),
    [
        ((8, 0, 44), False, "kept", False, 0, False),
        ((8, 1, 0), False, "dict_without_average", False, 0, False),
        ((8, 2, 103), False, "dict", True, 4, False),
        ((8, 3, 100), False, "dict", True, 4, False),
        ((8, 4, 190), True, "dict", True, 4, True),
        ((), True, "dict", True, 4, True),
    ],
)
def test_rules_of_a_strip_per_release(
    version: tuple[int, ...], scaler: bool, model_args: str, criterion: bool, metadata: int, student: bool
) -> None:
    rules = strip_rules(version)
    assert [key for key in rules["null"] if key not in ("scaler", "stopper")] == EMPTIED
    assert ({"scaler", "stopper"} <= set(rules["null"])) is scaler
    assert (rules["model_args"], rules["criterion"], rules["student"]) == (model_args, criterion, student)
    assert len(rules["metadata"]) == metadata
    assert rules["head_tensors"][""] == ["stride", "anchors", "strides"]
    assert rules["train_args"] == "defaults_filtered"


@pytest.mark.parametrize(
    ("args", "refused"),
    [
        ({"epochs": 5, "lr0": 0.01, "optimizer": "SGD"}, []),
        ({"epochs": 5, "nobody_knows_this": 1}, ["nobody_knows_this (unknown)"]),
        ({"lr0": "fast"}, ["lr0='fast' (value)"]),
    ],
)
def test_arguments_a_release_refuses(args: dict[str, Any], refused: list[str]) -> None:
    assert refused_arguments(args, (8, 4, 190)) == refused
