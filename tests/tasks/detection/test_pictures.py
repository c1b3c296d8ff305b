"""Pictures: boxes where they are, and maps of what attention strengthens."""

import dataclasses

import pytest
import torch
from PIL import ExifTags, Image
from torch import nn
from torchvision.transforms.v2.functional import pil_to_tensor

import bam
from bam.data.boxes import Objects
from bam.data.files.preprocessing import Preprocessing
from bam.data.interface import untracked
from bam.explanation import overlay, save_png, side_by_side
from bam.explanation.views import GAIN
from bam.recipes import DetectionRecipe
from bam.reports.wording import examination_lines
from bam.tasks import PredictOptions, Trained, task_of
from bam.tasks.detection.build import build_detector
from bam.tasks.detection.gallery import write_gallery
from bam.tasks.detection.metrics import Detections
from bam.tasks.detection.pictures import draw, views_on_image
from tests.data.boxed import drawn

NAMES = ("cat", "dog")
PADDING = "fasterrcnn_mobilenet_v3_large_fpn"  # of its images, to a multiple of 32


def gains_on_image(model, image):
    return {view.site: view.maps[GAIN] for view in views_on_image(model, image)[1]}


def read(path):
    with Image.open(path) as picture:
        return pil_to_tensor(picture)


def detections(*boxes, scores=None, labels=None):
    scores = [0.5] * len(boxes) if scores is None else scores
    labels = [1] * len(boxes) if labels is None else labels
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels)
    )


def grey(height, width):
    return torch.full((3, height, width), 90, dtype=torch.uint8)


def where_changed(picture, image, from_row=0):
    """left, top, right, bottom of the pixels that differ, from a row on; right and bottom are behind the last."""
    rows, columns = (picture != image).any(0)[from_row:].nonzero().unbind(1)
    return (
        columns.min().item(),
        rows.min().item() + from_row,
        columns.max().item() + 1,
        rows.max().item() + from_row + 1,
    )


def detector(name="ssd_resnet8", num_classes=3, attention="bam", **fields):
    options = {"min_size": 64, "max_size": 128} if name == PADDING else {}
    recipe = DetectionRecipe().replace(model=name, model_options=options, attention=attention, **fields)
    return build_detector(recipe, num_classes).eval()


def zeroed(model):
    """With M(F) = 0.5 everywhere, so that F' = 1.5 F."""
    for module in bam.attended(model).values():
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
    return model


def test_a_box_is_drawn_where_it_is():
    image = grey(330, 400)
    before = image.clone()
    picture = draw(image, detections((100, 120, 200, 220)), NAMES)
    assert picture.shape == image.shape and picture.dtype == torch.uint8 and torch.equal(image, before)
    assert where_changed(picture, image, from_row=150) == (100, 150, 200, 220)
    colour = picture[:, 219, 150]
    for row, column in ((219, 100), (219, 199), (160, 100), (160, 199)):
        assert torch.equal(picture[:, row, column], colour) and not torch.equal(colour, image[:, 0, 0])
    assert torch.equal(picture[:, 150:215, 105:195], image[:, 150:215, 105:195])  # its inside
    left, top, *_ = where_changed(picture, image)
    assert left == 100 and 90 <= top < 120  # its class and score above it


def test_small_images_are_enlarged():
    image = torch.randint(0, 255, (3, 40, 64), dtype=torch.uint8)
    large = image.repeat_interleave(5, 1).repeat_interleave(5, 2)
    assert torch.equal(draw(image, detections(), NAMES), large)
    picture = draw(image, detections((10, 20, 30, 38)), NAMES)
    assert where_changed(picture, large, from_row=130) == (50, 130, 150, 190)
    assert draw(grey(100, 320), detections(), NAMES).shape == (3, 100, 320)
    assert draw(grey(100, 319), detections(), NAMES).shape == (3, 200, 638)


def test_unlikely_boxes_are_not_drawn():
    image = grey(330, 400)
    detected = detections((20, 120, 90, 220), (200, 120, 300, 220), scores=[0.4, 0.6], labels=[1, 2])
    picture = draw(image, detected, NAMES, score=0.5)
    assert torch.equal(picture, draw(image, detections((200, 120, 300, 220), scores=[0.6], labels=[2]), NAMES))
    both = draw(image, detected, NAMES, score=detected.scores[0].item())
    assert where_changed(both, image, from_row=150) == (20, 150, 300, 220)
    assert torch.equal(draw(image, detected, NAMES, score=0.7), image)


def test_classes_have_words_and_colours_of_their_own():
    image = grey(330, 400)
    box = (100, 120, 200, 220)
    one, other = (draw(image, detections(box, labels=[label]), NAMES) for label in (1, 2))
    assert not torch.equal(one[:, 219, 150], other[:, 219, 150])
    assert not torch.equal(one, draw(image, detections(box), ("cow", "dog")))
    assert not torch.equal(one, draw(image, detections(box, scores=[0.7]), NAMES))


def test_boxes_at_the_edge_beyond_it_and_without_area():
    image = grey(330, 400)
    for box in ((-20, -10, 30, 40), (390, 320, 450, 400), (50, 60, 50, 60), (0, 0, 400, 330), (500, 500, 600, 600)):
        assert draw(image, detections(box), NAMES).shape == image.shape


@pytest.mark.parametrize("fields", [{}, {"sites": ["before layer2", "backbone.extra.0"]}])
def test_a_map_of_one_half_strengthens_by_one_half(fields):
    model = zeroed(detector(**fields))
    gains = gains_on_image(model, torch.rand(3, 40, 50))
    assert gains.keys() == bam.attended(model).keys() and len(gains) == 2
    for gain in gains.values():
        assert gain.dtype == torch.float32 and gain.device.type == "cpu"
        assert ((gain - 0.5).abs().lt(1e-5) | (gain == 0)).all() and (gain != 0).float().mean() > 0.5


def test_the_identity_strengthens_nothing():
    gains = gains_on_image(detector(identity=True), torch.rand(3, 40, 50))
    assert len(gains) == 2 and all((gain == 0).all() for gain in gains.values())


def test_the_map_is_that_of_the_attention():
    """What BAM's two branches say, weighed by the channels."""
    model, seen = detector(), {}
    for site, module in bam.attended(model).items():
        module.register_forward_hook(lambda m, given, out, site=site: seen.update({site: (m, given[0])}))
    gains = gains_on_image(model, torch.rand(3, 40, 50))
    for site, (module, features) in seen.items():
        with torch.no_grad():
            channel, spatial = module.branches(features)
            refined = features * (1 + torch.sigmoid(channel + spatial))
        expected = refined[0].norm(dim=0) / features[0].norm(dim=0) - 1
        alive = features[0].norm(dim=0) > 1e-3
        torch.testing.assert_close(gains[site][alive], expected[alive], rtol=1e-4, atol=1e-4)
        assert gains[site].shape == features.shape[2:]  # SSD does not pad


def test_padding_is_cut_off():
    model, whole = detector(PADDING), {}
    for site, module in bam.attended(model).items():
        module.register_forward_hook(lambda m, given, out, site=site: whole.update({site: (given[0][0], out[0])}))
    gains = gains_on_image(model, torch.rand(3, 50, 60))  # 64 x 76 pixels of 64 x 96
    assert [tuple(gain.shape) for gain in gains.values()] == [(16, 19), (8, 10), (4, 5)]
    for site, gain in gains.items():
        before, after = (features.norm(dim=0) for features in whole[site])
        assert before.shape[1] == 24 * gain.shape[0] // 16
        expected = (after / before - 1)[:, : gain.shape[1]]
        torch.testing.assert_close(gain, expected, rtol=1e-4, atol=1e-4)


def hooks_of(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_no_hooks_are_left_behind():
    model = detector()
    before = hooks_of(model)
    gains_on_image(model, torch.rand(3, 40, 50))
    assert hooks_of(model) == before
    broken = model.head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gains_on_image(model, torch.rand(3, 40, 50))
    broken.remove()
    assert hooks_of(model) == before


def test_maps_over_images():
    gain = torch.tensor([[0.2, 0.2, 0.2, 0.9]])
    picture = overlay(grey(40, 80), gain)
    assert picture.shape == (3, 40, 80) and picture.dtype == torch.uint8
    dark, bright = picture[:, 20, 5].float(), picture[:, 20, 75].float()
    assert bright.sum() > 3 * dark.sum() and bright[2] < bright[0]  # yellow
    flat = overlay(grey(40, 80), torch.full((2, 2), 0.5))
    assert (flat == flat[:, :1, :1]).all()
    same = overlay(grey(40, 80), 7 * gain)  # only where it is greater and less is shown
    assert (picture.int() - same.int()).abs().max() <= 1


def test_panels_stand_side_by_side(tmp_path):
    page = side_by_side({"one": grey(320, 320), "other": 2 * grey(160, 240)})
    assert page.size[0] == 320 + 6 + 480 and page.size[1] > 320
    pixels = pil_to_tensor(page)
    assert (
        (pixels[:, 200, 100] == 90).all() and (pixels[:, 200, 500] == 180).all() and (pixels[:, 200, 323] == 255).all()
    )
    assert (pixels[:, :20, :100] < 128).any()  # a title
    save_png(page, tmp_path / "new" / "page.png")
    save_png(grey(4, 6), tmp_path / "new" / "image.png")
    assert torch.equal(read(tmp_path / "new" / "page.png"), pixels)
    assert torch.equal(read(tmp_path / "new" / "image.png"), grey(4, 6))


def test_the_gallery_shows_images_with_objects(tmp_path):
    boxes = [[], [[5, 6, 30, 40]], [[10, 8, 50, 30]], []]
    images = tmp_path / "images"
    images.mkdir()
    data = drawn(images, boxes)
    models = {name: detector(num_classes=1, attention=name) for name in ("none", "bam")}
    written = write_gallery(models, data, tmp_path / "out")
    assert [one["file"] for one in written] == [f"{data.image_ids[k]}.png" for k in (1, 2)]
    assert (
        written[0]["caption"].startswith("image 1.png: bam at backbone.body.layer")
        and "yellow" in written[0]["caption"]
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [one["file"] for one in written]
    width = 320 * 60 / 48  # of each panel: annotated, none, bam, bam: attention
    pixels = read(tmp_path / "out" / written[0]["file"]).int()
    assert pixels.shape[2] == 4 * width + 3 * 6
    edge = pixels[:, 22 + round(40 * 320 / 48) - 2, round(15 * 320 / 48)]  # of the annotated box
    assert edge.max() - edge.min() > 40  # in colour, in a grey picture


def test_the_gallery_of_nothing(tmp_path):
    models = {"bam": detector()}
    assert write_gallery(models, drawn(tmp_path, [[], []]), tmp_path / "out") == []
    data = drawn(tmp_path, [[[5, 6, 30, 40]]])
    ignored = Objects.of(torch.tensor([[5, 6, 30, 40]]), torch.ones(1), torch.tensor([True]))
    assert write_gallery(models, dataclasses.replace(data, objects=[ignored]), tmp_path / "out") == []


def test_the_views_of_a_detector_are_its_own_pass():
    """`bam explain` shows the picture with its boxes, the best detections and the maps of the same pass."""
    network = detector()
    image = Image.fromarray(torch.randint(256, (40, 50, 3), dtype=torch.uint8).numpy())
    trained = Trained(network, ("cat", "dog", "elk"), Preprocessing((), (), (64, 64), 64))
    (view,) = task_of(DetectionRecipe()).views(trained, [("mine", image)])
    pixels = pil_to_tensor(image)
    detections, sites = views_on_image(network, pixels.float() / 255)
    assert view.name == "mine" and torch.equal(view.pixels, draw(pixels, detections, ("cat", "dog", "elk"), 0.3))
    scores = [score for _, score in view.prediction]
    assert scores == detections.scores.sort(descending=True).values[:5].tolist()
    assert [site.site for site in view.sites] == list(bam.attended(network))
    assert all(torch.equal(a.shown[1], b.shown[1]) for a, b in zip(view.sites, sites, strict=True))


def test_where_a_detector_points(tmp_path):
    """`bam examine` and reports: by chance, the energy is the share of the image that the boxes cover together."""
    data = drawn(tmp_path, [[], [[5, 6, 30, 40]], [[0, 0, 10, 10], [5, 6, 30, 40]]])
    trained = Trained(detector(), ("cat", "dog", "elk"), Preprocessing((), (), (64, 64), 64))
    task, calls = task_of(DetectionRecipe()), []
    results = task.examine(trained, data, None, lambda items, *call: calls.append(call) or items)
    assert results["num_images"] == 2 and calls == [(2, "pointing")]
    assert list(results["pointing"]) == list(bam.attended(trained.network))
    height, width = data.sizes[1]
    covered = torch.zeros(2, height, width)
    covered[:, 6:40, 5:30] = 1
    covered[1, :10, :10] = 1
    for values in results["pointing"].values():
        assert values["energy"]["others"]["chance"]["mean"] == pytest.approx(covered.mean().item())
        assert set(values["hits"]["others"]) == {"chance", "centre"}
    lines = examination_lines(results)
    assert lines[0] == "2 images with objects" and "points into the box" in lines[1]
    look = task.look(trained, data, tmp_path)
    assert look["pointing"] == results["pointing"] and len(look["views"]) == 2
    with pytest.raises(ValueError, match="no images with objects"):
        task.examine(trained, data.subset(torch.tensor([0])), None, untracked)


def test_photographs_are_predicted_as_they_were_learned(tmp_path, monkeypatch):
    """With "exif": "turn" boxes are of turned photographs, and so are those of `bam predict`."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "photo.jpg", exif=exif)
    trained = Trained(detector(), ("cat", "dog", "elk"), Preprocessing((), (), (64, 64), 64))
    for options, size in (({}, (60, 40)), ({"exif": "turn"}, (40, 60))):
        task = task_of(DetectionRecipe(data="voc2007", data_options=options))
        out = tmp_path / str(size)
        task.predict(trained, [tmp_path / "photo.jpg"], out, PredictOptions())
        with Image.open(out / "photo.png") as picture:
            assert (picture.width > picture.height) == (size[0] > size[1])


def test_names_that_the_font_lacks_are_numbers():
    boxes = detections([4, 30, 60, 60])
    pictures = [draw(grey(64, 64), boxes, [name]) for name in ("\u732b", "\u72ac", "class 1", "cat")]
    assert torch.equal(pictures[0], pictures[1]) and torch.equal(pictures[0], pictures[2])
    assert not torch.equal(pictures[0], pictures[3])
