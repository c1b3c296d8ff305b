"""BAM against the authors' structure at ResNet-50's three sites: time of a training step of the module, on a CPU.

    python benchmarks/module.py

"authors" is a restatement of the authors' code (expand both maps, multiply, average-pool). "released" is `bam.BAM` with
the same layers and results (`layout="released", combine="product"`), "bam" is `bam.BAM` as it comes, the paper's.
"""

from functools import partial

import torch
import torch.nn.functional as F
from timing import interleave, report
from torch import nn

from bam import BAM

SITES = ((256, 56), (512, 28), (1024, 14))
BATCH = 16


class Authors(nn.Module):
    """The structure of the authors' code, on the layers of a `BAM`."""

    def __init__(self, layers: BAM) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in and out."""
        channel, spatial = self.layers.channel, self.layers.spatial
        pooled = F.avg_pool2d(x, x.shape[2], stride=x.shape[2]).flatten(1)
        what = channel.expand(F.relu(channel.norm(channel.reduce(pooled))))[:, :, None, None].expand_as(x)
        where = spatial.project(spatial.context(F.relu(spatial.norm(spatial.reduce(x))))).expand_as(x)
        return (1 + torch.sigmoid(what * where)) * x


def step(module: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> None:
    """Forward and backward under bf16 autocast."""
    x.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    torch.autograd.backward(y, gradient.to(y.dtype))


def main() -> None:
    """Check that what should be equal is, then time a step of all three sites in turn."""
    torch.manual_seed(0)
    modules: dict[str, list[nn.Module]] = {"authors": [], "released": [], "bam": []}
    inputs = []
    for channels, side in SITES:
        released = BAM(channels, layout="released", combine="product")
        for name, module in (("authors", Authors(released)), ("released", released), ("bam", BAM(channels))):
            modules[name].append(module)
        x = torch.randn(BATCH, channels, side, side, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        inputs.append((x.requires_grad_(), torch.randn_like(x)))
        torch.testing.assert_close(released(x.float()), Authors(released)(x.float()), rtol=1e-4, atol=1e-4)

    def steps(name: str) -> None:
        for module, (x, gradient) in zip(modules[name], inputs, strict=True):
            step(module, x, gradient)

    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        times = interleave({name: partial(steps, name) for name in modules}, rounds=25)
        report("module", f"resnet50 sites, batch {BATCH}, bf16 channels_last, training", times)


if __name__ == "__main__":
    main()
