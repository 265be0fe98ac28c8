"""Changes people and accidents make to a checkpoint, applied in the trainer's own process to the loaded object."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Content = dict[str, Any]


def optimizer_none(content: Content) -> None:
    content["optimizer"] = None


def optimizer_deleted(content: Content) -> None:
    del content["optimizer"]


def optimizer_hollow(content: Content) -> None:
    content["optimizer"] = {"state": {}, "param_groups": []}


def optimizer_empty_dict(content: Content) -> None:
    content["optimizer"] = {}


def state_empty(content: Content) -> None:
    content["optimizer"]["state"] = {}


def state_partial(content: Content) -> None:
    state = content["optimizer"]["state"]
    for key in list(state)[::3]:
        del state[key]


def state_key_missing(content: Content) -> None:
    """Take the second moments away and leave the first."""
    for state in content["optimizer"]["state"].values():
        state.pop("exp_avg_sq")


def state_wrong_shape(content: Content) -> None:
    state = _biggest_state(content)
    for name, value in state.items():
        if getattr(value, "ndim", 0) > 1:
            state[name] = value[:-1].contiguous()


def state_transposed(content: Content) -> None:
    """As many values, in another shape."""
    state = _biggest_state(content)
    for name, value in state.items():
        if getattr(value, "ndim", 0) > 1:
            state[name] = value.flatten()


def state_of_a_wider_model(content: Content) -> None:
    import torch

    for state in content["optimizer"]["state"].values():
        for name, value in state.items():
            if getattr(value, "ndim", 0) > 0:
                state[name] = torch.cat([value, value])


def _biggest_state(content: Content) -> Content:
    states: list[Content] = list(content["optimizer"]["state"].values())
    return max(states, key=lambda state: max(getattr(value, "numel", int)() for value in state.values()))


def group_order_of_8_3(content: Content) -> None:
    """Bias, weight, norm instead of weight, norm, bias; the parameters keep their numbers, as in a real old file."""
    optimizer = content["optimizer"]
    weight, norm, bias = optimizer["param_groups"]
    groups = [bias, weight, norm]
    numbers = {old: new for new, old in enumerate(key for group in groups for key in group["params"])}
    for group in groups:
        group["params"] = [numbers[key] for key in group["params"]]
    optimizer["state"] = {numbers[key]: state for key, state in optimizer["state"].items()}
    optimizer["param_groups"] = groups


def group_missing(content: Content) -> None:
    content["optimizer"]["param_groups"].pop()


def group_shorter(content: Content) -> None:
    max((group["params"] for group in content["optimizer"]["param_groups"]), key=len).pop()


def group_tags_missing(content: Content) -> None:
    for group in content["optimizer"]["param_groups"]:
        group.pop("param_group", None)


def initial_lr_missing(content: Content) -> None:
    for group in content["optimizer"]["param_groups"]:
        group.pop("initial_lr", None)


def epoch_minus_one(content: Content) -> None:
    content["epoch"] = -1


def epoch_none(content: Content) -> None:
    content["epoch"] = None


def epoch_deleted(content: Content) -> None:
    del content["epoch"]


def epoch_beyond(content: Content) -> None:
    content["epoch"] = 50


def epochs_extended(content: Content) -> None:
    content["train_args"]["epochs"] = 9


def epochs_shortened(content: Content) -> None:
    content["train_args"]["epochs"] = content["epoch"] + 1


def updates_deleted(content: Content) -> None:
    del content["updates"]


def updates_none(content: Content) -> None:
    content["updates"] = None


def average_as_model(content: Content) -> None:
    """Put the module under `model` and leave `ema` None."""
    content["model"], content["ema"] = content["ema"], None


def average_and_model(content: Content) -> None:
    content["model"] = copy.deepcopy(content["ema"])


def no_modules(content: Content) -> None:
    content["model"] = content["ema"] = None


def average_deleted(content: Content) -> None:
    del content["ema"]


def average_as_state_dict(content: Content) -> None:
    content["ema"] = content["ema"].state_dict()


def average_in_fp32(content: Content) -> None:
    content["ema"] = content["ema"].float()


def average_without_optimizer(content: Content) -> None:
    content["model"] = copy.deepcopy(content["ema"])
    content["optimizer"] = content["updates"] = None


def args_unknown(content: Content) -> None:
    content["train_args"]["image_weights"] = False


def args_wrong_type(content: Content) -> None:
    content["train_args"]["cos_lr"] = "yes"


def args_unknown_optimizer(content: Content) -> None:
    content["train_args"]["optimizer"] = "Sophia"


def args_deleted(content: Content) -> None:
    del content["train_args"]


def args_none(content: Content) -> None:
    content["train_args"] = None


def args_other_optimizer(content: Content) -> None:
    """Ask for AdamW where the state is SGD's."""
    content["train_args"]["optimizer"] = "AdamW"


def args_auto(content: Content) -> None:
    content["train_args"]["optimizer"] = "auto"


def args_empty(content: Content) -> None:
    content["train_args"] = {}


def args_without_epochs(content: Content) -> None:
    """The trainer then plans the epochs of its defaults."""
    del content["train_args"]["epochs"]


def data_elsewhere(content: Content) -> None:
    content["train_args"]["data"] = "/no/such/place/data.yaml"


def device_of_another_machine(content: Content) -> None:
    content["train_args"]["device"] = "7"


def best_fitness_deleted(content: Content) -> None:
    for key in ("best_fitness", "stopper", "scaler", "modelopt", "train_metrics", "train_results", "date", "git"):
        content.pop(key, None)


def nan_in_weights(content: Content) -> None:
    next(iter(content["ema"].parameters())).data.view(-1)[3] = float("nan")


def inf_in_running_mean(content: Content) -> None:
    next(value for name, value in content["ema"].named_buffers() if name.endswith("running_mean"))[0] = float("inf")


def nan_in_momentum(content: Content) -> None:
    state = _biggest_state(content)
    next(value for value in state.values() if getattr(value, "ndim", 0) > 1).view(-1)[0] = float("nan")


def weight_cut_to_other_width(content: Content) -> None:
    """Leave a convolution fewer output channels than its own numbers say."""
    import torch

    layer = content["ema"].model[0].conv
    layer.weight = torch.nn.Parameter(layer.weight.data[:-2].clone(), requires_grad=False)


def names_of_other_data(content: Content) -> None:
    content["ema"].names = {0: "one", 1: "two", 2: "three"}


def state_dict_only(content: Content) -> None:
    state = content["ema"].state_dict()
    content.clear()
    content.update(state)


def calls_print(content: Content) -> None:
    """Add an object whose unpickling would call a function of the standard library, a harmless one."""
    content["note"] = _Calls()


class _Calls:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import os

        return os.getcwd, ()


EDITS: dict[str, Callable[[Content], None]] = {
    name: edit for name, edit in globals().items() if callable(edit) and not name.startswith("_")
    and getattr(edit, "__module__", "") == __name__
}  # fmt: skip
