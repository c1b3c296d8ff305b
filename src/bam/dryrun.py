"""Run a model once without computing anything: what placement and costs look at."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bam.private import own_buffers, own_parameters

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
        with left_as_it_was(model):
            _to_meta(model)
            return model(torch.empty(shape, device="meta", dtype=dtype))
    except Exception:  # somebody's network may raise anything where it needs values: it runs for real, which tells
        pass
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    real = image if isinstance(image, Tensor) else torch.zeros(shape, dtype=dtype)
    try:
        with left_as_it_was(model):
            return model(real.to(device))
    except Exception as error:  # and anything where it does not take such an image: told as the ValueError promised
        what = f"{type(model).__name__} cannot run on an image of shape {tuple(shape[1:])}"
        raise ValueError(
            f"{what} ({str(error).partition(chr(10))[0]}); give one that it takes with "
            "image=, and wrap a network that takes more than an image in a module that does not"
        ) from error


@contextlib.contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards modes, tensors, and attributes set by the pass (caches) are as before."""
    scripted = [(m, m.training) for m in model.modules() if isinstance(m, torch.jit.ScriptModule)]
    before = []
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):  # those have attributes of another kind
            held = {name: copy.copy(v) for name, v in module.__dict__.items() if isinstance(v, dict | list | set)}
            before.append((module, dict(module.__dict__), held))
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in scripted:
            module.train(training)
        for module, attributes, held in before:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for name, content in held.items():  # parameters, buffers and parts are among them
                container = attributes[name]
                container.clear()
                container.extend(content) if isinstance(content, list) else container.update(content)


def _to_meta(model: nn.Module) -> None:
    """Put empty meta tensors in the place of parameters and buffers; what is shared stays shared.

    Not `torch.func.functional_call`: where a module hangs in several places, that does not put everything back.
    """
    made: dict[int, Tensor] = {}
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError("the tensors of a ScriptModule cannot be exchanged")  # so that it runs for real
        for tensors in (own_parameters(module), own_buffers(module)):
            for name, value in tensors.items():
                if value is not None:
                    meta = made.setdefault(id(value), torch.empty_like(value, device="meta").contiguous())
                    tensors[name] = meta  # type: ignore[assignment]  # a plain tensor will do for a moment


def image_shape(model: nn.Module, image: Image | None = None) -> tuple[int, int, int, int]:
    """The (N, C, H, W) that `image` stands for; without one, the model's own input size or else 224 x 224.

    A model tells its input size by an attribute `input_size` or, as timm's do, `pretrained_cfg["input_size"]`; one of
    torchvision's detectors by the size that its `transform` resizes images to.
    """
    wrong = f"image must be a tensor (N, C, H, W) or a positive size: a side, (H, W) or (C, H, W); got {image!r}"
    if isinstance(image, Tensor):
        if image.dim() != 4:
            raise ValueError(f"image must be a tensor (N, C, H, W), got one of shape {tuple(image.shape)}")
        image = tuple(image.shape)
    known = getattr(model, "input_size", None)
    known = known if isinstance(known, tuple | list) and len(known) == 3 else None
    if image is None:
        resized = getattr(getattr(model, "transform", None), "min_size", (224,))[-1]
        image = known or _timm_input_size(model)[1:] or resized
    if not isinstance(image, int | Sequence) or isinstance(image, str):
        raise ValueError(wrong)
    size = (image, image) if isinstance(image, int) else tuple(int(n) for n in image)
    if len(size) == 2:
        size = (known[0] if known else _in_channels(model), *size)
    if len(size) == 3:
        size = (1, *size)
    if len(size) != 4 or min(size) < 1:
        raise ValueError(wrong)
    return size


def _timm_input_size(model: nn.Module) -> Sequence[int]:
    config = getattr(model, "pretrained_cfg", None)
    return config.get("input_size", ()) if isinstance(config, dict) else ()


def _in_channels(model: nn.Module) -> int:
    """The channels of the image: what the first convolution takes, unless the image is rearranged before it."""
    convolutions = (m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)))
    first = next((conv.in_channels for conv in convolutions), 3)
    rearranged = first > 16 and _timm_input_size(model)  # timm's TResNet: blocks of 4 x 4 pixels become 48 channels
    return rearranged[0] if rearranged else first


def _floating_dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
