"""What every attention module expects of its input."""

from torch import Tensor


def check_features(features: Tensor, channels: int, module: str) -> None:
    """Raise unless `features` is a floating-point (N, channels, H, W) tensor; `module` is named in the message."""
    if features.dim() != 4 or features.shape[1] != channels:
        raise ValueError(
            f"{module} was built for a feature map (N, {channels}, H, W), got a tensor of shape {tuple(features.shape)}"
        )
    if not features.is_floating_point():
        raise TypeError(f"{module} needs floating-point features, got {features.dtype}; convert with .float() first")
