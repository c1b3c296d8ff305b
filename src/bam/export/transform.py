"""The preprocessing a saved network expects."""

from typing import TYPE_CHECKING

from torch import nn

from bam.export.config import NetworkConfig, config_of

if TYPE_CHECKING:
    from torchvision.transforms.v2 import Compose


def preprocessing(model: nn.Module | NetworkConfig) -> "Compose":
    """The transform from a PIL image, or a uint8 tensor (..., C, H, W), to the input of a saved network.

    It resizes the shorter side to `resize`, crops the centre to `image_size`, scales values to 0 to 1 and normalises
    them with mean and deviation, giving a float32 tensor (..., C, H, W). PIL images of any mode become RGB (or grey if
    the network takes one channel).

    Args:
        model: a network from `from_pretrained` or `load_released`, or its configuration.

    Raises:
        ValueError: for a network without a configuration.
        ImportError: if torchvision is not installed.
    """
    config = model if isinstance(model, NetworkConfig) else config_of(model)
    if config is None:
        raise ValueError(
            f"this {type(model).__name__} has no bam_config: load it with bam.export.from_pretrained, or pass its "
            "NetworkConfig"
        )
    try:
        from bam.data.files.preprocessing import Preprocessing
    except ImportError:
        raise ImportError("this needs torchvision: pip install 'bottleneck-attention[train]'") from None
    return Preprocessing(config.mean, config.std, config.image_size, config.resize).transform()
