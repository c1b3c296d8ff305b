"""Other structures of BAM, on the layers of a `bam.BAM`, for the benchmarks to compare with."""

from torch import Tensor, nn
from torch.nn import functional as F

from bam import BAM


class Released(nn.Module):
    """The structure of the authors' code, restated: average pooling, both maps expanded, multiplied, gated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = BAM(channels, layout="released", combine="product")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in and out; equals `layers(x)` up to rounding."""
        channel, spatial = self.layers.channel, self.layers.spatial
        pooled = F.avg_pool2d(x, x.shape[2:], stride=x.shape[2:]).flatten(1)
        what = channel.expand(F.relu(channel.norm(channel.reduce(pooled))))[:, :, None, None].expand_as(x)
        where = spatial.project(spatial.context(F.relu(spatial.norm(spatial.reduce(x))))).expand_as(x)
        return (1 + F.sigmoid(what * where)) * x


class Plain(nn.Module):
    """The paper's equations, each as a PyTorch operation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = BAM(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in and out; equals `layers(x)` up to rounding."""
        channel, spatial = self.layers.channel, self.layers.spatial
        return x + x * F.sigmoid(channel(x.mean((2, 3))) + spatial(spatial.reduce(x)))
