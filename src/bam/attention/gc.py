"""GC, the Global Context block (Cao et al., ICCV workshops 2019, https://arxiv.org/abs/1904.11492)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bam.attention.contract import AttentionMaps, AttentionModule, check_counts, check_features, gain, identity_scale

torch.fx.wrap("check_features")  # branches on the shape of its input, so torch.fx must not trace into it


class GC(AttentionModule):
    """F' = F + Wv2 ReLU(LN(Wv1 c)), c = sum over places of softmax(Wk F) F, (N, C, H, W) in and out (equation 5).

    It adds the same vector at all places, so it has no map that multiplies the features. `maps` gives the logits Wk F;
    their softmax shows where the context c comes from. The paper puts it on the residual branch of every block in
    ResNet's stages 3 to 5. Wk has no bias, because the softmax would cancel it.

    Args:
        channels: C of the feature map.
        reduction: r; the hidden layer has max(1, C // r) channels. A layer norm of a single channel is constant, so
            the block needs at least 2 r channels to depend on the image.
        identity: scale the added vector by a learned scalar that starts at 0, F + w * (F' - F): at construction the
            output is the (finite) input bit for bit, and w = 1 is GC.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Submodules: `attend` (Wk), `reduce` (Wv1), `norm` (LN), `expand` (Wv2).

    Raises:
        ValueError: for channels or reduction below 1, or an input that is not (N, C, H, W).
        TypeError: for an input that is not floating point.
    """

    usual_sites: ClassVar[str] = "every block"
    keeps_nan: ClassVar[bool] = True
    starts_as_identity: ClassVar[bool] = True
    shown_options: ClassVar[tuple[str, ...]] = ("reduction",)

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        identity: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts("GC", channels=channels, reduction=reduction)
        self.channels, self.reduction = channels, reduction
        hidden = max(1, channels // reduction)
        self.attend = nn.Conv2d(channels, 1, 1, bias=False, device=device, dtype=dtype)
        self.reduce = nn.Linear(channels, hidden, device=device, dtype=dtype)
        self.norm = nn.LayerNorm(hidden, device=device, dtype=dtype)
        self.expand = nn.Linear(hidden, channels, device=device, dtype=dtype)
        self.scale = identity_scale(identity, device, dtype)

    def forward(self, features: Tensor) -> Tensor:
        """Refine features (N, C, H, W) into the same shape, type and layout."""
        shares = self._logits(features).flatten(2).softmax(2).to(features.dtype)
        context = torch.matmul(features.flatten(2), shares.transpose(1, 2))[:, :, 0]
        added = self.expand(self.norm(self.reduce(context)).relu()).to(features.dtype)[:, :, None, None]
        return features + (added if self.scale is None else self.scale.to(features.dtype) * added)

    def _logits(self, features: Tensor) -> Tensor:
        check_features(features, self.channels, "GC")
        return self.attend(features)

    def maps(self, features: Tensor) -> AttentionMaps:
        """The logits Wk F (N, 1, H, W) and the gain."""
        return AttentionMaps(gain(features, self(features)), spatial_logits=self._logits(features))
