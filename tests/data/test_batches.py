import torch

from bam.data import Dataset
from bam.data.augmentation import Augmentation


def numbered(count=10, height=4, width=6):
    """Image k is k everywhere in red, has its row numbers in green and its column numbers in blue."""
    images = torch.zeros(count, height, width, 3, dtype=torch.uint8)
    images[..., 0] = torch.arange(count, dtype=torch.uint8)[:, None, None] + 100
    images[..., 1] = torch.arange(height, dtype=torch.uint8)[:, None] + 1
    images[..., 2] = torch.arange(width, dtype=torch.uint8) + 1
    return Dataset(images, torch.arange(count), tuple(map(str, range(count))))


PLAIN = (torch.zeros(3), torch.ones(3))


def test_normalization_is_that_of_all_pixels():
    data = Dataset(torch.randint(256, (7, 5, 4, 3), dtype=torch.uint8), torch.zeros(7, dtype=torch.long), ("a",))
    mean, deviation = data.normalization()
    pixels = data.images.double().reshape(-1, 3)
    torch.testing.assert_close(mean, pixels.mean(0).float())
    torch.testing.assert_close(deviation, pixels.std(0, correction=0).float())


def test_test_batches_are_the_images_normalised():
    data = numbered()
    mean, deviation = torch.tensor([100.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 4.0])
    for padding in (0, 2):
        served = list(data.batches(4, (mean, deviation), augmentation=Augmentation(padding, True)).test())
        images, targets = (torch.cat(part) for part in zip(*served, strict=True))
        torch.testing.assert_close(images, ((data.images - mean) / deviation).permute(0, 3, 1, 2))
        assert torch.equal(targets, data.targets) and images.dtype == torch.float32
        assert served[0][0].is_contiguous(memory_format=torch.channels_last)


def test_training_batches_are_crops_and_flips_of_the_right_image():
    data = numbered()
    seen_offsets, seen_flips, targets_seen = set(), set(), []
    batches = data.batches(5, PLAIN, augmentation=Augmentation(2, True))
    for epoch in range(20):
        for images, targets in batches.train(seed=3, epoch=epoch):
            targets_seen += targets.tolist()
            for image, target in zip(images, targets, strict=True):
                inside = image[1] > 0  # the border is the mean colour, here 0
                assert (image[0][inside] == 100 + target).all()
                rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
                shown = image[2][rows[0], columns]
                flipped = len(shown) > 1 and bool(shown[0] > shown[-1])
                assert (shown.diff() == (-1 if flipped else 1)).all()
                assert (image[1][rows, columns[0]].diff() == 1).all()
                seen_flips.add(flipped)
                seen_offsets.add((int(image[1][rows[0], columns[0]]), int(rows[0])))
    assert seen_flips == {True, False} and len(seen_offsets) == 5
    assert sorted(targets_seen) == sorted(list(range(10)) * 20)


def test_an_epoch_depends_on_seed_and_epoch_alone_and_starts_anywhere():
    batches = numbered().batches(3, PLAIN, augmentation=Augmentation(1, True))
    whole = list(batches.train(1, 4))
    assert len(whole) == batches.steps == 3
    torch.rand(5)  # the global generator plays no part
    for (image, target), (again, target_again) in zip(whole[1:], batches.train(1, 4, start=1), strict=True):
        assert torch.equal(image, again) and torch.equal(target, target_again)
    assert not torch.equal(whole[0][1], next(batches.train(2, 4))[1])
    assert not torch.equal(whole[0][1], next(batches.train(1, 5))[1])


def test_shards_share_every_batch():
    whole = numbered().batches(4, PLAIN)
    halves = [numbered().batches(4, PLAIN, shard=(rank, 2)) for rank in (0, 1)]
    for (_, together), *parts in zip(whole.train(0, 0), *(half.train(0, 0) for half in halves), strict=True):
        assert sorted(together.tolist()) == sorted(parts[0][1].tolist() + parts[1][1].tolist())
    tested = [target for half in halves for _, targets in half.test() for target in targets.tolist()]
    assert sorted(tested) == list(range(10))
