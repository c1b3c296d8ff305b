"""Hierarchical Co-Attention (Lu et al., NeurIPS 2016, https://arxiv.org/abs/1606.00061)."""

from typing import Literal

import torch
from torch import Tensor, nn

from bam.attention.cross_modal.contract import CrossModal, Fused, Side, hidden_width


class CoAttention(CrossModal):
    """Image and question attend to each other at once, or in turn (arXiv 1606.00061, equations 3 to 6).

    "parallel": the affinity C = tanh(Q W_b V^T) carries each side's features over to the other:

    H_v = tanh(V W_v + C^T (Q W_q)), H_q = tanh(Q W_q + C (V W_v)), a_v = softmax(H_v w_v), a_q = softmax(H_q w_q)

    "alternating": x = sum softmax(tanh(X W_x + g W_g) w)_i x_i three times: for the words with g = 0, for the regions
    guided by the result, and for the words guided by the regions. In both orders the output is the sum of the two
    attended vectors, as in one level of the paper. The paper has a hierarchy of words, phrases and questions; here
    there is only one level, the words in context. (The paper writes features as columns, this code as rows.)

    Args:
        width: D.
        order: "parallel" or "alternating".
        hidden: width of H; default: D.

    Raises:
        ValueError: for an unknown order, or a number below 1.
    """

    def __init__(
        self, width: int, order: Literal["parallel", "alternating"] = "parallel", hidden: int | None = None
    ) -> None:
        super().__init__()
        hidden = hidden_width("co_attention", width, hidden)
        if order not in ("parallel", "alternating"):
            raise ValueError(f"co_attention: order must be parallel or alternating, got {order!r}")
        self.order = order
        steps = 2 if order == "parallel" else 3
        self.score = nn.ModuleList(nn.Linear(hidden, 1, bias=False) for _ in range(steps))
        self.own = nn.ModuleList(nn.Linear(width, hidden, bias=False) for _ in range(steps))
        if order == "parallel":
            self.affinity = nn.Linear(width, width, bias=False)
        else:
            self.guide = nn.ModuleList(nn.Linear(width, hidden, bias=False) for _ in range(steps - 1))

    def fuse(self, image: Side, text: Side, question: Tensor) -> Fused:
        """The sum of both attended vectors."""
        if self.order == "alternating":
            return self._in_turn(image, text)
        affinity = torch.tanh(text.values @ self.affinity(image.values).mT)  # (N, T, R), 0 for padding
        of_regions, of_words = self.own[0](image.values), self.own[1](text.values)
        for_regions = torch.tanh(of_regions + affinity.mT @ of_words)
        for_words = torch.tanh(of_words + affinity @ of_regions)
        image_vector, regions = image.attended(self.score[0](for_regions)[..., 0])
        text_vector, words = text.attended(self.score[1](for_words)[..., 0])
        return Fused(image_vector + text_vector, (regions,), (words,))

    def _in_turn(self, image: Side, text: Side) -> Fused:
        text_vector, _ = text.attended(self.score[0](torch.tanh(self.own[0](text.values)))[..., 0])
        guided = torch.tanh(self.own[1](image.values) + self.guide[0](text_vector)[:, None])
        image_vector, regions = image.attended(self.score[1](guided)[..., 0])
        guided = torch.tanh(self.own[2](text.values) + self.guide[1](image_vector)[:, None])
        text_vector, words = text.attended(self.score[2](guided)[..., 0])
        return Fused(image_vector + text_vector, (regions,), (words,))
