"""Checkpoints in which anything may stand anywhere: every reader gets along with what it finds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from building import (
    APPEND,
    EMPTY_LIST,
    MARK,
    Called,
    Instance,
    Name,
    Raw,
    Tensor,
    Writer,
    get,
    integer,
    plain_checkpoint,
    put,
    saved,
    stripped_checkpoint,
    tensor,
    text,
    ultralytics_checkpoint,
)
from hostile_samples import BENIGN, BOMBS, SAMPLES, UNKNOWN
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_tools.api import OpenCheckpoint
from ckpt_tools.checkpoint import Checkpoint, read_checkpoint
from ckpt_tools.checks.context import Context, Target
from ckpt_tools.findings import CkptError
from ckpt_tools.source import BytesSource
from ckpt_tools.verbs import inspect as look
from ckpt_tools.verbs.verify import verify_checkpoint

HUGE = 1 << 20_000  # more digits than Python turns into text
LONG4 = Raw(b"\x8b" + (2501).to_bytes(4, "little") + HUGE.to_bytes(2501, "little", signed=True))
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    1 << 70,
    LONG4,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "\ud800\x1b[2J",
    "x" * 3000,
    b"bytes",
    [],
    {},
    (),
    [None, [{}]],
    {1: {2: {3: {}}}},
    {"state": 1, "param_groups": 2},
    {"state": {None: None}, "param_groups": [None, {}, {"params": None}]},
    {"_parameters": None, "_modules": 1},
    Tensor((2,)),
    Tensor((), 1.0),
    Tensor((0,), []),
    Tensor((2,), numel=99),
    Raw(tensor(shape=(2**40,), stride=(0,))),
    Raw(tensor(shape=(2**62, 8), stride=(8, 1))),
    Raw(EMPTY_LIST + put(200) + get(200) + APPEND),
    Raw(MARK + integer(1) + text("a") + b"\x91"),
    Name("torch", "float16"),
    Called("collections", "OrderedDict", ([["a", 1], [], 3],)),
    Called("numpy.core.multiarray", "scalar", (1, 2)),
    Instance("torch.nn.modules.container", "Sequential", {"_parameters": {}, "_buffers": 3, "_modules": [1]}),
    Instance("argparse", "Namespace", {"epochs": LONG4}),
)
WHOLE = {"ultralytics": ultralytics_checkpoint, "plain": plain_checkpoint, "stripped": stripped_checkpoint}


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a checkpoint's plain structure."""
    inside: Any = ()
    if isinstance(node, Instance):
        node = node.state
    if isinstance(node, dict):
        inside = node.items()
    elif isinstance(node, list):
        inside = enumerate(node)
    for key, child in inside:
        yield (*path, key)
        yield from places(child, (*path, key))


PLACES = {name: list(places(make())) for name, make in WHOLE.items()}


def replaced(name: str, path: tuple[Any, ...], value: Any) -> Any:
    """A checkpoint with another value, or another key, at one place."""
    root: Any = WHOLE[name]()
    node = root
    for key in path[:-1]:
        node = node[key]
        node = node.state if isinstance(node, Instance) else node
    node[path[-1]] = value
    return root


def read_all(checkpoint: Checkpoint) -> None:
    """Everything the command line would do with it."""
    for context in (Context(), Context(quick=True), Context(target=Target("ultralytics", "8.0.200", "flag"))):
        report = verify_checkpoint(checkpoint, context, siblings=False)
        assert report.verdict is not None
        json.dumps(report.as_json())
    json.dumps(look.overview(checkpoint), default=str)
    json.dumps(look.args_table(checkpoint), default=str)
    look.globals_table(checkpoint)
    for line in look.tree(checkpoint, 20):
        assert isinstance(line, str)
    opened = OpenCheckpoint(checkpoint)
    for found in opened.values():
        try:
            found.stats()
        except CkptError:
            continue


@settings(max_examples=400)
@given(data=st.data(), name=st.sampled_from(sorted(WHOLE)), value=st.sampled_from(ODD))
def test_any_value_may_stand_anywhere(data: st.DataObject, name: str, value: Any) -> None:
    path = data.draw(st.sampled_from(PLACES[name]))
    read_all(read_checkpoint(BytesSource(saved(replaced(name, path, value)))))


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("ultralytics", ("optimizer", "param_groups", 0, "params"), [None, [{}]]),
        ("plain", ("optimizer_state_dict", "param_groups", 0, "params", 0), []),
    ],
)
def test_ids_of_parameters_may_be_lists(name: str, path: tuple[Any, ...], value: Any) -> None:
    read_all(read_checkpoint(BytesSource(saved(replaced(name, path, value)))))


@given(
    data=st.data(), name=st.sampled_from(sorted(WHOLE)), key=st.sampled_from([LONG4, None, 0.5, "\x1b", (1, (2,)), 7])
)
def test_any_key_may_stand_anywhere(data: st.DataObject, name: str, key: Any) -> None:
    root: Any = WHOLE[name]()
    path = data.draw(st.sampled_from([path for path in PLACES[name] if not isinstance(path[-1], int)]))
    node: Any = root
    for step in path[:-1]:
        node = node[step]
        node = node.state if isinstance(node, Instance) else node
    node[Raw(Writer().value(key))] = node[path[-1]]
    read_all(read_checkpoint(BytesSource(saved(root))))


HARMFUL = {name: make("canary") for name, make in SAMPLES.items()}


@pytest.mark.parametrize("sample", [*SAMPLES, *BENIGN, *UNKNOWN])
def test_every_sample_can_be_looked_at(sample: str) -> None:
    data = HARMFUL[sample] if sample in HARMFUL else {**BENIGN, **UNKNOWN}[sample]()
    read_all(read_checkpoint(BytesSource(data)))


@pytest.mark.parametrize("sample", sorted(set(BOMBS) - {"many_dups", "deflated_zeros", "deep_marks"}))
def test_every_bomb_can_be_looked_at(sample: str) -> None:
    read_all(read_checkpoint(BytesSource(BOMBS[sample]())))
