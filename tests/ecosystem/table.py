"""What others do with a network, each as a function of a `Case`: it checks numbers, or that a refusal says why.

`python -m tests.ecosystem.table docs/coverage.md` tries all of them and writes the table there.
"""

import copy
import io
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import accelerate
import peft
import timm.layers
import timm.utils
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel
from torchvision.models.feature_extraction import create_feature_extractor

import bam
from bam.models import build
from tests.attention.gate import Gate
from tests.conftest import restless

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PLACES = {
    "container": ["layer1", "layer2"],
    "block": ["layer1.0", "layer2.0"],
    "layer": ["layer1.0.bn2", "layer3.0.bn2"],
    "before": ["before layer2", "before layer3.0"],
}
ATTENTION = {"bam": "bam", "se": "se", "own": Gate}


@dataclass
class Case:
    """A network in eval mode without and with attention, both with the same weights, none of them neutral."""

    place: str
    attention: str

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.plain = restless(build("cifar/resnet8", 10)).eval()
        self.model = self.attach(copy.deepcopy(self.plain))
        self.layer = "layer1.0.bn2" if self.place == "layer" else "layer1.0.conv1"  #: a layer that others change

    def attach(self, network: nn.Module) -> nn.Module:
        torch.manual_seed(1)
        model = bam.attach(network, ATTENTION[self.attention], sites=PLACES[self.place], image=16)
        for module in bam.attended(model).values():
            restless(module)
        return model.eval()

    @property
    def expected(self) -> torch.Tensor:
        with torch.no_grad():
            return self.model(IMAGES)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def check_attention(model: nn.Module) -> None:
    """Both attention modules run once."""
    runs: list[int] = []
    modules = [module.attention for module in model.modules() if isinstance(module, bam.attention.attended.Attended)]
    assert len(modules) == 2
    handles = [module.register_forward_pre_hook(lambda *_, k=k: runs.append(k)) for k, module in enumerate(modules)]
    model(IMAGES)
    for handle in handles:
        handle.remove()
    assert runs == [0, 1]


def loss(model: nn.Module) -> torch.Tensor:
    return nn.functional.cross_entropy(model(IMAGES), torch.arange(4))


def check_gradients(model: nn.Module, twin: nn.Module) -> None:
    """The two get the same gradients in training, in all parameters."""
    for network in (model, twin):
        loss(network.train()).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        close(ours.grad, theirs.grad)


def deepcopy(case: Case) -> None:
    twin = copy.deepcopy(case.model)
    assert torch.equal(twin(IMAGES), case.expected)
    check_attention(twin)


def pickled(case: Case) -> None:
    twin = pickle.loads(pickle.dumps(case.model))
    assert torch.equal(twin(IMAGES), case.expected)
    check_attention(twin)


def saved_whole(case: Case) -> None:
    file = io.BytesIO()
    torch.save(case.model, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    assert torch.equal(twin(IMAGES), case.expected)


def names(case: Case) -> None:
    tensors = dict(case.model.named_parameters()) | dict(case.model.named_buffers())
    assert tensors.keys() == case.model.state_dict().keys()
    for name, module in case.plain.named_modules():
        assert isinstance(case.model.get_submodule(name), type(module))
    assert [name for name in tensors if ".attention." not in name] == [
        *dict(case.plain.named_parameters()), *dict(case.plain.named_buffers())
    ]  # fmt: skip


def functional_call(case: Case) -> None:
    assert torch.equal(torch.func.functional_call(case.model, dict(case.model.state_dict()), IMAGES), case.expected)


def averages_by_name(case: Case) -> None:
    average = {name: torch.zeros_like(p) for name, p in case.model.named_parameters()}
    assert not case.model.load_state_dict(average, strict=False).unexpected_keys
    assert not any(p.any() for p in case.model.parameters())


def averaged_model(case: Case) -> None:
    average = AveragedModel(case.model, use_buffers=True)
    average.update_parameters(case.model)
    assert torch.equal(average.eval()(IMAGES), case.expected)
    check_attention(average.module)


def pruning(case: Case) -> None:
    expected, layer = case.expected, case.model.get_submodule(case.layer)
    prune.l1_unstructured(layer, "weight", 0.5)
    assert not torch.equal(case.model(IMAGES), expected)
    check_attention(case.model)
    prune.remove(layer, "weight")
    assert (layer.weight == 0).float().mean() >= 0.4


def parametrizations_(case: Case) -> None:
    expected, layer = case.expected, case.model.get_submodule(case.layer)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    assert torch.equal(case.model(IMAGES), expected)
    check_attention(case.model)
    parametrize.remove_parametrizations(layer, "weight")
    check_attention(case.model)
    bam.detach(case.model)


def weight_norm(case: Case) -> None:
    expected = case.expected
    parametrizations.weight_norm(case.model.get_submodule("layer1.0.conv2"))
    parametrizations.spectral_norm(case.model.get_submodule("layer2.0.conv2"))
    assert not torch.equal(case.model(IMAGES), expected)
    check_attention(case.model)


def norms_inside_attention(case: Case) -> None:
    """Every layer of the attention that has a weight matrix gets a spectral norm: it must be called."""
    layers = [m for a in bam.attended(case.model).values() for m in a.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    expected = case.expected
    for layer in layers:
        parametrizations.spectral_norm(layer)
    assert torch.equal(case.model(IMAGES), expected) == (case.attention == "own")


def synchronised_norms(case: Case) -> None:
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(case.model))
    close(converted(IMAGES), case.expected)
    check_attention(converted)
    check_gradients(converted, case.model)


def norms_for_functorch(case: Case) -> None:
    plain, model = (torch.func.replace_all_batch_norm_modules_(network) for network in (case.plain, case.model))
    with bam.without_attention(model):
        assert torch.equal(plain(IMAGES), model(IMAGES))
    for training in (True, False):
        check_attention(model.train(training))
        loss(model).backward()
    parameters = dict(model.named_parameters())
    call = lambda p, image: torch.func.functional_call(model, p, image[None]).square().sum()  # noqa: E731
    each = torch.func.vmap(torch.func.grad(call), (None, 0))(parameters, IMAGES)
    assert all(torch.isfinite(gradient).all() for gradient in each.values())


def fixed_statistics(case: Case) -> None:
    """No BatchNorm tracks statistics: those of the attention do not, either."""
    for module in case.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
    before = {name: buffer.clone() for name, buffer in case.model.named_buffers()}
    loss(case.model.train()).backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in case.model.named_buffers())


def test_time_statistics(case: Case) -> None:
    """TENT: BatchNorms forget their statistics, and their affine parameters learn at test time."""
    model = case.model.train().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    probabilities = model(IMAGES).softmax(1)
    (-probabilities * probabilities.log()).sum(1).mean().backward()
    optimizer.step()
    assert all(torch.isfinite(p.grad).all() for p in parameters)
    check_attention(model)


def groups(module: nn.Module) -> nn.Module:
    """The usual way to replace BatchNorms."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(1, child.num_features))
        else:
            groups(child)
    return module


def group_norms(case: Case) -> None:
    model = groups(case.model)
    left = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(".bn2.attention." in name for name in left)  # inside of a norm that was replaced as a whole
    check_attention(model)
    loss(model.train()).backward()


def plain_norms(case: Case) -> None:
    """BatchNorms of torch itself instead of all others, as tools put them there that take back SyncBatchNorms."""
    expected, twin = case.expected, copy.deepcopy(case.model)
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                norm = nn.BatchNorm2d(child.num_features).eval()
                norm.load_state_dict({key: v for key, v in child.state_dict().items() if "attention" not in key})
                setattr(parent, name, norm)
    close(twin(IMAGES), expected)
    check_attention(twin)
    check_gradients(twin, case.model)


def timm_freeze(case: Case) -> None:
    expected = case.expected
    names = ["conv1", "bn1", "layer1", "layer2", "layer3"]
    for network in (case.model, case.plain):
        timm.utils.freeze(network, names)
    frozen = {name for name, p in case.model.named_parameters() if not p.requires_grad}
    assert {name for name, p in case.plain.named_parameters() if not p.requires_grad} <= frozen
    close(case.model(IMAGES), expected)
    close(case.model.train()(IMAGES), expected)
    check_attention(case.model)
    timm.utils.unfreeze(case.model, names)  # its new norms are in training mode
    close(case.model.eval()(IMAGES), expected)
    check_attention(case.model)


def cpu_offload(case: Case) -> None:
    offloaded = accelerate.cpu_offload(copy.deepcopy(case.model), execution_device="cpu")
    close(offloaded(IMAGES), case.expected)
    check_attention(offloaded)


def disk_offload(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        offloaded = accelerate.disk_offload(copy.deepcopy(case.model), folder, execution_device="cpu")
        close(offloaded(IMAGES), case.expected)


def load_and_dispatch(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        accelerate.Accelerator(cpu=True).save_model(case.model, folder)
        with accelerate.init_empty_weights():
            empty = case.attach(build("cifar/resnet8", 10))
        device_map = {name: "cpu" for name, _ in empty.named_children()}
        loaded = accelerate.load_checkpoint_and_dispatch(empty, folder, device_map)
    close(loaded.eval()(IMAGES), case.expected)


def attached_later(case: Case) -> str:
    offloaded = accelerate.cpu_offload(case.plain, execution_device="cpu")
    return refusal(lambda: bam.attach(offloaded, ATTENTION[case.attention], sites=PLACES[case.place], image=16))


def lora(case: Case) -> None:
    layers = {name for name, m in case.model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    layers = {name for name in layers if not name.endswith(("context.0", "context.3"))}  # PEFT knows no dilation
    model = peft.get_peft_model(copy.deepcopy(case.model), peft.LoraConfig(r=2, target_modules=list(layers)))
    close(model(IMAGES), case.expected)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    adapted = model(IMAGES)
    assert not torch.allclose(adapted, case.expected, atol=1e-3)
    merged = model.merge_and_unload()
    close(merged(IMAGES), adapted)
    check_attention(merged)


def modules_to_save(case: Case) -> None:
    config = peft.LoraConfig(r=2, target_modules=["conv1"], modules_to_save=["attention"])
    model = peft.get_peft_model(copy.deepcopy(case.model), config)
    close(model(IMAGES), case.expected)
    learning = [p for name, p in model.named_parameters() if "attention" in name and p.requires_grad]
    assert learning
    for parameter in learning:
        nn.init.normal_(parameter)
    adapted = model.eval()(IMAGES)
    assert not torch.allclose(adapted, case.expected, atol=1e-3)
    close(model.merge_and_unload()(IMAGES), adapted)


def process_group(check: Callable[[Case], None]) -> Callable[[Case], None]:
    """Run `check` in a process group of one."""

    def checked(case: Case) -> None:
        with tempfile.TemporaryDirectory() as folder:
            torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
            try:
                check(case)
            finally:
                torch.distributed.destroy_process_group()

    checked.__name__ = check.__name__
    return checked


@process_group
def fully_sharded(case: Case) -> None:
    twin = copy.deepcopy(case.model)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    for name in ("layer1", "layer2", "layer3"):
        fully_shard(twin.get_submodule(name), mesh=mesh)
    fully_shard(twin, mesh=mesh)
    close(twin(IMAGES), case.expected)
    check_attention(twin)
    loss(twin.train()).backward()
    loss(case.model.train()).backward()
    for ours, theirs in zip(twin.parameters(), case.model.parameters(), strict=True):
        close(ours.grad.full_tensor(), theirs.grad)


@process_group
def data_parallel(case: Case) -> None:
    twin = copy.deepcopy(case.model)
    check_gradients(nn.parallel.DistributedDataParallel(twin), case.model)
    check_attention(twin)


def distributed_checkpoint(case: Case) -> None:
    state = get_model_state_dict(case.model)
    assert state.keys() == case.model.state_dict().keys()
    twin = case.attach(restless(build("cifar/resnet8", 10)).eval())
    set_model_state_dict(twin, state)
    assert torch.equal(twin(IMAGES), case.expected)


def activation_checkpointing(case: Case) -> None:
    twin = copy.deepcopy(case.model)
    carriers = [m for m in twin.modules() if isinstance(m, bam.attention.attended.Attended)]
    apply_activation_checkpointing(twin, check_fn=lambda module: module in carriers)
    check_gradients(twin, case.model)


def compiled(case: Case) -> None:
    torch.compiler.reset()
    model = torch.compile(copy.deepcopy(case.model), fullgraph=True, backend="eager", dynamic=True)
    close(model(IMAGES), case.expected)
    close(model(IMAGES[:3, :, :, :12]), case.model(IMAGES[:3, :, :, :12]))


def exported(case: Case) -> None:
    auto = torch.export.Dim.AUTO
    program = torch.export.export(case.model, (IMAGES,), dynamic_shapes=({0: auto, 2: auto, 3: auto},)).module()
    close(program(IMAGES[:3, :, :, :12]), case.model(IMAGES[:3, :, :, :12]))


def fx(case: Case) -> None:
    assert torch.equal(torch.fx.symbolic_trace(case.model)(IMAGES), case.expected)


def traced(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and tells of the sizes it fixes
        program = torch.jit.trace(case.model, IMAGES)
    close(program(IMAGES), case.expected)


def scripted(case: Case) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return refusal(lambda: torch.jit.script(case.model))


def quantised(case: Case) -> None:
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao's quantisation is deprecated
        prepared = quantize_fx.prepare_fx(copy.deepcopy(case.model), get_default_qconfig_mapping("x86"), (IMAGES,))
        close(prepared(IMAGES), case.expected)
        output = quantize_fx.convert_fx(prepared)(IMAGES)
    error = (output - case.expected).norm() / case.expected.norm()
    assert error < 0.2, f"relative error {error:.2f}"


def feature_extractor(case: Case) -> None:
    seen = {}
    handle = case.model.layer2.register_forward_hook(lambda *args: seen.update(layer2=args[-1]))
    case.model(IMAGES)
    handle.remove()
    maps = create_feature_extractor(case.model, ["layer2"])(IMAGES)
    assert torch.equal(maps["layer2"], seen["layer2"])


def replaced_child(case: Case) -> None:
    """A convolution inside of a site is replaced by an equal one."""
    expected = case.expected
    case.model.layer1[0].conv1 = copy.deepcopy(case.model.layer1[0].conv1)
    assert torch.equal(case.model(IMAGES), expected)
    case.model.layer1[0].conv1 = nn.Identity()
    check_attention(case.model)


def applied(case: Case) -> None:
    seen = []
    case.model.apply(seen.append)
    assert seen[-1] is case.model and set(bam.attended(case.model).values()) <= set(seen)
    case.model.to(torch.float64)
    assert {p.dtype for p in case.model.parameters()} == {torch.float64}


def optimizer_before(case: Case) -> None:
    optimizer = torch.optim.SGD(case.plain.parameters(), lr=0.1, momentum=0.9)
    model = case.attach(case.plain)
    bam.extend_optimizer(optimizer, model)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}


def optimizer_after(case: Case) -> None:
    optimizer = torch.optim.AdamW(case.model.parameters())
    loss(case.model.train()).backward()
    optimizer.step()
    assert len(optimizer.state) == len(list(case.model.parameters()))


def norms_replaced_by_name(case: Case) -> None:
    """As Opacus' `ModuleValidator.fix` does; 12 of 12 passed with Opacus 1.6 itself, which is too much to install."""
    for name, module in list(case.model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent = case.model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.GroupNorm(1, module.num_features))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in case.model.modules())
    check_attention(case.model)


def refusal(call: Callable[[], object]) -> str:
    """The sentence with which a call is refused."""
    try:
        call()
    except (ValueError, RuntimeError) as error:
        return str(error)
    raise AssertionError("not refused")


ROWS: dict[str, Callable[[Case], str | None]] = {
    "`copy.deepcopy`": deepcopy,
    "pickle": pickled,
    "`torch.save` of the whole network": saved_whole,
    "names of modules, parameters, keys": names,
    "`torch.func.functional_call`": functional_call,
    "moving averages by name": averages_by_name,
    "`AveragedModel`": averaged_model,
    "`prune` at the site": pruning,
    "`parametrize` at the site": parametrizations_,
    "`weight_norm`, `spectral_norm`": weight_norm,
    "`spectral_norm` inside the attention": norms_inside_attention,
    "`convert_sync_batchnorm`": synchronised_norms,
    "`replace_all_batch_norm_modules_`, gradients of each image": norms_for_functorch,
    "`track_running_stats = False`": fixed_statistics,
    "TENT": test_time_statistics,
    "BatchNorms to GroupNorms by hand": group_norms,
    "back to torch's own BatchNorms": plain_norms,
    "BatchNorms to GroupNorms by name (Opacus)": norms_replaced_by_name,
    "timm's `freeze` and `unfreeze`": timm_freeze,
    "Accelerate's `cpu_offload`": cpu_offload,
    "Accelerate's `disk_offload`": disk_offload,
    "Accelerate's `load_checkpoint_and_dispatch`": load_and_dispatch,
    "attaching after `cpu_offload`": attached_later,
    "PEFT: LoRA in all layers, merged": lora,
    "PEFT: `modules_to_save`": modules_to_save,
    "FSDP2's `fully_shard`": fully_sharded,
    "`DistributedDataParallel`": data_parallel,
    "distributed checkpoints": distributed_checkpoint,
    "activation checkpointing": activation_checkpointing,
    "`torch.compile`, whole graph, any size": compiled,
    "`torch.export`, any size": exported,
    "`torch.fx`": fx,
    "`torch.jit.trace`": traced,
    "`torch.jit.script`": scripted,
    "quantisation by fx": quantised,
    "torchvision's `create_feature_extractor`": feature_extractor,
    "another layer inside of the site": replaced_child,
    "`apply`, `to`": applied,
    "an optimizer built before": optimizer_before,
    "an optimizer built after": optimizer_after,
}


def outcomes() -> dict[str, dict[str, str]]:
    """Row -> place -> "pass", or the sentence of a refusal; each for all attention modules."""
    table: dict[str, dict[str, str]] = {}
    for name, row in ROWS.items():
        for place in PLACES:
            said = {row(Case(place, attention)) or "pass" for attention in ATTENTION}
            table.setdefault(name, {})[place] = " / ".join(sorted(said))
    return table


HEADING = "## What other tools do with an attended network"


def section(table: dict[str, dict[str, str]]) -> str:
    """The table for docs/coverage.md."""
    notes: list[str] = []
    lines = [HEADING, "", f"| | {' | '.join(PLACES)} |", "|---" * (1 + len(PLACES)) + "|"]
    for name, cells in table.items():
        texts = []
        for text in cells.values():
            if text != "pass":
                notes += [text] if text not in notes else []
                text = f"refused ({notes.index(text) + 1})"
            texts.append(text)
        lines.append(f"| {name} | {' | '.join(texts)} |")
    about = (
        "Written by `python -m tests.ecosystem.table docs/coverage.md`: a ResNet-8 with BAM, SE and a module of a "
        "user's own at each kind of site (a stage, a block, a layer, before a module); each cell is all three. "
        "`tests/ecosystem/table.py` says what is checked."
    )
    numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join([*lines[:1], "", about, *lines[1:], "", *numbered]) + "\n"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(page.read_text().partition(HEADING)[0].rstrip() + "\n\n" + section(outcomes()))
