"""Which optimizer a state dict belongs to, told by the options of its groups and the state it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ckpt_tools.checks.context import Context, release
from ckpt_tools.findings import Finding, as_text, finding
from ckpt_tools.layouts import Part, Recognised
from ckpt_tools.layouts.parts import plain
from ckpt_tools.layouts.ultralytics import auto_choices

__all__ = ["check_optimizer", "check_state", "optimizer_kind"]


@dataclass(frozen=True)
class Kind:
    """An optimizer class: options only its groups have, and what its state holds once it has stepped."""

    name: str
    options: frozenset[str]
    state: frozenset[str]


def _kind(name: str, options: str, state: str) -> Kind:
    return Kind(name, frozenset(options.split()), frozenset(state.split()))


# torch/optim/*.py of torch 2.14 and ultralytics/optim/muon.py of 8.4.190; the first whose options are there wins.
KINDS: tuple[Kind, ...] = (
    _kind("MuSGD", "use_muon", "momentum_buffer"),
    _kind("NAdam", "betas momentum_decay", "step exp_avg exp_avg_sq"),
    _kind("AdamW", "betas amsgrad", "step exp_avg exp_avg_sq"),
    _kind("RMSProp", "alpha centered", "step square_avg"),
    _kind("SGD", "momentum dampening nesterov", ""),
    _kind("RAdam", "betas decoupled_weight_decay", "step exp_avg exp_avg_sq"),
    _kind("Adamax", "betas", "step exp_avg exp_inf"),
    _kind("Adagrad", "lr_decay", "step sum"),
    _kind("Adadelta", "rho", "square_avg acc_delta"),
    _kind("LBFGS", "history_size", ""),
)
SAME = {"adam": "adamw"}  # as far as their state dicts go


def optimizer_kind(part: Part) -> Kind | None:
    """The kind of an optimizer part, or ``None`` for one torch does not have."""
    options = {key for group in part.groups for key in group.options}
    return next((kind for kind in KINDS if kind.options <= options), None)


def check_state(part: Part) -> Iterator[Finding]:
    """Half of an Adam state: the trainer's first step fails on the other half."""
    kind = optimizer_kind(part)
    if kind is None or kind.name != "AdamW":
        return
    for key, state in part.state.items():
        if ("exp_avg" in state) != ("exp_avg_sq" in state):
            missing = "exp_avg_sq" if "exp_avg" in state else "exp_avg"
            yield finding(
                "optimizer-misfit", f"{part.path}.state.{as_text(key)}", wanted=kind.name, why=f"{missing} is missing"
            )
            return


def check_optimizer(found: Recognised, part: Part, context: Context) -> Iterator[Finding]:
    """ultralytics: the optimizer the saved arguments name, or may choose, against the saved state."""
    kind = optimizer_kind(part)
    name = found.args.get("optimizer")
    if not isinstance(name, str) or kind is None:
        return
    wanted = SAME.get(name.lower(), name.lower())
    version = release(context.target.version if context.target else found.version)
    if wanted == "auto":
        choices = {SAME.get(choice, choice) for choice in auto_choices(version)}
        if choices and kind.name.lower() not in choices:
            names = " or ".join(sorted(choices))
            yield finding(
                "optimizer-misfit", "train_args.optimizer", wanted=f"auto ({names})", why=f"it is {kind.name}'s"
            )
        else:
            yield finding("optimizer-auto", "train_args.optimizer", kind=kind.name)
    elif wanted in {known.name.lower() for known in KINDS} and wanted != kind.name.lower():
        yield finding("optimizer-misfit", "train_args.optimizer", wanted=name, why=f"it is {kind.name}'s")
    yield from _initial_lr(found, part)


def _initial_lr(found: Recognised, part: Part) -> Iterator[Finding]:
    warmup = plain(found.args.get("warmup_epochs"))
    lacking = any("initial_lr" not in group.options for group in part.groups)
    if lacking and isinstance(warmup, (int, float)) and warmup > 0:
        yield finding("no-initial-lr", f"{part.path}.param_groups")
