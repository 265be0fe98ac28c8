"""Whether the parts fit each other: EMA and model, optimizer and parameters, layers and weights, classes and head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.checks.names import few
from ckpt_tools.checks.portability import PREFIXES
from ckpt_tools.findings import Finding, as_text, finding
from ckpt_tools.layouts import Part
from ckpt_tools.layouts.parts import dict_of
from ckpt_tools.tensors import TensorRef
from ckpt_tools.tensors.modules import Layer, class_name

__all__ = ["check_consistency", "head_classes", "spelled_as", "trainable"]

# State tensors that have their parameter's shape (torch/optim/*.py, torch 2.14). Others are scalars or factored.
SHAPED_STATE = frozenset({"momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg",
                          "acc_delta", "sum", "exp_inf", "prev", "ax"})  # fmt: skip
LOW_RANK = frozenset({"rank", "proj_type", "update_proj_gap"})  # GaLore
MOST_LEADING = 4  # parts of names left out to match those of another file
NOT_TRAINED = ("running_mean", "running_var", "num_batches_tracked", "n_averaged")


def check_consistency(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Every contradiction between the parts of one file."""
    recognised = checkpoint.recognised
    if recognised is None or (checkpoint.pickle is not None and checkpoint.pickle.trouble is not None):
        return
    yield from _ema_against_model(recognised.role("model"), recognised.role("ema"))
    for part in recognised.weights:
        if part.form == "module":
            yield from _layer_attributes(part.layers, part.path)
            yield from _classes(part.layers, part)
    yield from _optimizer_shapes(checkpoint)


def plain_name(name: str) -> str:
    """A tensor's name without the prefix of a wrapper."""
    return name.removeprefix(next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""))


def plain_names(tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """Tensors by their names without the prefixes of wrappers."""
    return {plain_name(name): tensor for name, tensor in tensors.items()}


def spelled_as(ours: Iterable[str], theirs: Iterable[str]) -> dict[str, str]:
    """Their names of tensors, each with our spelling of it; one without a counterpart comes without its wrapper.

    Prefixes of wrappers, on either side, count for nothing, and neither do leading parts that most names of one side
    have in common, where the names are strangers otherwise (``model.0.bias`` for ``0.bias``). No two become one.
    """
    mine, other = _unwrapped(ours), _unwrapped(theirs)
    if not mine.keys() & other.keys():
        fits = max(_respelled(mine, other), key=_common)
        mine, other = fits if _common(fits) * 2 >= min(len(mine), len(other)) else (mine, other)
    spelling = {own: mine.get(name, name) for name, own in other.items()}
    return spelling if len(set(spelling.values())) == len(spelling) else {name: name for name in spelling}


def _unwrapped(names: Iterable[str]) -> dict[str, str]:
    """What names are without wrappers, with the names; where two would be one, they stay as they are."""
    listed = {name: name for name in names}
    plain = {plain_name(name): name for name in listed}
    return plain if len(plain) == len(listed) else listed


def _without(names: dict[str, str], prefix: str) -> dict[str, str]:
    shortened = {name.removeprefix(prefix): own for name, own in names.items()}
    return shortened if len(shortened) == len(names) else names


def _common(pair: tuple[dict[str, str], dict[str, str]]) -> int:
    return len(pair[0].keys() & pair[1].keys())


def _respelled(mine: dict[str, str], other: dict[str, str]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Both sets of names as they are, then with leading parts left out of theirs, then of ours."""
    yield mine, other
    for prefix in _leading(other):
        yield mine, _without(other, prefix)
    for prefix in _leading(mine):
        yield _without(mine, prefix), other


def _leading(names: Iterable[str]) -> Iterator[str]:
    """The leading parts most names have in common, the shortest first."""
    split = [name.split(".") for name in names]
    for depth in range(1, MOST_LEADING + 1):
        counts = Counter(".".join(parts[:depth]) for parts in split if len(parts) > depth)
        prefix, count = counts.most_common(1)[0] if counts else ("", 0)
        if count * 2 <= len(split):
            return
        yield prefix + "."


def _ema_against_model(models: list[Part], averages: list[Part]) -> Iterator[Finding]:
    """Same names, same shapes. Where the average has many other names, the two are not the same model."""
    for average in averages:
        theirs = plain_names(average.tensors)
        ours = next((plain_names(model.tensors) for model in models if _related(average, theirs, model)), None)
        if ours is None:
            continue
        common = [name for name in theirs if name in ours]
        wrong = [name for name in common if theirs[name].shape != ours[name].shape]
        if len(wrong) * 2 > len(common):
            continue  # a teacher of another size, not an average of this model
        if average.form == "module":
            wrong += sorted(set(ours) ^ set(theirs))
        if wrong:
            yield finding("ema-misfit", average.path, count=len(wrong), tensors=few(wrong))


def _related(average: Part, names: Mapping[str, TensorRef], model: Part) -> bool:
    if average.form == model.form == "module":
        return class_name(average.node) == class_name(model.node)
    common = len(set(names) & set(plain_names(model.tensors)))
    return common * 10 >= max(len(names), 1) * 9


def trainable(part: Part) -> dict[str, TensorRef]:
    """The tensors of a set of weights an optimizer can hold: parameters, or what is not plainly a statistic."""
    if part.form == "module":
        return {name: tensor for name, tensor in part.tensors.items() if name in part.parameters}
    return {n: t for n, t in part.tensors.items() if t.dtype.floating and not n.endswith(NOT_TRAINED)}


def _optimizer_shapes(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Optimizer state against all tensors that could be its parameters, by shape (order differs between scripts)."""
    recognised = checkpoint.recognised
    assert recognised is not None
    optimizers = [part for part in recognised.role("optimizer") if part.groups]
    if not recognised.weights or not optimizers or recognised.layout.name in ("ultralytics", "deepspeed"):
        return  # ultralytics: parameter by parameter, in grouping.py; DeepSpeed flattens its parameters
    models = recognised.role("model") or recognised.role("ema")
    params = [t for part in models for t in trainable(part).values()]
    counted = {id(t) for part in (*recognised.weights, *recognised.role("optimizer")) for t in part.tensors.values()}
    params += [t for t in checkpoint.tensors.values() if t.dtype.floating and id(t) not in counted]  # loose parameters
    if any(LOW_RANK & group.options.keys() for part in optimizers for group in part.groups):
        return  # moments of projected gradients have other shapes than their parameters
    known = sum(len(group.params) for part in optimizers for group in part.groups)
    if known > len(params):
        yield finding("group-count", optimizers[0].path, have=known, want=len(params))
        return
    exact = _positional(optimizers, models, checkpoint) if known == sum(len(trainable(m)) for m in models) else None
    if exact is not None:
        if exact:
            yield finding("optimizer-shape", optimizers[0].path, tensors=few(exact))
        return
    room = Counter(tensor.shape for tensor in params)
    for part in optimizers:
        yield from _misfits(part, checkpoint, room.copy())


def _positional(optimizers: list[Part], models: list[Part], checkpoint: Checkpoint) -> list[str] | None:
    """Misfits by position, where one optimizer holds all parameters of one model in a single group; else ``None``."""
    if len(optimizers) != 1 or len(models) != 1:
        return None
    groups = optimizers[0].groups
    params = list(trainable(models[0]).items())
    if len(groups) != 1 or len(groups[0].params) != len(params):
        return None
    state = optimizers[0].state
    wrong = []
    for key, (name, param) in zip(groups[0].params, params):
        if any(shape != param.shape for shape in _shapes(state.get(key, {}), checkpoint)):
            wrong.append(name)
    return wrong


def _shapes(state: Mapping[str, object], checkpoint: Checkpoint) -> list[tuple[int, ...]]:
    tensors = (checkpoint.tensors.get(id(state[key])) for key in SHAPED_STATE if key in state)
    return [tensor.shape for tensor in tensors if tensor is not None]


def _misfits(part: Part, checkpoint: Checkpoint, room: Counter[tuple[int, ...]]) -> Iterator[Finding]:
    wrong = []
    for key, state in part.state.items():
        shapes = set(_shapes(state, checkpoint))
        if len(shapes) > 1:
            wrong.append(f"parameter {as_text(key)} has state of several shapes")
        for shape in shapes:
            room[shape] -= 1
            if room[shape] < 0:
                wrong.append(f"parameter {as_text(key)} has state of shape {shape}, no such parameter is left")
    if wrong:
        yield finding("optimizer-shape", part.path, tensors=few(wrong))


# For each layer class: its attributes, and which dimension of the weight they must equal (torch/nn/modules, 2.14).
LAYER_SHAPES: dict[str, tuple[tuple[str, int], ...]] = {
    **{f"Conv{n}d": (("out_channels", 0), ("in_channels/groups", 1)) for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": (("in_channels", 0), ("out_channels/groups", 1)) for n in (1, 2, 3)},
    "Linear": (("out_features", 0), ("in_features", 1)),
    "Embedding": (("num_embeddings", 0), ("embedding_dim", 1)),
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"), (("num_features", 0),)),
    "InstanceNorm2d": (("num_features", 0),),
    "GroupNorm": (("num_channels", 0),),
}  # fmt: skip


def _layer_attributes(layers: list[Layer], part: str) -> Iterator[Finding]:
    """Layers whose numbers contradict the shape of their weight."""
    for layer in layers:
        weight = layer.parameters.get("weight")
        if weight is None or not layer.kind.startswith("torch.nn."):
            continue
        for attribute, dimension in LAYER_SHAPES.get(layer.kind.rsplit(".", 1)[-1], ()):
            value = _attribute(layer, attribute)
            if value is not None and len(weight.shape) > dimension and value != weight.shape[dimension]:
                where = f"{part}.{layer.name}".strip(".")
                yield finding(
                    "layer-misfit", where, layer=layer.name, attribute=attribute, value=value, shape=weight.shape
                )


def _attribute(layer: Layer, name: str) -> int | None:
    own, _, divisor = name.partition("/")
    value, by = layer.attributes.get(own), layer.attributes.get(divisor) if divisor else 1
    if type(value) is int and type(by) is int and by > 0:
        return value // by
    return None


def _classes(layers: list[Layer], part: Part) -> Iterator[Finding]:
    """``nc`` and ``names`` against the width of the head's last layers (YOLO families)."""
    root = layers[0].attributes
    names, count = dict_of(root.get("names")) or root.get("names"), root.get("nc")
    head = head_classes(layers)
    if head is None:
        return
    listed = len(names) if isinstance(names, (dict, list, tuple)) and names else None
    if isinstance(count, int) and count != head:
        yield finding("class-count", part.path, head=head, source="nc", count=count)
    elif listed is not None and listed != head:
        yield finding("class-names", part.path, head=head, count=listed)


def head_classes(layers: list[Layer]) -> int | None:
    """How many classes the head's weights predict; ``None`` where the head is not one we know.

    ultralytics 8.x: the last convolution of each branch of ``cv3`` has ``nc`` channels, Classify's ``linear`` has
    ``nc`` features. yolov5: each convolution of ``m`` has ``na * (nc + 5)`` channels.
    """
    heads = [layer for layer in layers if {"cv3", "linear", "m"} & set(layer.children)]
    for layer in reversed(heads):
        kind = layer.kind.rsplit(".", 1)[-1]
        inside = [other for other in layers if other.name.startswith(layer.name + ".")]
        if kind == "Classify":
            return _width(next((other for other in inside if other.name == layer.name + ".linear"), None))
        if (
            kind in ("Detect", "Segment", "Pose", "OBB", "Segment26", "Pose26", "OBB26", "v10Detect")
            and "cv3" in layer.children
        ):
            branch = [other for other in inside if other.name.startswith(layer.name + ".cv3.0.")]
            return _width(next((other for other in reversed(branch) if "weight" in other.parameters), None))
        if kind in ("Detect", "Segment") and "m" in layer.children and "yolo" in layer.kind:
            width = _width(next((other for other in inside if other.name == layer.name + ".m.0"), None))
            anchors, masks = layer.attributes.get("na"), layer.attributes.get("nm", 0)
            if width and type(anchors) is int and anchors > 0 and type(masks) is int:
                return width // anchors - 5 - masks
    return None


def _width(layer: Layer | None) -> int | None:
    weight = layer.parameters.get("weight") if layer else None
    return weight.shape[0] if weight is not None and weight.shape else None
