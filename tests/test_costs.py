import pytest
import torch
from torchvision.models import get_model

import bam
from bam.models import build


@pytest.mark.parametrize(
    ("model", "layout", "params", "macs"),
    [  # MACs in G as computed from the architecture, the stride on the 3x3 convolution as torchvision has it
        ("cifar/resnet50", None, 23_705_252, "1.2980"),
        ("cifar/resnet50", "paper", 24_066_909, "1.3250"),
        ("cifar/resnet50", "released", 24_063_319, "1.3250"),
        ("resnet50", None, 25_557_032, "4.0892"),
        ("resnet50", "paper", 25_918_689, "4.1713"),
        ("resnet50", "released", 25_915_099, "4.1713"),
        ("resnet18", "released", 11_712_503, "1.8192"),
    ],
)
def test_golden_counts(model, layout, params, macs):
    network = build(model, 100 if model.startswith("cifar") else 1000)
    if layout:
        bam.attach(network, layout=layout)
    counted = bam.cost(network)
    assert (counted.params, f"{counted.macs / 1e9:.4f}") == (params, macs)


def test_layers_by_hand():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=8),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 5),
    )
    assert bam.cost(network, (16, 20)) == bam.Cost(params=(27 * 8 + 8) + (9 * 8 + 8) + 45, macs=80 * (216 + 72) + 40)


def test_a_network_that_needs_values_is_counted_once():
    class NeedsValues(torch.nn.Sequential):
        def forward(self, image):
            features = super().forward(image)  # this part runs on the meta device, too
            return features * float(features.sum())

    convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert bam.cost(NeedsValues(convolution), 16).macs == bam.cost(convolution, 16).macs == 256 * 27 * 8


def test_what_torch_does_not_count():
    convolution = torch.nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
    network = bam.attach(torch.nn.Sequential(convolution), "deformable", sites="before 0", image=(8, 6, 10))
    hooks = [vars(module).copy() for module in network.modules()]
    assert bam.cost(network, (8, 6, 10)).macs == 15 * (12 * 8 * 9 + 18 * 8 * 9 + 4 * 9 * 8)  # itself, offsets, reading
    assert [vars(module) for module in network.modules()] == hooks and not convolution._forward_hooks_with_kwargs
    assert not network[0].attention._forward_hooks_with_kwargs
    assert bam.cost(bam.ATTENTION["deformable"](8), (8, 6, 10)).macs == 60 * (9 * 8 + 18 * 8 * 9 + 4 * 9 * 8)
    transformer = bam.ATTENTION["spatial_transformer"](3, hidden=4)
    assert bam.cost(transformer, (3, 6, 10)).macs == 60 * 27 * 4 + 64 * 4 + 4 * 6 + 4 * 180
    local, convolving = (bam.ATTENTION["dynamic_filter"](8, filtering) for filtering in ("local", "convolution"))
    assert bam.cost(local, (8, 6, 10)).macs == 60 * (8 * 2 + 9 * 2 * 2 + 2 * 9) + 9 * 480
    expected = 8 * 2 + 2 * 72 + 9 * 480
    assert bam.cost(convolving, (8, 6, 10)).macs == bam.cost(convolving, torch.zeros(2, 8, 6, 10)).macs == expected


def test_memory_layout_and_batch_do_not_change_the_count():
    network = bam.attach(get_model("resnet18"))
    expected = bam.cost(network, 64)
    assert bam.cost(network.to(memory_format=torch.channels_last), 64) == expected
    assert bam.cost(network, torch.zeros(2, 3, 64, 64)).macs == expected.macs
    assert str(expected) == "11,713,405 parameters, 149 M MACs"
