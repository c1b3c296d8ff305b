"""Cross-modal attention: a question selects regions of an image, and regions select words of the question.

Stacked Attention Networks (Yang et al., CVPR 2016, https://arxiv.org/abs/1511.02274), Hierarchical Co-Attention (Lu et
al., NeurIPS 2016, https://arxiv.org/abs/1606.00061) and Dual Attention Networks (Nam et al., CVPR 2017,
https://arxiv.org/abs/1611.00471), and two baselines without attention. The regions are the places of a feature map.
Masks mark padded words and regions; their values have no effect.
"""

import abc
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bam.attention.contract import check_counts
from bam.attention.spec import AttentionSpec


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
        return self.fuse(_Side(regions, region_mask), _Side(words, word_mask), question)

    @abc.abstractmethod
    def fuse(self, image: "_Side", text: "_Side", question: Tensor) -> Fused:
        """The module's own equations; masked values are already 0."""


class _Side(NamedTuple):
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


class AveragePooling(CrossModal):
    """No attention: u = mean_i v_i + v_Q, the baseline that weights all regions equally."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def fuse(self, image: _Side, text: _Side, question: Tensor) -> Fused:
        """The mean of the regions, added to the question."""
        return Fused(image.mean() + question)


class QuestionAlone(CrossModal):
    """No image: u = v_Q. Its accuracy shows how much the wording of the questions alone gives away."""

    sees: ClassVar[bool] = False

    def __init__(self, width: int) -> None:
        super().__init__()

    def fuse(self, image: _Side, text: _Side, question: Tensor) -> Fused:
        """The question."""
        return Fused(question)


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
        hidden = _hidden_width("question_guided", width, hidden, hops=hops)
        self.of_regions = nn.ModuleList(nn.Linear(width, hidden, bias=False) for _ in range(hops))
        self.of_query = nn.ModuleList(nn.Linear(width, hidden) for _ in range(hops))
        self.score = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(hops))

    def fuse(self, image: _Side, text: _Side, question: Tensor) -> Fused:
        """The refined query u_K."""
        maps = []
        for of_regions, of_query, score in zip(self.of_regions, self.of_query, self.score, strict=True):
            hidden = torch.tanh(of_regions(image.values) + of_query(question)[:, None])
            image_vector, weights = image.attended(score(hidden)[..., 0])
            question = image_vector + question
            maps.append(weights)
        return Fused(question, tuple(maps))


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
        hidden = _hidden_width("co_attention", width, hidden)
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

    def fuse(self, image: _Side, text: _Side, question: Tensor) -> Fused:
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

    def _in_turn(self, image: _Side, text: _Side) -> Fused:
        text_vector, _ = text.attended(self.score[0](torch.tanh(self.own[0](text.values)))[..., 0])
        guided = torch.tanh(self.own[1](image.values) + self.guide[0](text_vector)[:, None])
        image_vector, regions = image.attended(self.score[1](guided)[..., 0])
        guided = torch.tanh(self.own[2](text.values) + self.guide[1](image_vector)[:, None])
        text_vector, words = text.attended(self.score[2](guided)[..., 0])
        return Fused(image_vector + text_vector, (regions,), (words,))


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
        hidden = _hidden_width("dual", width, hidden, hops=hops)
        self.project = nn.ModuleList(nn.Linear(width, width) for _ in range(hops + 1))
        self.region_scores = nn.ModuleList(_MemoryScore(width, hidden) for _ in range(hops))
        self.word_scores = nn.ModuleList(_MemoryScore(width, hidden) for _ in range(hops))

    def fuse(self, image: _Side, text: _Side, question: Tensor) -> Fused:
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


def _hidden_width(module: str, width: int, hidden: int | None, **counts: int) -> int:
    """Return `hidden`, by default `width`, after checking that all numbers are at least 1."""
    hidden = width if hidden is None else hidden
    check_counts(module, width=width, hidden=hidden, **counts)
    return hidden


def _cleared(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values.masked_fill(~mask[..., None], 0)


#: Name -> class. Every entry is built as `cls(width, **options)`.
CROSS_MODAL: dict[str, Callable[..., CrossModal]] = {
    "none": AveragePooling,
    "question": QuestionAlone,
    "question_guided": QuestionGuided,
    "co_attention": CoAttention,
    "dual": DualAttention,
}


def cross_modal_spec(text: str) -> AttentionSpec:
    """Parse the name of a module with its options, e.g. "question_guided(hops=3)".

    Raises:
        ValueError: for an unknown name, or text in another form.
    """
    try:
        spec = AttentionSpec.parse(text)
    except ValueError as error:
        raise ValueError(f"cross_modal: {str(error).removeprefix('attention ')}") from None
    if spec.name not in CROSS_MODAL:
        raise ValueError(f"unknown cross-modal module {spec.name!r}; known: {', '.join(CROSS_MODAL)}")
    return spec


def build_cross_modal(text: str, width: int) -> CrossModal:
    """Build the module that `text` names, for vectors of width `width`.

    Raises:
        ValueError: for an unknown name, or options that it does not take.
    """
    spec = cross_modal_spec(text)
    try:
        return CROSS_MODAL[spec.name](width, **spec.arguments)
    except TypeError as error:  # Python's message names the unknown option
        raise ValueError(f"cross-modal module {text}: {error}") from error
