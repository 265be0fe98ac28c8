"""What is missing for a resume, how far a run got, and what a resume would do about it."""

from __future__ import annotations

from typing import Any

import pytest
from building import (
    Tensor,
    detector,
    detector_optimizer,
    optimizer_of,
    plain_checkpoint,
    stripped_checkpoint,
    ultralytics_checkpoint,
    weights,
)
from conftest import Verify

from ckpt_tools.findings import Verdict

TARGET = "ultralytics==8.4.190"


def messages(report: Any) -> dict[str, str]:
    return {fact.slug: fact.message for fact in report.findings}


@pytest.mark.parametrize(
    ("optimizer", "how"), [(None, "is None"), (..., "is absent"), ({}, "is empty"), ({"param_groups": []}, "is empty")]
)
@pytest.mark.parametrize(
    ("make", "key"), [(ultralytics_checkpoint, "optimizer"), (plain_checkpoint, "optimizer_state_dict")]
)
def test_how_the_optimizer_is_missing_is_told(optimizer: Any, how: str, make: Any, key: str, verified: Verify) -> None:
    if make is plain_checkpoint and optimizer in (..., {"param_groups": []}):
        pytest.skip("in a loop of one's own that is no sign of an optimizer")
    report = verified(make(**{key: optimizer}))
    assert report.verdict is Verdict.INCOMPLETE
    assert f"key {key} {how}" in messages(report)["no-optimizer"]


@pytest.mark.parametrize(
    ("target", "warned"),
    [("ultralytics==8.4.190", True), ("ultralytics==8.4.29", True), ("ultralytics==8.4.28", False)],
)
def test_resume_true_that_starts_a_new_run_is_never_unsaid(target: str, warned: bool, verified: Verify) -> None:
    for content in (stripped_checkpoint(), ultralytics_checkpoint(optimizer=None)):
        assert ("resume-trap" in messages(verified(content, target=target))) is warned


@pytest.mark.parametrize(
    ("results", "told"),
    [
        ({"epoch": [1, 2, 3, 4, 5]}, "trained 5 of 5 epochs"),
        ({"epoch": [1, 2, 3]}, "trained 3 of 5 epochs (stopped early)"),
        (None, "5 epochs were planned"),
    ],
)
def test_stripped_file_tells_how_long_it_was_trained(results: Any, told: str, verified: Verify) -> None:
    report = verified(stripped_checkpoint(train_results=results))
    assert report.verdict is Verdict.FINISHED
    assert messages(report)["stripped"].endswith(told)


@pytest.mark.parametrize(
    ("epoch", "epochs", "done"), [(4, 5, True), (3, 5, False), (0, 1, True), (7, 5, True), (0, 5, False)]
)
def test_a_run_is_over_when_its_last_epoch_is_done(epoch: int, epochs: int, done: bool, verified: Verify) -> None:
    args = {"epochs": epochs, "optimizer": "SGD"}
    report = verified(ultralytics_checkpoint(epoch=epoch, train_args=args), target=TARGET)
    assert report.verdict is (Verdict.FINISHED if done else Verdict.RESUMABLE)
    assert ("not-stripped" in messages(report)) is done


def test_optimizer_auto_is_a_warning_that_names_the_kind(verified: Verify) -> None:
    args = {"epochs": 5, "optimizer": "auto"}
    report = verified(ultralytics_checkpoint(train_args=args, version="8.3.200"), target="ultralytics==8.3.200")
    assert "SGD" in messages(report)["optimizer-auto"]


def test_auto_that_can_not_choose_the_saved_optimizer_again_is_incomplete(verified: Verify) -> None:
    """8.4.190 chooses between AdamW and MuSGD; the state of SGD fails at the first step."""
    report = verified(ultralytics_checkpoint(train_args={"epochs": 5, "optimizer": "auto"}), target=TARGET)
    assert report.verdict is Verdict.INCOMPLETE
    assert "SGD" in messages(report)["optimizer-misfit"]


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({}, "live weights"),
        ({}, "random state"),
        ({"scaler": ...}, "gradient scaler"),
        ({}, "early-stopping patience"),
    ],
)
def test_what_even_a_good_resume_loses_is_listed(changes: dict[str, Any], lost: str, verified: Verify) -> None:
    assert lost in messages(verified(ultralytics_checkpoint(**changes)))["lost-on-resume"]


def test_live_weights_are_not_lost_where_the_file_has_them(verified: Verify) -> None:
    report = verified(ultralytics_checkpoint(model=detector()))
    assert "live weights" not in messages(report)["lost-on-resume"]


def test_empty_state_is_a_warning_only_where_there_should_be_one(verified: Verify) -> None:
    empty = detector_optimizer(state={})
    assert "empty-optimizer" in messages(verified(ultralytics_checkpoint(optimizer=empty)))
    for group in empty["param_groups"]:
        group["momentum"] = 0
    assert "empty-optimizer" not in messages(verified(ultralytics_checkpoint(optimizer=empty)))


@pytest.mark.parametrize("key", ["scheduler", "scaler", "rng_state"])
def test_a_part_without_its_optimizer_is_incomplete(key: str, verified: Verify) -> None:
    part = {**plain_checkpoint(), "rng_state": Tensor((5056,), 0, "uint8")}[key]
    report = verified({"model": weights(), key: part, "epoch": 3})
    assert report.verdict is Verdict.INCOMPLETE
    assert "part-without-optimizer" in messages(report)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (optimizer_of(weights()), "an optimizer"),
        ({"optimizer": optimizer_of(weights()), "epoch": 1}, "an optimizer"),
        ({"torch": Tensor((5056,), 0, "uint8"), "python": (3, (1, 2), None)}, "a random state"),
    ],
)
def test_a_file_without_weights_says_what_it_is(content: Any, what: str, verified: Verify) -> None:
    report = verified(content)
    assert report.verdict is Verdict.INCOMPLETE
    assert what in messages(report)["no-weights"]


def test_weights_by_design_get_one_note_and_no_complaint(verified: Verify) -> None:
    report = verified(weights())
    assert report.verdict is Verdict.WEIGHTS
    assert list(messages(report)) == ["weights-only"]


def test_damaged_file_is_not_judged_on_its_training_state(verified: Verify) -> None:
    report = verified({"model": {"w": Tensor((2,), numel=9), "b": Tensor((3,))}, "optimizer": None})
    assert report.verdict is Verdict.DAMAGED
    assert "no-optimizer" not in messages(report)
