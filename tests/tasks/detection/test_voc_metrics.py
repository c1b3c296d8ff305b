"""PASCAL VOC's average precision: cases by hand, and a naive restatement of the protocol on random sets."""

import math
import random

import pytest
import torch

from bam.data.boxes import Objects
from bam.tasks.detection.metrics import Detections, average_precision, mean_average_precision, voc_average_precision

RULES = ("11 points", "area")
BOX, FAR = (0, 0, 10, 10), (100, 100, 110, 110)


def objects(*boxes, labels=None, difficult=()):
    labels = torch.tensor(labels or [1] * len(boxes), dtype=torch.int64)
    ignored = torch.tensor([i in difficult for i in range(len(boxes))], dtype=torch.bool)
    return Objects.of(torch.tensor(boxes, dtype=torch.float32), labels, ignored)


def detections(*scored, labels=None):
    boxes = torch.tensor([box for box, _ in scored], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor([score for _, score in scored], dtype=torch.float32)
    return Detections(boxes, scores, torch.tensor(labels or [1] * len(scored), dtype=torch.int64))


def one_class(truth, detected, rule="area", **options):
    return voc_average_precision(truth, detected, 1, rule=rule, **options).item()


# The protocol once more, in plain Python and with nothing shared.


def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def naive(truth, detected, label, threshold, rule):
    boxes = [
        [(b, i) for b, k, i in zip(o.boxes.tolist(), o.labels.tolist(), o.ignored.tolist(), strict=True) if k == label]
        for o in truth
    ]
    positives = sum(not ignored for image in boxes for _, ignored in image)
    if positives == 0:
        return math.nan
    ranked = []
    for image, d in enumerate(detected):
        for n in range(len(d)):
            if int(d.labels[n]) == label:
                ranked.append((-float(d.scores[n]), image, n))
    taken, hits, misses, curve = set(), 0, 0, []
    for _, image, n in sorted(ranked):
        best, at = 0.0, None
        for j, (box, _) in enumerate(boxes[image]):
            if overlap(detected[image].boxes[n].tolist(), box) > best:
                best, at = overlap(detected[image].boxes[n].tolist(), box), j
        if at is not None and best >= threshold:
            if boxes[image][at][1]:
                continue
            hits, misses = (hits, misses + 1) if (image, at) in taken else (hits + 1, misses)
            taken.add((image, at))
        else:
            misses += 1
        curve.append((hits, hits / (hits + misses)))
    if rule == "11 points":  # recall >= t / 10, in whole numbers
        return sum(max((p for h, p in curve if 10 * h >= t * positives), default=0) for t in range(11)) / 11
    return sum(max((p for h, p in curve if h >= needed), default=0) for needed in range(1, positives + 1)) / positives


def random_set(seed):
    rng = random.Random(seed)
    truth, detected = [], []
    for _ in range(rng.randint(1, 6)):
        count = rng.choice([0, 1, 2, 3, 6])
        boxes = []
        for _ in range(count):
            x, y = rng.randint(0, 12), rng.randint(0, 12)
            boxes.append((x, y, x + rng.randint(1, 8), y + rng.randint(1, 8)))
        labels = [rng.randint(1, 3) for _ in boxes]
        truth.append(objects(*boxes, labels=labels, difficult=[i for i in range(count) if rng.random() < 0.25]))
        scored, kinds = [], []
        for _ in range(rng.choice([0, 0, 2, 5, 12])):
            if boxes and rng.random() < 0.8:  # near an object, or on it
                at = rng.randrange(count)
                x, y, x2, y2 = boxes[at]
                box = (x - rng.randint(0, 1), y - rng.randint(0, 1), x2 + rng.randint(0, 1), y2 + rng.randint(0, 1))
                kinds.append(labels[at] if rng.random() < 0.8 else rng.randint(1, 3))
            else:
                box = (0, 0, rng.randint(0, 10), rng.randint(0, 10))  # also without an area
                kinds.append(rng.randint(1, 3))
            scored.append((box, rng.choice([0.1, 0.5, 0.5, 0.9, rng.random()])))
        detected.append(detections(*scored, labels=kinds))
    if seed % 20 == 0:
        detected = [detections() for _ in detected]
    if seed % 20 == 1:
        truth = [objects() for _ in truth]
    return truth, detected


@pytest.mark.parametrize("rule", RULES)
def test_is_the_protocol_on_random_sets(rule):
    values = []
    for seed in range(300):
        truth, detected = random_set(seed)
        threshold = (0.5, 0.3, 0.75)[seed % 3]
        measured = voc_average_precision(truth, detected, 3, iou=threshold, rule=rule)
        expected = [naive(truth, detected, label, threshold, rule) for label in (1, 2, 3)]
        assert measured.tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True), seed
        values += expected
    assert sum(map(math.isnan, values)) > 20 and values.count(0.0) > 20 and values.count(1.0) > 20
    assert sum(0 < value < 1 for value in values) > 200  # the sets are worth something


@pytest.mark.parametrize("rule", RULES)
def test_all_correct_is_1(rule):
    truth = [objects(BOX, FAR), objects(), objects(BOX)]
    detected = [detections((FAR, 0.3), (BOX, 0.9)), detections(), detections((BOX, 0.1))]
    assert one_class(truth, detected, rule) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_found_is_0_and_nothing_to_find_is_nan(rule):
    assert one_class([objects(BOX)], [detections()], rule) == 0
    assert math.isnan(one_class([objects()], [detections((BOX, 0.9))], rule))
    assert math.isnan(one_class([objects(BOX, difficult=[0])], [detections((BOX, 0.9))], rule))
    assert math.isnan(one_class([], [], rule))


def test_a_second_detection_of_an_object_is_wrong():
    # Falling: right, duplicate, right -> recall 1/2, 1/2, 1 and precision 1, 1/2, 2/3.
    # Area: 1/2 * 1 + 1/2 * 2/3 = 5/6. Points: 0 to 0.5 are 6 times 1, 0.6 to 1 are 5 times 2/3.
    truth = [objects(BOX, FAR)]
    detected = [detections((FAR, 0.1), (BOX, 0.9), (BOX, 0.5))]
    assert one_class(truth, detected, "area") == pytest.approx(5 / 6)
    assert one_class(truth, detected, "11 points") == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_a_duplicate_does_not_get_the_second_best_object():
    # Both detections overlap most with the first object (IoU 1); the second object, 9/11 away, stays unfound:
    # recall 1/2 at precision 1.
    truth = [objects(BOX, (0, 1, 10, 11))]
    assert one_class(truth, [detections((BOX, 0.9), (BOX, 0.8))]) == pytest.approx(1 / 2)


def test_difficult_objects_absorb_detections():
    # Two detections on the difficult object do not count, though they come first: the one that remains is right.
    truth = [objects(FAR, BOX, difficult=[0])]
    detected = [detections((FAR, 0.9), (FAR, 0.8), (BOX, 0.1))]
    assert one_class(truth, detected) == 1
    # And a difficult object that overlaps more takes the detection from the one that counts.
    truth = [objects((0, 0, 10, 9), BOX, difficult=[1])]
    assert one_class(truth, [detections((BOX, 0.9))]) == 0


def test_ties_keep_the_order_of_images_then_of_detections():
    # Right before wrong: precision 1 at recall 1. Wrong before right: 1/2.
    empty, full = objects(), objects(BOX)
    assert one_class([full, empty], [detections((BOX, 0.5)), detections((BOX, 0.5))]) == 1
    assert one_class([empty, full], [detections((BOX, 0.5)), detections((BOX, 0.5))]) == 1 / 2
    assert one_class([full], [detections((BOX, 0.5), (FAR, 0.5))]) == 1
    assert one_class([full], [detections((FAR, 0.5), (BOX, 0.5))]) == 1 / 2
    many = [detections((BOX, 0.5), *[(FAR, 0.5)] * 100)]  # more than a sort takes without looking at stability
    assert one_class([full], many) == 1


@pytest.mark.parametrize("tenths", range(11))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_exact_tenths_of_recall_reach_their_point(tenths, dtype):
    # Of 10 objects the first `tenths` are found: precision 1 at the recalls 0, 0.1, ..., tenths / 10.
    detected = detections(*[((20 * i, 0, 20 * i + 10, 10), 1 - i / 100) for i in range(tenths)])
    truth = objects(*[(20 * i, 0, 20 * i + 10, 10) for i in range(10)])
    expected = (tenths + 1) / 11 if tenths else 0
    assert one_class([truth], [detected], "11 points") == pytest.approx(expected, abs=1e-12)
    recall = torch.arange(1, tenths + 1, dtype=dtype) / 10
    assert average_precision(recall, torch.ones(tenths, dtype=dtype), "11 points") == pytest.approx(expected)


@pytest.mark.parametrize("positives", [30, 4528, 100_000])
def test_just_under_a_tenth_does_not_reach_it(positives):
    recall = torch.tensor([3 * positives // 10 - 1], dtype=torch.float64) / positives
    assert average_precision(recall, torch.ones(1), "11 points") == pytest.approx(3 / 11)


def test_rules_differ():
    # One of three objects, precision 1: area 1/3; points 0, 0.1, 0.2, 0.3 -> 4/11.
    truth = [objects(BOX), objects(FAR), objects(FAR)]
    detected = [detections((BOX, 0.9)), detections(), detections()]
    assert one_class(truth, detected, "area") == pytest.approx(1 / 3)
    assert one_class(truth, detected, "11 points") == pytest.approx(4 / 11)


def test_precision_is_the_best_at_the_recall_or_more():
    # Wrong, right, right: precision 0, 1/2, 2/3 -> 2/3 everywhere.
    curve = torch.tensor([0, 0.5, 1]), torch.tensor([0, 1 / 2, 2 / 3])
    for rule in RULES:
        assert average_precision(*curve, rule) == pytest.approx(2 / 3)


def test_overlap_of_exactly_the_threshold_is_enough():
    # 50 of 100 pixels: IoU 1/2. With 49: less.
    assert one_class([objects(BOX)], [detections(((0, 0, 5, 10), 0.9))]) == 1
    assert one_class([objects(BOX)], [detections(((0, 0, 4.9, 10), 0.9))]) == 0
    assert one_class([objects(BOX)], [detections(((0, 0, 6, 10), 0.9))], iou=0.6) == 1


def test_boxes_are_half_open():
    # VOC's (1, 1, 10, 10) and (1, 1, 10, 5), both ends inclusive, are 100 and 50 pixels: IoU 1/2 with "+ 1", and 4/9
    # without. Here they are (0, 0, 10, 10) and (0, 0, 10, 5).
    assert one_class([objects(BOX)], [detections(((0, 0, 10, 5), 0.9))]) == 1
    assert one_class([objects((1, 1, 10, 10))], [detections(((1, 1, 10, 5), 0.9))]) == 0


def test_images_and_classes_are_apart():
    # The box is right, but in another image: 0; or of another class.
    assert one_class([objects(BOX), objects()], [detections(), detections((BOX, 0.9))]) == 0
    result = voc_average_precision([objects(BOX, labels=[2])], [detections((BOX, 0.9), labels=[1])], 3)
    assert result[1] == 0 and result[[0, 2]].isnan().all()
    # An object of another class on the same place takes nothing.
    both = [objects(BOX, BOX, labels=[1, 2])], [detections((BOX, 0.9), (BOX, 0.8), labels=[2, 1])]
    result = voc_average_precision(*both, 2)
    assert result.tolist() == [1, 1] and result.dtype == torch.float64


def test_the_mean_leaves_out_classes_without_objects():
    assert mean_average_precision(torch.tensor([1, math.nan, 0.5])) == 0.75
    assert math.isnan(mean_average_precision(torch.tensor([math.nan])))


def test_inputs_stay_as_they_are():
    truth, detected = random_set(7)
    before = [t.clone() for o in truth for t in (o.boxes, o.labels, o.ignored)]
    before += [t.clone() for d in detected for t in (d.boxes, d.scores, d.labels)]
    voc_average_precision(truth, detected, 3)
    after = [t for o in truth for t in (o.boxes, o.labels, o.ignored)]
    after += [t for d in detected for t in (d.boxes, d.scores, d.labels)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("truth", "detected", "options", "message"),
    [
        ([objects(BOX)], [], {}, "the ground truth has 1 images, but the detections have 0"),
        ([objects(BOX, labels=[2])], [detections()], {}, "an object of image 0 has the label 2"),
        ([objects(BOX)], [detections((BOX, 0.5), labels=[-1])], {}, "a detection in image 0 has the label -1"),
        ([objects(BOX)], [detections((BOX, math.nan))], {}, "a detection in image 0 .* not finite"),
        ([objects(BOX)], [detections(((0, 0, math.inf, 1), 0.5))], {}, "a detection in image 0 .* not finite"),
        ([objects(BOX)], [detections()], {"iou": 0}, "more than 0 and at most 1, got 0"),
        ([objects(BOX)], [detections()], {"rule": "12 points"}, "not '12 points'"),
        ([objects(BOX)], [detections()], {"num_classes": 0}, "at least one class, got 0"),
    ],
)
def test_refuses_in_a_sentence(truth, detected, options, message):
    with pytest.raises(ValueError, match=message):
        voc_average_precision(truth, detected, **{"num_classes": 1} | options)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(n, 4\).*not \(2, 4\), \(1,\), \(2,\)"):
        Detections(torch.zeros(2, 4), torch.zeros(1), torch.ones(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="same shape"):
        average_precision(torch.zeros(2), torch.zeros(3))
    assert len(detections((BOX, 0.5), (FAR, 0.5))) == 2 and len(detections()) == 0
