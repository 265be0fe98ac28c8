"""What a plan says of each part is true: nothing wrong is called kept, nothing lost is left out."""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import Any

import pytest
from building import (
    Instance,
    Tensor,
    optimizer_of,
    plain_checkpoint,
    saved,
    stripped_checkpoint,
    ultralytics_checkpoint,
    weights,
)
from conftest import Run, Write
from damage import cut
from mending import mend, planned

from ckpt_tools.findings import Verdict

PLAIN = saved(plain_checkpoint())
MODEL, OPTIMIZER = "model_state_dict", "optimizer_state_dict"


def headers(data: bytes) -> dict[str, int]:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return {info.filename.split("/", 1)[1]: info.header_offset for info in archive.infolist()}


def place_in(data: bytes, name: str) -> int:
    """Where a member's bytes begin."""
    start = headers(data)[name]
    return (
        start
        + 30
        + int.from_bytes(data[start + 26 : start + 28], "little")
        + int.from_bytes(data[start + 28 : start + 30], "little")
    )


@pytest.mark.parametrize("offset", [26, 27, 28, 29])
def test_header_that_lies_about_its_length_costs_no_tensor_its_bytes(offset: int, write: Write) -> None:
    """The data would be read from another place: only what its checksum confirms is kept."""
    original = mend(write(PLAIN, "whole.pt"), reinit={"optimizer"}).tensors()
    for name, start in headers(PLAIN).items():
        harmed = bytearray(PLAIN)
        harmed[start + offset] ^= 1
        plan = planned(write(bytes(harmed)), accept_loss=True)
        if plan.refused is None and plan.steps:
            mended = mend(write(bytes(harmed)), accept_loss=True)
            kept = [part.path for part in mended.plan.parts if str(part.outcome) in ("kept", "edited")]
            for tensor, values in mended.tensors().items():
                if tensor in original and any(tensor.startswith(f"{path}.") for path in kept):
                    assert values == original[tensor], (name, tensor)


def test_part_behind_the_first_one_hit_is_no_kept_zeros(write: Write) -> None:
    content = plain_checkpoint(rng={"torch": Tensor((5056,), 7, "uint8")})
    data = saved(content)
    plan = planned(write(cut(data, place_in(data, "data/7") + 4)), keep_corrupt=True)
    fates = {part.path: str(part.outcome) for part in plan.parts if part.tensors}
    assert fates[MODEL] == "kept"
    assert fates[OPTIMIZER] == "salvaged"
    assert fates["rng"] == "lost"
    assert plan.needs_consent


def test_parts_behind_the_end_of_the_object_graph_are_lost_in_so_many_words(write: Write) -> None:
    write(saved(plain_checkpoint(epoch=1)), "epoch1.pt")
    graph = place_in(PLAIN, "data.pkl")
    plan = planned(write(cut(PLAIN, graph + 900)), accept_loss=False)
    assert plan.needs_consent
    assert any(step.loss for step in plan.steps)


def test_lost_part_is_in_the_plan_and_in_the_ledger(write: Write) -> None:
    data = saved(plain_checkpoint(rng={"torch": Tensor((5056,), 7, "uint8")}))
    mended = mend(write(cut(data, place_in(data, "data/8") + 100)), accept_loss=True)
    assert str(mended.part("rng").outcome) == "lost"
    assert {"path": "rng", "outcome": "lost"}.items() <= next(
        part.items() for part in mended.ledger()["parts"] if part["path"] == "rng"
    )


def test_ledger_of_an_earlier_repair_stays_in_the_file(write: Write) -> None:
    first = mend(write(PLAIN), reinit={"optimizer"})
    second = mend(first.path, first.path.with_name("second.pt"), epoch=1)
    assert second.ledger()["before"]["steps"] == first.ledger()["steps"]


def test_nothing_of_its_own_is_nothing_to_mix(write: Write) -> None:
    """The weights are all another file's: so is the epoch."""
    write(saved(plain_checkpoint(epoch=1)), "epoch1.pt")
    plan = planned(write(cut(PLAIN, place_in(PLAIN, "data/0") + 8)), mix=True)
    assert plan.resumes_at == 2
    assert plan.needs_consent


def averaged(**replaced: Any) -> dict[str, Any]:
    """torchvision's references with --model-ema: an AveragedModel, which counts its updates."""
    average = {"n_averaged": Tensor((), 9, "int64"), **{f"module.{name}": held for name, held in weights().items()}}
    model = weights()
    content = {"model": model, "optimizer": optimizer_of(model), "epoch": 3, "model_ema": average}
    content["args"] = Instance("argparse", "Namespace", {"epochs": 9})
    return content | replaced


@pytest.mark.parametrize("beside", [True, False])
def test_lost_average_costs_neither_weights_nor_optimizer(beside: bool, write: Write) -> None:
    if beside:
        write(saved(averaged(epoch=2)), "epoch2.pt")
    data = saved(averaged())
    mended = mend(write(cut(data, place_in(data, "data/11") + 4)), accept_loss=True)
    assert {str(mended.part(path).outcome) for path in ("model", "optimizer")} == {"kept"}
    assert mended.part("model_ema").source == ("epoch2.pt" if beside else "last.pt: model")
    assert mended.plan.resumes_at == 4


def test_files_called_as_timm_calls_them(write: Write, ckpt: Run) -> None:
    model = weights()
    data = saved({"epoch": 3, "arch": "net", "state_dict": model, "optimizer": optimizer_of(model), "version": 2})
    write(data, "checkpoint-3.pth.tar")
    path = write(cut(data, place_in(data, "data/6") + 4), "last.pth.tar")
    run = ckpt("repair", "--optimizer-from", "checkpoint-3.pth.tar")
    assert run.returncode == 0, run.stderr
    assert path.with_name("last.repaired.pth.tar").is_file()


def test_optimizer_of_another_kind_is_refused(write: Write) -> None:
    model = weights()
    adam = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
    groups = {"state": {}, "param_groups": [{**adam, "params": list(range(len(model)))}]}
    donor = write(saved(plain_checkpoint(**{OPTIMIZER: groups})), "adam.pt")
    plan = planned(write(PLAIN), optimizer_from=donor)
    assert plan.refused is not None
    assert "AdamW" in plan.refused
    assert "SGD" in plan.refused


def test_other_optimizer_needs_a_fresh_state(write: Write) -> None:
    path = write(saved(ultralytics_checkpoint()))
    target = "ultralytics==8.4.190"
    refused = planned(path, settings={"optimizer": "AdamW"}, target=target)
    assert "--reinit optimizer" in (refused.refused or "")
    mended = mend(path, settings={"optimizer": "AdamW"}, reinit={"optimizer"}, target=target)
    assert mended.args()["optimizer"] == "AdamW"
    assert mended.report.verdict is Verdict.RESUMABLE


def test_donor_is_not_taken_for_the_file_to_mend(write: Write, ckpt: Run) -> None:
    broken = saved(ultralytics_checkpoint(optimizer=None))
    write(broken, "last.pt")
    donor = saved(ultralytics_checkpoint(epoch=0, updates=...))  # incomplete, too, and newer
    write(donor, "last-b.pt")
    run = ckpt("repair", "--optimizer-from", "last-b.pt", "--target", "ultralytics==8.4.190", "--json")
    assert '"file": "last.pt"' in run.stdout


def test_namespace_stays_one(write: Write) -> None:
    settings = write(b"epochs: 20\nlr: 0.5\n", "args.yaml")
    mended = mend(write(saved(averaged())), args_from=settings)
    assert mended.args()["epochs"] == 20
    assert mended.part("args").source == "args.yaml"
    assert mended.value("args").path == "argparse.Namespace"


def test_arguments_of_another_task_are_refused(write: Write) -> None:
    other = write(b"task: segment\nepochs: 9\n", "args.yaml")
    plan = planned(write(saved(ultralytics_checkpoint())), args_from=other)
    assert "another task" in (plan.refused or "")


def test_weights_alone_are_turned_round(write: Write) -> None:
    donor = write(PLAIN, "epoch2.pt")
    plan = planned(write(saved(weights())), optimizer_from=donor)
    assert f"ckpt repair {donor} --model-from" in (plan.refused or "")


def test_stripped_file_keeps_saying_so_without_a_word_about_it(write: Write) -> None:
    plan = planned(write(saved(stripped_checkpoint())), cures=("scaler-empty",), target="ultralytics==8.4.190")
    assert plan.expected is Verdict.FINISHED


def test_damaged_sibling_of_the_same_epoch_does_not_end_the_search(write: Write) -> None:
    """Its weights are hit like the file's own; an older file is whole."""
    data = saved(ultralytics_checkpoint())
    harmed = bytearray(data)
    harmed[place_in(data, "data/0")] ^= 1
    write(bytes(harmed), "epoch1.pt")
    write(saved(ultralytics_checkpoint(epoch=0)), "epoch0.pt")
    plan = planned(write(bytes(harmed)), target="ultralytics==8.4.190")
    assert plan.refused is None
    assert plan.resumes_at == 1
    assert plan.needs_consent


def test_refusal_names_the_file_to_mend_not_the_output(write: Write) -> None:
    plan = planned(write(saved(plain_checkpoint(**{OPTIMIZER: None}))))
    assert (plan.refused or "").startswith("last.pt has no optimizer")
