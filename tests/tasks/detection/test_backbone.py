"""Weights of classification inside a detector: where they arrive, what is refused, what stays frozen."""

import copy
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torchvision.models import get_model

import bam
from bam.models import build
from bam.recipes import ClassificationRecipe, DetectionRecipe
from bam.tasks.detection.backbone import apply_batchnorm_policy, load_backbone
from bam.tasks.detection.build import build_detector
from bam.tasks.detection.detectors import DETECTORS
from bam.training import run, trained_model
from tests.conftest import restless

CLASSIFY = ClassificationRecipe(
    data_options={"canvas": 16, "num_train": 64, "num_test": 16}, batch_size=32, epochs=1, precision="fp32", lr=0.5
)
DETECT = DetectionRecipe(
    data_options={"canvas": 32, "num_train": 32, "num_test": 8, "augmentation": "none"},
    model="ssd_resnet8",
    batch_size=8,
    epochs=1,
    precision="fp32",
    seed=7,
)
SITES = ["layer1", "layer2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs of classification: plain, with BAM, with BAM at one place, with SE, of another network."""
    out = tmp_path_factory.mktemp("runs")
    run(CLASSIFY, out / "plain")
    run(CLASSIFY.replace(attention="bam"), out / "bam")
    run(CLASSIFY.replace(attention="bam", sites=["layer1"]), out / "one")
    run(CLASSIFY.replace(attention="se", sites=["bottlenecks"]), out / "se")
    run(CLASSIFY.replace(model="cifar/resnet20"), out / "resnet20")
    return out


def detector(**fields):
    return build_detector(DETECT.replace(**fields), 10)


def stages(network, image):
    """What comes out of the stages of a ResNet, in its classifier or in a detector."""
    body = getattr(getattr(network, "backbone", None), "body", network)
    maps_of = {}
    handles = [
        getattr(body, name).register_forward_hook(lambda _, given, maps, name=name: maps_of.update({name: maps}))
        for name in ("layer1", "layer2", "layer3")
    ]
    with torch.no_grad():
        network.backbone(image) if hasattr(network, "backbone") else network(image)
    for handle in handles:
        handle.remove()
    return maps_of


def same_stages(left, right):
    image = torch.rand(2, 3, 32, 32)
    one, other = stages(left.eval(), image), stages(right.eval(), image)
    return all(torch.equal(one[name], other[name]) for name in ("layer1", "layer2", "layer3"))


def test_a_plain_run_arrives(folders):
    network, _ = trained_model(folders / "plain")
    assert same_stages(detector(backbone=str(folders / "plain")), network)
    assert same_stages(detector(backbone=str(folders / "plain" / "model.safetensors")), network)
    assert not same_stages(detector(), network)


def test_a_run_with_attention_arrives_with_its_attention(folders):
    network, _ = trained_model(folders / "bam")
    model = detector(attention="bam", backbone=str(folders / "bam"))
    assert same_stages(model, network)
    for site in SITES:
        own = bam.attended(model)[f"backbone.body.{site}"].state_dict()
        theirs = bam.attended(network)[site].state_dict()
        assert own.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in own.items())
        assert own["channel.norm.num_batches_tracked"] > 0


def test_a_plain_run_arrives_under_new_attention(folders):
    network, _ = trained_model(folders / "plain")
    model = detector(attention="bam", backbone=str(folders / "plain"))
    assert not same_stages(model, network)
    with bam.without_attention(model):
        assert same_stages(model, network)
    fresh = detector(attention="bam").state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in model.state_dict().items() if ".attention." in key)
    assert same_stages(detector(attention="bam", identity=True, backbone=str(folders / "plain")), network)


def test_what_is_not_of_the_backbone_does_not_depend_on_it(folders):
    plain, loaded = detector().state_dict(), detector(backbone=str(folders / "plain")).state_dict()
    changed = {key for key, value in plain.items() if not torch.equal(value, loaded[key])}
    assert changed and all(key.startswith("backbone.body.") for key in changed)
    assert {key for key in plain if key.startswith("backbone.body.") and key.endswith("weight")} <= changed


@pytest.mark.parametrize(
    ("weights", "fields", "message"),
    [
        ("bam", {}, "was trained with attention at layer1, layer2, and is a different network without it: train the"),
        ("resnet20", {}, "is a run of cifar/resnet20, but the backbone of this detector is cifar/resnet8"),
        ("se", {"attention": "bam"}, "does not fit cifar/resnet8; missing: .*layer1.attention.channel"),
        ("one", {"attention": "bam"}, "does not fit cifar/resnet8; missing: layer2.attention"),
        ("bam", {"attention": "bam", "sites": ["layer1"]}, "does not fit cifar/resnet8; unknown: layer2.attention"),
        ("bam", {"attention": "bam", "sites": ["backbone.extra.0"]}, "was trained with attention at layer1, layer2"),
    ],
)
def test_what_does_not_fit_is_reported(folders, weights, fields, message):
    with pytest.raises(ValueError, match=message):
        detector(backbone=str(folders / weights), **fields)


def test_what_is_not_there_is_reported(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file|holds no complete run"):
        detector(backbone=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="holds no complete run: model.safetensors is missing"):
        detector(backbone=str(tmp_path))
    with pytest.raises(ValueError, match="there are no weights 'IMAGENET1K_V1' for cifar/resnet8"):
        detector(backbone="IMAGENET1K_V1")


def test_a_refused_file_changes_nothing(folders):
    network = build("cifar/resnet8")
    model = DETECTORS["ssd_resnet8"].assemble(network, 11)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="does not fit"):
        load_backbone(model, network, "cifar/resnet8", str(folders / "resnet20" / "model.safetensors"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_a_file_of_mobilenet_v3_arrives(name, tmp_path):
    network = restless(get_model("mobilenet_v3_large", num_classes=12)).eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "mobilenet.pth")
    model = detector(model=name, backbone=str(tmp_path / "mobilenet.pth")).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        if name.startswith("ssdlite"):
            maps = [model.backbone.features[0](image)]
            maps.append(model.backbone.features[1](maps[0]))
            expanded = network.features[13].block[0](network.features[:13](image))
            expected = [expanded, network.features(image)]
        else:
            maps = list(model.backbone.body(image).values())
            expected = [network.features[:14](image), network.features(image)]
    assert len(maps) == len(expected) and all(map(torch.equal, maps, expected))
    assert (model.transform.image_mean, model.transform.image_std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("name", ["ssd300_mobilenet", "stairnet300_mobilenet"])
def test_a_file_of_mobilenet_arrives(name, tmp_path):
    network = restless(build("paper/mobilenet")).eval()
    torch.save(network.state_dict(), tmp_path / "mobilenet.pth")
    backbone = detector(model=name, backbone=str(tmp_path / "mobilenet.pth")).eval().backbone
    body = backbone.body if name.startswith("ssd") else backbone.base.body
    image = torch.rand(1, 3, 64, 64)
    parts, expected = dict(body.named_children()), dict(network.named_children())
    with torch.no_grad():
        maps, x = list(body(image).values()), image
        for part in parts:
            x = expected[part](x)
            if part == "layer4":
                assert torch.equal(maps[0], x)
    assert torch.equal(maps[1], x) and maps[1].shape == (1, 1024, 2, 2)


def test_a_file_of_resnet50_arrives(tmp_path):
    network = restless(get_model("resnet50", num_classes=2)).eval()
    torch.save(network.state_dict(), tmp_path / "resnet50.pth")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        x = network.maxpool(network.relu(network.bn1(network.conv1(image))))
        expected = [x := getattr(network, f"layer{k}")(x) for k in (1, 2, 3, 4)]
        for name, first in {"fasterrcnn_resnet50_fpn": 0, "retinanet_resnet50_fpn": 1}.items():
            model = detector(model=name, backbone=str(tmp_path / "resnet50.pth")).eval()
            maps = list(model.backbone.body(image).values())
            assert len(maps) == 4 - first and all(map(torch.equal, maps, expected[first:])), name


@pytest.mark.parametrize("name", ["ssd300_vgg16", "stairnet300_vgg16"])
def test_a_file_of_vgg16_arrives(name, tmp_path):
    network = nn.Module()
    network.features = nn.Sequential(*_vgg16_features())
    torch.save(network.state_dict(), tmp_path / "vgg16.pth")  # the classifier is not needed
    backbone = detector(model=name, backbone=str(tmp_path / "vgg16.pth")).eval().backbone
    backbone = getattr(backbone, "base", backbone)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone.features(image), network.features[:23](image))
        conv5 = torch.rand(1, 512, 8, 8)
        assert torch.equal(backbone.extra[0][:7](conv5), network.features[23:30](conv5))


def _vgg16_features():
    channels = [3, 64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
    before = channels[0]
    for channel in channels[1:]:
        if channel == "M":
            yield nn.MaxPool2d(2)
        else:
            yield from (nn.Conv2d(before, channel, 3, padding=1), nn.ReLU())
            before = channel


def test_images_are_normalised_as_those_of_the_run_were(folders):
    _, record = trained_model(folders / "plain")
    mean, std = record.normalization["mean"], record.normalization["std"]
    assert mean[0] != pytest.approx(0.485, abs=0.1)
    model = detector(backbone=str(folders / "plain"))
    assert (model.transform.image_mean, model.transform.image_std) == (mean, std)
    image = torch.rand(3, 64, 64)
    served = model.eval().transform([image])[0].tensors[0]
    expected = (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(served, expected)


def norms_of(model):
    """BatchNorms by name: of the attention, of the network, of the rest of the detector."""
    parts = {"attention": {}, "network": {}, "rest": {}}
    for name, module in model.named_modules():
        if isinstance(module, _NormBase):
            kind = "attention" if ".attention." in name else "network" if "backbone.body" in name else "rest"
            parts[kind][name] = module
    return parts


def train_once(model):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    model.eval().train()
    sum(model([torch.rand(3, 64, 64)] * 2, [target] * 2).values()).backward()
    optimizer.step()


def changed(norm, before):
    state = norm.state_dict()
    return {
        key for key in ("weight", "bias", "running_mean", "running_var") if not torch.equal(state[key], before[key])
    }


@pytest.mark.parametrize("policy", ["frozen", "batch"])
def test_which_batchnorms_are_trained(folders, policy):
    model = detector(attention="bam", batchnorm=policy, backbone=str(folders / "bam"))
    parts = norms_of(model)
    assert all(parts.values())
    before = {kind: {n: copy.deepcopy(m.state_dict()) for n, m in norms.items()} for kind, norms in parts.items()}
    train_once(model)
    changes = {kind: {n: changed(m, before[kind][n]) for n, m in norms.items()} for kind, norms in parts.items()}
    everything = {"weight", "bias", "running_mean", "running_var"}
    assert all(keys == everything for keys in changes["rest"].values())
    frozen = policy == "frozen"
    assert all(keys == (set() if frozen else everything) for keys in changes["network"].values())
    trained = set().union(*changes["attention"].values())
    assert trained == ({"weight", "bias"} if frozen else everything)
    counts = {int(m.num_batches_tracked) for m in parts["network"].values()}
    assert counts == ({2} if frozen else {3})  # the run of classification had two steps


def test_frozen_weights_of_the_backbone_come_out_of_a_run_as_they_went_in(folders, tmp_path):
    run(DETECT.replace(batchnorm="frozen", backbone=str(folders / "plain"), lr=0.01), tmp_path / "run")
    saved, loaded = (load_file(folder / "model.safetensors") for folder in (folders / "plain", tmp_path / "run"))
    names = [key for key in saved if ".bn" in f".{key}"]
    assert len(names) > 20 and all(torch.equal(saved[key], loaded[f"backbone.body.{key}"]) for key in names)
    assert not torch.equal(saved["layer1.0.conv1.weight"], loaded["backbone.body.layer1.0.conv1.weight"])


def test_a_run_does_not_need_its_backbone_afterwards(folders, tmp_path):
    given = shutil.copytree(folders / "plain", tmp_path / "given")
    record = run(DETECT.replace(backbone=str(given)), tmp_path / "run")
    shutil.rmtree(given)
    transform = trained_model(tmp_path / "run")[0].transform
    assert record.normalization == trained_model(folders / "plain")[1].normalization
    assert record.normalization == {"mean": transform.image_mean, "std": transform.image_std}


def test_statistics_over_several_processes_want_gpus(monkeypatch):
    network = build("cifar/resnet8")
    model = DETECTORS["ssd_resnet8"].assemble(network, 11)
    assert apply_batchnorm_policy(model, network, "sync") is model
    monkeypatch.setattr("bam.tasks.building.PartialState", lambda: SimpleNamespace(num_processes=2))
    assert apply_batchnorm_policy(model, network, "batch") is model
    if torch.cuda.is_available():
        converted = apply_batchnorm_policy(model, network, "sync")
        kinds = {type(module) for module in converted.modules() if isinstance(module, _NormBase)}
        assert kinds == {nn.SyncBatchNorm}
        return
    with pytest.raises(ValueError, match="batchnorm sync is for several GPUs: .*choose another batchnorm"):
        apply_batchnorm_policy(model, network, "sync")
