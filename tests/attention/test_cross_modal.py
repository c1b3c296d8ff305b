"""Cross-modal attention: the papers' equations once more, in float64 and one vector at a time; masks; options."""

import pytest
import torch
from torch import nn

from bam.attention.cross_modal import CROSS_MODAL, CoAttention, DualAttention, QuestionGuided, build_cross_modal

WIDTH, REGIONS, WORDS = 6, 5, 4
SPECS = ["none", "question", "question_guided", "question_guided(hops=1,hidden=3)", "co_attention", "dual",
         "co_attention(order=alternating)", "dual(hops=3,hidden=4)"]  # fmt: skip


def inputs(seed=0, count=3):
    generator = torch.Generator().manual_seed(seed)
    sizes = (count, REGIONS, WIDTH), (count, WORDS, WIDTH), (count, WIDTH)
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


def built(text):
    torch.manual_seed(1)
    return build_cross_modal(text, WIDTH).double()


def softmax(scores):
    powers = [score.exp() for score in scores]
    return [power / sum(powers) for power in powers]


def weighted(weights, vectors):
    return sum(weight * vector for weight, vector in zip(weights, vectors, strict=True))


def stacked(module, regions, words, question):
    """Equations 15 to 24 of arXiv 1511.02274, for one question."""
    for of_regions, of_query, score in zip(module.of_regions, module.of_query, module.score, strict=True):
        scores = [
            score.weight[0] @ torch.tanh(of_regions.weight @ region + of_query.weight @ question + of_query.bias)
            + score.bias[0]
            for region in regions
        ]
        question = weighted(softmax(scores), regions) + question
    return question


def parallel(module, regions, words, question):
    """Equations 3 to 5 of arXiv 1606.00061, features as columns, as the paper has them."""
    V, Q = regions.T, words.T
    W_b = module.affinity.weight  # V^T W_b^T Q: the layer maps regions
    C = torch.tanh(Q.T @ W_b @ V)
    W_v, W_q = module.own[0].weight, module.own[1].weight
    H_v = torch.tanh(W_v @ V + (W_q @ Q) @ C)
    H_q = torch.tanh(W_q @ Q + (W_v @ V) @ C.T)
    a_v, a_q = softmax(list(module.score[0].weight[0] @ H_v)), softmax(list(module.score[1].weight[0] @ H_q))
    return weighted(a_v, regions) + weighted(a_q, words)


def alternating(module, regions, words, question):
    def attend(number, vectors, guide):
        hidden = [torch.tanh(module.own[number].weight @ vector + guide) for vector in vectors]
        return weighted(softmax([module.score[number].weight[0] @ each for each in hidden]), vectors)

    read = attend(0, words, 0)
    seen = attend(1, regions, module.guide[0].weight @ read)
    return seen + attend(2, words, module.guide[1].weight @ seen)


def dual(module, regions, words, question):
    """Equations 3 to 11 of arXiv 1611.00471."""

    def attend(score, vectors, memory):
        gate = torch.tanh(score.of_memory(memory))
        return weighted(
            softmax([score.score(torch.tanh(score.of_values(each)) * gate)[0] for each in vectors]), vectors
        )

    memory = torch.tanh(module.project[0](sum(regions) / len(regions))) * (sum(words) / len(words))
    steps = zip(module.project[1:], module.region_scores, module.word_scores, strict=True)
    for project, region_score, word_score in steps:
        seen, read = attend(region_score, regions, memory), attend(word_score, words, memory)
        memory = memory + torch.tanh(project(seen)) * read
    return memory


@pytest.mark.parametrize(
    "text, equations",
    [
        ("none", lambda module, regions, words, question: sum(regions) / len(regions) + question),
        ("question", lambda module, regions, words, question: question),
        ("question_guided", stacked),
        ("question_guided(hops=3,hidden=2)", stacked),
        ("co_attention", parallel),
        ("co_attention(order=alternating)", alternating),
        ("dual", dual),
        ("dual(hops=1,hidden=3)", dual),
    ],
)
def test_the_equations_of_the_papers(text, equations):
    module, (regions, words, question) = built(text), inputs()
    features = module(regions, words, question).features
    expected = torch.stack([equations(module, *one) for one in zip(regions, words, question, strict=True)])
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)
    if list(module.parameters()):
        ours, theirs = (torch.autograd.grad(each.sum(), list(module.parameters())) for each in (features, expected))
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("text", SPECS)
def test_padding_changes_nothing_whatever_it_holds(text):
    module, (regions, words, question) = built(text), inputs()
    plain = module(regions, words, question)
    for filling in (0.0, 1e6, float("nan"), float("inf")):
        padded = [torch.cat([each, torch.full_like(each[:, :2], filling)], dim=1) for each in (regions, words)]
        masks = tuple(torch.arange(each.shape[1]).expand(3, -1) < each.shape[1] - 2 for each in padded)
        masked = module(*padded, question, masks)
        torch.testing.assert_close(masked.features, plain.features, rtol=0, atol=1e-14)
        for with_padding, without in zip([*masked.regions, *masked.words], [*plain.regions, *plain.words], strict=True):
            assert not with_padding[:, -2:].any()
            torch.testing.assert_close(with_padding[:, :-2], without, rtol=0, atol=1e-14)


@pytest.mark.parametrize("text", SPECS)
def test_maps_are_weights_of_places_and_words(text):
    fused = built(text)(*inputs())
    steps = {"question_guided": 2, "question_guided(hops=1,hidden=3)": 1, "dual": 2, "dual(hops=3,hidden=4)": 3}
    assert len(fused.regions) == steps.get(text, 1 if "co_attention" in text else 0)
    assert len(fused.words) == (0 if "guided" in text else len(fused.regions))
    for weights in (*fused.regions, *fused.words):
        torch.testing.assert_close(weights.sum(1), torch.ones(3, dtype=torch.float64))


def test_names_and_options_are_checked():
    assert all(issubclass(cls, nn.Module) for cls in CROSS_MODAL.values())
    for make, message in (
        (lambda: build_cross_modal("stacked", 8), "unknown cross-modal module 'stacked'; known: none, question,"),
        (lambda: build_cross_modal("dual(steps=2)", 8), r"cross-modal module dual\(steps=2\): .*steps"),
        (lambda: QuestionGuided(8, hops=0), "question_guided: hops must be a whole number, at least 1, got 0"),
        (lambda: DualAttention(8, hidden=0), "dual: hidden must be"),
        (lambda: CoAttention(8, order="serial"), "order must be parallel or alternating, got 'serial'"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match="same width D, got"):
        built("none")(torch.ones(1, 2, 4), torch.ones(1, 2, 6), torch.ones(1, 6))
