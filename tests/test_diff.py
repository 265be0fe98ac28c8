"""``ckpt diff``: what differs, what it means, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from building import Tensor, detector, plain_checkpoint, stripped_checkpoint, ultralytics_checkpoint, weights
from conftest import FIXTURES, Run, Write
from hypothesis import given
from hypothesis import strategies as st

from ckpt_tools.differences.model import Meaning
from ckpt_tools.findings import CkptError, plain_json
from ckpt_tools.verbs.diff import Comparison, diff

REAL = FIXTURES / "ultralytics-8.4-interrupted-adamw.pt"  # AdamW, 2 of 5 epochs done, batch 4, nbs 4, one class
NEWEST = "ultralytics==8.4.190"
YOLOV5 = FIXTURES / "yolov5-7.0-interrupted.pt"
LOOP = FIXTURES / "plain-loop.pt"


def meanings(found: Comparison) -> dict[str, str]:
    """Each key with what became of it."""
    return {difference.key: str(difference.meaning) for difference in found.differences}


def against(path: Path, target: str | None = NEWEST, **settings: Any) -> Comparison:
    return diff(path, settings, target=target)


def why(path: Path, target: str | None = NEWEST, **settings: Any) -> str:
    """The reason given for the one difference there is."""
    (difference,) = against(path, target, **settings).differences
    return difference.why


class TestResumeOfUltralytics:
    @pytest.mark.parametrize(
        ("setting", "value", "meaning", "words"),
        [
            ("lr0", 0.001, "ignored", "saved value wins"),
            ("epochs", 50, "ignored", "2 of them done"),
            ("epochs", 1, "ignored", "fewer than are done"),
            ("optimizer", "SGD", "ignored", "AdamW's"),
            ("batch", 2, "honoured", "2 batches make one step instead of 1"),
            ("batch", -1, "honoured", "measures"),
            ("imgsz", 70, "honoured", "as 96"),
            ("imgsz", "big", "invalid", "whole number of pixels"),
            ("batch", 2.5, "invalid", "share of the memory"),
            ("batch", 2.0, "invalid", "share of the memory"),
            ("batch", 0.7, "honoured", "measures"),
            ("train.lr0", 0.5, "unknown", "did you mean"),
            ("__lr0", 0.01, "unknown", "did you mean lr0?"),
            ("end2end", 1, "invalid", "true or false"),
            ("half", False, "harmless", "saved value"),
            ("hide_labels", False, "harmless", "saved value"),
            ("keras", True, "harmless", "gone since"),
            ("epochs", date(2024, 1, 1), "invalid", "whole number"),
            ("time", 0, "harmless", "no limit"),
            ("time", -1, "schedule", "next epoch"),
            ("augmentations", 1, "invalid", "a list"),
            ("device", "banana", "invalid", "0,1 or cpu"),
            ("half", True, "ignored", "quantize since 8.4.80"),
            ("time", 2.0, "schedule", "hours"),
            ("patience", 7, "honoured", "takes the new value"),
            ("close_mosaic", 3, "honoured", "after epoch 2 of 5"),
            ("freeze", 3, "honoured", ""),
            ("freeze", 99, "breaks", "nothing would be left to train"),
            ("distill_model", "teacher.pt", "breaks", "teacher"),
            ("workers", 4, "harmless", "on cpu"),
            ("device", 0, "honoured", ""),
            ("name", "other", "ignored", "save_dir"),
            ("task", "segment", "ignored", "detect"),
            ("show", True, "harmless", "does not read it"),
            ("mode", "val", "harmless", "command"),
            ("pretrained", False, "harmless", "checkpoint"),
            ("lr_0", 0.1, "unknown", "did you mean lr0?"),
            ("learning_rate", 0.1, "unknown", "did you mean lr0?"),
            ("batch_size", 8, "unknown", "did you mean batch?"),
            ("mosiac", 0.5, "unknown", "did you mean mosaic?"),
            ("image_weights", True, "unknown", "8.0.89 dropped it"),
            ("label_smoothing", 0.1, "ignored", "gone since 8.3.38"),
            ("cos_lr", "yes", "invalid", "true or false"),
            ("epochs", "many", "invalid", "whole number"),
            ("lr0", 1.5, "invalid", "from 0 to 1"),
            ("lr0", "1e-3", "invalid", "write 1.0e-03"),
            ("lr0", None, "invalid", ""),
        ],
    )
    def test_a_new_value(self, setting: str, value: Any, meaning: str, words: str) -> None:
        (difference,) = against(REAL, **{setting: value}).differences
        assert (difference.key, str(difference.meaning)) == (setting, meaning)
        assert words in difference.why

    @pytest.mark.parametrize(
        ("setting", "release", "meaning"),
        [
            ("batch", "8.0.100", "ignored"),
            ("batch", "8.0.200", "honoured"),
            ("patience", "8.3.200", "ignored"),
            ("patience", "8.3.250", "honoured"),
            ("save_dir", "8.4.90", "ignored"),
            ("save_dir", "8.4.100", "honoured"),
            ("cls_pw", "8.4.30", "unknown"),
            ("cls_pw", "8.4.40", "ignored"),
        ],
    )
    def test_it_depends_on_the_release(self, setting: str, release: str, meaning: str) -> None:
        value = {"batch": 2, "patience": 7, "save_dir": "/elsewhere", "cls_pw": 0.5}[setting]
        assert meanings(against(REAL, f"ultralytics=={release}", **{setting: value}))[setting] == meaning

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("epochs", 5.0),
            ("device", "cpu"),
            ("epochs", 5),
            ("cos_lr", False),
            ("optimizer", "AdamW"),
            ("freeze", None),
        ],
    )
    def test_the_saved_value_is_no_difference(self, setting: str, value: Any) -> None:
        found = against(REAL, **{setting: value})
        assert found.differences == []
        assert found.same
        assert found.safe

    @pytest.mark.parametrize("settings", [{"train": {"epochs": 5}}, {"__epochs": 5}, {"train.epochs": 5}])
    def test_a_name_in_a_room_is_unknown_whatever_its_value(self, settings: dict[str, Any]) -> None:
        found = diff(REAL, settings, target=NEWEST)
        assert set(meanings(found).values()) == {"unknown"}

    def test_devices_are_alike_however_they_are_spelt(self, write: Write) -> None:
        path = write(ultralytics_checkpoint(train_args={"epochs": 5, "device": "cuda:0", "optimizer": "SGD"}))
        assert all(against(path, device=device).same for device in (0, "0", "cuda:0", [0]))
        assert not against(path, device=[0, 1]).same

    def test_a_flag_is_no_number(self) -> None:
        assert meanings(against(REAL, cos_lr=0)) == {"cos_lr": "invalid"}

    def test_the_trainer_stops_at_a_name_it_lost_although_the_file_has_the_same(self, write: Write) -> None:
        path = write(ultralytics_checkpoint("8.0.40", train_args={"epochs": 5, "image_weights": False}))
        assert meanings(against(path, image_weights=False)) == {"image_weights": "unknown"}

    def test_auto_is_what_the_run_resolved(self) -> None:
        found = against(REAL, optimizer="auto", lr0=0.02, momentum=0.9)
        assert set(meanings(found).values()) == {"harmless"}
        assert found.same

    def test_auto_in_both_sets_the_rates_itself(self, write: Write) -> None:
        args = {"epochs": 5, "optimizer": "auto", "warmup_bias_lr": 0.0}
        path = write(ultralytics_checkpoint("8.2.103", train_args=args))
        assert meanings(against(path, "ultralytics==8.2.103", warmup_bias_lr=0.1)) == {"warmup_bias_lr": "harmless"}

    @pytest.mark.parametrize(("release", "meaning"), [("8.2.103", "harmless"), ("8.3.250", "ignored")])
    def test_mosaics_an_older_release_had_closed(self, release: str, meaning: str, write: Write) -> None:
        args = {"epochs": 5, "optimizer": "SGD", "close_mosaic": 10, "mosaic": 0.0}
        path = write(ultralytics_checkpoint(release, train_args=args))
        assert meanings(against(path, f"ultralytics=={release}", mosaic=1.0)) == {"mosaic": meaning}

    @pytest.mark.parametrize(
        ("value", "meaning"), [([0.5, 0.5, 0], "ignored"), ([1, 0.5], "ignored"), ([[1], 1], "invalid"), (0, "invalid")]
    )
    def test_shares_of_the_data(self, value: Any, meaning: str) -> None:
        assert meanings(against(REAL, fraction=value)) == {"fraction": meaning}

    def test_the_most_serious_come_first(self) -> None:
        found = against(REAL, show=True, batch=2, lr0=0.1, freeze=99, lr_0=1, time=1.0, cos_lr="x")
        order = [difference.meaning.rank for difference in found.differences]
        assert order == sorted(order)
        assert len(set(order)) == len(Meaning)

    def test_a_saved_data_set_wins_in_older_releases(self) -> None:
        older, newer = (against(REAL, f"ultralytics=={release}", data="d.yaml") for release in ("8.4.150", "8.4.160"))
        assert (meanings(older), meanings(newer)) == ({"data": "ignored"}, {"data": "honoured"})

    def test_what_is_wrong_with_the_checkpoint_makes_it_unsafe(self, write: Write) -> None:
        found = against(write(stripped_checkpoint()), batch=2)
        assert str(found.verdict) == "finished"
        assert not found.safe


SIMPLE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=3), st.dates()
)
VALUES = st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SIMPLE, inner, max_size=3))
NAMES = st.sampled_from(["data", "model", "imgsz", "batch", "epochs", "optimizer", "device", "freeze", "time", "lr0",
                         "workers", "half", "close_mosaic", "names", "hyp", "lr", "batch_size"])  # fmt: skip


YAML_NAMES = st.sampled_from(["names", "nc", "train", "val", "path", "channels", "kpt_shape", "scales", "scale",
                              "backbone", "head", "depth_multiple", "reg_max"])  # fmt: skip


class TestAnythingGoes:
    @pytest.mark.parametrize("path", [REAL, LOOP, YOLOV5], ids=lambda path: path.stem)
    @given(
        settings=st.dictionaries(NAMES | st.text(max_size=5), VALUES, max_size=4),
        release=st.sampled_from(["8.0.20", "8.0.100", "8.3.250", "8.4.190"]),
        purpose=st.sampled_from(["resume", "finetune"]),
        here=st.booleans(),
    )
    def test_no_value_of_any_kind_is_too_odd(
        self, path: Path, settings: dict[str, Any], release: str, purpose: str, here: bool
    ) -> None:
        found = diff(path, settings, target=f"ultralytics=={release}", purpose=purpose, here=here)
        json.dumps(plain_json(found.as_json()), default=str)
        assert all(difference.why for difference in found.differences)

    @pytest.mark.parametrize("kind", ["data", "model"])
    @given(settings=st.dictionaries(YAML_NAMES, VALUES))
    def test_nor_is_a_yaml_of_another_kind(self, kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / "odd.yaml"
        path.write_text(yaml.safe_dump({"names": [], **settings}), encoding="utf-8")
        for purpose in ("resume", "finetune"):
            diff(REAL, path, kind=kind, target=NEWEST, purpose=purpose, here=True)


class TestFineTuning:
    @pytest.mark.parametrize(
        ("setting", "value", "meaning"),
        [
            ("lr0", 0.001, "schedule"),
            ("epochs", 50, "schedule"),
            ("optimizer", "SGD", "schedule"),
            ("optimizer", "Sophia", "invalid"),
            ("mosaic", 0.5, "honoured"),
            ("resume", "last.pt", "breaks"),
            ("pretrained", False, "breaks"),
            ("lr_0", 0.1, "unknown"),
            ("show", True, "harmless"),
        ],
    )
    def test_a_new_run_takes_what_it_is_given(self, setting: str, value: Any, meaning: str) -> None:
        assert meanings(diff(REAL, {setting: value}, purpose="finetune", target=NEWEST)) == {setting: meaning}

    def test_another_number_of_classes_is_no_obstacle(self, tmp_path: Path) -> None:
        path = data_yaml(tmp_path, names=["thing", "other"])
        assert meanings(diff(REAL, path, target=NEWEST))["nc"] == "breaks"
        assert meanings(diff(REAL, path, purpose="finetune", target=NEWEST))["nc"] == "honoured"


def data_yaml(folder: Path, **content: Any) -> Path:
    path = folder / "data.yaml"
    described = {"path": str(folder), "train": "train", "val": "val", **content}
    path.write_text(json.dumps({key: value for key, value in described.items() if value is not None}), encoding="utf-8")
    return path


def two_classes(write: Write, **replaced: Any) -> Path:
    return write(ultralytics_checkpoint(ema=detector(2, names={0: "cat", 1: "dog"}), **replaced))


class TestDataSets:
    @pytest.mark.parametrize(
        ("content", "key", "meaning", "words"),
        [
            ({"names": ["dog", "cat"]}, "names", "breaks", "cat 0 → 1"),
            ({"names": {0: "dog", 1: "cat"}}, "names", "breaks", "the order changed"),
            ({"names": ["cat", "dog", "cow"]}, "nc", "breaks", "nc=2"),
            ({"names": ["cat", "dog", "cow"]}, "names", "breaks", "new: cow"),
            ({"nc": 3}, "nc", "breaks", "nc=3"),
            ({"names": ["cat", "hound"]}, "names", "honoured", "dog is hound"),
            ({"names": ["cat", "dog"], "nc": 3}, "nc", "invalid", "nc says 3"),
            ({}, "names", "invalid", "neither"),
            ({"names": {1: "cat", 2: "dog"}}, "names", "invalid", "numbered from 0 to 1"),
            ({"names": "cat"}, "names", "invalid", "a list or a mapping"),
            ({"names": ["cat", "dog"], "train": None}, "train", "invalid", "must say"),
        ],
    )
    def test_classes_against_names_and_head(
        self, content: Any, key: str, meaning: str, words: str, write: Write, tmp_path: Path
    ) -> None:
        found = diff(two_classes(write), data_yaml(tmp_path, **content), target=NEWEST)
        difference = next(d for d in found.differences if d.key == key)
        assert str(difference.meaning) == meaning
        assert words in difference.why
        assert found.kind == "data"
        assert found.safe is (meaning == "honoured")

    def test_what_a_release_does_not_read_breaks_nothing(self, write: Write, tmp_path: Path) -> None:
        found = diff(two_classes(write), data_yaml(tmp_path, nc=3), target="ultralytics==8.4.150")
        assert set(meanings(found).values()) == {"ignored"}

    def test_the_same_classes_are_no_difference(self, write: Write, tmp_path: Path) -> None:
        path = data_yaml(tmp_path, names=["cat", "dog"], nc=2)
        found = diff(two_classes(write, train_args={"data": str(path), "epochs": 5}), path, target=NEWEST)
        assert found.same

    def test_a_config_leads_to_its_data_set(self, write: Write, tmp_path: Path) -> None:
        data_yaml(tmp_path, names=["dog", "cat"])
        config = tmp_path / "new.yaml"
        config.write_text("data: data.yaml\n", encoding="utf-8")
        found = diff(two_classes(write), config, target=NEWEST)
        assert meanings(found)["data.names"] == "breaks"

    def test_here_looks_for_the_images(self, write: Write, tmp_path: Path) -> None:
        path = data_yaml(tmp_path, names=["cat", "dog"])
        checkpoint = two_classes(write)
        assert meanings(diff(checkpoint, path, target=NEWEST, here=True))["train"] == "breaks"
        for split in ("train", "val"):
            (tmp_path / split).mkdir()
        assert "train" not in meanings(diff(checkpoint, path, target=NEWEST, here=True))

    def test_a_leading_step_up_may_be_one_too_many(self, write: Write, tmp_path: Path) -> None:
        path = data_yaml(tmp_path, path=None, names=["cat", "dog"], train="../train/images", val="../valid/images")
        for split in ("train", "valid"):
            (tmp_path / split / "images").mkdir(parents=True)
        found = diff(two_classes(write), path, target=NEWEST, here=True)
        assert not {"train", "val"} & meanings(found).keys()

    def test_a_file_without_classes_says_so(self, tmp_path: Path) -> None:
        found = diff(LOOP, data_yaml(tmp_path, names=["cat", "dog"]))
        assert [(d.key, "can't be told" in d.why) for d in found.differences] == [("names", True)]

    def test_here_looks_for_the_device(self) -> None:
        (difference,) = diff(REAL, {"device": 97}, target=NEWEST, here=True).differences
        assert str(difference.meaning) == "breaks"
        assert "97" in difference.why


ARCHITECTURE: dict[str, Any] = {
    "nc": 2,
    "scale": "n",
    "yaml_file": "yolo11n.yaml",
    "scales": {"n": [0.5, 0.25, 1024], "s": [0.5, 0.5, 1024]},
    "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 2, "C3k2", [256, False]]],
    "head": [[-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[1], 1, "Detect", ["nc"]]],
}


class TestArchitectures:
    @pytest.fixture
    def checkpoint(self, write: Write) -> Path:
        return write(ultralytics_checkpoint(ema=detector(2, yaml=ARCHITECTURE), train_args={"model": "yolo11n.yaml"}))

    def described(self, folder: Path, name: str = "yolo11n.yaml", **replaced: Any) -> Path:
        path = folder / name
        own = {key: value for key, value in ARCHITECTURE.items() if key not in ("scale", "yaml_file")}
        path.write_text(json.dumps({**own, **replaced}), encoding="utf-8")
        return path

    def test_the_yaml_it_was_built_from_is_no_difference(self, checkpoint: Path, tmp_path: Path) -> None:
        found = diff(checkpoint, self.described(tmp_path), target=NEWEST)
        assert (found.kind, found.differences) == ("model", [])

    @pytest.mark.parametrize(
        ("name", "replaced", "key"),
        [
            ("yolo11s.yaml", {}, "scale"),
            ("yolo11n.yaml", {"scales": {"n": [0.5, 0.5, 1024]}}, "scales.n"),
            ("yolo11n.yaml", {"nc": 3}, "nc"),
            ("yolo11n.yaml", {"backbone": [[-1, 1, "Conv", [32, 3, 2]], [-1, 2, "C3k2", [256, False]]]}, "backbone[0]"),
            ("yolo11n.yaml", {"head": [[[1], 1, "Detect", ["nc"]]]}, "head[0]"),
        ],
    )
    def test_another_model_breaks_a_resume(
        self, name: str, replaced: Any, key: str, checkpoint: Path, tmp_path: Path
    ) -> None:
        found = diff(checkpoint, self.described(tmp_path, name, **replaced), target=NEWEST)
        assert meanings(found)[key] == "breaks"
        assert not found.safe

    def test_the_classes_of_a_stock_yaml_do_not_count(self, checkpoint: Path, tmp_path: Path) -> None:
        found = diff(checkpoint, self.described(tmp_path, nc=80), target=NEWEST)
        assert meanings(found) == {"nc": "harmless"}
        assert found.same

    @pytest.mark.parametrize(
        ("model", "meaning"),
        [
            ("yolo11s.yaml", "breaks"),
            ("yolov8n.pt", "breaks"),
            ("yolo11n.pt", "harmless"),
            ("mine.pt", "ignored"),
            ("mine.yaml", "ignored"),
            ("yolo11.yaml", "harmless"),
        ],
    )
    def test_a_config_names_a_model(self, model: str, meaning: str, checkpoint: Path) -> None:
        assert meanings(against(checkpoint, model=model)) == {"model": meaning}

    def test_on_the_command_line_resume_can_be_called_off(self) -> None:
        assert meanings(diff(REAL, ["resume=False"], target=NEWEST)) == {"resume": "breaks"}
        assert against(REAL, resume=False).same  # in a file it says nothing: the command does

    def test_on_the_command_line_model_names_what_is_resumed(self, checkpoint: Path) -> None:
        assert meanings(diff(checkpoint, ["model=mine.pt"], target=NEWEST)) == {"model": "breaks"}
        assert diff(checkpoint, [f"model={checkpoint}"], target=NEWEST).same


class TestOtherTrainers:
    @pytest.mark.parametrize(
        ("setting", "value", "meaning", "words"),
        [
            ("lr", 0.1, "ignored", "optimizer's groups"),
            ("epochs", 50, "schedule", "50 instead of 5"),
            ("epochs", 2, "breaks", "nothing is left"),
            ("batch_size", 8, "honoured", "script"),
            ("batch", 8, "unknown", "did you mean batch_size?"),
            ("epochs", "many", "invalid", "number"),
        ],
    )
    def test_a_script_of_ones_own(self, setting: str, value: Any, meaning: str, words: str) -> None:
        (difference,) = against(LOOP, None, **{setting: value}).differences
        assert str(difference.meaning) == meaning
        assert words in difference.why

    def test_what_shapes_the_model_breaks(self, write: Write) -> None:
        path = write(plain_checkpoint(args={"epochs": 9, "num_classes": 3, "optimizer": "sgd", "note": "x"}))
        found = against(path, None, num_classes=4, note="y")
        assert meanings(found) == {"num_classes": "breaks", "note": "honoured"}

    def test_nested_settings_find_each_other(self, write: Write) -> None:
        path = write(plain_checkpoint(args=..., config={"train": {"epochs": 9, "crop": 32}, "data": {"root": "a"}}))
        found = diff(path, {"train": {"crop": 64}, "data": {"root": "a"}})
        assert meanings(found) == {"train.crop": "honoured"}
        assert meanings(diff(path, ["crop=64"])) == {"crop": "honoured"}

    def test_the_kind_of_an_optimizer_in_its_own_room(self, write: Write) -> None:
        path = write(plain_checkpoint(args=..., config={"optimizer": {"name": "SGD", "lr": 0.01}, "epochs": 9}))
        assert meanings(diff(path, {"optimizer": {"name": "AdamW"}})) == {"optimizer.name": "breaks"}

    def test_yolov5_knows_its_flags_by_several_names(self) -> None:
        assert set(meanings(diff(YOLOV5, ["batch=8", "batch-size=8", "img-size=640"])).values()) == {"ignored"}

    def test_yolov5_reads_nothing_from_the_caller(self) -> None:
        found = against(YOLOV5, None, lr0=0.1, epochs=9, batch_size=8, lr_0=3)
        assert meanings(found) == {"lr_0": "unknown", "lr0": "ignored", "epochs": "ignored", "batch_size": "ignored"}

    def test_but_its_own_opt_yaml(self, tmp_path: Path) -> None:
        path = tmp_path / "exp" / "weights" / "last.pt"
        path.parent.mkdir(parents=True)
        path.write_bytes(YOLOV5.read_bytes())
        (tmp_path / "exp" / "opt.yaml").write_text("epochs: 9\nbatch_size: 8\n", encoding="utf-8")
        found = diff(path, path.parent.parent / "opt.yaml")
        assert meanings(found) == {"epochs": "schedule", "batch_size": "honoured"}

    def test_defaults_of_a_trainer_nobody_knows_are_an_error(self) -> None:
        with pytest.raises(CkptError, match="not known"):
            diff(LOOP, {"lr": 1}, defaults=True)


class TestDefaults:
    def test_what_a_config_leaves_out_is_the_release_s_default(self) -> None:
        found = diff(REAL, {"batch": 4}, target=NEWEST, defaults=True)
        labels = meanings(found)
        assert labels["imgsz"] == "honoured"  # 64 in the run, 640 by default
        assert labels["epochs"] == "ignored"
        assert "batch" not in labels
        assert "data" not in labels

    def test_without_being_asked_it_stays_as_it_is(self) -> None:
        assert diff(REAL, {"batch": 4}, target=NEWEST).same


class TestTwoCheckpoints:
    def test_a_file_against_itself(self) -> None:
        found = diff(REAL, REAL)
        assert (found.same, found.same_weights, found.differences) == (True, True, [])

    def test_different_layouts_with_the_same_weights(self, write: Write) -> None:
        model = weights()
        bare = write({f"module.{name}": tensor for name, tensor in model.items()}, "bare.pt")
        full = write(plain_checkpoint(model=model), "full.pt")
        found = diff(full, bare, values=True)
        assert found.same_weights is True
        assert not found.same  # the optimizer is in one of them alone

    def test_progress_metrics_and_weights(self, write: Write) -> None:
        first = write(ultralytics_checkpoint(), "epoch1.pt")
        second = write(
            ultralytics_checkpoint(epoch=2, updates=18, best_fitness=0.5, ema=detector(2, fill=0.5)), "epoch2.pt"
        )
        found = diff(first, second, target=NEWEST)
        labels = meanings(found)
        assert (labels["epoch"], labels["updates"], labels["best_fitness"]) == ("schedule", "schedule", "harmless")

    def test_a_lost_optimizer_is_found(self, write: Write) -> None:
        first, second = write(ultralytics_checkpoint(), "a.pt"), write(ultralytics_checkpoint(optimizer=None), "b.pt")
        assert meanings(diff(first, second, target=NEWEST))["optimizer"] == "breaks"

    def test_tensors_that_came_went_and_changed_shape(self, write: Write) -> None:
        first = write({"a": Tensor((2,), [1.0, 2.0]), "b": Tensor((1,), [1.0]), "c": Tensor((1,), [3.0])}, "a.pt")
        second = write({"a": Tensor((2,), [1.0, 2.0]), "b": Tensor((2,), [1.0, 2.0]), "d": Tensor((1,), [3.0])}, "b.pt")
        (part,) = diff(first, second).as_json()["tensors"]
        assert [entry["name"] for entry in part["added"]] == ["d"]
        assert [entry["name"] for entry in part["removed"]] == ["c"]
        assert part["differing"][0]["new_shape"] == [2]
        assert part["same_weights"] is False

    def test_values_are_measured_only_when_asked(self, write: Write) -> None:
        first = write({"a.w": Tensor((2,), [1.0, 2.0])}, "a.pt")
        second = write({"a.w": Tensor((2,), [1.0, 4.0])}, "b.pt")
        quick, measured = diff(first, second), diff(first, second, values=True)
        assert not quick.measured
        (entry,) = measured.as_json()["tensors"][0]["differing"]
        assert (entry["max_abs"], entry["name"]) == (2.0, "a.w")


class TestCommandLine:
    CARD = "lr0: 0.001\nbatch: 8\nepochs: 50\noptimizer: SGD\nlr_0: 0.2\ncos_lr: 'yes'\n"

    @pytest.fixture
    def config(self, tmp_path: Path) -> Path:
        path = tmp_path / "new.yaml"
        path.write_text(self.CARD, encoding="utf-8")
        return path

    def test_the_card_example(self, config: Path, ckpt: Run) -> None:
        run = ckpt("diff", REAL, config, "--target", NEWEST)
        assert run.returncode == 1
        lines = run.stdout.splitlines()
        assert "a training config" in lines[0]
        assert [line.split()[0] for line in lines[1:-2:2]] == ["invalid", "unknown", *["ignored"] * 3, "honoured"]
        assert "lr0: 0.01 → 0.001" in run.stdout
        assert lines[-2] == "unsafe to resume so: 1 invalid, 1 unknown, 3 ignored, 1 honoured"
        assert lines[-1].startswith("next: ckpt diff ")

    def test_json(self, config: Path, ckpt: Run) -> None:
        document = json.loads(ckpt("diff", REAL, config, "--target", NEWEST, "--json").stdout)
        assert document["schema"] == "ckpt-tools/diff/1"
        assert (document["kind"], document["safe"], document["same"]) == ("config", False, False)
        assert {tuple(entry) for entry in document["differences"]} == {
            ("key", "old", "new", "meaning", "why", "section")
        }
        by_key = {entry["key"]: entry for entry in document["differences"]}
        assert (by_key["batch"]["old"], by_key["batch"]["new"], by_key["batch"]["meaning"]) == (4, 8, "honoured")
        assert by_key["lr_0"]["old"] is None

    def test_markdown_and_patch(self, config: Path, ckpt: Run) -> None:
        markdown = ckpt("diff", REAL, config, "--target", NEWEST, "--format", "markdown").stdout
        assert "| honoured | `batch` | 4 | 8 |" in markdown
        patch = ckpt("diff", REAL, config, "--target", NEWEST, "--format", "patch").stdout
        assert "\n-batch: 4\n" in patch
        assert "\n+batch: 8  # honoured: " in patch

    @pytest.mark.parametrize(
        ("options", "code", "keys"),
        [
            (["--only", "honoured"], 1, ["batch"]),
            (["--only", "breaks,schedule"], 0, []),
            (["--ignore", "lr*", "--ignore", "[a-k]*"], 1, ["optimizer"]),
            (["--ignore", "*"], 0, []),
        ],
    )
    def test_what_is_left_out_does_not_count(
        self, options: list[str], code: int, keys: list[str], config: Path, ckpt: Run
    ) -> None:
        run = ckpt("diff", REAL, config, "--target", NEWEST, "--json", *options)
        assert [entry["key"] for entry in json.loads(run.stdout)["differences"]] == keys
        assert run.returncode == code

    def test_what_is_left_out_is_still_not_safe(self, config: Path, ckpt: Run) -> None:
        options = ["--only", "honoured", "--target", NEWEST]
        assert json.loads(ckpt("diff", REAL, config, *options, "--json").stdout)["safe"] is False
        run = ckpt("diff", REAL, config, *options)
        assert "unsafe to resume so: 1 honoured and 5 not shown" in run.stdout
        assert f"--target {NEWEST} --command" in run.stdout.splitlines()[-1]

    @pytest.mark.parametrize(
        ("settings", "code"), [(["batch=4"], 0), (["show=True"], 0), (["batch=8"], 1), (["lr_0=1"], 1)]
    )
    def test_exit_codes(self, settings: list[str], code: int, ckpt: Run) -> None:
        run = ckpt("diff", REAL, *settings, "--target", NEWEST, "-q")
        assert (run.returncode, run.stdout) == (code, "")

    @pytest.mark.parametrize(
        "arguments",
        [
            ["REAL"],
            ["REAL", "nowhere.yaml"],
            ["nowhere.pt", "lr0=1"],
            ["new.yaml", "REAL"],
            ["REAL", "new.yaml", "--as", "novel"],
            ["REAL", "new.yaml", "--only", "fun"],
            ["REAL", "lr0=1", "--as", "model"],
            ["REAL", "new.yaml", "--for", "fun"],
            ["REAL", "new.yaml", "--target", "what?"],
            ["REAL", "REAL", "--command"],
            ["REAL", "page.pt"],
            ["page.pt", "lr0=1"],
            ["REAL", "."],
        ],
        ids=" ".join,
    )
    def test_usage_errors_exit_2_and_say_why(self, arguments: list[str], config: Path, write: Write, ckpt: Run) -> None:
        write(b"<!DOCTYPE html><html></html>", "page.pt")
        run = ckpt("diff", *(REAL if word == "REAL" else word for word in arguments))
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr.strip()
        assert "Traceback" not in run.stderr

    def test_an_error_is_json_too(self, ckpt: Run) -> None:
        run = ckpt("diff", REAL, "nowhere.yaml", "--json")
        assert run.returncode == 2
        assert "nowhere.yaml" in json.loads(run.stdout)["error"]

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (["batch=8"], "yolo train resume model={last} batch=8"),
            (["epochs=50"], "ckpt repair {last} --set epochs=50 -o {edited} && yolo train resume model={edited}"),
            (
                ["lr0=0.001", "imgsz=96"],
                "ckpt repair {last} --set lr0=0.001 -o {edited} && yolo train resume model={edited} imgsz=96",
            ),
            (
                ["optimizer=SGD"],
                "ckpt repair {last} --set optimizer=SGD --reinit optimizer -o {edited} && "
                "yolo train resume model={edited}",
            ),
            (
                ["weight_decay=0.01"],
                "ckpt repair {last} --set weight_decay=0.01 --set optimizer=AdamW --reinit optimizer -o {edited} && ",
            ),
            (["optimizer=auto"], "yolo train resume model={last}"),
            (["optimizer=Sophia"], "yolo train resume model={last}"),
            (["epochs=2"], "yolo train resume model={last}"),
            (["single_cls=True"], "yolo train resume model={last}"),
            (["device="], "yolo train resume model={last} device=None"),
            (["name=other"], "yolo train resume model={last} save_dir="),
            (["model=yolov8s.yaml"], "yolo train model=yolov8s.yaml pretrained={last} "),
            (["freeze=99"], "yolo train model={last} "),
        ],
    )
    def test_the_command_that_does_it(self, settings: list[str], words: str, write: Write, ckpt: Run) -> None:
        path = write(REAL.read_bytes())
        run = ckpt("diff", path, *settings, "--target", NEWEST, "--command")
        filled = words.format(last=path, edited=path.with_name("last.edited.pt"))
        assert run.stdout.startswith(filled)
        assert len(run.stdout.splitlines()) == 1

    def test_a_release_that_checks_no_types_gets_a_command_all_the_same(self, write: Write, ckpt: Run) -> None:
        path = write(ultralytics_checkpoint("8.0.20"))
        run = ckpt("diff", path, "epochs=many", "--target", "ultralytics==8.0.20", "--command")
        assert run.returncode == 1
        assert "yolo train" in run.stdout

    def test_what_the_command_leaves_out_is_said_on_stderr(self, config: Path, ckpt: Run) -> None:
        run = ckpt("diff", REAL, config, "--target", NEWEST, "--command")
        assert "lr_0" not in run.stdout
        assert "lr_0 is left out" in run.stderr
        assert "the optimizer starts afresh" in run.stderr

    def test_the_next_command_can_be_pasted(self, config: Path, ckpt: Run) -> None:
        run = ckpt("diff", REAL, "new.yaml", "name=a b")
        assert run.stdout.splitlines()[-1].endswith(" new.yaml 'name=a b' --command")

    def test_odd_text_reaches_no_terminal(self, ckpt: Run, tmp_path: Path) -> None:
        (tmp_path / "odd.yaml").write_text('"lr\\e[2J": 1\nname: "\\e[31mred"\n', encoding="utf-8")
        for form in ("table", "markdown", "patch"):
            assert "\x1b" not in ckpt("diff", REAL, "odd.yaml", "--format", form).stdout

    def test_a_quick_look_imports_no_numpy(self, environment: Mapping[str, str]) -> None:
        from test_imports import COMMAND, loaded

        arguments = ("diff", str(REAL), "batch=4", "--target", NEWEST)
        assert "torch" not in loaded(COMMAND, ("torch", "ultralytics"), environment, *arguments)
