import pytest
import torch

from bam.export.parity import compare, images_at


def scores(images):
    return images.mean((2, 3))


def test_differences_by_hand():
    images = torch.tensor([[1.0, 2.0, -4.0], [3.0, 1.0, 0.0]])[:, :, None, None].expand(2, 3, 5, 6)
    wrong = torch.tensor([[0.0, 0.5, 0.0], [0.0, 2.5, 0.0]])
    check = compare(scores, lambda x: [scores(x) + wrong], [images])
    assert check.shape == (2, 3, 5, 6) and check.images == 2
    assert (check.difference, check.relative, check.agreement) == (2.5, 2.5 / 4, 0.5)
    assert str(check) == "2 images as 2 x 3 x 5 x 6: differs by 2.5 (0.62 relative), top-1 agrees on 50.0 %"


def test_every_batch_and_every_output_counts():
    batches = [torch.ones(2, 3, 4, 4), 2 * torch.ones(2, 3, 4, 4)]

    def nested(x):
        return {"map": x, "rest": [(100 * scores(x), None)]}

    def wrong(x):
        return [x, 100 * scores(x) + (10.0 if x[0, 0, 0, 0] == 2 else 0.0)]

    check = compare(nested, wrong, batches)
    assert (check.images, check.difference, check.agreement) == (4, 10.0, None)
    assert check.relative == pytest.approx(10 / 200)


def test_no_number_anywhere_is_kept():
    batches = [torch.randn(2, 3, 4, 4) for _ in range(3)]
    check = compare(scores, lambda x: scores(x) * (float("nan") if x is batches[1] else 1.0), batches)
    assert check.difference != check.difference and not check.relative <= 1e9


def test_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"shapes \[\(1, 3\)\], but the network's have \[\(2, 3\)\]"):
        compare(scores, lambda x: scores(x)[:1], [torch.randn(2, 3, 4, 4)])


def test_images_are_the_examples_or_noise():
    examples = torch.randn(7, 3, 8, 8)
    batches = images_at((2, 3, 8, 8), examples, torch.device("cpu"))
    assert torch.equal(torch.cat(batches), examples[:6])
    assert [b.shape for b in images_at((3, 3, 9, 5), examples, torch.device("cpu"))] == [(3, 3, 9, 5)] * 2
    (noise,), (again,) = (images_at((64, 3, 16, 16), None, torch.device("cpu")) for _ in range(2))
    assert torch.equal(noise, again) and noise.std() == pytest.approx(1, abs=0.02)
