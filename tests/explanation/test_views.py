import base64
import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import get_model

import bam
from bam import AttentionSpec, cli
from bam.cli.named import NamedNetwork, build_named
from bam.explanation import hierarchy, record, site_gains
from bam.explanation.views import GAIN, SPATIAL, site_views
from bam.reports.gallery import write_gallery
from bam.training import trained_model
from tests.conftest import restless

IMAGE = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


def views_of(attention):
    model = restless(bam.attach(get_model("resnet18", num_classes=3), attention, image=64)).eval()
    with record(model) as passes:
        model(IMAGE)
    return passes[0], site_views(passes[0], 1)


def test_views_are_the_maps_of_one_image():
    maps, views = views_of("bam")
    assert [view.site for view in views] == list(maps)
    for view in views:
        assert torch.equal(view.shown[1], maps[view.site].spatial_logits[1, 0].sigmoid())
        assert torch.equal(view.maps[GAIN], maps[view.site].gain[1])
        strongest, weakest = view.ranked_channels(3)
        values = view.channels.sort(descending=True).values.tolist()
        assert [value for _, value in strongest] == values[:3] and [value for _, value in weakest] == values[:-4:-1]
        assert all(float(view.channels[number]) == value for number, value in strongest + weakest)


@pytest.mark.parametrize("attention", ["se", torch.nn.BatchNorm2d], ids=str)
def test_modules_without_spatial_attention_show_their_gain(attention):
    _, views = views_of(attention)
    assert all(list(view.maps) == [GAIN] for view in views)
    assert all((view.channels is None) == (attention != "se") for view in views)


def test_modules_that_move_values_show_how_far():
    model = bam.attach(get_model("resnet18", num_classes=3), "deformable", image=64).eval()
    for module in bam.attended(model).values():
        module.offset.bias.data = torch.tensor([30.0, -10.0]).repeat(9)  # in steps of 0.1, y before x
    with record(model) as passes:
        model(IMAGE)
    for view in site_views(passes[0], 1):
        torch.testing.assert_close(view.shown[1], torch.full_like(view.shown[1], 10**0.5))
        height, width = view.maps[GAIN].shape
        moves = {(round((y1 - y0) * height, 4), round((x1 - x0) * width, 4)) for y0, x0, y1, x1 in view.arrows}
        assert moves == {(3, -1)} and len(view.arrows) == view.shown[1].numel()
        assert view.as_plain()["arrows"][0] == pytest.approx(view.arrows[0], abs=1e-4)


def test_padding_is_cut_off_but_one_place_stays():
    maps, _ = views_of("bam")
    views = site_views(maps, 0, (0.5, 0.01))
    assert [tuple(view.shown[1].shape) for view in views] == [(8, 1), (4, 1), (2, 1)]
    assert torch.equal(views[0].maps[GAIN], maps["layer1"].gain[0, :8, :1])


def test_the_page_holds_what_the_views_hold(tmp_path):
    _, views = views_of("bam")
    plain = views[0].as_plain()
    values = views[0].maps[SPATIAL]
    written = np.frombuffer(base64.b64decode(plain["maps"][0]["values"]), np.uint8).reshape(values.shape)
    low, high = plain["maps"][0]["low"], plain["maps"][0]["high"]
    assert np.abs(low + written / 255 * (high - low) - values.numpy()).max() <= (high - low) / 510 + 1e-6
    page = write_gallery(tmp_path, "</script>", [{"name": "<b>", "png": "", "prediction": [], "sites": [plain]}])
    text = page.read_text()
    assert text.count("</script>") == 2 and "<b>" not in text  # its own two
    data = text.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(data)[0]["name"] == "<b>"


def test_the_picture_has_every_site_with_its_range():
    ramp = torch.linspace(0, 1, 16).reshape(4, 4)
    black = torch.zeros(3, 32, 32, dtype=torch.uint8)
    picture, unnamed = (
        np.asarray(hierarchy(black, {"a": (kind, ramp), "b": (kind, 0 * ramp)})) for kind in ("gain", "")
    )
    assert picture.shape[1] == 3 * 320 + 2 * 6
    places = np.argwhere((picture != unnamed).any(2))
    assert len(places) and places[:, 0].min() > 342 and places[:, 1].min() > 326 + 100  # below the bars, amid them
    first, second = picture[30:330, 330:640], picture[30:330, 660:]
    assert first[-20:, -20:].mean() > first[:20, :20].mean() + 50 and second.std(axis=(0, 1)).max() < 1


@pytest.mark.parametrize("length", [1, 1e9])  # of offsets that diverged, Pillow would draw each of a billion pixels
def test_arrows_are_drawn_over_their_map(length):
    black, flat = torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(4, 4)
    plain, drawn = (
        np.asarray(hierarchy(black, {"a": ("displacement", flat)}, arrows=arrows))
        for arrows in (None, {"a": [(0.5, 0.25, 0.5 + 0.5 * length, 0.25 + 2 * length), (0, 0, math.nan, math.inf)]})
    )
    rows, columns = np.nonzero((plain != drawn).any(2))
    assert (columns.min(), columns.max()) == (326 + 80, 326 + 319)  # from its start to the panel's end
    assert abs(rows.min() - (22 + 160)) <= 1 and abs(rows.max() - (22 + 220)) <= 1  # with its own slope


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("explain")
    options = '{"num_train": 64, "num_test": 16, "canvas": 16}'
    words = ["train", "--recipe", "digits/small", "--epochs", "1", "--batch-size", "16", "--data-options", options]
    for attention in ("bam", "none"):
        assert cli.main([*words, "--attention", attention, "--out", str(out / attention)]) == 0
    images = out / "images"
    images.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 30, 3), dtype=np.uint8)).save(images / "a.png")
    Image.new("L", (1, 1)).save(images / "pixel.png")
    (images / "broken.png").write_bytes(b"no image")
    return out


def test_explain_writes_a_page_and_a_picture_for_each_image(trained, tmp_path, capsys):
    words = ["explain", "--run", str(trained / "bam"), "--images", str(trained / "images"), "--out", str(tmp_path)]
    assert cli.main(words) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.png", "gallery.html", "pixel", "pixel.png"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["layer1.png", "layer2.png"]
    whole, one = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "a/layer2.png"))
    assert one.shape == (whole.shape[0], 320, 3) and np.array_equal(one, whole[:, -320:])
    text = capsys.readouterr().out
    assert "broken.png" in text and "2 images" in text
    first, second = gallery_of(tmp_path)
    assert [first["name"], second["name"]] == ["a", "pixel"]
    assert [site["site"] for site in first["sites"]] == ["layer1", "layer2"]
    shares = [share for _, share in first["prediction"]]
    assert len(shares) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["png"]))))
    assert shown.shape == (16, 16, 3)  # what the network saw


def test_explain_says_what_is_wrong(trained, tmp_path, capsys):
    def message(run, images):
        assert cli.main(["explain", "--run", str(run), "--images", str(images), "--out", str(tmp_path / "out")]) == 1
        return capsys.readouterr().err

    assert "has no attention to record" in message(trained / "none", trained / "images")
    assert "no complete run" in message(tmp_path, trained / "images")
    (tmp_path / "empty").mkdir()
    assert "holds no images" in message(trained / "bam", tmp_path / "empty")
    assert "none of the 1 images can be read" in message(trained / "bam", trained / "images" / "broken.png")
    assert not (tmp_path / "out").exists()


def gallery_of(folder):
    data = (folder / "gallery.html").read_text().partition('id="data">')[2].partition("</script>")[0]
    return json.loads(data)


def test_explain_takes_a_network_by_name(trained, tmp_path, capsys):
    """Put together from a backbone's file and an adapter, a network shows what its whole file shows."""
    model, _ = trained_model(trained / "bam")
    bam.save_attention(model, tmp_path / "adapter.safetensors")
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    save_file(bam.detach(model).state_dict(), tmp_path / "plain.safetensors")
    (tmp_path / "names.txt").write_text("".join(f"digit {k}\n" for k in range(10)))
    words = ["explain", "cifar/resnet8", str(trained / "images" / "a.png"), "--num-classes", "10"]
    words += ["--class-names", str(tmp_path / "names.txt")]
    parts = ["--pretrained", str(tmp_path / "plain.safetensors"), "--adapter", str(tmp_path / "adapter.safetensors")]
    assert cli.main([*words, *parts, "--out", str(tmp_path / "parts")]) == 0
    assert "untrained" not in capsys.readouterr().out
    whole = ["--weights", str(tmp_path / "whole.safetensors"), "--attention", "bam"]
    assert cli.main([*words, *whole, "--out", str(tmp_path / "whole")]) == 0
    (view,) = gallery_of(tmp_path / "parts")
    assert [view] == gallery_of(tmp_path / "whole")
    assert [site["site"] for site in view["sites"]] == ["layer1", "layer2"]
    assert all(name.startswith("digit ") for name, _ in view["prediction"])
    untrained = ["--pretrained", str(tmp_path / "plain.safetensors"), "--attention", "bam"]
    assert cli.main([*words, *untrained, "--out", str(tmp_path / "untrained")]) == 0
    assert "the attention is untrained" in capsys.readouterr().out
    assert "the attention is untrained" in (tmp_path / "untrained" / "gallery.html").read_text()


def test_explain_says_what_is_wrong_with_a_network_by_name(trained, tmp_path, capsys):
    model, _ = trained_model(trained / "none")
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    (tmp_path / "names.txt").write_text("cat\ndog\n")

    def message(*words):
        assert cli.main(["explain", words[0], str(trained / "images"), *words[1:], "--out", str(tmp_path / "o")]) == 1
        return capsys.readouterr().err

    plain, attention = str(tmp_path / "plain.safetensors"), ["--attention", "bam"]
    assert "there is no folder runs/nine" in message("runs/nine")
    assert "unknown model 'resnet19'" in message("resnet19", *attention)
    assert "no classifier with 100 classes" in message("cifar/resnet8", *attention, "--pretrained", plain)
    assert "2 class names" in message("cifar/resnet8", *attention, "--class-names", str(tmp_path / "names.txt"))
    assert "is a detection network: give the folder of a run" in message("ssd_resnet8", *attention)
    assert "drop --pretrained" in message("cifar/resnet8", *attention, "--weights", plain, "--pretrained", plain)
    assert "drop those flags" in message(str(trained / "bam"), *attention)
    assert "has no attention" in message("cifar/resnet8", "--pretrained", plain, "--num-classes", "10")
    assert not (tmp_path / "o").exists()


def test_networks_by_name_know_imagenets_classes():
    _, description = build_named("squeezenet1_0", NamedNetwork(AttentionSpec("bam")))
    assert description["classes"][:2] == ["tench", "goldfish"] and len(description["classes"]) == 1000
    assert build_named("cifar/resnet8", NamedNetwork(AttentionSpec("bam")))[1]["classes"] is None


def test_explain_never_writes_over_an_image(trained, capsys):
    images = trained / "images"
    before = (images / "a.png").read_bytes()
    assert cli.main(["explain", str(trained / "bam"), str(images), "--out", str(images)]) == 1
    assert "would be overwritten; choose another --out" in capsys.readouterr().err
    assert (images / "a.png").read_bytes() == before


def test_gains_of_attention_that_is_switched_off_are_none():
    model = bam.attach(get_model("resnet18", num_classes=3), image=64).eval()
    with bam.without_attention(model):
        assert site_gains(model, IMAGE) == {}
