"""Questions about images: the digits, VQA v2's files, its metric and its batches."""

import json

import pytest
import torch
from PIL import Image

from bam.data import load_questions
from bam.data.questions import Vocabulary
from bam.data.questions.answers import answer_scores, normalized_answer
from bam.data.questions.digits import blind_accuracy, digits_questions

SMALL = {"num_train": 300, "num_test": 60}


@pytest.fixture(scope="module")
def digits():
    return digits_questions(**SMALL)


def test_digit_questions_have_right_answers(digits):
    """Some answers can be read off the boxes."""
    train, test = digits
    assert len(train) == 300 and len(test) == 60 and train.classes == test.classes
    for questions in test.questions:
        by_kind = {question.kind: question for question in questions}
        counted, there = by_kind["counting"], by_kind["existence"]
        assert next(iter(counted.answers)) == str(len(counted.boxes))
        assert next(iter(there.answers)) == ("yes" if there.boxes else "no")
        assert len(by_kind["order"].boxes) == 1
        if "sum" in by_kind:
            assert len(by_kind["sum"].boxes) == 2 and all(top < 22 for _, top, _, _ in by_kind["sum"].boxes)
        for question in questions:
            assert all(0 <= x1 < x2 <= 64 and 0 <= y1 < y2 <= 64 for x1, y1, x2, y2 in question.boxes)


def test_position_questions_name_the_neighbour(digits):
    """Of two questions about one image, "left of" and "right of", each digit is where the other says."""
    positions = [
        q for questions in digits[0].questions for q in questions if q.kind == "relation" and "yes" in q.answers
    ]
    for question in positions:
        (x1, y1, *_), (other_x, other_y, *_) = question.boxes  # of the digit there, of the anchor
        where = next(where for where in ("left", "right", "above", "below") if where in question.text)
        holds = {"left": x1 < other_x, "right": x1 > other_x, "above": y1 < other_y, "below": y1 > other_y}
        assert holds[where], question
    assert len(positions) > 50


def test_the_words_alone_tell_little(digits):
    blind = blind_accuracy(*digits_questions(num_train=1000, num_test=250))
    assert blind["existence"] < 0.56 and blind["counting"] < 0.33 and blind["order"] < 0.2
    assert blind["all"] < 0.4


def test_the_same_arguments_give_the_same_data_and_parts_share_no_digit(digits):
    again = digits_questions.__wrapped__(**SMALL)
    assert all(a.fingerprint == b.fingerprint for a, b in zip(digits, again, strict=True))
    assert torch.equal(digits[0].images.images, again[0].images.images)
    other = digits_questions.__wrapped__(**SMALL, seed=1)
    assert other[0].fingerprint != digits[0].fingerprint
    for options, message in (({"canvas": 40}, "from 48 to 256, got 40"), ({"num_test": 0}, "at least 1, got 0")):
        with pytest.raises(ValueError, match=message):
            digits_questions(**options)


def test_batches_carry_every_question_of_their_images(digits):
    _, test = digits
    batches = test.batches(16, test.normalization())
    seen = []
    for images, questions in batches.test():
        assert len(images) == len(questions) and questions.image.max() == len(images) - 1
        assert (questions.scores.gather(1, questions.goal[:, None]) == 1).all()
        seen += questions.number.tolist()
    assert seen == list(range(len(test.flat)))
    (images, questions), *_ = batches.train(seed=0, epoch=0)
    (again, same), *_ = batches.train(seed=0, epoch=0)
    assert torch.equal(images, again) and torch.equal(questions.words, same.words)
    asked = [test.flat[number].text for number in questions.number.tolist()]
    assert torch.equal(questions.words, test.vocabulary.numbers(asked))
    part = test.subset(torch.tensor([5, 2]))
    assert [q.text for q in part.flat] == [q.text for k in (5, 2) for q in test.questions[k]]
    assert len(part.joined(part)) == 4 and len(list(part.joined(part).batches(4, test.normalization()).test())) == 1


def test_words():
    vocabulary = Vocabulary.of(["What's that?", "that is it"], least=1)
    assert vocabulary.words == ("that", "is", "it", "what's") and len(vocabulary) == 6
    assert vocabulary.numbers(["THAT, dog!", "is"]).tolist() == [[2, 1], [3, 0]]
    assert vocabulary.unknown("that dog") == ["dog"] and Vocabulary.of(["a a b"], least=2).words == ("a",)
    assert vocabulary.numbers(["that is it"], longest=2).tolist() == [[2, 3]]
    with pytest.raises(ValueError, match=r"the question '\?!' has no words"):
        vocabulary.numbers(["?!"])


@pytest.mark.parametrize(
    "given, expected",
    [
        ("The Dog", "dog"), ("two dogs.", "2 dogs"), ("none", "0"), ("dont know", "don't know"),
        ("1,000", "1000"), ("an  apple\n", "apple"),
        ("yes/no", "yes no"), ("a t-shirt", "t shirt"), ("well , ok", "well ok"), ("2.5 m", "2.5 m"),
        ("couldnt've", "couldn't've"), ("she's here", "she's here"),
    ],
)  # fmt: skip
def test_answers_are_made_alike(given, expected):
    assert normalized_answer(given) == expected


def test_scores_of_ten_answers():
    """By hand: an answer that n of 10 people gave scores min((n - 1) / 3, 1) n times and min(n / 3, 1) 10 - n times."""
    scores = answer_scores(["dog"] * 4 + ["a cat"] * 3 + ["The Cow"] * 2 + ["pig"])
    assert scores == pytest.approx({"dog": 1.0, "cat": 0.9, "cow": 0.6, "pig": 0.3})
    assert next(iter(scores)) == "dog"
    assert answer_scores(["The Dog"] * 10) == {"The Dog": 1.0}  # unanimous answers stay as they are


@pytest.fixture
def vqa2(tmp_path):
    """Two images and three questions for training, one of each for testing."""
    folder = tmp_path / "vqa2"
    for split, images in (("train2014", {7: 2, 9: 1}), ("val2014", {4: 1})):
        (folder / split).mkdir(parents=True)
        questions, annotations = [], []
        for image, count in images.items():
            name = f"COCO_{split}_{image:012d}.jpg" if split == "train2014" else f"{image:012d}.jpg"
            Image.new("RGB", (40, 30), (image * 20, 0, 0)).save(folder / split / name)
            for number in range(image * 10, image * 10 + count):
                questions.append({"question_id": number, "image_id": image, "question": f"Is it {number}?"})
                answers = [{"answer": "yes" if number % 2 else "a dog"}] * 10
                annotations.append(
                    {"question_id": number, "image_id": image, "answers": answers, "answer_type": "other"}
                )
        (folder / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(json.dumps({"questions": questions}))
        (folder / f"v2_mscoco_{split}_annotations.json").write_text(json.dumps({"annotations": annotations}))
    return tmp_path


def test_vqa2_is_read(vqa2):
    train, test = load_questions("vqa2", vqa2, size=32)
    assert [len(questions) for questions in train.questions] == [2, 1] and train.classes == ("a dog", "yes")
    assert train.kinds == ("other",) and train.flat[0].number == 70 and test.flat[0].text == "Is it 40?"
    (images, questions), *_ = test.batches(2, test.normalization()).test()
    assert images.shape == (1, 3, 32, 32) and questions.goal.tolist() == [0]
    only, _ = load_questions("vqa2", vqa2, num_answers=1, num_train=1)
    assert [q.text for q in only.flat] == [
        "Is it 70?"
    ] and "left out, because none of the 1 answers is theirs: 1" in only.notes[0]


def test_whole_images_are_served_not_crops(vqa2):
    picture = Image.new("RGB", (40, 30))
    picture.paste((255, 255, 255), (0, 0, 4, 30))
    picture.save(vqa2 / "vqa2" / "val2014" / "000000000004.jpg")
    _, test = load_questions("vqa2", vqa2, size=20)
    (images, _), *_ = test.batches(1, test.normalization()).train(0, 0)
    assert (images[0, :, :, 0] > images[0, :, :, 10] + 2).all()


def break_file(folder, name, change):
    path = folder / "vqa2" / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


QUESTIONS, ANSWERS = "v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json"


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda f: (f / "vqa2" / ANSWERS).unlink(), f"{ANSWERS} is missing; present: v2_OpenEnded"),
        (lambda f: (f / "vqa2" / ANSWERS).write_text("{"), "is damaged"),
        (lambda f: (f / "vqa2/train2014/COCO_train2014_000000000009.jpg").unlink(), "image 9 is missing in"),
        (
            lambda f: break_file(f, ANSWERS, lambda c: {"annotations": c["annotations"][1:]}),
            "has no answers to question 70",
        ),
        (lambda f: break_file(f, QUESTIONS, lambda c: {}), "it has no list 'questions'"),
        (lambda f: break_file(f, QUESTIONS, lambda c: {"questions": []}), "holds no questions"),
        (
            lambda f: break_file(f, QUESTIONS, lambda c: {"questions": [{"image_id": 3}]}),
            "entry 1 of questions lacks question",
        ),
        (
            lambda f: break_file(f, QUESTIONS, lambda c: {"questions": [c["questions"][0] | {"image_id": "7"}]}),
            "image_id must be of type int",
        ),
        (
            lambda f: break_file(f, QUESTIONS, lambda c: {"questions": [c["questions"][0] | {"image_id": 9}]}),
            "question 70 has another image than in",
        ),
    ],
)
def test_what_is_wrong_with_files_is_said(vqa2, harm, message):
    harm(vqa2)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_questions("vqa2", vqa2)


def test_names_and_options_are_checked(vqa2, tmp_path):
    with pytest.raises(ValueError, match="known data sets with questions: digits, vqa2"):
        load_questions("clevr")
    with pytest.raises(ValueError, match="num_answers must be a number, at least 1; got 0"):
        load_questions("vqa2", vqa2, num_answers=0)
    with pytest.raises(ValueError, match="there is no option scale"):
        load_questions("vqa2", vqa2, scale=[0.5, 1])
    with pytest.raises(FileNotFoundError, match="no file of VQA v2"):
        load_questions("vqa2", tmp_path / "vqa2" / "train2014")
