"""What the attention does in the networks of a comparison: one run of each variant, on the same test images."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bam.files import check_types, read_json, strict_json, write_atomically
from bam.recipes import RunOptions, folder_name
from bam.records import Record
from bam.training.session import WEIGHTS
from bam.training.trained import opened_run

_FILE = "look.json"
_TYPES = {
    "weights": str, "seed": int, "problem": str, "views": list[dict[str, Any]], "pictures": list[dict[str, Any]],
    "statistics": dict[str, dict[str, Any]], "pointing": dict[str, dict[str, Any]] | None,
}  # fmt: skip
_VIEW = {"name": str, "png": str, "prediction": list[list[Any]], "sites": list[dict[str, Any]]}
_PICTURE = {"file": str, "caption": str}
_NEEDED = {"views", "pictures", "statistics", "pointing"}  #: unless there was a problem
FOLDER = "attention"  #: of a comparison, with a folder for each variant that has attention


def write_looks(out: Path, runs: Mapping[str, Path], options: RunOptions) -> None:
    """Look at the attention of each run (variant -> folder), if its task can; once for the same weights.

    Writes attention/<variant>/look.json and pictures into the comparison's folder `out`.
    """
    for text, folder in runs.items():
        target = out / FOLDER / folder_name(text)
        if not (folder / WEIGHTS).exists():
            continue
        weights = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]
        before = _read(target)
        if before.get("weights") == weights and "problem" not in before:
            continue
        record = Record.read(folder)
        if not record.normalization:  # of an earlier version
            continue
        task, trained, _ = opened_run(folder, torch.device(record.environment["device"]))
        if not task.attends(trained.network):
            continue
        _, test = task.load(options.data_root)
        try:
            seen = task.look(trained, test, target)
        except ValueError as error:  # e.g. a network whose weights are not finite: the rest of the report stands
            seen = {"problem": str(error)}
        if seen is not None:
            about = {"weights": weights, "seed": record.recipe["seed"]}
            write_atomically(target / _FILE, strict_json(about | seen))


def read_looks(out: Path, plan: Mapping[str, Any]) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """(variant, folder, what was seen) for each variant of the comparison in `out` whose attention was looked at."""
    for text in plan["attention"]:
        folder = out / FOLDER / folder_name(text)
        if seen := _read(folder):
            yield text, folder, {"seed": plan["seeds"][0]} | seen  # looks of before have no seed


def _read(folder: Path) -> dict[str, Any]:
    """What is in a folder's file; empty if there is none, or it is damaged: it can be written again."""
    try:
        content = read_json(folder / _FILE, "")
        check_types(content, _TYPES, folder / _FILE)
        for name, kinds in (("views", _VIEW), ("pictures", _PICTURE)):
            for each in content.get(name, []):
                check_types(dict.fromkeys(kinds) | each, kinds, folder / _FILE)
    except (OSError, ValueError):
        return {}
    return content if "problem" in content or content.keys() >= _NEEDED else {}
