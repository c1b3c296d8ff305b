"""Networks of a few thousand parameters, which recipes of the tests name as "tests.networks:...": for quick runs."""

from torch import nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD


def _stage(channels, out):
    return nn.Sequential(nn.Conv2d(channels, out, 3, 2, padding=1), nn.BatchNorm2d(out), nn.ReLU())


class TinyClassifier(nn.Module):
    """Two stages, each half as large as the one before."""

    input_size = (3, 16, 16)

    def __init__(self, num_classes):
        super().__init__()
        self.stage1, self.stage2 = _stage(3, 8), _stage(8, 16)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.fc(self.stage2(self.stage1(x)).mean((2, 3)))


class TinyBackbone(nn.Module):
    """Two maps, at strides 8 and 16."""

    out_channels = [16, 16]

    def __init__(self):
        super().__init__()
        self.stage1 = nn.Sequential(*_stage(3, 8), *_stage(8, 16))
        self.stage2, self.stage3 = _stage(16, 16), _stage(16, 16)

    def forward(self, x):
        x = self.stage2(self.stage1(x))
        return {"0": x, "1": self.stage3(x)}


def tiny_classifier(num_classes):
    return TinyClassifier(num_classes)


def tiny_detector(num_classes):
    anchors = DefaultBoxGenerator([[2], [2]], min_ratio=0.3, max_ratio=0.6)
    return SSD(TinyBackbone(), anchors, (32, 32), num_classes)
