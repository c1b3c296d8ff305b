"""Networks whose maps are not plain (N, C, H, W) outputs of modules, or not all of the flow."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import get_model

import bam
from bam.placement.axes import NCHW, NHWC, FeatureMap, follow
from bam.placement.flow import trace
from bam.placement.operation import Operation


def labels(sites):
    return [(site.label, site.channels, site.stride, site.axes) for site in sites]


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
    twin.embed2.attention.register_forward_hook(lambda module, args, output: seen.append(output))
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
    def reshaped(shape, source, last_map):
        return follow(Operation(torch.reshape, (torch.empty(source),)), shape, [], last_map)

    x = torch.empty(1, 8, 4, 6)
    nhwc = x.permute(0, 2, 3, 1)
    last_map = FeatureMap((8, 4, 6))
    assert follow(Operation(torch.permute, (x, (0, 2, 3, 1))), nhwc.shape, [NCHW], last_map) == NHWC
    assert follow(Operation(torch.relu, (nhwc,)), nhwc.shape, [NHWC], last_map) == NHWC
    assert reshaped((1, 4, 6, 8), x.shape, last_map) == NHWC  # back from tokens
    assert reshaped((1, 2, 3, 32), x.shape, last_map) == NHWC  # blocks of 2 x 2 places
    assert reshaped((1, 32, 2, 3), x.shape, last_map) == NCHW
    assert reshaped((1, 2, 24, 4), x.shape, last_map) is None  # heads
    assert reshaped((1, 4, 6, 8), x.shape, None) is None
    cube = (4, 4, 4)  # here the sizes do not say which axis is which
    assert reshaped((1, *cube), (1, 16, 4), FeatureMap(cube)) == NHWC
    assert reshaped((1, *cube), (1, 4, 16), FeatureMap(cube)) == NCHW
    assert reshaped((1, *cube), (1, 2, 2, 2, 2, 4), FeatureMap(cube, NHWC)) == NHWC


class Shrinking(nn.Module):
    """Convolutions and poolings, for networks that do something of their own with them."""

    def __init__(self):
        super().__init__()
        self.l1, self.l2, self.l3 = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return F.max_pool2d(self.l3(F.max_pool2d(self.l2(F.max_pool2d(self.l1(x), 2)), 2)), 2).mean((2, 3))


class ListCache(Shrinking):
    def __init__(self):
        super().__init__()
        self.grids = [torch.ones(1)]

    def forward(self, x):
        self.grids[0] = self.grids[0].to(x.device).expand(1)
        return super().forward(x) * self.grids[0]


class LateBuffer(Shrinking):
    def forward(self, x):
        if "late" not in self._buffers:
            self.register_buffer("late", torch.ones(1, device=x.device))
        return super().forward(x) * self.late


class LateLayer(Shrinking):
    def forward(self, x):
        if not hasattr(self, "late"):
            self.late = nn.Linear(8, 2, device=x.device)
        return self.late(super().forward(x))


class ThroughNumpy(Shrinking):
    def forward(self, x):
        return super().forward(x) + torch.from_numpy(x.numpy()).mean()


class Scripted(Shrinking):
    def __init__(self):
        super().__init__()
        self.l3 = torch.jit.trace(self.l3, torch.zeros(1, 8, 4, 4))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("network", [ListCache, LateBuffer, LateLayer, ThroughNumpy, Scripted])
def test_whatever_a_network_does_in_forward_it_is_left_as_it_was(network):
    model = network()
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    assert [site.name for site in bam.find_bottlenecks(model, 32)][:2] == ["l1", "l2"]
    assert model.training and model.l1.training and model.l3.training
    assert {name: torch.equal(value, tensors[name]) for name, value in model.state_dict().items()} == dict.fromkeys(
        tensors, True
    )
    assert model(torch.randn(1, 3, 32, 32)).device.type == "cpu"
    assert not [m for m in model.modules() if m._forward_hooks]


def test_stages_that_are_reached_past_their_names_run_their_attention():
    class PlainList(Shrinking):
        def __init__(self):
            super().__init__()
            self.stages = [self.l1, self.l2, self.l3]

        def forward(self, x):
            for stage in self.stages:
                x = F.max_pool2d(stage(x), 2)
            return x

    model, image = PlainList().eval(), torch.randn(1, 3, 32, 32)
    plain = model(image)
    bam.attach(model, lambda channels: nn.Threshold(1e9, 0.0), image=32)
    assert list(bam.attended(model)) == ["l1", "l2", "l3"] and plain.any() and not model(image).any()


def test_stages_that_run_by_another_method_are_reported():
    class Stage(nn.Conv2d):
        def run(self, x):
            return super().forward(x)

    class Past(nn.Module):
        def __init__(self):
            super().__init__()
            self.l1, self.l2, self.l3 = Stage(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3)

        def forward(self, x):
            return self.l3(F.max_pool2d(self.l2(F.max_pool2d(self.l1.run(x), 2)), 2))

    model = Past()
    with pytest.raises(ValueError, match="l1' is called never|attention at l1 would run 0 times"):
        bam.attach(model, sites=["l1"], image=32)
    assert not bam.attended(model)


def test_an_encoder_that_is_only_a_stem_is_not_all_of_the_network():
    class Stem(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.l2, self.l3 = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)

        def forward(self, x):
            return F.max_pool2d(self.l3(F.max_pool2d(self.l2(F.max_pool2d(self.encoder(x), 2)), 2)), 2).mean((2, 3))

    assert [site.name for site in bam.find_bottlenecks(Stem(), 32)] == ["encoder", "l2", "l3"]


def test_two_streams_are_reported():
    class TwoStreams(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = Shrinking(), Shrinking()

        def forward(self, x):
            return torch.cat([self.one(x), self.two(x)], 1)

    sites = bam.find_bottlenecks(TwoStreams(), 32)
    assert {site.name.partition(".")[0] for site in sites} == {"two"} and len(sites.notes) == 1
    assert "a parallel stream of maps" in sites.notes[0]


def test_maps_written_into_another_tensor_are_followed():
    class Written(Shrinking):
        def forward(self, x):
            x = F.max_pool2d(self.l1(x), 2)
            out = torch.zeros_like(x)
            out[:, :4] = self.l2(x)[:, :4]
            out[:, 4:] = x[:, 4:]
            return F.max_pool2d(self.l3(F.max_pool2d(out, 2)), 2)

    assert [site.name for site in bam.find_bottlenecks(Written(), 32)][0] == "l1"
    assert bam.find_bottlenecks(Written(), 32)[-1].name == "l3"


@pytest.mark.parametrize("size", [(64, 64), 64, "wide"])
def test_an_attribute_input_size_of_another_kind_is_no_image_size(size):
    model = Shrinking()
    model.input_size = size
    assert len(bam.find_bottlenecks(model, 32)) == len(bam.find_bottlenecks(model)) == 3


@pytest.mark.parametrize("image", [224.0, "224", torch.zeros(3, 32, 32)])
def test_images_of_another_kind_are_refused(image):
    with pytest.raises(ValueError, match="image must be"):
        bam.find_bottlenecks(Shrinking(), image)


def test_the_error_for_two_inputs_says_what_to_do():
    class Two(Shrinking):
        def forward(self, x, y):
            return super().forward(x) + super().forward(y)

    with pytest.raises(
        ValueError, match="missing 1 required positional argument.*wrap a network that takes more than one"
    ):
        bam.find_bottlenecks(Two(), 32)


def test_the_trace_names_the_networks_operations_not_those_of_its_shortcuts():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    assert [node.op for node in trace(network, 8).nodes] == ["the image", "conv2d()", "batch_norm()", "relu()"]
