import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from bam import data
from bam.data.digits import digits


@pytest.fixture(scope="module")
def small():
    return digits(canvas=32, num_train=300, num_test=200)


def test_shapes_and_classes(small):
    train, test = small
    assert train.images.shape == (300, 32, 32, 3) and test.images.shape == (200, 32, 32, 3)
    assert train.images.dtype == torch.uint8 and train.classes == tuple("0123456789")
    assert set(train.targets.tolist()) == set(range(10))


def test_the_same_arguments_give_the_same_images(small):
    digits.cache_clear()
    again = digits(canvas=32, num_train=300, num_test=200)
    other = digits(canvas=32, num_train=300, num_test=200, seed=1)
    assert torch.equal(small[0].images, again[0].images) and torch.equal(small[1].boxes, again[1].boxes)
    assert not torch.equal(small[0].images, other[0].images)


def test_boxes_hold_a_digit_of_the_target_class(small):
    """Inside its box an image is at least as bright as some digit of its class, scaled to the box."""
    for part in small:
        x1, y1, x2, y2 = part.boxes.T
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= 32).all() and (y2 <= 32).all()
        assert ((x2 - x1 >= 4) & (y2 - y1 >= 8)).all()
        for image, (left, top, right, bottom) in zip(part.images[:50], part.boxes[:50].tolist(), strict=True):
            assert image[top:bottom, left:right].max() > 200
            for edge in (image[top, left:right], image[bottom - 1, left:right]):
                assert edge.max() > 40


def test_training_and_test_digits_are_disjoint():
    """The split is by digit: the two parts of scikit-learn's set share none."""
    from bam.data.digits import _NUM_TRAIN_DIGITS

    order = np.random.default_rng(0).permutation(len(load_digits().target))
    assert not set(order[:_NUM_TRAIN_DIGITS]) & set(order[_NUM_TRAIN_DIGITS:])
    assert len(order) - _NUM_TRAIN_DIGITS == 500


def test_errors():
    with pytest.raises(ValueError, match="from 16 to 256, got 8"):
        digits(canvas=8)
    with pytest.raises(ValueError, match="unknown data set 'digit'; known: digits, cifar100"):
        data.load("digit")
