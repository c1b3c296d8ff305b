import copy

import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

import bam
from tests.conftest import restless
from tests.surgery.copies import COPIES

SITES = ["layer1", "layer2", "layer3"]


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return restless(get_model("resnet18", num_classes=10)).eval()


@pytest.fixture
def gated(plain):
    model = bam.attach(copy.deepcopy(plain))
    for attention in bam.attended(model).values():
        restless(attention)
    return model


IMAGE = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


def modules_and_ids(model):
    return [(name, id(module)) for name, module in model.named_modules()]


@pytest.mark.parametrize("training", [True, False])
def test_identity_keeps_the_output_bit_for_bit(plain, training):
    model = copy.deepcopy(plain).train(training)
    expected = model(IMAGE)
    model.load_state_dict(plain.state_dict())
    bam.attach(model, identity=True)
    assert list(bam.attended(model)) == SITES
    assert torch.equal(model(IMAGE), expected)


def test_plain_insertion_changes_the_output(plain, gated):
    assert (gated(IMAGE) - plain(IMAGE)).abs().max() > 0.1 * plain(IMAGE).abs().max()


def test_keys(plain, gated):
    before, after = list(plain.state_dict()), list(gated.state_dict())
    new = [key for key in after if key not in before]
    assert [key for key in after if key in before] == before
    assert {key.split(".attention.")[0] for key in new} == set(SITES) and all(".attention." in key for key in new)
    assert set(plain.state_dict()._metadata) <= set(gated.state_dict()._metadata)


def test_checkpoints_load_both_ways(plain, gated):
    fresh = bam.attach(get_model("resnet18", num_classes=10).eval(), identity=True)
    report = fresh.load_state_dict(plain.state_dict(), strict=False)
    assert not report.unexpected_keys and all(".attention." in key for key in report.missing_keys)
    assert torch.equal(fresh(IMAGE), plain(IMAGE))
    again = bam.attach(get_model("resnet18", num_classes=10)).eval()
    again.load_state_dict(gated.state_dict())
    assert torch.equal(again(IMAGE), gated(IMAGE))
    bare = get_model("resnet18", num_classes=10).eval()
    report = bare.load_state_dict(gated.state_dict(), strict=False)
    assert not report.missing_keys and all(".attention." in key for key in report.unexpected_keys)
    assert torch.equal(bare(IMAGE), plain(IMAGE))


def test_missing_backbone_keys_are_reported_by_their_own_names(gated):
    state = gated.state_dict()
    del state["layer1.0.conv1.weight"]
    assert gated.load_state_dict(state, strict=False).missing_keys == ["layer1.0.conv1.weight"]


def test_detach_gives_the_original_back(plain):
    model = copy.deepcopy(plain)
    before = modules_and_ids(model)
    assert bam.attach(model) is model and bam.detach(model) is model
    assert modules_and_ids(model) == before and not bam.attended(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert torch.equal(model(IMAGE), plain(IMAGE))


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_compute_the_same(gated, copied):
    expected = gated(IMAGE)
    torch.testing.assert_close(copied(gated, IMAGE)(IMAGE), expected)


def test_export_with_dynamic_sizes(gated):
    auto = torch.export.Dim.AUTO
    program = torch.export.export(gated, (IMAGE,), dynamic_shapes=({0: auto, 2: auto, 3: auto},)).module()
    other = torch.randn(3, 3, 80, 96)
    torch.testing.assert_close(program(other), gated(other))


def test_feature_extractor_sees_the_gated_map(plain, gated):
    seen = {}
    gated.layer1.register_forward_hook(lambda module, inputs, output: seen.update(gated=output))
    gated(IMAGE)
    gated.layer1._forward_hooks.clear()
    features = create_feature_extractor(gated, ["layer1"])(IMAGE)["layer1"]
    assert torch.equal(features, seen["gated"])
    assert not torch.allclose(features, create_feature_extractor(plain, ["layer1"])(IMAGE)["layer1"])


def test_dense_net_iterates_over_its_children(plain):
    model = bam.attach(get_model("densenet121"), image=64)
    assert list(bam.attended(model)) == [f"features.denseblock{k}" for k in (1, 2, 3)]
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_attributes_and_indexing_reach_the_base(gated, plain):
    assert gated.layer1[0] is next(iter(gated.layer1)) is gated.get_submodule("layer1.0")
    assert gated.layer1[1].conv1.out_channels == 64 and gated.layer1
    with pytest.raises(AttributeError, match="nothing"):
        _ = gated.layer1.nothing


def test_whoever_iterates_over_a_stage_runs_the_attention(gated, plain):
    x = torch.randn(2, 64, 8, 8)
    expected = gated.layer1(x)
    assert len(gated.layer1) == len(list(gated.layer1)) == 3
    for modules in (gated.layer1, [gated.layer1[k] for k in range(3)], gated.layer1[:]):
        y = x
        for module in modules:
            y = module(y)
        assert torch.equal(y, expected)


def test_timm_gradient_checkpointing_runs_the_attention():
    import timm

    model = timm.create_model("resnet18").eval()
    for attention in bam.attended(bam.attach(model)).values():
        restless(attention)
    image = torch.randn(2, 3, 64, 64, requires_grad=True)
    expected = model(image)
    model.set_grad_checkpointing(True)
    torch.testing.assert_close(model(image), expected)


def test_load_reports_leave_other_modules_named_base_alone():
    model = nn.Sequential()
    model.add_module("base", nn.Conv2d(3, 8, 3, padding=1))
    model.add_module("pool", nn.MaxPool2d(2))
    bam.attach(model, sites=["base"], image=8)
    assert set(bam.attended(model)) == {"base"}
    assert model.load_state_dict({}, strict=False).missing_keys[:2] == ["base.weight", "base.bias"]
    holder = nn.ModuleDict({"base": model})
    assert holder.load_state_dict({}, strict=False).missing_keys[:2] == ["base.base.weight", "base.base.bias"]


def test_distributed_state_dict_walks_the_names(gated):
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    assert set(get_model_state_dict(gated)) == set(gated.state_dict())


def test_nested_sites(plain):
    model = bam.attach(copy.deepcopy(plain), sites=["layer3.1", "layer3"])
    assert list(bam.attended(model)) == ["layer3", "layer3.1"]
    assert not [key for key in model.state_dict() if ".base." in key]
    bam.detach(model)
    assert modules_and_ids(model)[0][0] == "" and list(model.state_dict()) == list(plain.state_dict())


def test_own_attention_and_options(plain):
    class Double(nn.Module):
        def __init__(self, channels, factor=2.0):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            return self.factor * x

    model = bam.attach(copy.deepcopy(plain), Double, sites=["layer4"], factor=3.0)
    assert bam.attended(model)["layer4"].factor == 3.0
    features = create_feature_extractor(plain, ["layer4"])(IMAGE)["layer4"]
    assert torch.equal(model.layer4(plain_input(plain)), 3.0 * features)
    with pytest.raises(ValueError, match="unexpected keyword argument 'identity'"):
        bam.attach(copy.deepcopy(plain), Double, identity=True)


def plain_input(plain):
    return create_feature_extractor(plain, ["layer3"])(IMAGE)["layer3"]


def test_type_and_mode_follow_the_base(plain):
    model = bam.attach(copy.deepcopy(plain).to(torch.bfloat16).eval())
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: bam.attach(bam.attach(m)), "'layer1' already carries BAM"),
        (lambda m: bam.attach(m, sites=["layer9"]), "'layer9'; near: .*'layer4'"),
        (lambda m: bam.attach(m, sites=["layer1.0.relu"]), "called 2 times"),
        (lambda m: bam.attach(m, sites=["fc"]), r"shape \(1, 10\)"),
        (lambda m: bam.attach(m, "bim"), "unknown attention 'bim'; known: bam"),
        (lambda m: bam.attach(nn.DataParallel(m)), "DataParallel"),
        (lambda m: bam.attach(torch.compile(m)), "OptimizedModule"),
    ],
)
def test_errors_leave_the_model_alone(plain, call, message):
    model = copy.deepcopy(plain)
    with pytest.raises(ValueError, match=message):
        call(model)
    bam.detach(model)
    assert list(model.state_dict()) == list(plain.state_dict())


def test_distributed_data_parallel_is_refused(plain, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
        with pytest.raises(ValueError, match=r"DistributedDataParallel: attach to model\.module"):
            bam.attach(wrapped)
    finally:
        torch.distributed.destroy_process_group()


def test_a_part_named_attention_is_not_overwritten():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.attention(x)

    model = nn.Sequential(Block(), nn.MaxPool2d(2))
    with pytest.raises(ValueError, match="'0.attention' would collide"):
        bam.attach(model, sites=["0"], image=8)


def test_more_attention_inside_of_an_attended_module(plain):
    model = bam.attach(copy.deepcopy(plain), sites=["layer1"])
    bam.attach(model, sites=["layer1.1", "layer2"])
    assert list(bam.attended(model)) == ["layer1", "layer1.1", "layer2"]
    with pytest.raises(ValueError, match="no module 'layer1.7'; near: 'layer1'"):
        bam.attach(model, sites=["layer1.7"])
    assert not [key for key in model.state_dict() if ".base." in key]


def test_settings_of_a_stage_reach_it():
    import timm

    model = bam.attach(timm.create_model("convnext_atto"))
    model.set_grad_checkpointing(True)  # sets an attribute of each stage
    assert all(stage.grad_checkpointing for stage in model.stages)
    assert len(bam.attended(model)) == 3


def test_items_of_a_stage_can_be_replaced(gated):
    block = gated.layer2[0]
    gated.layer1[0] = nn.Identity()
    assert isinstance(gated.get_submodule("layer1.0"), nn.Identity) and gated.layer2[0] is block
    with pytest.raises(IndexError, match="its attention: remove it with bam.detach"):
        gated.layer1[-1] = nn.Identity()


def test_attention_that_fails_leaves_the_model_as_it_was(plain):
    model = copy.deepcopy(plain)
    before = modules_and_ids(model)
    with pytest.raises(ValueError):
        bam.attach(model, lambda channels: nn.Conv2d(channels, channels + 1, 1), sites="layer1")
    assert modules_and_ids(model) == before and torch.equal(model(IMAGE), plain(IMAGE))
    with pytest.raises(ValueError, match="expected a name or a callable"):
        bam.attach(model, None)


def test_what_builds_no_module_is_reported_and_leaves_the_model_alone(plain):
    model = copy.deepcopy(plain)
    for build in (lambda channels: nn.Identity() if channels == 64 else None, bam.BAM(64)):
        with pytest.raises(ValueError, match="attention: .*NoneType|attention: .*got a BAM"):
            bam.attach(model, build)
    assert not bam.attended(model)


def test_a_network_with_versions_in_its_state_loads_it_again():
    model = nn.Sequential(get_model("mnasnet0_5"))
    bam.attach(model, sites="0.layers.8", image=64)
    model.load_state_dict(model.state_dict())


def test_names_are_those_of_the_plain_network(plain, gated):
    named, before = dict(gated.named_parameters()), dict(plain.named_parameters())
    assert set(before) == {name for name in named if ".attention." not in name}
    assert all(named[name] is gated.get_parameter(name) for name in named)
    assert {name for name, _ in plain.named_modules()} <= {name for name, _ in gated.named_modules()}
    for name, module in gated.named_modules():
        assert gated.get_submodule(name) is module
    output = torch.func.functional_call(gated, {name: torch.zeros_like(p) for name, p in named.items()}, IMAGE)
    assert not output.any() and gated(IMAGE).any()


@pytest.mark.parametrize("copied", [torch.fx.symbolic_trace, lambda m: create_feature_extractor(m, ["features"])])
def test_attention_after_a_single_layer_runs_once_in_traces(copied):
    """Such layers are leaves of a trace and are called by their names."""
    model = bam.attach(get_model("vgg11").eval(), image=64)  # after its ReLUs
    for module in bam.attended(model).values():
        restless(module)
    twin = copied(model)
    output = twin(IMAGE)
    expected = model.features(IMAGE) if isinstance(output, dict) else model(IMAGE)
    assert torch.equal(output["features"] if isinstance(output, dict) else output, expected)
