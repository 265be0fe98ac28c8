"""Which names a checkpoint may hold: an allow-list, with rules on arguments."""

from __future__ import annotations

import sys

import pytest
from building import (
    BUILD,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    NEWOBJ,
    NONE,
    POP,
    blob,
    call,
    get,
    integer,
    items,
    legacy,
    listed,
    mapping,
    name,
    pickled,
    put,
    text,
)

from ckpt_tools.pickles import run
from ckpt_tools.policy import Tier, judge_pickle, package_of, tier_of
from ckpt_tools.policy.known import CLASS_TREES, KNOWN, PATTERNS, WELL_KNOWN
from ckpt_tools.policy.rules import RULES


def worst(body: bytes) -> str:
    """The highest tier in a pickle of one body."""
    tiers = {judgement.tier for judgement in judge_pickle(run(pickled(body)))[0]}
    return str(max(tiers, key=["known", "mentioned", "unknown", "dangerous"].index, default=Tier.KNOWN).value)


NAMES = [
    ("torch._utils", "_rebuild_tensor_v2", "known"),
    ("torch", "FloatStorage", "known"),
    ("torch", "float16", "known"),
    ("collections", "OrderedDict", "known"),
    ("torch.nn.modules.conv", "Conv2d", "known"),
    ("torch.nn.modules.batchnorm", "_BatchNorm", "known"),
    ("ultralytics.nn.tasks", "DetectionModel", "known"),
    ("models.yolo", "Detect", "known"),
    ("pathlib", "PosixPath", "known"),
    ("numpy._core.multiarray", "scalar", "known"),
    ("my_project.net", "Net", "unknown"),
    ("my_project.net", "build", "unknown"),
    ("__main__", "Config", "unknown"),
    ("nnx.models", "Thing", "unknown"),
    ("os", "system", "dangerous"),
    ("posix", "system", "dangerous"),
    ("builtins", "eval", "dangerous"),
    ("builtins", "exec", "dangerous"),
    ("builtins", "__import__", "dangerous"),
    ("builtins", "open", "dangerous"),
    ("__builtin__", "eval", "dangerous"),
    ("subprocess", "Popen", "dangerous"),
    ("os.path", "join", "dangerous"),
    ("_thread", "LockType", "dangerous"),
    ("torch.serialization", "os.system", "dangerous"),
    ("torch.nn.modules.conv", "torch.hub.load", "dangerous"),
    ("collections", "abc.Mapping", "dangerous"),
    ("", "x", "dangerous"),
    ("os\x00", "system", "dangerous"),
    ("a b", "c", "dangerous"),
]


# Dangerous where they are called; a name that is only stored runs nothing.
NOTES = {(module, name) for module, name, tier in NAMES if tier == "dangerous" and module.split(".")[0] in
         ("os", "posix", "builtins", "__builtin__", "subprocess", "_thread")}  # fmt: skip


@pytest.mark.parametrize(("module", "qualified", "tier"), NAMES, ids=lambda value: value or "empty")
@pytest.mark.parametrize("called", [False, True], ids=["named", "called"])
def test_name_has_its_tier(module: str, qualified: str, tier: str, called: bool) -> None:
    merely = {"dangerous": "mentioned"} if (module, qualified) in NOTES and not called else {}
    assert str(tier_of(module, qualified, called)[0].value) == merely.get(tier, tier)


@pytest.mark.parametrize("package", sorted(WELL_KNOWN - set(sys.stdlib_module_names)))
def test_unlisted_function_of_a_well_known_package_may_not_be_called(package: str) -> None:
    assert tier_of(f"{package}.inner", "no_such_function", True)[0] is Tier.DANGEROUS
    assert tier_of(f"{package}.inner", "no_such_function", False)[0] is Tier.MENTIONED


@pytest.mark.parametrize("module", sorted(sys.stdlib_module_names))
def test_standard_library_is_dangerous_unless_listed(module: str) -> None:
    if module != "__main__":
        assert tier_of(module, "NoSuchThing", True)[0] is Tier.DANGEROUS
        assert tier_of(module, "NoSuchThing", False)[0] is not Tier.KNOWN


def test_a_class_tree_ends_at_a_dot() -> None:
    assert tier_of("torch.nnx", "Thing", False)[0] is not Tier.KNOWN
    assert all(tier_of(tree, "SomeClass", False)[0] is Tier.KNOWN for tree in CLASS_TREES)
    assert all(tier_of(tree, "some_function", True)[0] is not Tier.KNOWN for tree in CLASS_TREES)


def test_every_rule_of_the_data_has_its_function() -> None:
    assert set(KNOWN.values()) | {rule for _, _, rule in PATTERNS} | {"layer"} == set(RULES)


def test_package_is_the_first_part() -> None:
    assert package_of("a.b.c") == package_of("a") == "a"


LINEAR = name("torch.nn.modules.linear", "Linear")
MODEL = name("ultralytics.nn.tasks", "DetectionModel") + EMPTY_TUPLE + NEWOBJ


def model_with(**yaml: bytes) -> bytes:
    """A pickled model whose yaml says so; its trainer evaluates parts of that."""
    return MODEL + mapping(yaml=mapping(**yaml)) + BUILD


def bound(owner: bytes, method: str) -> bytes:
    return call(name("builtins", "getattr"), owner, text(method))


def row(module: bytes, arguments: bytes) -> bytes:
    return listed(listed(integer(-1), integer(1), module, arguments))


RULED = {
    "latin1 text": (call(name("_codecs", "encode"), text("x"), text("latin1")), "known"),
    "another codec": (call(name("_codecs", "encode"), text("x"), text("idna")), "dangerous"),
    "codec without text": (call(name("_codecs", "encode"), integer(1), text("latin1")), "dangerous"),
    "attribute of a class": (call(name("builtins", "getattr"), LINEAR, text("forward")), "known"),
    "private attribute": (call(name("builtins", "getattr"), LINEAR, text("_lazy_hook")), "known"),  # LazyLinear
    "special attribute": (call(name("builtins", "getattr"), LINEAR, text("__init__")), "dangerous"),
    "attribute of a value": (call(name("builtins", "getattr"), text("x"), text("format")), "dangerous"),
    "attribute called": (call(call(name("builtins", "getattr"), LINEAR, text("forward"))), "dangerous"),
    "partial of a class": (call(name("functools", "partial"), LINEAR), "known"),
    "partial of a function": (call(name("functools", "partial"), name("os", "system")), "dangerous"),
    "partial of a computed thing": (call(name("functools", "partial"), call(name("a", "B"))), "dangerous"),
    "partial filled later": (
        call(name("functools", "partial"), LINEAR) + items(name("os", "system"), EMPTY_TUPLE, EMPTY_DICT, NONE) + BUILD,
        "dangerous",
    ),
    "defaultdict of list": (call(name("collections", "defaultdict"), name("builtins", "list")), "known"),
    "defaultdict of user code": (call(name("collections", "defaultdict"), name("mine", "make")), "unknown"),
    "print as a value": (listed(name("builtins", "print")), "known"),
    "print called": (call(name("builtins", "print"), text("x")), "dangerous"),
    "activation as a value": (name("torch.nn.functional", "relu"), "known"),
    "activation called": (call(name("torch.nn.functional", "relu"), text("x")), "dangerous"),
    "set of a list": (call(name("builtins", "set"), EMPTY_LIST), "known"),
    "range of all memory": (call(name("builtins", "bytearray"), integer(1 << 50)), "dangerous"),
    "dill container": (call(name("dill._dill", "_load_type"), text("dict")), "known"),
    "dill code": (call(name("dill._dill", "_load_type"), text("CodeType")), "dangerous"),
    "array of a size": (
        call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), items(integer(9)), blob(b"b")),
        "dangerous",
    ),
    "state put on a class": (LINEAR + mapping(forward=text("x")) + BUILD, "dangerous"),
    "item put on a name": (name("my", "Thing") + text("k") + NONE + b"s", "dangerous"),
    "dropped call": (call(name("os", "system"), text("x")) + POP + NONE, "dangerous"),
    "layer made bare": (LINEAR + EMPTY_TUPLE + NEWOBJ, "known"),
    "layer constructed": (call(LINEAR, integer(4), integer(4)), "dangerous"),
    "activation of a model yaml": (model_with(activation=text("nn.SiLU(inplace=True)")), "known"),
    "activation that runs": (model_with(activation=text("__import__('os').getcwd()")), "dangerous"),
    "activation that is no layer": (model_with(activation=text("exit")), "dangerous"),
    "layers of a model yaml": (model_with(backbone=row(text("Conv"), listed(integer(64), text("nearest")))), "known"),
    "fused layer": (
        LINEAR + EMPTY_TUPLE + NEWOBJ + put(0) + mapping(forward=bound(get(0), "forward_fuse")) + BUILD,
        "known",
    ),
    "method of another layer": (
        LINEAR + EMPTY_TUPLE + NEWOBJ + mapping(forward=bound(LINEAR + EMPTY_TUPLE + NEWOBJ, "forward")) + BUILD,
        "dangerous",
    ),
    "layer in small letters": (model_with(head=row(text("v10Detect"), listed(text("nc")))), "known"),
    "built-in as a layer": (model_with(head=row(text("exec"), listed(text("nc")))), "dangerous"),
    "module as a layer": (model_with(head=row(text("os.system"), listed(text("nc")))), "dangerous"),
    "function as a layer": (model_with(backbone=row(text("torch_safe_load"), listed(text("x.pt")))), "dangerous"),
    "text evaluated as an argument": (model_with(head=row(text("Conv"), listed(text("open('x')")))), "dangerous"),
    "yaml in another mapping": (
        MODEL
        + mapping(yaml=call(name("collections", "OrderedDict"), listed(items(text("act"), text("exit")))))
        + BUILD,
        "dangerous",
    ),
    "model made by copyreg": (
        call(
            name("copyreg", "_reconstructor"),
            name("ultralytics.nn.tasks", "DetectionModel"),
            name("builtins", "object"),
            NONE,
        )
        + mapping(yaml=mapping(activation=text("exit")))
        + BUILD,
        "dangerous",
    ),
    "two ways into one dictionary": (EMPTY_DICT + (text("k") + NONE + b"s") * 2, "dangerous"),
    "type hint": (call(name("_operator", "getitem"), name("typing", "Optional"), name("builtins", "int")), "mentioned"),
    "text that looks dangerous": (text("cos\nsystem\n(S'id'\ntR."), "known"),
    "nothing": (NONE, "known"),
}


@pytest.mark.parametrize("case", RULED)
def test_rule_on_arguments(case: str) -> None:
    body, tier = RULED[case]
    assert worst(body) == tier


def test_bytes_that_are_loaded_are_handed_back_to_be_judged() -> None:
    inner = legacy()
    _, nested = judge_pickle(run(pickled(call(name("torch.storage", "_load_from_bytes"), blob(inner)))))
    assert nested == [inner]


def test_bytes_from_elsewhere_may_not_be_loaded() -> None:
    assert worst(call(name("torch.storage", "_load_from_bytes"), call(name("mine", "fetch")))) == "dangerous"


def test_judgement_shows_the_call_and_where_it_stands() -> None:
    body = call(name("os", "system"), text("x" * 500), integer(1 << 900))
    data = pickled(body)
    (judgement,) = judge_pickle(run(data))[0]
    assert judgement.what.startswith("os.system('xxx")
    assert len(judgement.what) < 300
    assert data[judgement.position :].startswith(b"cos\n")
