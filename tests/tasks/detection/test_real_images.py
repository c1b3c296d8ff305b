"""A step and an evaluation on real images of VOC and COCO."""

import json

import pytest
import torch

from bam.recipes import DetectionRecipe, RunOptions
from bam.training import run, trained_model
from tests.conftest import SHARED_DATA

SMALL = DetectionRecipe(
    model="fasterrcnn_mobilenet_v3_large_fpn",
    model_options={"min_size": 96, "max_size": 128, "rpn_post_nms_top_n_test": 50, "box_score_thresh": 0.0},
    attention="bam",
    batch_size=2,
    epochs=1,
    lr=0.001,
    clip_norm=10.0,
    precision="fp32",
)


@pytest.mark.parametrize(
    ("data", "folder", "more", "classes"),
    [
        ("voc2007", "VOCdevkit", {"augmentation": "ssd"}, 20),
        ("coco", "coco", {"augmentation": "flip", "invalid": "drop", "train": "val2017"}, 80),
    ],
)
def test_real_images(tmp_path, data, folder, more, classes):
    if not (SHARED_DATA / folder).is_dir():
        # The images may not be copied into the project, and tests download nothing.
        pytest.skip(f"the images are not here: {SHARED_DATA / folder}")
    options = {"num_train": 2, "num_test": 3, "workers": 0} | more
    record = run(SMALL.replace(data=data, data_options=options), tmp_path, RunOptions(data_root=SHARED_DATA))
    assert record.num_classes == classes and record.measures[0].key == {"coco": "test_ap"}.get(data, "test_voc07")
    (row,) = record.history
    assert all(torch.isfinite(torch.tensor(value)) for value in row.values()) and 0 <= row["test_ap"] < 0.5
    assert len((tmp_path / "steps.csv").read_text().splitlines()) == 1 + 1
    truth, detected = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("ground_truth", "detections"))
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    assert len(sizes) == 3 and len(truth["categories"]) == classes and detected
    assert {entry["category_id"] for entry in detected} <= {category["id"] for category in truth["categories"]}
    for entry in detected:
        x, y, width, height = entry["bbox"]
        assert x >= 0 and y >= 0  # in pixels of the image, not of what the detector has resized
        assert x + width <= sizes[entry["image_id"]][0] + 0.1 and y + height <= sizes[entry["image_id"]][1] + 0.1
    assert max(entry["bbox"][0] + entry["bbox"][2] for entry in detected) > 128
    model, _ = trained_model(tmp_path)
    assert model.roi_heads.box_predictor.cls_score.out_features == classes + 1
