"""Storages and values: what is missing, cut, outside, unused, saturated, zero, or not a number."""

from __future__ import annotations

from typing import Any

import pytest
from building import (
    Member,
    Raw,
    Storage,
    Tensor,
    Writer,
    archive,
    detector,
    optimizer_of,
    pickled,
    plain_checkpoint,
    saved,
    saved_legacy,
    tensor,
    weights,
)
from conftest import Verify
from damage import cut
from rebuilders import rezipped

from ckpt_tools.findings import Verdict


def messages(report: Any) -> dict[str, str]:
    return {fact.slug: fact.message for fact in report.findings}


def state_dict(**more: Any) -> dict[str, Any]:
    return {"conv.weight": Tensor((2, 2)), **more}


class TestStorages:
    @pytest.mark.parametrize(
        ("content", "slug"),
        [
            (state_dict(lost=Raw(tensor(key="7"))), "storage-missing"),
            (state_dict(short=Tensor((2,), numel=50)), "storage-short"),
            (state_dict(long=Tensor((4,), numel=2)), "storage-size"),
            (state_dict(far=Tensor((2, 2), Storage(bytes(16)), offset=3)), "tensor-outside"),
            (state_dict(wide=Tensor((2, 2), Storage(bytes(16)), stride=(9, 1))), "tensor-outside"),
        ],
    )
    @pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
    def test_bytes_a_tensor_needs_and_has_not(self, content: Any, slug: str, quick: bool, verified: Verify) -> None:
        report = verified(content, quick=quick)
        assert report.verdict is Verdict.DAMAGED
        assert slug in messages(report)
        assert "Traceback" not in messages(report)[slug]

    @pytest.mark.parametrize(
        ("place", "where"),
        [
            ("model_state_dict", "model_state_dict.odd"),
            ("optimizer_state_dict", "state.0.momentum_buffer"),
            ("x", "x.odd"),
        ],
    )
    @pytest.mark.parametrize("make", [saved, saved_legacy], ids=["archive", "stream"])
    def test_tensor_no_torch_can_rebuild(self, place: str, where: str, make: Any, verified: Verify) -> None:
        """In whatever part it is, the finding names the tensor and the argument."""
        bad = Tensor((2,), offset=-5)
        parts: dict[str, Any] = {
            "model_state_dict": weights(odd=bad),
            "optimizer_state_dict": optimizer_of(weights(), state={0: {"momentum_buffer": bad}}),
            "x": {"odd": bad},
        }
        report = verified(make(plain_checkpoint(**{place: parts[place]})))
        assert report.verdict is Verdict.DAMAGED
        assert where in messages(report)["tensor-impossible"]
        assert "storage_offset is -5" in messages(report)["tensor-impossible"]

    def test_empty_tensor_lies_nowhere(self, verified: Verify) -> None:
        """torch takes any offset for a tensor without values."""
        empty = Tensor((0, 3), Storage(bytes(16)), offset=2**40)
        assert verified(plain_checkpoint(extra=empty)).verdict is Verdict.RESUMABLE

    @pytest.mark.parametrize(
        ("name", "content", "good"),
        [
            ("byteorder", b"little\n", False),
            ("byteorder", b"", False),
            ("byteorder", b"\xff", False),
            ("version", b"3", True),
            ("version", b" 03.7", True),
            ("version", b"0", False),
            ("version", b"11\n", False),
            ("version", b"three", False),
            (".storage_alignment", b"+6_4\n", True),
            (".storage_alignment", b"64.0", False),
            (".storage_alignment", b"1" * 5000, False),
            (".data/serialization_id", b"", True),
            (".data/serialization_id", b"\xff", False),
            (".format_version", b"\xff", True),
        ],
    )
    def test_members_torch_reads_first(self, name: str, content: bytes, good: bool, verified: Verify) -> None:
        report = verified(rezipped(saved(plain_checkpoint()), {name: content}))
        assert report.verdict is (Verdict.RESUMABLE if good else Verdict.DAMAGED)
        assert ("member-refused" in messages(report)) is not good

    def test_cut_legacy_stream_names_its_tensors(self, verified: Verify) -> None:
        data = saved_legacy(weights())
        report = verified(cut(data, len(data) - 10))
        assert report.verdict is Verdict.DAMAGED
        assert "linear" in messages(report)["storage-short"] + messages(report).get("storage-missing", "")

    def test_orphans_and_extra_members_are_notes(self, verified: Verify) -> None:
        writer = Writer()
        body = pickled(writer.value(weights()), 2)
        members = {f"data/{key}": held.data for key, held in enumerate([*writer.storages, Storage(bytes(40))])}
        members |= {"version": b"3\n", "byteorder": b"little", "notes.txt": b"by hand"}
        data = archive(Member("a/data.pkl", body), *(Member(f"a/{name}", held) for name, held in members.items()))
        report = verified(data)
        assert report.verdict is Verdict.WEIGHTS
        assert "1 storages (40 bytes)" in messages(report)["orphan-storage"]
        assert "notes.txt" in messages(report)["extra-members"]

    def test_small_view_of_a_large_storage_is_a_note(self, verified: Verify) -> None:
        held = Tensor((2, 2), Storage(bytes(4 << 20)))
        report = verified(state_dict(view=held))
        assert report.verdict is Verdict.WEIGHTS
        assert "fat-storage" in messages(report)

    def test_shared_and_empty_and_expanded_storages_are_fine(self, verified: Verify) -> None:
        held = Storage(bytes(range(64)))
        content = {
            "first": Tensor((8,), held),
            "second": Tensor((8,), held, offset=8),
            "transposed": Tensor((4, 4), held, stride=(1, 4)),
            "expanded": Tensor((9, 4), held, stride=(0, 1)),
            "empty": Tensor((0, 4), []),
            "scalar": Tensor((), 1.0),
        }
        report = verified(content)
        assert report.verdict is Verdict.WEIGHTS
        assert list(messages(report)) == ["weights-only"]


class TestValues:
    @pytest.mark.parametrize("part", ["model_state_dict", "optimizer_state_dict"])
    def test_a_bad_value_in_part_of_a_shared_storage_is_that_parts_own(self, part: str, verified: Verify) -> None:
        shared = Tensor((8,), [1.0] * 7 + [float("nan")])
        good, bad = Tensor((4,), shared.storage), Tensor((4,), shared.storage, offset=4)
        model = weights(**{"linear.scale": good, "linear.shift": bad})
        report = verified({"model": model, "optimizer": optimizer_of(model)})
        assert "linear.shift" in messages(report)["non-finite"]
        assert "linear.scale" not in messages(report)["non-finite"]

    def test_bad_running_statistics_count(self, verified: Verify) -> None:
        module = detector()
        norm = module.state["_modules"]["model"].state["_modules"]["0"].state["_modules"]["bn"]
        norm.state["_buffers"]["running_var"] = Tensor((4,), float("inf"))
        report = verified(module)
        assert report.verdict is Verdict.INCOMPLETE
        assert "running_var" in messages(report)["non-finite"]

    @pytest.mark.parametrize("name", ["anchors", "attn_mask", "inv_freqs"])
    def test_tables_may_hold_infinities(self, name: str, verified: Verify) -> None:
        report = verified(detector(**{}) if name == "none" else weights(**{name: Tensor((4,), float("inf"))}))
        assert report.verdict is Verdict.WEIGHTS
        assert name in messages(report)["non-finite-elsewhere"]

    @pytest.mark.parametrize(("value", "told"), [(65504.0, True), (-65504.0, True), (65472.0, False)])
    def test_values_at_the_limit_of_half_precision_are_a_warning(
        self, value: float, told: bool, verified: Verify
    ) -> None:
        held = weights(**{"linear.weight": Tensor((2, 4), [1.0] * 7 + [value], "float16")})
        report = verified(plain_checkpoint(model_state_dict=held))
        assert report.verdict is Verdict.RESUMABLE
        assert ("saturated" in messages(report)) is told

    def test_weights_that_are_all_zero_are_a_warning(self, verified: Verify) -> None:
        report = verified(weights(**{"linear.weight": Tensor((2, 4), 0.0), "linear.bias": Tensor((2,), 0.0)}))
        assert "linear.weight" in messages(report)["all-zero-weights"]
        assert "linear.bias" not in messages(report)["all-zero-weights"]

    def test_underflowed_second_moments_are_a_warning_with_their_share(self, verified: Verify) -> None:
        model = weights()
        optimizer = optimizer_of(model)
        for number, held in enumerate(model.values()):
            count = len(held.storage.data) // 4
            second = [0.0] * (count // 2) + [1.0] * (count - count // 2)
            optimizer["state"][number] = {
                "step": 3,
                "exp_avg": Tensor(held.shape, 0.5, "float16"),
                "exp_avg_sq": Tensor(held.shape, second, "float16"),
            }
        report = verified(plain_checkpoint(optimizer_state_dict=optimizer))
        assert report.verdict is Verdict.RESUMABLE
        assert "50.0 %" in messages(report)["underflowed-moments"]

    def test_a_quick_look_reads_no_values(self, verified: Verify) -> None:
        bad = plain_checkpoint(model_state_dict=weights(**{"linear.bias": Tensor((2,), float("nan"))}))
        assert verified(bad, quick=True).verdict is Verdict.RESUMABLE
        assert verified(saved(bad)).verdict is Verdict.INCOMPLETE
