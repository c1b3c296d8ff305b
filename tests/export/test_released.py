import copy
import pickle
import re
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import bam
from bam.export import load_released, preprocessing
from bam.models import build
from tests.conftest import restless
from tests.export.published import BLOCKS, Official, OfficialBAM, Osmr

IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
SMALL = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
PARAMETERS = {18: 11_712_503, 34: 21_820_663, 50: 25_915_099, 101: 44_907_227, 152: 60_550_875}


def wrapped(state):
    return {f"module.{key}": value for key, value in state.items()}


def checkpoint(state):
    """As the authors' and PytorchInsight's training scripts save: beside the weights, what training goes on from."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(3))], lr=0.1, momentum=0.9).state_dict()
    return {
        "epoch": 90,
        "arch": "resnet",
        "state_dict": state,
        "best_prec1": torch.tensor(76.86),
        "optimizer": optimizer,
    }


def old(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    return {
        "official": restless(Official(50)),
        "cifar": restless(Official(34, 100, cifar=True)),
        "pytorchcv": restless(Osmr(50)),
        "basic": restless(Osmr(18)),
        "small": restless(Official(18)),
    }


def assert_same_function(theirs, ours, images):
    """In eval mode; then in double precision in train mode, and by the running statistics after it."""
    with torch.no_grad():
        expected, actual = theirs.eval()(images), ours(images)
        assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()
        theirs, ours, images = theirs.double().train(), ours.double().train(), images.double()
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-8, atol=1e-8)
        theirs.eval(), ours.eval()
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-8, atol=1e-8)
    left, right = (sorted(b.double().sum().item() for b in model.buffers()) for model in (ours, theirs))
    assert left == pytest.approx(right, rel=1e-8) and 1 in left  # batches counted


@pytest.mark.parametrize(
    ("name", "images", "save"),
    [
        ("official", IMAGES, lambda state, path: old(checkpoint(wrapped(state)), path)),
        ("cifar", SMALL, torch.save),
        ("pytorchcv", IMAGES, torch.save),
        ("basic", IMAGES, lambda state, path: safetensors.torch.save_file(wrapped(state), path)),
    ],
)
def test_the_same_function_in_eval_and_in_train_mode(published, name, images, save, tmp_path):
    path = tmp_path / ("net.safetensors" if name == "basic" else "net.pth.tar")
    save(published[name].state_dict(), path)
    ours = load_released(path)
    assert not any(module.training for module in ours.modules()) and all(p.requires_grad for p in ours.parameters())
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert list(bam.attended(ours)) == ["layer1", "layer2", "layer3"]
    assert_same_function(copy.deepcopy(published[name]), ours, images)


def test_every_wrapping_of_the_same_tensors(published, tmp_path):
    state, path = published["small"].state_dict(), tmp_path / "net.pth"
    expected = None
    for content in (state, wrapped(state), checkpoint(state), checkpoint(wrapped(state))):
        for save in (torch.save, old):
            save(content, path)
            actual = load_released(path).state_dict()
            expected = expected or actual
            assert all(torch.equal(actual[key], expected[key]) for key in actual | expected)
    assert all(value.is_contiguous() for value in actual.values())


@pytest.mark.parametrize("layout", [Official, Osmr])
@pytest.mark.parametrize("depth", BLOCKS)
def test_every_depth_by_names_and_shapes(layout, depth, tmp_path):
    net = layout(depth, 1000)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    before = torch.get_rng_state()
    ours = load_released(tmp_path / "net.pth")
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in net.parameters()) == PARAMETERS[depth]
    left, right = (sorted(value.sum().item() for value in model.state_dict().values()) for model in (net, ours))
    assert left == right and len(ours.state_dict()) == len(net.state_dict())
    assert (ours.bam_config.backbone, ours.bam_config.num_classes) == (f"resnet{depth}", 1000)


def test_it_is_ready_to_use(published, tmp_path):
    torch.save(published["official"].state_dict(), tmp_path / "net.pth")
    model = load_released(tmp_path / "net.pth")
    images = preprocessing(model)(torch.full((3, 300, 400), 255, dtype=torch.uint8))
    assert images.shape == (3, 224, 224) and images[0, 0, 0] == pytest.approx((1 - 0.485) / 0.229)
    bam.export.save_pretrained(model, tmp_path / "folder")
    again = bam.export.from_pretrained(tmp_path / "folder")
    with torch.no_grad():
        assert torch.equal(again(IMAGES), model(IMAGES))
    torch.save(published["cifar"].state_dict(), tmp_path / "net.pth")
    assert not hasattr(load_released(tmp_path / "net.pth"), "bam_config")  # nobody says how its images were normalised


def test_files_that_do_not_count_batches(published, tmp_path):
    """PyTorch counts them since 0.4.1; a file that counts some is damaged."""
    state = dict(published["small"].state_dict())
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    torch.save({key: value for key, value in state.items() if key not in counters}, tmp_path / "net.pth")
    ours = load_released(tmp_path / "net.pth")
    assert {int(value) for key, value in ours.state_dict().items() if "num_batches" in key} == {0}
    del state[counters[3]]
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=f"missing: {re.escape(counters[3])}$"):
        load_released(tmp_path / "net.pth")


def test_halves_become_float32(published, tmp_path):
    torch.save(
        {key: value.half() for key, value in published["basic"].state_dict().items() if "num_b" not in key},
        tmp_path / "x",
    )
    assert {value.dtype for value in load_released(tmp_path / "x").state_dict().values()} == {
        torch.float32,
        torch.int64,
    }


def changed(published, change):
    state = dict(published["small"].state_dict())
    change(state)
    return state


LAST = "bam2.spatial_att.gate_s.gate_s_conv_final.bias"
FOURTH = "bam4.channel_att.gate_c.gate_c_fc_0.bias"
CBAM = "layer1.0.cbam.ChannelGate.mlp.1.weight"
ONES = torch.ones(64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(LAST), f"does not fit ResNet-18 with BAM; missing: {LAST}$"),
        (lambda s: s.pop("fc.bias"), "missing: fc.bias; of another shape or type: fc.weight"),
        (lambda s: s.update(extra=ONES), "unknown: extra$"),
        (lambda s: s.update({FOURTH: ONES}), f"unknown: {FOURTH}$"),
        (lambda s: s.update({"module.fc.weight": s.pop("fc.weight")}), "missing: fc.weight; unknown: module.fc.weight"),
        (lambda s: s.update({"bn1.weight": ONES[1:]}), r"type: bn1.weight \(63,\) \(the network has \(64,\)\)$"),
        (lambda s: s.update({"fc.bias": ONES}), r"type: fc.weight \(10, 512\) \(the network has \(64, 512\)\)$"),
        (lambda s: s.update({"fc.bias": ONES[:, None]}), "another shape or type: fc.weight"),
        (lambda s: s.update({"fc.bias": ONES[:0]}), "another shape or type: fc.weight"),
        (lambda s: s.update({"bn1.weight": ONES.long()}), r"type: bn1.weight int64 \(64,\) \(the netw"),
        (lambda s: s.update({"bn1.num_batches_tracked": ONES[0]}), "shape or type: bn1.num_batches_tracked"),
        (lambda s: s.update({"bn1.weight": ONES.to_sparse()}), "more than the named tensors of a network: bn1.weight"),
        (lambda s: s.update({"bn1.weight": ONES.to("meta")}), "more than the named tensors of a network: bn1.weight"),
        (lambda s: s.update(epoch=90), "more than the named tensors of a network: epoch"),
        (lambda s: s.update({7: ONES}), "more than the named tensors of a network: 7"),
        (lambda s: [s.pop(key) for key in list(s) if "layer4.1" in key], "2-2-2-1 .* known depths are 18, 34, 50"),
        (lambda s: [s.pop(key) for key in list(s) if "bam" in key], "holds a ResNet without BAM; load it into torchvi"),
        (lambda s: s.update({CBAM: ONES}), "holds a ResNet with CBAM; this function loads ResNets with BAM"),
        (lambda s: s.clear(), "holds an empty dictionary, not the named tensors"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_listed(published, change, message, tmp_path):
    torch.save(changed(published, change), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=message) as raised:
        load_released(tmp_path / "net.pth")
    assert str(raised.value).startswith(f"{tmp_path / 'net.pth'} ")


def test_long_lists_are_cut(published, tmp_path):
    state = changed(published, lambda s: s.update({f"extra{i}": torch.zeros(1) for i in range(40)}))
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="unknown: extra0, .*, extra11 and 28 more$"):
        load_released(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "an empty dictionary"), ({"state_dict": {}}, "an empty dictionary"), ([1, 2], "holds a list"),
        (ONES, "holds a Tensor"), ({"state_dict": [1]}, "holds a list"), ({"epoch": 3}, "of a network: epoch"),
        ({"weight": torch.zeros(1)}, "no ResNet with names as in .*; its first tensors are weight"),
    ],
)  # fmt: skip
def test_files_of_torch_that_are_no_network(content, message, tmp_path):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=message):
        load_released(tmp_path / "net.pth")


def test_plain_networks_and_our_own(published, tmp_path):
    path = tmp_path / "net.pth"
    torch.save(build("resnet18").state_dict(), path)
    with pytest.raises(ValueError, match="without BAM"):
        load_released(path)
    torch.save({key: value for key, value in published["basic"].state_dict().items() if ".bam." not in key}, path)
    with pytest.raises(ValueError, match="without BAM"):
        load_released(path)
    torch.save(bam.attach(build("resnet18")).state_dict(), path)
    with pytest.raises(ValueError, match=r"a network from this package; .* bam\.export\.from_pretrained"):
        load_released(path)


class Harmful:
    def __reduce__(self):
        return pickle.loads, (b"never",)


def test_nothing_is_executed(tmp_path):
    path = tmp_path / "net.pth"
    for content in (checkpoint({"x": Harmful()}), {"acc": np.float64(76.8), "state_dict": {}}, nn.Linear(1, 1)):
        for save in (torch.save, old):
            save(content, path)
            with pytest.raises(ValueError, match=r"would run \S+ when read, .*weights_only=False") as raised:
                load_released(path)
            assert "\n" not in str(raised.value)


def test_damaged_files(tmp_path):
    state = {f"layer{i}.weight": torch.randn(3) for i in range(50)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.ReLU(), torch.zeros(1)), tmp_path / "code.pth")
    torch.save(state, tmp_path / "new.pth"), old(state, tmp_path / "old.pth")
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    generator = np.random.default_rng(0)
    for name in ("new.pth", "old.pth", "net.safetensors", "code.pth"):
        path = tmp_path / name
        whole = path.read_bytes()
        damaged = [whole[:length] for length in (0, 1, 7, 100, len(whole) // 2, len(whole) - 1)]
        for _ in range(20):
            spoilt = bytearray(whole)
            for place in generator.integers(0, len(whole), 30):
                spoilt[place] = generator.integers(0, 256)
            damaged.append(bytes(spoilt))
        for content in [*damaged, generator.bytes(1000), b"not a file of tensors", whole]:
            path.write_bytes(content)
            with pytest.raises(ValueError, match=f"^{re.escape(str(path))} ") as raised:
                load_released(path)
            assert "\n" not in str(raised.value)


def test_files_that_are_not_there(tmp_path):
    for name in ("nothing.pth", "nothing.safetensors", "."):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            load_released(tmp_path / name)


def test_the_restatement_pools_the_whole_map():
    features = torch.randn(2, 64, 8, 8)
    module = restless(OfficialBAM(64)).eval()
    constant = features.mean((2, 3), keepdim=True).expand_as(features)
    assert torch.allclose(*(module.channel_att.gate_c(x.mean((2, 3))) for x in (features, constant)), atol=1e-5)
