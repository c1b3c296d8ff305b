"""Put an attention module of your own into a network, price it, and compare it with BAM's count."""

import torch
from torch import nn
from torchvision.models import resnet18

import bam


class Gate(nn.Module):
    """One logit a channel from the mean of that channel: F * (0.5 + sigmoid(w * mean(F)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in and out."""
        return features * (0.5 + torch.sigmoid(self.weight * features.mean((2, 3), keepdim=True)))


model = resnet18()
image = torch.randn(1, 3, 224, 224)
plain = model.eval()(image)

sites = bam.find_bottlenecks(model)
print(sites.table(Gate))
bam.attach(model, Gate, sites=sites)
print("unchanged at insertion:", torch.equal(model(image), plain))
print("with Gate:", bam.cost(model))
print("with BAM: ", bam.cost(bam.attach(bam.detach(model))))
