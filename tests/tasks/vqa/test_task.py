"""Visual question answering from end to end, in the small."""

import json
import math
import signal

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bam import recipes
from bam.cli.main import VERBS, main
from bam.flags import parse_flags
from bam.models import build
from bam.records import Record
from bam.tasks import Classes, task_of
from bam.tasks.vqa.task import Vqa
from bam.training import Interrupted, run
from bam.training.trained import opened_run

TINY = {"data_options": {"canvas": 48, "num_train": 64, "num_test": 24}, "epochs": 2, "batch_size": 16, "width": 16}


def tiny(**changes):
    return recipes.load("vqa/digits").replace(**{**TINY, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vqa")
    run(tiny(attention="bam"), folder)
    return folder


def test_a_run_keeps_its_words_answers_and_kinds(trained):
    record = Record.read(trained)
    assert record.measures[0].key == "test_accuracy" and record.measures[0].higher_is_better
    assert {"counting", "existence", "order"} <= {measure.label for measure in record.measures}
    assert "there" in record.vocabulary and "yes" in record.classes
    assert record.sites == ["image.layer1", "image.layer2"]
    answers = json.loads((trained / "answers.json").read_text())
    assert len(answers) > 24 * 4 and set(answers[0]) == {"question_id", "answer"}
    _, again, _ = opened_run(trained, torch.device("cpu"))
    weights = load_file(trained / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in again.network.state_dict().items())


@pytest.mark.parametrize("cross_modal", ["none", "question", "dual", "co_attention(order=alternating)"])
def test_each_way_to_meet_trains(tmp_path, cross_modal):
    record = run(tiny(cross_modal=cross_modal, text="transformer", epochs=1), tmp_path)
    assert 0 <= record.final["test_accuracy"] <= 1


def test_variants_share_all_weights_but_the_attention():
    subject = Classes(5, (48, 48), tuple("abcde"))
    plain, other, attended, both = (
        task_of(tiny(attention=attention, cross_modal=cross_modal)).network(subject).state_dict()
        for attention in ("none", "bam")
        for cross_modal in ("none", "question_guided")
    )
    assert all(torch.equal(other[name], both[name]) for name in other)
    assert all(torch.equal(plain[name], attended[name]) and torch.equal(plain[name], other[name]) for name in plain)
    assert len(attended) > len(plain) < len(other)


def test_a_stopped_run_ends_in_the_same_weights(trained, tmp_path, monkeypatch):
    loss, calls = Vqa.loss, []

    def stopping(self, *arguments):
        calls.append(0)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return loss(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Vqa, "loss", stopping)
        with pytest.raises(Interrupted, match="stopped after step 3 of 8; the state is saved"):
            run(tiny(attention="bam"), tmp_path)
    run(tiny(attention="bam"), tmp_path, resume=True)
    assert (trained / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("L", (90, 60), 40).save(path)
    return path


def test_predict_answers_a_question(trained, picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        main(["predict", str(trained), str(picture), "--out", str(out), "--question", "How many zebras are there?"])
        == 0
    )
    said = capsys.readouterr().out
    assert "words that did not occur in training: zebras" in said and "picture.png: " in said
    answers = json.loads((out / "predictions.json").read_text())
    assert answers["question"].startswith("How many") and len(answers["answers"][str(picture)]) == 5


def test_explain_shows_regions_words_and_the_image_networks_attention(trained, picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["explain", str(trained), str(picture), "--out", str(out), "--question", "is there a zebra"]) == 0
    assert "words that did not occur in training: zebra" in capsys.readouterr().out
    page = (out / "gallery.html").read_text()
    for site in ("image.layer1", "image.layer2", "question, step 1", "question, step 2"):
        assert site in page
    assert list(out.rglob("question, step 2.png"))


@pytest.mark.parametrize(
    "words, message",
    [
        (["predict"], 'so ask one: --question "how many'),
        (["explain"], 'so ask one: --question "how many'),
        (["predict", "--question", "?"], "the question '?' has no words"),
        (["explain", "--question", ""], 'so ask one: --question "how many'),
        (["predict", "--question", "is it", "--score", "0.5"], "a score is for detections"),
        (["export"], "bam export writes classifiers"),
    ],
)
def test_what_is_wrong_is_reported(trained, picture, tmp_path, capsys, words, message):
    verb, *flags = words
    given = ["--run", str(trained)] if verb == "export" else [str(trained), str(picture)]
    assert main([verb, *given, "--out", str(tmp_path / "out.onnx"), *flags]) == 1
    assert message in capsys.readouterr().err


def test_questions_are_for_networks_that_answer(tmp_path, capsys, picture):
    run(
        recipes.load("digits/small").replace(epochs=1, data_options={"canvas": 16, "num_train": 64, "num_test": 8}),
        tmp_path,
    )
    assert main(["predict", str(tmp_path), str(picture), "--question", "is it", "--out", str(tmp_path / "out")]) == 1
    assert "does not answer questions: drop --question" in capsys.readouterr().err


def test_evaluate_and_examine_go_kind_by_kind(trained, tmp_path, capsys):
    assert main(["evaluate", str(trained), "--out", str(tmp_path)]) == 0
    assert "counting" in (tmp_path / "evaluation.csv").read_text()
    assert main(["examine", str(trained), "--out", str(tmp_path), "--limit", "20"]) == 0
    pointing = json.loads((tmp_path / "examination.json").read_text())["pointing"]
    assert {"position", "order"} <= pointing.keys() and pointing["order"]["hits"]["others"].keys() == {
        "chance",
        "centre",
    }


def test_a_comparison_crosses_both_kinds_of_attention(tmp_path, capsys):
    words = ["--recipe", "vqa/digits", "--attention", "none,bam", "--cross-modal", "none,question_guided(hops=1)"]
    small = ["--seeds", "1", "--epochs", "1", "--width", "16", "--batch-size", "16"]
    options = ["--data-options", json.dumps(TINY["data_options"]), "--out", str(tmp_path)]
    assert main(["compare", *words, *small, *options]) == 0
    names = [
        "none(cross_modal=none)", 'none(cross_modal="question_guided(hops=1)")',
        "bam(cross_modal=none)", 'bam(cross_modal="question_guided(hops=1)")',
    ]  # fmt: skip
    assert json.loads((tmp_path / "comparison.json").read_text())["attention"] == names
    page = (tmp_path / "report.html").read_text()
    assert "counting" in page and "gallery.html" in page


def test_what_answers_do_not_depend_on_is_not_trained():
    subject = Classes(5, (48, 48), tuple("abcde"))
    for cross_modal, frozen in (("dual", {"image.fc.weight", "image.fc.bias"}), ("question", None)):
        network = task_of(tiny(attention="bam", cross_modal=cross_modal)).network(subject).train()
        seen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
        seeing = {name for name, _ in network.named_parameters() if name.split(".")[0] in ("image", "regions", "place")}
        assert seen == (seeing if frozen is None else frozen)
        network(torch.randn(2, 3, 48, 48)).logits.sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)


def test_each_question_is_answered_for_its_own_image():
    subject = Classes(5, (48, 48), tuple("abcde"))
    network = task_of(tiny()).network(subject).eval()
    images, words, place = torch.randn(2, 3, 48, 48), torch.ones(3, 2, dtype=torch.int64), torch.tensor([0, 1, 1])
    logits = network(images, words, place).logits
    swapped = network(images.flip(0), words, 1 - place).logits
    torch.testing.assert_close(swapped, logits)
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("text", ["gru", "transformer"])
def test_long_questions_are_read_as_far_as_they_can_be(text):
    network = task_of(tiny(text=text)).network(Classes(5, (48, 48), tuple("abcde"))).eval()
    assert network(torch.randn(1, 3, 48, 48), torch.ones(1, 90, dtype=torch.int64)).logits.isfinite().all()


def test_words_of_other_data_are_numbered_as_the_network_knows_them(trained):
    task, network, record = opened_run(trained, torch.device("cpu"))
    _, other = task.on_data(None, {"seed": 1}, network.preprocessing).load(None)
    assert other.vocabulary.words != network.network.vocabulary.words
    known = task.numbered(other, network)
    assert known.vocabulary.words == tuple(record.vocabulary) and known.classes == network.classes


def test_a_damaged_network_is_not_measured(trained, tmp_path, monkeypatch, capsys):
    network = opened_run(trained, torch.device("cpu"))[1].network
    with torch.no_grad():
        network.answer[0].weight.fill_(torch.nan)
    _, test = task_of(tiny()).load(None)
    batches = test.batches(16, test.normalization())
    assert not math.isfinite(task_of(tiny()).evaluate(network, batches, test).figures["test_loss"])
    with pytest.raises(ValueError, match="the network's output is not finite"):
        task_of(tiny()).break_down(network, batches.test(), test)


def test_pretrained_weights_of_another_number_of_classes_fit(tmp_path):
    save_file(build("cifar/resnet8", 10).state_dict(), tmp_path / "ten.safetensors")
    network = task_of(tiny(pretrained=str(tmp_path / "ten.safetensors"))).network(Classes(5, (48, 48), tuple("abcde")))
    weights = load_file(tmp_path / "ten.safetensors")
    assert torch.equal(network.image.layer3[0].conv1.weight, weights["layer3.0.conv1.weight"])


def test_unreadable_images_alone_are_an_error(trained, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    words = [
        "predict",
        str(trained),
        str(tmp_path / "broken.png"),
        "--question",
        "is it",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 1
    assert "none of the 1 images can be read; left out:" in capsys.readouterr().err


def test_a_variant_keeps_its_own_way_to_meet():
    words = [
        "--recipe",
        "vqa/digits",
        "--attention",
        "none,bam(cross_modal=co_attention)",
        "--cross-modal",
        "none,dual",
    ]
    assert parse_flags(VERBS["compare"], words)["attention"] == (
        "none(cross_modal=none), none(cross_modal=dual), bam(cross_modal=co_attention)"
    )
    with pytest.raises(ValueError, match="cross_modal: 'none,dual': write NAME"):
        parse_flags(VERBS["train"], ["--recipe", "vqa/digits", "--cross-modal", "none,dual"])
