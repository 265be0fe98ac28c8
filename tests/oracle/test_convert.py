"""``ckpt convert`` held against the real torch and the real trainer, object by object.

:func:`apart` is the judge of whole files: types, order of keys, every attribute, every bit, and which objects and
which bytes are one and the same.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import pytest
from conftest import Run as Command
from mending import converted

from ckpt_tools.conversions import Conversion
from ckpt_tools.verbs.convert import plan_convert
from oracle.trainer import EPOCHS, STOP, Run, Trainer

torch = pytest.importorskip("torch")

from oracle.standins import bits, named_tensors  # noqa: E402

SGD, ADAMW, MUSGD, AUTO = (Run(optimizer=name) for name in ("SGD", "AdamW", "MuSGD", "auto"))
SEGMENT, POSE, OBB, CLASSIFY = (Run(task) for task in ("segment", "pose", "obb", "classify"))
CLASSIFY_ADAMW = Run("classify", "AdamW")
KILLED_BEFORE_THE_STRIP = Run(stop_after=EPOCHS - 1)
MODELS = {
    "detect": "DetectionModel",
    "segment": "SegmentationModel",
    "pose": "PoseModel",
    "obb": "OBBModel",
    "classify": "ClassificationModel",
}
DTYPES = ["float16", "bfloat16", "float32"]
OF_THE_HEAD = ("stride", "anchors", "strides")  # neither parameters nor buffers; ultralytics casts them all the same


@pytest.fixture(scope="module", autouse=True)
def quiet_ultralytics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Loading a checkpoint imports ultralytics: its settings go to a folder of their own, and it asks no server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("settings")))
        patch.setenv("YOLO_AUTOINSTALL", "false")
        patch.setenv("YOLO_OFFLINE", "true")
        yield


def last(trainer: Trainer, run: Run) -> Path:
    """The last checkpoint of a run."""
    return trainer.weights(run) / "last.pt"


def loaded(path: Path) -> Any:
    """What ``torch.load`` gives where nothing is mapped."""
    return torch.load(path, weights_only=False)


def apart(one: Any, other: Any) -> str:
    """The first place at which two loaded files differ; an empty text where none does."""
    return _Comparison().apart(one, other, "root")


class _Comparison:
    """Walks two objects at once, and notes which object, and which storage, of one is which of the other."""

    def __init__(self) -> None:
        self.there: dict[tuple[str, int], int] = {}
        self.back: dict[tuple[str, int], int] = {}

    def apart(self, one: Any, other: Any, place: str) -> str:
        if type(one) is not type(other):
            return f"{place}: {type(one)} and {type(other)}"
        if isinstance(one, (type, FunctionType, BuiltinFunctionType)):
            return "" if one is other else f"{place}: {one} and {other}"
        if isinstance(one, tuple):
            return self.each(one, other, place)
        if not (isinstance(one, (dict, list, torch.Tensor)) or hasattr(one, "__dict__")):
            return "" if repr(one) == repr(other) else f"{place}: {one!r} and {other!r}"
        if ("object", id(one)) in self.there and self.paired("object", id(one), id(other)):
            return ""
        if not self.paired("object", id(one), id(other)):
            return f"{place}: one object in one file, two in the other"
        return self.inside(one, other, place)

    def paired(self, kind: str, one: int, other: int) -> bool:
        return self.there.setdefault((kind, one), other) == other and self.back.setdefault((kind, other), one) == one

    def inside(self, one: Any, other: Any, place: str) -> str:
        if isinstance(one, torch.Tensor):
            found = self.tensors(one, other, place)
        elif isinstance(one, dict):
            if list(one) != list(other):
                return f"{place}: keys {list(one)} and {list(other)}"
            found = self.each(one.values(), other.values(), place, [f".{key}" for key in one])
        else:
            found = self.each(one, other, place) if isinstance(one, list) else ""
        return found or (self.apart(vars(one), vars(other), place) if hasattr(one, "__dict__") else "")

    def each(self, one: Any, other: Any, place: str, names: list[str] | None = None) -> str:
        if len(one) != len(other):
            return f"{place}: {len(one)} and {len(other)} entries"
        names = names or [f"[{index}]" for index in range(len(one))]
        return next(filter(None, (self.apart(a, b, place + name) for a, b, name in zip(one, other, names))), "")

    def tensors(self, one: Any, other: Any, place: str) -> str:
        told = [(t.dtype, t.shape, t.stride(), t.storage_offset(), t.device, t.requires_grad) for t in (one, other)]
        if told[0] != told[1] or bits(one) != bits(other):
            return f"{place}: {told[0]} and {told[1]}, values {bits(one) == bits(other)}"
        starts = [tensor.untyped_storage().data_ptr() for tensor in (one, other)]
        return "" if not one.numel() or self.paired("bytes", *starts) else f"{place}: its bytes are shared in one file"


def exact(content: Any) -> dict[str, tuple[Any, ...]]:
    """Every tensor by name: its type, shape and bits."""
    found = {name: (tensor.dtype, tensor.shape, bits(tensor)) for name, tensor in named_tensors(content)}
    assert found
    return found


class TestTheJudge:
    """What :func:`apart` must see, as everything below rests on it."""

    @pytest.mark.parametrize("other", [
        {"a": [1, 2.0], "t": torch.ones(2)}, {"t": torch.ones(2), "a": [1, 2]},
        {"a": [1, 2], "t": torch.ones(2).half()}, {"a": [1, 2], "t": torch.ones(1).expand(2)},
        {"a": [1, 2], "t": torch.ones(2, requires_grad=True)}, {"a": [1, 2], "t": torch.ones(2), "x": 0},
        {"a": [True, 2], "t": torch.ones(2)}, {"a": [1, 2], "t": torch.tensor([1.0, 1.0000001])},
        {"a": [1, 2], "t": torch.nn.Parameter(torch.ones(2), requires_grad=False)},
    ])  # fmt: skip
    def test_differences_are_seen(self, other: dict[str, Any]) -> None:
        one = {"a": [1, 2], "t": torch.ones(2)}
        assert apart(one, other)
        assert apart(other, one)
        assert not apart(one, {"a": [1, 2], "t": torch.ones(2)})

    def test_sharing_is_seen(self) -> None:
        base, entry = torch.ones(4), [1]
        for one, other in (
            ([entry, entry], [[1], [1]]),
            ([base, base], [base.clone(), base.clone()]),
            ([base[:2], base[2:]], [base[:2].clone(), base.clone()[2:]]),
        ):
            assert apart(one, other)
            assert apart(other, one)

    def test_attributes_of_modules_are_seen(self) -> None:
        one, other = torch.nn.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 1)
        other.load_state_dict(one.state_dict())
        assert not apart(one, other)
        other.activation = torch.relu
        one.activation = torch.sigmoid
        assert "activation" in apart(one, other)


# --- devices --------------------------------------------------------------------------------------


def from_four_gpus(source: Path, target: Path, device: Any = "0,1,2,3") -> Path:
    """The file as a run on four GPUs leaves it: storages on all of them, the optimizer's steps on the CPU."""
    content = loaded(source)
    content["train_args"] |= {"device": device, "batch": 16}
    count = [0]

    def tag(storage: Any) -> str:
        count[0] += 1
        return "cpu" if storage.nbytes() == 4 else f"cuda:{count[0] % 4}"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.serialization.location_tag", tag)
        torch.save(content, target)
    return target


def tags(path: Path) -> dict[str, str]:
    """The device each tensor was saved on, as torch itself hears of it."""
    heard: dict[int, str] = {}

    def note(storage: Any, location: str) -> Any:
        heard[storage.data_ptr()] = location
        return storage

    content = torch.load(path, map_location=note, weights_only=False)
    return {name: heard[tensor.untyped_storage().data_ptr()] for name, tensor in named_tensors(content)}


@pytest.mark.parametrize("device", ["0,1,2,3", [0, 1, 2, 3], "cuda:0,1,2,3"], ids=str)
@pytest.mark.parametrize("run", [SGD, ADAMW], ids=lambda run: run.optimizer)
def test_run_of_four_gpus_goes_on_on_a_cpu(run: Run, device: Any, trainer: Trainer) -> None:
    saved = last(trainer, run)
    path = from_four_gpus(saved, trainer.place("last.pt"), device)
    with pytest.raises(RuntimeError, match="Attempting to deserialize object on a CUDA device"):
        loaded(path)
    made = converted(path, trainer.place("last.pt"), device="cpu")
    wanted = loaded(saved)
    wanted["train_args"] |= {"device": "cpu", "batch": 4}  # 16 on four of them: four on each
    assert apart(loaded(made.path), wanted) == ""
    outcome = trainer.resume(made.path)
    assert (outcome.kind, outcome.epoch) == ("resumed", STOP + 1), outcome


def test_model_on_two_gpus_moves_to_one(trainer: Trainer) -> None:
    """``--map cuda:1=cuda:0`` moves what is there, and nothing else."""
    path = from_four_gpus(last(trainer, ADAMW), trainer.place("last.pt"))
    made = converted(path, trainer.place("last.pt"), devices={"cuda:1": "cuda:0"})
    before = tags(path)
    assert set(before.values()) == {"cpu", "cuda:0", "cuda:1", "cuda:2", "cuda:3"}
    assert tags(made.path) == {name: "cuda:0" if tag == "cuda:1" else tag for name, tag in before.items()}
    one, other = (torch.load(each, map_location="cpu", weights_only=False) for each in (path, made.path))
    assert (other["train_args"]["device"], other["train_args"]["batch"]) == ("0,2,3", 12)
    other["train_args"] = one["train_args"]
    assert exact(one) == exact(other)


@pytest.mark.parametrize("run", [SGD, ADAMW, MUSGD, CLASSIFY], ids=lambda run: run.name)
def test_to_a_gpu_and_back_is_the_same(run: Run, trainer: Trainer) -> None:
    saved = last(trainer, run)
    there = converted(saved, trainer.place("there.pt"), device="cuda:0")
    with pytest.raises(RuntimeError, match="Attempting to deserialize object on a CUDA device"):
        loaded(there.path)
    assert there.args()["device"] == "0"
    back = converted(there.path, trainer.place("last.pt"), device="cpu")
    assert apart(loaded(back.path), loaded(saved)) == ""
    assert back.args() == loaded(saved)["train_args"]


@pytest.mark.parametrize("from_gpus", [False, True], ids=["from the CPU", "from four GPUs"])
def test_steps_of_the_optimizer_stay_on_the_cpu(from_gpus: bool, trainer: Trainer) -> None:
    path = last(trainer, ADAMW)
    path = from_four_gpus(path, trainer.place("last.pt")) if from_gpus else path
    made = converted(path, trainer.place("last.pt"), device="cuda:0")
    found = tags(made.path)
    steps = {name for name in found if name.endswith(".step")}
    assert len(steps) > 20
    assert {found[name] for name in steps} == {"cpu"}
    assert {found[name] for name in found.keys() - steps} == {"cuda:0"}


# --- strip ----------------------------------------------------------------------------------------


def stripped_by_the_trainer(trainer: Trainer, path: Path) -> Path:
    copy = trainer.place("last.pt")
    shutil.copyfile(path, copy)
    trainer.ask(do="strip", path=str(copy))
    return copy


def assert_stripped_alike(trainer: Trainer, path: Path, *, in_order: bool = True) -> None:
    """Our strip of a file and the trainer's own load equal, but for the moment it was done.

    ``in_order``: so do the saved arguments, which a run saves in the order of its release.
    """
    ours = loaded(converted(path, trainer.place("last.pt"), strip=True).path)
    theirs = loaded(stripped_by_the_trainer(trainer, path))
    for content in (ours, theirs):
        content.pop("date", None)
        if not in_order:
            content["train_args"] = dict(sorted(content["train_args"].items()))
    assert apart(ours, theirs) == ""


RUNS = [SGD, ADAMW, MUSGD, AUTO, SEGMENT, POSE, OBB, CLASSIFY, CLASSIFY_ADAMW, KILLED_BEFORE_THE_STRIP]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_strip_is_the_trainers_own(run: Run, trainer: Trainer) -> None:
    assert_stripped_alike(trainer, last(trainer, run))


EDITS = ["average_and_model", "average_as_model", "average_in_fp32", "best_fitness_deleted", "optimizer_deleted",
         "args_unknown", "args_without_epochs", "args_deleted", "args_empty", "names_of_other_data"]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_changed_file_is_stripped_alike(edit: str, trainer: Trainer) -> None:
    """Arguments a file lacks take their defaults; only where among the others they stand is left open."""
    assert_stripped_alike(trainer, trainer.edited(last(trainer, SGD), edit), in_order="args" not in edit)


@pytest.mark.parametrize("device", ["0", "0,1,2,3", [0, 1, 2, 3]], ids=str)
def test_run_on_gpus_is_stripped_alike(device: Any, trainer: Trainer) -> None:
    """The trainer's strip moves tensors to the CPU, and leaves the saved arguments as the run had them."""
    assert_stripped_alike(trainer, from_four_gpus(last(trainer, ADAMW), trainer.place("last.pt"), device))


def test_strip_that_loses_range_needs_a_word(trainer: Trainer) -> None:
    """Half precision has no place for it: it becomes infinite, as with ``--dtype float16``."""
    content = loaded(trainer.edited(last(trainer, SGD), "average_in_fp32"))
    next(content["ema"].parameters()).data.view(-1)[3] = 1e5
    path = trainer.place("last.pt")
    torch.save(content, path)
    assert_stripped_alike(trainer, path)
    with plan_convert(path, Conversion(strip=True)) as planned:
        assert planned.plan.needs_consent


def test_stripped_file_tells_torch_nothing_of_us(trainer: Trainer) -> None:
    """The ledger is a member of the archive, which ``torch.load`` does not look at."""
    made = converted(last(trainer, SGD), trainer.place("last.pt"), strip=True)
    assert made.ledger()
    assert loaded(made.path).keys() == loaded(stripped_by_the_trainer(trainer, last(trainer, SGD))).keys()


@pytest.mark.parametrize("run", [SGD, SEGMENT, CLASSIFY], ids=lambda run: run.task)
def test_second_strip_does_nothing(run: Run, trainer: Trainer) -> None:
    ours = converted(last(trainer, run), trainer.place("last.pt"), strip=True).path
    for path in (ours, stripped_by_the_trainer(trainer, last(trainer, run))):
        with plan_convert(path, Conversion(strip=True)) as again:
            assert (again.plan.steps, again.archive, again.plan.refused) == ([], None, None)


def test_what_a_finished_run_left_is_stripped_already(trainer: Trainer) -> None:
    with plan_convert(last(trainer, Run(stop_after=None)), Conversion(strip=True)) as again:
        assert (again.plan.steps, again.archive, again.plan.refused) == ([], None, None)


# --- state dict -----------------------------------------------------------------------------------


def outputs(content: Any) -> Iterator[Any]:
    """All tensors in what a model returned."""
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, (dict, list, tuple)):
        for inner in content.values() if isinstance(content, dict) else content:
            yield from outputs(inner)


@pytest.mark.parametrize("run", [SGD, SEGMENT, POSE, OBB, CLASSIFY], ids=lambda run: run.task)
def test_model_built_from_the_description_predicts_the_same(run: Run, trainer: Trainer) -> None:
    """Two files, ``weights.pt`` and ``weights.pt.json``, are all that is needed."""
    made = converted(last(trainer, run), trainer.place("weights.pt"), state_dict=True)
    weights = torch.load(made.path, weights_only=True)
    told = json.loads(made.path.with_name("weights.pt.json").read_text(encoding="utf-8"))
    saved = loaded(last(trainer, run))["ema"]
    assert exact(weights) == exact(saved.state_dict())
    assert list(weights) == list(saved.state_dict())
    from ultralytics.nn import tasks

    built = getattr(tasks, MODELS[told["args"]["task"]])(cfg=told["yaml"], nc=told["nc"], verbose=False)
    built.load_state_dict(weights, strict=True)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, other = (list(outputs(model.float().eval()(image))) for model in (built, saved))
    assert len(one) == len(other) > 0
    assert all(torch.equal(a, b) for a, b in zip(one, other))


@pytest.mark.parametrize("run", [SGD, SEGMENT, POSE, OBB, CLASSIFY], ids=lambda run: run.task)
def test_description_is_the_checkpoints(run: Run, trainer: Trainer) -> None:
    made = converted(last(trainer, run), trainer.place("weights.pt"), state_dict=True)
    told = json.loads(made.path.with_name("weights.pt.json").read_text(encoding="utf-8"))
    content = loaded(last(trainer, run))
    model = content["ema"]
    assert told["names"] == {str(number): name for number, name in model.names.items()}
    assert told["nc"] == len(model.names) == model.yaml["nc"]
    assert told["stride"] == model.stride.tolist()
    assert told["args"] == json.loads(json.dumps(content["train_args"]))
    assert (told["args"]["task"], told["version"], told["epoch"]) == (run.task, content["version"], STOP)


def two_state_dicts() -> dict[str, Any]:
    torch.manual_seed(0)
    return {"epoch": 1, "model": torch.nn.Linear(3, 2).state_dict(), "ema": torch.nn.Linear(3, 2).state_dict()}


@pytest.mark.parametrize("weights", [None, "ema", "model"])
def test_weights_chosen_are_those_kept(weights: str | None, tmp_path: Path) -> None:
    content = two_state_dicts()
    torch.save(content, tmp_path / "last.pt")
    made = converted(tmp_path / "last.pt", tmp_path / "weights.pt", state_dict=True, weights=weights)
    found = torch.load(made.path, weights_only=True)
    assert apart(found, content[weights or "ema"]) == ""
    torch.nn.Linear(3, 2).load_state_dict(found, strict=True)


@pytest.mark.parametrize("weights", ["ema", "model"])
def test_weights_chosen_of_a_real_run(weights: str, trainer: Trainer) -> None:
    content = loaded(trainer.edited(last(trainer, SGD), "average_and_model"))
    for tensor in content["model"].parameters():
        tensor.data.add_(1)
    path = trainer.place("last.pt")
    torch.save(content, path)
    made = converted(path, trainer.place("weights.pt"), state_dict=True, weights=weights)
    assert exact(torch.load(made.path, weights_only=True)) == exact(content[weights].state_dict())


# --- safetensors ----------------------------------------------------------------------------------


def odd_tensors() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    wide = torch.randn(2, 3, 4, 4, generator=generator)
    held = {
        "plain": base,
        "tied": base,
        "row": base[1],
        "columns": base[:, 1:4],
        "transposed": base.t(),
        "permuted": wide.permute(2, 0, 3, 1),
        "every other": base[:, ::2],
        "channels_last": wide.to(memory_format=torch.channels_last),
        "repeated": torch.ones(1, 3).expand(5, 3),
        "bfloat16": base.bfloat16(),
        "transposed bfloat16": base.bfloat16().t(),
        "float16": base.half(),
        "float64": base.double(),
        "int64": torch.tensor([-(1 << 62), 1 << 62]),
        "int32": torch.arange(3, dtype=torch.int32),
        "int16": torch.arange(3, dtype=torch.int16),
        "int8": torch.arange(-3, 3, dtype=torch.int8),
        "uint8": torch.arange(3, dtype=torch.uint8),
        "uint16": torch.tensor([1, 60000], dtype=torch.uint16),
        "bool": base > 0,
        "complex64": torch.randn(3, 2, dtype=torch.complex64, generator=generator).t(),
        "num_batches_tracked": torch.tensor(7),
        "0-dim bfloat16": torch.tensor(1.5).bfloat16(),
        "empty": torch.zeros(0),
        "empty in one dimension": torch.zeros(3, 0, 2),
        "parameter": torch.nn.Parameter(base.clone()),
        "not finite": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    eighths = [dtype for name, dtype in sorted(vars(torch).items()) if name.startswith("float8_")]
    return held | {str(dtype): base.abs().to(dtype) for dtype in eighths}


def test_safetensors_out_and_back_is_bit_by_bit(tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors")
    for_torch = pytest.importorskip("safetensors.torch")
    held = odd_tensors()
    torch.save(held, tmp_path / "last.pt")
    out = converted(tmp_path / "last.pt", tmp_path / "last.safetensors", to="safetensors")
    assert exact(for_torch.load_file(out.path)).items() == exact(held).items()
    with package.safe_open(out.path, "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert all(torch.equal(file.get_tensor(name).float().nan_to_num(), held[name].float().nan_to_num())
                   for name in ("plain", "transposed", "channels_last", "not finite", "bfloat16"))  # fmt: skip
    back = converted(out.path, tmp_path / "back.pt", to="zip")
    assert exact(torch.load(back.path, weights_only=True)) == exact(held)


@pytest.mark.parametrize("run", [SGD, CLASSIFY], ids=lambda run: run.task)
def test_real_run_as_safetensors_and_back(run: Run, trainer: Trainer) -> None:
    for_torch = pytest.importorskip("safetensors.torch")
    weights = loaded(last(trainer, run))["ema"].state_dict()
    out = converted(last(trainer, run), trainer.place("last.safetensors"), to="safetensors")
    assert exact(for_torch.load_file(out.path)) == exact(weights)
    back = converted(out.path, trainer.place("weights.pt"), to="zip")
    found = torch.load(back.path, weights_only=True)
    assert exact(found) == exact(weights)
    told = json.loads(back.path.with_name("weights.pt.json").read_text(encoding="utf-8"))
    from ultralytics.nn import tasks

    built = getattr(tasks, MODELS[told["args"]["task"]])(cfg=told["yaml"], nc=told["nc"], verbose=False)
    built.load_state_dict(found, strict=True)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "pt", "author": "somebody", "ledger": "no"}])
def test_file_of_the_safetensors_package_becomes_a_state_dict(metadata: Any, tmp_path: Path) -> None:
    for_torch = pytest.importorskip("safetensors.torch")
    held = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in odd_tensors().items()
    }
    for_torch.save_file(held, tmp_path / "model.safetensors", metadata=metadata)
    made = converted(tmp_path / "model.safetensors", tmp_path / "model.pt")
    found = torch.load(made.path, weights_only=True)
    assert exact(found) == exact(held)
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in found.values())


# --- legacy ---------------------------------------------------------------------------------------


def tied_layers() -> Any:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


def module_and_its_optimizer(model: Any = None) -> dict[str, Any]:
    """A pickled module beside an optimizer that has taken a step."""
    torch.manual_seed(0)
    model = model or tied_layers()
    optimizer = torch.optim.AdamW(model.parameters())
    inputs = next(iter(model.parameters())).shape[1]
    model(torch.randn(4, inputs)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return {"epoch": 1, "model": model, "optimizer": optimizer.state_dict()}


@pytest.mark.parametrize("make", [odd_tensors, two_state_dicts, module_and_its_optimizer])
def test_stream_and_back_loads_equal(make: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    torch.save(make(), tmp_path / "last.pt")
    out = converted(tmp_path / "last.pt", tmp_path / "old.pt", to="legacy")
    assert not zipfile.is_zipfile(out.path)
    wanted = loaded(tmp_path / "last.pt")
    assert apart(loaded(out.path), wanted) == ""
    back = converted(out.path, tmp_path / "back.pt", to="zip")
    assert zipfile.is_zipfile(back.path)
    assert apart(loaded(back.path), wanted) == ""


def test_state_dict_as_a_stream_needs_no_trust(tmp_path: Path) -> None:
    torch.save(two_state_dicts(), tmp_path / "last.pt")
    out = converted(tmp_path / "last.pt", tmp_path / "old.pt", to="legacy")
    assert apart(torch.load(out.path, weights_only=True), loaded(tmp_path / "last.pt")) == ""


@pytest.mark.parametrize("run", [ADAMW, CLASSIFY], ids=lambda run: run.task)
def test_real_run_as_a_stream_resumes_and_comes_back(run: Run, trainer: Trainer) -> None:
    saved = last(trainer, run)
    out = converted(saved, trainer.place("last.pt"), to="legacy")
    assert apart(loaded(out.path), loaded(saved)) == ""
    outcome = trainer.resume(out.path)
    assert (outcome.kind, outcome.epoch) == ("resumed", STOP + 1), outcome
    back = converted(out.path, trainer.place("last.pt"), to="zip")
    assert apart(loaded(back.path), loaded(saved)) == ""


# --- precision ------------------------------------------------------------------------------------


def cast_by_torch(content: Any, dtype: str, optimizer_dtype: str) -> Any:
    """The same content, its weights and its optimizer's state cast with torch's own methods."""
    content["ema"].to(getattr(torch, dtype))
    for state in content["optimizer"]["state"].values():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and key != "step":
                state[key] = value.to(getattr(torch, optimizer_dtype))
    return content


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", ["float16", "float32"])
@pytest.mark.parametrize("run", [SGD, ADAMW], ids=lambda run: run.optimizer)
def test_cast_is_torchs_own(run: Run, source: str, dtype: str, trainer: Trainer) -> None:
    """Every parameter, every buffer and every state of the optimizer; everything else stays as it was."""
    edits = ["average_in_fp32"] if source == "float32" else []
    path, target = trainer.edited(last(trainer, run), *edits), trainer.place("last.pt")
    other = "float32" if dtype == "bfloat16" else "bfloat16"
    made = loaded(converted(path, target, dtype=dtype, optimizer_dtype=other).path)
    wanted = cast_by_torch(loaded(path), dtype, other)
    assert exact(made) == exact(wanted)
    for content in (made, wanted):
        vars(content["ema"].model[-1]).update(dict.fromkeys(OF_THE_HEAD))
    assert apart(made, wanted) == ""
    counts = [t for name, t in made["ema"].state_dict().items() if name.endswith("num_batches_tracked")]
    assert {tensor.dtype for tensor in counts} == {torch.int64}


def test_weights_alone_are_cast_and_the_rest_is_as_it_was(trainer: Trainer) -> None:
    path = last(trainer, ADAMW)
    made, before = loaded(converted(path, trainer.place("last.pt"), dtype="bfloat16").path), loaded(path)
    assert exact(made["ema"]) == exact(before["ema"].bfloat16())
    made["ema"] = before["ema"] = None
    assert apart(made, before) == ""


def test_state_alone_is_cast_and_the_rest_is_as_it_was(trainer: Trainer) -> None:
    path = last(trainer, ADAMW)
    made = loaded(converted(path, trainer.place("last.pt"), optimizer_dtype="bfloat16").path)
    before = loaded(path)
    assert apart(made["ema"], before["ema"]) == ""
    assert made["optimizer"]["param_groups"] == before["optimizer"]["param_groups"]
    types = {(key, held.dtype) for state in made["optimizer"]["state"].values() for key, held in state.items()}
    assert types == {("step", torch.float32), ("exp_avg", torch.bfloat16), ("exp_avg_sq", torch.bfloat16)}


@pytest.mark.parametrize(
    "options",
    [{"dtype": "float16"}, {"dtype": "bfloat16"}, {"dtype": "float16", "optimizer_dtype": "float32"}],
    ids=str,
)
def test_run_goes_on_from_cast_weights(options: dict[str, str], trainer: Trainer) -> None:
    path = trainer.edited(last(trainer, ADAMW), "average_in_fp32")
    made = converted(path, trainer.place("last.pt"), **options)
    outcome = trainer.resume(made.path)
    assert (outcome.kind, outcome.epoch) == ("resumed", STOP + 1), outcome
    assert outcome.loss is not None


# Around the limits of float16 (65504; from 65520 on it is infinity; to 2**-25 it is zero) and of bfloat16.
WIDE = [1.0, 65504.0, 65519.99, 65520.0, -7e4, 1e6, 3.3895e38, 3.4e38, float("inf"), -float("inf"),
        0.0, -0.0, 2.0**-24, 2.0**-25, 2.1**-25, -1e-9, 1e-40, 1e-45, -1.4e-45]  # fmt: skip


def lost(before: Any, dtype: str) -> tuple[int, int]:
    """How many values torch's cast makes infinite, and how many it makes zero."""
    after = before.to(getattr(torch, dtype))
    overflow = after.isinf() & before.isfinite()
    return int(overflow.sum()), int(((after == 0) & (before != 0)).sum())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_values_out_of_range_are_counted_and_need_a_word(part: str, dtype: str, tmp_path: Path) -> None:
    content = module_and_its_optimizer(torch.nn.Linear(len(WIDE), 1))
    content["model"] = content["model"].state_dict()
    holder, key = (content["model"], "weight") if part == "model" else (content["optimizer"]["state"][0], "exp_avg")
    assert holder[key].shape == (1, len(WIDE))
    holder[key] = torch.tensor([WIDE])
    torch.save(content, tmp_path / "last.pt")
    options: dict[str, Any] = {"dtype": dtype} if part == "model" else {"optimizer_dtype": dtype}
    with plan_convert(tmp_path / "last.pt", Conversion(**options), tmp_path / "new.pt") as planned:
        plan = planned.plan
    assert plan.needs_consent
    large, small = (sum(counts) for counts in zip(*(lost(tensor, dtype) for tensor in cast_ones(content[part]))))
    told = [step.text for step in plan.steps if step.name == "range"]
    assert [text.split()[:2] for text in told] == [[f"{part}:", str(large)], [f"{part}:", str(small)]]
    assert [("infinite" in text, "zero" in text) for text in told] == [(True, False), (False, True)]


def cast_ones(content: Any) -> list[Any]:
    """The floating tensors of a part but for the optimizer's steps."""
    held = dict(named_tensors(content))
    return [tensor for name, tensor in held.items() if tensor.is_floating_point() and not name.endswith(".step")]


def test_values_in_range_need_no_word(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "model": {"a": torch.tensor([65504.0, 65519.0, 2.0**-24])}}, tmp_path / "last.pt")
    with plan_convert(tmp_path / "last.pt", Conversion(dtype="float16"), tmp_path / "new.pt") as planned:
        assert not planned.plan.needs_consent
        assert not [step for step in planned.plan.steps if step.name == "range"]


def test_command_line_waits_for_the_word(tmp_path: Path, ckpt: Command) -> None:
    weights = {"a": torch.tensor(WIDE), "num_batches_tracked": torch.tensor(70000)}
    torch.save({"epoch": 1, "model": weights}, tmp_path / "last.pt")
    refused = ckpt("convert", "last.pt", "--dtype", "float16", "-o", "new.pt")
    assert refused.returncode == 1, refused
    assert not (tmp_path / "new.pt").exists()
    done = ckpt("convert", "last.pt", "--dtype", "float16", "-o", "new.pt", "--accept-loss")
    assert done.returncode == 0, done
    found = torch.load(tmp_path / "new.pt", weights_only=True)["model"]
    assert exact(found) == exact({"a": weights["a"].half(), "num_batches_tracked": torch.tensor(70000)})
