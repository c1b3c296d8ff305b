"""The words of questions, and their numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

PADDING, UNKNOWN = 0, 1  #: numbers for "no word" and for a word that did not occur in training
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words_of(question: str) -> list[str]:
    """The words of a question in lower case, without punctuation."""
    return _WORD.findall(question.lower())


class Vocabulary:
    """The words that a network knows, numbered from 2 in the order given.

    Args:
        words: distinct words.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._numbers = {word: number for number, word in enumerate(self.words, start=2)}

    @classmethod
    def of(cls, questions: Iterable[str], least: int = 1) -> "Vocabulary":
        """The words that occur at least `least` times, the most frequent first."""
        counts = Counter(word for question in questions for word in words_of(question))
        return cls(
            [word for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= least]
        )

    def __len__(self) -> int:
        """Number of words, including padding and the unknown word."""
        return len(self.words) + 2

    def unknown(self, question: str) -> list[str]:
        """The words of a question that are not in the vocabulary."""
        return [word for word in words_of(question) if word not in self._numbers]

    def numbers(self, questions: Sequence[str], longest: int | None = None) -> Tensor:
        """The numbers of the words in each question, int64 (n, T), padded with `PADDING`.

        Args:
            questions: n questions.
            longest: number of words after which questions are cut off; None for no limit.

        Raises:
            ValueError: for a question without words.
        """
        rows = [[self._numbers.get(word, UNKNOWN) for word in words_of(question)][:longest] for question in questions]
        for question, row in zip(questions, rows, strict=True):
            if not row:
                raise ValueError(f"the question {question!r} has no words")
        result = torch.full((len(rows), max(map(len, rows), default=1)), PADDING)
        for numbers, row in zip(result, rows, strict=True):
            numbers[: len(row)] = torch.tensor(row)
        return result
