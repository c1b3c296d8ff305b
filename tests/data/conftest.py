import pytest

from tests.data.pictures import paint_classes


@pytest.fixture
def pictures(tmp_path):
    """train/ with 7 and 6 images, val/ with 3 and 2, of two classes."""
    paint_classes(tmp_path / "train", {"cat": 7, "dog": 6})
    paint_classes(tmp_path / "val", {"cat": 3, "dog": 2})
    return tmp_path
