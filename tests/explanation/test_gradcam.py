import pytest
import torch
from torch import nn
from torchvision.models import get_model

import bam
from bam.explanation import grad_cam
from tests.conftest import restless
from tests.explanation.synthetic import assert_unchanged, traces

IMAGES = torch.randn(3, 3, 64, 48, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([2, 0, 1])


def network(name="resnet18", attention="bam"):
    torch.manual_seed(0)
    return restless(bam.attach(get_model(name, num_classes=3), attention, sites="bottlenecks", image=64)).eval()


@pytest.mark.filterwarnings("ignore")  # torchcam's own
@pytest.mark.parametrize("attention", ["bam", "se"])
def test_torchcam_agrees(attention):
    methods = pytest.importorskip("torchcam.methods")
    model = network(attention=attention)
    maps = grad_cam(model, IMAGES, CLASSES)
    assert list(maps) == list(bam.attended(model))
    for site, ours in maps.items():
        with methods.GradCAM(model, site) as judge:  # the module at the site returns the refined features
            theirs = judge(CLASSES.tolist(), model(IMAGES), normalized=False)[0]
        assert ours.shape == theirs.shape and ours.amax() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["swin_t", "densenet121"])  # maps of (N, H, W, C); in-place operations after a site
def test_the_equations_in_float64(name):
    model = network(name).double()
    images = IMAGES.double()
    maps = grad_cam(model, images, CLASSES)
    for site, module in bam.attended(model).items():
        kept = []

        def keep(_, inputs, output, kept=kept):
            output = output.detach().requires_grad_()
            kept.append(output)
            return output.clone()

        handle = module.register_forward_hook(keep)
        logits = model(images)
        handle.remove()
        logits[torch.arange(3), CLASSES].sum().backward()
        weights = kept[0].grad.mean((2, 3))
        expected = torch.einsum("nk,nkhw->nhw", weights, kept[0].detach()).clamp(min=0)
        torch.testing.assert_close(maps[site].double(), expected, rtol=1e-3, atol=1e-6)


def test_a_frozen_network_has_maps_too():
    model = network()
    expected = grad_cam(model, IMAGES, CLASSES)
    with torch.no_grad():
        frozen = grad_cam(model.requires_grad_(False), IMAGES, CLASSES)
    assert all(torch.equal(expected[site], frozen[site]) for site in expected)


def test_nothing_is_left_behind_also_after_an_exception():
    model = network().train()
    model.layer2.eval()
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    before = traces(model)
    grad_cam(model, IMAGES, CLASSES)
    assert_unchanged(before, model)
    assert not IMAGES.requires_grad
    for images, classes in ((torch.zeros(2, 5, 64, 64), CLASSES[:2]), (IMAGES, CLASSES + 7)):
        with pytest.raises((RuntimeError, ValueError)):
            grad_cam(model, images, classes)
        assert_unchanged(before, model)


def test_what_is_no_classifier_with_attention_is_refused():
    with pytest.raises(ValueError, match="no attention"):
        grad_cam(get_model("resnet18", num_classes=3), IMAGES, CLASSES)
    with pytest.raises(ValueError, match="must return logits"):
        grad_cam(bam.attach(nn.Sequential(nn.Conv2d(3, 4, 1)), sites="0", image=8), IMAGES, CLASSES)
    with (
        bam.without_attention(network()) as off,
        pytest.raises(ValueError, match="network's attention runs"),
    ):
        grad_cam(off, IMAGES, CLASSES)
    model = network()
    nn.init.constant_(model.fc.bias, float("nan"))
    with pytest.raises(ValueError, match="not all values are finite"):
        grad_cam(model, IMAGES, CLASSES)
