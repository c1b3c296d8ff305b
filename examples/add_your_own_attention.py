"""Put your own attention module into a network, count its cost, see what it attends to, and compare it with BAM."""

import torch
from torch import nn
from torchvision.models import resnet18

import bam


class Gate(bam.AttentionModule):
    """One logit per channel, from the channel's mean: F * sigmoid(w * mean(F))."""

    usual_sites, starts_as_identity = "every block", True

    def __init__(self, channels: int, identity: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.scale = nn.Parameter(torch.zeros(1)) if identity else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in and out."""
        gated = features * torch.sigmoid(self.weight * features.mean((2, 3), keepdim=True))
        return gated if self.scale is None else features + self.scale * (gated - features)


if __name__ == "__main__":
    model, image = resnet18(), torch.randn(1, 3, 224, 224)
    plain = model.eval()(image)
    print(bam.find_bottlenecks(model).table(Gate))
    bam.attach(model, Gate, identity=True)
    print("unchanged at insertion:", torch.equal(model(image), plain))
    print("with Gate:", bam.cost(model))
    print("with BAM: ", bam.cost(bam.attach(bam.detach(model))))
    # bam compare --recipe digits/small --attention none,bam,add_your_own_attention:Gate
    # bam explain comparisons/digits-small/add_your_own_attention-Gate-seed0 IMAGES --trust-code
