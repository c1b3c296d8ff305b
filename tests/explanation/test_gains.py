import pytest
import torch
from torch import nn
from torchvision.models import get_model

import bam
from bam.explanation import site_gains
from tests.conftest import restless

IMAGE = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("attention", ["bam", "se", nn.BatchNorm2d], ids=str)
@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_gains_at_every_site_of_any_network(name, attention):
    """Also where maps are (N, H, W, C), and of a module that knows nothing of the contract."""
    model = restless(bam.attach(get_model(name, num_classes=3), attention, image=64)).eval()
    expected = model(IMAGE)
    gains = site_gains(model, IMAGE)
    assert list(gains) == list(bam.attended(model))
    assert all(gain.shape[0] == 2 and gain.dim() == 3 and gain.isfinite().all() for gain in gains.values())
    if attention == "bam":
        assert all((gain > 0).all() and (gain < 1).all() for gain in gains.values())
    assert torch.equal(model(IMAGE), expected)


def test_nothing_is_left_behind_also_after_an_exception():
    model = bam.attach(get_model("resnet18"), image=64).eval()
    with pytest.raises(RuntimeError):
        site_gains(model, torch.randn(2, 5, 64, 64))
    assert not any(module._forward_hooks for module in model.modules())
