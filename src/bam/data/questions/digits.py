"""Questions about handwritten digits among clutter: visual question answering without a download."""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bam.data.dataset import Dataset
from bam.data.digits import check_sizes, handwritten, paste, resized
from bam.data.questions.dataset import Question, QuestionDataset
from bam.data.questions.words import Vocabulary

_CELLS = 3  # per side of the grid that holds the digits
_LEAST, _MOST = 3, 6  # digits in an image
_PIECES = 6  # pieces of clutter
_ANSWERS = (*map(str, range(18)), "no", "yes")  # the largest sum is 9 + 8
_WHERE = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}  # row, column


class _Digit(NamedTuple):
    value: int
    row: int
    column: int
    box: tuple[int, int, int, int]


class _Candidate(NamedTuple):
    text: str
    answer: str
    boxes: tuple[tuple[int, int, int, int], ...]


@functools.lru_cache(maxsize=1)  # the runs of a comparison share it
def digits_questions(
    root: Path | None = None, *, canvas: int = 64, num_train: int = 4000, num_test: int = 1000, seed: int = 0
) -> tuple[QuestionDataset, QuestionDataset]:
    """Return (train, test): images of three to six digits on a 3 x 3 grid with clutter, six questions about each.

    Each image gets one question of every kind that it allows:

    - existence: "is there a 5"
    - counting: "how many 3s are there"
    - position: "what digit is left of the 7", or right of, above, below: the one in the next cell
    - relation: "is there a 5 above the 2"; "no" means that there is a 5, but not above; yes and no are equally frequent
    - order: "which is the largest digit"
    - sum: "what is the sum of the two digits at the top"

    Of the questions that an image allows, the generator asks the one whose answer lags furthest behind other answers to
    the same words. So the words alone reveal as little as possible about the answer; `blind_accuracy` measures how much
    they do reveal. The digits are those of `bam.data.digits`; training and test images share none. The same arguments
    give the same data.

    Args:
        root: ignored; every loader takes it.
        canvas: side of the images in pixels, from 48 to 256.
        num_train: training images.
        num_test: test images.
        seed: seed of all random choices.

    Raises:
        ValueError: for a canvas outside this range, fewer than one image, or a negative seed.
    """
    check_sizes(canvas, 48, num_train, num_test, seed)
    parts = [
        _compose(*source, canvas, count, np.random.default_rng([seed, part]))
        for part, (source, count) in enumerate(zip(handwritten(), (num_train, num_test), strict=True))
    ]
    train_questions = [question for questions in parts[0][1] for question in questions]
    vocabulary = Vocabulary.of(question.text for question in train_questions)
    train, test = (QuestionDataset(images, questions, _ANSWERS, vocabulary) for images, questions in parts)
    return train, test


def blind_accuracy(train: QuestionDataset, test: QuestionDataset) -> dict[str, float]:
    """Accuracy without looking at the image: kind -> share of test questions answered correctly; "all" for all kinds.

    The answer to a question is the most common one to the same words in training.
    """
    answers: dict[str, Counter[str]] = {}
    for question in train.flat:
        answers.setdefault(question.text, Counter()).update(list(question.answers)[:1])
    scores: dict[str, list[float]] = {}
    for question in test.flat:
        guess = answers[question.text].most_common(1)[0][0] if question.text in answers else ""
        for kind in (question.kind, "all"):
            scores.setdefault(kind, []).append(question.answers.get(guess, 0.0))
    return {kind: sum(values) / len(values) for kind, values in scores.items()}


def _compose(
    small: Tensor, target: Tensor, canvas: int, count: int, random: np.random.Generator
) -> tuple[Dataset, list[list[Question]]]:
    """`count` images and the questions about each."""
    cell = canvas // _CELLS
    scaled = {side: resized(small, side) for side in range(round(0.7 * cell), round(0.9 * cell) + 1)}
    members = [np.flatnonzero(target.numpy() == value) for value in range(10)]
    images = np.zeros((count, canvas, canvas), dtype=np.uint8)
    answer_counts: dict[str, Counter[str]] = defaultdict(Counter)
    questions: list[list[Question]] = []
    for image in images:
        _add_clutter(image, scaled, cell, random)
        digits = _place(image, scaled, members, cell, random)
        questions.append(_ask(digits, answer_counts, random))
    rgb = torch.from_numpy(images)[..., None].expand(-1, -1, -1, 3).contiguous()
    return Dataset(rgb, torch.arange(count), ()), questions


def _add_clutter(image: np.ndarray, scaled: dict[int, np.ndarray], cell: int, random: np.random.Generator) -> None:
    """Paste pieces of digits that are too small to be read as digits."""
    piece, sides = cell // 4, list(scaled)
    for of_side, *places in random.random((_PIECES, 6)):
        side = sides[int(of_side * len(sides))]
        digit = scaled[side][int(places[0] * len(scaled[side]))]
        y, x = (int(place * (side - piece + 1)) for place in places[1:3])
        top, left = (int(place * (len(image) - piece + 1)) for place in places[3:])
        paste(image, digit[y : y + piece, x : x + piece], top, left)


def _place(
    image: np.ndarray,
    scaled: dict[int, np.ndarray],
    members: list[np.ndarray],
    cell: int,
    random: np.random.Generator,
) -> list[_Digit]:
    """Paste each digit into a cell of its own; some values occur several times, and the largest is from 1 to 9."""
    number = int(random.integers(_LEAST, _MOST + 1))
    largest = int(random.integers(1, 10))
    pool = random.integers(0, largest, size=max(1, number - 1 - int(random.integers(0, number - 1))))
    values = [largest, *pool[random.integers(len(pool), size=number - 1)]]
    cells, draws, sides, digits = random.permutation(_CELLS**2)[:number], random.random((number, 4)), list(scaled), []
    for value, place, (of_side, of_digit, down, right) in zip(values, cells, draws, strict=True):
        side = sides[int(of_side * len(sides))]
        digit = scaled[side][members[value][int(of_digit * len(members[value]))]]
        row, column = divmod(int(place), _CELLS)
        top, left = (k * cell + int(shift * (cell - side + 1)) for k, shift in ((row, down), (column, right)))
        paste(image, digit, top, left)
        rows, columns = np.nonzero(digit > 40)
        x, y, right_end, bottom = (int(k) for k in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        digits.append(_Digit(int(value), row, column, (left + x, top + y, left + right_end, top + bottom)))
    return digits


def _ask(digits: list[_Digit], answer_counts: dict[str, Counter[str]], random: np.random.Generator) -> list[Question]:
    """A question of each kind that the digits allow.

    `answer_counts` counts the answers so far, to the same words and to the same kind of question.
    """
    questions = []
    for kind, candidates in _candidates(digits).items():
        if kind == "relation":  # "yes" is possible more often than "no"
            candidates = [candidate for candidate in candidates if _lead(answer_counts[kind], candidate.answer) <= 0]
        if not candidates:
            continue
        leads = [_lead(answer_counts[candidate.text], candidate.answer) for candidate in candidates]
        rarest = [candidate for candidate, lead in zip(candidates, leads, strict=True) if lead == min(leads)]
        chosen = rarest[int(random.integers(len(rarest)))]
        answer_counts[chosen.text][chosen.answer] += 1
        answer_counts[kind][chosen.answer] += 1
        questions.append(Question(chosen.text, {chosen.answer: 1.0}, kind, chosen.boxes))
    return questions


def _lead(answers: Counter[str], answer: str) -> int:
    """By how much `answer` leads the other answers counted so far."""
    return answers[answer] - max((count for other, count in answers.items() if other != answer), default=0)


def _candidates(digits: list[_Digit]) -> dict[str, list[_Candidate]]:
    """Kind -> the questions that these digits allow."""
    boxes: dict[int, list[tuple[int, int, int, int]]] = {value: [] for value in range(10)}
    for digit in digits:
        boxes[digit.value].append(digit.box)
    by_value = {value: tuple(of_value) for value, of_value in boxes.items()}
    largest = max(digits, key=lambda digit: digit.value)
    top = [digit for digit in digits if digit.row == 0]
    pair = tuple(digit.box for digit in top)
    total = str(sum(digit.value for digit in top))
    return {
        "existence": [_Candidate(f"is there a {v}", "yes" if own else "no", own) for v, own in by_value.items()],
        "counting": [_Candidate(f"how many {v}s are there", str(len(own)), own) for v, own in by_value.items()],
        "position": list(_neighbours(digits)),
        "relation": list(_relations(digits)),
        "order": [_Candidate("which is the largest digit", str(largest.value), (largest.box,))],
        "sum": [_Candidate("what is the sum of the two digits at the top", total, pair)] if len(top) == 2 else [],
    }


def _anchors(digits: list[_Digit]) -> Iterator[tuple[_Digit, str, _Digit]]:
    """(digit that occurs once, direction, the digit in the next cell in that direction)."""
    counts = Counter(digit.value for digit in digits)
    by_place = {(digit.row, digit.column): digit for digit in digits}
    for digit in digits:
        for where, (down, right) in _WHERE.items():
            other = by_place.get((digit.row + down, digit.column + right))
            if counts[digit.value] == 1 and other is not None:
                yield digit, where, other


def _neighbours(digits: list[_Digit]) -> Iterator[_Candidate]:
    for anchor, where, other in _anchors(digits):
        yield _Candidate(f"what digit is {where} the {anchor.value}", str(other.value), (other.box,))


def _relations(digits: list[_Digit]) -> Iterator[_Candidate]:
    """ "is there a 5 above the 2": yes for the digit in the next cell, no for a digit that is only on other sides."""
    for anchor, where, other in _anchors(digits):
        (down, right), text = _WHERE[where], "is there a {} " + f"{where} the {anchor.value}"
        yield _Candidate(text.format(other.value), "yes", (other.box, anchor.box))
        on_that_side = {
            digit.value
            for digit in digits
            if (digit.row - anchor.row) * down > 0 or (digit.column - anchor.column) * right > 0
        }
        for value in sorted({digit.value for digit in digits} - on_that_side - {anchor.value}):
            yield _Candidate(text.format(value), "no", (anchor.box,))
