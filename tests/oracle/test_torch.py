"""Real torch as the judge of what is whole, of every value, and of every kind of damage."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckpt_tools
from ckpt_tools.verbs.verify import verify
from oracle.damage import cut, extents, flip, places, storages, zero_from

torch = pytest.importorskip("torch")

from oracle.standins import as_numpy, bits, load, named_tensors, same  # noqa: E402

FIXTURES = sorted((Path(__file__).parents[2] / "fixtures").glob("*.pt"))
WHOLE = ("resumable", "finished", "weights", "incomplete")
READ_ON_RESUME = ("model", "ema", "optimizer")


def told(report: Any) -> list[str]:
    """What decided a verdict, for the message of a failed test."""
    return [f"{fact.code} {fact.message} [{fact.where}]" for fact in report.findings if fact.verdict]


def torch_loads(path: Path) -> bool:
    """Whether torch makes anything of a file."""
    try:
        load(path)
    except Exception:
        return False
    return True


def check_values(path: Path) -> int:
    """Every tensor ckpt_tools names is there for torch, and equal; of the parts that matter none is left out."""
    theirs = dict(named_tensors(load(path)))
    with ckpt_tools.open(path) as ours:
        for name, tensor in ours.items():
            assert name in theirs, name
            assert tensor.shape == tuple(theirs[name].shape), name
            assert f"torch.{tensor.dtype}" == str(theirs[name].dtype), name
            if theirs[name].layout is torch.strided and not theirs[name].is_meta:
                assert same(np.asarray(tensor.numpy()), as_numpy(theirs[name])), name
        for part in ours.parts:
            if part.role in READ_ON_RESUME and part.present:
                prefix = f"{part.path}." if part.path else ""
                wanted = {name for name in theirs if name.startswith(prefix)}
                assert {prefix + name for name in part.tensors} == wanted, part.path
        return len(ours)


# ---------------------------------------------------------------- fixtures


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_what_is_whole_loads(path: Path) -> None:
    report = verify(path)
    if report.verdict in WHOLE:
        assert torch_loads(path)
        assert check_values(path) > 4
    else:
        assert report.verdict == "foreign", told(report)


@pytest.mark.parametrize("path", [path for path in FIXTURES if path.stem != "torchscript"], ids=lambda path: path.stem)
def test_names_of_modules(path: Path) -> None:
    """Names recovered from a pickled module are those of its ``state_dict()``, parameters and buffers told apart."""
    content = load(path)
    with ckpt_tools.open(path) as ours:
        for part in ours.parts:
            if part.form != "module":
                continue
            module = content[part.path] if part.path else content
            assert list(part.tensors) == list(module.state_dict())
            assert part.parameters == {name for name, _ in module.named_parameters(remove_duplicate=False)}
            assert part.buffers == set(part.tensors) - part.parameters


# ---------------------------------------------------------------- odd ways of saving


def network() -> Any:
    """Convolution, normalisation, linear layer."""
    torch.manual_seed(0)
    flat = torch.nn.Flatten()
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), flat, torch.nn.Linear(8 * 36, 4))


def stepped(optimizer: Any, model: Any, steps: int = 3) -> None:
    """Take some steps on noise."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(4, 3, 8, 8)).square().mean()
        loss.backward()
        optimizer.step(lambda loss=loss: loss)


def loop_checkpoint() -> dict[str, Any]:
    """What a careful loop saves in the middle of a run."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    stepped(optimizer, model)
    scheduler.step()
    return {
        "epoch": 1,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": torch.amp.GradScaler("cpu", init_scale=8.0).state_dict(),
        "args": {"epochs": 10},
    }


def rezipped(
    path: Path, *, method: int = zipfile.ZIP_STORED, root: str = "", without: tuple[str, ...] = (), extra: str = ""
) -> None:
    """The same members in an archive of the standard library's."""
    made = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(made, "w", method) as copy:
        for name in archive.namelist():
            old, inner = name.split("/", 1)
            if inner not in without:
                copy.writestr(f"{root or old}/{inner}", archive.read(name))
        if extra:
            copy.writestr(f"{root or old}/{extra}", "{}")
    path.write_bytes(made.getvalue())


def swapped(path: Path) -> None:
    """The file as a big-endian machine writes it: every value turned round, and the mark that says so."""
    tensors = [tensor for _, tensor in named_tensors(load(path))]  # in the order of their storages' numbers
    made = io.BytesIO()
    with zipfile.ZipFile(path) as archive:
        held = sorted((name for name in archive.namelist() if "/data/" in name), key=lambda name: int(Path(name).name))
        widths = {name: tensor.element_size() for name, tensor in zip(held, tensors)}
        with zipfile.ZipFile(made, "w") as copy:
            for name in archive.namelist():
                data = archive.read(name)
                if name in widths:
                    data = np.frombuffer(data, f"u{widths[name]}").byteswap().tobytes()
                elif name.endswith("/byteorder"):
                    data = b"big"
                copy.writestr(name, data)
    path.write_bytes(made.getvalue())


def with_setting(path: Path, content: Any, setting: str, value: object) -> None:
    from torch.utils.serialization import config

    old = getattr(config.save, setting)
    try:
        setattr(config.save, setting, value)
        torch.save(content, path)
    finally:
        setattr(config.save, setting, old)


def without_checksums(path: Path, content: Any) -> None:
    try:
        torch.serialization.set_crc32_options(False)
        torch.save(content, path)
    finally:
        torch.serialization.set_crc32_options(True)


def then(change: Callable[..., None], **options: Any) -> Callable[[Path, Any], None]:
    """Save in the ordinary way, then change the archive."""

    def save(path: Path, content: Any) -> None:
        torch.save(content, path)
        before = path.read_bytes()
        change(path, **options)
        assert path.read_bytes() != before

    return save


def to_buffer(path: Path, content: Any) -> None:
    made = io.BytesIO()
    torch.save(content, made)
    path.write_bytes(made.getvalue())


def legacy(path: Path, content: Any, protocol: int = 2) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False, pickle_protocol=protocol)


NOT_IN_TORCH_1_6 = (".format_version", ".storage_alignment", "byteorder", ".data/serialization_id")
WAYS: dict[str, Callable[[Path, Any], None]] = {
    "plain": lambda path, content: torch.save(content, path),
    "to a buffer": to_buffer,
    "legacy": legacy,
    "no checksums": without_checksums,
    "protocol 3": lambda path, content: torch.save(content, path, pickle_protocol=3),
    "protocol 4": lambda path, content: torch.save(content, path, pickle_protocol=4),
    "protocol 5": lambda path, content: torch.save(content, path, pickle_protocol=5),
    "legacy protocol 3": lambda path, content: legacy(path, content, 3),
    "legacy protocol 4": lambda path, content: legacy(path, content, 4),
    "legacy protocol 5": lambda path, content: legacy(path, content, 5),
    "zipped anew": then(rezipped),
    "compressed": then(rezipped, method=zipfile.ZIP_DEFLATED),
    "no format version": then(rezipped, without=(".format_version",)),
    "no byte order": then(rezipped, without=("byteorder",)),
    "only what torch 1.6 wrote": then(rezipped, without=NOT_IN_TORCH_1_6),
    "another root": then(rezipped, root="Ein Lauf, ü (2)"),
    "extra member": then(rezipped, extra="extra/notes.json"),
    "big-endian": then(swapped),
    "aligned to 4096": lambda path, content: with_setting(path, content, "storage_alignment", 4096),

}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_ways_of_saving(tmp_path: Path, way: str) -> None:
    path = tmp_path / f"my {way}.pt"
    WAYS[way](path, loop_checkpoint())
    report = verify(path)
    assert report.verdict == "resumable", told(report)
    assert (report.epoch, report.epochs) == (1, 10)
    assert check_values(path) > 10


def all_patterns() -> Iterator[tuple[str, Any]]:
    """A tensor of every dtype torch can save, every bit pattern among its bytes."""
    order = torch.randperm(256 * 64, generator=torch.Generator().manual_seed(1))
    raw = torch.arange(256, dtype=torch.uint8).repeat(64)[order]
    names = (
        "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 complex64 complex128 "
        "complex32 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 "
        "bits8 bits16"
    )
    for name in names.split():
        if hasattr(torch, name):
            yield name, raw.view(getattr(torch, name))
    yield "bool", raw % 2 == 0


@pytest.mark.parametrize(("name", "tensor"), [pytest.param(name, tensor, id=name) for name, tensor in all_patterns()])
@pytest.mark.parametrize("save", ["zip", "legacy"])
def test_every_dtype_bit_for_bit(tmp_path: Path, name: str, tensor: Any, save: str) -> None:
    path = tmp_path / "dtype.pt"
    content = {"model": {"all": tensor, "part": tensor[5:77], "step": tensor[::3], "other": torch.ones(3)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, path, _use_new_zipfile_serialization=save == "zip")
        if save == "legacy" and not torch_loads(path):
            pytest.skip("torch can't read what it wrote: the format knows no such type")
        assert check_values(path) == 4
    finite = not tensor.dtype.is_floating_point and not tensor.dtype.is_complex
    finite = finite or "float4" in name
    report = verify(path)
    assert report.verdict == ("weights" if finite else "incomplete"), told(report)


def odd_tensors() -> dict[str, Any]:
    """Tensors that share, view, bend or lack storages."""
    base = torch.arange(60.0).reshape(3, 4, 5)
    shared = torch.nn.Parameter(torch.randn(6, 6))
    tagged = torch.nn.Parameter(torch.randn(2))
    tagged.note = "kept"
    return {
        "base": base,
        "view": base[1:, ::2],
        "transposed": base.permute(2, 0, 1),
        "expanded": torch.arange(3.0)[:, None].expand(3, 7),
        "reshaped": base.view(-1),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "one": base[2, 3, 4],
        "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "tied": shared,
        "tied again": shared,
        "data of it": shared.data,
        "with attributes": tagged,
        "buffer": torch.nn.Buffer(torch.randn(3)),
        "conjugate": torch.randn(4, dtype=torch.complex64).conj(),
        "frozen": torch.randn(3, requires_grad=True),
        "as another type": torch.arange(8, dtype=torch.int32).view(torch.float32),
    }


@pytest.mark.parametrize("save", ["zip", "legacy"])
def test_views_and_shared_storages(tmp_path: Path, save: str) -> None:
    path = tmp_path / "odd.pt"
    content = odd_tensors()
    if save == "legacy":
        del content["as another type"]  # torch refuses: two types over one storage
    torch.save({"model": content}, path, _use_new_zipfile_serialization=save == "zip")
    report = verify(path)
    assert report.verdict == "weights", told(report)
    assert check_values(path) == len(content)


def test_tensors_of_other_layouts(tmp_path: Path) -> None:
    """Sparse, quantised and meta tensors: none is mistaken for damage."""
    dense = torch.eye(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = {
            "dense": dense,
            "coo": dense.to_sparse(),
            "csr": dense.to_sparse_csr(),
            "csc": dense.to_sparse_csc(),
            "quantised": torch.quantize_per_tensor(dense, 0.1, 3, torch.qint8),
            "per channel": torch.quantize_per_channel(dense, torch.ones(4), torch.zeros(4), 0, torch.quint8),
            "meta": torch.empty(3, 3, device="meta"),
        }
        path = tmp_path / "layouts.pt"
        torch.save({"model": content}, path)
        assert torch_loads(path)
    report = verify(path)
    assert report.verdict == "weights", told(report)
    with ckpt_tools.open(path) as ours:
        assert same(ours["model.quantised"].numpy(), content["quantised"].int_repr().numpy())


def test_wrapped_models(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    stepped(optimizer, model)
    wrapped = torch.nn.DataParallel(model)
    for name, content in (("state", wrapped.state_dict()), ("module", wrapped)):
        path = tmp_path / f"{name}.pt"
        torch.save({"epoch": 3, "model": content, "optimizer": optimizer.state_dict()}, path)
        report = verify(path)
        assert report.verdict == "resumable", told(report)
        assert check_values(path) > 10


def module_with_everything() -> Any:
    """Whatever can confuse a recovery of names: tied, missing, non-persistent and nested entries."""
    nn = torch.nn
    module = nn.Module()
    module.embed = nn.Embedding(5, 4)
    module.head = nn.Linear(4, 5, bias=False)
    module.head.weight = module.embed.weight
    module.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))
    module.register_buffer("nothing", None)
    module.register_parameter("absent", None)
    module.blocks = nn.ModuleList([nn.LSTM(4, 4), nn.MultiheadAttention(4, 2)])
    module.named = nn.ModuleDict({"a b": nn.Linear(2, 2), "norm": nn.LayerNorm(4)})
    module.listed = nn.ParameterList([nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(1))])
    module.keyed = nn.ParameterDict({"x": nn.Parameter(torch.ones(3))})
    return module


def with_scratch(module: Any) -> None:
    """A buffer that no state dict holds."""
    module.register_buffer("scratch", torch.zeros(2), persistent=False)


def with_shared_layer(module: Any) -> None:
    """A layer under two names."""
    module.again = module.blocks


@pytest.mark.parametrize(
    "change", [lambda module: None, with_scratch, with_shared_layer], ids=["plain", "scratch", "shared"]
)
def test_names_of_a_module_with_everything(tmp_path: Path, change: Callable[[Any], None]) -> None:
    path = tmp_path / "module.pt"
    module = module_with_everything()
    change(module)
    torch.save(module, path)
    report = verify(path)
    assert report.verdict == "weights", told(report)
    with ckpt_tools.open(path) as ours:
        (part,) = (part for part in ours.parts if part.form == "module")
        assert sorted(part.tensors) == sorted(module.state_dict())


def test_more_than_four_gigabytes(tmp_path: Path) -> None:
    """A sparse archive with 64-bit sizes: nothing but its ends takes room on the disk."""
    path = tmp_path / "big.pt"
    try:
        with torch.serialization.skip_data():
            big = torch.empty((1 << 31) + 4096, dtype=torch.float16)
            torch.save({"model": {"big": big, "tail": torch.ones(5)}}, path)
    except AttributeError:
        pytest.skip("this torch has no skip_data")
    assert path.stat().st_size > 1 << 32
    assert torch.equal(torch.load(path, mmap=True)["model"]["tail"], torch.zeros(5))
    report = verify(path, quick=True)
    assert report.verdict == "weights", told(report)
    with ckpt_tools.open(path) as ours:
        assert ours["model.big"].shape == ((1 << 31) + 4096,)
        assert ours["model.tail"].numpy().tolist() == [0.0] * 5


# ---------------------------------------------------------------- loops of one's own


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RMSprop"])
def test_interrupted_loop_goes_on_exactly(tmp_path: Path, name: str) -> None:
    """What we call resumable loads into model, optimizer, scheduler and scaler, and trains on as if never stopped."""

    def made() -> tuple[Any, ...]:
        model = network()
        extra = {"momentum": 0.9} if name != "AdamW" else {}
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01, **extra)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        return model, optimizer, scheduler, torch.amp.GradScaler("cpu", init_scale=8.0)

    def epoch(parts: tuple[Any, ...], number: int) -> float:
        model, optimizer, scheduler, scaler = parts
        torch.manual_seed(number)
        loss = model(torch.randn(8, 3, 8, 8)).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        return float(loss.detach())

    first = made()
    for number in range(3):
        epoch(first, number)
    path = tmp_path / "loop.pth"
    keys = ("model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "scaler_state_dict")
    torch.save({"epoch": 2, **{key: part.state_dict() for key, part in zip(keys, first)}}, path)
    report = verify(path)
    assert (report.verdict, report.epoch) == ("resumable", 2), told(report)
    second, saved = made(), torch.load(path)
    for key, part in zip(keys, second):
        part.load_state_dict(saved[key])
    assert [epoch(first, number) for number in (3, 4)] == [epoch(second, number) for number in (3, 4)]


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1},
    "ASGD": {},
    "Adadelta": {},
    "Adafactor": {},
    "Adagrad": {},
    "Adam": {"amsgrad": True},
    "AdamW": {},
    "Adamax": {},
    "LBFGS": {},
    "NAdam": {},
    "RAdam": {},
    "RMSprop": {"centered": True, "momentum": 0.9},
    "Rprop": {},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("shape", ["one group", "two groups", "some frozen"])
def test_every_optimizer_of_torch(tmp_path: Path, name: str, shape: str) -> None:
    """No optimizer's own bookkeeping is mistaken for a contradiction."""
    model = network()
    params: Any = list(model.parameters())
    if shape == "two groups":
        if name == "LBFGS":
            pytest.skip("LBFGS knows one group")
        flat, other = [p for p in params if p.ndim == 1], [p for p in params if p.ndim > 1]
        params = [{"params": other}, {"params": flat, "weight_decay": 0.0}]
    elif shape == "some frozen":
        params[0].requires_grad_(False)
        params = params[1:]
    optimizer = getattr(torch.optim, name)(params, **OPTIMIZERS[name])
    stepped(optimizer, model)
    path = tmp_path / "loop.pt"
    torch.save({"epoch": 0, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    report = verify(path)
    assert report.verdict == "resumable", told(report)
    getattr(torch.optim, name)(params, **OPTIMIZERS[name]).load_state_dict(torch.load(path)["optimizer"])
    assert check_values(path) > 6


def test_two_models_two_optimizers(tmp_path: Path) -> None:
    """The generator and the critic of a GAN in one file."""
    models = {"generator": network(), "critic": torch.nn.Linear(7, 3)}
    content: dict[str, Any] = {"epoch": 4}
    for key, model in models.items():
        optimizer = torch.optim.Adam(model.parameters())
        data = torch.randn(4, 7) if key == "critic" else torch.randn(4, 3, 8, 8)
        model(data).sum().backward()
        optimizer.step()
        content |= {key: model.state_dict(), f"optimizer_{key}": optimizer.state_dict()}
    path = tmp_path / "gan.pt"
    torch.save(content, path)
    report = verify(path)
    assert report.verdict == "resumable", told(report)


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        for key in keys:
            del content[key]

    return edit


def poison(*keys: Any, value: float = float("nan")) -> Callable[[dict[str, Any]], None]:
    def edit(content: Any) -> None:
        for key in keys:
            content = content[key]
        content.view(-1)[0] = value

    return edit


def beside(**more: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(more)


def masked(content: dict[str, Any]) -> None:
    content["model"]["attn_mask"] = torch.tensor([0.0, float("-inf")])


def misshapen(content: dict[str, Any]) -> None:
    content["optimizer"]["state"][0]["exp_avg"] = torch.ones(7, 2)


def outgrown(content: dict[str, Any]) -> None:
    content["optimizer"]["param_groups"][0]["params"].extend(range(6, 40))


NAN, INFINITE = torch.tensor(float("nan")), torch.tensor(float("inf"))
LOOP_EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "nothing": (lambda content: None, "resumable"),
    "no optimizer": (without("optimizer"), "incomplete"),
    "optimizer None": (beside(optimizer=None), "incomplete"),
    "no scheduler, no scaler": (without("scheduler", "scaler"), "resumable"),
    "no epoch": (without("epoch"), "resumable"),
    "weights and numbers": (without("optimizer", "scheduler", "scaler"), "weights"),
    "optimizer alone": (without("model", "scheduler", "scaler"), "incomplete"),
    "scheduler alone": (without("model", "optimizer", "scaler"), "incomplete"),
    "NaN in a weight": (poison("model", "0.weight"), "incomplete"),
    "infinite running variance": (poison("model", "1.running_var", value=float("inf")), "incomplete"),
    "NaN in a moment": (poison("optimizer", "state", 0, "exp_avg"), "incomplete"),
    "infinite second moment": (poison("optimizer", "state", 2, "exp_avg_sq", value=float("-inf")), "incomplete"),
    "infinite mask in the model": (masked, "resumable"),
    "NaN best score": (beside(best_score=NAN), "resumable"),
    "NaN loss as a number": (beside(loss=float("nan")), "resumable"),
    "infinite callback state": (beside(callbacks={"checkpoint": {"kth_value": INFINITE}}), "resumable"),
    "all epochs done": (beside(epoch=9), "finished"),
    "moment of another shape": (misshapen, "incomplete"),
    "optimizer of a larger model": (outgrown, "incomplete"),
}  # fmt: skip


@pytest.mark.parametrize("edit", LOOP_EDITS)
def test_changed_loops(tmp_path: Path, edit: str) -> None:
    change, verdict = LOOP_EDITS[edit]
    content = loop_checkpoint()
    change(content)
    path = tmp_path / "loop.pt"
    torch.save(content, path)
    report = verify(path)
    assert report.verdict == verdict, told(report)
    assert torch_loads(path)


@pytest.mark.parametrize("kind", ["OrderedDict", "Namespace", "Counter", "numpy", "generator", "nested"])
def test_company_of_the_weights(tmp_path: Path, kind: str) -> None:
    """Ordinary things people save beside their weights."""
    import argparse
    import collections
    import datetime
    import random

    odd = (1, {2, 3}, frozenset("x"), 1 + 2j, torch.Size([3]), torch.float16, torch.device("cpu"), slice(1))
    company: dict[str, Any] = {
        "OrderedDict": OrderedDict(lr=0.1, steps=[1, 2, 3]),
        "Namespace": argparse.Namespace(epochs=10, when=datetime.datetime(2024, 2, 29), path=Path("runs/x")),
        "Counter": collections.Counter("abracadabra"),
        "numpy": {"scores": np.arange(6.0).reshape(2, 3), "best": np.float64(0.5), "seen": np.array(["a", "b"])},
        "generator": {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()},
        "nested": {"a": [{"b": odd}]},
    }
    path = tmp_path / "company.pt"
    torch.save({**loop_checkpoint(), "company": company[kind]}, path)
    report = verify(path)
    assert report.verdict == "resumable", told(report)
    assert not [fact for fact in report.findings if fact.slug == "unknown-code"]
    assert torch_loads(path)


# ---------------------------------------------------------------- damage

REAL = Path(__file__).parents[2] / "fixtures" / "ultralytics-8.4-interrupted-adamw.pt"
SHORT, LONG = pytest.param(False, id="sample"), pytest.param(True, id="full", marks=pytest.mark.full)


def judged(folder: Path, data: bytes) -> Any:
    """The report on some bytes."""
    path = folder / "harmed.pt"
    path.write_bytes(data)
    return verify(path, siblings=False)


@pytest.mark.parametrize("long", [SHORT, LONG])
def test_cut_anywhere(tmp_path: Path, long: bool) -> None:
    data = REAL.read_bytes()
    last = [len(data) - back for back in (1, 2, 21, 22, 23, 60)]
    for at in [*places(len(data), 500 if long else 60, seed=1), *last]:
        report = judged(tmp_path, cut(data, at))
        assert report.verdict == ("damaged" if at > 3 or not at else report.verdict), (at, told(report))
        assert report.verdict in ("damaged", "foreign"), (at, told(report))


@pytest.mark.parametrize("long", [SHORT, LONG])
def test_zeros_from_anywhere(tmp_path: Path, long: bool) -> None:
    data = REAL.read_bytes()
    ends = len(data.rstrip(b"\0"))  # zeros over zeros are no damage
    for at in places(ends, 200 if long else 30, seed=2):
        report = judged(tmp_path, zero_from(data, at))
        assert report.verdict == "damaged" or (at < 8 and report.verdict == "foreign"), (at, told(report))


@pytest.mark.parametrize("long", [SHORT, LONG])
def test_one_bit_flipped_in_a_storage(tmp_path: Path, long: bool) -> None:
    """torch loads it without a word; we say damaged, and name the tensor whose value changed."""
    data = REAL.read_bytes()
    before = {name: bits(tensor) for name, tensor in named_tensors(load(REAL))}
    held = storages(data)
    total = sum(extent.size for extent in held)
    for number, place in enumerate(places(total, 500 if long else 60, seed=3)):
        for extent in held:
            if place < extent.size:
                break
            place -= extent.size
        report = judged(tmp_path, flip(data, extent.start + place, number % 8))
        assert report.verdict == "damaged", (extent, place, told(report))
        after = named_tensors(load(tmp_path / "harmed.pt"))
        hits = [name for name, tensor in after if bits(tensor) != before[name]]
        assert len(hits) <= 1  # none: a tensor that is no parameter or buffer but a plain attribute
        within = re.escape(hits[0]) if hits else "stride|anchors"
        assert any(re.search(within, fact.message) for fact in report.findings), (hits, told(report))


@pytest.mark.parametrize("long", [SHORT, LONG])
def test_one_bit_flipped_anywhere(tmp_path: Path, long: bool) -> None:
    """Where a flip in a header or name leaves the file resumable, torch loads the very same values."""
    data = REAL.read_bytes()
    before = {name: bits(tensor) for name, tensor in named_tensors(load(REAL))}
    inside = [range(extent.start, extent.start + extent.size) for extent in storages(data)]
    outside = sorted(set(range(len(data))).difference(*inside))
    for number, index in enumerate(places(len(outside), 500 if long else 60, seed=4)):
        report = judged(tmp_path, flip(data, outside[index], number % 8))
        if report.verdict == "resumable":
            assert unchanged(tmp_path / "harmed.pt", before), (outside[index], number % 8)


def unchanged(path: Path, before: dict[str, bytes]) -> bool:
    """Whether torch loads a file, and the very same values from it."""
    try:
        return {name: bits(tensor) for name, tensor in named_tensors(load(path))} == before
    except Exception:
        return False


@pytest.mark.parametrize("long", [SHORT, LONG])
def test_one_bit_flipped_in_headers_and_directory(tmp_path: Path, long: bool) -> None:
    """Every byte of the records around the first member, and of the directory and its end."""
    source = REAL.with_name("plain-loop.pt")
    data = source.read_bytes()
    before = {name: bits(tensor) for name, tensor in named_tensors(load(source))}
    held = list(extents(data))
    first, second = held[:2]
    with zipfile.ZipFile(source) as archive:
        directory = archive.start_dir
    around = [*range(first.start), *range(first.start + first.size, second.start), *range(directory, directory + 400)]
    wrong = []
    for at in sorted({*around, *range(data.index(b"PK\6\6"), len(data))}):
        for bit in range(8) if long else [at % 8]:
            report = judged(tmp_path, flip(data, at, bit))
            allowed = report.verdict in ("damaged", "unsafe")
            if not allowed and not (report.verdict == "resumable" and unchanged(tmp_path / "harmed.pt", before)):
                wrong.append(f"{report.verdict} at {at} bit {bit}")
    assert not wrong


@pytest.mark.parametrize("long", [SHORT, LONG])
def test_legacy_cut_anywhere(tmp_path: Path, long: bool) -> None:
    path = tmp_path / "legacy.pt"
    legacy(path, loop_checkpoint())
    data = path.read_bytes()
    for at in places(len(data), 500 if long else 40, seed=5):
        report = judged(tmp_path, cut(data, at))
        assert report.verdict in (("damaged",) if at > 64 or not at else ("damaged", "foreign")), (at, told(report))
