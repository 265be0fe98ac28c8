"""ultralytics: the optimizer's groups parameter by parameter, and what the target release refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.checks.consistency import SHAPED_STATE
from ckpt_tools.checks.context import Context, Target, release
from ckpt_tools.checks.machine import installed_packages
from ckpt_tools.checks.names import few, shape_text
from ckpt_tools.findings import Finding, finding
from ckpt_tools.layouts import Group, Part, Recognised
from ckpt_tools.layouts.arguments import refused_arguments
from ckpt_tools.layouts.parts import dict_of, plain
from ckpt_tools.layouts.ultralytics import PlannedGroup, group_rules, optimizer_names, plan_groups, structures
from ckpt_tools.tensors.modules import Layer

__all__ = ["check_target"]

KNOWN_CLASSES = ("torch.", "ultralytics.")
MUON_GROUPS = 8


def check_target(checkpoint: Checkpoint, context: Context) -> Iterator[Finding]:
    """Group sizes and membership, group order and saved arguments, against the file's own release and the target."""
    found = checkpoint.recognised
    if found is None or found.layout.name != "ultralytics" or found.epoch is None or found.epoch < 0:
        return
    part = next((part for part in found.role("optimizer") if part.groups), None)
    weights = next((part for part in found.role("ema") + found.role("model") if part.form == "module"), None)
    if part is not None and weights is not None:
        yield from _groups(checkpoint, found, context, part, weights)
    yield from _arguments(found, context)
    yield from _dill(checkpoint, found, context)


def _groups(
    checkpoint: Checkpoint, found: Recognised, context: Context, part: Part, weights: Part
) -> Iterator[Finding]:
    layers = weights.layers
    groups = part.groups
    if any(layer.kind and not layer.kind.startswith(KNOWN_CLASSES) for layer in layers):
        return  # a model of the user's own classes: which of them are norms can't be told from names
    if found.args.get("distill_model"):
        return  # the teacher's parameters are in the groups, but not in the file (8.4.77 and newer)
    muon = len(groups) == MUON_GROUPS and any(group.options.get("use_muon") is not None for group in groups)
    sizes = [len(group.params) for group in groups]
    own = plan_groups(layers, group_rules(release(found.version)), muon)
    target = context.target
    wanted = _wanted(layers, found, target, muon)
    fitting = next((plan for plan in (own, wanted) if _sizes(plan) == sizes), None)
    if _built(found.version, layers) != _built(target.version if target else found.version, layers):
        yield finding("head-changed", weights.path, target=target or "the trainer", version=found.version or "the file")
        return
    if fitting is None:
        want = _text(_sizes(own))
        yield finding("group-sizes", part.path, remedy=_repair_for(target), have=_text(sizes), want=want, target=target)
        return
    yield from _shapes(checkpoint, part, groups, fitting, weights)
    if _labels(own) == _labels(wanted) and _sizes(wanted) != sizes:
        want = f"{_text(_sizes(wanted))} (in {target})"
        yield finding("group-sizes", part.path, remedy=_repair_for(target), have=_text(sizes), want=want, target=target)
    elif _sizes(wanted) != sizes or (fitting is own and _labels(own) != _labels(wanted)):
        want, have, version = ", ".join(_labels(wanted)), ", ".join(_labels(own)), found.version or "another version"
        facts = {"target": target or "the trainer", "version": version, "want": want, "have": have}
        yield finding("group-order", part.path, remedy=_repair_for(target), **facts)


def _repair_for(target: Target | None) -> str:
    """The command that mends it for a target that was named; the catalogue's own for the one that is installed."""
    return "ckpt repair {path} --target {target}" if target is not None and target.source == "flag" else ""


def _built(version: str | None, layers: list[Layer]) -> set[str]:
    """Which of the ways of building models that releases differ in shaped this one."""
    return {name for name in structures(release(version)) if CONCERNS[name](layers)}


def _old_head(layers: list[Layer]) -> bool:
    """A detection head that releases differ about: YOLO11 and newer have depth-wise convolutions in all of them."""
    newer = any(layer.kind.endswith((".C3k2", ".A2C2f")) for layer in layers)
    return not newer and any(".cv3." in layer.name for layer in layers)


def _unscaled(layers: list[Layer]) -> bool:
    """Blocks whose inside depends on the model's scale, in a model of which none was given."""
    yaml = dict_of(layers[0].attributes.get("yaml"))
    scaled = bool(yaml.get("scale")) or "scales" in yaml
    return bool(yaml) and not scaled and any(layer.kind.endswith((".C3k2", ".A2C2f")) for layer in layers)


def _own_head(layers: list[Layer]) -> bool:
    """A yaml that asks for another head than the one all releases build."""
    yaml = dict_of(layers[0].attributes.get("yaml"))
    return yaml.get("reg_max", 16) != 16 or bool(yaml.get("end2end"))


CONCERNS: dict[str, Callable[[list[Layer]], bool]] = {
    "depthwise-head": _old_head,
    "reg-max-16": _own_head,
    "unscaled-c3k": _unscaled,
}


def _wanted(layers: list[Layer], found: Recognised, target: Target | None, muon: bool) -> list[PlannedGroup]:
    """The groups the target would make: its optimizer is the saved one (``auto`` is taken to choose the same)."""
    rules = group_rules(release(target.version if target else found.version))
    return plan_groups(layers, rules, muon and "musgd_order" in rules and bool(rules["musgd_order"]))


def _sizes(plan: list[PlannedGroup]) -> list[int]:
    return [len(group.names) for group in plan]


def _labels(plan: list[PlannedGroup]) -> list[str]:
    return [group.label for group in plan]


def _text(sizes: list[int]) -> str:
    return " + ".join(map(str, sizes))


def _shapes(
    checkpoint: Checkpoint, part: Part, groups: list[Group], plan: list[PlannedGroup], weights: Part
) -> Iterator[Finding]:
    """Every state tensor against the parameter at its place in its group."""
    state = part.state
    wrong = []
    for group, planned in zip(groups, plan):
        for key, name in zip(group.params, planned.names):
            param = weights.tensors.get(name)
            for label, node in state.get(key, {}).items():
                tensor = checkpoint.tensors.get(id(node))
                if tensor is not None and param is not None and label in SHAPED_STATE and tensor.shape != param.shape:
                    wrong.append(f"{name} {label} {shape_text(tensor.shape)} for {shape_text(param.shape)}")
    if wrong:
        yield finding("optimizer-shape", part.path, tensors=few(wrong))


def _arguments(found: Recognised, context: Context) -> Iterator[Finding]:
    target = context.target
    if target is None:
        return
    args = {key: plain(value) for key, value in found.args.items()}
    refused = refused_arguments(args, release(target.version))
    optimizer = args.get("optimizer")
    if isinstance(optimizer, str) and optimizer.lower() not in optimizer_names(release(target.version)):
        refused.append(f"optimizer={optimizer} (unknown)")
    if refused:
        shown = few(refused, 8)
        yield finding("args-refused", "train_args", remedy=_repair_for(target), target=target, names=shown)


def _dill(checkpoint: Checkpoint, found: Recognised, context: Context) -> Iterator[Finding]:
    target = context.target
    if (
        "dill" not in checkpoint.packages
        or target is None
        or target.source == "file"
        or target.version == found.version
    ):
        return
    there = target.source == "installed" and installed_packages(["dill"], context.python)[0].get("dill")
    if not there:
        yield finding("needs-dill", "data.pkl", target=target)
