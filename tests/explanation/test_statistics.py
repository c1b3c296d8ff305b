import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import bam
from bam.attention.contract import AttentionMaps
from bam.explanation import attention_statistics, record
from bam.explanation.examination import plain
from bam.explanation.statistics import branch_variances, normalized_entropy
from bam.models import build
from tests.conftest import restless
from tests.explanation.synthetic import SIDE, Network, assert_unchanged, batched, pointer, squares, traces

IMAGES = torch.randn(13, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 2, 2, 0, 0, 2, 3, 0, 2, 3, 3, 3, 0])


def network(attention="bam", **options):
    torch.manual_seed(0)
    return restless(bam.attach(build("cifar/resnet8", 4), attention, image=32, **options)).eval()


def test_entropy_of_known_maps():
    maps = torch.zeros(3, 2, 4)
    maps[0] = 7.0  # uniform
    maps[1, 1, 2] = 5.0  # one place
    maps[2, 0, :2] = 0.5  # two of eight places
    assert normalized_entropy(maps).tolist() == pytest.approx([1, 0, math.log(2) / math.log(8)])
    assert normalized_entropy(torch.zeros(1, 3, 3)).item() == pytest.approx(1)


def test_branch_shares_by_hand():
    channel = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)  # variance 1
    spatial = torch.tensor([[0.0, 4.0], [4.0, 0.0]]).view(1, 1, 2, 2)  # variance 4
    gain = torch.zeros(1, 2, 2)
    added = branch_variances(AttentionMaps(gain, channel, spatial, (channel + spatial).sigmoid()))
    assert {name: values.item() for name, values in added.items()} == pytest.approx(
        {"channel": 1, "spatial": 4, "interaction": 0}
    )
    # products 0 and [0, 8, 8, 0]: the mean is 2, channels are at 2 -+ 2, places at 2 -+ 2
    product = branch_variances(AttentionMaps(gain, channel, spatial, (channel * spatial).sigmoid()))
    assert {name: values.item() for name, values in product.items()} == pytest.approx(
        {"channel": 4, "spatial": 4, "interaction": 4}, rel=1e-2
    )
    assert branch_variances(AttentionMaps(gain, channel, None, channel.sigmoid())) is None


@pytest.mark.parametrize("combine", ["sum", "product"])
def test_all_at_once_in_float64_says_the_same(combine):
    model = network(combine=combine, reduction=2)
    results = attention_statistics(model, batched(IMAGES, CLASSES, 5))
    whole = attention_statistics(model, [(IMAGES, CLASSES)])
    with record(model) as passes, torch.no_grad():
        model(IMAGES)
    for site, maps in passes[0].items():
        one = results[site]
        assert one.num_images == 13 and one.place_map == "spatial logits"
        assert one.mean_gain == pytest.approx(maps.gain.double().mean((1, 2)).mean().item(), rel=1e-5)
        weights = maps.spatial_logits[:, 0].double().sigmoid().flatten(1).numpy()
        weights /= weights.sum(1, keepdims=True)
        if weights.shape[1] == 1:
            assert one.entropy is None and one.constant is None and one.entropy_deviation is None
        else:
            entropy = -(weights * np.log(weights)).sum(1) / np.log(weights.shape[1])
            assert one.entropy == pytest.approx(entropy.mean(), rel=1e-6)
            assert one.entropy_deviation == pytest.approx(entropy.std(), abs=1e-6)
        attention = maps.channel_logits[:, :, 0, 0].double().sigmoid().numpy()
        groups = {k: attention[CLASSES.numpy() == k] for k in (0, 2, 3)}
        between = sum(len(g) * (g.mean(0) - attention.mean(0)) ** 2 for g in groups.values())
        expected = between / ((attention - attention.mean(0)) ** 2).sum(0)
        assert one.classes.selectivity == pytest.approx(expected.tolist(), rel=1e-4)
        assert one.classes.means[1] is None and one.classes.means[2] == pytest.approx(groups[2].mean(0).tolist())
        assert one.classes.selectivity_by_chance == pytest.approx(2 / 12)
        if combine == "sum":
            of_channels = maps.channel_logits.double().flatten(1).var(1, correction=0).sum()
            of_places = maps.spatial_logits.double().flatten(1).var(1, correction=0).sum()
            channel = (of_channels / (of_channels + of_places)).item()
            expected = {"channel": channel, "spatial": 1 - channel, "interaction": 0}
            assert plain(one.branches) == pytest.approx(expected, abs=1e-9)
        assert json.dumps(plain(one), allow_nan=False)
        for name in ("dead", "saturated", "constant", "mean_gain", "entropy"):
            assert getattr(one, name) == pytest.approx(getattr(whole[site], name), rel=1e-5)


def test_dead_saturated_and_constant():
    dead = attention_statistics(network(identity=True), batched(IMAGES, CLASSES, 13))
    assert all(one.dead == 1 for one in dead.values())
    model = network()
    for module in bam.attended(model).values():
        nn.init.zeros_(module.spatial.project.weight)
        nn.init.constant_(module.channel.closing.bias, 50.0)
    for site, one in attention_statistics(model, batched(IMAGES, CLASSES, 13)).items():
        assert one.saturated == 1 and one.dead == 0
        assert one.constant in (1, None) and (one.entropy is None or one.entropy == pytest.approx(1)), site
        assert one.branches.channel == pytest.approx(1)


def test_alive_sharp_and_varying():
    images, classes, _ = squares(8)
    one = attention_statistics(pointer(), batched(images, classes, 8))["stem"]
    assert (one.dead, one.saturated, one.constant) == (0, 0, 0)
    assert one.classes is None and one.branches is None
    flat = attention_statistics(pointer(0.0), batched(images, classes, 8))["stem"]
    assert flat.constant == 1 and flat.entropy == pytest.approx(1) and flat.entropy_deviation < 1e-6


def test_modules_with_fewer_maps_and_one_image():
    for attention in ("se", nn.BatchNorm2d, "bam(branch=spatial)", "bam(branch=channel)"):
        results = attention_statistics(network(attention), [(IMAGES[:1], CLASSES[:1])])
        json.dumps(plain(results), allow_nan=False)
        for one in results.values():
            assert one.branches is None and one.num_images == 1
            if one.classes is not None:
                assert set(one.classes.selectivity) == {None} and one.classes.selectivity_by_chance is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: ([], model), "there are no images"),
        (lambda model: ([(IMAGES[:0], CLASSES[:0])], model), "there are no images"),
        (lambda model: ([(IMAGES, CLASSES[:3])], model), "a batch must be images"),
        (lambda model: ([(IMAGES, CLASSES + 1)], model), "class 4 is not one of the network's 4 outputs"),
        (lambda model: ([(IMAGES / 0, CLASSES)], model), "the images from number 0 on"),
        (lambda model: ([(IMAGES, CLASSES)], bam.detach(model)), "has no attention"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(change, message):
    batches, model = change(network().train())
    before = traces(model)
    with pytest.raises(ValueError, match=message):
        attention_statistics(model, batches)
    assert_unchanged(before, model)


def test_values_that_are_not_finite_and_attention_that_is_off_raise():
    model = network()
    module = next(iter(bam.attended(model).values()))
    nn.init.constant_(module.channel.closing.bias, float("inf"))
    with pytest.raises(ValueError, match=r"the attention at layer1 \(channel logits\)"):
        attention_statistics(model, batched(IMAGES, CLASSES, 13))
    with (
        bam.without_attention(network()) as off,
        pytest.raises(ValueError, match="network's attention runs"),
    ):
        attention_statistics(off, batched(IMAGES, CLASSES, 13))


def test_nothing_is_left_behind():
    model = network().train()
    before = traces(model)
    attention_statistics(model, batched(IMAGES, CLASSES, 5))
    assert_unchanged(before, model)


def test_maps_of_one_place():
    model = bam.attach(Network(SIDE), sites="stem", image=SIDE)
    images, classes, _ = squares(4)
    one = attention_statistics(model, batched(images, classes, 4))["stem"]
    assert one.entropy is None and one.constant is None
    json.dumps(plain(one), allow_nan=False)
