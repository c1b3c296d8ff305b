"""VQA v2 (Goyal et al., CVPR 2017, https://arxiv.org/abs/1612.00837), and questions in its format."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from bam.data.files.options import is_whole
from bam.data.files.places import first_folder
from bam.data.folder.dataset import FolderDataset
from bam.data.folder.options import FolderOptions
from bam.data.questions.answers import answer_scores
from bam.data.questions.dataset import KnownAnswers, Question, QuestionDataset
from bam.data.questions.words import Vocabulary
from bam.files import check_types, read_json

_QUESTIONS = "v2_OpenEnded_mscoco_{}_questions.json"
_ANNOTATIONS = "v2_mscoco_{}_annotations.json"
_QUESTION = {"question_id": int, "image_id": int, "question": str}
_ANNOTATION = {"question_id": int, "image_id": int, "answers": list[dict[str, Any]], "answer_type": str}
_ADVICE = "replace it with a fresh copy from https://visualqa.org/download.html"


@dataclass(frozen=True)
class QuestionOptions(FolderOptions):
    """Options of VQA v2, besides those of `bam.data.folder.options.FolderOptions` that do not concern cropping.

    Attributes:
        train: name of the split to train on.
        test: name of the split to test on.
        num_train: train on only the first `num_train` images, to try things out; default: all.
        num_test: test on only the first `num_test` images, to try things out; default: all.
        num_answers: number of possible answers: the most frequent ones in training.
        least_words: how often a word must occur in training to be known.
        longest: number of words after which a question is cut off.
    """

    size: int = 224
    train: str = "train2014"
    test: str = "val2014"
    num_train: int | None = None
    num_test: int | None = None
    num_answers: int = 3000
    least_words: int = 1
    longest: int = 26

    WHOLE: ClassVar[bool] = True
    TITLE: ClassVar[str] = "vqa2"
    EXAMPLE: ClassVar[str] = '{"num_answers": 1000}'

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        super().__post_init__()
        for name in ("num_answers", "least_words", "longest"):
            self._check(name, is_whole(getattr(self, name), 1), "a number, at least 1")
        for name in ("num_train", "num_test"):
            value = getattr(self, name)
            self._check(name, value is None or is_whole(value, 1), "a number of images, at least 1")
        for name in ("train", "test"):
            self._check(name, bool(getattr(self, name)) and isinstance(getattr(self, name), str), "the name of a split")


def vqa2(root: Path, **options: Any) -> tuple[QuestionDataset, QuestionDataset]:
    """Return (train, test): the questions about train2014 and val2014 of COCO, from `root`/vqa2 or `root` itself.

    A split S consists of v2_OpenEnded_mscoco_S_questions.json, v2_mscoco_S_annotations.json and the images in S/, which
    may also lie in `root`/coco/S. The possible answers are the most frequent ones in training. Questions that none of
    them answers are left out of training, and count as wrong in testing.

    Args:
        root: the folder that holds vqa2/.
        **options: the fields of `QuestionOptions`.

    Raises:
        FileNotFoundError: if a file, a folder or an image is missing.
        ValueError: for a file in another format, or an unknown or invalid option.
    """
    vqa_options = QuestionOptions.read(options, unused=("resize", "scale", "ratio", "val_share"))
    advice = (
        f"unpack questions, annotations and images of VQA v2 (https://visualqa.org/download.html) into "
        f"{root / 'vqa2'}, or give the folder that holds vqa2 as --data-root or BAM_DATA"
    )
    folder = first_folder([root / "vqa2", root], advice)
    train_paths, train_questions = _read(folder, root, vqa_options.train, vqa_options.num_train)
    test_paths, test_questions = _read(folder, root, vqa_options.test, vqa_options.num_test)
    all_questions = [question for questions in train_questions for question in questions]
    counts = Counter(next(iter(question.answers)) for question in all_questions)
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    classes = tuple(answer for answer, _ in frequent[: vqa_options.num_answers])
    known = KnownAnswers(classes)
    answered = [[question for question in questions if known.scores(question)] for questions in train_questions]
    kept = [k for k, questions in enumerate(answered) if questions]
    vocabulary = Vocabulary.of((question.text for question in all_questions), vqa_options.least_words)
    left_out = len(all_questions) - sum(map(len, answered))
    note = f"{len(all_questions)} training questions; {left_out} left out: none of the {len(classes)} answers fits"
    train = _dataset(
        [train_paths[k] for k in kept], [answered[k] for k in kept], classes, vocabulary, vqa_options, (note,)
    )
    return train, _dataset(test_paths, test_questions, classes, vocabulary, vqa_options)


def _dataset(
    paths: list[str],
    questions: list[list[Question]],
    classes: tuple[str, ...],
    vocabulary: Vocabulary,
    options: QuestionOptions,
    notes: tuple[str, ...] = (),
) -> QuestionDataset:
    images = FolderDataset(paths, torch.arange(len(paths)), (), options)
    return QuestionDataset(images, questions, classes, vocabulary, options.longest, notes)


def _read(folder: Path, root: Path, split: str, count: int | None) -> tuple[list[str], list[list[Question]]]:
    """The images of a split in order of id, and the questions about each."""
    questions_file, annotations_file = (_file(folder, name.format(split)) for name in (_QUESTIONS, _ANNOTATIONS))
    questions = _entries(questions_file, "questions", _QUESTION)
    annotations = {entry["question_id"]: entry for entry in _entries(annotations_file, "annotations", _ANNOTATION)}
    by_image: dict[int, list[Question]] = {}
    for entry in questions:
        number, image = entry["question_id"], entry["image_id"]
        if number not in annotations:
            raise ValueError(f"{annotations_file} has no answers to question {number} of {questions_file.name}")
        if annotations[number]["image_id"] != image:
            raise ValueError(f"{annotations_file}: the image of question {number} is not that of {questions_file.name}")
        by_image.setdefault(image, []).append(_question(entry, annotations[number], annotations_file))
    if not by_image:
        raise ValueError(f"{questions_file} holds no questions; {_ADVICE}")
    ids = sorted(by_image)[:count]
    images = first_folder([folder / split, root / "coco" / split], f"unpack {split}.zip of COCO into {folder}")
    return _paths(images, split, ids, questions_file), [by_image[image] for image in ids]


def _question(entry: dict[str, Any], annotation: dict[str, Any], path: Path) -> Question:
    where = f"{path}: question {entry['question_id']}"
    answers = [answer.get("answer") for answer in annotation["answers"]]
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"{where} has no list of answers that are strings; {_ADVICE}")
    kind, number = annotation["answer_type"], entry["question_id"]
    return Question(entry["question"], answer_scores(answers), kind, (), number, len(set(answers)) > 1)


def _file(folder: Path, name: str) -> Path:
    path = next((place / name for place in (folder, folder / "questions", folder / "annotations")
                 if (place / name).is_file()), None)  # fmt: skip
    if path is None:
        others = sorted(other.name for other in folder.glob("v2_*.json"))
        raise FileNotFoundError(f"{folder / name} is missing; present: {', '.join(others) or 'no file of VQA v2'}")
    return path


def _entries(path: Path, key: str, kinds: dict[str, Any]) -> list[dict[str, Any]]:
    content = read_json(path, _ADVICE)
    if not isinstance(content.get(key), list):
        raise ValueError(f"{path} holds no {key} in the format of VQA v2: it has no list {key!r}")
    for number, entry in enumerate(content[key], start=1):
        missing = kinds.keys() - entry.keys() if isinstance(entry, dict) else kinds.keys()
        if missing:
            raise ValueError(f"{path}: entry {number} of {key} lacks {', '.join(sorted(missing))}; {_ADVICE}")
        check_types({name: entry[name] for name in kinds}, kinds, path)
    return content[key]


def _paths(folder: Path, split: str, ids: Sequence[int], source: Path) -> list[str]:
    """The image with each id, named as in 2014 (COCO_train2014_000000000009.jpg) or in 2017 (000000000009.jpg)."""
    present = set(os.listdir(folder))
    paths = []
    for number in ids:
        names = [f"COCO_{split}_{number:012d}.jpg", f"{number:012d}.jpg"]
        name = next((name for name in names if name in present), None)
        if name is None:
            raise FileNotFoundError(
                f"image {number} is missing in {folder}, but {source} asks about it: there is neither {names[0]} nor "
                f"{names[1]}"
            )
        paths.append(str(folder / name))
    return paths
