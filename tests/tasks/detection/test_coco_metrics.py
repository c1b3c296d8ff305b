"""COCO's numbers on cases worked out by hand, and COCO's files."""

import json
import logging
import math
import sys

import pytest
import torch

from bam.data.boxes import Objects
from bam.tasks.detection.metrics import Detections, coco_ground_truth, coco_metrics, coco_results

NAMES = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
NAMES += ["ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"]
BOX, FAR = (0, 0, 50, 50), (200, 200, 250, 250)  # 2500 square pixels: medium


def objects(*boxes, labels=None, crowds=(), areas=None):
    labels = torch.tensor(labels or [1] * len(boxes), dtype=torch.int64)
    ignored = torch.tensor([i in crowds for i in range(len(boxes))], dtype=torch.bool)
    areas = None if areas is None else torch.tensor(areas, dtype=torch.float32)
    return Objects.of(torch.tensor(boxes, dtype=torch.float32), labels, ignored, areas)


def detections(*scored, labels=None):
    boxes = torch.tensor([box for box, _ in scored], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor([score for _, score in scored], dtype=torch.float32)
    return Detections(boxes, scores, torch.tensor(labels or [1] * len(scored), dtype=torch.int64))


def metrics(truth, detected, classes=("cat",)):
    return coco_metrics(truth, detected, [(480, 640)] * len(truth), classes)


def test_perfect_detections_are_1_where_there_are_objects():
    result = metrics([objects(BOX), objects(FAR)], [detections((BOX, 0.9)), detections((FAR, 0.2))])
    assert list(result) == NAMES and all(type(value) is float for value in result.values())
    absent = {"ap_small", "ap_large", "ar_small", "ar_large"}
    assert {name for name in NAMES if math.isnan(result[name])} == absent
    assert [result[name] for name in NAMES if name not in absent] == pytest.approx([1] * 8)


def test_overlap_decides_at_which_thresholds_a_box_is_found():
    # 29 of 50 rows: IoU 0.58, which is enough at 0.5 and 0.55 of ten thresholds.
    result = metrics([objects(BOX)], [detections(((0, 0, 50, 29), 0.9))])
    assert [result[name] for name in ("ap", "ap50", "ap75", "ar100")] == pytest.approx([0.2, 1, 0, 0.2])
    # 39 of 50 rows: 0.78, enough at 0.5, ..., 0.75.
    result = metrics([objects(BOX)], [detections(((0, 0, 50, 39), 0.9))])
    assert [result[name] for name in ("ap", "ap50", "ap75", "ar100")] == pytest.approx([0.6, 1, 1, 0.6])


def test_average_precision_takes_101_points():
    # Right, wrong, right, of two objects: precision 1 at recall 0, ..., 0.5 (51 points) and 2/3 at 0.51, ..., 1 (50).
    detected = [detections((BOX, 0.9), ((400, 0, 450, 50), 0.8), (FAR, 0.7))]
    result = metrics([objects(BOX, FAR)], detected)
    assert result["ap"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    # The best detection alone finds one of two, all of them find both.
    assert (result["ar1"], result["ar10"], result["ar100"]) == pytest.approx((0.5, 1, 1))


def test_recall_is_limited_to_so_many_detections():
    # Twelve objects, each found: the best 1 and 10 detections find 1/12 and 10/12.
    boxes = [(100 * i, 0, 100 * i + 50, 50) for i in range(12)]
    result = metrics([objects(*boxes)], [detections(*[(box, 0.9) for box in boxes])])
    assert (result["ar1"], result["ar10"], result["ar100"]) == pytest.approx((1 / 12, 10 / 12, 1))


def test_crowds_absorb_detections():
    # Three detections inside the crowd come first; as wrong ones they would leave precision 1/4.
    inside = [((300 + 10 * i, 0, 340 + 10 * i, 40), 0.9) for i in range(3)]
    detected = [detections(*inside, (BOX, 0.1))]
    crowd = (290, 0, 400, 60)
    assert metrics([objects(crowd, BOX, crowds=[0])], detected)["ap"] == pytest.approx(1)
    assert metrics([objects(BOX)], detected)["ap"] == pytest.approx(1 / 4)
    # Where there are only crowds, there is nothing to find.
    assert math.isnan(metrics([objects(crowd, crowds=[0])], detected)["ap"])


def test_areas_come_from_the_objects():
    # One box of 20 x 20 = 400 < 32^2, found; one of 50 x 50, found; one of 100 x 100 = 10000 > 96^2, missed.
    small, large = (100, 100, 120, 120), (300, 300, 400, 400)
    detected = [detections((small, 0.9), (BOX, 0.8))]
    result = metrics([objects(small, BOX, large)], detected)
    assert [
        result[f"{kind}_{size}"] for kind in ("ap", "ar") for size in ("small", "medium", "large")
    ] == pytest.approx([1, 1, 0, 1, 1, 0])
    # The mask of an object is smaller than its box: areas, where given, decide.
    result = metrics([objects(BOX, areas=[1000.0])], [detections((BOX, 0.9))])
    assert result["ap_small"] == pytest.approx(1) and math.isnan(result["ap_medium"])


def test_classes_are_averaged_and_absent_ones_left_out():
    # Class 1 found, class 2 taken for class 1 (with less score), class 3 without objects: (1 + 0) / 2.
    truth, detected = [objects(BOX, FAR, labels=[1, 2])], [detections((BOX, 0.9), (FAR, 0.8), labels=[1, 1])]
    assert metrics(truth, detected, ["cat", "dog", "bird"])["ap"] == pytest.approx(1 / 2)


def test_no_detections_are_0_and_no_objects_nan():
    result = metrics([objects(BOX), objects()], [detections(), detections()])
    assert [result[name] for name in NAMES if not math.isnan(result[name])] == [0] * 8
    for detected in (detections(), detections((BOX, 0.9))):
        assert all(math.isnan(value) for value in metrics([objects()], [detected]).values())
    assert all(math.isnan(value) for value in metrics([], []).values())


def test_nothing_is_printed_logged_written_or_changed(capfd, caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    truth, detected = [objects(BOX, FAR, crowds=[1])], [detections((BOX, 0.9), (FAR, 0.8))]
    tensors = [truth[0].boxes, truth[0].labels, truth[0].ignored, truth[0].areas]
    tensors += [detected[0].boxes, detected[0].scores, detected[0].labels]
    before = [tensor.clone() for tensor in tensors]
    with caplog.at_level(logging.DEBUG):
        metrics(truth, detected)
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))
    assert not list(tmp_path.iterdir())


def test_wide_boxes_are_not_changed_by_writing_them():
    detected = Detections(torch.tensor([[1.0, 2, 4, 8]], dtype=torch.float64), torch.ones(1), torch.ones(1).long())
    assert coco_results([detected], [1], [1])[0]["bbox"] == [1, 2, 3, 6]
    assert detected.boxes.tolist() == [[1, 2, 4, 8]]


def test_json_is_coco_s():
    truth = [objects((1, 2, 4, 8), labels=[2], areas=[9.0]), objects(), objects(BOX, (0, 0, 2.5, 3), crowds=[1])]
    written = coco_ground_truth(truth, [7, 5, 9], ["a", "b", "c"], [(30, 40), (8, 8), (5, 6)], ["cat", "dog"], [17, 18])
    assert written["images"][0] == {"id": 7, "file_name": "a", "height": 30, "width": 40}
    assert [image["id"] for image in written["images"]] == [7, 5, 9]
    assert written["categories"] == [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    assert written["annotations"] == [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 6], "area": 9, "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 17, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0},
        {"id": 3, "image_id": 9, "category_id": 17, "bbox": [0, 0, 2.5, 3], "area": 7.5, "iscrowd": 1},
    ]
    detected = [detections(), detections(((1, 2, 4, 8), 0.5), (BOX, 0.25), labels=[2, 1])]
    results = coco_results(detected, [7, 5], [17, 18])
    assert results == [
        {"image_id": 5, "category_id": 18, "bbox": [1, 2, 3, 6], "score": 0.5},
        {"image_id": 5, "category_id": 17, "bbox": [0, 0, 50, 50], "score": 0.25},
    ]
    assert json.loads(json.dumps([written, results])) == [written, results]
    assert type(written["info"]) is dict


def test_files_give_the_same_numbers(tmp_path):
    from faster_coco_eval import COCO, COCOeval_faster

    generator = torch.Generator().manual_seed(0)
    truth, detected = [], []
    for _ in range(12):
        corners = torch.rand(5, 2, generator=generator) * 200
        boxes = torch.cat([corners, corners + 5 + torch.rand(5, 2, generator=generator) * 150], 1)
        labels = torch.randint(1, 4, (5,), generator=generator)
        truth.append(Objects.of(boxes, labels, torch.rand(5, generator=generator) < 0.2))
        moved = boxes.repeat(2, 1) + torch.randn(10, 4, generator=generator) * 4
        detected.append(Detections(moved, torch.rand(10, generator=generator), labels.repeat(2)))
    classes, ids, sizes = ["cat", "dog", "bird"], [3, 8, 90], [(400, 400)] * 12
    images = list(range(100, 112))
    names = [f"{image}.jpg" for image in images]
    (tmp_path / "truth.json").write_text(json.dumps(coco_ground_truth(truth, images, names, sizes, classes, ids)))
    (tmp_path / "found.json").write_text(json.dumps(coco_results(detected, images, ids)))
    read = COCO(str(tmp_path / "truth.json"))
    tool = COCOeval_faster(read, read.loadRes(str(tmp_path / "found.json")), iouType="bbox")
    tool.run()
    result = coco_metrics(truth, detected, sizes, classes)
    assert [result[name] for name in NAMES] == pytest.approx(tool.stats.tolist(), abs=1e-12)
    assert 0.1 < result["ap"] < result["ap50"] < 0.9 and all(0 < value < 1 for value in result.values())


def test_a_missing_tool_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError) as error:
        metrics([objects(BOX)], [detections()])
    assert str(error.value) == "COCO's metrics need faster_coco_eval: pip install 'bottleneck-attention[detect]'"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics([objects(BOX)], []), "1 images, but the detections have 0"),
        (lambda: metrics([objects(BOX, labels=[2])], [detections()]), "the label 2, but classes go from 1 to 1"),
        (lambda: metrics([objects(BOX)], [detections((BOX, 1), labels=[0])]), "a detection in image 0 has the label 0"),
        (lambda: metrics([objects(BOX)], [detections((BOX, math.nan))]), "not finite"),
        (lambda: coco_metrics([objects(BOX)], [detections()], [], ["cat"]), "1 ids of images, but sizes has 0"),
        (lambda: coco_results([detections((BOX, 1), labels=[0])], [4], [1]), "a detection in image 4 has the label 0"),
        (lambda: coco_results([detections(((0, 0, 1, math.inf), 1))], [4], [1]), "image 4 .* not finite"),
        (lambda: coco_results([detections()] * 2, [4, 4], [1]), "the ids of the images must be unique"),
        (lambda: coco_results([detections()], [4, 5], [1]), "2 ids of images, but detections has 1"),
        (lambda: coco_ground_truth([objects(BOX)], [1], ["a"], [(9, 9)], ["cat"], [1, 2]), "but classes has 1"),
        (
            lambda: coco_ground_truth([], [], [], [], ["cat", "dog"], [1, 1]),
            "the ids of the classes must be unique",
        ),
        (lambda: coco_ground_truth([objects(BOX)], [1], [], [(9, 9)], ["cat"], [1]), "file_names has 0"),
        (
            lambda: coco_ground_truth([objects(BOX, labels=[0])], [3], ["a"], [(9, 9)], ["cat"], [1]),
            "object of image 3",
        ),
    ],
)
def test_refuses_in_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
