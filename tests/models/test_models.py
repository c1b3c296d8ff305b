import math

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

import bam
from bam import cli
from bam.models import MODELS, build
from bam.models.mobilenet import MobileNet
from bam.models.preactivation import PreactivationBasicBlock, PreactivationBottleneck
from bam.models.residual import stride_first, strided_kernel

# Name -> parameters of the network, with BAM in the paper's layout, with BAM in the released layout; and billions of
# multiply-adds without and with BAM. They agree with a recount of the BAM paper's tables that was made from other code
# before this one was written, to the four digits that it gives; parameters are also counted by hand below.
GOLDEN = {
    "cifar/resnet20": (278_324, 278_843, 278_743, "0.0408", "0.0409"),
    "cifar/resnet18": (11_220_132, 11_244_025, 11_243_123, "0.5555", "0.5572"),
    "cifar/resnet34": (21_328_292, 21_352_185, 21_351_283, "1.1594", "1.1611"),
    "cifar/resnet110": (1_736_564, 1_737_083, 1_736_983, "0.2532", "0.2532"),
    "cifar/resnet50": (23_705_252, 24_066_909, 24_063_319, "1.2980", "1.3250"),
    "cifar/resnet50_v1": (23_705_252, 24_066_909, 24_063_319, "1.2225", "1.2495"),
    "cifar/resnet101": (42_697_380, 43_059_037, 43_055_447, "2.5102", "2.5371"),
    "cifar/resnet101_v1": (42_697_380, 43_059_037, 43_055_447, "2.4347", "2.4616"),
    "cifar/preresnet110": (1_726_388, 1_732_406, 1_732_018, "0.2477", "0.2488"),
    "cifar/preresnet110_v1": (1_726_388, 1_732_406, 1_732_018, "0.2445", "0.2456"),
    "cifar/wide_resnet28_8": (23_401_012, 23_423_602, 23_422_830, "3.3601", "3.3646"),
    "cifar/wide_resnet28_10": (36_536_884, 36_571_720, 36_570_756, "5.2434", "5.2504"),
    "cifar/resnext29_8x64d": (34_518_948, 34_606_362, 34_604_822, "5.3874", "5.4052"),
    "cifar/resnext29_8x64d_v1": (34_518_948, 34_606_362, 34_604_822, "4.9847", "5.0026"),
    "cifar/resnext29_16x64d": (68_247_460, 68_334_874, 68_333_334, "10.6890", "10.7068"),
    "cifar/resnext29_16x64d_v1": (68_247_460, 68_334_874, 68_333_334, "9.8837", "9.9015"),
    "cifar/densenet100_bc": (800_032, 835_487, 834_451, "0.2880", "0.2969"),
    "resnet18": (11_689_512, 11_713_405, 11_712_503, "1.8141", "1.8192"),
    "resnet50": (25_557_032, 25_918_689, 25_915_099, "4.0892", "4.1713"),
    "paper/resnet50": (25_557_032, 25_918_689, 25_915_099, "3.8580", "3.9401"),
    "resnet101": (44_549_160, 44_910_817, 44_907_227, "7.8014", "7.8836"),
    "paper/resnet101": (44_549_160, 44_910_817, 44_907_227, "7.5702", "7.6523"),
    "resnext50_32x4d": (25_028_904, 25_390_561, 25_386_971, "4.2305", "4.3126"),
    "paper/resnext50_32x4d": (25_028_904, 25_390_561, 25_386_971, "3.7681", "3.8502"),
    "paper/wide_resnet18_1.5": (25_875_816, 25_928_283, 25_926_933, "3.8663", "3.8779"),
    "paper/wide_resnet18_2.0": (45_618_216, 45_710_345, 45_708_547, "6.6957", "6.7163"),
    "paper/mobilenet": (4_231_976, 4_324_105, 4_322_307, "0.5687", "0.5893"),
    "paper/mobilenet_0.7": (2_298_747, 2_343_338, 2_342_080, "0.2830", "0.2923"),
}

# The same of the residual attention network. Its paper prints 31.9 and 51.3 million parameters for ImageNet.
GOLDEN |= {
    "cifar/attention56": (1_105_876, 1_111_894, 1_111_506, "0.1208", "0.1219"),
    "cifar/attention92": (2_356_180, 2_362_198, 2_361_810, "0.2061", "0.2072"),
    "imagenet/attention56": (31_814_312, 32_175_969, 32_172_379, "6.2708", "6.3530"),
    "imagenet/attention92": (52_475_048, 52_836_705, 52_833_115, "10.5338", "10.6159"),
}


def on_meta(name, num_classes=None):
    with torch.device("meta"):
        return build(name, num_classes)


def billions(cost):
    return f"{cost.macs / 1e9:.4f}"


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_counts(name):
    params, paper, released, macs, attended_macs = GOLDEN[name]
    plain = bam.cost(on_meta(name))
    assert (plain.params, billions(plain)) == (params, macs)
    with torch.device("meta"):
        model = bam.attach(build(name))
    attended = bam.cost(model)
    assert (attended.params, billions(attended)) == (paper, attended_macs)
    channels = [module.channels for module in bam.attended(model).values()]
    official = [p.numel() for c in channels for p in bam.BAM(c, layout="released").parameters()]
    assert params + sum(official) == released


def test_mobilenet_at_192_pixels():
    net = on_meta("paper/mobilenet")
    assert billions(bam.cost(net, 192)) == "0.4181"
    with torch.device("meta"):
        assert billions(bam.cost(bam.attach(net), 192)) == "0.4332"


@pytest.mark.parametrize(
    ("name", "params", "released", "macs"),
    [  # the paper's "BAM-C", from the same recount
        ("cifar/resnet50_v1", "28.9500", "28.9197", "1.3678"),
        pytest.param("cifar/preresnet110_v1", "2.1565", "2.1402", "0.2749", marks=pytest.mark.slow),
        ("cifar/wide_resnet28_8", "23.7695", "23.7623", "3.3871"),
        ("cifar/resnext29_8x64d_v1", "35.6039", "35.5931", "5.0655"),
    ],
)
def test_attention_in_every_block(name, params, released, macs):
    with torch.device("meta"):
        attended = bam.cost(bam.attach(build(name), sites="every block"))
        official = bam.attach(build(name), sites="every block", layout="released")
    assert (f"{attended.params / 1e6:.4f}", billions(attended)) == (params, macs)
    assert f"{sum(p.numel() for p in official.parameters()) / 1e6:.4f}" == released


def chained(block, channels, widths, blocks, expansion=1):
    """Parameters of stages of residual blocks; `block` counts one from what it takes and its width."""
    total = 0
    for width in widths:
        total += block(channels, width) + (blocks - 1) * block(expansion * width, width)
        channels = expansion * width
    return total


def by_hand(name):
    """Parameters counted from the papers: convolutions, 2 per channel of each normalisation, classifier and biases."""

    def basic(c, w):
        return 9 * c * w + 2 * w + 9 * w * w + 2 * w + (c * w + 2 * w) * (c != w)

    def wide(c, w):
        return 2 * c + 9 * c * w + 2 * w + 9 * w * w + c * w * (c != w)

    def preactivation(c, w):
        return 2 * c + c * w + 2 * w + 9 * w * w + 2 * w + 4 * w * w + 4 * c * w * (c != 4 * w)

    def grouped(groups):
        def block(c, w):
            inner = groups * w
            convolutions = c * inner + 9 * inner * w + inner * 4 * w
            return convolutions + 2 * (2 * inner + 4 * w) + (4 * c * w + 8 * w) * (c != 4 * w)

        return block

    family, _, rest = name.removeprefix("cifar/").partition("_")
    if family.startswith("resnext29"):
        groups = int(rest.partition("x")[0])
        return 27 * 64 + 128 + chained(grouped(groups), 64, (64, 128, 256), 3, 4) + 1025 * 100
    if family == "wide":
        k = int(rest.rpartition("_")[2])
        return 27 * 16 + chained(wide, 16, (16 * k, 32 * k, 64 * k), 4) + 128 * k + (64 * k + 1) * 100
    if family == "preresnet110":
        return 27 * 16 + chained(preactivation, 16, (16, 32, 64), 18, 4) + 512 + 257 * 100
    blocks = (int(family.removeprefix("resnet")) - 2) // 6
    return 27 * 16 + 32 + chained(basic, 16, (16, 32, 64), blocks) + 65 * 100


@pytest.mark.parametrize(
    "name",
    [
        *("cifar/resnet8", "cifar/resnet20", "cifar/resnet110", "cifar/preresnet110"),
        *("cifar/wide_resnet28_8", "cifar/wide_resnet28_10", "cifar/resnext29_8x64d", "cifar/resnext29_16x64d"),
    ],
)
def test_parameters_by_hand(name):
    assert sum(p.numel() for p in on_meta(name).parameters()) == by_hand(name)


@pytest.mark.parametrize("modules", [(1, 1, 1), (1, 2, 3)])
@pytest.mark.parametrize("small", [True, False])
def test_attention_networks_by_hand(small, modules):
    def unit(c, w):
        return 2 * c + c * w + 2 * w + 9 * w * w + 2 * w + 4 * w * w + 4 * c * w * (c != 4 * w)

    stem, depths, last = (16, (2, 1, 1), 256) if small else (64, (3, 2, 1), 2048)
    total, channels = (27 if small else 147) * stem + 2 * stem, stem
    for width, number, depth in zip((stem, 2 * stem, 4 * stem), modules, depths, strict=True):
        units = 4 + 2 * depth + (depth - 1)
        module = units * unit(4 * width, width) + 2 * (4 * width * (4 * width + 1) + 2 * 4 * width)
        total += unit(channels, width) + number * module
        channels = 4 * width
    total += unit(channels, last // 4) + 2 * unit(last, last // 4) + 2 * last
    classes = 100 if small else 1000
    depth_of_trunk = 2 + 3 * (3 + 4 * sum(modules) + 3)
    name = f"{'cifar' if small else 'imagenet'}/attention{depth_of_trunk}"
    assert sum(p.numel() for p in on_meta(name).parameters()) == total + (last + 1) * classes


def test_densenet_and_mobilenet_by_hand():
    channels, params = 24, 27 * 24
    for stage in range(3):
        for _ in range(16):
            params += 2 * channels + channels * 48 + 2 * 48 + 9 * 48 * 12
            channels += 12
        if stage < 2:
            params += 2 * channels + channels * (channels // 2)
            channels //= 2
    params += 2 * channels + (channels + 1) * 100
    assert sum(p.numel() for p in on_meta("cifar/densenet100_bc").parameters()) == params
    for name, width in (("paper/mobilenet", 1.0), ("paper/mobilenet_0.7", 0.7)):
        widths = [int(width * c) for c in (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)]
        blocks = sum(9 * c + 2 * c + c * w + 2 * w for c, w in zip(widths, widths[1:], strict=False))
        expected = 29 * widths[0] + blocks + (widths[-1] + 1) * 1000
        assert sum(p.numel() for p in on_meta(name).parameters()) == expected


@pytest.mark.parametrize("name", MODELS)
def test_the_papers_sites_are_found(name):
    found = [(site.name, site.channels) for site in bam.find_bottlenecks(on_meta(name))]
    if name == "cifar/densenet100_bc":
        assert found == [("features.denseblock1", 216), ("features.denseblock2", 300)]
    elif "mobilenet" in name:
        channels = (89, 179, 358) if "0.7" in name else (128, 256, 512)
        assert found == list(zip(("layer2", "layer3", "layer4"), channels, strict=True))
    else:
        four_stages = hasattr(on_meta(name), "layer4")
        assert [site for site, _ in found] == ["layer1", "layer2", "layer3"][: 3 if four_stages else 2]


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_reaches_every_parameter(name):
    model, side = build(name, 7).train(), 16 if name.startswith("cifar/") else 64
    logits = model(torch.randn(2, 3, side, side))
    assert logits.shape == (2, 7)
    nn.functional.cross_entropy(logits, torch.tensor([1, 5])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert any(parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_sizes_and_classes(name):
    model = on_meta(name)
    small = name.startswith("cifar/")
    assert model.input_size == ((3, 32, 32) if small else (3, 224, 224))
    classifier = getattr(model, "fc", None) or model.classifier
    assert classifier.out_features == (100 if small else 1000)
    seen = {}
    first = model.features.denseblock1 if "densenet" in name else model.layer1
    first.register_forward_hook(lambda module, inputs, output: seen.update(size=output.shape[2:]))
    assert model(torch.empty(2, *model.input_size, device="meta")).shape == (2, 100 if small else 1000)
    assert seen["size"] == ((32, 32) if small else (112, 112) if "mobilenet" in name else (56, 56))


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("_v1")])
def test_v1_differs_in_strides_only(name):
    original, modern = on_meta(name), on_meta(name.removesuffix("_v1"))
    assert (strided_kernel(original), strided_kernel(modern)) == ("1x1", "3x3")
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (original, modern)]
    assert shapes[0] == shapes[1] and list(shapes[0]) == list(shapes[1])
    twice = stride_first(stride_first(modern))
    for one, other in zip(twice.modules(), original.modules(), strict=True):
        if isinstance(one, nn.Conv2d):
            assert one.stride == other.stride
        if isinstance(one, Bottleneck | PreactivationBottleneck):
            assert one.conv2.stride == (1, 1)


def test_where_blocks_stride():
    torchvisions = [strided_kernel(on_meta(name)) for name in ("resnet50", "resnet18", "mobilenet_v2")]
    assert torchvisions == ["3x3", "", ""]
    papers = [on_meta(name) for name in MODELS if name.startswith("paper/res")]
    assert {strided_kernel(net) for net in papers} == {"1x1"}
    assert all(net.layer2[0].conv1.stride == (2, 2) and net.layer2[1].conv1.stride == (1, 1) for net in papers)


@pytest.mark.parametrize(("block", "last"), [(PreactivationBasicBlock, "conv2"), (PreactivationBottleneck, "conv3")])
def test_the_branch_ends_in_a_module(block, last):
    x, seen = torch.randn(2, 16, 8, 8), {}
    for channels, width, stride in ((16, 16 // block.expansion, 1), (16, 8, 2)):
        made = block(channels, width, stride).eval()
        made.get_submodule(last).register_forward_hook(lambda module, inputs, output: seen.update(branch=output))
        nn.init.uniform_(made.bn1.running_mean)
        output = made(x)
        activated = nn.functional.relu(made.bn1(x))
        shortcut = x if stride == 1 else nn.functional.conv2d(activated, made.downsample.weight, stride=2)
        torch.testing.assert_close(output, shortcut + seen["branch"])
        assert output.shape == (2, width * block.expansion, 8 // stride, 8 // stride)
        assert (made.downsample is None) == (stride == 1)


@pytest.mark.parametrize("name", ["cifar/resnet20", "cifar/wide_resnet28_8", "cifar/densenet100_bc", "paper/mobilenet"])
def test_convolutions_are_drawn_as_he_et_al(name):
    fan = {"mode": "fan_in"} if "densenet" in name else {"mode": "fan_out"}  # each as torchvision's of that family
    for module in build(name, 10).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            expected = math.sqrt(2 / nn.init._calculate_correct_fan(module.weight, **fan))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert module.bias is None and abs(module.weight.mean().item()) < 0.1 * expected


def test_mobilenet_is_timms():
    timm = pytest.importorskip("timm")  # an independent implementation, of the same parameters in the same order
    other = timm.create_model("mobilenetv1_100", num_classes=10, act_layer=nn.ReLU).eval()
    mine = MobileNet(1.0, 10).eval()
    values = list(other.state_dict().values())
    mine.load_state_dict(dict(zip(mine.state_dict(), values, strict=True)))
    image = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(mine(image), other(image))


def test_the_table_of_models(capsys):
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["network", "parameters", "MACs", "strides", "paper"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1 : 1 + len(MODELS)]}
    assert list(rows) == list(MODELS)
    assert rows["paper/resnet50"] == ["25,557,032", "3.858", "G", "1x1", "He", "et", "al.,", "arXiv", "1512.03385"]
    assert rows["cifar/resnet50"][:4] == ["23,705,252", "1.298", "G", "3x3"]
    assert rows["paper/mobilenet"][:4] == ["4,231,976", "568.7", "M", "Howard"]
    assert "timm/<name>" in lines[-2] and "<module>:<function>" in lines[-1]


def test_a_plain_function_serves_as_a_model(monkeypatch):
    monkeypatch.setitem(MODELS, "linear", lambda classes: nn.Linear(3, classes))
    assert build("linear").out_features == 100 and build("linear", 5).out_features == 5
    assert MODELS["cifar/resnet8"](5).fc.out_features == 5


def test_torchvision_and_timm_by_name():
    assert build("mobilenet_v2", 5)(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert build("timm/resnet18", 5)(torch.randn(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet51", "resnet50"), ("timm/resnet19", "timm/resnet18"), ("cifar/resnet19", "cifar/resnet18")],
)
def test_unknown_names_tell_the_near_ones(name, near):
    with pytest.raises(ValueError, match=f"unknown model '{name}'; near: .*{near}"):
        build(name, 5)
