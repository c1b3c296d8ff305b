import os
import pickle

import numpy as np
import pytest
import torch

from bam.data.cifar100 import cifar100
from bam.data.cifar_pickle import read_arrays


def write(folder, name, content, protocol=4):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))


@pytest.fixture
def copy(tmp_path):
    """A small copy in the usual form: 20 and 10 images."""
    folder = tmp_path / "cifar-100-python"
    random = np.random.default_rng(0)
    for name, count in (("train", 20), ("test", 10)):
        data = random.integers(256, size=(count, 3072), dtype=np.uint8)
        write(folder, name, {"data": data, "fine_labels": random.integers(100, size=count).tolist()})
    write(folder, "meta", {"fine_label_names": [f"class{k}" for k in range(100)]})
    cifar100.cache_clear()
    return tmp_path


def test_planes_become_pixels(copy):
    train, test = cifar100(copy)
    raw = pickle.loads((copy / "cifar-100-python" / "train").read_bytes())
    assert len(train) == 20 and len(test) == 10 and train.classes[7] == "class7"
    assert train.images[3, 5, 9].tolist() == [raw["data"][3, plane * 1024 + 5 * 32 + 9] for plane in range(3)]
    assert train.targets.tolist() == raw["fine_labels"]
    assert torch.equal(cifar100(copy / "cifar-100-python")[0].images, train.images)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(copy, protocol):
    folder = copy / "cifar-100-python"
    content = pickle.loads((folder / "test").read_bytes())
    write(folder, "test", content, protocol)
    assert np.array_equal(cifar100(copy)[1].targets, content["fine_labels"])


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/bam-was-here",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train", {"data": Evil(), "fine_labels": []}, "train is truncated or not .*asks for posix.system"),
        ("train", [1, 2], "holds a list"),
        ("train", {"data": np.zeros((4, 7), np.uint8), "fine_labels": [0] * 4}, r"shape \(n, 3072\)"),
        ("test", {"data": np.zeros((4, 3072), np.uint8), "fine_labels": [0] * 3}, "one from 0 to 99 per image"),
        ("test", {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [100]}, "0 to 99"),
        ("meta", {"label_names": []}, "100 fine_label_names"),
    ],
)
def test_foreign_files_are_named(copy, name, content, message):
    write(copy / "cifar-100-python", name, content)
    with pytest.raises(ValueError, match=message):
        cifar100(copy)


def test_forged_flags_of_an_array_type_make_no_pointers(copy):
    """A state of numpy's dtype that says "object" would make the pixels pointers."""

    class Forged:
        def __reduce__(self):
            return np.dtype, ("u1", False, True), (3, "|", None, None, None, -1, -1, 63)

    class Pixels:
        def __reduce__(self):
            state = (1, (4, 3072), Forged(), False, b"A" * 4 * 3072)
            return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state

    write(copy / "cifar-100-python", "train", {"data": Pixels(), "fine_labels": [1, 2, 3, 4]})
    assert set(cifar100(copy)[0].images.unique().tolist()) == {65}
    for kind in ("O", "O8", "V3072", "M8", "f8"):
        write(copy / "cifar-100-python", "train", {"data": np.zeros((1, 1), kind), "fine_labels": [1]})
        cifar100.cache_clear()
        with pytest.raises(ValueError, match="which is not an array type"):
            cifar100(copy)


def test_truncated_and_missing_files_are_named(copy):
    path = copy / "cifar-100-python" / "train"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="train is truncated"):
        cifar100(copy)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="train is missing"):
        cifar100(copy)


def test_absent_without_a_network(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    cifar100.cache_clear()
    with pytest.raises(FileNotFoundError, match="no network.*--data-root or BAM_DATA"):
        cifar100(tmp_path / "nowhere")


def test_the_real_one(cifar_root):
    cifar100.cache_clear()
    train, test = cifar100(cifar_root)
    assert len(train) == 50_000 and len(test) == 10_000
    assert train.targets.bincount().tolist() == [500] * 100 and test.targets.bincount().tolist() == [100] * 100
    mean, deviation = train.normalization()
    torch.testing.assert_close(mean / 255, torch.tensor([0.50707516, 0.48654887, 0.44091784]))
    torch.testing.assert_close(deviation / 255, torch.tensor([0.26733429, 0.25643846, 0.27615047]))
    assert train.classes[:3] == ("apple", "aquarium_fish", "baby")


def test_an_odd_escape_in_a_damaged_file_shows_no_warning():
    """A warning is an error here."""
    assert read_arrays(b"\x80\x02c\\umpy.x\ny\n.") is not None
