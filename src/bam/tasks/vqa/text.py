"""Readers of questions: the words in context, and the question as a whole."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bam.data.questions.words import PADDING

_HEADS, _LAYERS = 4, 2


class Recurrent(nn.Module):
    """Embedded words, read by a gated recurrent unit from the first to the last.

    Args:
        num_words: size of the vocabulary.
        width: features per word.
    """

    longest: ClassVar[int | None] = None  #: number of words after which a question is cut off

    def __init__(self, num_words: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_words, width, padding_idx=PADDING)
        self.reader = nn.GRU(width, width, batch_first=True)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Word numbers (N, T) -> words (N, T, D), and questions (N, D): the states after their last words."""
        states, _ = self.reader(self.embedding(words))
        last = (words != PADDING).sum(1).clamp(min=1) - 1
        return states, states[torch.arange(len(words), device=words.device), last]


class SelfAttention(nn.Module):
    """Embedded words and positions, read by a transformer of two layers; the question is the mean of its words.

    Args:
        num_words: size of the vocabulary.
        width: features per word, a multiple of 4.
    """

    longest: ClassVar[int] = 64  #: number of words after which a question is cut off

    def __init__(self, num_words: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_words, width, padding_idx=PADDING)
        self.places = nn.Parameter(torch.randn(self.longest, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, _HEADS, 2 * width, dropout=0.0, batch_first=True)
        self.reader = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Word numbers (N, T) -> words (N, T, D), and questions (N, D)."""
        real = words != PADDING
        features = self.reader(self.embedding(words) + self.places[: words.shape[1]], src_key_padding_mask=~real)
        return features, (features * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)


#: Name in recipes -> class.
READERS = {"gru": Recurrent, "transformer": SelfAttention}
