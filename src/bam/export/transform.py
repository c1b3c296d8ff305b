"""What makes of an image that which a saved network takes."""

from typing import TYPE_CHECKING

from torch import nn

from bam.export.config import NetworkConfig, config_of

if TYPE_CHECKING:
    from torchvision.transforms.v2 import Compose


def preprocessing(model: nn.Module | NetworkConfig) -> "Compose":
    """The transform from a PIL image, or a uint8 tensor (..., C, H, W), to what the network takes.

    Shorter side to `resize`, the middle of `image_size` cropped, the scale 0 to 1, mean and deviation taken out: a
    float32 tensor (..., C, H, W). PIL images of whatever mode become RGB (grey for a network of one channel).

    Args:
        model: a network of `from_pretrained` or `load_released`, or its configuration.

    Raises:
        ValueError: for a network that carries none.
        ImportError: without torchvision.
    """
    config = model if isinstance(model, NetworkConfig) else config_of(model)
    if config is None:
        raise ValueError(
            f"this {type(model).__name__} carries no bam_config: bam.export.from_pretrained loads one that does"
        )
    try:
        import torch
        from PIL.Image import Image
        from torchvision.transforms import v2

        from bam.data.files.decoding import to_rgb
    except ImportError:
        raise ImportError("this needs torchvision: pip install 'bottleneck-attention[train]'") from None
    colours: dict[int, list[v2.Transform]] = {1: [v2.Grayscale()], 3: [v2.Lambda(to_rgb, Image), v2.RGB()]}
    return v2.Compose(
        [
            *colours.get(len(config.mean), []),
            v2.Resize(config.resize, antialias=True),
            v2.CenterCrop(config.image_size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(config.mean, config.std),
            v2.ToPureTensor(),
        ]
    )
