"""Questions about images: the digits, VQA v2's files, its metric and its batches."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from bam.data import load_questions
from bam.data.dataset import Dataset
from bam.data.digits import handwritten
from bam.data.questions import Question, QuestionDataset, Vocabulary
from bam.data.questions.answers import answer_scores, normalized_answer
from bam.data.questions.digits import _candidates, _Digit, blind_accuracy, digits_questions

SMALL = {"num_train": 300, "num_test": 60}


@pytest.fixture(scope="module")
def digits():
    return digits_questions(**SMALL)


def test_the_questions_that_digits_allow():
    """A 7 with a 3 to its right and a 5 below, a 5 further down, and a 3 in the corner."""
    places = {(0, 0): 7, (0, 1): 3, (1, 0): 5, (2, 0): 5, (2, 2): 3}
    digits = [_Digit(value, *place, (9 * place[1], 9 * place[0], 9, 9)) for place, value in places.items()]
    box = {digit[1:3]: digit.box for digit in digits}
    asked = {kind: {c.text: (c.answer, c.boxes) for c in each} for kind, each in _candidates(digits).items()}
    assert asked["existence"]["is there a 5"] == ("yes", (box[1, 0], box[2, 0]))
    assert asked["existence"]["is there a 4"] == ("no", ())
    assert {text: answer for text, (answer, _) in asked["counting"].items() if answer != "0"} == {
        "how many 7s are there": "1", "how many 3s are there": "2", "how many 5s are there": "2",
    }  # fmt: skip
    assert asked["position"] == {  # of the 7, which alone occurs once
        "what digit is right of the 7": ("3", (box[0, 1],)),
        "what digit is below the 7": ("5", (box[1, 0],)),
    }
    assert asked["relation"] == {  # a 3 is below the 7, if not right below; no 5 is right of it
        "is there a 3 right of the 7": ("yes", (box[0, 1], box[0, 0])),
        "is there a 5 right of the 7": ("no", (box[0, 0],)),
        "is there a 5 below the 7": ("yes", (box[1, 0], box[0, 0])),
    }
    assert asked["order"] == {"which is the largest digit": ("7", (box[0, 0],))}
    assert asked["sum"] == {"what is the sum of the two digits at the top": ("10", (box[0, 0], box[0, 1]))}


def test_boxes_bound_what_matters(digits):
    train, test = digits
    assert len(train) == 300 and len(test) == 60 and train.classes == test.classes
    for image, questions in zip(test.images.images, test.questions, strict=True):
        for question in questions:
            for x1, y1, x2, y2 in question.boxes:
                assert 0 <= x1 < x2 <= 64 and 0 <= y1 < y2 <= 64
                assert (image[y1:y2, x1:x2, 0] > 40).float().mean() > 0.2


def test_training_and_testing_share_no_digit():
    train, test = ({digit.numpy().tobytes() for digit in pixels} for pixels, _ in handwritten())
    assert len(train) > 1200 and len(test) == 500 and not train & test


def test_the_words_alone_tell_little(digits):
    blind = blind_accuracy(*digits_questions(num_train=1000, num_test=250))
    bounds = {"existence": 0.56, "relation": 0.65, "counting": 0.33, "position": 0.35, "order": 0.2, "sum": 0.2}
    assert all(blind[kind] < bound for kind, bound in bounds.items()), blind


def test_the_same_arguments_give_the_same_data(digits):
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
    owners = [number for number, asked in enumerate(test.questions) for _ in asked]
    mean, deviation = test.normalization()
    for number, place in zip(questions.number.tolist(), questions.image.tolist(), strict=True):
        own = (test.images.images[owners[number]] - mean) / deviation
        assert torch.equal(images[place], own.permute(2, 0, 1))
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
    "answer, expected",
    [
        ("The Dog", "dog"), ("two dogs.", "2 dogs"), ("none", "0"), ("dont know", "don't know"),
        ("1,000", "1000"), ("an  apple\n", "apple"),
        ("yes/no", "yes no"), ("a t-shirt", "t shirt"), ("well , ok", "well ok"), ("2.5 m", "2.5 m"),
        ("couldnt've", "couldn't've"), ("she's here", "she's here"),
    ],
)  # fmt: skip
def test_answers_are_made_alike(answer, expected):
    assert normalized_answer(answer) == expected


def test_scores_of_ten_answers():
    """By hand: an answer that n of 10 people gave scores min((n - 1) / 3, 1) n times and min(n / 3, 1) 10 - n times."""
    scores = answer_scores(["dog"] * 4 + ["a cat"] * 3 + ["The Cow"] * 2 + ["pig"])
    assert scores == pytest.approx({"dog": 1.0, "cat": 0.9, "cow": 0.6, "pig": 0.3})
    assert next(iter(scores)) == "dog"
    assert answer_scores(["The Dog"] * 10) == {"The Dog": 1.0}  # unanimous answers stay as they are


def test_given_answers_are_compared_as_people_disagree():
    """The official evaluation makes both sides alike where people disagree, and neither where they agree."""
    disagreed = Question("?", {"t shirt": 0.9, "dress": 0.3}, "other", normalizes=True)
    agreed = Question("?", {"t-shirt": 1.0}, "other")
    assert [disagreed.score(text) for text in ("t-shirt", "t shirt", "dress", "hat")] == [0.9, 0.9, 0.3, 0]
    assert [agreed.score(text) for text in ("t-shirt", "t shirt")] == [1, 0]
    images = Dataset(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.arange(2), ())
    classes, words = ("t-shirt", "t shirt", "pink", "dress", "red"), Vocabulary(["it"])
    tied = Question("it", {"red": 1.0, "pink": 1.0}, "other", normalizes=True)  # the most frequent first
    asked = [[replace(disagreed, text="it"), tied], [replace(agreed, text="it")]]
    data = QuestionDataset(images, asked, classes, words)
    ((_, questions),) = data.batches(2, (torch.zeros(3), torch.ones(3))).test()
    torch.testing.assert_close(
        questions.scores, torch.tensor([[0.9, 0.9, 0, 0.3, 0], [0, 0, 1, 0, 1], [1, 0, 0, 0, 0]])
    )
    assert questions.goal.tolist() == [1, 4, 0]


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
    assert [q.text for q in only.flat] == ["Is it 70?"] and "; 1 left out: none of the 1 answers fits" in only.notes[0]


def test_a_question_that_fits_after_normalising_is_trained_on(vqa2):
    """All people agree on "a dog" for question 70; for question 90 they disagree, so "a dog" counts as "dog"."""

    def disagreeing(content):
        content["annotations"][-1]["answers"] = [{"answer": "a dog"}] * 9 + [{"answer": "cat"}]
        return content

    break_file(vqa2, ANSWERS, disagreeing)
    train, _ = load_questions("vqa2", vqa2, num_answers=1)
    assert train.classes == ("a dog",) and [q.text for q in train.flat] == ["Is it 70?", "Is it 90?"]


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
            "the image of question 70 is not that of",
        ),
    ],
)
def test_what_is_wrong_with_files_is_reported(vqa2, harm, message):
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
