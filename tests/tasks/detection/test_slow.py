"""The longer runs: learning real images by heart, and two processes."""

import json
import os
import subprocess
import sys

import pytest

from bam import cli
from bam.records import Record
from tests.conftest import SHARED_DATA


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED_DATA / "VOCdevkit").is_dir(), reason="VOC 2007 is not beside the checkout")
def test_sixteen_real_images_are_learnt_by_heart(tmp_path):
    command = ["train", "--recipe", "voc2007/overfit", "--attention", "bam", "--data-root", str(SHARED_DATA)]
    assert cli.main([*command, "--out", str(tmp_path / "run")]) == 0
    assert Record.read(tmp_path / "run").final["test_ap50"] > 0.9


@pytest.mark.slow
def test_two_processes_detect_every_image_once(tmp_path):
    command = ["bam", "train", "--recipe", "digits/detection", "--device", "cpu", "--epochs", "1"]
    options = json.dumps({"num_train": 128, "num_test": 33})  # an odd number: one process has an image more
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", *command]
        + ["--data-options", options, "--out", str(tmp_path / "run")],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    detected = json.loads((tmp_path / "run" / "detections.json").read_text())
    assert {row["image_id"] for row in detected} == set(range(1, 34))
    assert all(sum(row["image_id"] == k for row in detected) <= 200 for k in range(1, 34))
