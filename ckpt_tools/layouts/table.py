"""The layouts: one record per trainer family. Facts are the trainers' own source (versions in the comments).

A file is held against the records in order; the first whose keys are all there wins. Paths are dotted keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["LAYOUTS", "Layout", "layout_named"]


@dataclass(frozen=True)
class Layout:
    """One way to lay out a checkpoint.

    ``keys`` must all be there (dotted ones inside mappings), ``any_key`` at least one, ``only`` nothing else,
    ``globals`` one name the pickle imports starting so. ``roles`` maps a role to where it lies; what is not
    listed is found by structure. ``needs`` are the roles without which its trainer refuses, restarts or loses
    state. ``epoch_is`` tells whether the number stored is the ``last`` finished epoch or the ``next`` one.
    ``stripped`` are the values by which its own strip marks a file as finished. ``weights_mark`` are keys whose
    absence, all together, says the file was saved as weights only. ``averaged`` tells that ``model`` holds the
    averaged weights, ``module`` that weights must be a pickled module. ``resume`` is the command that resumes,
    ``lost`` what no resume brings back, ``settings`` the file of the run a resume takes its settings from, and from
    there alone. ``strips`` are the keys its own strip empties. ``plain_args`` tells that no resume reads the saved
    arguments, so that a Namespace may become a dict.
    """

    name: str
    trainer: str = ""
    keys: tuple[str, ...] = ()
    any_key: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    globals: tuple[str, ...] = ()
    roles: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ("optimizer",)
    epoch_is: str = "last"
    planned: tuple[str, ...] = ()
    stripped: dict[str, Any] = field(default_factory=dict)
    weights_mark: tuple[str, ...] = ()
    averaged: bool = False
    module: bool = False
    resume: str = ""
    lost: tuple[str, ...] = ()
    settings: str = ""
    strips: tuple[str, ...] = ()
    plain_args: bool = False


_YOLO_STRIP = {"epoch": -1, "optimizer": None}
_YOLO_ROLES = {"model": "model", "ema": "ema", "optimizer": "optimizer", "epoch": "epoch"}

_ULTRALYTICS = Layout(  # ultralytics 8.0.0 to 8.4.190, engine/trainer.py save_model
    "ultralytics",
    "ultralytics",
    keys=("train_args",),
    any_key=("ema", "model"),
    roles={**_YOLO_ROLES, "args": "train_args", "scaler": "scaler", "metrics": "train_metrics"},
    needs=("optimizer", "epoch", "args"),
    planned=("train_args.epochs",),
    stripped=_YOLO_STRIP,
    module=True,
    resume="yolo train resume model={path}",
    lost=("live weights", "random state", "position within the epoch"),
)

LAYOUTS: tuple[Layout, ...] = (
    _ULTRALYTICS,
    replace(_ULTRALYTICS, keys=("epoch", "ema", "updates"), globals=("ultralytics.nn.",)),  # its arguments were lost
    Layout(  # yolov7 and yolov5 v5.0, train.py
        "yolov7",
        "yolov7",
        keys=("epoch", "model", "optimizer", "training_results"),
        roles=_YOLO_ROLES,
        stripped=_YOLO_STRIP,
        module=True,
        resume="python train.py --resume {path}",
        lost=("scaler", "random state"),
        settings="opt.yaml",
        strips=("optimizer", "training_results", "wandb_id", "ema", "updates"),
    ),
    Layout(  # YOLOv6 e86a483, yolov6/core/engine.py; its strip leaves the epoch as it is
        "yolov6",
        "yolov6",
        keys=("model", "ema", "updates", "optimizer", "scheduler", "epoch"),
        globals=("yolov6.",),
        roles={**_YOLO_ROLES, "scheduler": "scheduler"},
        needs=("optimizer", "scheduler", "epoch"),
        stripped={"optimizer": None, "ema": None},
        module=True,
        resume="python tools/train.py --resume {path}",
        settings="args.yaml",
        strips=("optimizer", "ema", "updates"),
    ),
    Layout(  # yolov5 v6 to v7 and yolov9, train.py; told apart by class names in recognise.py
        "yolov5",
        "yolov5",
        keys=("epoch", "model", "ema", "updates", "optimizer"),
        roles={**_YOLO_ROLES, "args": "opt"},
        needs=("optimizer", "epoch"),
        planned=("opt.epochs",),
        stripped=_YOLO_STRIP,
        module=True,
        resume="python train.py --resume {path}",
        lost=("scaler", "random state"),
        settings="opt.yaml",
        strips=("optimizer", "best_fitness", "ema", "updates"),
    ),
    Layout(  # YOLOX 6ddff48, yolox/core/trainer.py
        "yolox",
        "yolox",
        keys=("start_epoch", "model"),
        any_key=("best_ap", "curr_ap"),
        roles={"model": "model", "optimizer": "optimizer", "epoch": "start_epoch"},
        epoch_is="next",
        averaged=True,
    ),
    Layout(  # super-gradients 3.7.1, training/sg_trainer/sg_trainer.py; average_model.pth has no optimizer by design
        "super-gradients",
        "super-gradients",
        keys=("net", "packages"),
        roles={"model": "net", "ema": "ema_net", "optimizer": "optimizer_state_dict", "epoch": "epoch",
               "scheduler": "torch_scheduler_state_dict", "scaler": "scaler_state_dict"},
        epoch_is="next",
        weights_mark=("optimizer_state_dict", "scaler_state_dict"),
    ),
    Layout(  # mmengine 0.10.7, runner/runner.py; the names of EMA and live weights are swapped by EMAHook
        "mmengine",
        "mmengine",
        keys=("meta", "state_dict"),
        any_key=("message_hub", "optimizer", "param_schedulers"),
        roles={"model": "state_dict", "ema": "ema_state_dict", "optimizer": "optimizer",
               "scheduler": "param_schedulers", "epoch": "meta.epoch"},
        needs=("optimizer", "epoch"),
        epoch_is="next",
        planned=("message_hub.runtime_info.max_epochs",),
        weights_mark=("message_hub", "optimizer", "param_schedulers"),
    ),
    Layout(  # RT-DETR 068dfde, src/solver
        "rt-detr",
        "rt-detr",
        keys=("last_epoch", "model", "date"),
        roles={"model": "model", "ema": "ema", "optimizer": "optimizer", "scheduler": "lr_scheduler",
               "scaler": "scaler", "epoch": "last_epoch"},
    ),
    Layout(  # DAMO-YOLO 319572e, damo/apis/detector_trainer.py
        "damo-yolo",
        "damo-yolo",
        keys=("epoch", "model", "optimizer", "feature_loss"),
        only=("epoch", "model", "optimizer", "feature_loss"),
        epoch_is="next",
        averaged=True,
    ),
    Layout(  # rf-detr 1.11, training/trainer.py: Lightning's keys; best files carry an empty list of optimizers
        "rf-detr",
        "rfdetr",
        keys=("rfdetr_version", "optimizer_states"),
        roles={"model": "state_dict", "optimizer": "optimizer_states", "scheduler": "lr_schedulers", "epoch": "epoch",
               "args": "args"},
        planned=("args.epochs",),
        stripped={"optimizer_states": []},
    ),
    Layout(  # Lightning 2.6.6, trainer/connectors/checkpoint_connector.py
        "lightning",
        "lightning",
        keys=("pytorch-lightning_version", "state_dict"),
        roles={"model": "state_dict", "optimizer": "optimizer_states", "scheduler": "lr_schedulers", "epoch": "epoch",
               "args": "hyper_parameters"},
        planned=("hyper_parameters.max_epochs", "args.epochs"),
        weights_mark=("optimizer_states", "lr_schedulers", "callbacks"),
    ),
    Layout(  # timm 1.0.31, utils/checkpoint_saver.py
        "timm",
        "timm",
        keys=("state_dict", "arch", "version"),
        roles={"model": "state_dict", "ema": "state_dict_ema", "optimizer": "optimizer", "scaler": "amp_scaler",
               "epoch": "epoch", "args": "args"},
        planned=("args.epochs",),
        plain_args=True,
    ),
    Layout(  # libreyolo 1.6.0; model is the average, train_model the live weights
        "libreyolo",
        "libreyolo",
        keys=("libreyolo_version", "model"),
        roles={"model": "train_model", "ema": "model", "optimizer": "optimizer", "epoch": "epoch", "args": "config"},
        planned=("config.epochs",),
        weights_mark=("optimizer", "train_model", "epoch"),
    ),
    Layout(  # Detectron2 02b5c4e2, engine/defaults.py
        "detectron2",
        "detectron2",
        keys=("model", "trainer._trainer", "iteration"),
        roles={"model": "model", "optimizer": "trainer._trainer.optimizer", "epoch": "iteration",
               "scaler": "trainer._trainer.grad_scaler", "scheduler": "trainer.hooks.LRScheduler"},
    ),
    Layout(  # Composer 0.32.1, trainer/trainer.py
        "composer",
        "mosaicml",
        keys=("state.model", "state.timestamp"),
        roles={"model": "state.model", "optimizer": "state.optimizers", "scheduler": "state.schedulers",
               "scaler": "state.scaler", "epoch": "state.timestamp.Timestamp.epoch", "rng": "rng"},
        epoch_is="next",
    ),
    Layout(  # pytorch-ignite 0.5.5, handlers/checkpoint.py: to_save of the user, the engine counts iterations
        "ignite",
        "pytorch-ignite",
        keys=("trainer.epoch_length", "trainer.max_epochs"),
        roles={"epoch": "trainer.iteration / trainer.epoch_length"},
        epoch_is="next",
        planned=("trainer.max_epochs",),
    ),
    Layout(  # DeepSpeed 0.19.8, runtime/engine.py: under ZeRO the optimizer lies in files beside this one
        "deepspeed",
        "deepspeed",
        keys=("module", "ds_version"),
        roles={"model": "module", "optimizer": "optimizer", "scheduler": "lr_scheduler", "epoch": "global_steps"},
    ),
    Layout(  # catalyst 22.4, callbacks/checkpoint.py
        "catalyst",
        "catalyst",
        keys=("epoch_step", "batch_step", "model_state_dict"),
        roles={"epoch": "epoch_step"},
        epoch_is="next",
    ),
    Layout(  # the ImageNet example of pytorch/examples, which stores the next epoch
        "imagenet-example",
        keys=("arch", "state_dict", "epoch", "optimizer"),
        any_key=("best_acc1", "best_prec1", "best_acc"),
        epoch_is="next",
    ),
)  # fmt: skip

# What no record fits is told by structure: several parts, or only one kind of part.
STRUCTURAL: tuple[Layout, ...] = (
    Layout("plain", needs=()),
    Layout("bare", needs=()),
    Layout("module", needs=()),
    Layout("part", needs=()),
    Layout("tensors", needs=()),
    Layout("none", needs=()),
)


def layout_named(name: str) -> Layout:
    """The record called ``name``; raises ``KeyError`` for a name that is none."""
    return {layout.name: layout for layout in (*LAYOUTS, *STRUCTURAL)}[name]
