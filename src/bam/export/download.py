"""Download saved networks from the Hugging Face Hub."""

from pathlib import Path
from typing import Any

from bam.export.config import CONFIG, WEIGHTS

MISSING = "the Hub needs huggingface_hub: pip install 'bottleneck-attention[hub]'"


def download(repository: str, **options: Any) -> Path:
    """Download a repository's two files; returns their folder in the local cache.

    Args:
        repository: "owner/name".
        **options: passed to `huggingface_hub.snapshot_download`.

    Raises:
        FileNotFoundError: with the reason, if the files cannot be downloaded.
        ImportError: if huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError(MISSING) from None
    try:
        return Path(snapshot_download(repository, allow_patterns=[CONFIG, WEIGHTS], **options))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        message = f"there is no folder {repository}, and the Hugging Face Hub could not provide it: {reason}"
        raise FileNotFoundError(message) from error
