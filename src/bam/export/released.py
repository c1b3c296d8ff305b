"""Load published BAM weights into torchvision's ResNets with this package's BAM."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bam.export.config import IMAGENET, NetworkConfig, set_config, sites_of
from bam.surgery import attach
from bam.tensors import check_fit, listed, read_pickle, read_safetensors

SITES = ("layer1", "layer2", "layer3")

#: Part of our BAM -> (its name in the released code's `bam1` to `bam3`, its name in pytorchcv's `bam`).
PARTS = {
    "channel.reduce": ("channel_att.gate_c.gate_c_fc_0", "ch_att.init_fc.fc"),
    "channel.norm": ("channel_att.gate_c.gate_c_bn_1", "ch_att.init_fc.bn"),
    "channel.expand": ("channel_att.gate_c.gate_c_fc_final", "ch_att.final_fc"),
    "spatial.reduce": ("spatial_att.gate_s.gate_s_conv_reduce0", "sp_att.init_conv.conv"),
    "spatial.norm": ("spatial_att.gate_s.gate_s_bn_reduce0", "sp_att.init_conv.bn"),
    "spatial.context.0": ("spatial_att.gate_s.gate_s_conv_di_0", "sp_att.dil_convs.conv1.conv"),
    "spatial.context.1": ("spatial_att.gate_s.gate_s_bn_di_0", "sp_att.dil_convs.conv1.bn"),
    "spatial.context.3": ("spatial_att.gate_s.gate_s_conv_di_1", "sp_att.dil_convs.conv2.conv"),
    "spatial.context.4": ("spatial_att.gate_s.gate_s_bn_di_1", "sp_att.dil_convs.conv2.bn"),
    "spatial.project": ("spatial_att.gate_s.gate_s_conv_final", "sp_att.final_conv"),
}

#: (Number of blocks per stage, whether they are bottleneck blocks) -> depth of the ResNet.
DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}


def load_released(path: Path | str) -> nn.Module:
    """Load a ResNet with BAM from a file by the authors, PytorchInsight or pytorchcv; in eval mode, on the CPU.

    The network is torchvision's with `bam.attach(model, combine="product", layout="released", sites=[layer1, layer2,
    layer3])`; its parameters are float32. The tensors determine its depth (18, 34, 50, 101, 152) and number of classes;
    with a 3 x 3 stem it is the authors' CIFAR network. It takes images (N, 3, H, W): for ImageNet the central
    224 x 224 pixels after resizing the shorter side to 256, RGB on the scale 0 to 1, normalised with ImageNet's mean
    and deviation. `bam.export.preprocessing(model)` does this, following `model.bam_config`.

    Files trained on ImageNet, with the top-1 / top-5 accuracy (%) their publishers report (not measured here):
        ResNet-50, https://github.com/Jongchan/attention-module (README, the authors): 76.860 / 93.416
        ResNet-50 and 101, https://github.com/implus/PytorchInsight (README): 76.898 / 93.402 and 78.218 / 94.018
        ResNet-50, https://github.com/osmr/pytorchcv (bam_resnet50): 79.09 / 94.53 (reported as errors, 20.91 / 5.47)

    Args:
        path: a file written by `torch.save` (a state dict, or a training checkpoint with one under "state_dict", with
            or without the prefix "module."), or a .safetensors file. Only tensors are read; nothing is executed.

    Raises:
        ValueError: if the file is damaged, needs to execute code, or holds another network; the message lists missing,
            unknown and misshapen tensors.
        FileNotFoundError: if the file does not exist.
    """
    path = Path(path)
    content = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_pickle(path)
    tensors = _state_dict(content, path)
    names = _official if _layout(tensors, path) == "official" else _pytorchcv
    depth, stem = _depth(tensors, path), tensors.get(names("conv1.weight"))
    small = stem is not None and stem.shape[-2:] == (3, 3)
    last = tensors.get(names("fc.bias"))
    num_classes = 1000 if last is None or last.dim() != 1 else max(1, len(last))
    model = _empty(depth, num_classes, small)
    _fill(model, tensors, names, path, depth)
    if not small:
        set_config(model, NetworkConfig(f"resnet{depth}", num_classes, None, sites_of(model), **IMAGENET))
    return model.eval()


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The named tensors in a file's content, without DataParallel's prefix."""
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        kind = "an empty dictionary" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"{path} holds {kind}, not the named tensors of a network")
    others = [key for key, value in content.items() if not (isinstance(key, str) and _is_plain(value))]
    if others:
        raise ValueError(f"{path} holds more than the named tensors of a network: {listed(others)}")
    wrapped = all(key.startswith("module.") for key in content)
    return {key.removeprefix("module.") if wrapped else key: value for key, value in content.items()}


def _is_plain(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _copy(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)


def _layout(tensors: Mapping[str, Tensor], path: Path) -> str:
    """The naming scheme of the tensors, "official" or "pytorchcv"; ValueError if the file holds something else."""
    official = any(key.startswith("layer1.0.") for key in tensors)
    if not official and not any(key.startswith("features.stage1.unit1.") for key in tensors):
        raise ValueError(
            f"{path} holds no ResNet with names as in the released code (layer1.0.conv1.weight) or in pytorchcv "
            f"(features.stage1.unit1...); its first tensors are {listed(tensors, 3)}"
        )
    if any(".cbam." in key for key in tensors):
        raise ValueError(f"{path} holds a ResNet with CBAM; this function loads ResNets with BAM")
    if any(".attention." in key for key in tensors):
        advice = "build it, attach BAM and call model.load_state_dict(...), or see bam.export.from_pretrained"
        raise ValueError(f"{path} holds a network from this package; {advice}")
    if not any(re.match(r"bam\d\.|.*\.unit1\.bam\.", key) for key in tensors):
        advice = "load it into torchvision's or pytorchcv's network, then bam.attach(model)"
        raise ValueError(f"{path} holds a ResNet without BAM; {advice}")
    return "official" if official else "pytorchcv"


def _depth(tensors: Mapping[str, Tensor], path: Path) -> int:
    """The depth of the ResNet, from the number and kind of its blocks."""
    matches = [re.match(r"(?:layer|features\.stage)([1-4])\.(?:unit)?(\d+)\.", key) for key in tensors]
    stage_of_block = [stage for stage, _ in {(match[1], match[2]) for match in matches if match}]
    blocks = tuple(stage_of_block.count(number) for number in "1234")
    deep = any(re.search(r"\.conv3\.", key) for key in tensors)
    if (blocks, deep) not in DEPTHS:
        kind = "bottleneck" if deep else "basic"
        raise ValueError(
            f"{path} holds a ResNet with {'-'.join(map(str, blocks))} {kind} blocks in its stages; known depths are "
            f"{', '.join(map(str, DEPTHS.values()))}"
        )
    return DEPTHS[blocks, deep]


def _empty(depth: int, num_classes: int, small: bool) -> nn.Module:
    """The network on the meta device, which needs neither time nor random numbers."""
    from torchvision.models import get_model

    from bam.models import cifar

    with torch.device("meta"):
        name = f"resnet{depth}"
        model = cifar.from_torchvision(name, num_classes) if small else get_model(name, num_classes=num_classes)
        return attach(model, "bam", sites=SITES, image=64, combine="product", layout="released")


def _fill(model: nn.Module, tensors: dict[str, Tensor], names: Callable[[str], str], path: Path, depth: int) -> None:
    """Load the tensors into the network on the meta device; raises ValueError unless they match it exactly."""
    state = model.state_dict()
    expected = {names(key): value for key, value in state.items()}
    counters = [key for key in expected if key.endswith("num_batches_tracked")]
    if not any(key in tensors for key in counters):  # PyTorch before 0.4.1 had no counters
        tensors |= {key: torch.zeros((), dtype=torch.int64) for key in counters}
    check_fit(expected, tensors, path, f"ResNet-{depth} with BAM")
    values = {key: _copy(tensors[names(key)], value.dtype) for key, value in state.items()}
    model.load_state_dict(values, assign=True)


def _official(key: str) -> str:
    """Our key under the released code's and PytorchInsight's names; outside BAM their names are torchvision's."""
    site, attended, rest = key.partition(".attention.")
    part, _, name = rest.rpartition(".")
    return f"bam{site[-1]}.{PARTS[part][0]}.{name}" if attended else key


def _pytorchcv(key: str) -> str:
    """Our key under pytorchcv's names; its BAM is in the first unit of the next stage."""
    site, attended, rest = key.partition(".attention.")
    part, _, name = rest.rpartition(".")
    if attended:
        return f"features.stage{int(site[-1]) + 1}.unit1.bam.{PARTS[part][1]}.{name}"
    block = re.match(r"layer(\d)\.(\d+)\.", key)
    if block is None:
        stem = re.sub(r"^conv1", "features.init_block.conv.conv", re.sub(r"^bn1", "features.init_block.conv.bn", key))
        return re.sub(r"^fc", "output", stem)
    inner = re.sub(r"^(conv|bn)(\d)", r"body.conv\2.\1", key[block.end() :])
    inner = inner.replace("downsample.0", "identity_conv.conv").replace("downsample.1", "identity_conv.bn")
    return f"features.stage{block[1]}.unit{int(block[2]) + 1}.res_unit.{inner}"
