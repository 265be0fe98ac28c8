"""``ckpt convert`` against the real trainer and the real torch: what it writes is what they would have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mending import converted

from ckpt_tools.conversions import Conversion
from ckpt_tools.findings import Verdict
from ckpt_tools.verbs.convert import plan_convert
from oracle.trainer import STOP, Run, Trainer

torch = pytest.importorskip("torch")

from oracle.standins import bits, named_tensors  # noqa: E402

SGD, ADAMW, MUSGD = Run(), Run(optimizer="AdamW"), Run(optimizer="MuSGD")
TASKS = [Run(task=task) for task in ("segment", "classify", "pose", "obb")]
NEVER_STRIPPED = Run(stop_after=3)


def loaded(path: Path) -> dict[str, Any]:
    """What a plain ``torch.load(path)`` gives on this machine; nothing is mapped."""
    found = torch.load(path, weights_only=False)
    assert isinstance(found, dict)
    return found


def same_tensors(one: Any, other: Any) -> bool:
    """Whether all tensors have the same names, types, shapes and bits."""
    held, found = dict(named_tensors(one)), dict(named_tensors(other))
    assert held
    return list(held) == list(found) and all(
        (t.dtype, t.shape, bits(t)) == (found[name].dtype, found[name].shape, bits(found[name]))
        for name, t in held.items()
    )


# --- devices --------------------------------------------------------------------------------------


def from_four_gpus(path: Path, target: Path, device: Any) -> Path:
    """The file as a run on four GPUs would have saved it: storages tagged in turn, the batch that of all together."""
    content = loaded(path)
    content["train_args"] |= {"device": device, "batch": 16}
    count = [0]

    def tag(storage: Any) -> str:
        count[0] += 1
        return f"cuda:{count[0] % 4}"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.serialization.location_tag", tag)
        torch.save(content, target)
    return target


@pytest.mark.parametrize("device", ["0,1,2,3", [0, 1, 2, 3]], ids=["text", "list"])
def test_file_of_four_gpus_resumes_on_a_cpu(device: Any, trainer: Trainer) -> None:
    saved = trainer.weights(ADAMW) / "last.pt"
    path = from_four_gpus(saved, trainer.place("last.pt"), device)
    with pytest.raises(RuntimeError, match="Attempting to deserialize object on a CUDA device"):
        loaded(path)
    made = converted(path, trainer.place("last.pt"), device="cpu")
    held = loaded(made.path)
    assert same_tensors(held, loaded(saved))
    assert (held["train_args"]["device"], held["train_args"]["batch"]) == ("cpu", 4)
    outcome = trainer.resume(made.path)
    assert (outcome.kind, outcome.epoch) == ("resumed", STOP + 1), outcome


def test_to_a_gpu_and_back_is_the_same_file(trainer: Trainer) -> None:
    saved = trainer.weights(SGD) / "last.pt"
    there = converted(saved, trainer.place("there.pt"), device="cuda:1")
    back = converted(there.path, trainer.place("last.pt"), device="cpu")
    assert trainer.ask(do="compare", one=str(saved), other=str(back.path), ignore=[])["message"] == ""
    assert there.args()["device"] == "1"


# --- purpose --------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [SGD, ADAMW, MUSGD, NEVER_STRIPPED, *TASKS], ids=lambda run: run.name)
def test_strip_leaves_what_the_trainer_leaves(run: Run, trainer: Trainer) -> None:
    saved = trainer.weights(run) / "last.pt"
    theirs = trainer.place("last.pt")
    shutil.copyfile(saved, theirs)
    trainer.ask(do="strip", path=str(theirs))
    ours = converted(saved, trainer.place("last.pt"), strip=True)
    compared = trainer.ask(do="compare", one=str(theirs), other=str(ours.path), ignore=["date"])
    assert compared["message"] == ""
    assert loaded(ours.path).keys() == loaded(theirs).keys()
    for stripped in (theirs, ours.path):
        with plan_convert(stripped, Conversion(strip=True), stripped.with_name("again.pt")) as again:
            assert not again.plan.steps


@pytest.mark.parametrize("run", [SGD, *TASKS], ids=lambda run: run.task)
def test_state_dict_makes_a_new_model_predict_the_same(run: Run, trainer: Trainer) -> None:
    saved = trainer.weights(run) / "last.pt"
    made = converted(saved, trainer.place("weights.pt"), state_dict=True)
    told = trainer.ask(do="rebuild", checkpoint=str(saved), weights=str(made.path), description=made.plan.sidecars[0])
    assert (told["same"], told["described"] or run.task == "classify") == (True, True)
    assert told["outputs"]
    assert told["args"]["epochs"] == loaded(saved)["train_args"]["epochs"]


def test_scrubbed_and_portable_file_still_resumes(trainer: Trainer) -> None:
    saved = trainer.weights(ADAMW) / "last.pt"
    made = converted(saved, trainer.place("last.pt"), scrub=True, portable=True)
    assert str(trainer.folder).encode() not in made.path.read_bytes()
    assert same_tensors(loaded(made.path), loaded(saved))
    outcome = trainer.resume(made.path, task="detect")
    assert (outcome.kind, outcome.epoch) == ("resumed", STOP + 1), outcome


def test_class_is_renamed_for_the_trainer(trainer: Trainer) -> None:
    saved = trainer.weights(SGD) / "last.pt"
    made = converted(saved, trainer.place("last.pt"), classes={"0": "truck"})
    assert loaded(made.path)["ema"].names[0] == "truck"


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_cast_is_torchs_own(dtype: str, trainer: Trainer) -> None:
    saved = trainer.weights(ADAMW) / "last.pt"
    wanted, before = getattr(torch, dtype), loaded(saved)
    made = converted(saved, trainer.place("last.pt"), dtype=dtype, optimizer_dtype=dtype)
    held, found = dict(named_tensors(before)), dict(named_tensors(loaded(made.path)))
    assert list(held) == list(found)
    for name, tensor in held.items():
        kept = not tensor.dtype.is_floating_point or name.endswith(".step")
        assert bits(found[name]) == bits(tensor if kept else tensor.to(wanted)), name
    outcome = trainer.resume(made.path)
    assert outcome.epoch == STOP + 1, outcome


# --- formats --------------------------------------------------------------------------------------


def odd_tensors() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    return {
        "plain": base,
        "tied": base,
        "row": base[1],
        "turned": base.t(),
        "channels": torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last),
        "repeated": torch.ones(1).expand(7),
        "brain": base.bfloat16(),
        "half": base.half(),
        "double": base.double(),
        "count": torch.tensor(7),
        "mask": base > 0,
        "none": torch.zeros(0, 3),
        "eighth": base.to(torch.float8_e4m3fn),
        "wide": torch.tensor([1, 60000], dtype=torch.uint16),
        "complex": torch.randn(3, dtype=torch.complex64, generator=generator),
    }


def test_safetensors_out_and_back_is_the_same_bit_by_bit(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "last.pt"
    torch.save(odd_tensors(), path)
    out = converted(path, tmp_path / "w.safetensors")
    read = safetensors.load_file(out.path)
    assert read.keys() == odd_tensors().keys()
    for name, tensor in odd_tensors().items():
        assert (read[name].dtype, read[name].shape, bits(read[name])) == (tensor.dtype, tensor.shape, bits(tensor))
    back = converted(out.path, tmp_path / "back.pt", to="zip")
    found = torch.load(back.path, weights_only=True)
    assert {name: bits(found[name]) for name in found} == {n: bits(t) for n, t in odd_tensors().items()}


def test_file_of_the_safetensors_package_becomes_a_state_dict(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    held = {name: tensor.contiguous().clone() for name, tensor in odd_tensors().items()}
    path = tmp_path / "model.safetensors"
    safetensors.save_file(held, path, metadata={"format": "pt"})
    made = converted(path, tmp_path / "model.pt")
    found = torch.load(made.path, weights_only=True)
    assert {name: bits(found[name]) for name in found} == {name: bits(tensor) for name, tensor in held.items()}
    assert made.report.verdict is Verdict.WEIGHTS


@pytest.mark.parametrize("make", [odd_tensors, lambda: {"epoch": 1, "model": torch.nn.Linear(2, 2)}])
def test_stream_and_back_is_the_same(make: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    path, content = tmp_path / "last.pt", make()
    torch.save(content, path)
    out = converted(path, tmp_path / "old.pt", to="legacy")
    assert not torch.serialization._is_zipfile(open(out.path, "rb"))  # noqa: SIM115
    assert same_tensors(loaded(out.path), content)
    back = converted(out.path, tmp_path / "back.pt", to="zip")
    assert same_tensors(loaded(back.path), content)


def test_what_torch_wrote_as_a_stream_becomes_an_archive(tmp_path: Path) -> None:
    path, content = tmp_path / "last.pt", {"epoch": 1, "model": odd_tensors()["plain"]}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    made = converted(path, tmp_path / "new.pt", to="zip")
    assert same_tensors(torch.load(made.path, weights_only=True), content)


# --- portability ----------------------------------------------------------------------------------


def test_compact_storages_hold_the_same_values_and_go_on_sharing(tmp_path: Path) -> None:
    big = torch.arange(1 << 16, dtype=torch.float32)
    odd = {name: tensor for name, tensor in odd_tensors().items() if name != "repeated"}  # would grow
    content = {**odd, "view": big[10:20], "other": big[15:25], "far": big[60000:60004]}
    path = tmp_path / "last.pt"
    torch.save(content, path)
    made = converted(path, tmp_path / "small.pt", portable=True)
    found = torch.load(made.path, weights_only=True)
    assert made.path.stat().st_size < path.stat().st_size - (1 << 17)
    assert same_tensors(found, content)
    assert all(tensor.is_contiguous() for tensor in found.values())
    assert found["other"].data_ptr() - found["view"].data_ptr() == 20
    assert found["view"].untyped_storage().nbytes() == 60


@pytest.mark.parametrize("wrapped", [True, False], ids=["module", "state dict"])
def test_wrapper_is_taken_off(wrapped: bool, tmp_path: Path) -> None:
    model = torch.nn.DataParallel(torch.nn.Linear(3, 2))
    path = tmp_path / "last.pt"
    torch.save({"epoch": 1, "model": model if wrapped else model.state_dict()}, path)
    made = converted(path, tmp_path / "bare.pt", prefix="none")
    held = loaded(made.path)["model"]
    torch.nn.Linear(3, 2).load_state_dict(held.state_dict() if wrapped else held, strict=True)
    assert same_tensors(held, model.module if wrapped else model.module.state_dict())


def test_prefix_is_put_on_as_the_wrapper_wants_it(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save(torch.nn.Linear(3, 2).state_dict(), path)
    made = converted(path, tmp_path / "new.pt", prefix="module")
    torch.nn.DataParallel(torch.nn.Linear(3, 2)).load_state_dict(torch.load(made.path, weights_only=True), strict=True)


def test_ledger_is_invisible_to_torch(trainer: Trainer) -> None:
    saved = trainer.weights(SGD) / "last.pt"
    made = converted(saved, trainer.place("last.pt"), device="cuda:0")
    assert json.dumps(made.ledger())
    assert torch.load(made.path, weights_only=False, map_location="cpu").keys() == loaded(saved).keys()
