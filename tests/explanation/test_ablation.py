import json

import pytest
import torch
from torch import nn

import bam
from bam import BAM
from bam.explanation import ablations, branch_alone
from bam.explanation.examination import plain
from bam.models import build
from bam.surgery.insertion import attended_modules
from tests.conftest import restless
from tests.explanation.synthetic import assert_unchanged, batched, traces

IMAGES = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(attention="bam", **options):
    torch.manual_seed(0)
    return restless(bam.attach(build("cifar/resnet8", 3), attention, image=32, **options)).eval()


@torch.no_grad()
def test_every_switch_by_hand():
    model = network()
    classes = model(IMAGES).argmax(1)
    results = ablations(model, batched(IMAGES, classes, 16))
    assert results.accuracy.mean == 1
    plain_model = bam.detach(network())
    assert results.all_off.accuracy.mean == pytest.approx((plain_model(IMAGES).argmax(1) == classes).float().mean())
    assert list(results.sites_off) == list(bam.attended(model))
    for site, one in results.sites_off.items():
        other = network()
        bam.attended(other)[site].forward = lambda features: features
        right = (other(IMAGES).argmax(1) == classes).double().mean().item()
        assert one.accuracy.mean == pytest.approx(right) and one.changed == pytest.approx(1 - right)
        assert one.difference.mean == pytest.approx(right - 1)
    json.dumps(plain(results), allow_nan=False)
    assert (
        results.all_off.verdict
        == {
            -1: "evidence: accuracy falls without it",
            0: "no difference in accuracy shown without it",
        }[results.all_off.difference.sign]
    )


@pytest.mark.parametrize("combine", ["sum", "product", "max"])
@torch.no_grad()
def test_a_branch_alone_is_the_sigmoid_of_its_logits(combine):
    module = restless(BAM(16, combine=combine)).eval()
    model = nn.Sequential(nn.Conv2d(3, 16, 1))
    bam.attach(model, lambda channels: module, sites="0", image=8)
    images = torch.randn(2, 3, 8, 8)
    expected = model(images)
    with bam.without_attention(model):
        features = model(images)
    for branch, logits in zip(("channel", "spatial"), module.branches(features), strict=True):
        with branch_alone(model, branch):
            torch.testing.assert_close(model(images), features * (1 + logits.sigmoid()))
    assert torch.equal(model(images), expected)


@torch.no_grad()
def test_modules_without_branches_are_left_alone():
    for attention in ("se", "bam(branch=channel)", nn.BatchNorm2d):
        model = network(attention)
        results = ablations(model, batched(IMAGES, model(IMAGES).argmax(1), 40))
        assert results.branches_alone == {} and results.sites_off
    with pytest.raises(ValueError, match="has no branch 'channel'"), branch_alone(network("se"), "channel"):
        pass


def test_some_sites_off_and_unknown_ones():
    model = network()
    with bam.without_attention(model, ["layer1"]):
        enabled = {site.label: module.attention_enabled for site, module in attended_modules(model).items()}
    assert not enabled.pop("layer1") and all(enabled.values())
    assert all(module.attention_enabled for module in attended_modules(model).values())
    with (
        pytest.raises(ValueError, match="no attention at layer9; it is at layer1"),
        bam.without_attention(model, ["layer9"]),
    ):
        pass


def test_nothing_is_left_behind_also_after_an_exception():
    model = network().train()
    before = traces(model)
    classes = torch.zeros(40, dtype=torch.int64)
    ablations(model, batched(IMAGES, classes, 40))
    assert_unchanged(before, model)
    with pytest.raises(RuntimeError):
        with branch_alone(model, "spatial"):
            raise RuntimeError
    with pytest.raises(ValueError, match="class 3"):
        ablations(model, [(IMAGES, classes + 3)])
    assert_unchanged(before, model)


def test_nothing_to_look_at_is_refused():
    with pytest.raises(ValueError, match="no images"):
        ablations(network(), [])
    with pytest.raises(ValueError, match="no attention to switch off"):
        ablations(bam.detach(network()), [(IMAGES, torch.zeros(40, dtype=torch.int64))])
