"""What every cross-modal module is: a question and the regions of an image become one vector."""

import abc
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bam.attention.contract import check_counts


class Fused(NamedTuple):
    """The output of a cross-modal module for N questions.

    Attributes:
        features: image and question as one vector, (N, D).
        regions: the weights of the regions at each step of attention, (N, R); each row sums to 1.
        words: the weights of the words, (N, T), likewise, from modules that attend to words.
    """

    features: Tensor
    regions: tuple[Tensor, ...] = ()
    words: tuple[Tensor, ...] = ()


class CrossModal(nn.Module, abc.ABC):
    """Base class: fuses a question and an image, both as vectors of width D, into one vector."""

    #: Whether the result depends on the image.
    sees: ClassVar[bool] = True

    def forward(
        self,
        regions: Tensor,
        words: Tensor,
        question: Tensor,
        masks: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> Fused:
        """Fuse N questions with their images.

        Args:
            regions: regions of the image, (N, R, D).
            words: words in context, (N, T, D).
            question: the whole question, (N, D).
            masks: True for real regions (N, R) and for real words (N, T); None if all are real.

        Raises:
            ValueError: if the widths differ.
        """
        region_mask, word_mask = masks
        if not regions.shape[2] == words.shape[2] == question.shape[1]:
            sizes = f"{tuple(regions.shape)}, {tuple(words.shape)} and {tuple(question.shape)}"
            raise ValueError(f"{type(self).__name__}: regions, words and question need the same width D, got {sizes}")
        regions, words = _cleared(regions, region_mask), _cleared(words, word_mask)
        return self.fuse(Side(regions, region_mask), Side(words, word_mask), question)

    @abc.abstractmethod
    def fuse(self, image: "Side", text: "Side", question: Tensor) -> Fused:
        """The module's own equations; masked values are already 0."""


class Side(NamedTuple):
    """Regions or words (N, R, D), and a mask of the real ones (N, R), or None if all are real."""

    values: Tensor
    mask: Tensor | None

    def mean(self) -> Tensor:
        """The mean of the real ones, (N, D)."""
        if self.mask is None:
            return self.values.mean(1)
        return self.values.sum(1) / self.mask.sum(1, keepdim=True).clamp(min=1)

    def attended(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The sum weighted by softmax(scores), (N, D), and the weights, (N, R)."""
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(1)
        return (weights[:, None] @ self.values)[:, 0], weights


def hidden_width(module: str, width: int, hidden: int | None, **counts: int) -> int:
    """Return `hidden`, by default `width`, after checking that all numbers are at least 1."""
    hidden = width if hidden is None else hidden
    check_counts(module, width=width, hidden=hidden, **counts)
    return hidden


def _cleared(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values.masked_fill(~mask[..., None], 0)
