"""Detection in the training loop: what a run leaves, how it goes on, what it is compared by."""

import dataclasses
import json
import logging
import signal

import faster_coco_eval as coco_eval
import pytest
import torch
from safetensors.torch import load_file

import bam
from bam import cli
from bam.attention import split_specs
from bam.data import load_boxes
from bam.recipes import ClassificationRecipe, DetectionRecipe, Recipe, RunOptions, variant
from bam.records import Record
from bam.reports import summarize
from bam.tasks.detection.metrics import Detections
from bam.tasks.detection.task import _MEASURES, Detection, detect
from bam.training import Interrupted, compare, run, trained_model
from tests.data.boxed import instances, voc_object, voc_xml, write_coco, write_voc

TINY = DetectionRecipe(
    data="digits",
    data_options={"canvas": 32, "num_train": 64, "num_test": 8, "augmentation": "none"},
    model="ssd_resnet8",
    batch_size=16,
    epochs=2,
    precision="fp32",
    lr=0.02,
    clip_norm=10.0,
)
#: Two stages, of which one draws regions at random, and images of several sizes.
TWO_STAGES = TINY.replace(
    model="fasterrcnn_mobilenet_v3_large_fpn",
    model_options={
        "min_size": [64, 96],
        "max_size": 128,
        "rpn_post_nms_top_n_train": 50,
        "rpn_post_nms_top_n_test": 20,
    },
    data_options=TINY.data_options | {"num_train": 6, "num_test": 2, "augmentation": "flip"},
    batch_size=2,
    epochs=1,
    attention="bam",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with its record."""
    folder = tmp_path_factory.mktemp("run")
    return folder, run(TINY.replace(attention="bam"), folder)


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory):
    """A run of Faster R-CNN with its record."""
    folder = tmp_path_factory.mktemp("two_stages")
    return folder, run(TWO_STAGES, folder)


def losses_of(folder):
    header, *rows = [line.split(",") for line in (folder / "steps.csv").read_text().splitlines()]
    return header, [[float(word) for word in row] for row in rows]


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(value, right[key]) for key, value in left.items())


def test_a_run_leaves_everything_needed(finished):
    folder, record = finished
    names = {path.name.split("-0")[0] for path in folder.iterdir()}
    usual_files = {"recipe.yaml", "record.json", "steps.csv", "model.safetensors", "state"}
    assert names == usual_files | {"detections.json", "ground_truth.json"}
    assert record.complete and Record.read(folder) == record
    assert record.sites == ["backbone.body.layer1", "backbone.body.layer2"]
    assert record.classes == list("0123456789") and record.image_size == [32, 32]
    assert record.normalization == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert record.cost["params"] == sum(p.numel() for p in trained_model(folder)[0].parameters())


def test_losses_go_by_their_names(finished):
    folder, record = finished
    header, rows = losses_of(folder)
    assert header == ["step", "lr", "loss", "loss_bbox_regression", "loss_classification"] and len(rows) == 2 * 4
    for row in rows:
        assert row[2] == pytest.approx(row[3] + row[4], rel=1e-4)
    for epoch, entry in enumerate(record.history):
        for column, name in enumerate(header[2:], start=2):
            mean = sum(row[column] for row in rows[4 * epoch : 4 * epoch + 4]) / 4
            assert entry[f"train_{name}"] == pytest.approx(mean, rel=1e-4)
    assert record.final["train_loss"] == record.history[-1]["train_loss"]


def test_losses_of_two_stages_go_by_their_names(two_stages):
    folder, record = two_stages
    names = ["loss", "loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"]
    assert losses_of(folder)[0][2:] == names
    assert [f"train_{name}" for name in names] == [key for key in record.history[0] if key.startswith("train_")]


def test_measures(finished):
    _, record = finished
    assert [m.key for m in record.measures] == ["test_ap", "test_ap50", "test_ap75", "test_ap_small", "test_ar100"]
    assert all(m.higher_is_better and 0 <= record.final[m.key] <= 1 for m in record.measures)
    assert {"test_voc07", "test_voc12"} <= record.final.keys()


def test_the_files_score_as_the_record_says(finished):
    folder, record = finished
    truth = json.loads((folder / "ground_truth.json").read_text())
    results = json.loads((folder / "detections.json").read_text())
    assert len(truth["images"]) == len(truth["annotations"]) == 8 and results
    assert {entry["image_id"] for entry in results} <= {image["id"] for image in truth["images"]}
    logging.disable(logging.INFO)
    try:
        read = coco_eval.COCO(str(folder / "ground_truth.json"))
        tool = coco_eval.COCOeval_faster(read, read.loadRes(str(folder / "detections.json")), iouType="bbox")
        tool.run()
    finally:
        logging.disable(logging.NOTSET)
    figures = [float(value) for value in tool.stats[:4]]
    expected = [record.final[name] for name in ("test_ap", "test_ap50", "test_ap75", "test_ap_small")]
    assert figures == pytest.approx(expected, abs=1e-4)  # coordinates and scores in the file are rounded


def test_the_trained_network_finds_what_the_run_has_written(finished):
    folder, record = finished
    model, _ = trained_model(folder)
    assert not model.training and list(bam.attended(model)) == record.sites
    _, test = load_boxes("digits", **TINY.data_options)
    model.to(memory_format=torch.channels_last)  # as in the run: rounding decides about the order of equal scores
    detected = detect(model, test.batches(256).test(), len(test))
    written = json.loads((folder / "detections.json").read_text())
    assert sum(map(len, detected)) == len(written)
    for number, one in enumerate(detected):
        of_image = [entry for entry in written if entry["image_id"] == test.image_ids[number]]
        boxes = torch.tensor([entry["bbox"] for entry in of_image]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        torch.testing.assert_close(one.boxes, boxes, atol=0.02, rtol=0)
        torch.testing.assert_close(one.scores, torch.tensor([entry["score"] for entry in of_image]), atol=1e-4, rtol=0)
        assert one.labels.tolist() == [entry["category_id"] for entry in of_image]


def test_a_finished_run_returns_its_record(finished, monkeypatch):
    folder, record = finished
    monkeypatch.setattr(Detection, "load", None)  # nothing is even loaded
    assert run(TINY.replace(attention="bam"), folder) == record


def stop_at(step, stop):
    """The loss of detection, with `stop` called in that step."""
    left, loss = step, Detection.loss

    def stopping(self, *arguments):
        nonlocal left
        if left == 0:
            stop()
        left -= 1
        return loss(self, *arguments)

    return stopping


def check_resumed(recipe, whole, broken):
    """In `broken` an unfinished run goes on to the end of that in `whole`."""
    assert not (broken / "model.safetensors").exists()
    with pytest.raises(ValueError, match="add --resume"):
        run(recipe, broken)
    records = Record.read(whole), run(recipe, broken, resume=True)
    for name in ("model.safetensors", "steps.csv", "detections.json", "ground_truth.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    timeless = [[{k: v for k, v in row.items() if "second" not in k} for row in one.history] for one in records]
    assert timeless[0] == timeless[1] and records[0].measures == records[1].measures


def test_a_killed_run_ends_in_the_same_weights(finished, tmp_path, monkeypatch):
    folder, record = finished
    recipe = Recipe.from_dict(record.recipe)
    with monkeypatch.context() as patch:
        patch.setattr(Detection, "loss", stop_at(6, lambda: 1 / 0))  # of eight steps
        with pytest.raises(ZeroDivisionError):
            run(recipe, tmp_path, RunOptions(save_minutes=0))
    check_resumed(recipe, folder, tmp_path)


def test_a_stopped_run_with_random_regions_ends_in_the_same_weights(two_stages, tmp_path, monkeypatch):
    folder, record = two_stages
    recipe = Recipe.from_dict(record.recipe)
    with monkeypatch.context() as patch:
        patch.setattr(Detection, "loss", stop_at(1, lambda: signal.raise_signal(signal.SIGTERM)))
        with pytest.raises(Interrupted, match="stopped after step 2 of 3; the state is saved"):
            run(recipe, tmp_path)
    check_resumed(recipe, folder, tmp_path)


def voc_tree(root):
    dog = voc_xml(voc_object("dog", (5, 5, 40, 35)), voc_object("cat", (2, 2, 20, 20), difficult=1))
    ids = [f"{k:06}" for k in range(6)]
    write_voc(root / "VOCdevkit" / "VOC2007", dict.fromkeys(ids, dog), trainval=ids[:4], test=ids[4:])


VOC = TINY.replace(data="voc2007", data_options={"augmentation": "none", "workers": 0}, batch_size=2, epochs=1)
VOC_MEASURES = ["test_voc07", "test_voc12", "test_ap", "test_ap50", "test_ap75"]


def test_voc_is_measured_by_its_own_rules(tmp_path, capsys):
    voc_tree(tmp_path)
    record = run(VOC, tmp_path / "run", RunOptions(data_root=tmp_path))
    assert [m.key for m in record.measures] == VOC_MEASURES
    assert "  VOC07 mAP 0.00 %  VOC12 mAP " in capsys.readouterr().out
    assert "test_ap_small" not in record.final  # there is no small object


def test_a_run_stopped_after_its_last_evaluation_is_measured_alike(tmp_path, monkeypatch):
    """All is trained and evaluated, and the state is saved, but the files are not written yet."""
    voc_tree(tmp_path)
    whole = run(VOC, tmp_path / "whole", RunOptions(data_root=tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(Detection, "results", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(VOC, tmp_path / "run", RunOptions(data_root=tmp_path))
    record = run(VOC, tmp_path / "run", RunOptions(data_root=tmp_path), resume=True)
    for name in ("detections.json", "ground_truth.json"):
        assert (tmp_path / "run" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert record.measures == whole.measures


def test_images_without_objects_and_ids_of_ones_own(tmp_path):
    content = instances()
    write_coco(tmp_path / "coco", train2017=content, val2017=content)
    recipe = VOC.replace(data="coco", data_options={"augmentation": "flip", "workers": 0}, batch_size=1, epochs=2)
    record = run(recipe, tmp_path / "run", RunOptions(data_root=tmp_path))
    assert all(torch.isfinite(torch.tensor(list(row.values()))).all() for row in record.history)
    results = json.loads((tmp_path / "run" / "detections.json").read_text())
    assert {entry["category_id"] for entry in results} <= {3, 7} and results
    assert {entry["image_id"] for entry in results} <= {10, 20, 30}
    truth = json.loads((tmp_path / "run" / "ground_truth.json").read_text())
    assert [category["id"] for category in truth["categories"]] == [3, 7]
    assert sorted(entry["iscrowd"] for entry in truth["annotations"]) == [0, 0, 1]


def test_a_broken_image_is_left_out_and_finds_nothing(tmp_path):
    voc_tree(tmp_path)
    for name in ("000001", "000004"):
        (tmp_path / "VOCdevkit/VOC2007/JPEGImages" / f"{name}.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="00000[14].jpg cannot be read"):
        run(VOC, tmp_path / "stop", RunOptions(data_root=tmp_path))
    recipe = VOC.replace(data_options=VOC.data_options | {"unreadable": "skip"})
    record = run(recipe, tmp_path / "skip", RunOptions(data_root=tmp_path))
    assert record.history[0]["unreadable"] == 2
    detected = json.loads((tmp_path / "skip" / "detections.json").read_text())
    truth = json.loads((tmp_path / "skip" / "ground_truth.json").read_text())
    assert len(truth["images"]) == 2 and {entry["image_id"] for entry in detected} == {truth["images"][1]["id"]}


def test_only_some_epochs_are_evaluated(tmp_path):
    record = run(TINY.replace(epochs=3, evaluate_every=2), tmp_path)
    assert ["test_ap" in row for row in record.history] == [False, True, True]
    assert "test_ap" in record.final
    (curve,) = summarize({"none": [record]})["variants"][0]["curves"]
    assert [point[0] for point in curve] == [2, 3]


def test_gradients_are_clipped(tmp_path):
    for norm in (0.0, 1e6, 0.1):
        run(TINY.replace(epochs=1, clip_norm=norm), tmp_path / str(norm))
    free, large, small = (weights_of(tmp_path / str(norm)) for norm in (0.0, 1e6, 0.1))
    assert equal(free, large) and not equal(free, small)
    train, _ = load_boxes("digits", **TINY.data_options)
    start = dict(Detection(TINY).network(train).named_parameters())
    moved = [sum(float((one[k] - p.detach()).square().sum()) for k, p in start.items()) for one in (free, small)]
    assert moved[1] < 0.1 * moved[0]


def test_precisions_differ_and_both_train(tmp_path):
    for precision in ("fp32", "bf16"):
        record = run(TINY.replace(precision=precision), tmp_path / precision)
        assert record.environment["precision"] == precision
        assert record.history[1]["train_loss"] < record.history[0]["train_loss"]
    full, half = (losses_of(tmp_path / precision)[1][0][2] for precision in ("fp32", "bf16"))
    assert full != half and half == pytest.approx(full, rel=0.02)


def test_accumulated_parts_are_one_step(tmp_path):
    """Not the same step, since batches have statistics of their own; but as many, on as many images."""
    record = run(TINY.replace(epochs=1, accumulation=2), tmp_path)
    rows = losses_of(tmp_path)[1]
    assert len(rows) == 4 and record.history[0]["train_loss"] == pytest.approx(
        sum(row[2] for row in rows) / 4, rel=1e-4
    )
    run(TINY.replace(epochs=1), tmp_path / "whole")
    assert losses_of(tmp_path / "whole")[1][0][2] == pytest.approx(rows[0][2], rel=0.2)


def test_training_learns(tmp_path):
    recipe = TINY.replace(epochs=5, lr=0.05, evaluate_every=5)
    record = run(recipe, tmp_path)
    assert record.final["train_loss"] < 0.5 * record.history[0]["train_loss"]


def test_compare_end_to_end(tmp_path, capsys):
    words = ["compare", "--recipe", "digits/detection", "--epochs", "1", "--seeds", "2", "--out", str(tmp_path)]
    words += ["--precision", "fp32", "--batch-size", "16"]
    words += ["--data-options", '{"canvas": 32, "num_train": 32, "num_test": 10}']
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "bam - none: " in printed and " points [" in printed and "AP50" in printed
    page = (tmp_path / "report.html").read_text()
    for expected in ('class="verdict"', "<th>MACs<th>AP<th>", "AP50<td>", "AP by seed, %"):
        assert expected in page
    pictures = sorted((tmp_path / "pictures").glob("*.png"))
    assert len(pictures) == 6 == page.count("data:image/png;base64,")
    assert page.count("bam at backbone.body.layer") >= 6
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [measure["label"] for measure in summary["measures"]][:2] == ["AP", "AP50"]
    assert summary["variants"][1]["sites"] == ["backbone.body.layer1", "backbone.body.layer2"]
    assert summary["variants"][1]["params"] - summary["variants"][0]["params"] == 519
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/model.safetensors")}
    assert len(weights) == 4 and cli.main(words) == 0
    assert weights == {path: path.stat().st_mtime_ns for path in weights}
    assert "epoch" not in capsys.readouterr().out
    assert all(f"{key}_percent" in (tmp_path / "summary.csv").read_text() for key in ("test_ap", "test_ap50"))
    for path in weights:  # removed to save space: the records are enough for all but new pictures
        path.unlink()
    pictures[0].unlink()
    assert cli.main(words) == 0
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64,") == 5


def test_variants_of_a_seed_see_the_same_images_from_the_same_weights():
    plain, attended = (Detection(TINY.replace(attention=name)).network(record_of(TINY)) for name in ("none", "bam"))
    state = attended.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())


def record_of(recipe):
    """What a network is built for, as a record tells it."""
    normalization = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    return Record(recipe.as_dict(), classes=list("ab"), image_size=[32, 32], normalization=normalization)


def scored(seed, ap):
    row = {"test_ap": ap, "test_ap50": ap, "train_loss": 1.0, "epoch": 1}
    record = record_of(TINY.replace(seed=seed))
    measures = [_MEASURES["test_ap"], _MEASURES["test_ap50"]]
    history, final = [row], row | {"images_per_second": 1.0}
    return dataclasses.replace(record, history=history, final=final, measures=measures, cost={"params": 1, "macs": 1})


def test_more_precision_is_better():
    plain = [scored(seed, 0.30 + 0.001 * seed) for seed in range(3)]
    for gain, verdict in ((0.05, "better"), (-0.05, "worse")):
        other = [scored(seed, 0.30 + gain + 0.002 * seed) for seed in range(3)]
        (comparison,) = summarize({"none": plain, "bam": other})["comparisons"]
        assert comparison["verdict"] == verdict and comparison["mean"] == pytest.approx(100 * gain + 0.1)


@pytest.mark.parametrize(
    "fields",
    [
        {"crop_padding": 4},
        {"flip": True},
        {"label_smoothing": 0.1},
        {"compile": True},
        {"pretrained": "x.pth", "freeze_backbone": True},
    ],
)
def test_fields_of_classification_are_refused(fields):
    name = list(fields)[-1]
    with pytest.raises(ValueError, match=f"{name} .* does not apply to the task detection"):
        TINY.replace(**fields)


@pytest.mark.parametrize("fields", [{"model_options": {"min_size": 96}}, {"backbone": "runs/x"}])
def test_fields_of_detection_are_refused(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=f"{name} .* does not apply to the task classification"):
        ClassificationRecipe().replace(**fields)
    with pytest.raises(ValueError, match="task must be one of classification, detection"):
        Recipe.from_dict({"task": "segmentation"})


def test_variants_may_have_backbones_of_their_own():
    plain, attended = split_specs("none(backbone=runs/plain),bam(backbone=runs/bam,reduction=8)")
    assert variant(TINY, plain) == TINY.replace(backbone="runs/plain")
    expected = TINY.replace(attention="bam", backbone="runs/bam", attention_options={"reduction": 8})
    assert variant(TINY, attended) == expected
    with pytest.raises(ValueError, match="without attention has no options"):
        variant(TINY, "none(backbone=runs/plain,reduction=8)")
    with pytest.raises(ValueError, match="backbone 'runs/x' does not apply to the task classification"):
        variant(ClassificationRecipe(), "bam(backbone=runs/x)")


def test_a_comparison_of_backbones(tmp_path):
    """Plain and attended detectors, each from a network that was trained for classification as it is."""
    classify = ClassificationRecipe(
        data_options={"canvas": 16, "num_train": 64, "num_test": 16}, batch_size=32, epochs=1
    )
    for name in ("none", "bam"):
        run(classify.replace(attention=name), tmp_path / name)
    variants = [f"{name}(backbone={tmp_path / name})" for name in ("none", "bam")]
    recipe = TINY.replace(epochs=1, lr=1e-9, data_options=TINY.data_options | {"num_train": 16, "num_test": 4})
    compare(recipe, variants, 1, tmp_path / "out")
    plan = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert plan["attention"] == variants and len(plan["pictures"]) == 4
    for name in ("none", "bam"):
        (folder,) = (tmp_path / "out").glob(f"{name}-backbone=*-seed0")
        saved, loaded = weights_of(tmp_path / name), weights_of(folder)
        keys = [key for key in saved if key.endswith("conv1.weight") or ".attention." in key and key.endswith("weight")]
        assert len(keys) == (28 if name == "bam" else 4)
        for key in keys:
            torch.testing.assert_close(loaded[f"backbone.body.{key}"], saved[key], atol=1e-5, rtol=0)


def test_a_comparison_is_checked_before_anything_is_trained(tmp_path):
    for recipe, message in (
        (TINY.replace(model="ssd_resnet9"), "unknown model 'ssd_resnet9'"),
        (TINY.replace(model_options={"min_size": 96}), "ssd_resnet8 with {'min_size': 96}"),
        (TINY.replace(data="cifar100"), "cifar100"),
        (TINY.replace(data_options={"augmentations": "flip"}), "there is no option augmentations"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(recipe, ["none", "bam"], 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_background_is_no_detection():
    """RetinaNet gives it as label 0, where all classes are unlikely."""
    output = {"boxes": torch.rand(3, 4), "scores": torch.rand(3), "labels": torch.tensor([2, 0, 1])}
    detected = Detections.of(output)
    assert detected.labels.tolist() == [2, 1] and torch.equal(detected.boxes, output["boxes"][[0, 2]])


@pytest.mark.parametrize(("train", "kind"), [("a", "test"), ("b", "training")])
def test_images_without_objects_are_refused(tmp_path, train, kind):
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    test = "ab".replace(train, "")
    write_voc(folder, {"a": voc_xml(voc_object("cat", (1, 1, 20, 20))), "b": voc_xml()}, trainval=[train], test=[test])
    with pytest.raises(ValueError, match=f"voc2007: the 1 {kind} images contain no objects to detect"):
        run(VOC, tmp_path / "run", RunOptions(data_root=tmp_path))


def test_frozen_normalisation_wants_weights():
    with pytest.raises(ValueError, match="would freeze untrained BatchNorms: give backbone or pretrained"):
        Detection(TINY.replace(batchnorm="frozen")).network(record_of(TINY))
