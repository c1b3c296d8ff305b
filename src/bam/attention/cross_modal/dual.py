"""Dual Attention Networks (Nam et al., CVPR 2017, https://arxiv.org/abs/1611.00471)."""

import torch
from torch import Tensor, nn

from bam.attention.cross_modal.contract import CrossModal, Fused, Side, hidden_width


class DualAttention(CrossModal):
    """Reasoning with a memory that image and question share (r-DAN of arXiv 1611.00471, equations 3 to 11).

    m_0 = v_0 * u_0 with v_0 = tanh(P_0 mean_i v_i) and u_0 = mean_t u_t. For steps k = 1 to K:

    h_v = tanh(W_v v_i) * tanh(W_vm m_(k-1)), v_k = tanh(P_k sum_i softmax(w_v h_v)_i v_i),
    h_u = tanh(W_u u_t) * tanh(W_um m_(k-1)), u_k = sum_t softmax(w_u h_u)_t u_t, m_k = m_(k-1) + v_k * u_k

    Each W, w and P has a bias.

    Args:
        width: D.
        hops: K; the paper has 2.
        hidden: width of h; default: D.

    Raises:
        ValueError: for a number below 1.
    """

    def __init__(self, width: int, hops: int = 2, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden_width("dual", width, hidden, hops=hops)
        self.project = nn.ModuleList(nn.Linear(width, width) for _ in range(hops + 1))
        self.region_scores = nn.ModuleList(_MemoryScore(width, hidden) for _ in range(hops))
        self.word_scores = nn.ModuleList(_MemoryScore(width, hidden) for _ in range(hops))

    def fuse(self, image: Side, text: Side, question: Tensor) -> Fused:
        """The memory m_K."""
        memory = torch.tanh(self.project[0](image.mean())) * text.mean()
        maps, word_maps = [], []
        steps = zip(self.project[1:], self.region_scores, self.word_scores, strict=True)
        for project, region_score, word_score in steps:
            image_vector, regions = image.attended(region_score(image.values, memory))
            text_vector, words = text.attended(word_score(text.values, memory))
            memory = memory + torch.tanh(project(image_vector)) * text_vector
            maps.append(regions)
            word_maps.append(words)
        return Fused(memory, tuple(maps), tuple(word_maps))


class _MemoryScore(nn.Module):
    """w (tanh(W x_i) * tanh(W_m m)) for each of the values x, (N, R)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.of_values, self.of_memory = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, values: Tensor, memory: Tensor) -> Tensor:
        """Scores (N, R) of values (N, R, D)."""
        hidden = torch.tanh(self.of_values(values)) * torch.tanh(self.of_memory(memory))[:, None]
        return self.score(hidden)[..., 0]
