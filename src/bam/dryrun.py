"""Run one forward pass without computing anything, to see which modules run and at which sizes."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.overrides import TorchFunctionMode

from bam.private import own_buffers, own_parameters, remove_forward_hooks
from bam.snapshot import Snapshot, need_module

#: An image: a tensor (N, C, H, W), or a size in pixels: a side, (H, W) or (C, H, W).
Image = Tensor | int | Sequence[int]


#: What `rehearse` calls before each pass, to register hooks; it returns the context in which the pass runs.
Watch = Callable[[], contextlib.AbstractContextManager[Any]]


def dry_run(
    model: nn.Module, image: Image | None = None, *, method: str = "__call__", watch: Watch = contextlib.nullcontext
) -> Any:
    """Return the output of `model` for one image, see `rehearse`; the model is left unchanged.

    Args:
        model: any network that takes one image.
        image: a tensor (N, C, H, W) or a size, see `image_shape`.
        method: the method to call instead of the forward pass.
        watch: see `rehearse`.

    Raises:
        ValueError: if the model cannot run on such an image.
    """
    need_module(model)
    _refuse_lazy_layers(model)
    shape = image_shape(model, image)
    try:
        return rehearse(model, image if isinstance(image, Tensor) else shape, method=method, watch=watch)
    except Exception as error:  # a network may raise anything for an image it does not take
        problem = f"{type(model).__name__} cannot run on an image of shape {tuple(shape[1:])}"
        raise ValueError(
            f"{problem} ({str(error).partition(chr(10))[0]}); pass a suitable image or size as image=, and "
            "wrap a network that takes more than one input in a module that takes the image alone"
        ) from error


def rehearse(
    module: nn.Module,
    x: Tensor | Sequence[int],
    *,
    method: str = "__call__",
    watch: Watch = contextlib.nullcontext,
) -> Any:
    """Return the output of `module` for `x` in eval mode, without gradients and without its own hooks.

    The pass runs on the meta device, where tensors have shapes but no values, with the default memory layout. A module
    that cannot run there (say, because its control flow depends on values) runs for real, and raises its own errors.
    Either way it is left unchanged.

    Args:
        module: any module that takes one tensor.
        x: the tensor, or a shape for zeros.
        method: the method to call instead of the forward pass.
        watch: see `Watch`; the hooks are removed after the pass.
    """
    dtype = _floating_dtype(module)
    shape = tuple(x.shape) if isinstance(x, Tensor) else tuple(x)

    def run(values: Tensor) -> Any:
        for part in module.modules():
            remove_forward_hooks(part)
        with watch():
            return getattr(module, method)(values)

    try:
        with left_as_it_was(module):
            _to_meta(module)
            with _QuickBatchNorm():
                return run(torch.empty(shape, device="meta", dtype=dtype))
    except Exception:  # a module that needs values may raise anything here; the real run raises other errors again
        pass
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    with left_as_it_was(module):
        return run((x if isinstance(x, Tensor) else torch.zeros(shape, dtype=dtype)).to(device))


class _QuickBatchNorm(TorchFunctionMode):
    """Make BatchNorm by running statistics return an empty tensor: on the meta device, torch's is slow Python."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is batch_norm and _is_quick(_BATCH_NORM.bind(*args, **(kwargs or {})).arguments):
            return _empty(args[0])
        return func(*args, **(kwargs or {}))


def _empty(like: Tensor) -> Tensor:
    """A contiguous meta tensor of the same shape and type; torch.empty_like would run slow Python for the strides."""
    return torch.empty(like.shape, dtype=like.dtype, device="meta")


_BATCH_NORM = inspect.signature(batch_norm)


def _is_quick(arguments: Mapping[str, Any]) -> bool:
    """Whether these arguments of `batch_norm` are certainly valid and make it use the running statistics."""
    x, parts = arguments["input"], [arguments.get(name) for name in ("running_mean", "running_var", "weight", "bias")]
    sizes = {tuple(part.shape) for part in parts if part is not None}
    fits = parts[0] is not None and x.dim() > 1 and sizes == {(x.shape[1],)}
    return fits and not arguments.get("training") and x.is_meta and x.is_floating_point() and x.is_contiguous()


@contextlib.contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Set eval mode without gradients; afterwards restore modes, tensors and attributes set by the pass (caches)."""
    before = Snapshot(model)
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        before.restore()


def _refuse_lazy_layers(model: nn.Module) -> None:
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(value, UninitializedParameter | UninitializedBuffer):
            raise ValueError(
                f"{name!r} has no shape yet: it belongs to a lazy layer, which takes its shape from the first input; "
                "run the model once on an image first"
            )


def _to_meta(model: nn.Module) -> None:
    """Replace parameters and buffers by empty meta tensors; shared tensors stay shared.

    `torch.func.functional_call` would not do: it does not restore a module that is registered in several places.
    """
    meta_tensors: dict[int, Tensor] = {}  # by the id of the original
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError("the tensors of a ScriptModule cannot be replaced")  # the model then runs for real
        containers: tuple[dict[str, Any], ...] = (own_parameters(module), own_buffers(module))
        for tensors in containers:  # a plain tensor is enough for one pass
            for name, value in tensors.items():
                if value is not None:
                    if id(value) not in meta_tensors:
                        meta_tensors[id(value)] = _empty(value)
                    tensors[name] = meta_tensors[id(value)]


def image_shape(model: nn.Module, image: Image | None = None) -> tuple[int, int, int, int]:
    """The shape (N, C, H, W) that `image` stands for; by default the model's own input size, or 224 x 224.

    The model's own input size is its attribute `input_size`, or `pretrained_cfg["input_size"]` in timm's networks, or
    the size to which the `transform` of torchvision's detectors resizes images.

    Raises:
        ValueError: if `image` is neither a tensor (N, C, H, W) nor a positive size.
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
    """The channels of the image: the input channels of the first convolution, unless the image is rearranged first."""
    convolutions = (m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)))
    first = next((conv.in_channels for conv in convolutions), 3)
    rearranged = first > 16 and _timm_input_size(model)  # timm's TResNet: blocks of 4 x 4 pixels become 48 channels
    return rearranged[0] if rearranged else first


def _floating_dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
