"""Images with questions, in memory or in files, and their batches: each image comes with all its questions."""

import dataclasses
import hashlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bam.data.interface import BatchSource, LabelledImages, Unreadable
from bam.data.questions.answers import normalized_answer
from bam.data.questions.words import PADDING, Vocabulary


@dataclass(frozen=True)
class Question:
    """A question about an image.

    Attributes:
        text: the question itself.
        answers: answer -> its score from 0 to 1, the best first.
        kind: kind of question, for results by kind.
        boxes: boxes of the objects that the answer depends on, xyxy in pixels; empty if unknown.
        number: its number in the annotations, if any.
        normalizes: whether an answer that does not match is compared again after `normalized_answer`.
    """

    text: str
    answers: dict[str, float]
    kind: str
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    number: int | None = None
    normalizes: bool = False

    def score(self, answer: str) -> float:
        """The score of an answer, from 0 to 1."""
        if answer in self.answers or not self.normalizes:
            return self.answers.get(answer, 0.0)
        return self.answers.get(normalized_answer(answer), 0.0)


class KnownAnswers:
    """The answers that a network can give, by number.

    Args:
        classes: the answers.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._numbers = {name: number for number, name in enumerate(classes)}
        self._alike: dict[str, list[int]] = {}  # normalised answer -> numbers of the answers with this form
        for name, number in self._numbers.items():
            self._alike.setdefault(normalized_answer(name), []).append(number)

    def scores(self, question: Question) -> dict[int, float]:
        """Number -> score of each answer that fits a question; the most frequent first, if scores are equal."""
        fitting: dict[int, float] = {}
        for text, score in question.answers.items():
            alike = self._alike.get(text, ()) if question.normalizes else ()
            for number in (*([self._numbers[text]] if text in self._numbers else ()), *alike):
                fitting.setdefault(number, score)
        return fitting


@dataclass(frozen=True)
class QuestionBatch:
    """Q questions about the N images of a batch.

    Attributes:
        words: int64 (Q, T), see `Vocabulary.numbers`.
        image: int64 (Q,), the position in the batch of each question's image.
        goal: int64 (Q,), the number of the answer to learn; -1 if it is not among the known answers.
        scores: float32 (Q, A), the score of each known answer.
        kind: int64 (Q,), the number of each question's kind.
        number: int64 (Q,), the number of each question in the data set.
        num_images: N.
    """

    words: Tensor
    image: Tensor
    goal: Tensor
    scores: Tensor
    kind: Tensor
    number: Tensor
    num_images: int

    def __len__(self) -> int:
        """Number of images, since training counts images."""
        return self.num_images


@dataclass(frozen=True)
class QuestionDataset:
    """Images, and the questions about each of them.

    Attributes:
        images: the images; the class of each is its own number, from 0.
        questions: questions about each image, at least one.
        classes: the possible answers.
        vocabulary: the known words.
        longest: number of words after which a question is cut off.
        notes: shown to the user when a run begins.
    """

    images: LabelledImages
    questions: list[list[Question]]
    classes: tuple[str, ...]
    vocabulary: Vocabulary
    longest: int = 26
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.questions)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of questions, in alphabetical order."""
        return tuple(sorted({question.kind for question in self.flat}))

    @property
    def flat(self) -> list[Question]:
        """All questions, image by image."""
        return [question for questions in self.questions for question in questions]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images served, in pixels."""
        return self.images.image_size

    @property
    def part(self) -> str:
        """Which part of the data this is, for messages."""
        return self.images.part

    @property
    def fingerprint(self) -> str:
        """Digest of the images' names and order, and of all questions and answers."""
        questions = [[question.text, question.answers, question.kind] for question in self.flat]
        counts = [len(questions) for questions in self.questions]
        content = json.dumps([self.images.fingerprint, self.classes, self.vocabulary.words, counts, questions])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the images, see `LabelledImages.normalization`."""
        return self.images.normalization()

    def renumbered(self, classes: Sequence[str], vocabulary: Vocabulary | None = None) -> "QuestionDataset":
        """The same questions with answers and words numbered as in a network, which can give no other answers."""
        return dataclasses.replace(self, classes=tuple(classes), vocabulary=vocabulary or self.vocabulary)

    def subset(self, chosen: Tensor) -> "QuestionDataset":
        """The images with the numbers `chosen`, int64 (n,), and their questions."""
        images: Any = self.images.subset(chosen)
        images = dataclasses.replace(images, targets=torch.arange(len(chosen)))
        return dataclasses.replace(self, images=images, questions=[self.questions[k] for k in chosen.tolist()])

    def joined(self, other: "QuestionDataset") -> "QuestionDataset":
        """These images followed by those of `other`."""
        images: Any = self.images
        images = dataclasses.replace(images.joined(other.images), targets=torch.arange(len(self) + len(other)))
        return dataclasses.replace(self, images=images, questions=self.questions + other.questions)

    def batches(
        self,
        batch_size: int,
        normalization: tuple[Tensor, Tensor],
        device: torch.device | str = "cpu",
        *,
        shard: tuple[int, int] = (0, 1),
    ) -> "QuestionBatches":
        """Batches of images with their questions. Images are not augmented: "left of" must stay left.

        The arguments are those of `LabelledImages.batches`.
        """
        return QuestionBatches(self, self.images.batches(batch_size, normalization, device, shard=shard), device)


class QuestionBatches:
    """A `bam.data.BatchSource` of images (N, 3, H, W) and their questions, a `QuestionBatch`.

    Args:
        dataset: images and questions.
        source: serves the images, with their numbers as targets.
        device: device of the questions.
    """

    def __init__(self, dataset: QuestionDataset, source: BatchSource, device: torch.device | str) -> None:
        self.source, self.device = source, torch.device(device)
        flat, kinds = dataset.flat, dataset.kinds
        counts = torch.tensor([len(questions) for questions in dataset.questions])
        self.counts, self.first = counts, counts.cumsum(0) - counts
        self.words = dataset.vocabulary.numbers([question.text for question in flat], dataset.longest)
        self.kind = torch.tensor([kinds.index(question.kind) for question in flat])
        known = KnownAnswers(dataset.classes)
        self.known = [known.scores(question) for question in flat]
        self.goal = torch.tensor([max(scores, key=scores.__getitem__, default=-1) for scores in self.known])
        self.num_answers = len(dataset.classes)

    @property
    def steps(self) -> int:
        """Batches in a training epoch; a last, short batch is left out."""
        return self.source.steps

    def train(self, seed: int, epoch: int, start: int = 0) -> Generator[tuple[Tensor, QuestionBatch], None, None]:
        """Serve the shuffled batches of an epoch, starting with batch number `start`."""
        stream = self.source.train(seed, epoch, start)
        try:
            for images, numbers in stream:
                yield images, self._questions(numbers.cpu())
        finally:
            stream.close()

    def test(self) -> Generator[tuple[Tensor, QuestionBatch], None, None]:
        """Serve all images in order."""
        stream = self.source.test()
        try:
            for images, numbers in stream:
                yield images, self._questions(numbers.cpu())
        finally:
            stream.close()

    def take_unreadable(self) -> Unreadable:
        """Return the images left out since the last call, and reset the count."""
        return self.source.take_unreadable()

    def _questions(self, images: Tensor) -> QuestionBatch:
        counts, first = self.counts[images], self.first[images]
        place = torch.arange(len(images)).repeat_interleave(counts)
        within = torch.arange(len(place)) - (counts.cumsum(0) - counts)[place]
        number = first[place] + within
        words = self.words[number]
        scores = torch.zeros(len(number), self.num_answers)
        for row, question in zip(scores, number.tolist(), strict=True):
            for answer, score in self.known[question].items():
                row[answer] = score
        words = words[:, : int((words != PADDING).sum(1).max())]
        columns = (words, place, self.goal[number], scores, self.kind[number], number)
        words, place, goal, scores, kind, number = (column.to(self.device, non_blocking=True) for column in columns)
        return QuestionBatch(words, place, goal, scores, kind, number, len(images))
