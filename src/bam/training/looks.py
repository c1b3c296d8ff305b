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
FOLDER = "attention"  #: in a comparison's folder; has a folder for each variant with attention


def write_looks(out: Path, runs: Mapping[str, Path], options: RunOptions) -> None:
    """Look at the attention of each run (variant -> folder) if its task supports it, once per set of weights.

    Writes attention/<variant>/look.json and pictures into the comparison's folder `out`.
    """
    for text, folder in runs.items():
        target = out / FOLDER / folder_name(text)
        if not (folder / WEIGHTS).exists():
            continue
        weights = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]
        previous = _read(target)
        if previous.get("weights") == weights and "problem" not in previous:
            continue
        record = Record.read(folder)
        if not record.normalization:  # from an earlier version
            continue
        task, trained, _ = opened_run(folder, torch.device(record.environment["device"]))
        if not task.attends(trained.network):
            continue
        _, test = task.load(options.data_root)
        try:
            look = task.look(trained, test, target)
        except ValueError as error:  # e.g. weights that are not finite: the rest of the report is still written
            look = {"problem": str(error)}
        if look is not None:
            origin = {"weights": weights, "seed": record.recipe["seed"]}
            write_atomically(target / _FILE, strict_json(origin | look))


def read_looks(out: Path, plan: Mapping[str, Any]) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """(variant, folder, content of look.json) for each variant of the comparison in `out` that has one."""
    for text in plan["attention"]:
        folder = out / FOLDER / folder_name(text)
        if look := _read(folder):
            yield text, folder, {"seed": plan["seeds"][0]} | look  # old files have no seed


def _read(folder: Path) -> dict[str, Any]:
    """The content of a folder's look.json; empty if it is missing or damaged, since it can be written again."""
    try:
        content = read_json(folder / _FILE, "")
        check_types(content, _TYPES, folder / _FILE)
        for name, kinds in (("views", _VIEW), ("pictures", _PICTURE)):
            for entry in content.get(name, []):
                check_types(dict.fromkeys(kinds) | entry, kinds, folder / _FILE)
    except (OSError, ValueError):
        return {}
    return content if "problem" in content or content.keys() >= _NEEDED else {}
