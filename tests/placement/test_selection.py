import copy
import functools

import pytest
from torch import nn
from torchvision.models import get_model

import bam
from bam.costs import format_count


@pytest.fixture(scope="module")
def resnet():
    return get_model("resnet18")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("layer2", ["layer2"]),
        (["layer3", "layer1"], ["layer1", "layer3"]),
        ("layer?.*", [f"layer{k}.{b}" for k in (1, 2, 3, 4) for b in (0, 1)]),
        ("layer[12]", ["layer1", "layer2"]),
        (-1, ["layer3"]),
        (["0", "-1"], ["layer1", "layer3"]),
        ("stride 8", ["layer2"]),
        ("stride 2", ["relu"]),
        ("before layer2", ["before layer2"]),
        (["before layer[34]", 0], ["layer1", "before layer3", "before layer4"]),
        (bam.Site("layer1", 64, 56, 56), ["layer1"]),
        ("input", ["before conv1"]),
        ("3x3 convolutions of the last stage", [f"before layer4.{b}.conv{k}" for b in (0, 1) for k in (1, 2)]),
        ("3x3 convolutions of stride 8", [f"before layer2.{b}.conv{k}" for b in (0, 1) for k in (1, 2)]),
    ],
)
def test_selection(resnet, wanted, found):
    assert [site.label for site in bam.select_sites(resnet, wanted)] == found


def test_a_number_is_a_name_where_there_is_such_a_module():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1), nn.MaxPool2d(2))
    assert [site.name for site in bam.select_sites(model, ["1"], 16)] == ["1"]
    assert [site.name for site in bam.select_sites(model, [1], 16)] == ["2"]  # an int is always a position
    assert [site.name for site in bam.select_sites(model, ["-1"], 16)] == ["2"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("layer9", "no module 'layer9'; near: 'layer4'"),
        ("layer2.0.relu", "called 2 times.*near: 'layer2.0', 'layer2'"),
        ("fc", r"shape \(1, 1000\): attention needs one feature map.*near: '"),
        ("layer?.*.relu", "no module that matches 'layer.*' is called once and returns one feature map; near: '"),
        ("stage*", r"no module matches 'stage\*'; near: 'layer4'"),
        (7, r"no bottleneck at position 7; choose from 0 \(layer1\), 1 \(layer2\), 2 \(layer3\)"),
        ("stride 5", r"no bottleneck has stride '5'; choose from 2 \(relu\), 4 \(layer1\)"),
        ("before fc", r"takes a tensor of shape \(1, 512\)"),
        ("", "no module ''"),
        ([], "at least one of them"),
        (True, "at least one of them"),
        ([None], "at least one of them"),
    ],
)
def test_errors_name_the_nearest_valid_sites(resnet, wanted, message):
    with pytest.raises(ValueError, match=message):
        bam.select_sites(resnet, wanted)


def test_every_block(resnet):
    model = bam.attach(copy.deepcopy(resnet), sites="layer?.*", identity=True)
    assert len(bam.attended(model)) == 8


def test_latency_is_a_column(resnet):
    lines = bam.find_bottlenecks(resnet).table(latency=True).splitlines()
    assert lines[0].endswith("+ms")
    times = [float(line.split()[-2]) for line in lines[1:]]
    assert all(time > 0 for time in times) and sum(times[:-1]) == pytest.approx(times[-1], abs=0.02)


def test_the_root_is_no_site(resnet):
    assert [site.label for site in bam.select_sites(resnet, "*")] == [
        "conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool",
    ]  # fmt: skip


def test_sites_are_measured_at_the_image_they_were_found_with():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 16 * 16, 2))
    sites = bam.find_bottlenecks(model, 32)
    assert list(bam.attended(bam.attach(model, sites=sites[-1:]))) == ["0"]


def test_one_module_carries_attention_once(resnet):
    model = copy.deepcopy(resnet)
    with pytest.raises(ValueError, match="'before layer3' and 'layer3' are one module"):
        bam.attach(model, sites=["before layer3", "layer3"])
    assert not bam.attended(model)


@pytest.mark.parametrize("attention", ["se", bam.SE, functools.partial(bam.SE, reduction=4)])
def test_each_module_goes_where_its_paper_puts_it_unless_sites_are_named(resnet, attention):
    def places(**options):
        return list(bam.attended(bam.attach(copy.deepcopy(resnet), attention, image=64, **options)))

    assert places() == places(sites="every block") and len(places()) > 3
    assert places(sites="bottlenecks") == list(bam.attended(bam.attach(copy.deepcopy(resnet), image=64)))


def test_the_error_without_blocks_names_the_bottlenecks():
    with pytest.raises(ValueError, match='no residual blocks .* sites="bottlenecks"'):
        bam.attach(get_model("vgg11"), "cbam", image=64)
    assert bam.attended(bam.attach(get_model("vgg11"), "cbam", sites="bottlenecks", image=64))


@pytest.mark.parametrize("attention", ["deformable", "deformable(modulated=true)", "deformable(sites=layer4)"])
def test_the_table_prices_what_would_be_inserted(attention):
    """Also where it takes the place of a convolution: the difference between the networks."""
    spec = bam.AttentionSpec.parse(attention)
    model = get_model("resnet18")
    before = bam.cost(model)
    sites = bam.select_sites(model, spec.placed())
    after = bam.cost(bam.attach(model, spec))
    total = sites.table(spec).splitlines()[-1].split()
    assert total[:2] == ["total", f"{after.params - before.params:,}"]
    assert " ".join(total[2:]) == format_count(after.macs - before.macs)
    times = sites.table(spec, latency=True).splitlines()
    assert len(times) == len(sites) + 2 and times[0].endswith("+ms")
