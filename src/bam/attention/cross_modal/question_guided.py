"""Stacked Attention Networks (Yang et al., CVPR 2016, https://arxiv.org/abs/1511.02274)."""

import torch
from torch import Tensor, nn

from bam.attention.cross_modal.contract import CrossModal, Fused, Side, hidden_width


class QuestionGuided(CrossModal):
    """Stacked attention: the question selects regions in several hops (arXiv 1511.02274, equations 15 to 24).

    For hops k = 1 to K, with u_0 = v_Q:

    h_k = tanh(W_I,k v_I + (W_Q,k u_(k-1) + b_k)), p_k = softmax(W_P,k h_k + b_P,k), u_k = sum_i p_k,i v_i + u_(k-1)

    Args:
        width: D.
        hops: K; the paper has 1 and 2.
        hidden: width of h; default: D.

    Raises:
        ValueError: for a number below 1.
    """

    def __init__(self, width: int, hops: int = 2, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden_width("question_guided", width, hidden, hops=hops)
        self.of_regions = nn.ModuleList(nn.Linear(width, hidden, bias=False) for _ in range(hops))
        self.of_query = nn.ModuleList(nn.Linear(width, hidden) for _ in range(hops))
        self.score = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(hops))

    def fuse(self, image: Side, text: Side, question: Tensor) -> Fused:
        """The refined query u_K."""
        maps = []
        for of_regions, of_query, score in zip(self.of_regions, self.of_query, self.score, strict=True):
            hidden = torch.tanh(of_regions(image.values) + of_query(question)[:, None])
            image_vector, weights = image.attended(score(hidden)[..., 0])
            question = image_vector + question
            maps.append(weights)
        return Fused(question, tuple(maps))
