"""Attention in your own network: see where it would go and what it costs, and choose the sites.

python examples/your_own_network.py
bam sites --model examples.your_own_network:small_net
"""

import torch
import torch.nn.functional as F
from torch import nn

import bam


class SmallNet(nn.Module):
    """Three convolutions with pooling and activations as functions."""

    input_size = (1, 28, 28)  # the image size for finding sites; or pass image= below

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.conv3, self.head = nn.Conv2d(64, 128, 3, padding=1), nn.Linear(128, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 1, H, W) -> logits (N, num_classes)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.head(F.relu(self.conv3(x)).mean((2, 3)))


def small_net(num_classes: int = 10) -> nn.Module:
    """Build the network for `--model examples.your_own_network:small_net`."""
    return SmallNet(num_classes)


if __name__ == "__main__":
    model = small_net()
    print(bam.find_bottlenecks(model))
    bam.attach(model, sites="conv?", reduction=8)  # a pattern that selects every convolution
    print("attention at", *bam.attended(model), "-", bam.cost(model))
