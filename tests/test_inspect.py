"""``inspect``: what is inside, as text, as JSON and through the Python interface."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from building import (
    APPEND,
    EMPTY_LIST,
    Called,
    Name,
    Raw,
    Tensor,
    get,
    plain_checkpoint,
    put,
    saved,
    saved_legacy,
    ultralytics_checkpoint,
    weights,
)
from conftest import Run, Write
from damage import cut
from hostile_samples import SAMPLES

import ckpt_tools
from ckpt_tools.layouts.values import value_of
from ckpt_tools.pickles import Call, GlobalRef
from ckpt_tools.policy import Tier
from ckpt_tools.verbs.inspect import globals_table, overview, select_tensors, tree


def looked_at(content: Any, write: Write) -> dict[str, Any]:
    with ckpt_tools.open(write(content)) as opened:
        return overview(opened.checkpoint)


class TestOverview:
    def test_layout_version_progress_and_metrics(self, write: Write) -> None:
        found = looked_at(ultralytics_checkpoint(), write)
        assert (found["layout"], found["version"], found["epoch"], found["epochs"]) == ("ultralytics", "8.4.190", 1, 5)
        assert found["metrics"]["metrics/mAP50(B)"] == 0.5
        assert found["date"] == "2026-01-02T03:04:05"

    @pytest.mark.parametrize("make", [saved, saved_legacy], ids=["archive", "stream"])
    def test_parts_with_their_sizes(self, make: Any, write: Write) -> None:
        parts = {part["path"]: part for part in looked_at(make(plain_checkpoint()), write)["parts"]}
        model = parts["model_state_dict"]
        assert (model["tensors"], model["parameters"], model["bytes"]) == (4, 122, 488)
        assert (model["dtypes"], model["devices"]) == (["float32"], ["cpu"])
        assert parts["optimizer_state_dict"]["groups"][0]["parameters"] == 4
        assert parts["optimizer_state_dict"]["groups"][0]["options"]["lr"] == 0.01

    def test_what_is_no_checkpoint_shows_its_first_bytes(self, write: Write) -> None:
        found = looked_at(b"<html>", write)
        assert found["layout"] is None
        assert found["first_bytes"] == "3c 68 74 6d 6c 3e"

    def test_damaged_file_shows_what_is_left(self, write: Write) -> None:
        whole = saved(plain_checkpoint())
        found = looked_at(cut(whole, len(whole) // 2), write)
        assert found["layout"] == "plain"
        assert found["findings"]


class TestTree:
    def test_cycles_end(self, write: Write) -> None:
        content = {**weights(), "self": Raw(EMPTY_LIST + put(0) + get(0) + APPEND)}
        with ckpt_tools.open(write(content)) as opened:
            assert len(list(tree(opened.checkpoint, 20))) < 20

    def test_depth_is_kept(self, write: Write) -> None:
        with ckpt_tools.open(write(plain_checkpoint())) as opened:
            flat, deep = list(tree(opened.checkpoint, 1)), list(tree(opened.checkpoint, 5))
        assert max(len(line) - len(line.lstrip()) for line in flat) == 2
        assert any("momentum_buffer: float32 [4, 3, 3, 3]" in line for line in deep)


class TestTensors:
    @pytest.mark.parametrize(
        ("pattern", "count"), [("*", 9), ("linear", 2), ("*.weight", 2), ("conv.*", 2), ("*conv.*", 2), ("nothing", 0)]
    )
    def test_pattern_selects_by_name(self, pattern: str, count: int, write: Write) -> None:
        with ckpt_tools.open(write(plain_checkpoint(rng_state=Tensor((5056,), 0, "uint8")))) as opened:
            assert len(select_tensors(opened, pattern)) == count

    def test_statistics_on_the_command_line(self, write: Write, ckpt: Run) -> None:
        path = write(weights(**{"linear.bias": Tensor((2,), [3.0, math.nan])}))
        run = ckpt("inspect", path, "linear.bias", "--stats", "--json")
        (row,) = json.loads(run.stdout)["tensors"]
        assert row["stats"] == {"minimum": 3, "maximum": 3, "mean": 3, "std": 0, "zeros": 0, "nonfinite": 1}

    def test_tensor_that_can_not_be_read_has_an_error_not_a_crash(self, write: Write, ckpt: Run) -> None:
        whole = saved(plain_checkpoint())
        run = ckpt("inspect", write(cut(whole, len(whole) // 2)), "--stats", "--json")
        rows = json.loads(run.stdout)["tensors"]
        assert any("error" in row for row in rows)
        assert ckpt("inspect", "last.pt", "--stats").returncode == run.returncode == 0


class TestGlobals:
    def test_every_name_with_its_tier(self, write: Write, tmp_path: Path) -> None:
        with ckpt_tools.open(write(SAMPLES["zip_member"](str(tmp_path / "canary")))) as opened:
            rows = {row["name"]: row for row in globals_table(opened.checkpoint)}
        assert (rows["os.system"]["tier"], rows["os.system"]["called"]) == ("dangerous", True)
        assert rows["torch._utils._rebuild_tensor_v2"]["tier"] == "known"
        assert list(rows)[0] == "os.system"


@pytest.mark.parametrize(
    ("node", "value"),
    [
        (3, 3),
        ("x", "x"),
        ([1, (2,)], [1, [2]]),
        ({"a": {1: None}}, {"a": {"1": None}}),
        (GlobalRef("torch", "float16", 0), "torch.float16"),
        (Call(GlobalRef("mine", "Thing", 0), (), "reduce", 0), "<mine.Thing>"),
        (b"abc", "<bytes of 3 bytes>"),
    ],
)
def test_values_are_plain_data(node: Any, value: Any) -> None:
    assert value_of(node) == value


def test_value_of_a_long_list_is_bounded() -> None:
    assert len(value_of(list(range(10_000)))) < 100


def test_value_of_a_cycle_ends() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    assert json.dumps(value_of(cycle)).endswith("]" * 12)


class TestPythonInterface:
    def test_open_is_a_mapping_of_lazy_tensors(self, write: Write) -> None:
        with ckpt_tools.open(write(plain_checkpoint())) as opened:
            assert opened.layout == "plain"
            assert opened.epoch == 2
            assert opened.args == {"lr": 0.01, "epochs": 10, "batch": 4}
            tensor = opened["model_state_dict.linear.weight"]
            assert (tensor.shape, tensor.dtype, tensor.nbytes, tensor.device) == ((2, 4), "float32", 32, "cpu")
            assert tensor.numpy().tolist() == [[0.5] * 4] * 2

    def test_verify_is_at_hand_on_an_opened_file(self, write: Write) -> None:
        with ckpt_tools.open(write(plain_checkpoint())) as opened:
            assert opened.verify(quick=True).verdict == "resumable"

    def test_public_names_are_what_they_are_called(self, write: Write) -> None:
        path = write(plain_checkpoint())
        assert ckpt_tools.verify(path).verdict is ckpt_tools.Verdict.RESUMABLE
        assert ckpt_tools.verify(path).verdict is ckpt_tools.Verdict.RESUMABLE, "also the second time"
        assert all(hasattr(ckpt_tools, name) for name in ckpt_tools.__all__)
        with pytest.raises(AttributeError):
            _ = ckpt_tools.no_such_name

    def test_strict_opening_raises_where_tolerant_opening_reports(self, write: Write) -> None:
        whole = saved(plain_checkpoint())
        path = write(cut(whole, len(whole) - 5))
        with ckpt_tools.open(path) as opened:
            assert opened.findings
        with pytest.raises(ckpt_tools.CkptError, match="CKPT1"):
            ckpt_tools.open(path, strict=True)


def test_names_of_every_tier_are_listed(write: Write, ckpt: Run) -> None:
    held = {
        "known": Name("torch", "float32"),
        "mentioned": Name("typing", "Any"),
        "unknown": Name("mine.net", "Net"),
        "dangerous": Called("os", "getcwd"),
    }
    assert set(held) == {tier.value for tier in Tier}
    told = ckpt("inspect", write(plain_checkpoint(extra=held)), "--globals")
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    for tier, name in zip(held, ("torch.float32", "typing.Any", "mine.net.Net", "os.getcwd")):
        assert any(line.split()[:1] == [tier] and name in line for line in lines), tier
