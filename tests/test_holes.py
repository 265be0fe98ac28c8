"""Holes the real unpickler found in the policy, each as the smallest pickle that shows it: all of them are unsafe now.

``tests/oracle/unpickling.py`` writes pickles at random and shrinks those that make something happen; what it finds is
written down here by what made it run, and needs no torch to be judged.
"""

from __future__ import annotations

import pytest
from building import (
    APPEND,
    BUILD,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    MARK,
    NEWOBJ,
    NONE,
    POP,
    SETITEM,
    blob,
    call,
    integer,
    items,
    legacy,
    mapping,
    name,
    pickled,
    text,
)

from ckpt_tools.pickles import run
from ckpt_tools.policy import Tier, judge_pickle

LOAD = name("torch.storage", "_load_from_bytes")
ARGUMENTS = name("transformers.training_args", "TrainingArguments")
MODEL = name("ultralytics.nn.tasks", "DetectionModel")
KEPT = call(name("functools", "partial"), MODEL, mapping(activation=text("__import__('os').abort()")))
BYTES = blob(legacy(call(name("os", "system"), text("exit 0")), keys=EMPTY_LIST, storages=b""))
ALIAS = call(name("types", "GenericAlias"), ARGUMENTS, name("builtins", "int"))


def made(module: str, qualified: str, **state: bytes) -> bytes:
    return name(module, qualified) + EMPTY_TUPLE + NEWOBJ + mapping(**state) + BUILD


SUMMARY = "lightning.pytorch.utilities.model_summary"
BACKBONE = ("transformers.modeling_outputs", "BackboneOutput")
GENERATION = ("transformers.generation.configuration_utils", "GenerationConfig")
FLEISS = ("torchmetrics", "FleissKappa")
HOLES = {
    "state asks for a method of its own, optimizer": made("torch.optim.sgd", "SGD", _patch_step_function=LOAD),
    "the same by another door": made("lightning.fabric.fabric", "Optimizer", defaults=NONE, _patch_step_function=KEPT),
    "state asks for a method of its own, metric": made("torchmetrics.retrieval", "RetrievalRecall", _wrap_update=KEPT),
    "the same with an alias": made("torchmetrics.text._deprecated", "_CharErrorRate", _wrap_update=ALIAS),
    "finalizer of a summary": made(SUMMARY, "LayerSummary", detach_hook=ARGUMENTS),
    "finalizer of a loader": made(
        "lightning.pytorch.utilities.combined_loader", "_MultiProcessingDataLoaderIter", _shutdown_workers=KEPT
    ),
    "finalizer of a profiler": made("lightning.pytorch.trainer.setup", "AdvancedProfiler", teardown=KEPT, _stage=FALSE),
    "hash of a configuration": EMPTY_DICT + made(*GENERATION, to_json_string=KEPT) + NONE + SETITEM,
    "hash of a metric": EMPTY_DICT + made(*FLEISS, _defaults=name("torch.nn.functional", "selu")) + NONE + SETITEM,
    "numpy asks an output of a model": name("numpy", "dtype")
    + items(made(*BACKBONE, _replace_old_cache_name=KEPT))
    + NEWOBJ,
    "hash of what was never made": EMPTY_DICT
    + name("torch.distributed.tensor.placement_types", "Partial") + EMPTY_TUPLE + NEWOBJ + NONE + SETITEM,
    "made by a function, state asks for a method": call(
        name("copyreg", "_reconstructor"), name("torch.optim", "AdamW"), name("builtins", "object"), NONE
    )
    + mapping(_patch_step_function=ARGUMENTS) + BUILD,
    "an enumeration shows what it does not know": call(
        name("http", "HTTPStatus"), name("accelerate.optimizer", "AcceleratorState") + EMPTY_TUPLE + NEWOBJ
    ),
    "an object is the state of another": name("torch.nn.intrinsic.quantized.modules.conv_relu", "ConvReLU1d")
    + EMPTY_TUPLE + NEWOBJ + name("torchmetrics.classification.eer", "MulticlassROC") + EMPTY_TUPLE + NEWOBJ + BUILD,
    "a script that was never made": made("lightning.pytorch.core.module", "ScriptModule", dtype=text("latin1")),
    "state imports a package": made("transformers.models.xlm.tokenization_xlm", "XLMTokenizer", vocab=NONE),
    "constructor by its base": call(
        name("copyreg", "_reconstructor"),
        name("torchmetrics.retrieval.r_precision", "RetrievalRPrecision"),
        name("torchmetrics.retrieval.r_precision", "RetrievalRPrecision"),
        text("latin1"),
    ),
    "encoding of the file's choice": call(name("builtins", "str"), blob(b"x"), text("bz2")),
    "called again and again": call(name("builtins", "list"), call(name("builtins", "iter"), MODEL, integer(0))),
    "a loader kept as a value": mapping(hook=LOAD),
    "number in base 16": b"I0x10\n" + POP + call(name("os", "system"), text("exit 0")),
    "number that ends at NUL": b"F1.0\0x\n" + POP + call(name("os", "system"), text("exit 0")),
    "list as a key of an array": call(
        name("numpy._core.multiarray", "_reconstruct"), name("numpy", "ndarray"), items(integer(0)), blob(b"b")
    )
    + EMPTY_LIST + integer(0) + SETITEM + POP + call(name("os", "system"), text("exit 0")),
    "callable under append": made("argparse", "Namespace", append=LOAD) + BYTES + APPEND,
    "callable found by __getattr__": made("torch.nn.modules.linear", "Linear", _modules=mapping(append=LOAD))
    + BYTES + APPEND,
    "iterated layer": call(
        name("collections", "deque"),
        made("torch.nn.modules.container", "Sequential", _modules=made("argparse", "Namespace", values=KEPT)),
    ),
    "symbolic key": MARK
    + made("torch", "SymInt", node=made("argparse", "Namespace", is_nested_int=KEPT)) + b"\x91",
}  # fmt: skip


@pytest.mark.parametrize("hole", HOLES)
def test_hole_is_closed(hole: str) -> None:
    judgements, _ = judge_pickle(run(pickled(HOLES[hole], 2)))
    assert Tier.DANGEROUS in {found.tier for found in judgements}
