"""How the pixels of a recipe's images are normalised."""

from typing import Protocol

import torch
from torch import Tensor

from bam.models.weights import normalization
from bam.recipes import Recipe


class _Normalised(Protocol):
    def normalization(self) -> tuple[Tensor, Tensor]: ...


def pixel_normalization(recipe: Recipe, train: _Normalised) -> tuple[Tensor, Tensor]:
    """Per-channel mean and standard deviation for normalising images, on the scale 0 to 255: float32 (3,) each.

    Uses the values that the recipe's pretrained weights were trained with, if known and not overridden by the data
    options; otherwise those of the training set.
    """
    expected = normalization(recipe.model, str(recipe.pretrained)) if _weights_decide(recipe) else None
    if expected is None:
        return train.normalization()
    return 255 * torch.tensor(expected.mean), 255 * torch.tensor(expected.std)


def normalization_note(recipe: Recipe) -> list[str]:
    """A note on how images are normalised, if neither the weights nor the recipe says how."""
    if not _weights_decide(recipe):
        return []
    expected = normalization(recipe.model, str(recipe.pretrained))
    guess = "the data set's own values" if expected is None else expected.source
    if not guess:
        return []
    advice = 'to change it: --data-options \'{"mean": [...], "std": [...]}\''
    return [f"{recipe.pretrained} does not say how its images were normalised: using {guess}; {advice}"]


def _weights_decide(recipe: Recipe) -> bool:
    """Whether the pretrained weights decide the normalisation."""
    return recipe.pretrained is not None and not {"mean", "std"} & recipe.data_options.keys()
