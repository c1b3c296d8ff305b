"""Whoever goes by names, keys, classes or the module tree finds the plain network's, wherever attention sits."""

import copy
import pickle

import accelerate
import pytest
import timm
import timm.layers
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torchvision.models import densenet121, mobilenet_v2, resnet18
from torchvision.ops import Conv2dNormActivation

import bam
from bam.attention.batchnorm import freeze_statistics
from tests.attention.gate import Gate
from tests.conftest import restless
from tests.ecosystem.table import groups

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def regnet(num_classes):
    """Its stages run their children one after the other."""
    return timm.create_model("regnetx_002", num_classes=num_classes)


class Sequence(nn.Sequential):
    """It runs over itself in a forward pass of its own."""

    def forward(self, x):
        for module in self:
            x = module(x)
        return x


def with_sequences(num_classes):
    network = resnet18(num_classes=num_classes)
    for name in ("layer1", "layer3"):
        setattr(network, name, Sequence(*getattr(network, name)))
    return network


SITES = {
    "container": (resnet18, ["layer1", "layer3"]),
    "block": (resnet18, ["layer1.0", "layer3.1"]),
    "layer": (resnet18, "every block"),
    "before": (resnet18, ["before layer2", "before layer3.1"]),
    "sequence": (with_sequences, ["layer1", "before layer3"]),
    "children": (regnet, ["s1", "before s3"]),
    "dictionary": (densenet121, ["features.denseblock1", "features.denseblock2"]),
}
ATTENTION = {"bam": "bam", "se": "se", "own": Gate}


@pytest.fixture(params=[(place, name) for place in SITES for name in ATTENTION], ids="-".join, scope="module")
def pair(request):
    """A plain network, and a copy with attention."""
    place, name = request.param
    build, sites = SITES[place]
    torch.manual_seed(0)
    plain = restless(build(num_classes=4)).eval()
    model = bam.attach(copy.deepcopy(plain), ATTENTION[name], sites=sites, image=64)
    for module in bam.attended(model).values():
        restless(module)
    return plain, model.eval()


def test_names_keys_and_classes_are_the_plain_networks(pair):
    plain, model = pair
    new = tuple(f"{label.removeprefix('before ')}.attention" for label in bam.attended(model))
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    assert tensors.keys() == model.state_dict().keys()
    for own, theirs in ((model.state_dict(), plain.state_dict()), *zip(*map(trees, (model, plain)), strict=True)):
        assert [name for name in own if not name.startswith(new)] == list(theirs)
    for name, module in plain.named_modules():
        assert isinstance(model.get_submodule(name), type(module))
    assert not torch.equal(model(IMAGE), plain(IMAGE))
    runs = []
    handles = [m.register_forward_hook(lambda *_: runs.append(1)) for m in bam.attended(model).values()]
    model(IMAGE)
    assert len(runs) == len(handles)
    for handle in handles:
        handle.remove()


def trees(model):
    return dict(model.named_modules()), walked(model)


def walked(module, prefix=""):
    """The module tree, as tools walk it that replace modules."""
    names = {}
    for name, child in module.named_children():
        names |= {f"{prefix}{name}": child} | walked(child, f"{prefix}{name}.")
    return names


def test_copies_and_calls_with_other_tensors(pair):
    _, model = pair
    expected = model(IMAGE)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(IMAGE), expected) and list(bam.attended(twin)) == list(bam.attended(model))
    assert torch.equal(torch.func.functional_call(model, dict(model.state_dict()), IMAGE), expected)
    with bam.without_attention(copy.deepcopy(model)) as twin:
        assert torch.equal(twin(IMAGE), pair[0](IMAGE))
    twin = copy.deepcopy(model)
    classes = {name: type(module) for name, module in pair[0].named_modules()}
    assert {name: type(module) for name, module in bam.detach(twin).named_modules()} == classes


def test_averages_by_name(pair):
    _, model = pair
    average = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    twin = copy.deepcopy(model)
    report = twin.load_state_dict(average, strict=False)
    assert not report.unexpected_keys and not any(p.any() for p in twin.parameters())


def test_accelerate_offloads_it(pair):
    _, model = pair
    offloaded = accelerate.cpu_offload(copy.deepcopy(model), execution_device="cpu")
    torch.testing.assert_close(offloaded(IMAGE), model(IMAGE), rtol=1e-4, atol=1e-4)


def layers():
    torch.manual_seed(0)
    return bam.attach(restless(resnet18(num_classes=4)), "se", sites="every block").eval()


def test_pruning_and_parametrizing_a_layer_that_is_a_site():
    model, expected = layers(), layers()(IMAGE)
    prune.l1_unstructured(model.layer1[0].bn2, "weight", 0.5)
    assert not torch.equal(model(IMAGE), expected) and len(bam.attended(model)) == 8
    model = layers()
    parametrize.register_parametrization(model.layer1[0].bn2, "weight", nn.Identity())
    assert torch.equal(model(IMAGE), expected) and len(bam.attended(model)) == 8
    with pytest.raises(ValueError, match="undo later changes to the module"):
        bam.detach(model)
    assert len(bam.attended(model)) == 8
    parametrize.remove_parametrizations(model.layer1[0].bn2, "weight")
    assert not bam.attended(bam.detach(model))


@pytest.mark.parametrize(
    "convert",
    [nn.SyncBatchNorm.convert_sync_batchnorm, timm.layers.freeze_batch_norm_2d, groups],
    ids=["sync", "frozen", "groups"],
)
def test_attention_stays_when_a_normalisation_layer_is_replaced(convert):
    model = layers()
    expected = model(IMAGE)
    converted = convert(copy.deepcopy(model)).eval()
    assert list(bam.attended(converted)) == list(bam.attended(model))
    if convert is not groups:
        torch.testing.assert_close(converted(IMAGE), expected, rtol=1e-4, atol=1e-4)
    runs = []
    for module in bam.attended(converted).values():
        module.register_forward_hook(lambda *_: runs.append(1))
    converted(IMAGE)
    assert len(runs) == 8
    assert converted.state_dict().keys() >= {key for key in model.state_dict() if ".attention." in key}


class Chain(nn.Sequential):
    """It has a second way through itself, over its own modules."""

    def forward_one_by_one(self, x):
        for module in self:
            x = module(x)
        return x


def test_another_way_over_the_modules_of_a_sequence_runs_attention_once():
    model = nn.Sequential(Chain(nn.Conv2d(4, 4, 1), nn.ReLU()), nn.AvgPool2d(2), nn.Conv2d(4, 2, 1))
    bam.attach(model, Gate, sites="0", image=(4, 8, 8))
    x = torch.randn(1, 4, 8, 8)
    expected = model(x)
    model[0].forward = model[0].forward_one_by_one
    assert torch.equal(model(x), expected)


def test_what_a_user_froze_stays_frozen_when_the_norm_at_its_site_is_replaced():
    model = bam.attach(restless(resnet18(num_classes=4)), "bam", sites="layer1.0.bn2", image=64)
    norm = bam.attended(model)["layer1.0.bn2"].channel.norm
    freeze_statistics(norm)
    before = norm.running_mean.clone()
    model.layer1[0].bn2 = nn.GroupNorm(4, 64)
    model.train()(IMAGE)
    assert list(bam.attended(model)) == ["layer1.0.bn2"] and torch.equal(norm.running_mean, before)


def test_a_block_with_a_norm_in_its_name_is_no_norm():
    model = bam.attach(mobilenet_v2(num_classes=4), "se", sites="features.0", image=64)
    model.features[0] = Conv2dNormActivation(3, 32, 3, 2)
    assert not bam.attended(model)
