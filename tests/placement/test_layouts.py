"""Networks whose maps are not plain (N, C, H, W) outputs of modules, or not all of the flow."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import get_model

import bam
from bam.placement.axes import NCHW, NHWC, follow


def labels(sites):
    return [(site.label, site.channels, site.stride, site.layout) for site in sites]


def test_maps_with_channels_last_axis():
    sites = bam.find_bottlenecks(get_model("swin_t"))
    assert labels(sites) == [(f"features.{k}", 96 * k2, 4 * k2, "NHWC") for k, k2 in ((1, 1), (3, 2), (5, 4))]
    assert [(site.height, site.width) for site in sites] == [(56, 56), (28, 28), (14, 14)]


def test_attention_on_maps_with_channels_last_axis():
    class Gate(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.weight = nn.Parameter(torch.arange(1.0, channels + 1))

        def forward(self, x):
            assert x.shape[1] == len(self.weight)
            return x * self.weight[:, None, None]

    model = get_model("swin_t").eval()
    x = torch.randn(2, 3, 64, 64)
    plain = model.features[:2](x)
    bam.attach(model, Gate, sites=["features.1"])
    assert torch.equal(model.features[:2](x), plain * torch.arange(1.0, 97))
    y = model.features[0](x)
    for module in model.features[1]:  # whoever iterates over the stage gets the same
        y = module(y)
    assert torch.equal(y, plain * torch.arange(1.0, 97))


class Tokens(nn.Module):
    """A pyramid of token mixers: the maps between the stages are made outside of any module (as in Twins, CoaT)."""

    def __init__(self):
        super().__init__()
        self.embed1, self.embed2, self.embed3 = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 16, 2, 2), nn.Conv2d(16, 32, 2, 2)
        self.mix1, self.mix2 = nn.Linear(8, 8), nn.Linear(16, 16)

    def forward(self, x):
        for embed, mix in ((self.embed1, self.mix1), (self.embed2, self.mix2)):
            x = embed(x)
            n, c, h, w = x.shape
            x = mix(x.flatten(2).transpose(1, 2))
            x = F.scaled_dot_product_attention(x, x, x).reshape(n, h, w, c).permute(0, 3, 1, 2).contiguous()
        return self.embed3(x)


def test_maps_made_outside_of_modules_are_refined_where_they_enter_one():
    model = Tokens().eval()
    sites = bam.find_bottlenecks(model, 32)
    assert labels(sites) == [("before embed2", 8, 4, "NCHW"), ("before embed3", 16, 8, "NCHW")]
    twin = bam.attach(copy.deepcopy(model), lambda channels: nn.Threshold(0.1, 0.0), sites=sites, image=32)
    assert list(bam.attended(twin)) == ["before embed2", "before embed3"]
    seen = []
    model.embed2.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    twin.embed2.base.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.randn(1, 3, 32, 32)
    model(x), twin(x)
    assert torch.equal(F.threshold(seen[0], 0.1, 0.0), seen[1]) and not torch.equal(seen[0], seen[1])


def test_modules_that_hang_in_several_places_are_left_as_they_were():
    """CoaT shares modules between its blocks; torch.func.functional_call leaves meta tensors in such."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.one, self.two = nn.Sequential(self.norm), nn.Sequential(self.norm)

        def forward(self, x):
            return F.max_pool2d(self.two(self.one(self.stem(x))), 2)

    model = Shared().eval()
    before = {name: (id(value), value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    bam.find_bottlenecks(model, 16)
    after = model.state_dict(keep_vars=True)
    assert all(id(after[name]) == number and torch.equal(after[name], v) for name, (number, v) in before.items())


def test_cells_that_read_the_two_cells_before_them():
    """As in NASNet: no single map carries all of the flow, and that is told."""

    class Cell(nn.Module):
        def __init__(self, stride):
            super().__init__()
            self.old = nn.Conv2d(8, 8, 1)
            self.conv, self.stride = nn.Conv2d(8, 8, 3, padding=1), stride

        def forward(self, x, older):
            older = F.adaptive_avg_pool2d(self.old(older), x.shape[2:])
            return F.avg_pool2d(self.conv(x) + older, self.stride)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.cells = nn.ModuleList(Cell(stride) for stride in (1, 2, 1, 2, 1))

        def forward(self, x):
            x = older = self.stem(x)
            for cell in self.cells:
                x, older = cell(x, older), x
            return x

    sites = bam.find_bottlenecks(Net(), 32)
    assert [site.label for site in sites] == ["stem", "cells.2"]
    assert sites.notes == ("'cells.2' carries only a part of the flow at 16 x 16",)


def test_strips_and_small_maps_inside_of_attentions_are_not_the_deepest():
    class Block(nn.Module):
        def __init__(self, channels, pool):
            super().__init__()
            self.conv, self.gate = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 1)
            self.pool = pool

        def forward(self, x):
            x = self.conv(x)
            return x * F.interpolate(self.gate(F.adaptive_avg_pool2d(x, self.pool)), x.shape[2:]).sigmoid()

    def network(pool):
        down = (nn.Conv2d(8, 8, 2, 2) for _ in range(2))
        return nn.Sequential(nn.Conv2d(3, 8, 1), Block(8, pool), next(down), Block(8, pool), next(down), Block(8, pool))

    for pool in ((1, 8), (3, 3)):
        assert [site.name for site in bam.find_bottlenecks(network(pool), 32)] == ["1", "3"]


def test_padding_is_no_map_of_its_own():
    import timm

    model = timm.create_model("tf_efficientnet_b0")  # pads before each strided convolution
    assert [site.name for site in bam.find_bottlenecks(model)] == ["blocks.1", "blocks.2", "blocks.4"]


def test_stages_that_convolve_before_they_down_sample():
    """As in SHViT, EfficientViT, NesT: the site is the end of the stage before."""

    class Stage(nn.Sequential):
        def __init__(self):
            opening = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 2, 2))
            super().__init__(opening, *(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)))

    model = nn.Sequential(nn.Conv2d(3, 8, 1), Stage(), Stage())
    assert [site.name for site in bam.find_bottlenecks(model, 32)] == ["0", "1"]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_timm_networks_for_other_channels(channels):
    import timm

    assert len(bam.find_bottlenecks(timm.create_model("resnet18", in_chans=channels))) == 3


def test_axes_are_followed():
    x = torch.empty(1, 8, 4, 6)
    past = (8, 4, 6)
    nhwc = x.permute(0, 2, 3, 1)
    assert follow(torch.permute, "permute", (x, (0, 2, 3, 1)), {}, [NCHW], nhwc.shape, past) == NHWC
    assert follow(torch.relu, "relu", (nhwc,), {}, [NHWC], nhwc.shape, past) == NHWC
    assert follow(torch.reshape, "reshape", (x,), {}, [], (1, 4, 6, 8), past) == NHWC  # back from tokens
    assert follow(torch.reshape, "reshape", (x,), {}, [], (1, 2, 3, 32), past) == NHWC  # blocks of 2 x 2 places
    assert follow(torch.reshape, "reshape", (x,), {}, [], (1, 32, 2, 3), past) == NCHW
    assert follow(torch.reshape, "reshape", (x,), {}, [], (1, 2, 24, 4), past) is None  # heads
    cube = (4, 4, 4)  # sizes alone do not tell
    assert follow(torch.reshape, "reshape", (torch.empty(1, 16, 4),), {}, [], (1, 4, 4, 4), cube) == NHWC
    assert follow(torch.reshape, "reshape", (torch.empty(1, 4, 16),), {}, [], (1, 4, 4, 4), cube) == NCHW
    assert follow(torch.reshape, "reshape", (torch.empty(1, 2, 2, 2, 2, 4),), {}, [], (1, *cube), cube, NHWC) == NHWC
