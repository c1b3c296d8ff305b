import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from bam.data.augmentation import Augmentation
from bam.data.files.decoding import read_rgb, seeded_by, to_rgb
from bam.data.folder import FolderOptions, decoding
from bam.data.plan import epoch_generator
from tests.conftest import SHARED_DATA
from tests.data.pictures import PLAIN, folder, paint, paint_classes, same


def damage(path, how):
    content = path.read_bytes()
    path.unlink()
    if how == "link":
        path.symlink_to(path.with_name("gone.png"))
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"no image"}[how])


def test_test_images_are_scaled_and_their_centre_cut_out(pictures):
    paint(pictures / "val" / "dog" / "wide.png", 77, size=(90, 33))
    _, test = folder(pictures, size=20, resize=30)
    mean, deviation = test.normalization()
    torch.testing.assert_close(mean, torch.tensor([123.675, 116.28, 103.53]))
    torch.testing.assert_close(deviation, torch.tensor([58.395, 57.12, 57.375]))
    served = list(test.batches(4, (mean, deviation), augmentation=Augmentation(flip=True)).test())
    assert [len(target) for _, target in served] == [4, 2] and [*served[0][1], *served[1][1]] == [0, 0, 0, 1, 1, 1]
    image = torch.cat([image for image, _ in served])
    assert image.dtype == torch.float32 and served[0][0].is_contiguous(memory_format=torch.channels_last)
    for path, given in zip(test.paths, image, strict=True):
        with Image.open(path) as picture:
            width, height = picture.size
            width, height = (int(30 * width / height), 30) if width > height else (30, int(30 * height / width))
            left, top = round((width - 20) / 2), round((height - 20) / 2)
            cut = picture.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 20, top + 20))
        wanted = (torch.from_numpy(np.array(cut)) - mean) / deviation
        assert torch.equal(given, wanted.permute(2, 0, 1))


def test_training_images_are_crops_within_scale_and_ratio_half_of_them_mirrored(tmp_path):
    """On a picture whose red grows to the right and whose green grows downwards, a crop tells where it is from."""
    ramp = np.zeros((200, 240, 3), dtype=np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(240), np.arange(200)[:, None]
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(ramp).save(tmp_path / name)
    train, _ = folder(tmp_path, size=32, scale=[0.2, 0.5], ratio=[0.8, 1.25])
    areas, ratios, mirrored = [], [], []
    for epoch in range(60):
        for image, _ in train.batches(1, PLAIN, augmentation=Augmentation(flip=True)).train(0, epoch):
            width = 32 / 31 * float(image[0, 0, 16, -1] - image[0, 0, 16, 0])
            height = 32 / 31 * float(image[0, 1, -1, 16] - image[0, 1, 0, 16])
            mirrored.append(width < 0)
            areas.append(abs(width) * height / (200 * 240))
            ratios.append(abs(width) / height)
    assert 0.18 < min(areas) < 0.26 and 0.44 < max(areas) < 0.53
    assert 0.75 < min(ratios) < 0.88 and 1.15 < max(ratios) < 1.32
    assert 0.3 < sum(mirrored) / len(mirrored) < 0.7
    plain = train.batches(1, PLAIN).train(0, 0)
    assert all(image[0, 0, 16, -1] > image[0, 0, 16, 0] for image, _ in plain)


@pytest.mark.parametrize("whole", [False, True])
def test_large_jpegs_are_decoded_at_a_fraction_of_their_size(tmp_path, monkeypatch, whole):
    """The crops are torchvision's where nothing is saved, and nearly the same where a JPEG is decoded at a fraction."""
    monkeypatch.setattr(FolderOptions, "WHOLE", whole)
    paint_classes(tmp_path, {"a": 2, "b": 2}, suffix="png")
    for name in ("a/4.jpg", "b/4.jpg"):
        paint(tmp_path / name, 7, size=(803, 601))
    small = Image.open(paint(tmp_path / "b" / "5.jpg", 8, size=(30, 31)))
    small.save(tmp_path / "a" / "6.jpg", progressive=True)
    small.convert("CMYK").save(tmp_path / "b" / "7.jpg")
    train, _ = folder(tmp_path, size=24, scale=[0.2, 0.9], val_share=0.1)
    crop = v2.Resize((24, 24)) if whole else v2.RandomResizedCrop(24, (0.2, 0.9))
    reference, decoded = v2.Compose([v2.PILToTensor(), crop, v2.RandomHorizontalFlip()]), []
    monkeypatch.setattr(decoding, "to_rgb", lambda image: (decoded.append(image.size), to_rgb(image))[1])
    order = torch.randperm(len(train), generator=epoch_generator(3, 1)).tolist()
    batches = train.batches(1, PLAIN, augmentation=Augmentation(flip=True)).train(3, 1)
    for number, (image, _) in zip(order, batches, strict=True):
        picture = read_rgb(train.paths[number])
        with seeded_by(3, 1, number):
            wanted = reference(picture)
        if picture.size == (803, 601):
            assert decoded[-1][0] == 101 and (image[0] - wanted).abs().mean() < 5
        else:
            assert decoded[-1] == picture.size and torch.equal(image[0], wanted.float())
    assert {True, False} == {path.endswith(".jpg") for path in train.paths}


def test_an_epoch_depends_on_seed_and_epoch_alone_whoever_decodes(pictures):
    train, test = folder(pictures)
    batches = train.batches(3, PLAIN, augmentation=Augmentation(flip=True))
    whole = list(batches.train(1, 4))
    assert len(whole) == batches.steps == 4
    for workers in (1, 2):
        train_again, test_again = folder(pictures, workers=workers)
        again = train_again.batches(3, PLAIN, augmentation=Augmentation(flip=True))
        assert same(again.train(1, 4), whole)
        assert same(again.train(1, 4, start=2), whole[2:])
        assert same(test_again.batches(2, PLAIN).test(), test.batches(2, PLAIN).test())
    larger = torch.cat(
        [image for image, _ in train.batches(4, PLAIN, augmentation=Augmentation(flip=True)).train(1, 4)]
    )
    assert torch.equal(larger, torch.cat([image for image, _ in whole]))  # nor on the batch that an image is in
    for other in (batches.train(2, 4), batches.train(1, 5)):
        assert not same(other, whole)
    repeated = {tuple(image.flatten().tolist()) for epoch in range(3) for image, _ in batches.train(0, epoch)}
    assert len(repeated) == 12


def test_shards_share_every_batch(pictures):
    train, test = folder(pictures)
    whole = train.batches(4, PLAIN, augmentation=Augmentation(flip=True))
    halves = [train.batches(4, PLAIN, augmentation=Augmentation(flip=True), shard=(rank, 2)) for rank in (0, 1)]
    for (image, _), *parts in zip(whole.train(0, 0), *(half.train(0, 0) for half in halves), strict=True):
        assert torch.equal(image[0::2], parts[0][0]) and torch.equal(image[1::2], parts[1][0])
    every = torch.cat([image for image, _ in test.batches(4, PLAIN).test()])
    tested = [image for rank in (0, 1) for image, _ in test.batches(4, PLAIN, shard=(rank, 2)).test()]
    assert torch.equal(torch.cat(tested), torch.cat([every[0::2], every[1::2]]))


def test_a_subset_has_the_chosen_images(pictures):
    train, _ = folder(pictures)
    part = train.subset(torch.tensor([9, 2]))
    assert part.paths == [train.paths[9], train.paths[2]] and part.targets.tolist() == [1, 0]


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "link"])
def test_a_damaged_image_stops_or_is_left_out(pictures, how):
    _, whole = folder(pictures)
    kept = [k for k in range(5) if k != 1]
    wanted = torch.cat([image for image, _ in whole.batches(5, PLAIN).test()])[kept]
    path = pictures / "val" / "cat" / "1.png"
    damage(path, how)
    for workers in (0, 1):
        _, test = folder(pictures, workers=workers)
        with pytest.raises(ValueError, match=f"{path} cannot be read.*leave such images out: --data-options"):
            list(test.batches(2, PLAIN).test())
        _, test = folder(pictures, workers=workers, unreadable="skip")
        batches = test.batches(2, PLAIN)
        served = list(batches.test())
        assert torch.equal(torch.cat([image for image, _ in served]), wanted)
        assert torch.cat([target for _, target in served]).tolist() == [0, 0, 1, 1]
        left_out = batches.take_unreadable()
        assert (left_out.count, left_out.example) == (1, str(path)) and batches.take_unreadable().count == 0


def test_no_training_batch_is_empty(pictures):
    """Of 13 images, one a batch, three can be read; in place of each of the others the next readable one is served."""
    readable = ["cat/3.png", "cat/5.png", "dog/0.png"]
    train, _ = folder(pictures)
    for path in (pictures / "train").rglob("*.png"):
        if str(path.relative_to(pictures / "train")) not in readable:
            path.write_bytes(b"")
    train, _ = folder(pictures, unreadable="skip")
    batches = train.batches(1, PLAIN)
    served = [image for image, _ in batches.train(0, 0)]
    assert [len(image) for image in served] == [1] * 13 and batches.take_unreadable().count == 10
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0)).tolist()
    good = [any(train.paths[k].endswith(name) for name in readable) for k in order]
    for k in range(13):
        following = next(other % 13 for other in range(k, k + 13) if good[other % 13])
        assert torch.equal(served[k], served[following])
    again, _ = folder(pictures, unreadable="skip", workers=2)
    assert same(again.batches(1, PLAIN).train(0, 0), batches.train(0, 0))
    for name in readable:
        (pictures / "train" / name).write_bytes(b"")
    for nothing in (batches.train(0, 0), batches.test()):
        with pytest.raises(ValueError, match="none of the 13 images can be read, e.g. .*png"):
            next(nothing)


def test_crops_by_padding_are_refused(pictures):
    with pytest.raises(ValueError, match="crop_padding 4: the images of a folder are already cropped at random"):
        folder(pictures)[0].batches(2, PLAIN, augmentation=Augmentation(4))


def test_imagenette():
    path = SHARED_DATA / "imagenette"
    if not path.is_dir():
        # The images may not be copied into the project, and tests download nothing.
        pytest.skip(f"the 700 images of imagenette are not here: {path}")
    train, test = folder(path, size=32)
    assert (len(train), len(test), len(train.classes)) == (500, 200, 10) and train.classes[0] == "n01440764"
    assert torch.bincount(train.targets).tolist() == [50] * 10 and torch.bincount(test.targets).tolist() == [20] * 10
    image = torch.cat([image for image, _ in test.batches(100, test.normalization()).test()])
    assert image.mean((0, 2, 3)).abs().max() < 0.2 and (image.std((0, 2, 3)) - 1).abs().max() < 0.3
