"""Conversions: what they change, what they leave alone, what they refuse, and the command line around them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from building import (
    Called,
    Instance,
    Name,
    Storage,
    Tensor,
    detector,
    module,
    optimizer_of,
    plain_checkpoint,
    saved,
    saved_legacy,
    stripped_checkpoint,
    ultralytics_checkpoint,
    weights,
)
from conftest import FIXTURES, Run, Write
from damage import cut, flip, storage_member
from hostile_samples import SAMPLES
from mending import Mended, converted, mend, tensors

import ckpt_tools
from ckpt_tools.checkpoint import open_checkpoint
from ckpt_tools.container import read_safetensors
from ckpt_tools.conversions import Conversion
from ckpt_tools.conversions.request import device_tag, renaming
from ckpt_tools.findings import CkptError, Verdict
from ckpt_tools.plans.model import Plan
from ckpt_tools.source import open_source
from ckpt_tools.verbs.convert import converted_name, plan_convert
from ckpt_tools.verbs.verify import verify

ARGS = {"task": "detect", "mode": "train", "data": "data.yaml", "epochs": 5, "optimizer": "SGD"}


def plan(path: Path, output: Path | None = None, **options: Any) -> Plan:
    """The plan alone."""
    with plan_convert(path, Conversion(**options), output or path.with_name("new.pt")) as conversion:
        return conversion.plan


def devices(path: Path) -> set[str]:
    """The tags of all storages."""
    with open_checkpoint(path) as checkpoint:
        return {storage.location for storage, _ in checkpoint.storages.values()}


def on(device: str) -> Callable[[], dict[str, Any]]:
    return lambda: plain_checkpoint(model_state_dict=weights(**{"conv.bias": Tensor((4,), 0.1, location=device)}))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- devices --------------------------------------------------------------------------------------


class TestDevice:
    @pytest.mark.parametrize(
        ("word", "tag"),
        [
            ("cpu", "cpu"),
            ("CUDA", "cuda:0"),
            ("cuda:3", "cuda:3"),
            ("mps", "mps"),
            ("xpu", "xpu:0"),
            ("npu:1", "npu:1"),
            ("2", "cuda:2"),
        ],
    )
    def test_words_become_tags(self, word: str, tag: str) -> None:
        assert device_tag(word) == tag

    @pytest.mark.parametrize("word", ["tpu", "cuda:", "cpu:1", "mps:0", "cuda:x", "", "-1"])
    def test_other_words_are_refused(self, word: str) -> None:
        with pytest.raises(CkptError, match="no device"):
            Conversion(device=word)

    def test_every_tensor_moves_and_keeps_its_bytes(self, write: Write) -> None:
        path = write(on("cuda:3")())
        made = converted(path, device="cpu")
        assert devices(path) == {"cpu", "cuda:3"}
        assert devices(made.path) == {"cpu"}
        assert made.tensors() == tensors(path)
        assert made.report.verdict is Verdict.RESUMABLE

    def test_map_moves_one_device_and_leaves_the_others(self, write: Write) -> None:
        content = plain_checkpoint(
            model_state_dict=weights(
                **{"conv.bias": Tensor((4,), location="cuda:1"), "linear.bias": Tensor((2,), location="cuda:2")}
            )
        )
        made = converted(write(content), devices={"cuda:1": "cuda:0"})
        assert devices(made.path) == {"cpu", "cuda:0", "cuda:2"}

    def test_map_without_a_number_means_all_of_a_kind(self, write: Write) -> None:
        content = plain_checkpoint(
            model_state_dict=weights(
                **{"conv.bias": Tensor((4,), location="cuda:1"), "linear.bias": Tensor((2,), location="cuda:2")}
            )
        )
        assert devices(converted(write(content), devices={"cuda": "cpu"}).path) == {"cpu"}

    def test_steps_and_random_states_stay_where_torch_wants_them(self, write: Write) -> None:
        optimizer = optimizer_of(weights())
        optimizer["state"][0]["step"] = Tensor((), 3.0)
        content = plain_checkpoint(optimizer_state_dict=optimizer, rng_state=Tensor((8,), 0, "uint8"))
        made = converted(write(content), device="cuda:0")
        with open_checkpoint(made.path) as checkpoint:
            tags = {s.location for s, held in checkpoint.storages.values() for t in held if t.shape in ((), (8,))}
        assert devices(made.path) == {"cpu", "cuda:0"}
        assert tags == {"cpu"}
        assert "counts its steps on the CPU" in made.text
        assert "random state" in made.text

    def test_switches_of_the_optimizer_are_set_for_the_device(self, write: Write) -> None:
        optimizer = optimizer_of(weights())
        optimizer["param_groups"][0].update(capturable=True, fused=True)
        path = write({**on("cuda:1")(), "optimizer_state_dict": optimizer})
        held = converted(path, device="cpu").value("optimizer_state_dict.param_groups")[0]
        assert (held["capturable"], held["fused"]) == (False, None)
        assert converted(path, device="cuda:0").value("optimizer_state_dict.param_groups")[0]["capturable"] is True

    def test_what_belongs_on_the_cpu_goes_there_whatever_it_was_on(self, write: Write) -> None:
        optimizer = optimizer_of(weights())
        optimizer["state"][0]["step"] = Tensor((), 3.0, location="cuda:1")
        path = write(plain_checkpoint(optimizer_state_dict=optimizer, rng_state=Tensor((8,), 0, "uint8")))
        for asked in ({"device": "cuda:0"}, {"devices": {"cpu": "cuda:0", "cuda": "cuda:2"}}):
            with open_checkpoint(converted(path, **asked).path) as checkpoint:
                held = checkpoint.storages.values()
                assert {s.location for s, ts in held for t in ts if t.shape in ((), (8,))} == {"cpu"}
                assert {s.location for s, ts in held for t in ts if t.shape not in ((), (8,))} == {"cuda:0"}

    def test_fused_optimizers_count_their_steps_on_the_device(self, write: Write) -> None:
        optimizer = optimizer_of(weights())
        optimizer["param_groups"][0]["fused"] = True
        optimizer["state"][0]["step"] = Tensor((), 3.0, location="cuda:1")
        made = converted(write(plain_checkpoint(optimizer_state_dict=optimizer)), device="cuda:0")
        assert devices(made.path) == {"cuda:0"}

    def test_device_and_batch_follow_a_map_that_leaves_one_gpu(self, write: Write) -> None:
        args = {**ARGS, "device": "0,1", "batch": 32}
        content = ultralytics_checkpoint(train_args=args, note=Tensor((1,), location="cuda:1"))
        made = converted(write(content), devices={"cuda:1": "cpu"})
        assert (made.args()["device"], made.args()["batch"]) == ("0", 16)

    def test_device_objects_change_alike(self, write: Write) -> None:
        content = {**on("cuda:1")(), "device": Called("torch", "device", ("cuda", 1))}
        made = converted(write(content), device="cpu")
        with open_checkpoint(made.path) as checkpoint:
            assert checkpoint.recognised is not None
            assert checkpoint.recognised.value("device").args == ("cpu",)

    @pytest.mark.parametrize(
        ("device", "batch", "to", "device_after", "batch_after"),
        [
            ("0,1,2,3", 64, "cpu", "cpu", 16),
            ([0, 1], 32, "cpu", "cpu", 16),
            ("cuda:0,1", 32, "cuda:2", "2", 16),
            ("cuda:0,cuda:1", 32, "cpu", "cpu", 16),
            (["cuda:0", "cuda:1"], 32, "cpu", "cpu", 16),
            ("-1", 16, "cpu", "-1", 16),
            ("0", 16, "cpu", "cpu", 16),
            ("cpu", 16, "cuda:1", "1", 16),
            ("0,1,2", 16, "cpu", "cpu", 16),  # no multiple: not divided among them
            ("0,1", -1, "cpu", "cpu", -1),  # auto
            ("0", 16, "mps", "mps", 16),
            (None, 16, "cpu", None, 16),
            ("", 16, "cpu", "", 16),
        ],
    )
    def test_saved_device_and_batch_are_those_of_the_new_machine(
        self, device: Any, batch: int, to: str, device_after: Any, batch_after: int, write: Write
    ) -> None:
        held = {**ARGS, "device": device, "batch": batch}
        content = ultralytics_checkpoint(train_args=held, note=Tensor((1,), location="xpu:0"))
        made = converted(write(content), device=to)
        assert (made.args()["device"], made.args()["batch"]) == (device_after, batch_after)

    def test_what_a_device_can_not_hold_stays_and_is_named(self, write: Write) -> None:
        content = plain_checkpoint(model_state_dict=weights(**{"linear.bias": Tensor((2,), 1.0, "float64")}))
        made = converted(write(content), device="mps")
        assert devices(made.path) == {"mps", "cpu"}
        assert "mps has no float64" in made.text

    def test_there_and_back_gives_the_same_file(self, write: Write) -> None:
        content = ultralytics_checkpoint(train_args={**ARGS, "device": "cpu", "batch": 16})
        path = write(content)
        there = converted(path, device="cuda:1")
        back = converted(there.path, path.with_name("back.pt"), device="cpu")
        assert devices(there.path) == {"cuda:1"}
        assert (back.tensors(), back.args()) == (tensors(path), content["train_args"])


# --- precision ------------------------------------------------------------------------------------


class TestPrecision:
    def test_weights_change_and_nothing_else(self, write: Write) -> None:
        path = write(plain_checkpoint(model_state_dict=weights(count=Tensor((), 7, "int64"))))
        made = converted(path, dtype="float16")
        with ckpt_tools.open(made.path) as opened:
            held = {name: str(tensor.dtype) for name, tensor in opened.items()}
        assert {dtype for name, dtype in held.items() if name.startswith("model")} == {"float16", "int64"}
        assert {dtype for name, dtype in held.items() if name.startswith("optim")} == {"float32"}
        assert not made.plan.needs_consent
        assert made.part("model_state_dict").outcome == "cast"

    def test_optimizer_state_is_cast_by_itself_and_keeps_its_steps(self, write: Write) -> None:
        optimizer = optimizer_of(weights())
        optimizer["state"][0]["step"] = Tensor((), 3.0)
        made = converted(write(plain_checkpoint(optimizer_state_dict=optimizer)), optimizer_dtype="bfloat16")
        with ckpt_tools.open(made.path) as opened:
            held = {name: str(tensor.dtype) for name, tensor in opened.items()}
        assert {d for name, d in held.items() if name.endswith("momentum_buffer")} == {"bfloat16"}
        assert held["optimizer_state_dict.state.0.step"] == "float32"
        assert held["model_state_dict.conv.bias"] == "float32"

    def test_values_that_do_not_fit_are_counted_and_need_a_word(self, write: Write) -> None:
        odd = Tensor((4,), [70000.0, -1e9, 1e-9, 1.0])
        path = write(plain_checkpoint(model_state_dict=weights(**{"conv.bias": odd})))
        found = plan(path, dtype="float16")
        texts = [step.text for step in found.steps if step.name == "range"]
        assert found.needs_consent
        assert texts == [
            "model_state_dict: 2 values are too large for float16 and become infinite",
            "model_state_dict: 1 value is too small for float16 and becomes zero",
        ]
        assert found.expected is Verdict.INCOMPLETE
        assert not plan(path, dtype="bfloat16").needs_consent

    def test_nothing_is_done_twice(self, write: Write) -> None:
        made = converted(write(plain_checkpoint()), dtype="float16")
        assert not plan(made.path, made.path.with_name("again.pt"), dtype="float16").steps

    def test_a_file_without_what_is_to_be_cast_is_refused(self, write: Write) -> None:
        found = plan(write(weights()), optimizer_dtype="float16")
        assert found.refused is not None
        assert "no optimizer state" in found.refused

    def test_tensors_that_share_a_storage_still_do(self, write: Write) -> None:
        shared = Storage(saved(weights())[:64])
        content = plain_checkpoint(
            model_state_dict=weights(a=Tensor((4,), shared), b=Tensor((4,), shared, offset=4)), scaler=...
        )
        made = converted(write(content), dtype="bfloat16")
        with open_checkpoint(made.path) as checkpoint:
            sharing = [len(held) for _, held in checkpoint.storages.values()]
        assert max(sharing) == 2


# --- purpose --------------------------------------------------------------------------------------


class TestStrip:
    def test_average_takes_the_place_of_the_model(self, write: Write) -> None:
        path = write(ultralytics_checkpoint())
        made = converted(path, path.with_name("stripped.pt"), strip=True)
        assert (made.report.verdict, made.value("epoch"), made.value("optimizer")) == (Verdict.FINISHED, -1, None)
        assert {part.path for part in made.plan.parts if part.outcome == "dropped"} == {"optimizer"}
        assert made.part("model").outcome == "cast"

    def test_a_loop_of_ones_own_loses_what_only_a_resume_needs(self, write: Write) -> None:
        made = converted(write(plain_checkpoint()), strip=True)
        with open_checkpoint(made.path) as checkpoint:
            assert list(checkpoint.recognised.root) == ["epoch", "model_state_dict", "args"]  # type: ignore[union-attr]

    def test_lists_of_optimizers_go_whole(self, write: Write) -> None:
        model = weights()
        optimizers = [optimizer_of(model), optimizer_of(model)]
        made = converted(
            write(
                {"epoch": 3, "state_dict": model, "optimizer_states": optimizers, "pytorch-lightning_version": "2.4"}
            ),
            strip=True,
        )
        with open_checkpoint(made.path) as checkpoint:
            assert list(checkpoint.recognised.root) == ["epoch", "state_dict", "pytorch-lightning_version"]  # type: ignore[union-attr]

    @pytest.mark.parametrize("content", [stripped_checkpoint(), weights()], ids=["stripped", "weights"])
    def test_what_is_stripped_stays(self, content: Any, write: Write) -> None:
        path = write(content)
        first = plan(path, strip=True)
        assert first.refused is None
        if first.steps:  # the made-up file is not stripped in every detail
            made = converted(path, strip=True)
            assert not plan(made.path, made.path.with_name("again.pt"), strip=True).steps


class TestStateDict:
    def test_nothing_but_the_averaged_weights_is_left(self, write: Write) -> None:
        path = write(ultralytics_checkpoint())
        made = converted(path, path.with_name("weights.pt"), state_dict=True)
        assert made.report.verdict is Verdict.WEIGHTS
        with open_checkpoint(made.path) as checkpoint:
            named = {ref.path for ref in checkpoint.pickle.globals}  # type: ignore[union-attr]
        assert named <= {
            "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch.FloatStorage", "torch.LongStorage",
        }  # fmt: skip
        before = tensors(path)
        assert made.tensors() == {n[len("ema.") :]: v for n, v in before.items() if n.startswith("ema.")}

    def test_file_beside_it_says_what_the_weights_are(self, write: Write) -> None:
        path = write(ultralytics_checkpoint(ema=detector(names={0: "cat", 1: "dog"}, yaml={"nc": 2, "backbone": []})))
        made = converted(path, path.with_name("weights.pt"), state_dict=True, dtype="float16")
        told = json.loads((path.parent / "weights.pt.json").read_text())
        assert made.plan.sidecars == [str(path.parent / "weights.pt.json")]
        assert told["schema"] == "ckpt-tools/weights/1"
        assert (told["names"], told["nc"], told["stride"]) == ({"0": "cat", "1": "dog"}, 2, [8])
        assert (told["yaml"], told["args"]["epochs"]) == ({"nc": 2, "backbone": []}, 5)
        assert (told["version"], told["part"], told["dtypes"]) == ("8.4.190", "ema", ["float16", "int64"])

    @pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a dictionary"])
    def test_weights_of_a_method_saved_without_its_parentheses_are_taken(self, inside: bool, write: Write) -> None:
        """`torch.save(model.state_dict, f)`: the method, and with it the whole model."""
        method = Called("builtins", "getattr", (detector(), "state_dict"))
        path = write({"model": method, "epoch": 3} if inside else method)
        report = verify(path, siblings=False)
        assert report.verdict is Verdict.INCOMPLETE
        (said,) = (fact for fact in report.findings if fact.slug == "saved-method")
        assert said.remedy.endswith("--state-dict")
        made = converted(path, path.with_name("weights.pt"), state_dict=True)
        assert made.report.verdict is Verdict.WEIGHTS
        whole = tensors(write(detector(), "model.pt"))
        assert made.tensors() == whole

    def test_either_set_of_weights_can_be_chosen(self, write: Write) -> None:
        other = weights(**{"conv.bias": Tensor((4,), 9.0)})
        path = write({"model": weights(), "ema": other, "optimizer": optimizer_of(weights()), "epoch": 1})
        for role, bias in (("ema", 9.0), ("model", 0.1), (None, 9.0)):
            made = converted(path, state_dict=True, weights=role)
            assert made.tensors()["conv.bias"][0] == pytest.approx(bias)

    def test_weights_that_are_not_there_are_refused_with_those_that_are(self, write: Write) -> None:
        found = plan(write(plain_checkpoint()), state_dict=True, weights="ema")
        assert found.refused is not None
        assert "--weights model" in found.refused

    def test_prefixes_of_wrappers_are_left_out(self, write: Write) -> None:
        wrapped = OrderedDict((f"module.{name}", held) for name, held in weights().items())
        made = converted(write(plain_checkpoint(model_state_dict=wrapped)), state_dict=True)
        assert list(made.tensors()) == list(weights())

    def test_plain_weights_stay_as_they_are(self, write: Write) -> None:
        assert not plan(write(weights()), state_dict=True).steps


SECRETS = {
    "save_dir": "/home/ada/runs/train",
    "command": "python train.py data=/scratch/ada/d.yaml --token=token123 --name x",
    "users": ["ada"],
    "username": b"ada",
    "log": json.dumps({"user": "ada", "dir": "/home/ada/x", "epochs": 3}),
    "best": {"/home/ada/a/last.pt": 0.5, "/home/ada/b/last.pt": 0.25},
    "environ": {"WANDB_API_KEY": "token123", "LOGNAME": "ada", "HOME": "/home/ada", "SHELL": "/bin/sh"},
    "seen": ("file:///scratch/ada/x", "~ada/y"),
    "data": "C:\\Users\\ada\\data.yaml",
    "hostname": "ada-workstation",
    "git": {"origin": "https://ada:token123@github.com/ada/secret.git", "branch": "work", "commit": "0123abcd"},
    "note": "mailed to ada@example.org from /home/ada/x",
    "api_key": "token123",
}


class TestScrub:
    def test_no_secret_is_left_anywhere_in_the_bytes(self, write: Write) -> None:
        content = plain_checkpoint(args={"epochs": 10, **SECRETS}, **{"/home/ada/key": 1})
        path = write(saved(content, folder="ada"))
        made = converted(path, scrub=True)
        data = made.path.read_bytes()
        for secret in (b"ada", b"token123", b"secret.git", b"/home", b"Users", b"0123abcd"):
            assert secret not in data
        assert made.tensors() == tensors(path)
        assert made.report.verdict is Verdict.RESUMABLE
        assert made.value("args.data") == "data.yaml"
        assert made.value("args.best") == {"last.pt": 0.5, "last.pt-2": 0.25}

    def test_what_is_not_personal_stays(self, write: Write) -> None:
        args = {
            "epochs": 10, "env": "CartPole-v1", "branch": "left", "token": "cls", "node": "conv", "owner": "x",
            "remote": "r", "see": "see http://x/home/a", "url": "https://docs.ultralytics.com/modes/train",
            "names": {0: "/m/0k4j/car"}, "half": True,
        }  # fmt: skip
        path = write(plain_checkpoint(args=args))
        assert not plan(path, scrub=True).steps

    def test_description_in_safetensors_is_scrubbed_too(self, write: Write) -> None:
        args = {**ARGS, "save_dir": "/home/ada/runs/x", "data": "/home/ada/data.yaml"}
        path = write(ultralytics_checkpoint(train_args=args))
        out = converted(path, path.with_name("w.safetensors"))
        assert b"/home/ada" in out.path.read_bytes()
        made = converted(out.path, out.path.with_name("clean.safetensors"), scrub=True)
        assert b"ada/" not in made.path.read_bytes()

    def test_a_text_that_is_also_out_of_reach_stops_it(self, write: Write) -> None:
        hidden = b"\xff\xfe /home/ada/secret/run \xff"
        found = plan(write(plain_checkpoint(args={"dir": "/home/ada/secret/run", "blob": hidden})), scrub=True)
        assert found.refused is not None
        assert "can't be looked into" in found.refused

    def test_ledger_forgets_what_came_before(self, write: Write) -> None:
        first = converted(write(plain_checkpoint(), "ada-last.pt"), device="cuda:0")
        assert first.ledger()["sources"][0]["name"] == "ada-last.pt"
        made = converted(first.path, first.path.with_name("clean.pt"), scrub=True)
        assert b"ada" not in made.path.read_bytes()
        assert not plan(made.path, made.path.with_name("again.pt"), scrub=True).steps

    def test_numbers_and_short_names_stay(self, write: Write) -> None:
        path = write(ultralytics_checkpoint())
        assert not plan(path, scrub=True).steps


# --- formats --------------------------------------------------------------------------------------


class TestFormats:
    def test_safetensors_and_back_is_the_same(self, write: Write) -> None:
        path = write(plain_checkpoint(model_state_dict=weights(count=Tensor((), 7, "int64"), none=Tensor((0, 3)))))
        out = converted(path, path.with_name("weights.safetensors"))
        back = converted(out.path, path.with_name("back.pt"), to="zip")
        assert out.plan.format == "safetensors"
        assert back.report.verdict is Verdict.WEIGHTS
        before = {n.split(".", 1)[1]: v for n, v in tensors(path).items() if n.startswith("model_state_dict")}
        assert back.tensors() == before

    def test_safetensors_carries_ledger_and_description(self, write: Write) -> None:
        path = write(ultralytics_checkpoint())
        out = converted(path, path.with_name("weights.safetensors"))
        with open_source(out.path) as source:
            metadata = read_safetensors(source).metadata
        assert metadata["format"] == "pt"
        assert json.loads(metadata["ledger"])["command"] == "convert"
        assert json.loads(metadata["weights"])["names"] == {"0": "class 0", "1": "class 1"}
        back = converted(out.path, path.with_name("back.pt"))
        assert json.loads((path.parent / "back.pt.json").read_text())["version"] == "8.4.190"
        assert back.ledger()["before"]["steps"] == json.loads(metadata["ledger"])["steps"]

    def test_odd_tensors_come_out_in_row_major_order(self, write: Write) -> None:
        shared = Storage(b"".join(bytes([n, 0, 128, 63]) for n in range(12)))
        held = weights(t=Tensor((3, 4), shared, stride=(1, 3)), part=Tensor((2,), shared, offset=5))
        path = write(held)
        out = converted(path, path.with_name("w.safetensors"))
        assert converted(out.path, path.with_name("b.pt")).tensors() == tensors(path)

    def test_other_conversions_work_on_safetensors(self, write: Write) -> None:
        path = write(weights())
        out = converted(path, path.with_name("w.safetensors"))
        half = converted(out.path, path.with_name("half.safetensors"), dtype="float16")
        with open_source(half.path) as source:
            assert {entry.dtype for entry in read_safetensors(source).tensors.values()} == {"float16"}

    def test_what_safetensors_has_no_place_for_is_refused(self, write: Write) -> None:
        size = Called("torch", "Size", ((2, 2),))
        sparse = Called(
            "torch._utils", "_rebuild_sparse_tensor",
            (Name("torch", "sparse_coo"), (Tensor((2, 1), 0, "int64"), Tensor((1,)), size, True)),
        )  # fmt: skip
        path = write(weights(odd=sparse))
        found = plan(path, path.with_name("odd.safetensors"))
        assert found.refused is not None
        assert "no place for odd" in found.refused

    @pytest.mark.parametrize("content", [plain_checkpoint(), ultralytics_checkpoint(), weights()])
    def test_stream_and_back_is_the_same(self, content: Any, write: Write) -> None:
        path = write(content)
        out = converted(path, to="legacy")
        assert out.report.kind == "torch-legacy"
        assert json.loads((path.parent / "new.pt.ledger.json").read_text())["command"] == "convert"
        back = converted(out.path, path.with_name("back.pt"), to="zip")
        assert back.report.kind == "torch-zip"
        assert back.tensors() == tensors(path)
        assert back.report.verdict is verify(path, siblings=False).verdict

    def test_a_stream_stays_one_where_no_format_is_named(self, write: Write) -> None:
        path = write(saved_legacy(on("cuda:1")()))
        made = converted(path, device="cpu")
        assert (made.report.kind, devices(made.path)) == ("torch-legacy", {"cpu"})

    def test_broken_safetensors_is_refused(self, write: Write) -> None:
        path = write(weights())
        out = converted(path, path.with_name("w.safetensors"))
        out.path.write_bytes(out.path.read_bytes()[:-3])
        found = plan(out.path, to="zip")
        assert found.refused is not None
        assert "copy or download it again" in found.refused


@pytest.mark.parametrize(
    ("name", "options", "result"),
    [
        ("last.pt", {"device": "cpu"}, "last.converted.pt"),
        ("last.pth.tar", {"device": "cpu"}, "last.converted.pth.tar"),
        ("last.pt", {"strip": True}, "stripped.last.pt"),
        ("last.pt", {"state_dict": True}, "state_dict.last.pt"),
        ("last.pt", {"to": "safetensors"}, "last.safetensors"),
        ("last.safetensors", {"to": "zip"}, "state_dict.last.pt"),
        ("last.safetensors", {"to": "safetensors", "dtype": "float16"}, "last.converted.safetensors"),
        ("checkpoint", {"device": "cpu"}, "checkpoint.converted.pt"),
        ("pytorch_model.bin", {"to": "safetensors"}, "pytorch_model.safetensors"),
        ("model_v1.2", {"strip": True}, "stripped.model_v1.2.pt"),
    ],
)
def test_result_is_named_after_the_file_and_what_it_is_for(name: str, options: dict[str, Any], result: str) -> None:
    assert converted_name(name, Conversion(**options)) == result


# --- portability ----------------------------------------------------------------------------------


class TestPortable:
    @pytest.mark.parametrize("flavour", ["PosixPath", "WindowsPath", "PurePosixPath"])
    def test_paths_become_text(self, flavour: str, write: Write) -> None:
        path = write(plain_checkpoint(args={"epochs": 10, "save_dir": Called("pathlib", flavour, ("runs", "train"))}))
        made = converted(path, portable=True)
        assert made.value("args.save_dir") == ("runs\\train" if flavour == "WindowsPath" else "runs/train")
        assert "path-objects" in made.steps

    def test_namespaces_stay_where_a_script_may_want_them(self, write: Write) -> None:
        args = Instance("argparse", "Namespace", {"lr": 0.01, "epochs": 10})
        path = write(plain_checkpoint(args=args, note=Tensor((1,), location="cuda:0")))
        assert "--args-as-dict" in "".join(plan(path, portable=True).advice)
        made = converted(path, args_as_dict=True)
        assert made.value("args") == {"lr": 0.01, "epochs": 10}

    def test_prefixes_and_wrappers_go(self, write: Write) -> None:
        inner = detector()
        wrapper = module("torch.nn.parallel.data_parallel.DataParallel", {"module": inner}, {}, device_ids=[0, 1])
        made = converted(write(ultralytics_checkpoint(ema=wrapper)), portable=True)
        assert "ema.model.0.conv.weight" in made.tensors()

    def test_storages_are_cut_down_to_what_is_used(self, write: Write) -> None:
        big = Storage(bytes(range(256)) * 256)
        held = weights(a=Tensor((4,), big, offset=2))
        path = write(plain_checkpoint(model_state_dict=held))
        made = converted(path, portable=True)
        assert made.path.stat().st_size < path.stat().st_size - 60_000
        assert made.tensors() == tensors(path)

    def test_views_that_overlap_go_on_sharing(self, write: Write) -> None:
        big = Storage(bytes(1 << 14))
        held = weights(a=Tensor((4,), big, offset=2), b=Tensor((4,), big, offset=4), c=Tensor((2,), big, offset=900))
        made = converted(write(plain_checkpoint(model_state_dict=held)), portable=True)
        with open_checkpoint(made.path) as checkpoint:
            named = {n: t for part in checkpoint.parts for n, t in part.tensors.items()}
            keys = {name: named[name].storage.key for name in ("a", "b", "c")}  # type: ignore[union-attr]
        assert keys["a"] == keys["b"] != keys["c"]

    def test_a_portable_file_is_left_alone(self, write: Write) -> None:
        assert not plan(write(plain_checkpoint()), portable=True).steps


class TestNames:
    def test_modules_move_and_everything_else_stays(self, write: Write) -> None:
        path = write(ultralytics_checkpoint("8.0.44", ema=detector(tree="ultralytics.yolo.nn")))
        made = converted(path, modules=dict([renaming("ultralytics.yolo.* = ultralytics.*", "--rename-module")]))
        with open_checkpoint(made.path) as checkpoint:
            names = {ref.module for ref in checkpoint.pickle.globals}  # type: ignore[union-attr]
        assert "ultralytics.nn.tasks" in names
        assert not any(name.startswith("ultralytics.yolo") for name in names)
        assert made.tensors() == tensors(path)

    def test_a_longer_name_wins_and_parts_of_words_do_not_match(self, write: Write) -> None:
        content = {**plain_checkpoint(), "a": Name("models.common", "Conv"), "b": Name("models2.x", "Y")}
        made = converted(write(content), modules={"models": "m", "models.common": "special"})
        with open_checkpoint(made.path) as checkpoint:
            names = {ref.path for ref in checkpoint.pickle.globals}  # type: ignore[union-attr]
        assert {"special.Conv", "models2.x.Y"} <= names

    def test_unknown_modules_are_refused_with_those_there_are(self, write: Write) -> None:
        found = plan(write(plain_checkpoint()), modules={"modells": "models"})
        assert found.refused is not None
        assert "torch" in found.refused

    @pytest.mark.parametrize("prefix", ["module", "_orig_mod."])
    def test_prefixes_are_put_on_and_taken_off(self, prefix: str, write: Write) -> None:
        path = write(plain_checkpoint())
        there = converted(path, prefix=prefix)
        names = [name for name in there.tensors() if name.startswith("model_state_dict.")]
        assert all(name.startswith(f"model_state_dict.{prefix.rstrip('.')}.") for name in names)
        assert not plan(there.path, path.with_name("again.pt"), prefix=prefix).steps
        back = converted(there.path, path.with_name("back.pt"), prefix="none")
        assert back.tensors() == tensors(path)

    @pytest.mark.parametrize("old", ["1", "dog"])
    def test_class_is_renamed_wherever_names_are_kept(self, old: str, write: Write) -> None:
        names = {0: "cat", 1: "dog"}
        content = ultralytics_checkpoint(ema=detector(names=dict(names)), names=["cat", "dog"])
        made = converted(write(content), classes={old: "truck"})
        assert made.value("names") == ["cat", "truck"]
        assert "in 2 places" in made.text
        with open_checkpoint(made.path) as checkpoint:
            assert checkpoint.container is not None
            pickle = checkpoint.container.members["data.pkl"]
            assert b"dog" not in checkpoint.source.read(pickle.offset, pickle.size)

    def test_a_class_that_is_not_there_is_refused(self, write: Write) -> None:
        found = plan(write(ultralytics_checkpoint()), classes={"7": "truck"})
        assert found.refused is not None
        assert "0 class 0, 1 class 1" in found.refused


# --- what every conversion keeps ------------------------------------------------------------------


BAD: dict[str, tuple[bytes, str]] = {
    "damaged": (cut(saved(plain_checkpoint()), 5000), "repair"),
    "unsafe": (SAMPLES["zip_member"]("canary"), "unsafe"),
    "foreign": (b"<!DOCTYPE html><html></html>", "web page"),
}


class TestRefusals:
    @pytest.mark.parametrize("kind", BAD)
    def test_bad_files_are_refused_and_nothing_is_written(self, kind: str, write: Write, ckpt: Run) -> None:
        data, word = BAD[kind]
        path = write(data)
        run = ckpt("convert", path, "--device", "cpu")
        assert run.returncode == 1
        assert word in run.stdout
        assert "nothing was written" in run.stdout
        assert list(contents(path.parent)) == ["last.pt"]

    def test_flipped_bit_is_not_carried_on(self, write: Write) -> None:
        path = write(on("cuda:0")())
        with open_checkpoint(path) as checkpoint:
            place = storage_member(checkpoint).offset
        found = plan(write(flip(path.read_bytes(), place)), device="cpu")
        assert found.refused is not None
        assert "damaged" in found.refused

    def test_result_that_could_not_be_resumed_any_more_needs_a_word(self, write: Write, ckpt: Run) -> None:
        odd = Tensor((4,), 70000.0)
        path = write(plain_checkpoint(model_state_dict=weights(**{"conv.bias": odd})))
        run = ckpt("convert", path, "--dtype", "float16")
        assert (run.returncode, list(contents(path.parent))) == (1, ["last.pt"])
        assert "could no longer be resumed" in run.stdout
        assert ckpt("convert", path, "--dtype", "float16", "--accept-loss").returncode == 0

    @pytest.mark.parametrize(
        "options",
        [
            {"strip": True, "state_dict": True},
            {"device": "cpu", "devices": {"cuda:1": "cpu"}},
            {"dtype": "int8"},
            {"to": "onnx"},
            {"weights": "best"},
        ],
    )
    def test_requests_that_make_no_sense_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(CkptError):
            Conversion(**options)

    @pytest.mark.parametrize(
        "options", [{}, {"weights": "ema"}, {"strip": True, "to": "safetensors"}, {"to": "zip"}], ids=str
    )
    def test_requests_that_make_no_sense_for_a_file_are_refused(self, options: dict[str, Any], write: Write) -> None:
        path = write(plain_checkpoint())
        if options == {"to": "zip"}:
            assert not plan(path, **options).steps
            return
        with pytest.raises(CkptError):
            plan(path, **options)


class TestLedger:
    def test_says_what_was_changed_and_lies_outside_the_pickle(self, write: Write) -> None:
        made = converted(write(on("cuda:3")()), device="cpu")
        ledger = made.ledger()
        assert (ledger["command"], ledger["sources"][0]["name"]) == ("convert", "last.pt")
        assert [step["name"] for step in ledger["steps"]] == ["device"]
        assert "converted" in made.slugs
        assert "repaired" not in made.slugs

    def test_note_of_an_earlier_repair_stays(self, write: Write) -> None:
        path = write(ultralytics_checkpoint(optimizer=None))
        donor = write(ultralytics_checkpoint(), "epoch1.pt")
        mended = mend(path, path.with_name("mended.pt"), optimizer_from=donor)
        made = converted(mended.path, device="cuda:0")
        assert {"converted", "repaired"} <= made.slugs

    def test_converted_file_may_lend_its_parts_a_repaired_one_may_not(self, write: Write) -> None:
        first = converted(write(ultralytics_checkpoint(), "epoch1.pt"), device="cuda:0")
        first.path.rename(first.path.with_name("epoch1.pt"))
        found = mend(write(ultralytics_checkpoint(optimizer=None)), accept_loss=True)
        assert found.part("optimizer").source == "epoch1.pt"

    def test_inspect_says_converted(self, write: Write, ckpt: Run) -> None:
        made = converted(write(on("cuda:3")()), device="cpu")
        assert "converted by ckpt-tools" in ckpt("inspect", made.path).stdout


class TestWriting:
    def test_sidecar_goes_again_where_the_result_can_not_be_written(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write(ultralytics_checkpoint())
        calls = [0]
        real = os.replace

        def refuse(*arguments: Any) -> None:
            calls[0] += 1
            if calls[0] > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(*arguments)

        with plan_convert(path, Conversion(state_dict=True), path.with_name("w.pt")) as conversion:
            monkeypatch.setattr("os.replace", refuse)
            with pytest.raises(CkptError, match="nothing was changed"):
                conversion.apply()
        assert list(contents(path.parent)) == ["last.pt"]

    def test_sidecar_of_somebody_else_is_not_overwritten(self, write: Write) -> None:
        path, there = write(ultralytics_checkpoint()), write(b"mine", "w.pt.json")
        planned = plan_convert(path, Conversion(state_dict=True), path.with_name("w.pt"))
        with planned as conversion, pytest.raises(CkptError, match="--force"):
            conversion.apply()
        assert there.read_bytes() == b"mine"
        assert not path.with_name("w.pt").exists()

    def test_several_conversions_at_once(self, write: Write) -> None:
        args = {**ARGS, "device": "0,1", "batch": 8, "save_dir": "/home/ada/runs"}
        path = write(ultralytics_checkpoint(train_args=args))
        made = converted(path, device="cpu", scrub=True, dtype="float16", portable=True, classes={"0": "truck"})
        assert set(made.steps) == {"scrub", "rename-class", "dtype", "device"}
        assert made.args()["save_dir"] == "runs"
        assert made.report.verdict is Verdict.RESUMABLE


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cpu"}, {"device": "cuda:1"}, {"dtype": "float16"}, {"strip": True}, {"state_dict": True},
        {"portable": True}, {"scrub": True}, {"to": "legacy"}, {"prefix": "none"},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.pt")), ids=lambda path: path.stem)
def test_real_files_are_converted_once_and_then_left_alone(path: Path, options: dict[str, Any], tmp_path: Path) -> None:
    first, again = tmp_path / "first.pt", tmp_path / "again.pt"
    with plan_convert(path, Conversion(**options), first) as conversion:
        found = conversion.plan
        if found.refused is not None or not found.steps:
            return
        conversion.apply()
    report = verify(first, siblings=False)
    assert report.verdict is found.expected
    with plan_convert(first, Conversion(**options), again) as conversion:
        assert (conversion.plan.refused, [step.text for step in conversion.plan.steps]) == (None, [])


# --- the command line -----------------------------------------------------------------------------


def document(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.stdout)
    assert found["schema"] == "ckpt-tools/convert/1"
    return found


@pytest.fixture
def runs(write: Write) -> Path:
    """Two runs, a file that is no checkpoint, and one that is cut."""
    for name in ("a/weights/last.pt", "a/weights/best.pt", "b/weights/last.pt"):
        write(on("cuda:1")(), f"runs/{name}")
    write(cut(saved(on("cuda:1")()), 5000), "runs/b/weights/best.pt")
    write(b"notes", "runs/a/notes.txt")
    return write(b"x", "x").parent / "runs"


class TestManyFiles:
    def test_results_lie_as_the_files_do_and_one_bad_file_costs_nothing(self, runs: Path, ckpt: Run) -> None:
        run = ckpt("convert", runs, "--device", "cpu", "--out-dir", "out")
        out = runs.parent / "out"
        assert run.returncode == 1
        assert sorted(contents(out)) == ["a/weights/best.pt", "a/weights/last.pt", "b/weights/last.pt"]
        assert devices(out / "a/weights/last.pt") == {"cpu"}
        assert "4 files: 3 converted, 1 refused" in run.stdout

    @pytest.mark.parametrize("jobs", ["1", "2", "0"])
    def test_several_processes_do_the_same(self, jobs: str, runs: Path, ckpt: Run) -> None:
        run = ckpt("convert", runs, "--device", "cpu", "--out-dir", "out", "-j", jobs, "--json")
        found = document(run)["files"]
        assert [(Path(one["file"]).name, one["written"]) for one in found] == [
            ("best.pt", True), ("last.pt", True), ("best.pt", False), ("last.pt", True),
        ]  # fmt: skip
        assert "damaged" in found[2]["refused"]

    def test_what_needs_no_change_is_copied_so_that_the_folder_is_whole(self, write: Write, ckpt: Run) -> None:
        path = write(plain_checkpoint(), "runs/last.pt")
        run = ckpt("convert", path.parent, "--device", "cpu", "--out-dir", "out")
        assert run.returncode == 0
        assert (path.parent.parent / "out/last.pt").read_bytes() == path.read_bytes()
        assert "copied" in run.stdout

    def test_a_second_time_nothing_is_overwritten(self, runs: Path, ckpt: Run) -> None:
        ckpt("convert", runs, "--device", "cpu", "--out-dir", "out")
        before = contents(runs.parent / "out")
        run = ckpt("convert", runs, "--device", "cpu", "--out-dir", "out")
        assert run.returncode == 2
        assert run.stderr.count("there already") == 3
        assert contents(runs.parent / "out") == before

    def test_folder_below_the_one_searched_is_not_searched(self, runs: Path, ckpt: Run) -> None:
        for _ in range(2):
            ckpt("convert", runs, "--device", "cpu", "--out-dir", runs / "out", "--force")
        assert not (runs / "out" / "out").exists()

    def test_in_place_keeps_the_originals(self, runs: Path, ckpt: Run) -> None:
        (runs / "b/weights/best.pt").unlink()
        before = contents(runs)
        run = ckpt("convert", runs, "--device", "cpu", "--in-place")
        after = contents(runs)
        assert run.returncode == 0
        assert devices(runs / "a/weights/last.pt") == {"cpu"}
        assert after["a/weights/last.pt.bak"] == before["a/weights/last.pt"]
        again = ckpt("convert", runs, "--device", "cpu", "--in-place")
        assert "3 files: 3 unchanged" in again.stdout
        assert contents(runs) == after

    def test_dry_run_writes_nothing_at_all(self, runs: Path, ckpt: Run) -> None:
        before = contents(runs.parent)
        run = ckpt("convert", runs, "--device", "cpu", "--out-dir", "out", "--dry-run")
        assert "planned" in run.stdout
        assert contents(runs.parent) == before
        assert not (runs.parent / "out").exists()

    @pytest.mark.parametrize(
        "arguments",
        [
            ["runs", "--device", "cpu"],
            ["runs", "--device", "cpu", "-o", "x.pt"],
            ["runs", "--device", "cpu", "--out-dir", "out", "--in-place"],
            ["runs", "--device", "cpu", "--out-dir", "runs"],
            ["runs", "--out-dir", "out"],
            ["runs", "--device", "tpu", "--out-dir", "out"],
            ["runs", "--rename-class", "3", "--out-dir", "out"],
            ["nowhere", "--device", "cpu"],
            ["runs/a/weights/last.pt", "--to", "safetensors", "--in-place"],
        ],
        ids=" ".join,
    )
    def test_usage_errors_exit_2_say_why_and_write_nothing(self, arguments: list[str], runs: Path, ckpt: Run) -> None:
        before = contents(runs.parent)
        run = ckpt("convert", *arguments)
        assert (run.returncode, "Traceback" in run.stderr) == (2, False)
        assert run.stderr.startswith("ckpt: ")
        assert contents(runs.parent) == before

    def test_two_files_never_become_one(self, write: Write, ckpt: Run) -> None:
        write(weights(), "runs/w.pt")
        write(weights(), "runs/w.pth")
        run = ckpt("convert", "runs", "--to", "safetensors", "--out-dir", "out")
        assert run.returncode == 2
        assert "would both become" in run.stderr

    def test_json_holds_one_document_whatever_happens(self, runs: Path, ckpt: Run) -> None:
        assert "error" in document(ckpt("convert", runs, "--json"))
        one = document(ckpt("convert", runs / "a/weights/last.pt", "--device", "cpu", "--json"))["files"][0]
        assert (one["written"], one["format"], one["expected"]) == (True, "zip", "resumable")
        again = document(ckpt("convert", runs / "a/weights/last.pt", "--device", "cpu", "--json"))["files"][0]
        assert (again["written"], "there already" in again["error"]) == (False, True)
        assert "error" in document(ckpt("convert", "none.pt", "--device", "cpu", "--json"))["files"][0]


class TestOneFile:
    def test_plan_result_and_next_command_are_told(self, write: Write, ckpt: Run) -> None:
        path = write(on("cuda:1")())
        run = ckpt("convert", path, "--device", "cpu")
        assert run.returncode == 0
        assert "1 tensor from cuda:1 to cpu" in run.stdout
        assert f"next: ckpt verify {path.with_name('last.converted.pt')}" in run.stdout
        assert ckpt("convert", path.with_name("last.converted.pt"), "--device", "cpu").stdout.endswith(
            "nothing to do: it is as asked for\n"
        )

    def test_way_back_from_safetensors_is_told_and_works(self, write: Write, ckpt: Run) -> None:
        path = write(weights())
        run = ckpt("convert", path, "--to", "safetensors")
        assert run.returncode == 0
        told = run.stdout.splitlines()[-1].removeprefix("next: ckpt ").split("   #")[0].split()
        assert ckpt(*told).returncode == 0
        assert tensors(path.with_name("state_dict.last.pt")) == tensors(path)

    def test_nothing_asked_for_is_an_error(self, write: Write, ckpt: Run) -> None:
        run = ckpt("convert", write(plain_checkpoint()))
        assert run.returncode == 2
        assert "--help" in run.stderr

    def test_named_output_of_an_unchanged_file_is_a_copy(self, write: Write, ckpt: Run) -> None:
        path = write(plain_checkpoint())
        assert ckpt("convert", path, "--device", "cpu", "-o", "copy.pt").returncode == 0
        assert path.with_name("copy.pt").read_bytes() == path.read_bytes()


def test_python_names_are_public(write: Write) -> None:
    path = write(on("cuda:1")())
    with ckpt_tools.plan_convert(path, ckpt_tools.Conversion(device="cpu")) as conversion:
        assert isinstance(conversion, ckpt_tools.Planned)
        assert conversion.apply() == path.with_name("last.converted.pt")
    assert isinstance(converted(path, device="cpu"), Mended)
