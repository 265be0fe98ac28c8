"""Every known ailment is built, mended, and gone."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from building import (
    Called,
    Name,
    Tensor,
    detector,
    detector_optimizer,
    optimizer_of,
    plain_checkpoint,
    stripped_checkpoint,
    ultralytics_checkpoint,
    weights,
)
from conftest import Write
from mending import Mended, mend, planned, tensors

import ckpt_tools
from ckpt_tools.findings import Verdict
from ckpt_tools.plans.cures import CURES
from ckpt_tools.verbs.verify import verify

NEW = "ultralytics==8.4.190"
ARGS = {"task": "detect", "mode": "train", "data": "data.yaml", "epochs": 5, "optimizer": "SGD"}
OLD_ORDER = ("bias", "weight", "norm")
ADAM_GROUPS = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}


def bad_detector(value: float = math.nan) -> Any:
    made = detector()
    head = made.state["_modules"]["model"].state["_modules"]["1"].state["_modules"]["cv3"]
    conv = head.state["_modules"]["0"].state["_modules"]["0"]
    conv.state["_parameters"]["bias"] = Tensor((2,), [1.0, value], parameter=True)
    return made


def adam(second: float = 1.0, **settings: Any) -> dict[str, Any]:
    """AdamW over the plain weights, its moments in half precision."""
    model = weights()
    groups = [{**ADAM_GROUPS, **settings, "params": list(range(len(model)))}]
    state = {
        number: {
            "step": Tensor((), 3.0),
            "exp_avg": Tensor(held.shape, 0.5, "float16"),
            "exp_avg_sq": Tensor(held.shape, second if number == 1 else 1.0, "float16"),
        }
        for number, held in enumerate(model.values())
    }
    return {"state": state, "param_groups": groups}


def with_group_options(optimizer: dict[str, Any], **options: Any) -> dict[str, Any]:
    for group in optimizer["param_groups"]:
        group.update(options)
    return optimizer


def misshapen() -> dict[str, Any]:
    made = optimizer_of(weights())
    made["state"][1]["momentum_buffer"] = Tensor((7,), 0.125)
    return made


def misgrouped() -> dict[str, Any]:
    made = detector_optimizer()
    made["param_groups"][0]["params"] = [0]
    made["param_groups"][1]["params"] = [1, 2]
    return made


RESULTS = {"epoch": [1, 2], "metrics/mAP50(B)": [0.25, 0.5], "metrics/mAP50-95(B)": [0.5, 0.25]}

# cure: (what the file holds, what is asked for, what must be true afterwards)
Check = Callable[[Mended], object]
AILMENTS: dict[str, tuple[Any, dict[str, Any], Check]] = {
    "saved-method": (
        Called("builtins", "getattr", (detector(), "state_dict")),
        {},
        lambda m: m.report.verdict is Verdict.WEIGHTS and len(tensors(m.path)) == len(tensors(Path(m.plan.file))),
    ),
    "stripped": (
        stripped_checkpoint(),
        {"cures": ("stripped",), "settings": {"epochs": 9}},
        lambda m: m.value("epoch") == 1 and m.value("model") is None and m.report.epochs == 9,
    ),
    "missing-role": (
        ultralytics_checkpoint(epoch=..., train_results=RESULTS),
        {},
        lambda m: m.value("epoch") == 1 and m.plan.resumes_at == 2,
    ),
    "epoch-mark": (
        ultralytics_checkpoint(epoch=-1),
        {"epoch": 3},
        lambda m: m.value("epoch") == 3 and m.plan.resumes_at == 4,
    ),
    "non-finite": (
        ultralytics_checkpoint(ema=bad_detector(), model=detector()),
        {},
        lambda m: m.tensors()["ema.model.1.cv3.0.0.bias"] == m.tensors()["model.model.1.cv3.0.0.bias"] == [0.2, 0.2]
        or pytest.approx(0.2) == m.tensors()["ema.model.1.cv3.0.0.bias"][1],
    ),
    "no-optimizer": (
        ultralytics_checkpoint(optimizer=None),
        {},
        lambda m: m.part("optimizer").outcome == "reinitialised" and m.value("optimizer.state") == {},
    ),
    "group-order": (
        ultralytics_checkpoint("8.3.250", optimizer=detector_optimizer(OLD_ORDER)),
        {"target": NEW},
        lambda m: [len(group["params"]) for group in m.value("optimizer.param_groups")] == [2, 1, 2],
    ),
    "args-refused": (
        ultralytics_checkpoint(train_args={**ARGS, "line_thickness": 3, "v5loader": False}),
        {"target": NEW},
        lambda m: "v5loader" not in m.args() and m.args()["line_thickness"] == 3,  # the trainer renames that itself
    ),
    "optimizer-misfit": (
        ultralytics_checkpoint(train_args={**ARGS, "optimizer": "AdamW"}),
        {},
        lambda m: m.args()["optimizer"] == "SGD",
    ),
    "optimizer-shape": (
        ultralytics_checkpoint(optimizer=detector_optimizer(OLD_ORDER)),
        {},
        lambda m: m.value("optimizer.state") == {},
    ),
    "group-sizes": (
        ultralytics_checkpoint(optimizer=misgrouped()),
        {},
        lambda m: [len(group["params"]) for group in m.value("optimizer.param_groups")] == [2, 1, 2],
    ),
    "no-initial-lr": (
        ultralytics_checkpoint(optimizer=detector_optimizer(), train_args={**ARGS, "lr0": 0.02, "warmup_epochs": 3.0}),
        {},
        lambda m: [group["initial_lr"] for group in m.value("optimizer.param_groups")] == [0.02] * 3,
    ),
    "no-ema-counter": (
        ultralytics_checkpoint(updates=None),
        {},
        lambda m: m.value("updates") == 2000 and "estimate" in m.text,
    ),
    "optimizer-auto": (
        ultralytics_checkpoint(
            "8.3.250",  # where auto chose SGD or AdamW
            optimizer=with_group_options(detector_optimizer(OLD_ORDER), initial_lr=0.03),
            train_args={**ARGS, "optimizer": "auto"},
        ),
        {"cures": ("optimizer-auto",), "target": "ultralytics==8.3.250"},
        lambda m: (m.args()["optimizer"], m.args()["lr0"]) == ("SGD", 0.03),
    ),
    "underflowed-moments": (
        plain_checkpoint(optimizer_state_dict=adam(second=0.0)),
        {"cures": ("underflowed-moments",)},
        lambda m: list(m.value("optimizer_state_dict.state")) == [0, 2, 3] and "underflowed-moments" not in m.slugs,
    ),
    "scaler-empty": (
        ultralytics_checkpoint(),
        {"cures": ("scaler-empty",)},
        lambda m: m.value("scaler") is None and "scaler-empty" not in m.slugs,
    ),
    "stopper": (
        ultralytics_checkpoint(train_results=RESULTS, best_fitness=0.5),
        {"cures": ("stopper",)},
        lambda m: m.value("stopper") == {"best_fitness": 0.5, "best_epoch": 1},
    ),
    "saves-elsewhere": (
        ultralytics_checkpoint(train_args={**ARGS, "save_dir": "/home/other/runs/train"}),
        {"cures": ("saves-elsewhere",)},
        lambda m: m.args()["save_dir"] == str(m.path.parent) and "saves-elsewhere" not in m.slugs,
    ),
    "path-objects": (
        plain_checkpoint(
            where=Called("pathlib", "PosixPath", ("/", "data", "a b")), rel=Called("pathlib", "Path", ("a",))
        ),
        {"cures": ("path-objects",)},
        lambda m: (m.value("where"), m.value("rel")) == ("/data/a b", "a") and "path-objects" not in m.slugs,
    ),
    "numpy2-names": (
        plain_checkpoint(x=Name("numpy._core.multiarray", "scalar")),
        {"cures": ("numpy2-names",)},
        lambda m: m.value("x").path == "numpy.core.multiarray.scalar" and "numpy2-names" not in m.slugs,
    ),
    "name-prefix": (
        OrderedDict((f"_orig_mod.module.{name}", held) for name, held in weights().items()),
        {"cures": ("name-prefix",)},
        lambda m: list(m.tensors()) == list(weights()) and "name-prefix" not in m.slugs,
    ),
    "contiguous": (
        plain_checkpoint(
            model_state_dict=weights(**{"linear.weight": Tensor((2, 4), [float(n) for n in range(8)], stride=(1, 2))})
        ),
        {"cures": ("contiguous",)},
        lambda m: m.tensors()["model_state_dict.linear.weight"] == [[0, 2, 4, 6], [1, 3, 5, 7]]
        and stride_of(m.path, "model_state_dict.linear.weight") == (4, 1),
    ),
}  # fmt: skip


def stride_of(path: Path, name: str) -> tuple[int, ...]:
    with ckpt_tools.open(path) as opened:
        return opened[name].ref.stride


def test_every_cure_is_tried() -> None:
    assert set(AILMENTS) == set(CURES)


@pytest.mark.parametrize("name", AILMENTS)
def test_ailment_is_gone_after_its_cure(name: str, write: Write) -> None:
    content, asked, cured = AILMENTS[name]
    path = write(content)
    before = verify(path, target=asked.get("target"), siblings=False)
    mended = mend(path, **asked)
    assert cured(mended), mended.text
    assert mended.report.verdict in (Verdict.RESUMABLE, Verdict.WEIGHTS)
    assert mended.ledger()["steps"]
    assert before.verdict in (Verdict.RESUMABLE, Verdict.WEIGHTS, Verdict.FINISHED, Verdict.INCOMPLETE)
    if CURES[name].on_request:
        assert before.verdict is mended.report.verdict
    else:
        assert before.verdict is not mended.report.verdict


@pytest.mark.parametrize("name", AILMENTS)
def test_what_a_cure_does_not_touch_stays_bit_for_bit(name: str, write: Write) -> None:
    content, asked, _ = AILMENTS[name]
    path = write(content)
    own, new = tensors(path), mend(path, **asked).tensors()
    if name in ("stripped", "name-prefix"):
        assert list(own.values()) == list(new.values())[: len(own)]
        return
    moved = ("optimizer.", "optimizer_state_dict.") if name in (
        "group-order", "optimizer-shape", "group-sizes", "underflowed-moments",
    ) else ("ema.",) if name == "non-finite" else ()  # fmt: skip
    assert {key: value for key, value in new.items() if not key.startswith(moved or ("-",))} == {
        key: value for key, value in own.items() if not key.startswith(moved or ("-",))
    }


@pytest.mark.parametrize("name", [name for name, cure in CURES.items() if cure.on_request])
def test_cure_on_request_is_not_done_unasked(name: str, write: Write) -> None:
    content, asked, _ = AILMENTS[name]
    plan = planned(write(content), **{key: value for key, value in asked.items() if key != "cures"})
    assert plan.steps == []
    assert plan.refused is None


@pytest.mark.parametrize("name", CURES)
def test_cure_of_an_ailment_the_file_does_not_have_changes_nothing(name: str, write: Write) -> None:
    args = {**ARGS, "save_dir": str(write(b"", "none").parent)}
    healthy = ultralytics_checkpoint(
        scaler=None, stopper={}, optimizer=with_group_options(detector_optimizer(), initial_lr=0.01), train_args=args
    )
    plan = planned(write(healthy), cures=(name,), target=NEW)
    assert [step.text for step in plan.steps] == [], plan.refused


# --- ailments with more than one way out ----------------------------------------------------------


def test_states_follow_their_parameters_into_another_order(write: Write) -> None:
    optimizer = detector_optimizer(OLD_ORDER)
    for number, state in optimizer["state"].items():
        shape = state["momentum_buffer"].shape
        state["momentum_buffer"] = Tensor(shape, float(number))
    mended = mend(write(ultralytics_checkpoint("8.3.250", optimizer=optimizer)), target=NEW)
    state = mended.value("optimizer.state")
    firsts = [mended.tensors()[f"optimizer.state.{key}.momentum_buffer"] for key in state]
    while isinstance(firsts[0], list):
        firsts = [first[0] if isinstance(first, list) else first for first in firsts]
    flat = [first if isinstance(first, float) else first[0] for first in firsts]
    assert flat == [2.0, 3.0, 4.0, 0.0, 1.0]  # weights, norms, biases: they were numbers 2 and 3, 4, 0 and 1
    assert mended.value("version") == "8.4.190"
    assert not mended.plan.needs_consent


def test_order_goes_back_to_that_of_an_older_release(write: Write) -> None:
    mended = mend(write(ultralytics_checkpoint()), target="ultralytics==8.3.250", cures=("group-order",))
    assert [len(group["params"]) for group in mended.value("optimizer.param_groups")] == [2, 2, 1]


def test_arguments_that_are_dropped_are_named_and_lose_nothing_unasked(write: Write) -> None:
    mended = mend(write(AILMENTS["args-refused"][0]), target=NEW)
    assert "v5loader" in mended.text
    assert not mended.plan.needs_consent  # the target was named
    assert "v5loader" in str(mended.ledger()["steps"])


def test_nan_in_the_optimizer_starts_that_state_afresh(write: Write) -> None:
    optimizer = optimizer_of(weights())
    optimizer["state"][3]["momentum_buffer"] = Tensor((2,), [1.0, math.inf])
    mended = mend(write(plain_checkpoint(optimizer_state_dict=optimizer)))
    assert list(mended.value("optimizer_state_dict.state")) == [0, 1, 2]
    assert mended.plan.needs_consent


def test_nan_without_a_twin_comes_from_a_finite_sibling(write: Write) -> None:
    path = write(ultralytics_checkpoint(ema=bad_detector(), epoch=2))
    write(ultralytics_checkpoint(epoch=1), "epoch1.pt")
    mended = mend(path)
    assert mended.plan.resumes_at == 2
    assert mended.plan.needs_consent
    assert "epoch1.pt" in mended.text


def test_nan_without_a_twin_and_without_a_sibling_can_not_be_mended(write: Write) -> None:
    path = write(ultralytics_checkpoint(ema=bad_detector()))
    write(ultralytics_checkpoint(epoch=0, ema=bad_detector()), "epoch0.pt")
    plan = planned(path)
    assert plan.refused is not None
    assert "NaN" in plan.refused


def test_nan_in_a_plain_loop_can_not_be_mended_by_half(write: Write) -> None:
    plan = planned(write(plain_checkpoint(model_state_dict=weights(**{"linear.bias": Tensor((2,), math.nan)}))))
    assert plan.refused is not None
    assert "linear.bias" in plan.refused


def test_fresh_optimizer_is_the_one_the_arguments_name(write: Write) -> None:
    args = {**ARGS, "optimizer": "AdamW", "lr0": 0.004, "momentum": 0.8}
    mended = mend(write(ultralytics_checkpoint(optimizer=None, train_args=args)))
    groups = mended.value("optimizer.param_groups")
    assert [len(group["params"]) for group in groups] == [2, 1, 2]
    assert [(group["lr"], group["betas"]) for group in groups] == [(0.004, (0.8, 0.999))] * 3
    assert mended.plan.needs_consent


def test_what_auto_chose_is_not_guessed(write: Write) -> None:
    path = write(ultralytics_checkpoint(optimizer=None, train_args={**ARGS, "optimizer": "auto"}))
    plan = planned(path)
    assert plan.refused is not None
    assert "--set optimizer=" in plan.refused
    assert mend(path, settings={"optimizer": "AdamW"}).args()["optimizer"] == "AdamW"


def test_what_auto_chose_is_seen_in_a_sibling(write: Write) -> None:
    auto = {**ARGS, "optimizer": "auto"}
    path = write(ultralytics_checkpoint(optimizer=None, train_args=auto))
    optimizer = with_group_options(detector_optimizer(), initial_lr=0.05)
    write(ultralytics_checkpoint(epoch=0, optimizer=optimizer, train_args=auto), "epoch0.pt")
    mended = mend(path, reinit=["optimizer"])
    assert mended.args()["optimizer"] == "SGD"
    assert mended.value("optimizer.state") == {}


def test_counter_of_the_average_comes_from_a_sibling_in_proportion(write: Write) -> None:
    path = write(ultralytics_checkpoint(updates=None, epoch=3))
    write(ultralytics_checkpoint(updates=100, epoch=1), "epoch1.pt")
    assert mend(path).value("updates") == 200


def test_lost_groups_of_a_loop_of_ones_own_are_not_made_up(write: Write) -> None:
    plan = planned(write(plain_checkpoint(optimizer_state_dict=None)))
    assert plan.refused is not None
    assert "--optimizer-from" in plan.refused


def test_epoch_comes_from_the_results_beside_the_file(write: Write) -> None:
    path = write(ultralytics_checkpoint(epoch=..., train_results=None), "run/weights/last.pt")
    write(b"epoch, time, loss\n1, 2.0, 3.0\n2, 4.0, 2.0\n3, 6.0, 1.0\n", "run/results.csv")
    assert mend(path).value("epoch") == 2
    old = write(b"epoch,loss\n0,3.0\n1,2.0\n", "old.csv")  # releases that counted from 0
    assert mend(path, results=old).value("epoch") == 1


def test_arguments_come_from_the_yaml_of_the_run(write: Write) -> None:
    path = write(ultralytics_checkpoint(train_args=...), "run/weights/last.pt")
    assert planned(path).refused is not None
    write(b"task: detect\nmode: train\ndata: mine.yaml\nepochs: 7\noptimizer: SGD\n", "run/args.yaml")
    mended = mend(path)
    assert mended.report.epochs == 7
    assert mended.plan.needs_consent


def test_a_finished_run_is_extended(write: Write) -> None:
    path = write(stripped_checkpoint(train_results={"epoch": [1, 2, 3, 4, 5]}, train_metrics={}))
    write(ultralytics_checkpoint(epoch=3), "epoch3.pt")
    mended = mend(path, optimizer_from=path.with_name("epoch3.pt"), settings={"epochs": 55})
    assert (mended.plan.resumes_at, mended.report.epochs) == (5, 55)
    assert "schedule" in mended.text
    assert not mended.plan.needs_consent


def test_a_stripped_file_other_than_last_tells_its_epoch_by_its_metrics(write: Write) -> None:
    results = {"epoch": [1, 2, 3], "metrics/mAP50(B)": [0.1, 0.7, 0.5]}
    path = write(stripped_checkpoint(train_results=results, train_metrics={"metrics/mAP50(B)": 0.7}), "best.pt")
    write(ultralytics_checkpoint(epoch=0), "epoch0.pt")
    mended = mend(path, optimizer_from=path.with_name("epoch0.pt"))
    assert mended.plan.resumes_at == 2


def test_how_far_a_stripped_file_got_is_not_guessed(write: Write) -> None:
    path = write(stripped_checkpoint(train_results={"epoch": [1, 2, 3]}, train_metrics={}), "best.pt")
    donor = write(ultralytics_checkpoint(epoch=0), "epoch0.pt")
    plan = planned(path, optimizer_from=donor)
    assert plan.refused is not None
    assert "--epoch" in plan.refused
    assert mend(path, optimizer_from=donor, epoch=2).plan.resumes_at == 3
