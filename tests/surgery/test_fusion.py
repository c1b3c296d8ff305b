import copy
import warnings

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torchvision.models import get_model

import bam
from bam.export import export_model, save_pretrained
from tests.conftest import restless, skip_before_torch
from tests.surgery.copies import COPIES

IMAGE = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def module(channels=24, scale=None, **options):
    """A BAM as after training, in eval mode."""
    options = {"reduction": 5, "dilation": 2} | options
    made = restless(bam.BAM(channels, identity=scale is not None, **options)).eval()
    if scale is not None:
        nn.init.constant_(made.scale, scale)
    return made


def resnet(**options):
    model = restless(bam.attach(get_model("resnet18", num_classes=10), **options)).eval()
    for number, attention in enumerate(bam.attended(model).values(), start=1):
        if options.get("identity"):
            nn.init.constant_(attention.scale, number / 2)
    return model


def resnet_of_timm():
    return restless(timm.create_model("resnet18", num_classes=10, block_args={"attn_layer": bam.BAM})).eval()


def constant_(attention):
    """Let the BatchNorms that close the branches multiply by 0."""
    for branch in (attention.channel, attention.spatial):
        if branch is not None:
            nn.init.zeros_(branch.closing.weight)


def norms(model):
    return [name for name, part in model.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def assert_same(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("layout", ["paper", "released"])
@pytest.mark.parametrize("branch", ["both", "channel", "spatial"])
@pytest.mark.parametrize("combine", ["sum", "product", "max"])
@pytest.mark.parametrize("scale", [None, -0.7])
@pytest.mark.parametrize("memory_format", LAYOUTS)
@torch.no_grad()
def test_every_bam_computes_the_same_without_batch_norms(layout, branch, combine, scale, memory_format):
    original = module(scale=scale, layout=layout, branch=branch, combine=combine)
    fused, double = bam.fuse(original), bam.fuse(original.double())
    original.float()
    assert norms(original) and not norms(fused)
    for size in ((7, 10), (1, 1), (2, 5)):
        x = torch.randn(3, 24, *size).to(memory_format=memory_format)
        assert fused(x).stride() == original(x).stride()
        torch.testing.assert_close(fused(x), original(x), rtol=1e-5, atol=1e-5)
        expected = copy.deepcopy(original).double()(x.double())
        torch.testing.assert_close(double(x.double()), expected, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_each_batch_norm_counts():
    """What the test above compares: a fold that is missing or wrong shows far above its tolerance."""
    original, x = module(), torch.randn(3, 24, 7, 10)
    fused, expected = bam.fuse(original), original(x)
    for name in norms(original):
        broken = copy.deepcopy(original)
        broken.set_submodule(name, nn.Identity())
        assert (broken(x) - expected).abs().max() > 0.01
    for name, parameter in fused.named_parameters():
        wrong = copy.deepcopy(fused)
        with torch.no_grad():
            wrong.get_parameter(name).copy_(1.1 * parameter + 0.1)
        assert (wrong(x) - expected).abs().max() > 0.001, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_narrow_weights_are_folded_in_float32_and_rounded_once(dtype):
    original, x = module(channels=8).to(dtype), torch.randn(2, 8, 6, 5).to(dtype)
    fused, exact = bam.fuse(original), bam.fuse(copy.deepcopy(original).float())
    for key, value in exact.state_dict().items():
        assert torch.equal(fused.state_dict()[key], value.to(dtype)), key
    wide = exact(x.float())
    assert fused(x).dtype == dtype
    torch.testing.assert_close(fused(x).float(), wide, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("build", [resnet, lambda: resnet(identity=True), resnet_of_timm], ids=["", "identity", "timm"])
@pytest.mark.parametrize("memory_format", LAYOUTS)
@torch.no_grad()
def test_networks_compute_the_same_and_the_given_one_is_untouched(build, memory_format):
    model = build().to(memory_format=memory_format)
    image = IMAGE.to(memory_format=memory_format)
    expected, before = model(image), copy.deepcopy(model.state_dict())
    parts = [(name, id(part), part.training) for name, part in model.named_modules()]
    fused = bam.fuse(model)
    assert_same(fused(image), expected)
    backbone = norms(bam.detach(get_model("resnet18")))
    assert len(norms(fused)) == len(backbone) < len(norms(model))
    assert torch.equal(model(image), expected)
    assert [(name, id(part), part.training) for name, part in model.named_modules()] == parts
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not {p.data_ptr() for p in fused.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert not any(part.training for part in fused.modules())
    assert list(bam.attended(fused)) == list(bam.attended(model))
    assert_same(bam.fuse(model.double())(image.double()), model(image.double()), 1e-11)


@torch.no_grad()
def test_a_fused_network_can_be_fused_again_switched_off_and_detached():
    model = resnet()
    fused = bam.fuse(model)
    again = bam.fuse(fused)
    assert again is not fused and torch.equal(again(IMAGE), fused(IMAGE))
    with bam.without_attention(fused), bam.without_attention(model):
        assert torch.equal(fused(IMAGE), model(IMAGE))
    assert torch.equal(bam.detach(fused)(IMAGE), bam.detach(model)(IMAGE))


@pytest.mark.parametrize("attention", ["bam", "se"])
@torch.no_grad()
def test_sites_with_scale_0_are_left_out_bit_for_bit(attention):
    sites = ["layer1", "before layer3.1", "layer3"]
    model = restless(bam.attach(get_model("resnet18"), attention, sites=sites, identity=True)).eval()
    nn.init.constant_(bam.attended(model)["layer3"].scale, 0.5)
    with pytest.warns(
        UserWarning, match=r"at layer1, before layer3\.1 it is the identity \(scale 0\) and left out"
    ) as w:
        fused = bam.fuse(model)
    assert len(w) == 1 and w[0].filename == __file__
    assert list(bam.attended(fused)) == ["layer3"] and list(bam.attended(model)) == sites[:1] + ["layer3", sites[1]]
    assert_same(fused(IMAGE), model(IMAGE))
    nn.init.zeros_(bam.attended(model)["layer3"].scale)
    with pytest.warns(UserWarning, match="left out"):
        plain = bam.fuse(model)
    assert torch.equal(plain(IMAGE), model(IMAGE)) and not bam.attended(plain)
    assert list(plain.state_dict()) == list(get_model("resnet18").state_dict())


@torch.no_grad()
def test_sites_in_maps_of_the_channels_last_kind():
    model = restless(bam.attach(get_model("swin_t"), image=64, identity=True)).eval()
    one, *others = bam.attended(model).values()
    for other in others:
        nn.init.constant_(other.scale, 0.5)
    with pytest.warns(UserWarning, match="left out"):
        fused = bam.fuse(model)
    assert len(bam.attended(fused)) == len(others) and not norms(fused)
    assert_same(fused(IMAGE), model(IMAGE))


@torch.no_grad()
def test_a_module_alone_is_kept_whatever_its_scale():
    original, x = module(scale=0.0), torch.randn(2, 24, 6, 5)
    fused = bam.fuse(original)
    assert isinstance(fused, bam.BAM) and not norms(fused) and torch.equal(fused(x), x)
    model = resnet(identity=True)
    nn.init.zeros_(model.layer1.attention.scale)
    x = torch.randn(2, 64, 8, 8)
    with pytest.warns(UserWarning, match="left out"):
        stage = bam.fuse(model.layer1)
    assert isinstance(stage, nn.Sequential) and torch.equal(stage(x), model.layer1(x))


@torch.no_grad()
def test_maps_that_are_the_same_for_every_image_are_reported():
    model = resnet()
    constant_(model.layer2.attention)
    with pytest.warns(UserWarning, match="at layer2 its map is the same for every image.* trained weights loaded") as w:
        fused = bam.fuse(model)
    assert len(w) == 1 and list(bam.attended(fused)) == ["layer1", "layer2", "layer3"]
    assert_same(fused(IMAGE), model(IMAGE))
    fused.layer2.attention.channel.expand.weight[0, 0] = 1.0  # one branch looks at the image
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bam.fuse(fused)
    model = resnet(identity=True)
    nn.init.zeros_(model.layer1.attention.scale)
    constant_(model.layer3.attention)
    with pytest.warns(UserWarning, match="at layer1 it is the identity.*; at layer3 its map is the same") as w:
        bam.fuse(model)
    assert len(w) == 1


@pytest.mark.parametrize("branch", ["both", "channel", "spatial"])
def test_constant_maps_of_modules_that_are_not_attached_have_names_too(branch):
    alone = module(branch=branch)
    constant_(alone)
    with pytest.warns(UserWarning, match="at BAM its map"):
        bam.fuse(alone)
    model = resnet_of_timm()
    constant_(model.layer2[1].se)
    with pytest.warns(UserWarning, match=r"at layer2\.1\.se its map"):
        bam.fuse(model)


@torch.no_grad()
def test_networks_with_nothing_to_fuse_are_copied():
    for model in (get_model("resnet18"), bam.attach(get_model("resnet18"), "se", sites="every block")):
        fused = bam.fuse(restless(model).eval())
        assert fused is not model and torch.equal(fused(IMAGE), model(IMAGE))
        assert list(fused.state_dict()) == list(model.state_dict())


def partly_training():
    model = resnet()
    model.layer2.attention.train()
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: resnet().train(), r"call model\.eval\(\) first"),
        (lambda: module().train(), r"call model\.eval\(\) first"),
        (partly_training, r"call model\.eval\(\) first"),
        (lambda: nn.DataParallel(resnet()), "wrapped in DataParallel"),
        (lambda: torch.compile(resnet()), "wrapped in OptimizedModule"),
    ],
)
def test_refusals_leave_the_model_alone(build, message):
    model = build()
    before = [(name, id(part), part.training) for name, part in model.named_modules()]
    with pytest.raises(ValueError, match=message):
        bam.fuse(model)
    assert [(name, id(part), part.training) for name, part in model.named_modules()] == before


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_of_fused_networks_compute_the_same(copied):
    fused = bam.fuse(resnet())
    torch.testing.assert_close(copied(fused, IMAGE)(IMAGE), fused(IMAGE))


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_export(suffix, tmp_path):
    if suffix == ".pt2":
        skip_before_torch("2.13", "an exported maximum pooling takes only odd, or only even, sizes")
    exported = export_model(bam.fuse(resnet()), tmp_path / f"net{suffix}", 64)
    assert all(check.relative < 1e-4 for check in exported.checks)


def test_parameters_keep_requiring_gradients_and_training_has_no_statistics():
    original, x = module(), torch.randn(2, 24, 6, 5)
    original.spatial.requires_grad_(False)
    fused = bam.fuse(original)
    assert all(p.requires_grad == name.startswith("channel") for name, p in fused.named_parameters())
    assert all(p.is_leaf for p in fused.parameters()) and not list(fused.buffers())
    expected = fused(x)
    torch.testing.assert_close(fused.train()(x), expected, rtol=0, atol=0)
    fused(x).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in fused.parameters())


def test_what_would_not_load_is_not_saved(tmp_path):
    model = resnet(reduction=8)
    bam.save_attention(model, tmp_path / "attention.safetensors")
    save_pretrained(model, tmp_path / "net", backbone="resnet18", mean=[0.5] * 3, std=[0.5] * 3, image_size=64)
    fused = bam.fuse(model)
    with pytest.raises(ValueError, match="is fused.*save the model that you passed to bam.fuse"):
        bam.save_attention(fused, tmp_path / "fused.safetensors")
    with pytest.raises(ValueError, match="not written: .*is fused.*save the model you passed"):
        save_pretrained(fused, tmp_path / "fused", backbone="resnet18", mean=[0.5] * 3, std=[0.5] * 3, image_size=64)
    assert {path.name for path in tmp_path.iterdir()} == {"attention.safetensors", "net"}
    with pytest.raises(ValueError, match=r"fit the BAM at 'layer1': they differ in .*channel\.norm"):
        bam.load_attention(fused, tmp_path / "attention.safetensors")


def spectral(original):
    parametrizations.spectral_norm(original.channel.reduce)
    return original.eval()


def hooked(original):
    original.channel.expand.register_forward_hook(lambda layer, inputs, output: 2 * output)
    return original


def shared(original):
    """Two layers that are one, before different BatchNorms."""
    original.spatial.context[3] = original.spatial.context[0]
    return original


def frozen(original):
    """Part of a backbone whose BatchNorms `freeze_backbone` holds."""
    return bam.freeze_backbone(nn.ModuleDict({"fc": nn.Linear(2, 2), "x": original}), trainable=["fc"]).x


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (spectral, ["channel.norm", "channel.closing"]),
        (hooked, ["channel.norm", "channel.closing"]),
        (shared, []),
        (nn.SyncBatchNorm.convert_sync_batchnorm, []),
        (frozen, []),
    ],
    ids=["parametrization", "hook", "shared", "sync", "frozen"],
)
@torch.no_grad()
def test_modules_that_were_changed(change, left):
    model, x = change(module()).eval(), torch.randn(2, 24, 6, 5)
    expected = model(x)
    fused = bam.fuse(model)
    assert norms(fused) == left
    assert_same(fused(x), expected)
