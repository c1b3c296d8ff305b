"""The gallery in a real browser: steps through images and sites, by mouse and by keyboard, and shows what is in it."""

import pytest
import torch

from bam.explanation.views import GAIN, REGIONS, SPATIAL, ImageView, SiteView
from bam.reports.gallery import write_gallery

MARKUP = "<img src=x onerror=alert(1)></script>&"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    ramp = torch.linspace(0.2, 0.8, 12).reshape(3, 4)
    sites = [
        SiteView("layer1", {SPATIAL: ramp, GAIN: ramp.flip(0, 1)}, torch.linspace(0.1, 0.9, 16)),
        SiteView("layer2", {GAIN: torch.full((1, 1), 0.25)}, None),
    ]
    asked = SiteView("question", {REGIONS: ramp}, None, (("how", 0.25), ("many", 0.75)))
    pixels = torch.randint(256, (3, 96, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    views = [
        ImageView("first", pixels, [("cat", 0.75), (MARKUP, 0.25)], sites),
        ImageView(MARKUP, pixels.flip(2), [("dog", 1.0)], sites),
        ImageView("third", pixels[:, :32, :32], [("cat", 0.5)], [*sites, asked]),
    ]
    out = tmp_path_factory.mktemp("gallery")
    return write_gallery(out, f"What a network attends to {MARKUP}", [view.as_plain() for view in views], [MARKUP])


def colours(page):
    """The map's pixels: rows of (r, g, b)."""
    script = """() => { const c = document.getElementById("map");
        return [c.width, c.height, Array.from(c.getContext("2d").getImageData(0, 0, c.width, c.height).data)]; }"""
    width, height, values = page.evaluate(script)
    return torch.tensor(values).reshape(height, width, 4)[..., :3]


def test_it_shows_the_first_image_and_its_map(gallery, visit):
    page = visit(gallery)
    assert page.text_content("h1") == f"What a network attends to {MARKUP}"
    assert page.locator("#prediction tr").all_text_contents() == ["cat75.0 %", f"{MARKUP}25.0 %"]
    assert page.text_content("#strongest tr") == "channel 150.900"
    assert page.text_content("#weakest tr") == "channel 00.100"
    assert (page.text_content("#low"), page.text_content("#high")) == ("0.200", "0.800")
    brightness = colours(page).sum(2).flatten()
    assert len(brightness) == 12 and (brightness.diff() > 0).all()
    label = page.get_attribute("#map", "aria-label")
    assert label.startswith("layer1: spatial attention, 4 x 3 places") and "88 % from the left and 83 %" in label


def test_images_by_mouse_list_and_keyboard(gallery, visit):
    page = visit(gallery)

    def shown():
        return page.get_attribute("#photo", "alt")

    assert page.is_disabled("#before")
    page.click("#after")
    assert shown() == MARKUP
    page.select_option("#image", "2")
    assert shown() == "third" and page.is_disabled("#after")
    page.locator("body").press("ArrowLeft")
    assert shown() == MARKUP
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement !== document.body")


def test_a_question_shows_its_regions_and_words(gallery, visit):
    page = visit(gallery)
    assert page.is_hidden("#question")
    page.select_option("#image", "2")
    page.locator("body").press("3")
    assert page.text_content("#words").startswith("regions, 4 x 3 places")
    assert page.locator("#question-words tr").all_text_contents() == ["how25.0 %", "many75.0 %"]


def test_sites_maps_opacity_and_colours(gallery, visit):
    page = visit(gallery)
    page.locator("#site").press("ArrowRight")
    assert page.text_content("#site-name") == "layer2" and page.is_hidden("#channels")
    assert page.text_content("#words") == "gain: 0.250 everywhere."
    page.locator("#strip button").first.click()
    assert page.text_content("#site-name") == "layer1"
    assert page.locator("#strip button").first.get_attribute("aria-pressed") == "true"
    page.select_option("#kind", GAIN)
    assert (colours(page).sum(2).flatten().diff() < 0).all()
    before = colours(page)
    page.select_option("#range", "whole")
    assert (page.text_content("#low"), page.text_content("#high")) == ("0.000", "1.000")
    assert not torch.equal(colours(page), before)
    page.locator("#opacity").press("Home")
    assert page.evaluate("document.getElementById('map').style.opacity") == "0"
    page.locator("body").press("2")
    assert page.text_content("#site-name") == "layer2"


def test_it_looks_right(gallery, looks_right):
    looks_right(gallery, "gallery")


def test_every_control_has_a_name(gallery, visit):
    page = visit(gallery)
    for control in page.locator("button, select, input").all():
        named = control.evaluate("e => e.ariaLabel || e.labels?.length || e.textContent.trim()")
        assert named, control.evaluate("e => e.outerHTML")
