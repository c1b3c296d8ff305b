"""Check that a resumed run is the run that began: its recipe, images, sites and number of processes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bam.data.interface import Images
from bam.files import check_types
from bam.recipes import Recipe
from bam.records import Record


def check_sites(record: Record, sites: Sequence[str], out: Path) -> None:
    """Raise ValueError if the run in `out` has other sites; default sites may differ in earlier versions."""
    if record.sites and record.sites != list(sites):
        there, here = (", ".join([*names[:3], *["..."][: len(names) - 3]]) for names in (record.sites, list(sites)))
        raise ValueError(
            f"{out} holds a run with attention at {there}, and this one would have it at {here}: choose another --out, "
            "or name the old sites, e.g. se(sites=bottlenecks)"
        )


_STATE = {
    "model": dict[str, Tensor], "optimizer": dict[str, Any], "scaler": dict[str, Any], "progress": dict[str, Any],
    "history": str, "average": dict[str, Tensor], "best": dict[str, Any], "recipe": str, "stretches": str,
}  # fmt: skip
_PROGRESS = {
    "epoch": int, "step": int, "step_in_epoch": int, "seconds": float, "images": int, "sums": Tensor,
    "names": list[str], "unreadable": dict[str, Any],
}  # fmt: skip
_NEEDED = {
    "model",
    "optimizer",
    "progress",
    "history",
    "epoch",
    "step",
    "step_in_epoch",
    "sums",
}  #: in old states, too


def check_state(state: Mapping[str, Any], recipe: Recipe, out: Path) -> None:
    """Raise ValueError if the training state in `out` belongs to another recipe or seed, or is not one at all."""
    source = f"the training state in {out}"
    for content, types in ((state, _STATE), (state.get("progress", {}), _PROGRESS)):
        check_types(content, types, source)
        for name in (_NEEDED & types.keys()) - content.keys():
            raise ValueError(f"{source} is damaged, or was not written by bam: it has no {name}; remove it")
        for name in content.keys() - types.keys():
            raise ValueError(
                f"{source} is damaged, or was not written by bam: it has an unknown entry {name!r}; remove it"
            )
    if "recipe" not in state:  # old states have none
        return
    differences = recipe.differences(Recipe.from_dict(_parsed(state, "recipe", dict[str, Any], out)))
    listed = [f"{name} is {there!r} there, not {here!r}" for name, (here, there) in differences.items()]
    if set(differences) - {"data_options", "kernel"}:  # `run` compares these, and lets some of them change
        raise ValueError(f"{out} holds a training state of another run ({'; '.join(listed)}): remove it")


def _parsed(state: Mapping[str, Any], name: str, kind: Any, out: Path) -> Any:
    """Parse the entry `name` of a state, which is JSON; old states may lack it."""
    source = f"the training state in {out}"
    try:
        content = json.loads(state.get(name, "[]"))
    except (ValueError, RecursionError):
        raise ValueError(f"{source} is damaged, or was not written by bam: its {name} is not JSON; remove it") from None
    check_types({name: content}, {name: kind}, source)
    return content


def stretches_of(
    state: Mapping[str, Any], environment: Mapping[str, Any], out: Path, *, allow_mixed: bool
) -> list[dict[str, Any]]:
    """The stretches of a run that resumes from `state`: those so far, and the one that begins here.

    Raises:
        ValueError: if it ran with another number of processes, unless `allow_mixed`.
    """
    earlier = _parsed(state, "stretches", list[dict[str, Any]], out)
    here = {"from_step": state["progress"]["step"]} | dict(environment)
    if earlier and not allow_mixed:
        _refuse_mixed(out, earlier[-1], here)
    return [*(stretch for stretch in earlier if stretch.get("from_step", 0) < here["from_step"]), here]


def _refuse_mixed(out: Path, before: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    if before.get("processes") != here["processes"]:
        raise ValueError(
            f"{out} holds a run with another number of processes ({before.get('processes')} there, "
            f"{here['processes']} here), which gives other weights: resume it with the same number, choose another "
            "--out, or add --allow-mixed"
        )


def fingerprint(train: Images, test: Images) -> str:
    """The fingerprint of all images of a run."""
    return f"{train.fingerprint} {test.fingerprint}"


def check_data(record: Record, train: Images, test: Images, out: Path) -> None:
    """Raise ValueError if the run in `out` used other images than these."""
    if record.data and record.data != fingerprint(train, test):
        raise ValueError(
            f"{out} holds a run on other images: files were added, removed or renamed, or the classes have changed; "
            "restore them, or choose another --out"
        )
