"""The parts of a checkpoint, told by their structure: what looks like an optimizer is one, whatever its key.

Shapes of the state dicts as in ``torch/optim/optimizer.py``, ``torch/optim/lr_scheduler.py`` and
``torch/amp/grad_scaler.py`` (torch 2.14), fastai 2.8 and mmengine 0.10.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ckpt_tools.pickles import Call, is_mapping, pairs_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.tensors import TensorRef
from ckpt_tools.tensors.modules import Layer, is_module, module_tensors

__all__ = [
    "Group",
    "Part",
    "find_parts",
    "flatten",
    "is_args",
    "lookup",
    "optimizer_groups",
    "optimizer_state",
    "plain",
]

DEEPEST = 5  # levels of mappings looked into
WIDEST = 64  # elements of a list looked into

# The role a key suggests, for what structure alone can't tell; the first that matches any part of the path wins.
RNG = re.compile(r"rng|random_state|^seed_state$", re.I)
ROLE_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("rng", RNG),
    ("ema", re.compile(r"(^|[._])(model_?)?ema|averag|(^|[._])swa|teacher|shadow|polyak", re.I)),
    (
        "other",
        re.compile(
            r"criterion|postprocessor|feature_loss|loss_fn|metric|processing_params|buffer_names|param_shapes", re.I
        ),
    ),
)
# Keys that announce a part even when nothing is in it.
ANNOUNCES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("optimizer", re.compile(r"optim|^opt_state$", re.I)),
    ("scheduler", re.compile(r"sched", re.I)),
    ("scaler", re.compile(r"scaler", re.I)),
    ("ema", re.compile(r"(^|_)ema(_|$|state)|model_ema|ema_model|ema_net", re.I)),
    ("model", re.compile(r"^(model|net|network|state_dict|model_state_dict|module)$", re.I)),
)
ARGS_KEY = re.compile(
    r"^(train_)?(args?|opts?|config|cfg|hparams|hyper_?param(eter)?s|params|options|settings|flags)$", re.I
)
SCHEDULER_KEYS = frozenset({"last_epoch", "_step_count", "last_step", "_last_lr", "_last_value"})
CPU_RNG_BYTES = 5056  # torch.get_rng_state()


@dataclass
class Part:
    """One part: its ``role``, the dotted ``path`` it lies at, and its ``form``.

    Forms: ``module``, ``state_dict``, ``optimizer``, ``scheduler``, ``scaler``, ``rng``, ``args``, ``tensor``,
    and ``none`` or ``empty`` where the key is there and nothing in it. ``tensors`` are by name within the part;
    ``parameters`` are the names of those known to be trained.
    """

    role: str
    path: str
    form: str
    node: Node
    tensors: dict[str, TensorRef] = field(default_factory=dict)
    parameters: frozenset[str] = frozenset()
    buffers: frozenset[str] = frozenset()
    layers: list[Layer] = field(default_factory=list)  # of a pickled module, parents first

    @property
    def present(self) -> bool:
        return self.form not in ("none", "empty")

    @property
    def numel(self) -> int:
        return sum(tensor.numel for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @functools.cached_property
    def groups(self) -> list[Group]:
        """The parameter groups of an optimizer; empty where it keeps them in another form."""
        return optimizer_groups(self.node)

    @functools.cached_property
    def state(self) -> dict[Node, dict[str, Node]]:
        """Per parameter id, the state an optimizer keeps for it."""
        return optimizer_state(self.node)

    def dtypes(self) -> list[str]:
        """Element types of the tensors, the one with most elements first."""
        return _by_weight((str(tensor.dtype), tensor.numel) for tensor in self.tensors.values())

    def devices(self) -> list[str]:
        """Device tags of the storages, the one with most elements first."""
        return _by_weight((tensor.storage.location, tensor.numel) for tensor in self.tensors.values() if tensor.storage)


def _by_weight(weights: Iterable[tuple[str, int]]) -> list[str]:
    total: dict[str, int] = {}
    for name, weight in weights:
        total[name] = total.get(name, 0) + weight
    return sorted(total, key=lambda name: (-total[name], name))


@dataclass(frozen=True)
class Group:
    """A parameter group: the ids of its parameters and its options (``lr``, ``weight_decay``, …)."""

    params: tuple[Node, ...]
    options: Mapping[str, Node]


def lookup(node: Node, path: str) -> tuple[bool, Node]:
    """Whether a dotted path leads to something, and what."""
    for key in path.split("."):
        found = dict_of(node)
        if key not in found:
            return False, None
        node = found[key]
    return True, node


def dict_of(node: Node) -> dict[Node, Node]:
    """A mapping node, or an object with attributes (Namespace), as a dict; empty for anything else."""
    if isinstance(node, dict):
        return node
    if is_mapping(node):
        return dict(pairs_of(node))
    if isinstance(node, Call) and node.states and is_mapping(node.states[-1]):
        return dict(pairs_of(node.states[-1]))
    return {}


def plain(node: Node) -> Node:
    """A number or text wrapped in a numpy scalar, or anything else as it is."""
    if isinstance(node, Call) and node.path.endswith("core.multiarray.scalar") and isinstance(node.args, tuple):
        return numpy_scalar(node)
    return node


def numpy_scalar(node: Call) -> Node:
    """The value of ``numpy.core.multiarray.scalar(dtype, bytes)``, for the common number types."""
    from struct import error, unpack

    match node.args:
        case (Call(args=(str() as kind, *_)), data):
            raw = data if isinstance(data, bytes) else None
            if isinstance(data, Call) and isinstance(data.args, tuple) and data.args and isinstance(data.args[0], str):
                raw = data.args[0].encode("latin-1", "replace")
            form = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i", "u8": "<Q", "b1": "<?"}.get(
                kind.lstrip("<>=|")
            )
            try:
                return unpack(form, raw)[0] if form and raw is not None else None
            except error:
                return None
    return None


def find_parts(root: Node, tensors: Mapping[int, TensorRef]) -> list[Part]:
    """Every part below ``root``, in the order of the file. A node met before is not entered again."""
    return list(_search(root, tensors, "", 0, set()))


def _search(node: Node, tensors: Mapping[int, TensorRef], path: str, depth: int, seen: set[int]) -> Iterator[Part]:
    key = path.rsplit(".", 1)[-1]
    form = _form(node, tensors, path)
    if form:
        yield make_part(_role(form, path), path, form, node, tensors)
    elif key and _is_hollow(node):
        role = next((role for role, pattern in ANNOUNCES if pattern.search(key)), None)
        if role and depth <= 2:
            yield Part(role, path, "none" if node is None else "empty", node)
    elif ARGS_KEY.match(key) and is_args(node):
        yield Part("args", path, "args", node)
    elif depth < DEEPEST and id(node) not in seen:
        seen.add(id(node))
        for name, child in _inside(node):
            yield from _search(child, tensors, f"{path}.{name}" if path else name, depth + 1, seen)


def _is_hollow(node: Node) -> bool:
    """``None``, or a mapping or list with nothing in it."""
    if isinstance(node, (dict, list)):
        return not node
    return node is None or (is_mapping(node) and not list(pairs_of(node)))


def _inside(node: Node) -> Iterable[tuple[str, Node]]:
    if isinstance(node, (list, tuple)):
        return ((str(index), child) for index, child in enumerate(node[:WIDEST]))
    return ((str(key), child) for key, child in pairs_of(node) if isinstance(key, (str, int)))


def is_args(node: Node) -> bool:
    """Whether a node holds settings: a mapping or Namespace with text keys and at least one plain value."""
    found = dict_of(node)
    simple = (str, int, float, bool, type(None), list, tuple)
    rooms = (found, *map(dict_of, found.values()))  # settings may be sorted into rooms
    plain_value = any(isinstance(value, simple) for room in rooms for value in room.values())
    return plain_value and all(isinstance(key, str) for key in found)


def _form(node: Node, tensors: Mapping[int, TensorRef], path: str) -> str:
    """What a node is by its structure, or an empty string."""
    if is_module(node):
        return "module"
    if id(node) in tensors:
        tensor = tensors[id(node)]
        is_rng = tensor.dtype.name == "uint8" and len(tensor.shape) == 1 and tensor.shape[0] in (16, CPU_RNG_BYTES)
        return "rng" if is_rng or (path and RNG.search(path)) else ("" if path else "tensor")
    if path and RNG.search(path.rsplit(".", 1)[-1]) and node is not None:
        return "rng"
    built = isinstance(node, Call) and bool(node.states)  # a pickled optimizer or scheduler object, not its state dict
    keys = {key for key in dict_of(node) if isinstance(key, str)} if built or is_mapping(node) else set()
    if {"state", "param_groups"} <= keys or {"state", "hypers"} <= keys or "base_optimizer_state" in keys:
        return "optimizer"
    if keys & SCHEDULER_KEYS and (path or not _holds_parts(node, tensors)):
        return "scheduler"
    if {"scale", "growth_factor"} <= keys:
        return "scaler"
    return "state_dict" if keys and _is_state_dict(node, tensors) else ""


def _holds_parts(node: Node, tensors: Mapping[int, TensorRef]) -> bool:
    """Whether a mapping has weights or an optimizer directly in it: then it is a checkpoint, whatever its keys."""
    forms = (_form(child, tensors, "part") for child in dict_of(node).values() if is_mapping(child) or is_module(child))
    return any(form in ("module", "state_dict", "optimizer") for form in forms)


def _is_state_dict(node: Node, tensors: Mapping[int, TensorRef]) -> bool:
    """Mostly tensors under text keys, and not all of them single numbers."""
    values = [value for key, value in pairs_of(node)]
    if not all(isinstance(key, str) for key, _ in pairs_of(node)):
        return False
    held = [tensors[id(value)] for key, value in pairs_of(node) if id(value) in tensors and not RNG.search(key)]
    return len(held) * 10 >= len(values) * 6 and any(tensor.shape for tensor in held)


def _role(form: str, path: str) -> str:
    if form in ("optimizer", "scheduler", "scaler", "rng"):
        return form
    for role, pattern in ROLE_WORDS:
        if any(pattern.search(key) for key in path.split(".") if key):
            return role
    return "model"


def make_part(role: str, path: str, form: str, node: Node, tensors: Mapping[int, TensorRef]) -> Part:
    """A part with its tensors named."""
    if form == "module":
        return _module_part(role, path, node, tensors)
    named = dict(flatten(node, tensors))
    return Part(role, path, form, node, named)


def _module_part(role: str, path: str, node: Node, tensors: Mapping[int, TensorRef]) -> Part:
    named: dict[str, TensorRef] = {}
    parameters: list[str] = []
    buffers: list[str] = []
    found = module_tensors(node, tensors)
    layers = [layer for layer, again in found if not again]
    for layer, _ in found:
        for kind, own in ((parameters, layer.parameters), (buffers, layer.buffers)):
            for key, tensor in own.items():
                named[layer.path(key)] = tensor
                kind.append(layer.path(key))
    return Part(role, path, "module", node, named, frozenset(parameters), frozenset(buffers), layers)


Found = TypeVar("Found")


def flatten(node: Node, tensors: Mapping[int, Found]) -> Iterator[tuple[str, Found]]:
    """Every tensor below a node of mappings, lists and objects, by its dotted path; each node is entered once.

    ``tensors`` says by the ``id`` of a node what is found there.
    """
    stack: list[tuple[str, Node]] = [("", node)]
    seen: set[int] = set()
    while stack:
        path, current = stack.pop()
        if id(current) in tensors:
            yield path, tensors[id(current)]
            continue
        if isinstance(current, (str, bytes, int, float, type(None))) or id(current) in seen:
            continue
        seen.add(id(current))
        prefix = path + "." if path else ""
        inside = enumerate(current) if isinstance(current, (list, tuple)) else dict_of(current).items()
        named = [(_step(key, index), child) for index, (key, child) in enumerate(inside)]
        stack.extend((f"{prefix}{step}".strip(".") if step else path, child) for step, child in reversed(named))


def _step(key: Node, index: int) -> str:
    """A key as part of a name: a module's own tables add nothing, a key that is an object counts by its place."""
    if key in ("_modules", "_parameters", "_buffers"):
        return ""
    return str(key) if isinstance(key, (str, int)) else str(index)


def optimizer_groups(node: Node) -> list[Group]:
    """The parameter groups of an optimizer's state dict; empty where it keeps them in another form."""
    groups: list[Group] = []
    listed = dict_of(node).get("param_groups")
    for group in listed if isinstance(listed, list) else ():
        options = {key: value for key, value in dict_of(group).items() if isinstance(key, str)}
        params = options.pop("params", ())
        listed_ids = params if isinstance(params, (list, tuple)) else ()
        ids = (one if isinstance(one, (int, str)) else None for one in listed_ids)  # None: no id anything is kept for
        groups.append(Group(tuple(ids), options))
    return groups


def optimizer_state(node: Node) -> dict[Node, dict[str, Node]]:
    """Per parameter id, the state kept for it (``momentum_buffer``, ``exp_avg``, …)."""
    state = dict_of(node).get("state")
    return {
        key: {k: v for k, v in dict_of(value).items() if isinstance(k, str)} for key, value in dict_of(state).items()
    }
