"""Run a model once without computing anything: what placement and costs look at."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: An image: a tensor (N, C, H, W), or a size given as side, (H, W) or (C, H, W).
Image = Tensor | int | Sequence[int]


def dry_run(model: nn.Module, image: Image | None = None) -> Any:
    """Return `model`'s output for one image in eval mode, without gradients; modes are restored afterwards.

    It runs on the meta device: shapes only, nothing is computed or allocated, memory layouts are the default ones. A
    model that cannot run there (its control flow depends on values, say) runs for real, on `image` or zeros.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            shape, dtype = image_shape(model, image), _floating_dtype(model)
            try:
                state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
                meta = {name: torch.empty_like(value, device="meta").contiguous() for name, value in state.items()}
                return torch.func.functional_call(model, meta, torch.empty(shape, device="meta", dtype=dtype))
            except (NotImplementedError, RuntimeError):
                device = next((p.device for p in model.parameters()), torch.device("cpu"))
                real = image if isinstance(image, Tensor) else torch.zeros(shape, dtype=dtype)
                return model(real.to(device))
    finally:
        for module, training in modes:
            module.training = training


def image_shape(model: nn.Module, image: Image | None = None) -> tuple[int, int, int, int]:
    """The (N, C, H, W) that `image` stands for; without one, the model's own input size or else 224 x 224.

    A model tells its input size by an attribute `input_size` or, as timm's do, `pretrained_cfg["input_size"]`.
    """
    if isinstance(image, Tensor):
        image = tuple(image.shape)
    if image is None:
        image = getattr(model, "input_size", None) or _timm_input_size(model) or 224
    size = (image, image) if isinstance(image, int) else tuple(int(n) for n in image)
    if len(size) == 2:
        size = (_in_channels(model), *size)
    if len(size) == 3:
        size = (1, *size)
    if len(size) != 4 or min(size) < 1:
        raise ValueError(
            f"image must be a tensor (N, C, H, W) or a positive size: a side, (H, W) or (C, H, W); got {image!r}"
        )
    return size


def _timm_input_size(model: nn.Module) -> Sequence[int] | None:
    config = getattr(model, "pretrained_cfg", None)
    return config.get("input_size") if isinstance(config, dict) else None


def _in_channels(model: nn.Module) -> int:
    convolutions = (m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)))
    return next((conv.in_channels for conv in convolutions), 3)


def _floating_dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
