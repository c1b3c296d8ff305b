"""Saved networks on the Hugging Face Hub: fetched, and pushed by huggingface_hub's own mixin."""

import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bam.export.pretrained import CONFIG, WEIGHTS, from_pretrained, save_pretrained

try:
    from huggingface_hub import PyTorchModelHubMixin, snapshot_download
except ImportError:
    raise ImportError("the Hub needs huggingface_hub: pip install 'bottleneck-attention[hub]'") from None


def download(repository: str, **options: Any) -> Path:
    """The folder in the local cache with the two files of a repository "owner/name"; `options` of snapshot_download.

    Raises FileNotFoundError, with the reason, if they cannot be had.
    """
    try:
        return Path(snapshot_download(repository, allow_patterns=[CONFIG, WEIGHTS], **options))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        told = f"there is no folder {repository}, and the Hugging Face Hub gave none"
        raise FileNotFoundError(f"{told}: {reason}") from error


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

    Its files are those of `bam.export.save_pretrained`, under the names of `network`, not of this class.

    Args:
        network: one of `bam.export.from_pretrained`; it is called on images (N, C, H, W).
        attention: what builds its attention if that is not of `bam.ATTENTION`.
    """

    def __init__(self, network: nn.Module, attention: Any = None) -> None:
        super().__init__()
        self.network, self._attention = network, attention

    def forward(self, images: Tensor) -> Any:
        """What the network makes of `images`."""
        return self.network(images)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_pretrained(self.network, save_directory, attention=self._attention)

    @classmethod
    def _from_pretrained(  # type: ignore[override]  # the mixin calls it by keywords, of which this takes some
        cls,
        *,
        model_id: str,
        map_location: Any = "cpu",
        backbone: Any = None,
        attention: Any = None,
        **options: Any,
    ) -> "HubModel":
        known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        fetch = {name: options[name] for name in known if name in options}
        folder = Path(model_id) if os.path.isdir(model_id) else download(model_id, **fetch)
        network = from_pretrained(folder, backbone=backbone, attention=attention)
        return cls(network, attention).to(map_location).eval()
