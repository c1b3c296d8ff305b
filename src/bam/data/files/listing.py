"""The image files that a user names."""

from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The image files that `paths` name, each once; a folder stands for the images directly inside it.

    Hidden files in a folder, whose names begin with a dot, are skipped.

    Raises:
        ValueError: for no paths.
        FileNotFoundError: for a missing path, or a folder without images.
    """
    if not paths:
        raise ValueError("name at least one image, or a folder of images")
    files: list[Path] = []
    for path in paths:
        images = sorted(filter(_is_image, path.iterdir())) if path.is_dir() else [path]
        if not images:
            raise FileNotFoundError(f"the folder {path} holds no images ({', '.join(IMG_EXTENSIONS)})")
        if not path.exists():
            raise FileNotFoundError(f"there is no image {path}")
        files += images
    return list(dict.fromkeys(files))


def check_not_overwritten(files: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raise ValueError if one of `outputs` would be written over one of the user's files."""
    overwritten = {file.resolve() for file in files} & {output.resolve() for output in outputs}
    if overwritten:
        raise ValueError(f"{overwritten.pop()} would be overwritten; choose another --out")


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith(".")
