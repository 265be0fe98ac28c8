"""What people really put into checkpoints. Nothing of it runs anything, so no such file may be called unsafe.

Each entry of the tables makes one thing that ends up in somebody's checkpoint: a setting, a table of metrics, the state
of a random generator, a whole layer. :data:`PARTS` are kept beside a model and an optimizer, :data:`WHOLE` are a file
by themselves. A table of a package that is not installed is left out. :data:`FILES` has all of it in every way of
saving.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import fractions
import functools
import http
import importlib
import inspect
import io
import ipaddress
import itertools
import logging
import pathlib
import random
import re
import signal
import string
import time
import types
import typing
import urllib.parse
import uuid
import warnings
import zoneinfo
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

Maker = Callable[[], Any]
Table = Mapping[str, Maker]


def of(module: str, name: str) -> Any:
    """Something of a module that is imported only when it is asked for."""
    return functools.reduce(getattr, name.split("."), importlib.import_module(module))


def new(module: str, name: str) -> Any:
    """What a class of such a module makes without arguments."""
    return of(module, name)()


def each(name: str, kinds: Iterable[str], make: Callable[[str], Any]) -> Table:
    """An entry for every kind of a family; ``name`` has a place for it."""
    return {name.format(kind): functools.partial(make, kind) for kind in kinds}


def having(thing: Any, **attributes: Any) -> Any:
    """The thing, with attributes set."""
    for name, value in attributes.items():
        setattr(thing, name, value)
    return thing


# ---------------------------------------------------------------- classes of a training script of one's own


class Colour(enum.Enum):
    RED = "red"
    BLUE = ("b", 2)


class Stage(enum.IntEnum):
    WARMUP = 1


class Word(str, enum.Enum):
    STEPS = "steps"


class Options(enum.Flag):
    FAST = enum.auto()
    SAFE = enum.auto()


class Point(NamedTuple):
    x: int
    y: float = 0.5


@dataclass
class Settings:
    lr: float = 0.01
    out: pathlib.Path = pathlib.Path("runs")
    layers: list[int] = field(default_factory=lambda: [64, 64])
    seen: set[str] = field(default_factory=lambda: {"a"})
    started: datetime.date = datetime.date(2026, 1, 2)


@dataclass
class Slotted:
    __slots__ = ("lr", "name")
    lr: float
    name: str


class Tagged(torch.Tensor):  # type: ignore[misc]
    """A tensor of a class of one's own."""


class Meter:
    """A plain object whose state is a dict."""

    def __init__(self) -> None:
        self.values, self.count = [0.5], 1


class Net(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.fn = nn.Conv2d(3, 4, 1), nn.SiLU(), torch.nn.functional.relu


def decay(epoch: int) -> float:
    return 0.9**epoch


# ---------------------------------------------------------------- the standard library

STDLIB: Table = {
    "decimal": lambda: decimal.Decimal("0.10"),
    "fraction": lambda: fractions.Fraction(1, 3),
    "uuid": lambda: uuid.UUID(int=7),
    "uuid of the network": uuid.uuid1,
    "pattern": lambda: re.compile("layer[0-9]+", re.I),
    "pattern of bytes": lambda: re.compile(b"a.c"),
    "dates": lambda: [datetime.datetime(2026, 1, 2, 3, 4), datetime.date(2026, 1, 2), datetime.time(3, 4)],
    "times": lambda: [datetime.timedelta(1, 2), time.struct_time(range(9))],
    "time with a zone": lambda: datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
    "time in a region": lambda: datetime.datetime(2026, 1, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    "utc": lambda: datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
    "addresses": lambda: [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")],
    "networks": lambda: [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fe80::/10")],
    "arrays": lambda: [array("d", [1.0, 2.0]), array("i", [1]), array("B", b"abc")],
    "user containers": lambda: [collections.UserDict(a=1), collections.UserList([1]), collections.UserString("a")],
    "chain map": lambda: collections.ChainMap({"a": 1}, {"b": 2}),
    "deque": lambda: [collections.deque([1, 2], maxlen=5), collections.deque()],
    "counter": lambda: collections.Counter("aab"),
    "ordered dict": lambda: collections.OrderedDict(a=collections.OrderedDict(b=1)),
    "default dicts": lambda: [collections.defaultdict(kind, a=kind()) for kind in (list, int, dict, float, set, str)],
    "default dict of default dicts": lambda: collections.defaultdict(
        functools.partial(collections.defaultdict, list), a=collections.defaultdict(list, b=[1])
    ),
    "default dict of counters": lambda: collections.defaultdict(collections.Counter),
    "default dict of deques": lambda: collections.defaultdict(functools.partial(collections.deque, maxlen=20)),
    "default dict without a factory": lambda: collections.defaultdict(None, a=1),
    "named tuple": lambda: Point(1, 2.5),
    "namespaces": lambda: [types.SimpleNamespace(lr=0.1), argparse.Namespace(lr=0.1, resume=None, opt=Stage.WARMUP)],
    "partials": lambda: [functools.partial(int, base=2), functools.partial(decay, epoch=3), functools.partial(max, 1)],
    "partial of a layer": lambda: functools.partial(nn.LayerNorm, eps=1e-6),
    "partial of a partial": lambda: functools.partial(functools.partial(nn.Conv2d, 3), bias=False),
    "slices": lambda: [slice(1, 2), slice(None, None, 2)],
    "ranges": lambda: [range(3), range(0, 10, 2)],
    "numbers": lambda: [1 + 2j, 2**70, -(2**80), 1e300, float("inf"), True],
    "bytes": lambda: [b"", b"abc", bytes(range(256)), bytearray(b"abc"), bytearray()],
    "sets": lambda: [{1, 2}, set(), frozenset("ab"), frozenset()],
    "constants": lambda: [None, Ellipsis, NotImplemented],
    "types": lambda: [int, float, str, bool, list, dict, tuple, set, bytes, complex, object, type, type(None), range],
    "functions": lambda: [len, print, max, min, sum, abs, round, sorted, decay],
    "functions of modules": lambda: [importlib.import_module("math").sqrt, importlib.import_module("operator").add],
    "modules' types": lambda: [collections.OrderedDict, pathlib.Path, datetime.datetime, decimal.Decimal, uuid.UUID],
    "enumerations": lambda: [Colour.RED, Colour.BLUE, Stage.WARMUP, Word.STEPS],
    "flags": lambda: [Options.FAST, Options.FAST | Options.SAFE],
    "enumerations of Python": lambda: [http.HTTPStatus.OK, re.IGNORECASE | re.DOTALL, signal.SIGTERM],
    "kinds of parameters": lambda: [inspect.Parameter.POSITIONAL_ONLY],
    "log levels": lambda: [logging.INFO, logging.getLevelName(20)],
    "logger": lambda: logging.getLogger("trainer"),
    "log record": lambda: logging.makeLogRecord({"msg": "epoch done", "levelno": 20}),
    "dataclass": Settings,
    "dataclass with slots": lambda: Slotted(0.1, "a"),
    "object": Meter,
    "paths": lambda: [pathlib.Path("runs/a"), pathlib.PurePosixPath("/data"), pathlib.PureWindowsPath("C:\\data")],
    "type hints": lambda: [typing.Any, typing.Optional[int], typing.Union[int, str], typing.List[int]],  # noqa: UP006, UP007, UP045
    "type hints of today": lambda: [list[int], dict[str, float], int | None, tuple[int, ...]],
    "callable hints": lambda: [typing.Callable, typing.Literal["a", "b"], typing.Callable[[int], str]],  # noqa: UP035
    "buffers": lambda: [io.BytesIO(b"abc"), io.StringIO("abc")],
    "random generator": lambda: random.Random(3),
    "state of random": random.getstate,
    "counter of steps": lambda: itertools.count(5),
    "template": lambda: string.Template("$name"),
    "address of a page": lambda: urllib.parse.urlparse("https://example.org/a?b=c"),
    "errors": lambda: [ValueError("bad"), KeyError("a"), RuntimeError("out of memory"), KeyboardInterrupt()],
    "error of the system": lambda: [FileNotFoundError(2, "no such file", "a.yaml")],
    "zero division": lambda: [ZeroDivisionError("x"), StopIteration(3), AssertionError()],
    "nested": lambda: {"a": [{"b": ({"c": [1, (2, [3])]},)}], 1: {2.5: None}, (1, "a"): {True: "x"}},
    "long text": lambda: "lr=0.1\n" * 2000,
}

# ---------------------------------------------------------------- numpy

RNG = np.random.default_rng(0)
BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
NUMBERS = (
    "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 longdouble "
    "complex64 complex128 clongdouble"
).split()


def bits(name: str) -> Any:
    return getattr(np.random, name)(1)


NUMPY: Table = {
    "arrays": lambda: [RNG.random((2, 3)), np.zeros((0, 3)), np.array(3.5), np.arange(4)],
    "arrays of columns": lambda: np.asfortranarray(RNG.random((2, 3))),
    "arrays of every number": lambda: [np.zeros(3, getattr(np, kind)) for kind in NUMBERS],
    "numbers": lambda: [getattr(np, kind)(1) for kind in NUMBERS],
    "big ends": lambda: np.arange(3, dtype=">i4"),
    "records": lambda: np.zeros(2, [("box", "<f4", (4,)), ("name", "U8"), ("when", "M8[s]")]),
    "record": lambda: np.zeros(2, [("a", "<f4"), ("b", "<i8")])[0],
    "record array": lambda: np.rec.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
    "masked array": lambda: np.ma.masked_array([1.0, 2.0], [True, False]),
    "masked": lambda: np.ma.masked,
    "matrix": lambda: np.matrix([[1.0, 2.0]]),
    "dates": lambda: [np.datetime64("2026-01-02"), np.timedelta64(3, "s"), np.array(["2026-01-02"], "M8[D]")],
    "texts": lambda: [np.array(["cat", "dog"]), np.array([b"a", b"bc"]), np.str_("cat"), np.bytes_(b"cat")],
    "objects": lambda: np.array([{"a": 1}, None, "x", 2.5], dtype=object),
    "array of arrays": lambda: np.array([np.zeros(2), np.zeros(3)], dtype=object),
    "types": lambda: [np.float32, np.dtype("float32"), np.dtype([("a", "i4")]), np.ndarray, np.dtype("O")],
    "types of types": lambda: [np.dtypes.Float64DType, np.dtypes.StrDType, type(np.dtype("i8"))],
    "functions": lambda: [np.add, np.mean, np.exp, np.argmax],
    "polynomials": lambda: [np.polynomial.Polynomial([1, 2, 3]), np.poly1d([1, 2])],
    "state of random": np.random.get_state,
    "seed": lambda: np.random.SeedSequence(5),
    "seed with a key": lambda: np.random.SeedSequence(5, spawn_key=(1, 2)),
    **each("generator {}", BIT_GENERATORS, lambda name: np.random.Generator(bits(name))),
    **each("bits {}", BIT_GENERATORS, bits),
    **each("old state {}", BIT_GENERATORS, lambda name: np.random.RandomState(bits(name))),
    **each("state {}", BIT_GENERATORS, lambda name: bits(name).state),
    "error": lambda: np.linalg.LinAlgError("singular"),
    "pages": lambda: np.lib.stride_tricks.sliding_window_view(np.arange(5), 2),
}

# ---------------------------------------------------------------- torch


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape or (4, 4)))


def stepped(kind: str, matrix: bool = True, **options: Any) -> torch.optim.Optimizer:
    """An optimizer of torch after two steps."""
    held = [weight(4, 4)] if matrix else [weight(4, 4), weight(3)]
    made: torch.optim.Optimizer = getattr(torch.optim, kind)(held, **{"lr": 0.01, **options})
    for param in held:
        param.grad = torch.full_like(param, 0.5)
        if kind == "SparseAdam":
            param.grad = param.grad.to_sparse()
    for _ in range(2):
        made.step(lambda: torch.tensor(0.5))
    return made


OPTIMIZERS = (
    "Adadelta Adafactor Adagrad Adam Adamax AdamW ASGD LBFGS Muon NAdam RAdam RMSprop Rprop SGD SparseAdam"
).split()
SCHEDULERS: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [1, 3]},
    "ConstantLR": {},
    "LinearLR": {},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 5},
    "CosineAnnealingWarmRestarts": {"T_0": 5},
    "PolynomialLR": {},
    "ReduceLROnPlateau": {},
    "CyclicLR": {"base_lr": 0.001, "max_lr": 0.1, "cycle_momentum": False},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 10},
    "LambdaLR": {"lr_lambda": decay},
    "MultiplicativeLR": {"lr_lambda": decay},
}


def scheduler(kind: str) -> Any:
    return getattr(torch.optim.lr_scheduler, kind)(stepped("SGD", momentum=0.9), **SCHEDULERS[kind])


def sequential() -> Any:
    known = torch.optim.lr_scheduler
    made = stepped("SGD")
    return known.SequentialLR(made, [known.LinearLR(made), known.StepLR(made, 2)], [2])


def hooked(function: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = getattr(nn.utils, function)(nn.Linear(3, 3))
    return made


def parametrized(function: str) -> nn.Module:
    return getattr(importlib.import_module("torch.nn.utils.parametrizations"), function)(nn.Linear(3, 3))


def pruned() -> nn.Module:
    made = nn.Linear(3, 3)
    importlib.import_module("torch.nn.utils.prune").l1_unstructured(made, "weight", 2)
    return made


def quantized() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return of("torch.ao.quantization", "quantize_dynamic")(nn.Sequential(nn.Linear(3, 3)), {nn.Linear})


LAYERS: Table = {
    "transformer": lambda: nn.Transformer(8, 2, 1, 1, 8, batch_first=True),
    "attention": lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=4),
    "recurrent": lambda: [nn.LSTM(3, 4, 2), nn.GRU(3, 4), nn.RNNCell(3, 4)],
    "convolutions": lambda: [nn.Conv1d(3, 4, 1), nn.ConvTranspose2d(3, 4, 1), nn.LazyConv2d(4, 1)],
    "norms": lambda: [nn.BatchNorm2d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.SyncBatchNorm(3), nn.RMSNorm(3)],
    "activations": lambda: [nn.ReLU(), nn.PReLU(), nn.Softmax(1), nn.GELU("tanh"), nn.Hardswish(), nn.Threshold(1, 0)],
    "losses": lambda: [nn.CrossEntropyLoss(torch.ones(3)), nn.BCEWithLogitsLoss(), nn.TripletMarginWithDistanceLoss()],
    "containers": lambda: [
        nn.ModuleList([nn.Linear(1, 1)]),
        nn.ModuleDict({"a": nn.Identity()}),
        nn.ParameterList([weight()]),
        nn.ParameterDict({"a": weight()}),
    ],
    "embedding": lambda: [nn.Embedding(5, 4, 0), nn.EmbeddingBag(5, 4)],
    "model of one's own": Net,
    "averaged": lambda: of("torch.optim.swa_utils", "AveragedModel")(nn.Linear(3, 3)),
    "data parallel": lambda: nn.DataParallel(nn.Linear(3, 3)),
    "weight norm": lambda: hooked("weight_norm"),
    "spectral norm": lambda: hooked("spectral_norm"),
    "pruned": pruned,
    "quantized": quantized,
    "lazy": lambda: nn.LazyLinear(3),
    "double precision": lambda: nn.Linear(3, 3).double(),
    "half precision": lambda: [nn.Linear(3, 3).half(), nn.Linear(3, 3).bfloat16()],
    "on no device": lambda: nn.Linear(3, 3, device="meta"),
    "channels last": lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),
    "shared weights": lambda: nn.ModuleList([nn.Linear(3, 3)] * 2),
}


def views() -> list[torch.Tensor]:
    base = torch.ones(4, 4)
    return [base, base.t(), base[1:], base[:, ::2], base.expand(2, 4, 4)]


TENSORS: Table = {
    "numbers": lambda: [torch.tensor(1.5), torch.tensor(3), torch.tensor(True), torch.zeros(0)],
    "every dtype": lambda: [
        torch.zeros(3).to(kind)
        for kind in (
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.int8,
            torch.int16,
            torch.uint8,
            torch.bool,
            torch.complex64,
        )
    ],
    "dtypes of today": lambda: [
        torch.zeros(3).to(getattr(torch, kind)) for kind in "float8_e4m3fn float8_e5m2 uint16 uint32 uint64".split()
    ],
    "views": views,
    "conjugate": lambda: [
        torch.ones(3, dtype=torch.complex64).conj(),
        torch.ones(3, dtype=torch.complex64).conj().imag,
    ],
    "sparse": lambda: [torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr(), torch.eye(4).to_sparse_bsr((2, 2))],
    "sparse columns": lambda: [torch.eye(3).to_sparse_csc(), torch.eye(4).to_sparse_bsc((2, 2))],
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2, 2), torch.ones(3, 2)], layout=torch.jagged),
    "quantized": lambda: [
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        torch.quantize_per_channel(torch.ones(3, 3), torch.ones(3), torch.zeros(3), 0, torch.quint8),
    ],
    "on no device": lambda: torch.empty(3, device="meta"),
    "parameters": lambda: [weight(), nn.Parameter(torch.ones(2), requires_grad=False), nn.Buffer(torch.ones(2))],
    "parameters of no shape yet": lambda: [nn.UninitializedParameter(), nn.UninitializedBuffer()],
    "parameter with attributes": lambda: having(weight(), is_norm=True),
    "tensor with attributes": lambda: having(torch.ones(2), tag="a"),
    "tensor with a gradient": lambda: torch.ones(3, requires_grad=True),
    "subclass": lambda: torch.ones(3).as_subclass(Tagged),
    "storages": lambda: [torch.ones(3).untyped_storage(), torch.ones(3)._typed_storage()],
    "sizes": lambda: [torch.Size([2, 3]), torch.ones(2, 3).shape, torch.Size([])],
    "devices": lambda: [torch.device("cpu"), torch.device("cuda", 1), torch.device("meta")],
    "types": lambda: [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn, torch.complex64],
    "layouts": lambda: [torch.strided, torch.sparse_coo, torch.sparse_csr],
    "schemes": lambda: [torch.per_tensor_affine, torch.per_channel_symmetric],
    "classes": lambda: [torch.Tensor, torch.FloatTensor, nn.Parameter, nn.Module, nn.Linear, torch.optim.SGD],
    "functions": lambda: [torch.relu, torch.sigmoid, nn.functional.gelu, torch.nn.init.xavier_uniform_, torch.tanh],
    "functions as attributes": lambda: [torch.nn.functional.scaled_dot_product_attention, torch.add, torch.softmax],
    "version": lambda: torch.__version__,
    "generator": lambda: [torch.Generator().get_state(), torch.get_rng_state()],
    "whole generator": torch.Generator,
    "iterators": lambda: [torch.ones(3).numpy(), torch.ones(3).tolist(), torch.ones(3).mean()],
}

ANSWERS: Table = {
    "max": lambda: torch.max(torch.eye(3), 0),
    "min": lambda: torch.min(torch.eye(3), 0),
    "topk": lambda: torch.topk(torch.arange(5.0), 2),
    "sort": lambda: torch.sort(torch.eye(3), 0),
    "median": lambda: torch.median(torch.eye(3), 0),
    "mode": lambda: torch.mode(torch.eye(3), 0),
    "kthvalue": lambda: torch.kthvalue(torch.arange(5.0), 2),
    "cummax": lambda: torch.cummax(torch.arange(5.0), 0),
    "svd": lambda: torch.linalg.svd(torch.eye(3)),
    "qr": lambda: torch.linalg.qr(torch.eye(3)),
    "eigh": lambda: torch.linalg.eigh(torch.eye(3)),
    "aminmax": lambda: torch.aminmax(torch.eye(3)),
}

DISTRIBUTIONS: Table = {
    "normal": lambda: torch.distributions.Normal(torch.zeros(2), torch.ones(2)),
    "categorical": lambda: torch.distributions.Categorical(torch.ones(3)),
    "multivariate": lambda: torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)),
    "independent": lambda: torch.distributions.Independent(torch.distributions.Beta(torch.ones(2), torch.ones(2)), 1),
    "transformed": lambda: torch.distributions.TransformedDistribution(
        torch.distributions.Uniform(torch.zeros(2), torch.ones(2)), [torch.distributions.transforms.SigmoidTransform()]
    ),
    "mixture": lambda: torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2)), torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    ),
}

DATASETS: Table = {
    "tensors": lambda: torch.utils.data.TensorDataset(torch.ones(3), torch.ones(3)),
    "subset": lambda: torch.utils.data.Subset(torch.utils.data.TensorDataset(torch.ones(3)), [0, 2]),
    "sampler": lambda: torch.utils.data.RandomSampler(range(3)),
    "weighted sampler": lambda: torch.utils.data.WeightedRandomSampler([0.1, 0.9], 4),
    "loader": lambda: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(3)), 2),
}

TRAINING: Table = {
    **each("state of {}", OPTIMIZERS, lambda kind: stepped(kind).state_dict()),
    **each("whole {}", OPTIMIZERS, stepped),
    "state of amsgrad": lambda: stepped("AdamW", amsgrad=True, foreach=True).state_dict(),
    "state of a capturable": lambda: stepped("Adam", fused=True).state_dict(),
    "rate as a tensor": lambda: stepped("Adam", lr=torch.tensor(0.01)).state_dict(),
    **each("state of {}", SCHEDULERS, lambda kind: scheduler(kind).state_dict()),
    **each("whole {}", SCHEDULERS, scheduler),
    "state of a sequence": lambda: sequential().state_dict(),
    "whole sequence": sequential,
    "scaler": lambda: torch.amp.GradScaler("cpu").state_dict(),
    "whole scaler": lambda: torch.amp.GradScaler("cpu"),
    "weight norm of today": lambda: parametrized("weight_norm").state_dict(),
    "orthogonal": lambda: parametrized("orthogonal").state_dict(),
}

# ---------------------------------------------------------------- packages


def frames() -> Any:
    return of("pandas", "DataFrame")({"epoch": [1, 2], "loss": [0.5, 0.25], "name": ["a", "b"]})


SPARSE = "csr_matrix csc_matrix coo_matrix dok_matrix lil_matrix dia_matrix bsr_matrix csr_array coo_array".split()


def sparse(kind: str) -> Any:
    return of("scipy.sparse", kind)(np.eye(3))


def fitted(module: str, name: str, *data: Any) -> Any:
    return of(module, name)().fit(*data)


def structured() -> Any:
    return of("omegaconf", "OmegaConf").structured(Experiment)


@dataclass
class Experiment:
    lr: float = 0.01
    layers: list[int] = field(default_factory=lambda: [64])
    colour: Colour = Colour.RED
    name: str | None = None
    anything: Any = None
    extra: dict[str, Any] = field(default_factory=dict)


MANY = np.arange(12.0).reshape(6, 2)

PACKAGES: Mapping[str, Table] = {
    "pandas": {
        "series": lambda: of("pandas", "Series")([1.0, 2.0], name="loss"),
        "frame": frames,
        "frame of numbers": lambda: of("pandas", "DataFrame")(MANY),
        "frame with dates": lambda: frames().assign(when=of("pandas", "date_range")("2026-01-02", periods=2)),
        "frame with zones": lambda: frames().assign(when=of("pandas", "date_range")("2026-01-02", periods=2, tz="UTC")),
        "frame with kinds": lambda: frames().astype({"name": "category", "epoch": "Int64", "loss": "Float32"}),
        "frame with gaps": lambda: frames().reindex([0, 5]).astype({"epoch": "Int8"}),
        "frame with texts": lambda: frames().astype({"name": "string"}).convert_dtypes(),
        "frame of two levels": lambda: frames().set_index(["epoch", "name"]),
        "frame of objects": lambda: frames().astype(object),
        "indexes": lambda: [
            of("pandas", "Index")(["a", "b"]),
            of("pandas", "RangeIndex")(3),
            of("pandas", "Index")([1, 2]),
        ],
        "index of dates": lambda: of("pandas", "date_range")("2026-01-02", periods=3, freq="D"),
        "index of spans": lambda: [
            of("pandas", "timedelta_range")("1s", periods=2),
            of("pandas", "period_range")("2026-01", periods=2, freq="M"),
            of("pandas", "interval_range")(0, 2),
        ],
        "timestamp": lambda: [
            of("pandas", "Timestamp")("2026-01-02"),
            of("pandas", "Timestamp")("2026-01-02", tz="UTC"),
        ],
        "timestamp in a region": lambda: of("pandas", "Timestamp")("2026-01-02", tz="Europe/Berlin"),
        "timedelta": lambda: of("pandas", "Timedelta")("1 days 02:00:00"),
        "categorical": lambda: of("pandas", "Categorical")(["a", "b", "a"], ordered=True),
        "period": lambda: of("pandas", "Period")("2026-01", "M"),
        "interval": lambda: of("pandas", "Interval")(0, 1),
        "nothing": lambda: [of("pandas", "NA"), of("pandas", "NaT")],
        "types": lambda: [
            of("pandas", "Int64Dtype")(),
            of("pandas", "CategoricalDtype")(["a"]),
            of("pandas", "StringDtype")(),
        ],
        "offset": lambda: of("pandas", "offsets.Day")(2),
        "as a dict": lambda: frames().to_dict(),
        "as records": lambda: frames().to_records(),
    },
    "polars": {
        "frame": lambda: of("polars", "DataFrame")({"epoch": [1, 2], "loss": [0.5, 0.25]}),
        "series": lambda: of("polars", "Series")("loss", [0.5, 0.25]),
        "types": lambda: [of("polars", "Int64"), of("polars", "Utf8")],
    },
    "scipy": {
        **each("{}", SPARSE, sparse),
        "rotation": lambda: of("scipy.spatial.transform", "Rotation").from_euler("x", 1.0),
        "tree": lambda: of("scipy.spatial", "KDTree")(MANY),
    },
    "sklearn": {
        "scaler": lambda: fitted("sklearn.preprocessing", "StandardScaler", MANY),
        "ranges": lambda: fitted("sklearn.preprocessing", "MinMaxScaler", MANY),
        "labels": lambda: fitted("sklearn.preprocessing", "LabelEncoder", ["cat", "dog"]),
        "one hot": lambda: fitted("sklearn.preprocessing", "OneHotEncoder", [["cat"], ["dog"]]),
        "components": lambda: fitted("sklearn.decomposition", "PCA", MANY),
        "clusters": lambda: of("sklearn.cluster", "KMeans")(2).fit(MANY),
        "regression": lambda: fitted("sklearn.linear_model", "LogisticRegression", MANY, [0, 1, 0, 1, 0, 1]),
        "forest": lambda: of("sklearn.ensemble", "RandomForestClassifier")(2).fit(MANY, [0, 1, 0, 1, 0, 1]),
        "bunch": lambda: of("sklearn.utils", "Bunch")(a=1),
    },
    "omegaconf": {
        "config": lambda: of("omegaconf", "OmegaConf").create({"lr": 0.02, "layers": [1, 2], "model": {"name": "m"}}),
        "list": lambda: of("omegaconf", "OmegaConf").create([1, {"a": None}, "${oc.env:HOME,none}"]),
        "structured": structured,
        "interpolation": lambda: of("omegaconf", "OmegaConf").create({"a": 1, "b": "${a}", "c": "???"}),
        "values": lambda: of("omegaconf", "OmegaConf").create(
            {"p": pathlib.Path("a"), "b": b"x", "c": Colour.RED, "f": 1.5}
        ),
        "typed": lambda: of("omegaconf", "OmegaConf").create({"a": structured()}),
        "read only": lambda: of("omegaconf", "OmegaConf").create({"a": 1}, flags={"readonly": True}),
    },
    "torchmetrics": {
        "accuracy": lambda: of("torchmetrics", "Accuracy")(task="multiclass", num_classes=3),
        "means": lambda: [of("torchmetrics", "MeanMetric")(), of("torchmetrics", "SumMetric")()],
        "collection": lambda: of("torchmetrics", "MetricCollection")({"mse": of("torchmetrics", "MeanSquaredError")()}),
        "tracker": lambda: of("torchmetrics", "MetricTracker")(of("torchmetrics", "MeanSquaredError")()),
        "confusion": lambda: of("torchmetrics", "ConfusionMatrix")(task="binary"),
        "auroc": lambda: of("torchmetrics", "AUROC")(task="binary"),
    },
    "torchvision": {
        "transforms": lambda: of("torchvision.transforms", "Compose")(
            [
                of("torchvision.transforms", "Resize")(8),
                of("torchvision.transforms", "ToTensor")(),
                of("torchvision.transforms", "Normalize")([0.5], [0.5]),
                of("torchvision.transforms", "RandomHorizontalFlip")(),
                of("torchvision.transforms", "RandomErasing")(),
                of("torchvision.transforms", "AutoAugment")(),
            ]
        ),
        "transforms of today": lambda: of("torchvision.transforms.v2", "Compose")(
            [
                of("torchvision.transforms.v2", "Resize")(8),
                of("torchvision.transforms.v2", "ToDtype")(torch.float32, scale=True),
                of("torchvision.transforms.v2", "RandAugment")(),
            ]
        ),
        "presets": lambda: of("torchvision.transforms._presets", "ImageClassification")(crop_size=8),
        "weights of a model": lambda: of("torchvision.models", "ResNet18_Weights").DEFAULT.name,
        "member of weights": lambda: of("torchvision.models", "ResNet18_Weights").DEFAULT,
        "boxes": lambda: of("torchvision.tv_tensors", "BoundingBoxes")(
            [[0, 0, 1, 1]], format="XYXY", canvas_size=(8, 8)
        ),
        "picture": lambda: [
            of("torchvision.tv_tensors", "Image")(torch.zeros(3, 2, 2)),
            of("torchvision.tv_tensors", "Mask")(torch.zeros(2, 2)),
        ],
        "model": lambda: of("torchvision.models", "squeezenet1_1")(num_classes=2),
        "detector parts": lambda: [
            of("torchvision.ops", "MultiScaleRoIAlign")(["0"], 7, 2),
            of("torchvision.models.detection.anchor_utils", "AnchorGenerator")(),
        ],
        "mobile": lambda: of("torchvision.models.mobilenetv3", "InvertedResidualConfig")(
            8, 3, 8, 8, False, "RE", 1, 1, 1.0
        ),
    },
    "PIL": {
        "picture": lambda: of("PIL.Image", "new")("RGB", (4, 4)),
        "resampling": lambda: of("PIL.Image", "Resampling").BILINEAR,
    },
    "transformers": {
        "config": functools.partial(new, "transformers", "BertConfig"),
        "generation": functools.partial(new, "transformers", "GenerationConfig"),
        "arguments": lambda: of("transformers", "TrainingArguments")("out", use_cpu=True, report_to=[]),
        "answer": lambda: of("transformers.modeling_outputs", "SequenceClassifierOutput")(
            loss=torch.ones(1), logits=torch.ones(2)
        ),
        "batch": lambda: of("transformers", "BatchEncoding")({"input_ids": torch.ones(2)}),
        "model": lambda: of("transformers", "BertModel")(
            of("transformers", "BertConfig")(
                vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
            )
        ),
    },
    "lightning": {
        "hyper-parameters": lambda: of("lightning.fabric.utilities.data", "AttributeDict")(lr=0.1),
        "accelerator": lambda: of("lightning.pytorch.trainer.states", "TrainerStatus").RUNNING,
    },
    "ultralytics": {
        "settings": functools.partial(new, "ultralytics.cfg", "get_cfg"),
        "metrics": functools.partial(new, "ultralytics.utils.metrics", "DetMetrics"),
        "confusion": functools.partial(new, "ultralytics.utils.metrics", "ConfusionMatrix"),
        "box": lambda: of("ultralytics.engine.results", "Results")(
            np.zeros((4, 4, 3)), "a.jpg", {0: "a"}, torch.zeros(1, 6)
        ),
        "early stop": functools.partial(new, "ultralytics.utils.torch_utils", "EarlyStopping"),
        "model": lambda: of("ultralytics.nn.tasks", "ClassificationModel")("yolov8n-cls.yaml", verbose=False).model[0],
    },
    "yaml": {"mark": lambda: of("yaml", "safe_load")("a: [1, 2.5, null, 2026-01-02]")},
    "addict": {"dict": lambda: of("addict", "Dict")(a={"b": 1})},
    "easydict": {"dict": lambda: of("easydict", "EasyDict")(a={"b": 1})},
    "yacs": {"node": lambda: of("yacs.config", "CfgNode")({"a": {"b": 1}})},
}

TABLES: Mapping[str, Table] = {
    "python": STDLIB,
    "numpy": NUMPY,
    "layers": LAYERS,
    "tensors": TENSORS,
    "answers": ANSWERS,
    "distributions": DISTRIBUTIONS,
    "datasets": DATASETS,
    "training": TRAINING,
    **{name: table for name, table in PACKAGES.items() if find_spec(name) is not None},
}
PARTS: Mapping[str, Maker] = {
    f"{name}: {thing}": make for name, table in TABLES.items() for thing, make in table.items()
}

# ---------------------------------------------------------------- files that are one thing


WHOLE: Table = {
    "forgotten parentheses": lambda: nn.Sequential(nn.Linear(4, 2), nn.ReLU()).state_dict,
    "forgotten parentheses of an optimizer": lambda: stepped("AdamW").state_dict,
    "forgotten parentheses inside": lambda: {
        "model": Net().state_dict,
        "optimizer": stepped("SGD").state_dict,
        "epoch": 3,
    },
    "another method": lambda: nn.Linear(4, 2).parameters,
    "whole model": Net,
    "list of tensors": lambda: [torch.ones(2), torch.ones(3)],
    "one tensor": lambda: torch.ones(2),
    "one parameter": weight,
    "tuple": lambda: (nn.Linear(3, 3).state_dict(), stepped("SGD").state_dict(), 3),
}

# ---------------------------------------------------------------- ways of saving


def checkpoint(extra: Any) -> dict[str, Any]:
    """A checkpoint of a loop of one's own with ``extra`` in it."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 2, "extra": extra}


def saved(content: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def as_numpy_one(content: Any) -> bytes:
    """The names that numpy 1 had, as any file from before 2024 spells them."""
    return legacy(content).replace(b"cnumpy._core.", b"cnumpy.core.")


def legacy(content: Any, **options: Any) -> bytes:
    return saved(content, _use_new_zipfile_serialization=False, **options)


def pickled_by(name: str) -> Callable[[Any], bytes]:
    """Saving with a pickler people hand to torch.save: they spell types in ways of their own."""
    return lambda content: saved(content, pickle_module=importlib.import_module(name))


SAVERS: Mapping[str, Callable[[Any], bytes]] = {
    "zip": saved,
    "zip, protocol 3": functools.partial(saved, pickle_protocol=3),
    "zip, protocol 4": functools.partial(saved, pickle_protocol=4),
    "zip, protocol 5": functools.partial(saved, pickle_protocol=5),
    "stream": legacy,
    "stream, protocol 4": functools.partial(legacy, pickle_protocol=4),
    "stream, numpy 1": as_numpy_one,
    **{name: pickled_by(name) for name in ("dill", "cloudpickle") if find_spec(name) is not None},
}


# What torch can't read back, what dill writes as text to be evaluated, and what the two build of code.
IN_STREAMS = frozenset({"tensors: nested", "tensors: storages", "tensors: whole generator", "tensors: dtypes of today"})
METHODS = frozenset(
    {*(thing for thing in WHOLE if "parentheses" in thing), "another method", "layers: lazy", "layers: convolutions"}
)
LEFT_OUT: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("stream", "stream, protocol 4", "stream, numpy 1"), IN_STREAMS),
    "dill": METHODS
    | {
        "python: ranges",
        "python: constants",
        "python: type hints of today",
        "python: named tuple",
        "datasets: sampler",
        "tensors: classes",
        *(thing for thing in PARTS if thing.startswith("training: whole ")),
    },
    "cloudpickle": METHODS | {"python: namespaces", "python: type hints of today"},
}


def _part(save: Callable[[Any], bytes], make: Maker) -> bytes:
    return save(checkpoint(make()))


def _whole(save: Callable[[Any], bytes], make: Maker) -> bytes:
    return save(make())


FILES: Mapping[tuple[str, str], Callable[[], bytes]] = {
    (way, thing): functools.partial(kind, save, make)
    for kind, table in ((_part, PARTS), (_whole, WHOLE))
    for thing, make in table.items()
    for way, save in SAVERS.items()
    if thing not in LEFT_OUT.get(way, ())
}

# ---------------------------------------------------------------- state dicts at random

WORDS = "backbone head neck conv bn layer attn mlp norm proj embed weight bias lr wd epochs name path seed".split()


def state_dicts(count: int, seed: int = 0) -> Iterator[Any]:
    """Checkpoints as people save them: nested models, optimizers, settings and metrics, the same for a seed."""
    rng = random.Random(seed)
    torch.random.manual_seed(seed)
    for _ in range(count):
        yield _one(rng)


def _one(rng: random.Random) -> Any:
    model = {".".join(rng.choices(WORDS, k=rng.randint(1, 4))): _tensor(rng) for _ in range(rng.randint(1, 6))}
    held = rng.choice([dict, collections.OrderedDict])(model)
    if rng.random() < 0.15:
        return held
    made = {rng.choice(["model", "state_dict", "model_state_dict", "net", "ema"]): held}
    if rng.random() < 0.7:
        kind = rng.choice([name for name in OPTIMIZERS if name not in ("SparseAdam", "LBFGS")])
        made[rng.choice(["optimizer", "optimizer_state_dict", "optim"])] = stepped(kind).state_dict()
    if rng.random() < 0.5:
        made[rng.choice(["scheduler", "lr_scheduler"])] = scheduler(rng.choice(list(SCHEDULERS))).state_dict()
    for key in rng.sample(["epoch", "args", "config", "best", "metrics", "rng", "history", "hyper_parameters"], 4):
        made[key] = _value(rng, 3)
    return made


def _tensor(rng: random.Random) -> Any:
    shape = rng.choices(range(4), k=rng.randint(0, 3))
    made = torch.ones(shape).to(rng.choice([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]))
    if rng.random() < 0.5:
        return made
    return nn.Parameter(made, made.is_floating_point() and rng.random() < 0.5)


PLAIN = (
    "numbers",
    "bytes",
    "sets",
    "named tuple",
    "namespaces",
    "paths",
    "dates",
    "counter",
    "deque",
    "default dicts",
    "ordered dict",
    "types",
    "dataclass",
    "enumerations",
    "ranges",
    "decimal",
    "uuid",
    "nested",
    "type hints",
)
ARRAYS = ("arrays", "numbers", "texts", "records", "dates", "objects", "state of random", "masked array")
TORCH = ("numbers", "sizes", "devices", "types", "views", "sparse", "parameters", "version", "quantized", "subclass")


def _entry(rng: random.Random, table: Table, names: Iterable[str]) -> Any:
    return table[rng.choice(list(names))]()


def _value(rng: random.Random, depth: int) -> Any:
    choices: list[Maker] = [
        lambda: rng.randint(-(2**40), 2**40),
        rng.random,
        lambda: rng.choice([None, True, False, "a" * rng.randint(0, 300), "läuft"]),
        lambda: _tensor(rng),
        lambda: _entry(rng, STDLIB, PLAIN),
        lambda: _entry(rng, NUMPY, ARRAYS),
        lambda: _entry(rng, TENSORS, TORCH),
        lambda: _entry(rng, ANSWERS, ANSWERS),
    ]
    if depth:
        containers: list[Maker] = [
            lambda: {rng.choice(WORDS): _value(rng, depth - 1) for _ in range(rng.randint(0, 4))},
            lambda: [_value(rng, depth - 1) for _ in range(rng.randint(0, 4))],
            lambda: tuple(_value(rng, depth - 1) for _ in range(rng.randint(0, 4))),
            lambda: types.SimpleNamespace(**{rng.choice(WORDS): _value(rng, depth - 1)}),
            lambda: argparse.Namespace(**{rng.choice(WORDS): _value(rng, depth - 1) for _ in range(3)}),
            lambda: {rng.randint(0, 9): _value(rng, depth - 1), (1, "a"): _value(rng, depth - 1)},
        ]
        choices += containers * 2
    return rng.choice(choices)()
