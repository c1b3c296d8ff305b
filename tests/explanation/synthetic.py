"""A network whose attention points exactly where it is told, and images of one bright square."""

import torch
from torch import nn

import bam
from bam import AttentionModule
from bam.attention.contract import AttentionMaps, gain

SIDE, SQUARE = 16, 4


class Pointer(AttentionModule):
    """F' = F * (1 + sigmoid(Ms(F))), Ms(F) = sharpness * sum over channels of F."""

    def __init__(self, channels, sharpness=3.0):
        super().__init__()
        self.sharpness = sharpness

    def logits(self, features):
        return self.sharpness * features.sum(1, keepdim=True)

    def forward(self, features):
        return features * (1 + self.logits(features).sigmoid())

    def maps(self, features):
        logits = self.logits(features)
        combined = logits.sigmoid().expand_as(features)
        return AttentionMaps(gain(features, self(features)), spatial_logits=logits, combined=combined)


class Network(nn.Module):
    """A stem that keeps the image, and logits (0, 20 * its mean)."""

    def __init__(self, stride=1):
        super().__init__()
        self.stem = nn.Conv2d(3, 3, stride, stride, bias=False)
        self.head = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.stem.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, stride, stride) / stride**2)
            self.head.weight.copy_(20 * torch.tensor([[0.0] * 3, [1 / 3] * 3]))

    def forward(self, images):
        return self.head(self.stem(images).mean((2, 3)))


def pointer(sharpness=3.0, stride=1):
    model = Network(stride)
    return bam.attach(model, lambda channels: Pointer(channels, sharpness), sites="stem", image=SIDE)


def squares(number, seed=0):
    """(images, classes 1, boxes of the bright squares) on a grid of cells of 4 pixels, away from the centre."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.tensor([[0, 0], [0, 12], [12, 0], [12, 12], [0, 4], [8, 0]])
    corners = corners[torch.randint(len(corners), (number,), generator=generator)]
    images = torch.zeros(number, 3, SIDE, SIDE)
    for image, (x, y) in zip(images, corners.tolist(), strict=True):
        image[:, y : y + SQUARE, x : x + SQUARE] = 1
    return images, torch.ones(number, dtype=torch.int64), torch.cat([corners, corners + SQUARE], 1)


def batched(images, classes, size):
    return list(zip(images.split(size), classes.split(size), strict=True))


def traces(model):
    """All that a function which only looks must leave alone."""
    return (
        [module.training for module in model.modules()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        [p.requires_grad for p in model.parameters()],
        {name: value.clone() for name, value in model.state_dict().items()},
        [getattr(module, "attention_enabled", None) for module in model.modules()],
        torch.get_rng_state(),
        torch.is_grad_enabled(),
    )


def assert_unchanged(before, model):
    after = traces(model)
    for old, new in zip(before, after, strict=True):
        if isinstance(old, dict):
            assert old.keys() == new.keys() and all(torch.equal(old[key], new[key]) for key in old)
        elif isinstance(old, torch.Tensor):
            assert torch.equal(old, new)
        else:
            assert old == new
