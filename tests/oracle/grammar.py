"""Random pickles from the grammar of the policy: the names it knows, and what opcodes can do with them.

A pickle is a few scenes: a known object is made by any opcode or function that makes one, gets a state that puts
callables where an opcode, a known function or a special method of its class looks something up, and is then handed to
an opcode or a known function that might ask. A seed writes the same pickle wherever the same packages are installed.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import random
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from building import (
    APPEND,
    BINPERSID,
    BUILD,
    DUP,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    MARK,
    NEWOBJ,
    NEWOBJ_EX,
    NONE,
    ORDERED_DICT,
    POP,
    REDUCE,
    SETITEM,
    TRUE,
    blob,
    call,
    integer,
    items,
    legacy,
    listed,
    name,
    pickled,
    shape_of,
    stack_name,
    text,
)

from ckpt_tools.pickles import run
from ckpt_tools.policy import Tier, judge_pickle, tier_of
from ckpt_tools.policy.known import CLASS_TREES, KNOWN, REBUILDERS

APPENDS, SETITEMS, ADDITEMS, OBJ, INST, FROZENSET, EMPTY_SET = b"e", b"u", b"\x90", b"o", b"i", b"\x91", b"\x8f"

# Trainers whose classes are tried, beside those of the policy's exact names. The last lines of the modules are what the
# names themselves import only when they are used.
PACKAGES = """
    torch.nn torch.optim ultralytics.nn ultralytics.utils torchvision.ops torchvision.transforms torchvision.models
    lightning.pytorch lightning.fabric torchmetrics accelerate.utils
""".split()
MODULES = """
    accelerate accelerate.data_loader accelerate.optimizer accelerate.scheduler accelerate.state
    transformers.cache_utils transformers.configuration_utils transformers.feature_extraction_utils
    transformers.generation.configuration_utils transformers.image_utils transformers.integrations.integration_utils
    transformers.modeling_outputs transformers.modeling_utils transformers.models.auto.auto_factory
    transformers.models.auto.configuration_auto transformers.models.bert_japanese.tokenization_bert_japanese
    transformers.models.biogpt.tokenization_biogpt transformers.models.cpm.tokenization_cpm
    transformers.models.gpt2.modeling_gpt2 transformers.models.m2m_100.tokenization_m2m_100
    transformers.models.marian.tokenization_marian transformers.models.roformer.tokenization_roformer
    transformers.models.timm_backbone.configuration_timm_backbone transformers.models.xlm.tokenization_xlm
    transformers.tokenization_utils_base transformers.trainer transformers.trainer_callback transformers.trainer_utils
    transformers.training_args
    numpy._core._internal numpy._core._methods numpy._core._exceptions numpy.core.multiarray numpy.core.numeric
    torch.distributed.tensor torch.distributed.tensor._dtensor_spec torch.nested._internal.nested_tensor
    torch.fx.experimental.symbolic_shapes torch._dynamo unittest.mock torch._subclasses.schema_check_mode
""".split()
SKIPPED = ("tests", "test_utils", "demos", "__main__", "commands", "testing", "benchmarks", "_inductor", "testers")

METHODS = """
    __setstate__ append extend add update keys items values get pop setdefault discard remove clear detach to parameters
    modules forward __call__ __reduce__ __class__ __dict__ __getattr__ __len__ __iter__ __hash__ __array__ __init__
    device dtype shape size numel requires_grad_ _backward_hooks _untyped_storage node is_nested_int bool_ int_
    guard_int __getinitargs__ __new__ __torch_function__ __fspath__ __index__ close stop release copy reset as_subclass
""".split()

TROUBLE = name("os", "system")
COMMAND = text("exit 0")
EVIL = legacy(call(TROUBLE, COMMAND), keys=EMPTY_LIST, storages=b"")
HARMLESS = legacy(EMPTY_DICT, keys=EMPTY_LIST, storages=b"")
LOAD = ("torch.storage", "_load_from_bytes")
# Classes whose constructor may never run while a file is loaded: they stand for all classes of the trainers.
MARKED = (
    ("ultralytics.nn.tasks", "DetectionModel"),
    ("torch.nn.modules.linear", "Linear"),
    ("torchvision.transforms.transforms", "Lambda"),
    ("transformers.training_args", "TrainingArguments"),
)
MENTIONED = (("os", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("shutil", "rmtree"))
TRIES = 4  # scenes that are written before one that the policy objects to is taken


@dataclass
class Class:
    """A class a pickle may name, and the attributes its special methods use."""

    module: str
    name: str
    words: tuple[str, ...] = ()
    bare: bool = True  # whether it can be made without arguments


@dataclass
class Vocabulary:
    """What the generator may name."""

    classes: list[Class] = field(default_factory=list)
    busy: list[Class] = field(default_factory=list)  # whose special methods are written in Python
    distinct: list[Class] = field(default_factory=list)  # one of those with the same special methods
    functions: list[tuple[str, str]] = field(default_factory=list)
    known: list[tuple[str, str]] = field(default_factory=list)
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    signs: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)


# --- vocabulary -----------------------------------------------------------------------------------

SPECIAL = """
    __setstate__ __new__ __setattr__ __getattr__ __del__ __setitem__ __iter__ __len__ __bool__ __hash__ __eq__
    __contains__ __fspath__ __index__ __int__ __float__ __array__ append extend add keys
""".split()


def imported() -> None:
    """Import what the names live in, so that a later import is an event."""
    for package in PACKAGES:
        with contextlib.suppress(Exception):
            root = importlib.import_module(package)
            for found in pkgutil.walk_packages(getattr(root, "__path__", ()), package + ".", onerror=lambda _: None):
                if not any(part in SKIPPED for part in found.name.split(".")):
                    _imported(found.name)
    for module in (*MODULES, *sorted({module for module, _ in KNOWN})):
        _imported(module)


def _imported(module: str) -> None:
    with contextlib.suppress(BaseException):
        importlib.import_module(module)


def vocabulary() -> Vocabulary:
    """The real things behind the policy's names, as far as they are installed."""
    found = Vocabulary()
    for module, qualified in sorted(KNOWN):
        thing = getattr(sys.modules.get(module.replace("__builtin__", "builtins")), qualified, None)
        if thing is None:
            continue
        found.known.append((module, qualified))
        if isinstance(thing, types.FunctionType):
            found.functions.append((module, qualified))
            found.signs[module, qualified] = _words(thing)
        elif isinstance(thing, type):
            _note_class(found, module, qualified, thing)
    for module, content in sorted(sys.modules.items()):
        if not module.startswith(CLASS_TREES) or content is None:
            continue
        for qualified, thing in sorted(vars(content).items()):
            if isinstance(thing, type) and tier_of(module, qualified, True)[0] is Tier.KNOWN:
                _note_class(found, module, qualified, thing)
    found.methods.extend(sorted({word for made in found.busy for word in made.words if word.isidentifier()}))
    return found


def _note_class(found: Vocabulary, module: str, qualified: str, thing: type) -> None:
    import torch

    plain = (object, torch.nn.Module, torch.Tensor, dict, list)
    words: list[str] = []
    for owner in thing.__mro__:
        if owner not in plain:
            for method in (*SPECIAL, *(("__init__",) if (module, qualified) in KNOWN else ())):
                words.extend(_words(vars(owner).get(method)))
            for value in vars(owner).values():
                if isinstance(value, property) and value.fset is not None:
                    words.extend((value.fset.__name__, *_words(value.fset)))
    try:
        bare = thing.__new__(thing) is not None  # type: ignore[call-overload]
    except Exception:
        bare = False
    made = Class(module, qualified, tuple(dict.fromkeys(words)), bare)
    found.classes.extend([made] * (9 if bare else 1))
    if words:
        found.busy.extend([made] * (9 if bare else 1))
        if bare and not any(alike.words == made.words for alike in found.distinct):
            found.distinct.append(made)


def _words(function: Any) -> tuple[str, ...]:
    """The names and short texts in a function's code: the attributes and keys it asks for."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is None:
        return ()
    texts = [value for value in code.co_consts if isinstance(value, str) and value.isidentifier()]
    return (*code.co_names, *texts)


CONSTANTS = (
    NONE,
    TRUE,
    FALSE,
    EMPTY_TUPLE,
    EMPTY_DICT,
    EMPTY_LIST,
    b"G?\xe0\0\0\0\0\0\0",
    blob(EVIL),
    blob(HARMLESS),
    text("__import__('os').system('exit 0')"),
    text("nowhere/x.pt"),
    text("cpu"),
    text("torch.strided"),
    text("MT19937"),
    text("latin1"),
    text("f4"),
    text("O"),
    items(integer(2), integer(2)),
    items(text("x"), integer(1)),
    listed(items(text("append"), integer(1))),
    name("torch", "float32"),
)


def unsafe(data: bytes) -> bool:
    """Whether the policy objects to a pickle, or to bytes it would load as a checkpoint."""
    judgements, nested = judge_pickle(run(data))
    return any(found.tier is Tier.DANGEROUS for found in judgements) or EVIL in nested


# --- generator ------------------------------------------------------------------------------------


class Writer:
    """Writes one pickle. Bold ones arm nearly everything, shy ones hold at most a single callable."""

    def __init__(self, seed: int, words: Vocabulary) -> None:
        self.random = random.Random(seed)
        self.words = words
        self.memo: list[int] = []
        self.slots = 0
        self.room = 40
        self.boldness = self.random.choice((0.1, 0.3, 0.6, 1.0))
        self.protocol = self.random.choice((2, 2, 4))

    def pickle(self) -> bytes:
        scenes: tuple[Callable[[], bytes], ...] = (
            lambda: self.acted(self.armed(2)),
            lambda: self.asked(self.armed(2)),
            lambda: self.asked(self.instance(2)),
            lambda: self.acted(self.instance(2)),
            lambda: self.acted(self.thing(0)),
            self.pointed,
            lambda: self.asked(self.pointed()),
        )
        body = b""
        for _ in range(self.random.choice((1, 1, 2))):
            for _ in range(TRIES):
                kept, self.room = (list(self.memo), self.slots), 40
                scene = self.random.choice(scenes)() + POP
                if not unsafe(pickled(body + scene + NONE, self.protocol)):
                    break
                self.memo, self.slots = kept
            body += scene
        return pickled(body + self.value(3), self.protocol)

    FILLERS = (NONE, NONE, TRUE, FALSE, EMPTY_DICT, EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE, integer(1), text("x"))

    def pointed(self) -> bytes:
        """An object whose special methods find plain data under all they ask for, and one callable."""
        made = self.random.choice(self.words.distinct)
        words = [word for word in made.words if self.random.random() < 0.7]
        filled = {word: self.random.choice(self.FILLERS) for word in words}
        weapon = self.callable(sure=True)
        for _ in range(self.random.choice((0, 0, 1))):
            holder = self.bare(Class("argparse", "Namespace"), 3)
            weapon = holder + EMPTY_DICT + self.key(made.words) + weapon + SETITEM + BUILD
        filled[self.random.choice(made.words)] = weapon
        state = EMPTY_DICT + MARK + b"".join(text(word) + value for word, value in filled.items()) + SETITEMS
        return self.bare(made, 3) + state + BUILD

    def asked(self, made: bytes) -> bytes:
        """Something a known function or type, or a container's opcode, is given as its first argument."""
        kind = self.random.randrange(6)
        if kind == 0:
            return EMPTY_DICT + made + NONE + SETITEM
        if kind == 1:
            return MARK + made + FROZENSET
        if kind == 2:
            return self.named(self.random.choice(self.words.known)) + items(made) + NEWOBJ
        pair = self.random.choice(self.words.known if self.random.random() < 0.5 else self.words.functions)
        return (
            self.named(pair)
            + items(made, *(self.value(3) for _ in range(self.random.choice((0, 0, 0, 1, 2, 3)))))
            + REDUCE
        )

    # what a pickle consists of

    def value(self, depth: int) -> bytes:
        self.room -= 1
        if depth > 4 or self.room < 0:
            return self.constant()
        kinds = (
            self.constant,
            self.constant,
            lambda: self.thing(depth + 1),
            lambda: self.thing(depth + 1),
            lambda: self.container(depth + 1),
            self.kept,
            self.callable,
        )
        return self.random.choice(kinds)()

    def constant(self) -> bytes:
        kind = self.random.randrange(8)
        if kind == 0:
            return text(self.any_method())
        return integer(self.random.randint(-2, 9)) if kind == 1 else self.random.choice(CONSTANTS)

    def container(self, depth: int) -> bytes:
        parts = [self.value(depth) for _ in range(self.random.randint(0, 3))]
        kind = self.random.randrange(6)
        if kind == 0:
            return items(*parts)
        if kind == 1:
            return listed(*parts)
        if kind == 2:
            return EMPTY_SET + MARK + b"".join(parts) + ADDITEMS
        if kind == 3:
            return MARK + b"".join(parts) + FROZENSET
        if kind == 4:
            return EMPTY_DICT + MARK + b"".join(part + self.constant() for part in parts) + SETITEMS
        return self.state(depth)

    def any_method(self) -> str:
        return self.random.choice(METHODS if self.random.random() < 0.7 else self.words.methods)

    def named(self, pair: tuple[str, str]) -> bytes:
        module, qualified = self.spelled(pair[0]), pair[1]
        return name(module, qualified) if self.random.random() < 0.7 else stack_name(module, qualified)

    def spelled(self, module: str) -> str:
        """The names of Python 2 are translated in older protocols only."""
        return module if self.protocol == 2 else {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)

    def kept(self) -> bytes:
        """Something from the memo: the same object a second time."""
        return b"h" + bytes([self.random.choice(self.memo)]) if self.memo else self.constant()

    def keep(self) -> bytes:
        self.slots += 1
        if self.slots > 250:
            return b""
        self.memo.append(self.slots)
        return b"q" + bytes([self.slots])

    # callables

    def callable(self, sure: bool = False) -> bytes:
        """A name, a partial or an attribute: what could be called later."""
        if not sure and self.random.random() > self.boldness:
            return self.constant()
        kind = self.random.randrange(11)
        if kind < 2:
            return self.named(LOAD)
        if kind == 8:
            return self.named(self.random.choice(MARKED))
        if kind == 9:
            return self.named(self.random.choice(MENTIONED))
        if kind == 10:
            return call(
                name("types", "GenericAlias"),
                self.named(self.random.choice(MARKED + MENTIONED)),
                name("builtins", "int"),
            )
        if kind == 2:
            return self.named(self.random.choice(self.words.known))
        if kind == 3:
            made = self.random.choice(self.words.classes)
            return self.named((made.module, made.name))
        if kind == 4:
            owner = self.random.choice(self.words.classes)
            target = self.named((owner.module, owner.name)) if self.random.random() < 0.5 else self.instance(3)
            return call(name("builtins", "getattr"), target, text(self.any_method()))
        return self.partial()

    def partial(self) -> bytes:
        partial, load = self.named(("functools", "partial")), self.named(LOAD)
        kind = self.random.randrange(8)
        if kind == 0:
            return call(partial, load, blob(EVIL))
        if kind > 4:
            return call(partial, self.named(self.random.choice(MARKED)), *(self.constant() for _ in range(kind - 5)))
        function, arguments = load, items(blob(EVIL))
        if kind == 1:
            function = name("torch._tensor", "_rebuild_from_type_v2")
            arguments = items(load, name("torch.nn.parameter", "Parameter"), items(blob(EVIL)))
            first = call(
                partial, function, name("torch._utils", "_rebuild_tensor_v2"), name("torch", "Tensor"), EMPTY_TUPLE
            )
        elif kind == 2:
            pair = self.random.choice(self.words.functions)
            function, arguments = self.named(pair), items(*(self.value(3) for _ in range(self.random.randint(0, 2))))
            first = call(partial, function)
        else:
            first = call(partial, load, blob(HARMLESS))
        return (
            first
            + items(function, arguments, EMPTY_DICT, self.random.choice((NONE, EMPTY_DICT, self.state(3))))
            + BUILD
        )

    # objects

    def thing(self, depth: int) -> bytes:
        """A known object, perhaps with a state, or what a known function returns."""
        self.room -= 1
        choices: tuple[Callable[[], bytes], ...] = (
            lambda: self.armed(depth),
            lambda: self.armed(depth),
            lambda: self.instance(depth),
            lambda: self.instance(depth),
            lambda: self.called(depth),
            lambda: self.called(depth),
            self.tensor,
            lambda: self.persistent(depth),
        )
        made = self.random.choice(choices)() if depth < 5 and self.room > 0 else self.constant()
        return made + (self.keep() if self.random.random() < 0.3 else b"")

    CARRIERS = (
        ("argparse", "Namespace"),
        ("types", "SimpleNamespace"),
        ("collections", "OrderedDict"),
        ("torch.nn.modules.container", "Sequential"),
        ("torch.nn.modules.container", "ModuleDict"),
        ("ultralytics.utils", "IterableSimpleNamespace"),
        ("torch", "SymInt"),
    )

    def armed(self, depth: int) -> bytes:
        """An object with callables or objects under the names of methods."""
        made = Class(*self.random.choice(self.CARRIERS))
        return self.bare(made, depth) + self.state(depth, METHODS) + BUILD

    def instance(self, depth: int) -> bytes:
        made = self.random.choice(self.words.busy if self.random.random() < 0.7 else self.words.classes)
        body = self.bare(made, depth)
        return body + self.state(depth, made.words) + BUILD if self.random.random() < 0.8 else body

    def bare(self, made: Class, depth: int) -> bytes:
        """An object made by any of the opcodes and functions that make one."""
        cls = self.named((made.module, made.name))
        arguments = [
            self.value(depth + 2)
            for _ in range(self.random.choice((0, 0, 0, 0, 0, 0, 1, 2) if made.bare else (1, 1, 2, 3)))
        ]
        kind = self.random.randrange(16)
        if kind == 0:
            return cls + items(*arguments) + REDUCE
        if kind == 1:
            return MARK + cls + b"".join(arguments) + OBJ
        if kind == 2:
            return MARK + b"".join(arguments) + INST + f"{self.spelled(made.module)}\n{made.name}\n".encode()
        if kind == 3:
            return (
                cls
                + items(*arguments)
                + self.random.choice((EMPTY_DICT, self.state(depth + 2, made.words)))
                + NEWOBJ_EX
            )
        if kind == 4:
            base = self.random.choice(
                (("builtins", "object"), ("builtins", "dict"), ("builtins", "list"), (made.module, made.name))
            )
            return call(
                name("copyreg", "_reconstructor"),
                cls,
                self.named(base),
                NONE if base[1] == "object" else self.value(depth + 2),
            )
        if kind == 5:
            return call(name("copyreg", "__newobj__"), cls, *arguments)
        if kind == 6:
            return call(name("copyreg", "__newobj_ex__"), cls, items(*arguments), self.state(depth + 2, made.words))
        return cls + items(*arguments) + NEWOBJ

    def state(self, depth: int, words: Sequence[str] = ()) -> bytes:
        """A state: a dict, slots, both, another mapping, or nothing of the kind."""
        words = words or METHODS
        pairs = [self.key(words) + self.held(depth, words) for _ in range(self.random.randint(1, 3))]
        held = EMPTY_DICT + MARK + b"".join(pairs) + SETITEMS
        kind = self.random.randrange(12)
        if kind == 0:
            return items(NONE, held)
        if kind == 1:
            return items(EMPTY_DICT, held)
        if kind == 2:
            return call(ORDERED_DICT) + MARK + b"".join(pairs) + SETITEMS
        if kind == 3:
            return self.value(depth + 1)
        return held

    def key(self, words: Sequence[str]) -> bytes:
        word = text(self.random.choice(words or METHODS) if self.random.random() < 0.8 else self.any_method())
        return call(name("builtins", "str"), word) if self.random.random() < 0.03 else word

    def held(self, depth: int, words: Sequence[str]) -> bytes:
        """What stands under a key of a state."""
        kind = self.random.randrange(6)
        if kind < 2:
            return self.callable()
        if kind == 2 and depth < 4:
            made = Class(*self.random.choice(self.CARRIERS))
            return self.bare(made, depth + 1) + EMPTY_DICT + self.key(words) + self.callable() + SETITEM + BUILD
        if kind == 3 and depth < 4:
            return listed(self.thing(depth + 1))
        return self.value(depth + 1)

    def called(self, depth: int) -> bytes:
        """A known function or type, called with whatever there is."""
        pair = self.random.choice(self.words.known if self.random.random() < 0.5 else self.words.functions)
        words = self.words.signs.get(pair, ())
        arguments = [self.held(depth + 1, words or METHODS) for _ in range(self.random.randint(0, 4))]
        if pair[1].startswith("_rebuild_parameter"):
            arguments = [
                self.thing(depth + 1),
                TRUE,
                self.random.choice((NONE, call(ORDERED_DICT))),
                *([self.state(depth)] if "state" in pair[1] else []),
            ]
        elif pair[1].startswith("_rebuild_from_type"):
            function = self.random.choice(sorted(REBUILDERS))
            arguments = [
                self.named(function),
                name("torch.nn.parameter", "Parameter"),
                items(*arguments),
                self.state(depth),
            ]
        opcode = self.random.choice((REDUCE, REDUCE, REDUCE, NEWOBJ, OBJ))
        if opcode == OBJ:
            return MARK + self.named(pair) + b"".join(arguments) + OBJ
        return self.named(pair) + items(*arguments) + opcode

    def tensor(self) -> bytes:
        meta = call(
            name("torch._utils", "_rebuild_meta_tensor_no_storage"),
            name("torch", "float32"),
            shape_of(2),
            shape_of(1),
            FALSE,
        )
        if self.random.random() < 0.5:
            return meta
        return call(
            name("torch._utils", "_rebuild_parameter_with_state"), meta, TRUE, call(ORDERED_DICT), self.state(3)
        )

    def persistent(self, depth: int) -> bytes:
        if self.random.random() < 0.5:
            kind = self.named(("torch", "FloatStorage")) if self.random.random() < 0.8 else self.value(depth + 1)
            return items(text("storage"), kind, text("0"), text("cpu"), integer(4)) + BINPERSID
        made = self.random.choice(self.words.classes)
        target = self.named((made.module, made.name)) if self.random.random() < 0.8 else self.value(depth + 1)
        return items(text("module"), target, NONE, NONE) + BINPERSID

    # what is done to an object on top of the stack

    def acted(self, made: bytes) -> bytes:
        for _ in range(self.random.randint(0, 3)):
            made += self.random.choice(
                (
                    lambda: self.random.choice((blob(EVIL), self.value(2))) + APPEND,
                    lambda: MARK + self.value(2) + self.value(2) + APPENDS,
                    lambda: MARK + self.random.choice((blob(EVIL), self.value(2))) + ADDITEMS,
                    lambda: self.value(2) + self.value(2) + SETITEM,
                    lambda: MARK + self.key(METHODS) + self.held(2, METHODS) + SETITEMS,
                    lambda: self.random.choice((blob(EVIL), self.state(1), self.state(1))) + BUILD,
                    lambda: self.state(1) + BUILD,
                    lambda: DUP + self.state(1) + BUILD + POP,
                    lambda: self.keep() + POP + self.kept(),
                    lambda: b"\x85" + self.named(self.random.choice(self.words.known)) + b"0",
                )
            )()
        return made
