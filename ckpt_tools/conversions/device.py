"""Tensors, ``torch.device`` objects and the saved ``device`` argument moved to other devices.

Tags as ``torch/serialization.py`` writes and reads them (torch 2.14); the saved argument as ``select_device`` of the
YOLO trainers reads it (``ultralytics/utils/torch_utils.py`` 8.4.190, ``utils/torch_utils.py`` of yolov5 7.0).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

from ckpt_tools.checks.names import counted, few
from ckpt_tools.conversions.request import Conversion
from ckpt_tools.findings import as_text, writable
from ckpt_tools.layouts import Part
from ckpt_tools.layouts.parts import dict_of, whole_number
from ckpt_tools.pickles import Call, GlobalRef, Persistent, is_mapping, pairs_of
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.edits import graph, put
from ckpt_tools.plans.model import Outcome
from ckpt_tools.tensors import TensorRef

__all__ = ["move_devices", "move_tensors"]

Move = Callable[[str], str]
# Element types a device can't hold (torch 2.14: aten/src/ATen/mps; fp8 and double are refused there).
NOT_ON = {"mps": ("float64", "complex128", "float8", "float4", "quint", "qint", "bits")}
NUMBERED = ("ultralytics", "yolov5", "yolov6", "yolov7")  # a saved device is numbers: `0,1` are two GPUs
NUMBERED_KINDS, UNNUMBERED = ("cuda", "xpu", "npu"), ("cpu", "mps")
BATCH = ("batch", "batch_size")  # of all GPUs together, in these trainers
# torch/optim/adam.py: a step with `capturable` asserts such a device, one with `fused` did before 2.4.
CAPTURING = ("cuda", "xpu")
SWITCHED_OFF = {"capturable": False, "fused": None}
# torch/_tensor.py: what rebuilds a tensor from another one on a device given as text.
TO_DEVICE = ("torch._utils._rebuild_device_tensor_from_numpy", "torch._utils._rebuild_device_tensor_from_cpu_tensor")


def move_devices(case: Case, request: Conversion) -> None:
    """Retag what lies on a device; what can't be there, or must stay on the CPU, stays and is named."""
    move_tensors(case, request)
    move = _moves(request)
    _objects(case, move)
    _groups(case, request)
    _arguments(case, move)


def _moves(request: Conversion) -> Move:
    """What becomes of a tag."""

    def move(tag: str) -> str:
        if request.device is not None:
            return request.device if tag != "meta" else tag
        kind, numbered, _ = tag.partition(":")
        first = tag if numbered or kind not in NUMBERED_KINDS else f"{kind}:0"  # plain `cuda` is the first one
        return request.devices.get(first) or request.devices.get(kind) or tag

    return move


def move_tensors(case: Case, request: Conversion, told: bool = True) -> None:
    """Retag storages alone; with ``told`` as a step of the plan."""
    move, on_cpu = _moves(request), _on_cpu(case)
    held = case.draft.checkpoint.storages
    moved: Counter[tuple[str, str]] = Counter()
    kept: dict[str, Counter[str]] = {}
    changed: set[str] = set()
    for node in graph(case.root):
        if not (isinstance(node, Persistent) and isinstance(node.id, tuple) and len(node.id) >= 5):
            continue
        kind, key, old = node.id[1], as_text(node.id[2]), node.id[3]
        new = move(old) if isinstance(old, str) else old
        if new == old:
            continue
        tensors = held[key][1] if key in held else []
        why = _unfit(tensors, new)
        if key in on_cpu and new != "cpu":
            why, new = on_cpu[key] if old == "cpu" else "", "cpu"
        if why:
            kept.setdefault(why, Counter())[old] += 1
            continue
        plain = GlobalRef("torch", kind.name, -1) if isinstance(kind, GlobalRef) and "cuda" in kind.module else kind
        node.id = (node.id[0], plain, node.id[2], new, *node.id[4:])
        moved[old, new] += 1
        changed.add(key)
    case.draft.edited |= bool(moved)
    _note_parts(case, changed)
    if not told:
        return
    for (old, new), count in moved.items():
        case.do("device", f"{counted(count, 'tensor')} from {old} to {new}")
    for why, tags in kept.items():
        held_back = sum(tags.values())
        stay = "stays" if held_back == 1 else "stay"
        case.advice.append(f"{counted(held_back, 'tensor')} {stay} on {few(sorted(tags))}: {why}")


def _note_parts(case: Case, keys: set[str]) -> None:
    for part in case.found.parts:
        if any(tensor.storage is not None and tensor.storage.key in keys for tensor in part.tensors.values()):
            case.record(part, Outcome.EDITED)


def _unfit(tensors: list[TensorRef], device: str) -> str:
    """Why tensors can't be on a device, as text."""
    refused = NOT_ON.get(device.partition(":")[0], ())
    dtype = next((t.dtype.name for t in tensors if t.dtype.name.startswith(refused)), "") if refused else ""
    return f"{device} has no {dtype}" if dtype else ""


def _on_cpu(case: Case) -> dict[str, str]:
    """Storages that belong on the CPU whatever the model runs on, and why.

    Random states, and the steps of an optimizer unless it is fused or capturable (``torch/optim/optimizer.py``).
    """
    found: dict[str, str] = {}
    following = {id(step) for part in case.found.role("optimizer") for step in _device_steps(part)}
    for part, name, tensor in _tensors(case):
        if tensor.storage is None:
            continue
        if part.role == "rng":
            found[tensor.storage.key] = "torch takes a random state from the CPU"
        elif part.role == "optimizer" and name.endswith(".step") and id(tensor.call) not in following:
            found[tensor.storage.key] = "an optimizer counts its steps on the CPU"
    return found


def _device_steps(part: Part) -> Iterator[Node]:
    """The steps of the groups that count them on the device."""
    for group in part.groups:
        if any(group.options.get(key) is True for key in SWITCHED_OFF):
            yield from (dict_of(part.state.get(number)).get("step") for number in group.params)


def _tensors(case: Case) -> Iterator[tuple[Part, str, TensorRef]]:
    for part in case.found.parts:
        for name, tensor in part.tensors.items():
            yield part, name, tensor


def _objects(case: Case, move: Move) -> None:
    """``torch.device`` objects, and tensors that name their device as text."""
    done = 0
    for node in graph(case.root):
        if not (isinstance(node, Call) and isinstance(node.args, tuple)):
            continue
        if node.path == "torch.device" and node.args and isinstance(node.args[0], str):
            kind, number = (*node.args, None)[:2]
            old = f"{kind}:{writable(number)}" if number is not None else str(kind)
            new = move(old)
            if new == old:
                continue
            name, _, index = new.partition(":")
            node.args = (name, int(index)) if index else (name,)
            done += 1
        elif node.path in TO_DEVICE and len(node.args) > 2 and isinstance(node.args[2], str):
            new = move(node.args[2])
            done += new != node.args[2]
            node.args = (*node.args[:2], new, *node.args[3:])
    if done:
        case.draft.edited = True
        case.do("device", f"{counted(done, 'torch.device object')} changed alike")


def _groups(case: Case, request: Conversion) -> None:
    """Switches of parameter groups that only some devices can follow."""
    if request.device is None or request.device.partition(":")[0] in CAPTURING:
        return
    seen: dict[str, None] = {}
    for part in case.found.role("optimizer"):
        for group in dict_of(part.node).get("param_groups") or ():
            held = dict_of(group)
            for key, value in SWITCHED_OFF.items():
                if held.get(key) is True:
                    put(group, key, value)
                    seen[f"{key} True becomes {value}"] = None
    if seen:
        case.draft.edited = True
        case.do("device", f"parameter groups: {', '.join(seen)}, which {request.device} needs")


def _arguments(case: Case, move: Move) -> None:
    """The saved ``device`` of every set of arguments in the file, and with it the batch of all GPUs together."""
    numbered = case.family in NUMBERED
    seen: list[str] = []
    for node in graph(case.root):
        room = node if is_mapping(node) else None
        inside = dict(pairs_of(room)) if room is not None else {}
        saved = inside.get("device")
        if saved is None or isinstance(saved, (bool, Call)):
            continue
        tags = _tags(saved, numbered)
        moved = list(dict.fromkeys(map(move, tags)))
        if moved == tags or not tags:
            continue
        kept = _alike(moved)
        new = _spelt(kept, numbered)
        put(room, "device", new)
        seen.append(f"device {saved!r} becomes {new!r}")
        seen += _batch(room, inside, len(tags), len(kept)) if numbered else []
    if seen:
        case.draft.edited = True
        case.do("device", "saved arguments: " + ", ".join(dict.fromkeys(seen)))
        part = case.part("args")
        if part is not None:
            case.record(part, Outcome.EDITED)
        if case.found.layout.settings:
            case.advice.append(
                f"a resume reads {case.found.layout.settings} of the run folder; change device there, too"
            )


def _tags(saved: Node, numbered: bool) -> list[str]:
    """The devices a saved argument names, as tags; none where it leaves the choice to the trainer."""
    devices = saved if isinstance(saved, (list, tuple)) else [saved]
    text = ",".join(str(writable(device)).lower() for device in devices)
    kinds = set(re.findall(r"[a-z]+", text))
    kind = kinds.pop() if kinds else ""
    if kinds or kind not in ("", *UNNUMBERED, *NUMBERED_KINDS) or (isinstance(saved, int) and not numbered):
        return []
    if kind in UNNUMBERED:
        return [kind]
    numbers = re.findall(r"-?\d+", text)
    if not numbers or not (numbered or kind):
        return [kind] if kind else []
    whole = [whole_number(number) for number in numbers]
    return [] if None in whole else [f"{kind or 'cuda'}:{number}" for number in whole]


def _alike(tags: list[str]) -> list[str]:
    """The devices one argument can name: those of the first kind that is not the CPU."""
    own = [tag for tag in tags if tag != "cpu"] or ["cpu"]
    kind = own[0].partition(":")[0]
    return [tag for tag in own if tag.partition(":")[0] == kind]


def _spelt(tags: list[str], numbered: bool) -> str:
    """Tags as a trainer's argument: GPUs by their numbers where it knows them so, others by name."""
    kind = tags[0].partition(":")[0]
    numbers = [tag.partition(":")[2] for tag in tags]
    if not all(numbers):
        return tags[0]
    joined = ",".join(numbers)
    return joined if numbered and kind == "cuda" else f"{kind}:{joined}"


def _batch(room: Node, inside: dict[Node, Node], before: int, after: int) -> list[str]:
    """The batch is of all GPUs together: what each had stays what each has."""
    for key in BATCH:
        batch = inside.get(key)
        if type(batch) is int and batch > 0 and after < before and batch % before == 0:
            put(room, key, batch // before * after)
            return [f"{key} {batch} becomes {batch // before * after} ({batch // before} on each device, as before)"]
    return []
