"""Parts that contradict each other are found and named; parts that agree are left in peace."""

from __future__ import annotations

from typing import Any

import pytest
from building import (
    Tensor,
    conv_layer,
    detector,
    detector_optimizer,
    module,
    optimizer_of,
    plain_checkpoint,
    ultralytics_checkpoint,
    weights,
)
from conftest import Verify

from ckpt_tools.findings import Finding, Verdict


def found(report: Any, slug: str) -> Finding:
    fact: Finding = next(fact for fact in report.findings if fact.slug == slug)
    return fact


def sequential(**layers: Any) -> dict[str, Any]:
    return {"model": module("torch.nn.modules.container.Sequential", layers), "optimizer": optimizer_of({})}


class TestAverage:
    def test_shapes_that_differ_are_named(self, verified: Verify) -> None:
        other = weights(**{"linear.weight": Tensor((3, 4))})
        report = verified(plain_checkpoint(ema=other))
        assert report.verdict is Verdict.INCOMPLETE
        assert "linear.weight" in found(report, "ema-misfit").message

    def test_modules_must_have_the_same_tensors(self, verified: Verify) -> None:
        report = verified(ultralytics_checkpoint(model=detector(), ema=detector(extra=Tensor((2,)))))
        assert "extra" in found(report, "ema-misfit").message

    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
    def test_prefixes_of_wrappers_are_no_difference(self, prefix: str, verified: Verify) -> None:
        wrapped = {prefix + name: tensor for name, tensor in weights().items()}
        assert verified(plain_checkpoint(ema=wrapped)).verdict is Verdict.RESUMABLE

    def test_a_teacher_of_another_kind_is_not_compared(self, verified: Verify) -> None:
        teacher = {f"other.{number}.weight": Tensor((5, 5)) for number in range(4)}
        assert verified(plain_checkpoint(teacher=teacher)).verdict is Verdict.RESUMABLE


class TestOptimizer:
    def test_state_of_another_shape_is_named(self, verified: Verify) -> None:
        optimizer = optimizer_of(weights())
        optimizer["state"][2]["momentum_buffer"] = Tensor((4, 2))
        report = verified(plain_checkpoint(optimizer_state_dict=optimizer))
        assert report.verdict is Verdict.INCOMPLETE
        assert "linear.weight" in found(report, "optimizer-shape").message

    def test_buffers_changed_about_are_noticed(self, verified: Verify) -> None:
        optimizer = optimizer_of(weights())
        state = optimizer["state"]
        state[0], state[2] = state[2], state[0]
        assert verified(plain_checkpoint(optimizer_state_dict=optimizer)).verdict is Verdict.INCOMPLETE

    def test_more_parameters_than_the_model_has(self, verified: Verify) -> None:
        optimizer = optimizer_of({**weights(), "one.more": Tensor((3,))})
        report = verified(plain_checkpoint(optimizer_state_dict=optimizer))
        assert "5 parameters, the model has 4" in found(report, "group-count").message

    @pytest.mark.parametrize("missing", [[0], [1, 3]])
    def test_parameters_without_state_are_normal(self, missing: list[int], verified: Verify) -> None:
        optimizer = optimizer_of(weights())
        for number in missing:
            del optimizer["state"][number]
        assert verified(plain_checkpoint(optimizer_state_dict=optimizer)).verdict is Verdict.RESUMABLE

    def test_two_groups_in_any_order_are_normal(self, verified: Verify) -> None:
        held = weights()
        mixed = {name: held[name] for name in ("linear.bias", "conv.weight", "conv.bias", "linear.weight")}
        report = verified(plain_checkpoint(optimizer_state_dict=optimizer_of(mixed, (1, 3))))
        assert report.verdict is Verdict.RESUMABLE

    def test_fewer_parameters_than_the_model_has_are_normal(self, verified: Verify) -> None:
        held = weights()
        head = {name: held[name] for name in ("linear.weight", "linear.bias")}
        assert verified(plain_checkpoint(optimizer_state_dict=optimizer_of(head))).verdict is Verdict.RESUMABLE

    @pytest.mark.parametrize("shape", [(3, 4, 1, 1), (12,), (4, 3)])
    def test_ultralytics_state_is_held_against_its_parameter(self, shape: tuple[int, ...], verified: Verify) -> None:
        optimizer = detector_optimizer()
        optimizer["state"][0]["momentum_buffer"] = Tensor(shape)
        report = verified(ultralytics_checkpoint(optimizer=optimizer), target="ultralytics==8.4.190")
        assert "model.0.conv.weight" in found(report, "optimizer-shape").message

    def test_ultralytics_group_of_another_size(self, verified: Verify) -> None:
        optimizer = detector_optimizer()
        optimizer["param_groups"][0]["params"].pop()
        report = verified(ultralytics_checkpoint(optimizer=optimizer), target="ultralytics==8.4.190")
        assert "1 + 1 + 2" in found(report, "group-sizes").message


class TestLayers:
    @pytest.mark.parametrize("attribute", ["in_channels", "out_channels"])
    def test_numbers_of_a_layer_must_be_those_of_its_weight(self, attribute: str, verified: Verify) -> None:
        report = verified(sequential(**{"0": conv_layer(3, 4, False, **{attribute: 9})}))
        told = found(report, "layer-misfit")
        assert attribute in told.message
        assert "9" in told.message

    def test_grouped_convolutions_are_fine(self, verified: Verify) -> None:
        layer = conv_layer(2, 8, in_channels=4, groups=2)
        assert "layer-misfit" not in {fact.slug for fact in verified(sequential(**{"0": layer})).findings}

    def test_layers_of_unknown_make_are_not_judged(self, verified: Verify) -> None:
        layer = module("mine.Conv2d", weight=Tensor((4, 3, 1, 1)), in_channels=9)
        assert "layer-misfit" not in {fact.slug for fact in verified(sequential(**{"0": layer})).findings}


class TestClasses:
    def test_number_of_classes_must_be_that_of_the_head(self, verified: Verify) -> None:
        report = verified(ultralytics_checkpoint(ema=detector(nc=5)))
        assert report.verdict is Verdict.INCOMPLETE
        assert "2 classes, nc says 5" in found(report, "class-count").message

    @pytest.mark.parametrize("names", [["a", "b", "c"], {0: "a"}])
    def test_names_that_do_not_fit_the_head_are_a_warning(self, names: Any, verified: Verify) -> None:
        """The trainer takes the names from the data set, so it resumes."""
        report = verified(ultralytics_checkpoint(ema=detector(names=names)))
        assert report.verdict is Verdict.RESUMABLE
        assert f"names lists {len(names)}" in found(report, "class-names").message

    @pytest.mark.parametrize("names", [["a", "b"], {0: "a", 1: "b"}, None])
    def test_names_as_list_or_mapping_are_fine(self, names: Any, verified: Verify) -> None:
        assert verified(ultralytics_checkpoint(ema=detector(names=names))).verdict is Verdict.RESUMABLE


class TestStructure:
    """Releases that build a model otherwise than the one that wrote the file can't take its optimizer."""

    def yolo11(self, **yaml: Any) -> Any:
        block = module("ultralytics.nn.modules.block.C3k2", {"cv1": conv_layer(4, 4)})
        sequence = module("torch.nn.modules.container.Sequential", {"0": block})
        return module("ultralytics.nn.tasks.DetectionModel", {"model": sequence}, {}, yaml={"nc": 2, **yaml})

    def slugs(self, verified: Verify, version: str, target: str, model: Any) -> set[str]:
        optimizer = optimizer_of({"0": Tensor((4, 4, 1, 1))}, [1, 0, 0])
        content = ultralytics_checkpoint(version, ema=model, optimizer=optimizer)
        report = verified(content, target=f"ultralytics=={target}")
        return {fact.slug for fact in report.findings if fact.verdict is not None}

    @pytest.mark.parametrize(("version", "target"), [("8.4.60", "8.4.190"), ("8.4.190", "8.4.60")])
    def test_a_yaml_without_scales_changed_with_8_4_132(self, version: str, target: str, verified: Verify) -> None:
        assert self.slugs(verified, version, target, self.yolo11(scale="")) == {"head-changed"}
        assert self.slugs(verified, version, target, self.yolo11(scale="n", scales={"n": [1, 1, 8]})) == set()

    def test_within_one_way_of_building_nothing_changed(self, verified: Verify) -> None:
        assert self.slugs(verified, "8.4.60", "8.4.130", self.yolo11(scale="")) == set()

    def test_old_heads_were_built_of_other_layers_for_a_while(self, verified: Verify) -> None:
        optimizer = {"optimizer": ultralytics_checkpoint()["optimizer"]}
        report = verified(ultralytics_checkpoint("8.3.10", **optimizer), target="ultralytics==8.3.250")
        assert {fact.slug for fact in report.findings if fact.verdict is not None} == {"head-changed"}
