"""The network that answers questions: an image network, a reader, cross-modal attention, an answer classifier."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bam.attention.cross_modal import build_cross_modal
from bam.data.questions.words import PADDING, UNKNOWN, Vocabulary
from bam.models import build
from bam.models.pretrained import load_pretrained
from bam.placement import Site, find_last_map
from bam.recipes import VqaRecipe
from bam.snapshot import Snapshot
from bam.surgery import attach
from bam.tasks.building import seed_attention, seed_cross_modal, seed_network
from bam.tasks.vqa.text import READERS

_IMAGENET = 1000  #: classes of the pretrained weights; layers after the last feature map are not used


class Answered(NamedTuple):
    """A network's output for Q questions.

    Attributes:
        logits: logits of the answers, (Q, A).
        regions: for each step of attention, the weight of every position of the last map, (Q, h, w).
        words: likewise, the weight of every word, (Q, T).
    """

    logits: Tensor
    regions: tuple[Tensor, ...]
    words: tuple[Tensor, ...]


class VqaNetwork(nn.Module):
    """Answers questions about images: the classes are the answers.

    The regions are the positions of the image network's last feature map. Each is projected to `width` features, plus a
    projection of its coordinates, so that attention can tell left from right.

    Args:
        image: a classification network; what follows its last feature map is not used.
        vocabulary: the words that the network knows.
        num_answers: A.
        recipe: all other options.
        size: height and width of the images for finding the last map, in pixels.
    """

    def __init__(
        self, image: nn.Module, vocabulary: Vocabulary, num_answers: int, recipe: VqaRecipe, size: tuple[int, int]
    ) -> None:
        super().__init__()
        width = recipe.width
        self.site, self.vocabulary = find_last_map(image, size), vocabulary
        self.image = image
        self.regions = nn.Linear(self.site.channels, width)
        self.place = nn.Linear(2, width, bias=False)
        self.text = READERS[recipe.text](len(vocabulary), width)
        self.answer = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(recipe.dropout), nn.Linear(2 * width, num_answers)
        )
        seed_cross_modal(recipe)
        self.cross_modal = build_cross_modal(recipe.cross_modal, width)

    def forward(self, images: Tensor, words: Tensor | None = None, place: Tensor | None = None) -> Answered:
        """Answer Q questions about N images.

        Args:
            images: normalised (N, 3, H, W).
            words: words of the questions, int64 (Q, T), see `Vocabulary.numbers`; default: one unknown word per image.
            place: the position in the batch of each question's image, int64 (Q,); default: 0, 1, 2, ...
        """
        if words is None:
            words = torch.full((len(images), 1), UNKNOWN, device=images.device)
        if place is None:
            place = torch.arange(len(words), device=images.device)
        words = words[:, : self.text.longest]
        word_features, question = self.text(words)
        if not self.cross_modal.sees:
            return Answered(self.answer(question), (), ())
        features = last_map(self.image, self.site, images)
        regions = torch.tanh(self.regions(features.flatten(2).mT) + self.place(_places(features)))
        fused = self.cross_modal(regions[place], word_features, question, (None, words != PADDING))
        maps = (weights.unflatten(1, features.shape[2:]) for weights in fused.regions)
        return Answered(self.answer(fused.features), tuple(maps), fused.words)


def last_map(network: nn.Module, site: Site, images: Tensor) -> Tensor:
    """The feature map (N, C, h, w) of `network` at `site`."""
    captured: list[Tensor] = []
    module = network.get_submodule(site.name)
    if site.before:
        handle = module.register_forward_pre_hook(lambda module, inputs: captured.append(inputs[0]))
    else:
        handle = module.register_forward_hook(lambda module, inputs, output: captured.append(output))
    try:
        network(images)
    finally:
        handle.remove()
    (features,) = captured
    return features.permute(0, 3, 1, 2) if site.axes == "NHWC" else features


def build_network(
    recipe: VqaRecipe, words: Sequence[str], num_answers: int, size: tuple[int, int], *, to_train: bool = True
) -> VqaNetwork:
    """The recipe's network with its attention. The other initial weights do not depend on the attention.

    Args:
        recipe: names the networks; its seed draws the weights that are not pretrained.
        words: the vocabulary.
        num_answers: answers to choose from.
        size: height and width of the images.
        to_train: read the recipe's pretrained weights for the image network, and freeze what no answer depends on.

    Raises:
        ValueError: if the recipe cannot be built; also the errors of `load_pretrained`.
    """
    seed_network(recipe)
    image = build(recipe.model, None if recipe.pretrained is None else _IMAGENET)
    if to_train and recipe.pretrained is not None:
        load_pretrained(image, recipe.model, recipe.pretrained, _IMAGENET)
    network = VqaNetwork(image, Vocabulary(words), num_answers, recipe, size)
    seed_attention(recipe)
    if not recipe.attention.is_none:
        sites = [label.replace("image.", "", 1) for label in recipe.attention.placed()]  # as written in a run's record
        attach(image, recipe.attention, sites=sites, image=size)
    for parameter in _unused(network, size) if to_train else ():
        parameter.requires_grad_(False)
    return network


def _places(features: Tensor) -> Tensor:
    """(x, y) of each position of a map, from -1 to 1, (h w, 2)."""
    height, width = features.shape[2:]
    y, x = (torch.linspace(-1, 1, side, device=features.device, dtype=features.dtype) for side in (height, width))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=2).flatten(0, 1)


def _unused(network: VqaNetwork, size: tuple[int, int]) -> list[nn.Parameter]:
    """The parameters that no answer depends on: those after the last feature map, or all that see the image."""
    if not network.cross_modal.sees:
        return [p for module in (network.image, network.regions, network.place) for p in module.parameters()]
    parameters = [parameter for parameter in network.image.parameters() if parameter.requires_grad]
    before = Snapshot(network.image)
    try:
        total = last_map(network.image.eval(), network.site, torch.zeros(1, 3, *size)).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    finally:
        before.restore()
    return [parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is None]
