"""`bam predict` and `bam evaluate`, compared with what is computed here from files, images and networks."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import stats

import bam
from bam import cli
from bam.cli.results import evaluate, predict
from bam.data import load
from bam.data.files.preprocessing import Preprocessing
from bam.data.files.workers import decode
from bam.export import from_pretrained
from bam.flags import parse_flags
from bam.recipes import ClassificationRecipe, DetectionRecipe
from bam.records import read_classes
from bam.tasks.classification.predict import Decoder
from bam.training import run, trained_model
from tests.data.pictures import PLAIN, paint, paint_classes

ODD = ('<b>bold, "quoted"', "=1+1", "[red]rot", "Käse 🧀", "a b", "zebra")
OPTIONS = {"size": 16, "resize": 20, "workers": 0}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """train/ and val/ with six classes with odd names; JPEG-free, so that pixels are exact."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    paint_classes(folder / "train", dict.fromkeys(ODD, 4))
    paint_classes(folder / "val", {name: 2 + number for number, name in enumerate(ODD)})
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """A run on `photos`, and its folder for from_pretrained."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = ClassificationRecipe(
        data=f"folder:{photos}", data_options=OPTIONS, batch_size=8, epochs=1, precision="fp32", lr=0.02
    )
    run(recipe.replace(attention="bam"), folder / "run")
    assert cli.main(["export", "--run", str(folder / "run"), "--out", str(folder / "saved")]) == 0
    return folder


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    options = {"canvas": 16, "num_train": 64, "num_test": 40}
    run(ClassificationRecipe(data_options=options, batch_size=32, epochs=1, precision="fp32"), folder)
    return folder


def probabilities(network, path):
    """By hand: Pillow resizes and crops, numpy normalises."""
    image = Image.open(path).convert("RGB")
    scale = 20 / min(image.size)
    image = image.resize([int(side * scale) for side in image.size], Image.Resampling.BILINEAR)
    left, top = (round((side - 16) / 2) for side in image.size)
    pixels = (np.array(image.crop((left, top, left + 16, top + 16))) / 255 - MEAN) / STD
    with torch.no_grad():
        return network(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])[0].softmax(0)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def strict(path):
    def refuse(word):
        raise AssertionError(word)

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize("kind", ["run", "saved"])
def test_predictions_are_those_of_the_network(trained, photos, tmp_path, capsys, kind):
    mine = [shutil.copy(path, tmp_path) for path in sorted((photos / "val" / "zebra").iterdir())[:2]]
    Image.new("L", (1, 1), 200).save(tmp_path / "dot.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / ".hidden.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    assert cli.main(["predict", str(trained / kind), str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "skipped: 1 hidden, 1 .txt (images are .jpg, " in printed[4]
    network = from_pretrained(trained / "saved")
    entries = strict(tmp_path / "out" / "predictions.json")
    assert [entry["file_name"] for entry in entries] == [*map(str, mine), str(tmp_path / "dot.png")]
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert len(rows) == 15
    for number, entry in enumerate(entries):
        expected = probabilities(network, entry["file_name"])
        order = expected.argsort(descending=True)[:5]
        names = sorted(ODD)
        assert [one["class"] for one in entry["predictions"]] == [names[k] for k in order]
        given = torch.tensor([one["probability"] for one in entry["predictions"]])
        torch.testing.assert_close(given, expected[order], rtol=0, atol=1e-4)
        of_image = rows[5 * number : 5 * number + 5]
        assert {row["file_name"] for row in of_image} == {entry["file_name"]}
        assert [(row["rank"], row["class"]) for row in of_image] == [
            (str(k), one["class"]) for k, one in enumerate(entry["predictions"], start=1)
        ]
        first = entry["predictions"][0]
        assert printed[number].startswith(entry["file_name"]) and (
            f"{first['class']} {100 * first['probability']:.1f} %" in printed[number]
        )
    assert printed[3].startswith(f"left out: {tmp_path / 'broken.png'} cannot be read as an image: ")
    assert printed[5:] == [f"predictions.csv and predictions.json in {tmp_path / 'out'}"]


def test_other_processes_decode_the_same(tmp_path):
    files = [paint(tmp_path / f"{k}.png", k) for k in range(5)]
    files[2].write_bytes(b"")
    decoder = Decoder(files, Preprocessing(MEAN, STD, (16, 12), 20).transform())
    here, there = (list(decode([[0, 1, 2], [2], [3, 4]], decoder, workers, False)) for workers in (0, 2))
    assert [one.numbers for one in here] == [one.numbers for one in there] == [[0, 1], [], [3, 4]]
    assert all(torch.equal(a.images, b.images) for a, b in zip(here, there, strict=True))
    problem = (2, "cannot be read as an image: it is empty, or not an image of a known format")
    assert [one.unreadable for one in there] == [[problem], [problem], []]
    assert here[0].images.shape == (2, 3, 16, 12)


def test_a_run_in_memory_sees_a_file_as_it_saw_its_test_images(of_digits, tmp_path):
    _, test = load("digits", canvas=16, num_train=64, num_test=40)
    for k in range(3):
        Image.fromarray(test.images[k].numpy()).save(tmp_path / f"{k}.png")
    assert cli.main(["predict", str(of_digits), str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    network, record = trained_model(of_digits)
    mean, std = (255 * torch.tensor(record.normalization[name]) for name in ("mean", "std"))
    images, _ = next(test.batches(3, (mean, std)).test())
    with torch.no_grad():
        values, numbers = network(images).softmax(1).topk(5)
    entries = strict(tmp_path / "out" / "predictions.json")
    assert [[int(one["class"]) for one in entry["predictions"]] for entry in entries] == numbers.tolist()
    given = torch.tensor([[one["probability"] for one in entry["predictions"]] for entry in entries])
    torch.testing.assert_close(given, values, rtol=0, atol=1e-5)


def test_all_classes_where_there_are_fewer_than_five(tmp_path):
    paint_classes(tmp_path / "two", {"b": 3, "a": 3})
    recipe = ClassificationRecipe(data=f"folder:{tmp_path / 'two'}", data_options=OPTIONS, batch_size=4, epochs=1)
    run(recipe.replace(precision="fp32"), tmp_path / "run")
    photo = paint(tmp_path / "photo.png", 1)
    assert cli.main(["predict", str(tmp_path / "run"), str(photo), "--out", str(tmp_path / "out")]) == 0
    (entry,) = strict(tmp_path / "out" / "predictions.json")
    assert sorted(one["class"] for one in entry["predictions"]) == ["a", "b"]
    assert sum(one["probability"] for one in entry["predictions"]) == pytest.approx(1)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert [one["key"] for one in strict(tmp_path / "out" / "evaluation.json")["measures"]] == ["test_error"]


def judged(network, folder, classes=ODD):
    """Confusion[true][predicted] and top-5 errors over the images of class folders, by hand."""
    names = sorted(ODD)
    confusion, top5 = {name: dict.fromkeys(names, 0) for name in sorted(classes)}, 0
    for name in classes:
        for path in (folder / name).iterdir():
            order = probabilities(network, path).argsort(descending=True).tolist()
            confusion[name][names[order[0]]] += 1
            top5 += names.index(name) not in order[:5]
    return confusion, top5


def check_files(out, confusion, top5):
    """That evaluation.json and the CSV files say what the confusion matrix implies."""
    content = strict(out / "evaluation.json")
    names = list(confusion)
    counts = {name: sum(row.values()) for name, row in confusion.items()}
    errors = {name: counts[name] - confusion[name][name] for name in names}
    total, wrong = sum(counts.values()), sum(errors.values())
    interval = stats.binomtest(wrong, total).proportion_ci(method="wilson")
    top1, five = content["measures"]
    assert content["num_images"] == total and top1["errors"] == wrong and five["errors"] == top5
    assert top1["value"] == wrong / total and five["value"] == top5 / total
    assert top1["interval"] == pytest.approx([interval.low, interval.high], abs=1e-12)
    assert content["confusion"]["rows"] == [list(row.values()) for row in confusion.values()]
    assert content["confusion"]["predicted"] == sorted(ODD)
    rows = rows_of(out / "evaluation.csv")
    assert [row["class"] for row in rows] == [entry["class"] for entry in content["classes"]] == names
    for row, entry in zip(rows, content["classes"], strict=True):
        count, number = counts[row["class"]], errors[row["class"]]
        interval = stats.binomtest(number, count).proportion_ci(method="wilson")
        assert (entry["images"], entry["errors"], entry["error"]) == (count, number, number / count)
        assert entry["interval"] == pytest.approx([interval.low, interval.high], abs=1e-12)
        assert (int(row["images"]), int(row["errors"])) == (count, number)
        percents = [float(row[f"{key}_percent"]) for key in ("error", "low", "high")]
        assert percents == pytest.approx([100 * number / count, 100 * interval.low, 100 * interval.high], abs=1e-4)
    rows = rows_of(out / "confusion.csv")
    assert {row.pop("class"): {key: int(value) for key, value in row.items()} for row in rows} == confusion
    return content


@pytest.mark.parametrize("kind", ["run", "saved"])
def test_an_evaluation_by_hand(trained, photos, tmp_path, capsys, kind):
    data = [] if kind == "run" else ["--data", f"folder:{photos}"]
    assert cli.main(["evaluate", str(trained / kind), *data, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    network = from_pretrained(trained / "saved")
    confusion, top5 = judged(network, photos / "val")
    assert 0 < sum(confusion[name][name] for name in confusion) < 27  # some right, some wrong
    content = check_files(tmp_path, confusion, top5)
    record = json.loads((trained / "run" / "record.json").read_text())["final"]
    assert content["measures"][0]["value"] == pytest.approx(record["test_error"])
    assert content["measures"][1]["value"] == pytest.approx(record["test_error_top5"])
    assert f"{trained / kind} on folder:{photos}, test images (val/): 27 images" in printed
    assert f"test error {100 * record['test_error']:.2f} % [" in printed and "the 5 worst of 6 classes" in printed
    assert "not the run's images" not in printed


def test_the_classes_present_are_measured_and_numbered_as_in_the_network(trained, photos, tmp_path, capsys):
    chosen = ("zebra", ODD[1])  # sorted, they have other numbers than in the network
    for name in chosen:
        shutil.copytree(photos / "val" / name, tmp_path / "some" / name)
    words = [
        "evaluate",
        str(trained / "saved"),
        "--data",
        f"folder:{tmp_path / 'some'}",
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main([*words, "--part", "all"]) == 0
    assert ", all images: 10 images" in capsys.readouterr().out
    check_files(tmp_path / "out", *judged(from_pretrained(trained / "saved"), tmp_path / "some", chosen))
    assert cli.main(words) == 0
    assert "test images (the 20 % of each class kept for testing): 2 images" in capsys.readouterr().out
    assert cli.main([*words, "--part", "train"]) == 0
    assert "training images (the 80 % of each class for training): 8 images" in capsys.readouterr().out
    for part in ("train", "val"):
        shutil.copytree(tmp_path / "some", tmp_path / "both" / part)
    paint(tmp_path / "both" / "train" / "yak" / "1.png", 1)
    paint(tmp_path / "both" / "val" / "yak" / "1.png", 1)
    assert cli.main(["evaluate", str(trained / "run"), "--data", f"folder:{tmp_path / 'both'}"]) == 1
    message = capsys.readouterr().err
    assert "has classes that the network does not know, 'yak'; it knows " in message and len(message.splitlines()) == 1


def test_unreadable_images_are_counted_and_other_images_noted(trained, photos, tmp_path, capsys):
    moved = shutil.copytree(photos, tmp_path / "photos")
    (moved / "val" / "zebra" / "0.png").write_bytes(b"")
    words = ["evaluate", str(trained / "run"), "--data", f"folder:{moved}", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 1 and "leave such images out" in capsys.readouterr().err
    assert cli.main([*words, "--data-options", '{"unreadable": "skip"}']) == 0
    printed = capsys.readouterr().out
    assert "(val/): 26 images" in printed
    assert f"unreadable images: 1, e.g. {moved / 'val' / 'zebra' / '0.png'}" in printed
    assert strict(tmp_path / "out" / "evaluation.json")["unreadable"] == 1


def test_a_changed_folder_of_the_run_itself_is_noted(tmp_path, capsys):
    paint_classes(tmp_path / "two", {"a": 3, "b": 3})
    recipe = ClassificationRecipe(data=f"folder:{tmp_path / 'two'}", data_options=OPTIONS, batch_size=4, epochs=1)
    run(recipe.replace(precision="fp32"), tmp_path / "run")
    paint(tmp_path / "two" / "a" / "new.png", 9)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert "these are not the run's images" in capsys.readouterr().out


def test_a_detector_is_measured_as_at_the_end_of_its_run(tmp_path, capsys):
    options = {"canvas": 32, "num_train": 64, "num_test": 8, "augmentation": "none"}
    recipe = DetectionRecipe(
        data_options=options, model="ssd_resnet8", batch_size=16, epochs=2, precision="fp32", lr=0.02, clip_norm=10.0
    )
    record = run(recipe, tmp_path / "run")
    assert cli.main(["evaluate", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    content = strict(tmp_path / "out" / "evaluation.json")
    assert {one["key"]: one["value"] for one in content["measures"]} == pytest.approx(
        {measure.key: record.final[measure.key] for measure in record.measures}, abs=1e-6
    )
    truth = json.loads((tmp_path / "run" / "ground_truth.json").read_text())
    labels = [entry["category_id"] - 1 for entry in truth["annotations"]]
    rows = rows_of(tmp_path / "out" / "evaluation.csv")
    assert {row["class"]: int(row["objects"]) for row in rows} == {str(k): labels.count(k) for k in set(labels)}
    mean = np.mean([float(row["voc12_percent"]) for row in rows])
    assert mean == pytest.approx(100 * record.final["test_voc12"], abs=1e-3)
    assert not (tmp_path / "out" / "confusion.csv").exists()
    assert f"AP {100 * record.final['test_ap']:.2f} %" in capsys.readouterr().out


def test_boxes_are_renumbered():
    from bam.data import load_boxes

    _, test = load_boxes("digits", canvas=16, num_train=4, num_test=6)
    classes = ("none", *reversed(test.classes))
    changed = test.renumbered(classes)
    names = [[data.classes[label - 1] for one in data.objects for label in one.labels] for data in (test, changed)]
    assert names[0] == names[1] and changed.classes == classes and len(changed.category_ids) == 11
    both = test.joined(test)
    assert len(both) == 12 and len(set(both.image_ids)) == 12 and torch.equal(both.images[6:], test.images)


def test_images_in_memory_are_renumbered_and_joined():
    train, test = load("digits", canvas=16, num_train=4, num_test=6)
    changed = test.renumbered(("none", *reversed(test.classes)))
    assert [changed.classes[k] for k in changed.targets] == [test.classes[k] for k in test.targets]
    both = train.joined(test)
    images = torch.cat([images for images, _ in both.batches(4, PLAIN).test()])
    assert torch.equal(images, torch.cat([x for data in (train, test) for x, _ in data.batches(6, PLAIN).test()]))


def test_words_by_position():
    expected = {"run": "r", "images": ["a,b.png", "c"], "out": "o"}

    def parsed(words, verb=predict):
        values = parse_flags(verb, words)
        return {name: values[name] if name == "images" else str(values[name]) for name in expected if name in values}

    for words in (
        ["r", "a,b.png", "c", "--out", "o"],
        ["--out", "o", "r", "a,b.png", "c"],
        ["r", "--out=o", "a,b.png", "c"],
        ["r", "a,b.png", "--out", "o", "c"],
        ["--run", "r", "a,b.png", "--out", "o", "c"],
    ):
        assert parsed(words) == expected
    assert parsed(["--run", "r", "--images", "a,b.png,c"])["images"] == ["a", "b.png", "c"]
    assert parsed(["r", "--images=x"])["images"] == ["x"]
    assert parse_flags(cli.VERBS["sites"], ["--no-latency", "resnet18", "--keep", "2"]) == {
        **parse_flags(cli.VERBS["sites"], ["--model", "resnet18", "--keep", "2"]), "latency": False,
    }  # fmt: skip
    for words in (["r"], ["--run", "r"], [], ["r", "a", "--nothing", "x"]):
        with pytest.raises(SystemExit):
            parse_flags(predict, words)
    with pytest.raises(SystemExit):
        parse_flags(evaluate, ["r", "s"])


def test_every_verb_takes_a_network_by_name(trained, photos, tmp_path, capsys):
    """With the weights of a run, it says what the run says."""
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in sorted(ODD)))
    parts = ["--weights", str(trained / "run" / "model.safetensors"), "--attention", "bam", "--num-classes", "6"]
    parts += ["--class-names", str(tmp_path / "names.txt")]
    read = ["--data", f"folder:{photos}", "--data-options", json.dumps(OPTIONS)]
    for verb, where, file in (
        ("evaluate", read, "evaluation.json"),
        ("examine", [*read, "--limit", "6"], "examination.json"),
    ):
        for name, words in (("run", [str(trained / "run")]), ("named", ["cifar/resnet8", *parts])):
            assert cli.main([verb, *words, *where, "--out", str(tmp_path / name)]) == 0
        by_run, by_name = (strict(tmp_path / name / file) | {"run": ""} for name in ("run", "named"))
        assert {**by_run, "data_options": 0} == {**by_name, "data_options": 0}
    photo = str(next((photos / "val" / "zebra").iterdir()))
    assert cli.main(["predict", "cifar/resnet8", photo, *parts, "--out", str(tmp_path)]) == 0
    (entry,) = strict(tmp_path / "predictions.json")
    assert {one["class"] for one in entry["predictions"]} <= set(ODD)
    capsys.readouterr()
    plain = tmp_path / "plain.safetensors"
    save_file(bam.detach(trained_model(trained / "run")[0]).state_dict(), plain)
    words = [
        "predict",
        "cifar/resnet8",
        photo,
        "--pretrained",
        str(plain),
        "--num-classes",
        "6",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(words) == 0 and "untrained" not in capsys.readouterr().out
    assert cli.main(["predict", "cifar/resnet8", photo, "--num-classes", "6", "--out", str(tmp_path)]) == 0
    assert "the network has random weights: give --pretrained" in capsys.readouterr().out
    assert cli.main(["examine", "cifar/resnet8", *parts]) == 1
    assert "has no data of its own: give --data" in capsys.readouterr().err
    assert cli.main(["evaluate", str(trained / "run"), *parts]) == 1
    assert "drop those flags" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["predict", "run", "nowhere.png"], "there is no image nowhere.png"),
        (["predict", "run", "empty"], "the folder empty holds no images (.jpg, "),
        (["predict", "run", "--images", ""], "name at least one image, or a folder of images"),
        (["predict", "run", "text.png"], "none of the 1 images can be read: text.png cannot be read as an image"),
        (["predict", "run", "dot.png", "--score", "0.5"], "a score is for detections"),
        (
            ["predict", "empty", "dot.png"],
            "empty holds no complete run (record.json) and no saved network",
        ),
        (["evaluate", "nowhere"], "there is no folder nowhere"),
        (["evaluate", "saved"], "has no data of its own: give --data"),
        (["evaluate", "run", "--data", "cifar10"], "unknown data set 'cifar10'"),
        (["evaluate", "run", "--data", "voc2007"], "has boxes"),
        (["evaluate", "run", "--data", "digits"], "has classes that the network does not know, '0', '1'"),
        (["evaluate", "run", "--data-options", '{"sise": 3}'], "there is no option sise"),
        (["evaluate", "run", "--data", "folder:empty"], "empty holds no class folders"),
        (["evaluate", "run", "--device", "tpu"], "device 'tpu' is not available"),
        (["evaluate", "broken"], "not finite"),
        (["predict", "broken", "dot.png"], "dot.png: the network's output is not finite"),
    ],
)
def test_what_cannot_be_meant_is_reported_in_a_sentence(trained, tmp_path, monkeypatch, capsys, words, part):
    monkeypatch.chdir(tmp_path)
    for name in ("run", "saved"):
        (tmp_path / name).symlink_to(trained / name)
    shutil.copytree(trained / "run", tmp_path / "broken")
    tensors = load_file(trained / "run" / "model.safetensors")
    save_file({name: value * float("nan") if value.is_floating_point() else value for name, value in tensors.items()},
              tmp_path / "broken" / "model.safetensors")  # fmt: skip
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert cli.main(words) == 1
    message = capsys.readouterr().err
    assert part in message and len(message.splitlines()) == 1
    assert not (tmp_path / "predictions").exists() and not (tmp_path / "evaluation").exists()


def test_a_network_trained_with_padded_crops_is_evaluated_on_a_folder(of_digits, tmp_path):
    """Crops are for training; a folder's images would refuse them."""
    folder = tmp_path / "run"
    shutil.copytree(of_digits, folder)
    record = json.loads((folder / "record.json").read_text())
    record["recipe"]["crop_padding"] = 2  # as CIFAR-100's recipes have it
    (folder / "record.json").write_text(json.dumps(record))
    paint_classes(tmp_path / "digits", {"3": 5, "7": 5})
    words = ["evaluate", str(folder), "--data", f"folder:{tmp_path / 'digits'}", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0


def test_a_class_whose_name_is_no_text_trains_to_the_end(tmp_path):
    odd = b"caf\xe9".decode(errors="surrogateescape")
    try:
        paint_classes(tmp_path / "photos", {odd: 10, "tea": 10})
    except OSError:
        pytest.skip("this file system takes text alone")
    recipe = ClassificationRecipe(
        data=f"folder:{tmp_path / 'photos'}", data_options=OPTIONS, batch_size=8, epochs=1, precision="fp32"
    )
    run(recipe, tmp_path / "run")
    assert [one.name for one in read_classes(tmp_path / "run")] == [odd, "tea"]
