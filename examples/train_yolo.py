"""Train Ultralytics' YOLO with attention: `python examples/train_yolo.py data.yaml 10` for ten epochs.

`YOLO.train()` rebuilds the network from its description, without any attached attention. So the trainer attaches it.
"""

import sys

from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer

import bam


class AttentionTrainer(DetectionTrainer):
    """Train YOLO with BAM in its backbone; `resume=True` also works."""

    def get_model(self, cfg=None, weights=None, verbose=True):
        """Build the network of `cfg` with attention, then load `weights`, which may include the attention."""
        model = bam.attach(super().get_model(cfg, verbose=verbose), identity=True)
        if weights:
            model.load(weights)
        return model


if __name__ == "__main__":
    yolo = YOLO("yolo11n.yaml")
    yolo.train(trainer=AttentionTrainer, data=sys.argv[1], epochs=int(sys.argv[2]), imgsz=int((sys.argv + ["640"])[3]))
    sites = bam.attended(YOLO(yolo.trainer.best).model)
    print("attention of the best checkpoint at", ", ".join(sites) or "no site")
