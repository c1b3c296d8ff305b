import pytest
import torch

from bam.models import MODELS, build


@pytest.mark.parametrize(
    ("name", "params"),
    [  # counted by hand for SmallResNet: convolutions and 2 per channel of each normalisation, 65 per class
        ("cifar/resnet8", 78_042 + 90 * 65),
        ("cifar/resnet20", 278_324),
        ("cifar/resnet18", 11_220_132),
        ("cifar/resnet50", 23_705_252),
    ],
)
def test_parameters(name, params):
    assert sum(p.numel() for p in build(name, 100).parameters()) == params


@pytest.mark.parametrize("name", list(MODELS))
def test_small_images_keep_their_size_at_the_stem(name):
    model = build(name, 7)
    seen = {}
    model.layer1.register_forward_hook(lambda module, inputs, output: seen.update(size=output.shape[2:]))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7) and seen["size"] == (32, 32)


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
