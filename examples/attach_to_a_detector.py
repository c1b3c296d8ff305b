"""Attach attention to a torchvision detector, check that its detections stay the same, and train it for one step.

python examples/attach_to_a_detector.py
"""

import torch
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

import bam
from bam.data.boxes import Objects
from bam.tasks.detection.metrics import Detections, mean_average_precision, voc_average_precision

torch.manual_seed(0)
detector = fasterrcnn_mobilenet_v3_large_320_fpn(
    weights=None, weights_backbone=None, num_classes=3, box_score_thresh=0.0
)  # weights="DEFAULT" downloads pretrained weights
images = [torch.rand(3, 240, 320)]
before = detector.eval()(images)[0]

bam.attach(detector, identity=True)
after = detector(images)[0]
unchanged = all(torch.equal(before[key], after[key]) for key in before)
print(f"attention at {', '.join(bam.attended(detector))} - detections unchanged: {unchanged}")

optimizer = torch.optim.SGD(detector.parameters(), lr=0.01)
boxes, labels = torch.tensor([[40.0, 60.0, 200.0, 180.0]]), torch.tensor([1])
losses = detector.train()(images, [{"boxes": boxes, "labels": labels}])
torch.stack(list(losses.values())).sum().backward()
optimizer.step()
print("losses:", *losses)

truth = [Objects.of(boxes, labels)]
detections = [Detections(boxes + 8, torch.tensor([0.9]), labels)]  # shifted by 8 pixels: IoU 0.79
print("VOC 2007 mAP:", mean_average_precision(voc_average_precision(truth, detections, 2, rule="11 points")))
