import numpy as np
import pytest
from PIL import Image

from bam.data.files.decoding import read_rgb
from tests.data.pictures import paint

GREY = np.array([[0, 51, 102], [153, 204, 255]], dtype=np.uint8)


def grey_rgb(values=GREY):
    return np.stack([values] * 3, axis=2)


def palette(**options):
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8), "L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image, options


RGB_OF_PALETTE = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 255], [0, 255, 0], [255, 0, 0]]])


SIXTEEN = Image.fromarray(GREY.astype(np.uint16) * 257)


RGBA = Image.merge(
    "RGBA", [Image.fromarray(GREY), Image.fromarray(GREY), Image.fromarray(GREY), Image.new("L", (3, 2))]
)


@pytest.mark.parametrize(
    ("name", "image", "options", "wanted"),
    [
        ("grey.png", Image.fromarray(GREY), {}, grey_rgb()),
        ("grey.webp", Image.fromarray(GREY), {"lossless": True}, grey_rgb()),
        ("one.bmp", Image.fromarray(GREY > 110), {}, grey_rgb(255 * (GREY > 110))),
        ("palette.png", *palette(), RGB_OF_PALETTE),
        ("transparent_colour.png", *palette(transparency=0), RGB_OF_PALETTE),
        ("transparent_colours.png", *palette(transparency=b"\x00\x80\xff"), RGB_OF_PALETTE),
        ("transparent.png", RGBA, {}, grey_rgb()),
        ("transparent_grey.png", RGBA.convert("LA"), {}, grey_rgb()),
        ("cmyk.tif", Image.fromarray(grey_rgb()).convert("CMYK"), {}, grey_rgb()),
        ("sixteen.png", SIXTEEN, {}, grey_rgb()),
        ("sixteen.tiff", SIXTEEN, {}, grey_rgb()),
        ("sixteen.pgm", SIXTEEN, {}, grey_rgb()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_of_any_kind_become_rgb(tmp_path, name, image, options, wanted):
    image.save(tmp_path / name, **options)
    read = read_rgb(str(tmp_path / name))
    assert read.mode == "RGB" and np.array_equal(np.array(read), wanted)


def test_a_cmyk_jpeg_has_its_colours(tmp_path):
    Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    colours = np.array(read_rgb(str(tmp_path / "a.jpg"))).astype(int)
    assert abs(colours - [200, 40, 90]).max() <= 3


@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_without_a_known_range_are_refused(tmp_path, mode):
    Image.new(mode, (3, 2)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="its values have no known range"):
        read_rgb(str(tmp_path / "a.tif"))


def test_warnings_of_the_decoder_are_none_of_the_users(tmp_path, monkeypatch):
    paint(tmp_path / "a.png", 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # of 2000, and a warning is an error here
    assert read_rgb(str(tmp_path / "a.png")).size == (50, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(ValueError, match="exceeds limit"):
        read_rgb(str(tmp_path / "a.png"))


def test_what_is_no_image_is_reported_alike_where_image_open_was_replaced(tmp_path, monkeypatch):
    """As Ultralytics does: it tries a decoder of its own, which may not be installed."""

    def opened(file, mode="r"):
        raise ModuleNotFoundError("No module named 'pi_heif'")

    (tmp_path / "empty.jpg").write_bytes(b"")
    monkeypatch.setattr("bam.data.files.decoding.Image.open", opened)
    with pytest.raises(ValueError, match="it is empty, or not an image of a known format"):
        read_rgb(str(tmp_path / "empty.jpg"))
