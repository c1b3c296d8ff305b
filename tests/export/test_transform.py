import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from bam.data import load
from bam.export import NetworkConfig, from_pretrained, preprocessing, save_pretrained
from bam.models import build
from tests.export.test_pretrained import ABOUT, SMALL, small


def test_preprocessing_by_hand():
    config = NetworkConfig("resnet18", 10, None, {}, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), (20, 30), 40)
    transform = preprocessing(config)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    actual = transform(Image.fromarray(pixels))
    cut = Image.fromarray(pixels).resize((60, 40), Image.BILINEAR).crop((15, 10, 45, 30))
    expected = (np.array(cut) / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    assert type(actual) is torch.Tensor and actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), torch.from_numpy(expected).permute(2, 0, 1), rtol=0, atol=1e-6)
    tensors = torch.from_numpy(pixels).permute(2, 0, 1)
    assert (transform(tensors) - actual).abs().max() < 2.1 / 255 / 0.2  # PIL rounds once more
    assert transform(tensors[None].expand(5, -1, -1, -1)).shape == (5, 3, 20, 30)
    for mode in ("L", "P", "RGBA", "LA", "1", "CMYK"):
        assert transform(Image.new(mode, (50, 60))).shape == (3, 20, 30)
    grey = preprocessing(NetworkConfig("resnet18", 10, None, {}, (0.5,), (0.5,), (20, 30), 40))
    assert grey(Image.fromarray(pixels)).shape == (1, 20, 30)
    with pytest.raises(ValueError, match="this SmallResNet has no bam_config: load it with bam.export.from_pretrained"):
        preprocessing(build("cifar/resnet8"))


def test_images_of_one_size_are_left_as_they_are(tmp_path):
    save_pretrained(small(sites=["layer1"]), tmp_path, **SMALL)
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    expected = functional.normalize(pixels / 255, ABOUT["mean"], ABOUT["std"])
    torch.testing.assert_close(preprocessing(from_pretrained(tmp_path))(pixels), expected)


def test_a_folder_of_images_is_tested_with_the_same(tmp_path):
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (50 + number, 70, 3), dtype=np.uint8)
        (tmp_path / "images" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / "ab"[number % 2] / f"{number}.png")
    _, test = load(f"folder:{tmp_path / 'images'}", size=32, resize=40, val_share=0.5)
    normalization = test.normalization()
    images, _ = next(test.batches(8, normalization).test())
    mean, std = ([value / 255 for value in values.tolist()] for values in normalization)
    transform = preprocessing(NetworkConfig("resnet18", 2, None, {}, mean, std, (32, 32), 40))
    expected = torch.stack([transform(Image.open(path)) for path in test.paths])
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


def test_sixteen_bits_are_read_as_in_training(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (24, 24), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    config = NetworkConfig("resnet18", 10, None, {}, (0.0,) * 3, (1.0,) * 3, (24, 24), 24)
    actual = preprocessing(config)(Image.open(tmp_path / "deep.png"))
    torch.testing.assert_close(actual[0].double(), torch.from_numpy((values >> 8) / 255), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="resize: expected the shorter side in pixels, at least as large as the crop"):
        NetworkConfig("resnet18", 10, None, {}, (0.0,) * 3, (1.0,) * 3, (96, 96), 32)
