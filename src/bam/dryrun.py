"""Run a model once without computing anything: what placement and costs look at."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: An image: a tensor (N, C, H, W), or a size given as side, (H, W) or (C, H, W).
Image = Tensor | int | Sequence[int]


def dry_run(model: nn.Module, image: Image | None = None) -> Any:
    """Return `model`'s output for one image in eval mode, without gradients; the model is left as it was.

    It runs on the meta device: shapes only, nothing is computed or allocated, memory layouts are the default ones. A
    model that cannot run there (its control flow depends on values, say) runs for real, on `image` or zeros.

    Raises:
        ValueError: if it cannot run on such an image at all.
    """
    shape, dtype = image_shape(model, image), _floating_dtype(model)
    try:
        with _left_as_it_was(model):
            state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            meta = {name: torch.empty_like(value, device="meta").contiguous() for name, value in state.items()}
            return torch.func.functional_call(model, meta, torch.empty(shape, device="meta", dtype=dtype))
    except (NotImplementedError, RuntimeError):  # what torch raises where values are needed: once more, for real
        pass
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    real = image if isinstance(image, Tensor) else torch.zeros(shape, dtype=dtype)
    try:
        with _left_as_it_was(model):
            return model(real.to(device))
    except RuntimeError as error:
        what = f"{type(model).__name__} cannot run on an image of shape {tuple(shape[1:])}"
        raise ValueError(f"{what} ({str(error).splitlines()[0]}); give one that it takes with image=") from error


@contextlib.contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards modes, and attributes that the pass has set (caches), are as before."""
    before = [(module, dict(module.__dict__)) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, attributes in before:
            module.__dict__.clear()
            module.__dict__.update(attributes)


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
