import copy
import io
import urllib.error
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model, get_model_weights

import bam
from bam.models import build, classifier_name, load_pretrained
from tests.conftest import restless

NAME = "cifar/resnet8"


def values_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(model, values):
    own = model.state_dict()
    return own.keys() == values.keys() and all(torch.equal(own[key], values[key]) for key in own)


def assert_loaded(model, fresh, source, classifier="fc"):
    """Everything of `source`, and the classifier as it was drawn."""
    own = model.state_dict()
    assert own.keys() == source.keys()
    for key, value in own.items():
        assert torch.equal(value, (fresh if key.startswith(f"{classifier}.") else source)[key]), key


@pytest.fixture
def trained():
    """A network with random statistics, as after training, of ten classes."""
    return restless(build(NAME, 10))


def attempt(model, name, pretrained, num_classes=7):
    """What the error says; the model is left as it was."""
    before = values_of(model)
    with pytest.raises((ValueError, OSError)) as error:
        load_pretrained(model, name, str(pretrained), num_classes)
    assert same(model, before)
    return str(error.value)


def wrapped(state, prefix):
    return OrderedDict((prefix + key, value) for key, value in state.items())


FORMATS = {
    "plain.safetensors": lambda state, path: save_file(state, path),
    "plain.pt": lambda state, path: torch.save(state, path),
    "plain.pth": lambda state, path: torch.save(state, path),
    "checkpoint.pth": lambda state, path: torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, path),
    "checkpoint.pth.tar": lambda state, path: torch.save({"model": state, "best": 0.5}, path),
    "parallel.pth": lambda state, path: torch.save({"state_dict": wrapped(state, "module.")}, path),
    "compiled.pth": lambda state, path: torch.save(wrapped(state, "_orig_mod."), path),
    "both.pt": lambda state, path: torch.save(wrapped(state, "module._orig_mod."), path),
    "old.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "any_name": lambda state, path: torch.save(state, path),
}


@pytest.mark.parametrize("file", FORMATS)
def test_files(tmp_path, trained, file):
    source = values_of(trained)
    FORMATS[file](trained.state_dict(), tmp_path / file)
    model = build(NAME, 7)
    fresh = values_of(model)
    assert load_pretrained(model, NAME, str(tmp_path / file), 7) is model
    assert_loaded(model, fresh, source)
    assert not torch.equal(model.fc.weight, trained.fc.weight[:7])
    image = torch.randn(2, 3, 32, 32)
    model.fc, trained.fc = nn.Identity(), nn.Identity()
    assert torch.equal(model.eval()(image), trained.eval()(image))


def test_a_classifier_of_the_same_shape_is_loaded_too(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    assert same(load_pretrained(build(NAME, 10), NAME, str(tmp_path / "net.pt"), 10), values_of(trained))


def test_the_folder_of_a_run(tmp_path, trained):
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    assert same(load_pretrained(build(NAME, 10), NAME, str(tmp_path), 10), values_of(trained))
    (tmp_path / "model.safetensors").unlink()
    assert f"{tmp_path} holds no complete run: model.safetensors is missing" in attempt(build(NAME, 7), NAME, tmp_path)


def test_a_classifier_that_is_missing_or_built_otherwise_stays_fresh(tmp_path, trained):
    state = trained.state_dict()
    for name in ("fc.weight", "fc.bias"):
        state.pop(name)
    for more in ({}, {"fc.1.weight": torch.zeros(10, 64)}, {"fc.weight": torch.zeros(10, 64)}):
        torch.save(dict(state) | more, tmp_path / "net.pt")
        model = build(NAME, 10)
        fresh = values_of(model)
        load_pretrained(model, NAME, str(tmp_path / "net.pt"), 10)
        assert_loaded(model, fresh, values_of(trained))


def test_half_precision_and_files_without_counters(tmp_path, trained):
    state = {key: value.half() for key, value in trained.state_dict().items() if "num_batches" not in key}
    save_file(state, tmp_path / "net.safetensors")
    model = load_pretrained(build(NAME, 10), NAME, str(tmp_path / "net.safetensors"), 10)
    assert model.conv1.weight.dtype == torch.float32
    assert torch.equal(model.conv1.weight, trained.conv1.weight.half().float())
    assert model.bn1.num_batches_tracked == 0


def test_versions_of_modules_are_the_current_ones(tmp_path):
    """torchvision's MNASNet refuses a state dict without them, as safetensors files are."""
    source = get_model("mnasnet0_5")
    save_file(source.state_dict(), tmp_path / "net.safetensors")
    model = load_pretrained(build("mnasnet0_5"), "mnasnet0_5", str(tmp_path / "net.safetensors"), 1000)
    assert same(model, values_of(source))


def test_another_network_is_reported(tmp_path, trained):
    torch.save(build("cifar/resnet20", 10).state_dict(), tmp_path / "net.pt")
    message = attempt(build(NAME, 7), NAME, tmp_path / "net.pt")
    # 2 blocks more in each of 3 stages: 2 convolutions of 1 entry, 2 normalisations of 5
    assert f"{tmp_path / 'net.pt'} does not fit {NAME}; unknown: layer1.1.conv1.weight, layer1.1.bn1" in message
    assert message.endswith(" and 60 more") and message.count("layer1.1") == 12 and "fc." not in message
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    message = attempt(build("cifar/resnet20", 7), "cifar/resnet20", tmp_path / "net.pt")
    assert "missing: layer1.1.conv1.weight" in message and message.endswith(" and 48 more")  # counters may be missing
    torch.save(build("cifar/resnet18", 7).state_dict(), tmp_path / "net.pt")
    message = attempt(build("resnet18", 7), "resnet18", tmp_path / "net.pt")
    assert message.endswith("of another shape or type: conv1.weight (64, 3, 3, 3) (the network has (64, 3, 7, 7))")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv1.weight"), "; missing: conv1.weight"),
        (lambda state: state.update(more=torch.zeros(1)), "; unknown: more"),
        (
            lambda state: state.update({"bn1.weight": torch.zeros(16, dtype=torch.int8)}),
            "bn1.weight int8 (16,) (the network has (16,))",
        ),
        (lambda state: state.update({"bn1.weight": torch.zeros(16, device="meta")}), "bn1.weight meta (16,) (the"),
        (lambda state: state.update({"bn1.weight": torch.zeros(16).to_sparse()}), "sparse_coo (16,) (the"),
    ],
)
def test_every_entry_counts(tmp_path, trained, change, message):
    state = trained.state_dict()
    change(state)
    torch.save(state, tmp_path / "net.pt")
    assert message in attempt(build(NAME, 7), NAME, tmp_path / "net.pt")


def test_attention_in_a_file_is_reported(tmp_path):
    torch.save(bam.attach(build(NAME, 10)).state_dict(), tmp_path / "net.pt")
    message = attempt(build(NAME, 7), NAME, tmp_path / "net.pt")
    assert "unknown: layer1.attention." in message and "It contains attention at layer1, layer2, but" in message
    assert "bam.detach" in message and "from_pretrained" in message and "bam.load_attention" in message


def damaged_files(state):
    whole = io.BytesIO()
    torch.save(state, whole)
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    with_object = io.BytesIO()
    torch.save({"state_dict": state, "made_by": nn.ReLU()}, with_object)
    text, damaged = b"no weights at all", "is damaged, or not a file from torch.save"
    return {
        "empty.pt": (b"", damaged),
        "truncated.pt": (whole.getvalue()[:-3000], damaged),
        "old_and_truncated.pth": (old.getvalue()[:-3000], damaged),
        "text.pth": (text, damaged),
        "object.pt": (with_object.getvalue(), "would run 'torch.nn.modules.activation.ReLU'"),
        "text.safetensors": (text, "is damaged, or not a .safetensors file"),
        "empty.safetensors": (b"", "is damaged, or not a .safetensors file"),
    }


def test_damaged_files(tmp_path, trained):
    model = build(NAME, 7)
    for file, (content, message) in damaged_files(trained.state_dict()).items():
        (tmp_path / file).write_bytes(content)
        said = attempt(model, NAME, tmp_path / file)
        assert said.startswith(str(tmp_path / file)) and message in said and "\n" not in said
    save_file(trained.state_dict(), tmp_path / "net.safetensors")
    content = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(content[:-100])
    assert "net.safetensors is damaged" in attempt(model, NAME, tmp_path / "net.safetensors")


def test_damage_anywhere_is_one_sentence(tmp_path, trained):
    """Whatever a damaged pickle raises: one flipped byte, or all that follows zero."""
    generator = torch.Generator().manual_seed(0)
    for new_format in (True, False):
        whole = io.BytesIO()
        torch.save({"weight": torch.zeros(3)}, whole, _use_new_zipfile_serialization=new_format)
        content = whole.getvalue()
        for place in torch.randint(len(content), (60,), generator=generator).tolist():
            for rest in (content[place + 1 :], bytes(len(content) - place - 1)):
                (tmp_path / "net.pt").write_bytes(content[:place] + bytes([content[place] ^ 0x15]) + rest)
                assert "\n" not in attempt(build(NAME, 7), NAME, tmp_path / "net.pt")


@pytest.mark.parametrize("content", [{}, [torch.zeros(1)], torch.zeros(2), {"epoch": 3}, {"state_dict": []}, {1: 2}])
def test_what_is_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "net.pt")
    assert "net.pt holds no state dict" in attempt(build(NAME, 7), NAME, tmp_path / "net.pt")


@pytest.mark.parametrize("pretrained", ["nowhere.pth", "nowhere/DEFAULT", "nowhere.safetensors", "x.pth.tar"])
def test_paths_that_are_not_there(tmp_path, monkeypatch, pretrained):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"there is no file {pretrained}"):
        load_pretrained(build("resnet18", 7), "resnet18", pretrained, 7)


def put_into_cache(monkeypatch, tmp_path, name, tag, state):
    """What torch.hub finds already downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True, exist_ok=True)
    file = get_model_weights(name)[tag].url.rpartition("/")[2]
    torch.save(state, tmp_path / "hub" / "checkpoints" / file)
    return tmp_path / "hub" / "checkpoints" / file


def test_tags_of_torchvision(tmp_path, monkeypatch):
    sources = {tag: restless(get_model("resnet50")).state_dict() for tag in ("IMAGENET1K_V1", "IMAGENET1K_V2")}
    for tag, state in sources.items():
        put_into_cache(monkeypatch, tmp_path, "resnet50", tag, state)
    for tag, published in (("IMAGENET1K_V1",) * 2, ("IMAGENET1K_V2",) * 2, ("DEFAULT", "IMAGENET1K_V2")):
        model = build("resnet50", 7)
        fresh = values_of(model)
        assert_loaded(load_pretrained(model, "resnet50", tag, 7), fresh, sources[published])
    assert same(load_pretrained(build("resnet50"), "resnet50", "DEFAULT", 1000), sources["IMAGENET1K_V2"])


@pytest.mark.parametrize(
    ("name", "classifiers"), [("googlenet", ("aux1.fc2", "aux2.fc2", "fc")), ("inception_v3", ("AuxLogits.fc", "fc"))]
)
def test_auxiliary_classifiers_stay_fresh_too(tmp_path, monkeypatch, name, classifiers):
    source = restless(build(name))
    put_into_cache(monkeypatch, tmp_path, name, "DEFAULT", source.state_dict())
    model = build(name, 7)
    fresh, source = values_of(model), values_of(source)
    for key, value in load_pretrained(model, name, "DEFAULT", 7).state_dict().items():
        assert torch.equal(value, (fresh if key.rpartition(".")[0] in classifiers else source)[key]), key
    assert model.transform_input  # as torchvision has it for these weights
    assert same(load_pretrained(build(name), name, "DEFAULT", 1000), source)


def old_densenet(key):
    for part in ("norm", "relu", "conv"):
        for number in "12":
            key = key.replace(f".{part}{number}.", f".{part}.{number}.") if ".denselayer" in key else key
    return key


def old_transformer(key):
    return key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")


@pytest.mark.parametrize(("name", "old"), [("densenet121", old_densenet), ("vit_b_32", old_transformer)])
def test_torchvisions_old_names(tmp_path, monkeypatch, name, old):
    source = get_model(name).state_dict()
    state = {old(key): value for key, value in source.items() if "num_batches" not in key}
    assert state.keys() - source.keys()
    file = put_into_cache(monkeypatch, tmp_path, name, "DEFAULT", state)
    for pretrained in ("DEFAULT", str(file)):
        assert same(load_pretrained(build(name), name, pretrained, 1000), source)


def fake_hub(monkeypatch, states):
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda hub_id, **_: copy.copy(states[hub_id]))


def test_tags_of_timm(monkeypatch):
    timm = pytest.importorskip("timm")
    default = timm.get_pretrained_cfg("resnet18").hf_hub_id
    sources = {key: restless(get_model("resnet18")).state_dict() for key in (default, "timm/resnet18.tv_in1k")}
    fake_hub(monkeypatch, sources)
    for name, tag, hub in (
        ("timm/resnet18", "default", default),
        ("timm/resnet18", "tv_in1k", "timm/resnet18.tv_in1k"),
        ("timm/resnet18.tv_in1k", "default", "timm/resnet18.tv_in1k"),
    ):
        model = build(name, 7)
        fresh, state = values_of(model), torch.random.get_rng_state()
        assert_loaded(load_pretrained(model, name, tag, 7), fresh, sources[hub])
        assert torch.equal(torch.random.get_rng_state(), state)


def test_classes_of_the_tag_and_several_classifiers_of_timm(monkeypatch):
    timm = pytest.importorskip("timm")
    source = timm.create_model("levit_128s", num_classes=1000).state_dict()
    fake_hub(monkeypatch, {timm.get_pretrained_cfg("levit_128s").hf_hub_id: source})
    model = build("timm/levit_128s", 7)
    fresh = values_of(model)
    for key, value in load_pretrained(model, "timm/levit_128s", "default", 7).state_dict().items():
        expected = fresh if key.startswith(("head.linear", "head_dist.linear")) else source
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        (
            "resnet50",
            "IMAGENET1K_V3",
            "torchvision has no weights 'IMAGENET1K_V3' for resnet50; known tags: IMAGENET1K_V1, ",
        ),
        ("resnet50", "a1_in1k", "known tags: IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
        ("timm/resnet18", "a7_in1k", "timm has no weights 'a7_in1k' for resnet18; known tags: default, a1_in1k, "),
        ("timm/resnet18", "IMAGENET1K_V1", "timm has no weights 'IMAGENET1K_V1' for resnet18; known tags: default, "),
        ("timm/resnet10t_", "default", "timm has no weights for resnet10t_: give the path of a file"),
        (
            "mnasnet0_5x",
            "DEFAULT",
            "there are no weights 'DEFAULT' for mnasnet0_5x: tags are for torchvision's and timm's",
        ),
        (NAME, "DEFAULT", "give the path of a file, e.g. weights/DEFAULT.safetensors"),
        ("my_networks:net", "default", "tags are for torchvision's and timm's networks"),
    ],
)
def test_unknown_tags(name, tag, message):
    assert message in attempt(build(NAME, 7), name, tag)


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    for name, tag, source in (
        ("resnet18", "DEFAULT", "torchvision's resnet18 IMAGENET1K_V1"),
        ("timm/resnet18", "tv_in1k", "timm's resnet18.tv_in1k"),
    ):
        message = attempt(build(name, 7), name, tag)
        assert message.startswith(f"{source} could not be downloaded or read (URLError: ")
        assert "Name or service not known" in message and message.endswith("elsewhere and give its path")


def test_downloads_are_checked(tmp_path, monkeypatch):
    digests = []

    def download(url, path, digest, **_):
        digests.append(digest)
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    attempt(build("resnet18", 7), "resnet18", "DEFAULT")
    assert digests == ["f37072fd"]  # of resnet18-f37072fd.pth


def test_a_damaged_download_and_code_in_one(tmp_path, monkeypatch):
    file = put_into_cache(monkeypatch, tmp_path, "resnet18", "DEFAULT", {"conv1.weight": nn.ReLU()})
    assert "could not be downloaded or read (UnpicklingError" in attempt(build("resnet18", 7), "resnet18", "DEFAULT")
    file.write_bytes(b"damaged")
    assert "could not be downloaded or read" in attempt(build("resnet18", 7), "resnet18", "DEFAULT")


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("cifar/resnet8", "fc"),
        ("cifar/densenet100_bc", "classifier"),
        ("paper/mobilenet", "fc"),
        ("squeezenet1_1", "classifier.1"),
        ("googlenet", "fc"),
        ("convnext_tiny", "classifier.2"),
        ("timm/resnet18", "fc"),
        ("timm/resnetv2_50", "head.fc"),
        ("timm/convnext_atto", "head.fc"),
        ("timm/dla34", "fc"),
    ],
)
def test_the_classifiers_name(name, classifier):
    with torch.device("meta"):
        assert classifier_name(build(name, 7), 7) == classifier


def test_no_classifier():
    with pytest.raises(ValueError, match="Sequential has no classifier for 7 classes: no linear layer or 1x1"):
        classifier_name(nn.Sequential(nn.Conv2d(3, 7, 3), nn.Linear(7, 6)), 7)
    assert classifier_name(nn.Sequential(nn.Conv2d(3, 7, 1), nn.ReLU()), 7) == "0"
