"""Damage of every kind at every place: what is left is kept, the rest named, and no plan promises too much."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from building import (
    Member,
    Tensor,
    detector,
    optimizer_of,
    plain_checkpoint,
    saved,
    saved_legacy,
    stripped_checkpoint,
    ultralytics_checkpoint,
    weights,
)
from building import archive as zip_of
from conftest import FIXTURES, Write
from damage import append, cut, flip, lose_directory, overwrite, prefix, storage_member, zero_directory, zero_tail
from hypothesis import given, settings
from hypothesis import strategies as st
from mending import Mended, mend, planned, request_of, tensors

from ckpt_tools.checkpoint import read_checkpoint
from ckpt_tools.container import member_bytes
from ckpt_tools.findings import CkptError, Verdict
from ckpt_tools.source import BytesSource
from ckpt_tools.verbs.repair import plan_repair
from ckpt_tools.verbs.verify import verify

PLAIN = saved(plain_checkpoint())
YOLO = saved(ultralytics_checkpoint(epoch=2))
OLDER = ultralytics_checkpoint(epoch=1)
REAL = (FIXTURES / "ultralytics-8.4-interrupted-sgd.pt").read_bytes()
MODEL, OPTIMIZER = "model_state_dict", "optimizer_state_dict"


def place_of(data: bytes, key: str) -> int:
    """Where the bytes of a storage begin."""
    return storage_member(read_checkpoint(BytesSource(data)), key).offset


def without(data: bytes, name: str) -> bytes:
    """The archive packed anew without one member."""
    checkpoint = read_checkpoint(BytesSource(data))
    assert checkpoint.container is not None
    kept = [member for place, member in checkpoint.container.members.items() if place != name]
    assert len(kept) + 1 == len(checkpoint.container.members)
    return zip_of(*(Member(m.name, member_bytes(checkpoint.source, m, 1 << 30)) for m in kept))


def zipped(data: bytes, name: str = "last.pt", method: int = zipfile.ZIP_STORED, beside: str = "") -> bytes:
    """A zip archive with a file in it, and the same under another name."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr(name, data)
        if beside:
            archive.writestr(beside, data)
    return made.getvalue()


def kept_bits(mended: Mended, original: dict[str, list[Any]], *prefixes: str) -> None:
    """Every tensor below the prefixes is the original's."""
    found = mended.tensors()
    wanted = {name: value for name, value in original.items() if name.startswith(prefixes)}
    assert wanted
    assert {name: value for name, value in found.items() if name.startswith(prefixes)} == wanted


# --- nothing is lost ------------------------------------------------------------------------------

LOSSLESS: dict[str, Callable[[bytes], bytes]] = {
    "directory lost": lose_directory,
    "directory zeroed": zero_directory,
    "bytes appended": lambda data: append(data, b"more of it" * 20),
    "zeros appended": lambda data: append(data, bytes(4096)),
    "bytes in front": lambda data: prefix(data, b"#!/bin/sh\n"),
    "end record cut": lambda data: cut(data, len(data) - 5),
    "in a zip archive": zipped,
    "in a packed zip archive": lambda data: zipped(data, "run/weights/last.pt", zipfile.ZIP_DEFLATED, "notes.txt"),
    "in a large packed archive": lambda data: zipped(
        saved(plain_checkpoint(extra=Tensor((700_000,), 1.0))), method=zipfile.ZIP_DEFLATED
    ),
    "no version member": lambda data: without(data, "version"),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_damage_that_spares_the_tensors_is_mended_without_loss(kind: str, write: Write) -> None:
    path = write(LOSSLESS[kind](PLAIN))
    original = tensors(write(PLAIN, "original.pt"))
    write(b"", "original.pt").unlink()
    mended = mend(path)
    assert mended.report.verdict is Verdict.RESUMABLE
    assert not mended.plan.needs_consent
    kept_bits(mended, original, "")
    assert mended.plan.resumes_at == 3
    assert {str(part.outcome) for part in mended.plan.parts} == {"kept"}


def test_zip_archive_with_two_checkpoints_needs_a_word(write: Write) -> None:
    with pytest.raises(CkptError, match="holds 2 checkpoints"):
        planned(write(zipped(PLAIN, beside="best.pt")))


def test_checkpoint_in_a_zip_archive_that_is_broken_itself_is_told(write: Write) -> None:
    inner = zipped(PLAIN, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(CkptError, match=r"last\.pt"):
        planned(write(overwrite(inner, 60, bytes(200))))


# --- tensors are hit ------------------------------------------------------------------------------


def test_lost_states_of_an_optimizer_are_named_and_left_out(write: Write) -> None:
    path, original = write(flip(PLAIN, place_of(PLAIN, "5"))), tensors(write(PLAIN, "whole.bin"))
    mended = mend(path)
    assert list(mended.value(f"{OPTIMIZER}.state")) == [0, 2, 3]
    assert mended.part(OPTIMIZER).outcome == "salvaged"
    assert (mended.part(OPTIMIZER).kept, mended.part(OPTIMIZER).tensors) == (3, 4)
    assert mended.part(OPTIMIZER).names == ["state.1.momentum_buffer"]
    assert mended.plan.needs_consent
    assert all(word in mended.text for word in ("--optimizer-from", "--reinit optimizer", "--keep-corrupt"))
    kept_bits(mended, original, MODEL)
    assert mended.ledger()["parts"][1]["names"] == ["state.1.momentum_buffer"]


def test_optimizer_comes_whole_from_a_sibling_rather_than_mixed(write: Write) -> None:
    path = write(flip(YOLO, place_of(YOLO, "8")))
    write(OLDER, "epoch1.pt")
    mended = mend(path)
    part = mended.part("optimizer")
    assert (part.outcome, part.source, part.epoch, part.kept) == ("donor", "epoch1.pt", 1, 0)
    assert mended.plan.resumes_at == 3
    assert "--mix" in mended.text


def test_single_tensors_are_mixed_in_where_asked_for(write: Write) -> None:
    path = write(flip(YOLO, place_of(YOLO, "8")))
    write(OLDER, "epoch1.pt")
    mended = mend(path, mix=True)
    part = mended.part("optimizer")
    assert (part.outcome, part.source, part.kept, part.tensors) == ("salvaged", "epoch1.pt", 4, 5)
    assert len(part.names) == 1
    assert not mended.plan.needs_consent


def test_an_optimizer_can_be_started_afresh_instead(write: Write) -> None:
    path = write(flip(PLAIN, place_of(PLAIN, "5")))
    mended = mend(path, reinit=["optimizer"])
    assert mended.value(f"{OPTIMIZER}.state") == {}
    assert mended.part(OPTIMIZER).outcome == "reinitialised"
    assert not mended.plan.needs_consent


@pytest.mark.parametrize("key", ["0", "5"], ids=["weights", "optimizer"])
def test_hit_tensors_are_kept_as_they_are_where_asked_for(key: str, write: Write) -> None:
    harmed = flip(PLAIN, place_of(PLAIN, key) + 4)
    mended = mend(write(harmed), keep_corrupt=True)
    assert not mended.plan.needs_consent
    names = [name for part in mended.plan.parts for name in part.names]
    assert len(names) == 1
    checkpoint = read_checkpoint(BytesSource(mended.path.read_bytes()))
    member = storage_member(checkpoint, key)
    place = place_of(PLAIN, key)
    assert member_bytes(checkpoint.source, member, 1 << 20) == harmed[place : place + member.size]


def test_missing_bytes_are_zeros_where_they_are_kept(write: Write) -> None:
    place = place_of(PLAIN, "2")
    mended = mend(write(cut(PLAIN, place + 12)), keep_corrupt=True)
    values = [value for row in mended.tensors()[f"{MODEL}.linear.weight"] for value in row]
    assert values == [0.5] * 3 + [0.0] * 5
    assert str(mended.part(MODEL).outcome) == "salvaged"


def test_weights_of_which_nothing_is_whole_are_not_kept_as_zeros(write: Write) -> None:
    plan = planned(write(cut(PLAIN, place_of(PLAIN, "0") + 40)), keep_corrupt=True)
    assert plan.refused is not None
    assert "4 of 4 tensors" in plan.refused


def test_lost_weights_of_a_loop_of_ones_own_can_not_be_made_up(write: Write) -> None:
    plan = planned(write(flip(PLAIN, place_of(PLAIN, "0"))))
    assert plan.refused is not None
    assert "conv.weight" in plan.refused
    assert "--model-from" in plan.refused


def test_lost_average_comes_from_the_live_weights(write: Write) -> None:
    data = saved(ultralytics_checkpoint(model=detector()))
    path = write(flip(data, place_of(data, "0")))
    mended = mend(path)
    assert mended.part("model").source == "last.pt: ema"
    assert mended.plan.needs_consent


def test_sibling_that_is_simply_better_is_named(write: Write) -> None:
    path = write(flip(YOLO, place_of(YOLO, "0")))
    write(OLDER, "epoch1.pt")
    mended = mend(path)
    assert mended.plan.resumes_at == 2
    assert "epoch1.pt is the better checkpoint" in mended.text
    kept_bits(mended, tensors(path.with_name("epoch1.pt")), "")


def test_the_nearest_of_several_siblings_lends(write: Write) -> None:
    path = write(flip(YOLO, place_of(YOLO, "8")))
    for number in (0, 1):
        write(ultralytics_checkpoint(epoch=number), f"epoch{number}.pt")
    assert mend(path).part("optimizer").source == "epoch1.pt"


def test_sibling_of_another_model_lends_nothing(write: Write) -> None:
    path = write(flip(YOLO, place_of(YOLO, "8")))
    other = detector()
    other.state["_modules"]["model"].state["_modules"]["0"].state["_modules"]["conv"].state["_parameters"]["weight"] = (
        Tensor((9, 3, 1, 1), parameter=True)
    )
    write(ultralytics_checkpoint(ema=other, epoch=1), "epoch1.pt")
    mended = mend(path)
    assert mended.part("optimizer").outcome == "salvaged"


def test_damaged_sibling_lends_nothing_of_what_it_lost(write: Write) -> None:
    path, older = write(flip(YOLO, place_of(YOLO, "8"))), saved(OLDER)
    write(flip(older, place_of(older, "9")), "epoch1.pt")
    assert mend(path).part("optimizer").outcome == "salvaged"


def test_siblings_in_a_folder_that_was_named_help(write: Write, tmp_path: Path) -> None:
    path = write(flip(YOLO, place_of(YOLO, "8")))
    write(OLDER, "elsewhere/epoch1.pt")
    assert mend(path, folder=tmp_path / "elsewhere").part("optimizer").source == "epoch1.pt"


def test_result_of_an_earlier_repair_is_no_sibling(write: Write) -> None:
    path = write(flip(YOLO, place_of(YOLO, "8")))
    write(OLDER, "epoch1.repaired.pt")
    assert mend(path).part("optimizer").outcome == "salvaged"


@pytest.mark.parametrize("key", ["8", "12"], ids=["of the first", "of the second"])
def test_each_of_two_optimizers_is_salvaged(key: str, write: Write) -> None:
    nets = {"netG": weights(), "netD": weights()}
    optimizers = {"optimizer_G": optimizer_of(nets["netG"]), "optimizer_D": optimizer_of(nets["netD"])}
    data = saved({**nets, **optimizers, "epoch": 3})
    mended = mend(write(flip(data, place_of(data, key))))
    states = [len(mended.value(f"optimizer_{name}.state")) for name in "GD"]
    assert states == ([3, 4] if key == "8" else [4, 3])


@pytest.mark.parametrize("name", ["version", "byteorder", ".data/serialization_id", ".format_version"])
def test_flip_in_a_small_member_is_mended_without_loss(name: str, write: Write) -> None:
    checkpoint = read_checkpoint(BytesSource(PLAIN))
    assert checkpoint.container is not None
    path = write(flip(PLAIN, checkpoint.container.members[name].offset))
    mended = mend(path)
    assert mended.report.verdict is Verdict.RESUMABLE
    assert not mended.plan.needs_consent


@pytest.mark.parametrize("role", ["scheduler", "scaler"])
def test_small_parts_with_lost_tensors_come_from_a_sibling_or_are_left_out(role: str, write: Write) -> None:
    state = plain_checkpoint()[role]
    content = plain_checkpoint(**{role: {**state, "kept": Tensor((2,), 3.0)}})
    data = saved(content)
    path = write(flip(data, place_of(data, "8")))
    mended = mend(path)
    assert mended.value(role) is None
    assert mended.plan.needs_consent
    write(content, "epoch2.pt")
    mended = mend(path)
    assert mended.tensors() == tensors(path.with_name("epoch2.pt"))
    assert mended.plan.needs_consent


def test_missing_storage_is_a_lost_tensor(write: Write) -> None:
    mended = mend(write(without(PLAIN, "data/6")))
    assert list(mended.value(f"{OPTIMIZER}.state")) == [0, 1, 3]


def test_zeros_at_the_end_are_no_values(write: Write) -> None:
    mended = mend(write(zero_tail(PLAIN, place_of(PLAIN, "6"))))
    assert list(mended.value(f"{OPTIMIZER}.state")) == [0, 1]


def test_object_graph_that_was_cut_leaves_nothing_to_resume_without_a_sibling(write: Write) -> None:
    path = write(cut(YOLO, 700))
    plan = planned(path)
    assert plan.refused is not None
    write(OLDER, "epoch1.pt")
    mended = mend(path)
    assert mended.plan.resumes_at == 2


@pytest.mark.parametrize("length", [0, 1, 30, 100])
def test_hardly_anything_left_comes_from_a_sibling(length: int, write: Write) -> None:
    path = write(cut(YOLO, length))
    write(OLDER, "epoch1.pt")
    assert mend(path).plan.resumes_at == 2


def test_flipped_object_graph_is_not_believed(write: Write) -> None:
    place = YOLO.index(b"epochs") + 7
    path = write(flip(YOLO, place, 1))
    plan = planned(path)
    assert plan.refused is not None
    write(OLDER, "epoch1.pt")
    assert mend(path).plan.resumes_at == 2


def test_old_format_that_was_cut_is_salvaged_into_an_archive(write: Write) -> None:
    data = saved_legacy(plain_checkpoint())
    mended = mend(write(cut(data, len(data) - 20)))
    assert mended.part(OPTIMIZER).outcome == "salvaged"
    assert zipfile.is_zipfile(mended.path)


# --- everywhere -----------------------------------------------------------------------------------


def holds_what_it_promises(path: Path, **options: Any) -> str:
    """Plan and, where there is something to do, carry it out; what was written is what the plan said."""
    output = path.with_name("new.pt")
    output.unlink(missing_ok=True)
    try:
        with plan_repair(path, request_of(**options), output) as repair:
            plan = repair.plan
            if plan.refused is not None or repair.archive is None:
                assert plan.refused is not None or plan.verdict in (
                    Verdict.RESUMABLE, Verdict.WEIGHTS, Verdict.FINISHED,
                ), plan.verdict  # fmt: skip
                return "refused" if plan.refused is not None else "nothing to do"
            repair.apply(force=True)
    except CkptError as error:
        assert not output.exists()
        return f"error: {error}"
    report = verify(output, siblings=False)
    assert report.verdict is plan.expected, [fact.message for fact in report.findings]
    assert report.verdict in (Verdict.RESUMABLE, Verdict.WEIGHTS, Verdict.FINISHED)
    if plan.resumes_at is not None:
        assert report.epoch is not None
    return "written"


SMALL = {"model": {"weight": Tensor((2, 2)), "bias": Tensor((2,))}, "epoch": 3,
         "optimizer": {"state": {0: {"momentum_buffer": Tensor((2, 2))}, 1: {"momentum_buffer": Tensor((2,))}},
                       "param_groups": [{"lr": 0.1, "momentum": 0.9, "params": [0, 1]}]}}  # fmt: skip


@pytest.mark.parametrize("start", [n if n in (0, 5) else pytest.param(n, marks=pytest.mark.full) for n in range(16)])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "with a sibling"])
def test_cut_at_every_byte_keeps_its_promise(start: int, beside: bool, write: Write) -> None:
    data = saved(SMALL)
    fates: set[str] = set()
    if beside:
        write({**SMALL, "epoch": 2}, "epoch2.pt")
    for length in range(start, len(data), 16):
        fates.add(holds_what_it_promises(write(cut(data, length))).split(":")[0])
    assert fates == ({"written"} if beside else {"written", "refused"})


@pytest.mark.parametrize("name", ["plain", "yolo"])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "with a sibling"])
@settings(max_examples=40)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flip_anywhere_keeps_its_promise(name: str, beside: bool, share: float, bit: int, write: Write) -> None:
    data = {"plain": PLAIN, "yolo": YOLO}[name]
    if beside:
        write(OLDER if name == "yolo" else plain_checkpoint(epoch=1), "epoch1.pt")
    holds_what_it_promises(write(flip(data, int(share * len(data)), bit)))


@settings(max_examples=30)
@given(share=st.floats(0, 1, exclude_max=True), mix=st.booleans(), keep=st.booleans())
def test_zeros_to_the_end_keep_their_promise(share: float, mix: bool, keep: bool, write: Write) -> None:
    write(OLDER, "epoch1.pt")
    path = write(zero_tail(YOLO, int(share * len(YOLO.rstrip(b"\0")))))
    holds_what_it_promises(path, mix=mix, keep_corrupt=keep)


@settings(max_examples=12)
@given(share=st.floats(0, 1, exclude_max=True), flipped=st.booleans())
def test_real_file_harmed_anywhere_keeps_its_promise(share: float, flipped: bool, write: Write) -> None:
    write((FIXTURES / "ultralytics-8.4-epoch3-after-finish.pt").read_bytes(), "epoch3.pt")
    place = int(share * len(REAL))
    holds_what_it_promises(write(flip(REAL, place) if flipped else cut(REAL, place)))


@settings(max_examples=40)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12))
def test_scribbled_file_keeps_its_promise(changes: list[tuple[float, int]], write: Write) -> None:
    data = bytearray(PLAIN)
    for share, value in changes:
        data[int(share * len(data))] = value
    holds_what_it_promises(write(bytes(data)))


@settings(max_examples=40)
@given(data=st.binary(max_size=400), head=st.sampled_from([b"", b"PK\3\4", b"\x80\x02", PLAIN[:200]]))
def test_any_bytes_are_refused_or_mended(data: bytes, head: bytes, write: Write) -> None:
    assert holds_what_it_promises(write(head + data)) != "nothing to do"


@pytest.mark.parametrize("content", [plain_checkpoint(), ultralytics_checkpoint(), stripped_checkpoint(), weights()])
def test_repair_of_a_repaired_file_has_nothing_to_do(content: Any, write: Write) -> None:
    path = write(append(saved(content), b"more"))
    mended = mend(path)
    assert planned(mended.path).steps == []
    again = mend(write(append(mended.path.read_bytes(), b"again")), path.with_name("again.pt"))
    assert again.tensors() == mended.tensors()
    with zipfile.ZipFile(again.path) as archive:
        assert sum(name.endswith("ledger.json") for name in archive.namelist()) == 1
