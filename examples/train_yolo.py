"""Train Ultralytics' YOLO with attention: `python examples/train_yolo.py data.yaml 10` for ten epochs.

`YOLO.train()` builds the network anew from its description, without what was attached to it. So the trainer attaches.
"""

import sys

from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer

import bam


class AttentionTrainer(DetectionTrainer):
    """Trains YOLO with BAM in its backbone; also resumes such a run (`resume=True`)."""

    def get_model(self, cfg=None, weights=None, verbose=True):
        """The network of `cfg` with attention, then with `weights`, which may hold the attention, too."""
        model = bam.attach(super().get_model(cfg, verbose=verbose), identity=True)
        if weights:
            model.load(weights)
        return model


if __name__ == "__main__":
    yolo = YOLO("yolo11n.yaml")
    yolo.train(trainer=AttentionTrainer, data=sys.argv[1], epochs=int(sys.argv[2]), imgsz=int((sys.argv + ["640"])[3]))
    sites = bam.attended(YOLO(yolo.trainer.best).model)
    print("attention of the best checkpoint at", ", ".join(sites) or "no site")
