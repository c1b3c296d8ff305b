import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import get_model

import bam
from bam.models import build
from bam.placement import find_last_map

TABLE = {  # (name, channels, side) of the sites for 224 x 224
    "resnet18": [("layer1", 64, 56), ("layer2", 128, 28), ("layer3", 256, 14)],
    "resnet50": [("layer1", 256, 56), ("layer2", 512, 28), ("layer3", 1024, 14)],
    "densenet121": [
        ("features.denseblock1", 256, 56),
        ("features.denseblock2", 512, 28),
        ("features.denseblock3", 1024, 14),
    ],
    "vgg16": [("features.15", 256, 56), ("features.22", 512, 28), ("features.29", 512, 14)],
    "vgg16_bn": [("features.22", 256, 56), ("features.32", 512, 28), ("features.42", 512, 14)],
    "convnext_tiny": [("features.1", 96, 56), ("features.3", 192, 28), ("features.5", 384, 14)],
    "efficientnet_b0": [("features.2", 24, 56), ("features.3", 40, 28), ("features.5", 112, 14)],
    "mobilenet_v2": [("features.3", 24, 56), ("features.6", 32, 28), ("features.13", 96, 14)],
    "mobilenet_v3_large": [("features.3", 24, 56), ("features.6", 40, 28), ("features.12", 112, 14)],
    "regnet_y_400mf": [
        ("trunk_output.block1", 48, 56),
        ("trunk_output.block2", 104, 28),
        ("trunk_output.block3", 208, 14),
    ],
    "googlenet": [("conv3", 192, 56), ("inception3b", 480, 28), ("inception4e", 832, 14)],
    "shufflenet_v2_x1_0": [("maxpool", 24, 56), ("stage2", 116, 28), ("stage3", 232, 14)],
    "squeezenet1_1": [("features.1", 64, 111), ("features.4", 128, 55), ("features.7", 256, 27)],
    "maxvit_t": [("blocks.0", 64, 56), ("blocks.1", 128, 28), ("blocks.2", 256, 14)],
}


@pytest.mark.parametrize("name", list(TABLE))
def test_torchvision_sites(name):
    sites = bam.find_bottlenecks(get_model(name, **({"init_weights": False} if name == "googlenet" else {})))
    assert [(s.name, s.channels, s.height) for s in sites] == TABLE[name]
    assert all(s.width == s.height and s.feeds for s in sites) and not sites.notes


@pytest.mark.parametrize("name", ["cifar/resnet20", "cifar/resnet50"])
def test_cifar_sites(name):
    expected = {
        "cifar/resnet20": [("layer1", 16, 32), ("layer2", 32, 16)],
        "cifar/resnet50": [("layer1", 256, 32), ("layer2", 512, 16), ("layer3", 1024, 8)],
    }
    assert [(s.name, s.channels, s.height) for s in bam.find_bottlenecks(build(name, 100))] == expected[name]


@pytest.mark.parametrize("name", ["resnetv2_50", "dla34", "edgenext_small", "mobilevit_s", "convnext_atto"])
def test_timm_sites_are_the_levels_of_feature_info(name):
    """Among them networks that turn their maps to (N, H, W, C), or to (N, places, C), and back."""
    import timm

    model = timm.create_model(name)
    side = model.pretrained_cfg["input_size"][1]
    levels = {(info["num_chs"], side // info["reduction"]) for info in model.feature_info}
    sites = bam.find_bottlenecks(model)
    assert len(sites) == 3 and {(s.channels, s.height) for s in sites} <= levels


def test_parallel_branches_are_reported():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.pool = nn.MaxPool2d(2)
            self.high = nn.Conv2d(8, 8, 3, padding=1)
            self.low = nn.Conv2d(8, 8, 3, stride=8, padding=1)

        def forward(self, x):
            x = self.pool(self.stem(x))
            return F.max_pool2d(self.high(x), 8) + self.low(x)

    sites = bam.find_bottlenecks(Parallel(), 64)
    assert [s.name for s in sites] == ["stem"]
    assert sites.notes == ("no site between 32 x 32 and 4 x 4: no single map there carries all of the flow",)
    with pytest.warns(UserWarning, match="no site between 32 x 32 and 4 x 4"):
        bam.attach(Parallel(), image=64)


def test_pooling_at_the_end_of_a_stage():
    """The site is before the pooling inside the stage, not after the stage before it."""

    def stage(before, after):
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2))

    sites = bam.find_bottlenecks(nn.Sequential(stage(3, 8), stage(8, 16), nn.Flatten()), 32)
    assert [(s.name, s.height, s.feeds) for s in sites] == [("0.2", 32, "0.3"), ("1.2", 16, "1.3")]


class Functional(nn.Module):
    """Down-sampling and activations as functions, as in many tutorials."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return F.avg_pool2d(self.conv2(x), 2).mean((2, 3))


def test_functional_pooling():
    sites = bam.find_bottlenecks(Functional(), (3, 20, 36))
    assert [(s.name, s.height, s.width, s.feeds) for s in sites] == [
        ("conv1", 20, 36, "relu()"),
        ("conv2", 10, 18, "avg_pool2d()"),
    ]


class UNet(nn.Module):
    """The encoder's maps are read again by the decoder: still its down-samplings have sites."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.bottom = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))
        self.up2, self.up1 = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(16, 2, 3, padding=1)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        low = self.bottom(F.max_pool2d(two, 2))
        x = self.up2(torch.cat([F.interpolate(low, scale_factor=2), two], 1))
        return self.up1(torch.cat([F.interpolate(x, scale_factor=2), one], 1))


def test_u_net():
    assert [s.name for s in bam.find_bottlenecks(UNet(), 32)] == ["down1", "down2"]


class SharedActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.more = nn.Parameter(torch.randn(8, 8, 3, 3))
        self.relu = nn.ReLU()

    def forward(self, x):
        x = F.max_pool2d(self.relu(F.conv2d(x, self.weight)), 2)
        return F.max_pool2d(self.relu(F.conv2d(x, self.more)), 2)


def test_what_cannot_be_located_is_reported_with_the_reason():
    with pytest.raises(ValueError, match=r"'relu', which is called 2 times") as error:
        bam.find_bottlenecks(SharedActivation(), (3, 32, 32))
    assert "sites=[" in str(error.value)
    with pytest.raises(ValueError, match=r"has no down-sampling(.|\n)*sites=\["):
        bam.find_bottlenecks(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), 32)
    with pytest.raises(ValueError, match="no down-sampling"):
        bam.find_bottlenecks(get_model("vit_b_16"))


def test_some_down_samplings_without_a_site_become_notes():
    class Half(SharedActivation):
        def __init__(self):
            super().__init__()
            self.last = nn.Conv2d(8, 8, 3)

        def forward(self, x):
            return F.max_pool2d(self.last(super().forward(x)), 2)

    sites = bam.find_bottlenecks(Half(), (3, 64, 64))
    assert [s.name for s in sites] == ["last"] and len(sites.notes) == 2
    assert "note: no site before the down-sampling" in str(sites)


def test_slices_and_keep():
    model = get_model("squeezenet1_1")
    sites = bam.find_bottlenecks(model)
    assert sites[-2:] == bam.find_bottlenecks(model, keep=2)
    assert isinstance(sites[-2:], bam.Sites) and isinstance(sites[0], bam.Site)
    assert list(bam.attended(bam.attach(model, sites=sites[-2:]))) == ["features.4", "features.7"]


def test_image_may_be_a_tensor_or_a_size():
    model = build("cifar/resnet20", 10)
    expected = bam.find_bottlenecks(model, 48)
    for image in ((48, 48), (3, 48, 48), (1, 3, 48, 48), torch.zeros(2, 3, 48, 48)):
        assert bam.find_bottlenecks(model, image) == expected
    for bad in ((3,), 0, (1, 2, 3, 4, 5)):
        with pytest.raises(ValueError, match="image must be"):
            bam.find_bottlenecks(model, bad)


def test_models_whose_flow_depends_on_values_run_for_real():
    class Deciding(Functional):
        def forward(self, x):
            assert not x.abs().max() > 1
            return super().forward(x)

    assert [s.name for s in bam.find_bottlenecks(Deciding(), 16)] == ["conv1", "conv2"]


def test_an_image_that_the_model_cannot_take_is_reported():
    with pytest.raises(ValueError, match=r"AlexNet cannot run on an image of shape \(3, 32, 32\).*image="):
        bam.find_bottlenecks(get_model("alexnet"), 32)
    with pytest.raises(ValueError, match=r"cannot run on an image of shape \(1, 64, 64\)"):
        bam.cost(get_model("resnet18"), (1, 64, 64))
    with pytest.raises(ValueError, match="keep must be at least 1"):
        bam.find_bottlenecks(get_model("resnet18"), keep=0)


def test_caches_are_left_as_they_were():
    class Caching(Functional):
        table = None

        def forward(self, x):
            if self.table is None:
                self.table = torch.ones(1, device=x.device)
            return super().forward(x * self.table)

    model = Caching()
    bam.find_bottlenecks(model, 16)
    assert model.table is None and model(torch.zeros(1, 3, 16, 16)).device.type == "cpu"


def test_no_trace_is_left():
    class Failing(Functional):
        def forward(self, x):
            super().forward(x)
            raise LookupError("as it happens")

    refusal = pytest.raises(ValueError, match=r"Failing cannot run on an image.*\(as it happens\)")
    for model in (Functional(), Failing()):
        model.train()
        model.conv1.eval()
        state = {key: value.clone() for key, value in model.state_dict().items()}
        with refusal if isinstance(model, Failing) else contextlib.nullcontext():
            bam.find_bottlenecks(model, 16)
        hooks = [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]
        assert not hooks and model.training and not model.conv1.training
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert all(p.device.type == "cpu" for p in model.parameters())


def test_table():
    text = str(bam.find_bottlenecks(get_model("resnet50")))
    assert text.splitlines()[0].split() == ["site", "channels", "H", "x", "W", "stride", "feeds", "+params", "+MACs"]
    assert text.splitlines()[1].split() == ["layer1", "256", "56", "x", "56", "4", "layer2", "17,875", "27.35", "M"]
    assert text.splitlines()[-1].split() == ["total", "361,657", "82.15", "M"]


@pytest.mark.parametrize(
    ("network", "name", "channels", "side"),
    [
        ("resnet18", "layer4", 512, 7),
        ("vgg16", "avgpool", 512, 7),
        ("densenet121", "features", 1024, 7),
        ("mobilenet_v2", "features", 1280, 7),
        ("swin_t", "permute", 768, 7),
    ],
)
def test_the_last_map_is_what_a_classifier_pools(network, name, channels, side):
    site = find_last_map(get_model(network))
    assert (site.label, site.channels, site.height, site.width) == (name, channels, side, side)


def test_a_network_that_does_not_down_sample_has_no_last_map():
    with pytest.raises(bam.placement.NoDownSampling):
        find_last_map(get_model("vit_b_16"))
