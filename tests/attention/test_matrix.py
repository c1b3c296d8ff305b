"""What every module in ATTENTION must survive: the matrix runs over the whole table, and over more forms of BAM."""

import copy
import inspect
import pickle
from functools import partial

import onnxruntime
import pytest
import torch
from torch.export import Dim, export

import bam
from bam import BAM
from bam.export import export_model
from bam.models import build
from tests.conftest import restless, skip_before_torch

ATTENTION = dict(bam.ATTENTION)
ATTENTION |= {"bam, recomputing": partial(BAM, recompute=True)}
pytestmark = pytest.mark.parametrize("name", list(ATTENTION))

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize(
    "size", [(2, 64, 8, 8), (1, 64, 1, 1), (1, 64, 5, 9), (2, 1, 4, 3), (2, 2, 4, 3), (2, 3, 4, 4), (0, 8, 4, 4)]
)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_any_size_and_batch(name, size, training, memory_format):
    module = ATTENTION[name](size[1]).train(training)
    x = torch.randn(size).to(memory_format=memory_format).requires_grad_()
    y = module(x)
    y.sum().backward()
    assert y.shape == x.shape and y.dtype == x.dtype
    assert y.is_contiguous(memory_format=memory_format) or y.numel() == 0
    assert torch.isfinite(y).all() and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_the_type_and_the_value(name, memory_format, dtype):
    module = restless(ATTENTION[name](32)).eval()
    x = torch.randn(2, 32, 6, 7, dtype=dtype).to(memory_format=memory_format)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == dtype and y.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(y.float(), module(x.float()), rtol=0.03, atol=0.03)


def test_layouts_agree(name):
    module = restless(ATTENTION[name](32)).eval()
    x = torch.randn(2, 32, 6, 7)
    torch.testing.assert_close(module(x), module(x.to(memory_format=torch.channels_last)))


def traits(name):
    build = ATTENTION[name]
    return getattr(build, "func", build)


def test_gains(name):
    module, x = restless(ATTENTION[name](16)).eval(), torch.randn(2, 16, 4, 5)
    x[:, :, 1, 2] = 0
    gain = module.maps(x).gain
    assert gain.shape == (2, 4, 5) and gain.dtype == torch.float32 and not gain.requires_grad
    expected = module(x).norm(dim=1) / x.norm(dim=1) - 1
    torch.testing.assert_close(gain, expected.nan_to_num(0.0, posinf=0.0), rtol=1e-4, atol=1e-4)
    if traits(name).is_pointwise:
        assert not module(x)[:, :, 1, 2].any()


@torch.no_grad()
def test_a_branch_left_out_leaves_the_map_of_the_others(name):
    module, x = restless(ATTENTION[name](16)).eval(), torch.randn(2, 16, 4, 5)
    if not module.logit_branches():
        pytest.skip("it has no two branches")
    maps = module.maps(x)
    for branch, part in module.logit_branches().items():
        neutral = part.neutral
        handle = part.module.register_forward_hook(lambda _, x, y, neutral=neutral: torch.full_like(y, neutral))
        alone = module.maps(x)
        handle.remove()
        logits = {"channel": alone.spatial_logits, "spatial": alone.channel_logits}[branch]
        assert torch.allclose(alone.combined, logits.sigmoid().expand_as(alone.combined))
    assert torch.equal(module.maps(x).combined, maps.combined)


def test_identity_and_constancy_are_read_from_the_weights(name):
    module = restless(ATTENTION[name](16)).eval()
    assert not module.is_identity() and not module.is_constant() and not module.is_fused
    if traits(name).starts_as_identity:
        assert ATTENTION[name](16, identity=True).is_identity()


def test_nan_stays(name):
    if not traits(name).keeps_nan:
        pytest.skip("its class says that it may swallow NaN")
    x = torch.randn(2, 16, 4, 4)
    x[0, 3, 1, 1] = torch.nan
    assert ATTENTION[name](16).eval()(x)[0, 3, 1, 1].isnan()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_identity(name, training, memory_format):
    if not traits(name).starts_as_identity:
        pytest.skip("its class says that it cannot start as the identity")
    module = restless(ATTENTION[name](128, identity=True)).train(training)  # of 8 hidden units one is alive
    x = torch.randn(2, 128, 5, 6).to(memory_format=memory_format)
    y = module(x)
    assert torch.equal(y, x)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        (module(x) * torch.randn_like(x)).sum().backward()
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())
        optimizer.step()
    assert all(p.grad.abs().max() > 0 for n, p in module.named_parameters() if n.endswith("weight"))
    assert not torch.equal(module(x), x)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(2, 16, 4, 4, dtype=torch.int32), TypeError, "int32"),
        (torch.zeros(16, 4, 4), ValueError, r"\(16, 4, 4\)"),
        (torch.zeros(2, 8, 4, 4), ValueError, r"\(N, 16, H, W\).*\(2, 8, 4, 4\)"),
    ],
)
def test_bad_input_is_reported(name, x, error, message):
    with pytest.raises(error, match=message):
        ATTENTION[name](16)(x)


def test_copies(name):
    module = restless(ATTENTION[name](16)).eval()
    x = torch.randn(2, 16, 5, 5)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.fx.symbolic_trace(module)):
        assert torch.equal(twin(x), module(x))


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_compile(name, training, memory_format):
    torch._dynamo.reset()  # its limit on compilations is for all modules of a class together
    module = restless(ATTENTION[name](16)).train(training)
    twin = torch.compile(copy.deepcopy(module), fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 16, 6, 7), (3, 16, 9, 5)):
        x = torch.randn(size).to(memory_format=memory_format).requires_grad_()
        z = x.detach().clone().requires_grad_()
        module(x).square().sum().backward()
        twin(z).square().sum().backward()
        torch.testing.assert_close(z.grad, x.grad)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_export_dynamic(name, memory_format):
    if name == "residual_attention":
        skip_before_torch("2.13", "an exported maximum pooling takes only odd, or only even, sizes")
    module = restless(ATTENTION[name](16)).eval()
    x = torch.randn(2, 16, 6, 7).to(memory_format=memory_format)
    least = 3 if name == "residual_attention" else None  # torch guards against a pooled map of one place
    height, width = (Dim(side, min=least) for side in "hw")
    program = export(module, (x,), dynamic_shapes=({0: Dim("n"), 2: height, 3: width},)).module()
    other = torch.randn(5, 16, 11, 4)
    torch.testing.assert_close(program(other), module(other))


def test_per_sample_gradients(name):
    if name == "deformable":
        pytest.skip("torchvision's operator has no transforms of torch.func")
    if name == "spatial_transformer":
        skip_before_torch("2.12", "torch.func cannot differentiate grid_sample under vmap")
    module = restless(ATTENTION[name](8)).eval().double()
    x = torch.randn(3, 8, 4, 5, dtype=torch.float64)
    parameters = dict(module.named_parameters())

    def loss(parameters, image):
        return torch.func.functional_call(module, parameters, image[None]).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for k in range(3):
        one = torch.func.grad(loss)(parameters, x[k])
        for key, value in one.items():
            torch.testing.assert_close(each[key][k], value)


def test_sync_batch_norm_and_deterministic_algorithms(name):
    module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(restless(ATTENTION[name](16)))
    kinds = [type(m) for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert set(kinds) <= {torch.nn.SyncBatchNorm}
    module.eval()(torch.randn(2, 16, 4, 4))
    torch.use_deterministic_algorithms(True)
    try:
        ATTENTION[name](16)(torch.randn(2, 16, 4, 4, requires_grad=True)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def plain():
    return restless(build("cifar/resnet8")).eval()


IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_attached_and_detached_a_network_is_what_it_was(name, plain):
    model = bam.attach(copy.deepcopy(plain), ATTENTION[name])
    sites = bam.select_sites(plain, traits(name).usual_sites)
    assert list(bam.attended(model)) == [site.label for site in sites]
    assert plain.state_dict().keys() == {key for key in model.state_dict() if ".attention." not in key}
    for parameter in [p for module in bam.attended(model).values() for p in module.parameters()]:
        parameter.data += 0.1 * torch.randn_like(parameter)  # some start as the network's own layer, or as no change
    assert not torch.equal(model(IMAGE), plain(IMAGE))
    bam.detach(model)
    assert model.state_dict().keys() == plain.state_dict().keys() and torch.equal(model(IMAGE), plain(IMAGE))


def test_at_the_bottlenecks_as_the_identity(name, plain):
    if not traits(name).starts_as_identity:
        pytest.skip("its class says that it cannot start as the identity")
    model = bam.attach(copy.deepcopy(plain), ATTENTION[name], sites="bottlenecks", identity=True)
    assert list(bam.attended(model)) == ["layer1", "layer2"] and torch.equal(model(IMAGE), plain(IMAGE))


def test_an_adapter_gives_it_back_where_it_was(name, plain, tmp_path):
    if name not in bam.ATTENTION:
        pytest.skip("its options are not known")
    model = bam.attach(copy.deepcopy(plain), name, sites="bottlenecks")
    for module in bam.attended(model).values():
        restless(module)
    bam.save_attention(model, tmp_path / "it.safetensors")
    again = bam.load_attention(copy.deepcopy(plain), tmp_path / "it.safetensors")
    assert list(bam.attended(again)) == ["layer1", "layer2"] and torch.equal(again(IMAGE), model(IMAGE))


def test_fused_it_says_the_same(name, plain):
    model = restless(bam.attach(copy.deepcopy(plain), ATTENTION[name])).eval()
    torch.testing.assert_close(bam.fuse(model)(IMAGE), model(IMAGE), rtol=1e-4, atol=1e-4)


def test_costs_are_counted(name):
    module = ATTENTION[name](16)
    counted = bam.cost(module, (16, 8, 8))
    assert counted.params == sum(p.numel() for p in module.parameters())
    assert counted.macs >= sum(p.numel() for n, p in module.named_parameters() if n.endswith("weight") and p.dim() > 1)


@pytest.mark.slow
def test_onnx(name, plain, tmp_path):
    if name not in bam.ATTENTION:
        pytest.skip("the same layers are exported under its name")
    model = restless(bam.attach(copy.deepcopy(plain), name, sites="layer2")).eval()
    path = export_model(model, tmp_path / "net.onnx", 32).path
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: IMAGE[:1].numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(IMAGE[:1]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("option", ["channels", "reduction"])
def test_counts_below_one_are_refused(name, option):
    cls = next(c for c in traits(name).__mro__ if "options" not in inspect.signature(c).parameters)
    if option not in inspect.signature(cls).parameters:
        pytest.skip("it has no such option")
    with pytest.raises(ValueError, match=f"{option} must be"):
        ATTENTION[name](**{"channels": 8, option: 0})
