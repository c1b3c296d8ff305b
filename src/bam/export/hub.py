"""Saved networks with huggingface_hub's mixin methods, which push them to the Hugging Face Hub."""

import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bam.export.download import MISSING, download
from bam.export.pretrained import from_pretrained, save_pretrained

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError:
    raise ImportError(MISSING) from None


class HubModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="bottleneck-attention",
    paper_url="https://arxiv.org/abs/1807.06514",
    tags=["bottleneck-attention"],
):
    """A saved network with huggingface_hub's methods `from_pretrained`, `save_pretrained` and `push_to_hub`.

        bam.export.save_pretrained(model, "my-model", backbone="resnet50", mean=..., std=...)
        bam.export.HubModel.from_pretrained("my-model").push_to_hub("me/my-model")

    It writes the files of `bam.export.save_pretrained`: tensors keep their names in `network`.

    Args:
        network: a network loaded by `bam.export.from_pretrained`; it takes images (N, C, H, W).
        attention: builds its attention if that is not in `bam.ATTENTION`.
    """

    def __init__(self, network: nn.Module, attention: Any = None) -> None:
        super().__init__()
        self.network, self._attention = network, attention

    def forward(self, images: Tensor) -> Any:
        """The network's output for `images` (N, C, H, W)."""
        return self.network(images)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_pretrained(self.network, save_directory, attention=self._attention)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: Any = "cpu",
        backbone: Any = None,
        attention: Any = None,
        **options: Any,
    ) -> "HubModel":
        names = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        download_options = {name: options[name] for name in names if name in options}
        folder = Path(model_id) if os.path.isdir(model_id) else download(model_id, **download_options)
        network = from_pretrained(folder, backbone=backbone, attention=attention)
        return cls(network, attention).to(map_location).eval()
