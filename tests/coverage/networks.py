"""Networks for the survey: one that works, and ones with something wrong."""

import os
import time

import torch.nn.functional as F
from torch import nn


class Small(nn.Module):
    """Two stages, with a down-sampling between."""

    input_size = (3, 32, 32)

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.two(F.max_pool2d(self.one(x), 2)).mean((2, 3))


class InPlace(Small):
    """It changes its first stage's output."""

    def forward(self, x):
        return self.two(F.max_pool2d(F.relu_(self.one(x)), 2)).mean((2, 3))


class Restless(Small):
    """Its output in eval mode is random."""

    def forward(self, x):
        return F.dropout(super().forward(x), training=True)


class Detached(Small):
    """No gradient reaches its first stage."""

    def forward(self, x):
        return F.max_pool2d(self.two(F.max_pool2d(self.one(x).detach(), 2)), 2).mean((2, 3))


class Fixed(Small):
    """It cannot be exported for any batch size."""

    def forward(self, x):
        return super().forward(x) * (2 if len(x) == 2 else 3)


class Flat(nn.Conv2d):
    """No down-sampling."""

    def __init__(self):
        super().__init__(3, 8, 3)


def dying():
    os._exit(1)


def slow():
    time.sleep(60)
