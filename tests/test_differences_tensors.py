"""The tensors of two checkpoints: the same weights are the same in whatever file, and what differs is told."""

from __future__ import annotations

import json
import math
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from building import (
    CLASSES,
    FORMATS,
    Storage,
    Tensor,
    optimizer_of,
    plain_checkpoint,
    saved,
    saved_legacy,
    stripped_checkpoint,
    ultralytics_checkpoint,
    weights,
    with_changes,
)
from conftest import FIXTURES, Write
from damage import cut, flip, overwrite, storage_member
from test_imports import LIGHT, loaded

from ckpt_tools.checkpoint import Checkpoint, open_checkpoint, read_checkpoint
from ckpt_tools.differences.tensors import PartComparison, State, compare_tensors
from ckpt_tools.findings import plain_json
from ckpt_tools.source import BytesSource
from ckpt_tools.tensors.values import tensor_raw

BOTH = pytest.mark.parametrize("values", [False, True], ids=["checksums", "values"])


def opened(content: Any) -> Checkpoint:
    return read_checkpoint(BytesSource(content if isinstance(content, bytes) else saved(content)))


def compared(old: Any, new: Any, values: bool = True) -> list[PartComparison]:
    """The parts of two checkpoints, given as bytes, plain data or the name of a fixture."""
    with ExitStack() as stack:
        sides = [
            stack.enter_context(open_checkpoint(FIXTURES / f"{side}.pt")) if isinstance(side, str) else opened(side)
            for side in (old, new)
        ]
        found = compare_tensors(sides[0], sides[1], values=values)
    json.dumps(plain_json({"parts": [part.as_json() for part in found]}), allow_nan=False)
    return found


def only(old: Any, new: Any, values: bool = True) -> PartComparison:
    (part,) = compared(old, new, values)
    return part


def names(part: PartComparison, state: State) -> list[str]:
    return [tensor.name for tensor in part.of(state)]


def state_dict_of(fixture: str, role: str, prefix: str = "", dtype: str | None = None) -> OrderedDict[str, Tensor]:
    """The tensors of a fixture's part as a bare state dict, with other names and in another type if asked for."""
    made: OrderedDict[str, Tensor] = OrderedDict()
    with open_checkpoint(FIXTURES / f"{fixture}.pt") as checkpoint:
        assert checkpoint.recognised is not None
        assert checkpoint.container is not None
        for name, ref in checkpoint.recognised.role(role)[0].tensors.items():
            raw, kind = tensor_raw(checkpoint.container, ref), str(ref.dtype)
            if dtype is not None and kind != "int64":
                values = struct.unpack(f"<{len(raw) // ref.dtype.size}{FORMATS[kind]}", raw)
                raw, kind = struct.pack(f"<{len(values)}{FORMATS[dtype]}", *values), dtype
            made[prefix + name] = Tensor(ref.shape, Storage(raw, kind), stride=ref.stride)
    return made


def changed(**replaced: Any) -> OrderedDict[str, Any]:
    return with_changes(weights(), replaced)


# --- the same weights in other files --------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("plain-loop", "crc-less"),
        ("plain-loop", "legacy-format"),
        ("legacy-format", "crc-less"),
        ("bare-state-dict", "whole-module"),
        ("bare-state-dict", "dataparallel-prefix"),
        ("state-dict-compiled-prefix", "dataparallel-prefix"),
        ("plain-loop", "state-dict-compiled-prefix"),
        ("ultralytics-8.4-interrupted-sgd", "ultralytics-8.4-no-optimizer"),
        ("ultralytics-8.4-finished", "ultralytics-8.4-finished-not-stripped"),
    ],
)
def test_same_weights_in_files_of_other_kinds(old: str, new: str, values: bool) -> None:
    part = compared(old, new, values)[0]
    assert part.same_weights
    assert part.equal == len(part.tensors) > 0
    assert not part.differs


@BOTH
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "module.net.a."]
)
def test_pickled_module_and_bare_state_dict(prefix: str, values: bool) -> None:
    bare = state_dict_of("ultralytics-8.4-interrupted-sgd", "ema", prefix)
    ema, optimizer = compared("ultralytics-8.4-interrupted-sgd", bare, values)
    assert (ema.same_weights, len(ema.tensors)) == (True, 140)
    assert (ema.added, ema.removed) == ({}, {})
    assert (optimizer.role, optimizer.new, len(optimizer.removed)) == ("optimizer", None, 74)
    assert compared(bare, "ultralytics-8.4-interrupted-sgd", values)[0].same_weights


@BOTH
def test_statistics_and_counters_count_as_weights(values: bool) -> None:
    bare = state_dict_of("ultralytics-8.4-interrupted-sgd", "ema", "module.")
    counter = next(name for name in bare if name.endswith("num_batches_tracked"))
    bare[counter] = Tensor((), [77], "int64")
    mean = next(name for name in bare if name.endswith("running_mean"))
    bare[mean] = Tensor(bare[mean].shape, 0.5, "float16")
    ema = compared("ultralytics-8.4-interrupted-sgd", bare, values)[0]
    assert not ema.same_weights
    assert names(ema, State.CHANGED) == [mean.removeprefix("module."), counter.removeprefix("module.")]


@BOTH
def test_half_of_single_precision_weights(values: bool) -> None:
    wide = state_dict_of("plain-loop", "model")
    half = state_dict_of("plain-loop", "model", dtype="float16")
    part = only(wide, half, values)
    assert (part.same_weights, part.rounded_to, part.differs) == (False, "float16", True)
    assert only(half, wide, values).rounded_to == "float16"
    assert len(part.retyped) == sum(held.storage.dtype == "float16" for held in half.values())
    first = next(iter(half))
    half[first] = Tensor(half[first].shape, 1.0, "float16")
    part = only(wide, half, values)
    assert (part.rounded_to, names(part, State.CHANGED)) == ("", [first])


@BOTH
def test_a_wider_type_alone_changes_no_weight(values: bool) -> None:
    bare = state_dict_of("ultralytics-8.4-interrupted-sgd", "ema", "", "float32")
    ema = compared("ultralytics-8.4-interrupted-sgd", bare, values)[0]
    assert (ema.same_weights, ema.rounded_to, ema.differs) == (True, "", True)
    assert len(ema.retyped) == sum(held.storage.dtype == "float32" for held in bare.values())


CONTAINERS: dict[str, Any] = {
    "plain": saved,
    "without checksums": lambda content: saved(content, crc=False),
    "packed": lambda content: saved(content, deflated=True),
    "legacy": saved_legacy,
    "another root": lambda content: saved(content, folder="last"),
}


@BOTH
@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container(kind: str, values: bool) -> None:
    write = CONTAINERS[kind]
    other = plain_checkpoint(model_state_dict=changed(**{"conv.bias": Tensor((4,), [0.1, 0.2, 0.3, 0.5])}))
    assert all(part.same_weights for part in compared(plain_checkpoint(), write(plain_checkpoint()), values))
    for old, new in ((saved(plain_checkpoint()), write(other)), (write(plain_checkpoint()), write(other))):
        model, optimizer = compared(old, new, values)
        assert names(model, State.CHANGED) == ["conv.bias"]
        assert optimizer.same_weights


def big_endian(content: Mapping[str, Tensor]) -> bytes:
    """The same values as a machine of the other byte order writes them."""
    turned = {
        name: Tensor(held.shape, Storage(struct.pack(f">{len(held.storage.data) // 4}f", *floats(held)), "float32"))
        for name, held in content.items()
    }
    return saved(turned, byteorder="big")


def floats(tensor: Tensor) -> Sequence[float]:
    return struct.unpack(f"<{len(tensor.storage.data) // 4}f", tensor.storage.data)


@BOTH
def test_big_endian_files(values: bool) -> None:
    content = weights()
    assert only(content, big_endian(content), values).same_weights
    assert only(big_endian(content), big_endian(content), values).same_weights
    assert names(only(changed(**{"linear.bias": Tensor((2,), 3.0)}), big_endian(content), values), State.CHANGED) == [
        "linear.bias"
    ]


@BOTH
def test_views_of_a_shared_storage(values: bool) -> None:
    """A storage that differs elsewhere says nothing about a view, and one in another order is still the same."""
    one, other = (Storage(struct.pack("<6f", 1, 2, 3, 4, last, 6)) for last in (5, 9))
    shared = {"a": Tensor((2, 2), one), "b": Tensor((2,), one, offset=4)}
    assert only({"a": Tensor((2, 2), [1, 2, 3, 4]), "b": Tensor((2,), [5, 6])}, shared, values).same_weights
    part = only(shared, {"a": Tensor((2, 2), other), "b": Tensor((2,), other, offset=4)}, values)
    assert (names(part, State.EQUAL), names(part, State.CHANGED)) == (["a"], ["b"])
    turned = {"a": Tensor((2, 2), [1, 3, 2, 4], stride=(1, 2)), "b": Tensor((2,), [5, 6])}
    assert only(shared, turned, values).same_weights


@BOTH
def test_tied_weights(values: bool) -> None:
    tied = Tensor((3, 2), 0.5)
    part = only(
        {"embed.weight": tied, "head.weight": tied}, {"embed.weight": tied, "head.weight": Tensor((3, 2))}, values
    )
    assert (names(part, State.EQUAL), names(part, State.CHANGED)) == (["embed.weight"], ["head.weight"])


# --- what differs ---------------------------------------------------------------------------------


@BOTH
def test_added_removed_reshaped_retyped(values: bool) -> None:
    new = changed(
        **{
            "conv.bias": ...,
            "conv.scale": Tensor((4,)),
            "linear.weight": Tensor((3, 4), 0.5),
            "linear.bias": Tensor((2,), [1.0, -1.0], "float64"),
        }
    )
    part = only(weights(), new, values)
    assert (list(part.added), list(part.removed)) == (["conv.scale"], ["conv.bias"])
    assert names(part, State.RESHAPED) == ["linear.weight"]
    assert [tensor.name for tensor in part.retyped] == ["linear.bias"]
    assert (part.equal, part.same_weights, part.rounded_to) == (2, False, "")
    told = part.as_json()
    assert told["added"] == [{"name": "conv.scale", "shape": [4], "dtype": "float32"}]
    assert told["counts"] == {
        "equal": 2, "rounded": 0, "changed": 0, "reshaped": 1, "unreadable": 0, "retyped": 1,
    }  # fmt: skip
    (reshaped,) = (entry for entry in told["differing"] if entry["state"] == "reshaped")
    assert (reshaped["shape"], reshaped["new_shape"]) == ([2, 4], [3, 4])


def test_names_are_told_as_each_file_has_them() -> None:
    new = {f"module.{name}": held for name, held in changed(**{"conv.bias": ..., "conv.scale": Tensor((4,))}).items()}
    part = only(weights(), new)
    assert (list(part.added), list(part.removed)) == (["module.conv.scale"], ["conv.bias"])


def test_how_much_changed() -> None:
    part = only(weights(), changed(**{"linear.bias": Tensor((2,), [1.0, -2.0]), "linear.weight": Tensor((2, 4), 0.75)}))
    bias, weight = (next(t for t in part.tensors if t.name == f"linear.{name}") for name in ("bias", "weight"))
    assert bias.distance is not None
    assert weight.distance is not None
    assert bias.distance.max_abs == 1.0
    assert bias.distance.relative == pytest.approx(1 / math.sqrt(2))
    assert bias.distance.cosine == pytest.approx(3 / math.sqrt(10))
    assert weight.distance.max_abs == 0.25
    assert weight.distance.relative == pytest.approx(0.5)
    assert weight.distance.cosine == pytest.approx(1)
    assert part.distance is not None
    assert part.distance.max_abs == 1.0
    entry = next(entry for entry in part.as_json()["differing"] if entry["name"] == "linear.bias")
    assert {type(entry[key]) for key in ("max_abs", "relative", "cosine")} == {float}


def test_without_values_there_are_no_numbers() -> None:
    part = only(weights(), changed(**{"linear.bias": Tensor((2,), 3.0)}), values=False)
    assert part.distance is None
    assert "max_abs" not in json.dumps(part.as_json())


def test_the_layer_that_changed_most_comes_first() -> None:
    old = {f"{layer}.{kind}": Tensor((4,), 1.0) for layer in "abc" for kind in ("weight", "bias")}
    new = {**old, "a.bias": Tensor((4,), 1.1), "c.weight": Tensor((4,), 3.0)}
    layers = only(old, new).layers
    assert [(layer.name, layer.tensors, layer.changed) for layer in layers] == [("c", 2, 1), ("a", 2, 1)]
    assert layers[0].distance is not None
    assert layers[0].distance.relative == pytest.approx(4 / math.sqrt(8))
    new["b.weight"] = new["b.bias"] = Tensor((4,), 1.01)
    assert [layer.name for layer in only(old, new, values=False).layers] == ["b", "a", "c"]


@BOTH
def test_nonfinite_values(values: bool) -> None:
    bad = {"w": Tensor((3,), [math.nan, math.inf, 1.0])}
    assert only(bad, {"w": Tensor((3,), [math.nan, math.inf, 1.0])}, values).same_weights
    part = only(bad, {"w": Tensor((3,), [math.nan, 2.0, 1.0])}, values)
    assert names(part, State.CHANGED) == ["w"]
    if values:
        assert part.tensors[0].distance is not None
        assert part.tensors[0].distance.nonfinite == 2


# --- which part goes with which -------------------------------------------------------------------


def pairs(parts: Sequence[PartComparison]) -> list[tuple[str | None, str | None]]:
    return [(part.old and part.old.path, part.new and part.new.path) for part in parts]  # type: ignore[misc]


def test_every_role_with_tensors_is_compared() -> None:
    found = compared("plain-loop", "plain-loop")
    assert pairs(found) == [("model_state_dict", "model_state_dict"), ("optimizer_state_dict", "optimizer_state_dict")]
    assert all(part.same_weights for part in found)
    assert found[1].tensors[0].name.startswith("state.0.")


def test_parts_of_one_role_lie_at_other_paths() -> None:
    theirs = {"state_dict": weights(), "optimizer_states": [optimizer_of(weights())], "epoch": 2}
    found = compared(plain_checkpoint(), theirs)
    assert pairs(found) == [("model_state_dict", "state_dict"), ("optimizer_state_dict", "optimizer_states.0")]
    assert all(part.same_weights for part in found)


def test_several_models_in_one_file() -> None:
    made, judged = {"up.weight": Tensor((3, 3), 1.0)}, {"down.weight": Tensor((2, 2), 2.0), "out.bias": Tensor((2,))}
    found = compared({"generator": made, "discriminator": judged}, {"netD": judged, "netG": made})
    assert pairs(found) == [("generator", "netG"), ("discriminator", "netD")]
    assert all(part.same_weights for part in found)


def test_the_part_at_its_old_path_is_taken_by_no_other() -> None:
    one, other = {"a.weight": Tensor((3, 3), 1.0)}, {"b.weight": Tensor((2, 2), 2.0)}
    found = compared({"first": one, "second": other}, {"second": one, "third": other})
    assert pairs(found) == [("first", "third"), ("second", "second")]


def test_averaged_weights_stand_in_for_a_model_and_the_other_way_round() -> None:
    found = compared(ultralytics_checkpoint(), stripped_checkpoint())
    assert pairs(found) == [("ema", "model"), ("optimizer", None)]
    assert found[0].same_weights
    assert pairs(compared(stripped_checkpoint(), ultralytics_checkpoint())) == [("model", "ema"), (None, "optimizer")]


@pytest.mark.parametrize(
    "alone", ["yolov5-7.0-finished", "ultralytics-8.4-finished"], ids=["stripped yolov5", "stripped ultralytics"]
)
def test_stripped_weights_are_the_averaged_ones(alone: str) -> None:
    """Where a YOLO file has both, its trainer takes the EMA, and its strip moves that to ``model``."""
    other = {"yolov5-7.0-finished": "yolov5-7.0-interrupted"}.get(alone, "ultralytics-8.0.200-interrupted-sgd")
    assert pairs(compared(alone, other, values=False))[0] == ("model", "ema")
    assert pairs(compared(other, alone, values=False))[0] == ("ema", "model")


def test_in_a_plain_file_the_model_comes_first() -> None:
    both = plain_checkpoint(ema=changed(**{"conv.bias": Tensor((4,), 9.0)}))
    found = compared(weights(), both)
    assert pairs(found)[0] == ("", "model_state_dict")
    assert found[0].same_weights
    assert pairs(compared(both, plain_checkpoint()))[0] == ("model_state_dict", "model_state_dict")


def test_what_only_one_file_has() -> None:
    found = compared(plain_checkpoint(), plain_checkpoint(optimizer_state_dict=...))
    assert pairs(found)[1:] == [("optimizer_state_dict", None)]
    assert (found[1].same_weights, found[1].differs, len(found[1].removed)) == (False, True, 4)


def test_tensors_outside_of_all_parts() -> None:
    found = compared(
        plain_checkpoint(best=Tensor((2,), 1.0), anchors=[Tensor((2,), 3.0)]),
        plain_checkpoint(best=Tensor((2,), 2.0), anchors=[Tensor((2,), 3.0)]),
    )
    loose = next(part for part in found if part.role == "other")
    assert (names(loose, State.CHANGED), names(loose, State.EQUAL)) == (["best"], ["anchors.0"])


def test_the_counter_of_an_averaged_model_is_no_weight() -> None:
    averaged = {"n_averaged": Tensor((), [3], "int64"), **{f"module.{n}": held for n, held in weights().items()}}
    part = only(weights(), averaged)
    assert part.same_weights
    assert list(part.added) == ["n_averaged"]


def test_names_that_differ_only_in_a_wrapper_stay_apart() -> None:
    twice = {"a": Tensor((2,), 1.0), "module.a": Tensor((2,), 2.0)}
    part = only(twice, twice)
    assert (len(part.tensors), part.same_weights) == (2, True)
    assert len(only({"a": Tensor((2,), 1.0)}, twice).added) == 1


def test_files_without_tensors() -> None:
    assert compared("torchscript", "torchscript") == []
    assert pairs(compared("torchscript", "bare-state-dict")) == [(None, "")]
    assert compared(b"", b"PK\3\4") == []


# --- damaged files --------------------------------------------------------------------------------


@BOTH
def test_a_cut_file_is_compared_as_far_as_it_goes(values: bool) -> None:
    whole = saved(plain_checkpoint())
    torn = cut(whole, storage_member(opened(whole), "2").offset + 10)
    model, optimizer = compared(whole, torn, values)
    assert names(model, State.EQUAL) == ["conv.weight", "conv.bias"]
    assert names(model, State.UNREADABLE) == ["linear.weight", "linear.bias"]
    assert len(optimizer.of(State.UNREADABLE)) == 4
    assert [model.same_weights, optimizer.same_weights] == [False, False]
    assert {tensor.why for tensor in model.of(State.UNREADABLE)} == {
        "its storage ends after 10 of 32 bytes",
        "storage 3 is missing",
    }
    assert compared(torn, torn, values)[0].equal == 2


@pytest.mark.parametrize("place", range(0, 4000, 401))
def test_any_cut_gets_an_answer(place: int) -> None:
    whole = saved(ultralytics_checkpoint())
    for pair in ((whole, cut(whole, place)), (cut(whole, place), whole)):
        compared(*pair)


@BOTH
def test_packed_bytes_that_do_not_unpack(values: bool) -> None:
    whole = saved(plain_checkpoint(), deflated=True)
    member = storage_member(opened(whole), "0")
    torn = overwrite(whole, member.offset, b"\xff" * 8)
    model, _ = compared(saved(plain_checkpoint(), crc=False), torn, values)
    assert names(model, State.UNREADABLE) == ["conv.weight"]
    assert "unpack" in model.of(State.UNREADABLE)[0].why


def test_flipped_bits_are_seen_where_bytes_are_read() -> None:
    whole = saved(plain_checkpoint())
    flipped = flip(whole, storage_member(opened(whole), "1").offset)
    assert names(compared(whole, flipped)[0], State.CHANGED) == ["conv.bias"]
    assert compared(whole, flipped, values=False)[0].same_weights  # by the checksums on record, which verify tests


def test_views_without_end_are_not_read() -> None:
    shared = Storage(bytes(4 << 20))
    views = {f"w{number}": Tensor((1 << 10, 1 << 10), shared, stride=(number, 1)) for number in range(1, 60)}
    part = only(saved(views, crc=False), saved(views, crc=False), values=False)
    assert 0 < len(part.of(State.UNREADABLE)) < 59
    assert "views" in part.of(State.UNREADABLE)[0].why


def test_a_bomb_is_not_unpacked() -> None:
    huge = Storage(bytes(3 << 19))
    packed = saved({"w": Tensor((3 << 17,), huge), "v": Tensor((2,), 1.0)}, deflated=True)
    checkpoint = opened(packed)
    assert checkpoint.container is not None
    checkpoint.container.members["data/0"].size = 1 << 40
    found = compare_tensors(checkpoint, opened(packed), values=True)
    assert len(found[0].of(State.UNREADABLE)) == 2


# --- manners --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "numpy"), [("plain-loop", set()), ("crc-less", {"numpy"})])
def test_numpy_is_loaded_only_to_read_bytes(name: str, numpy: set[str], environment: Mapping[str, str]) -> None:
    code = (
        "from ckpt_tools.checkpoint import open_checkpoint\n"
        "from ckpt_tools.differences.tensors import compare_tensors\n"
        "one, other = (open_checkpoint(path) for path in sys.argv[1:])\n"
        "assert all(part.same_weights for part in compare_tensors(one, other))"
    )
    paths = [str(FIXTURES / f"{side}.pt") for side in ("plain-loop", name)]
    assert loaded(code, LIGHT, environment, *paths) == numpy


@BOTH
def test_progress_counts_every_byte_once(values: bool) -> None:
    told: list[int] = []
    with open_checkpoint(FIXTURES / "plain-loop.pt") as one, open_checkpoint(FIXTURES / "crc-less.pt") as other:
        parts = compare_tensors(one, other, values=values, progress=told.append)
    assert sum(told) == 2 * sum(part.old.nbytes for part in parts if part.old is not None)


def test_large_files_are_read_by_two(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_tools.differences.values.MANY_READERS_FROM", 1)
    old = {f"layer{number}.weight": Tensor((50,), float(number)) for number in range(40)}
    new = {**old, "layer7.weight": Tensor((50,), 7.5)}
    paths: list[Path] = [write(old, "old.pt"), write(new, "new.pt")]
    with open_checkpoint(paths[0]) as one, open_checkpoint(paths[1]) as other:
        (part,) = compare_tensors(one, other, values=True)
    assert (names(part, State.CHANGED), part.equal) == (["layer7.weight"], 39)


def test_every_type_torch_had_when_storages_had_types() -> None:
    """The classes the helpers can write are all compared with themselves."""
    content = {kind: Tensor((2,), Storage(bytes(16), kind)) for kind in CLASSES}
    assert only(content, saved_legacy(content)).same_weights
