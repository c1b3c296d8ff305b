import pytest
import torch
from torch import nn

import bam
from bam import select_sites
from bam.models import build
from bam.placement.blocks import find_blocks


@pytest.mark.parametrize(
    ("name", "image", "count", "first", "last"),
    [
        ("resnet18", 64, 8, "layer1.0.bn2", "layer4.1.bn2"),
        ("resnet50", 64, 16, "layer1.0.bn3", "layer4.2.bn3"),
        ("cifar/resnet20", 32, 9, "layer1.0.bn2", "layer3.2.bn2"),
        ("mobilenet_v2", 64, 10, "features.3.conv", "features.16.conv"),  # as many blocks have a shortcut
        ("convnext_tiny", 64, 18, "features.1.0.block", "features.7.2.block"),
        ("swin_t", 64, 24, "features.1.0.attn", "features.7.1.mlp"),  # an attention and an MLP each; the drop is shared
        ("timm/resnet26d", 64, 8, "layer1.0.bn3", "layer4.1.bn3"),  # shortcuts that pool
        ("timm/resnetv2_50", 64, 16, "stages.0.blocks.0.conv3", "stages.3.blocks.2.conv3"),  # pre-activation
        ("timm/res2net50d", 64, 16, "layer1.0.bn3", "layer4.2.bn3"),  # sums inside of the branch are no blocks
        ("timm/inception_resnet_v2", 149, 40, "repeat.0.conv2d", "block8.conv2d"),
    ],
)
def test_residual_branches(name, image, count, first, last):
    sites = find_blocks(build(name, 10), image)
    assert (len(sites), sites[0].label, sites[-1].label) == (count, first, last)


class Block(nn.Module):
    """A block whose branch ends with a function, and whose shortcut comes first in the sum."""

    def __init__(self, shortcut):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.shortcut = shortcut

    def forward(self, x):
        return torch.add(self.shortcut(x), 0.5 * self.conv(x).tanh())


def test_a_skip_over_many_blocks_is_no_block():
    class Skipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
            self.body = nn.Sequential(*(Block(nn.Identity()) for _ in range(3)))

        def forward(self, x):
            x = self.stem(x)
            return x + self.last(self.body(x))

    assert [site.label for site in find_blocks(Skipped(), 16)] == [f"body.{k}.conv" for k in range(3)]


def test_a_branch_may_end_with_a_function():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Block(nn.Identity()), Block(nn.Conv2d(4, 4, 1)))
    assert [site.label for site in find_blocks(net, 16)] == ["1.conv", "2.conv"]


@pytest.mark.parametrize(
    "shortcut",
    [
        nn.Conv2d(4, 4, 3, padding=1),  # two branches alike
        nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(4, 4, 1), nn.Upsample(scale_factor=2)),  # as in a U-Net
    ],
)
def test_other_sums_are_no_blocks(shortcut):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Block(shortcut))
    with pytest.raises(ValueError, match=r"no residual blocks .* pattern"):
        find_blocks(net, 16)


def test_every_block_is_a_choice_like_others(capsys):
    model = build("resnet18", 10).eval()
    sites = select_sites(model, ["every block", "layer1"], 64)
    assert [site.label for site in sites[:3]] == ["layer1.0.bn2", "layer1.1.bn2", "layer1"] and len(sites) == 9
    x = torch.randn(2, 3, 64, 64)
    before = model(x)
    bam.attach(model, "se", sites="every block", identity=True)
    assert len(bam.attended(model)) == 8 and torch.equal(model(x), before)
