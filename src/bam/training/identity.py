"""Whether a run that goes on is the run that began: its recipe, its images, where it runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bam.data.interface import Images
from bam.recipes import Recipe
from bam.records import Record


def check_sites(record: Record, sites: Sequence[str], out: Path) -> None:
    """Raise ValueError if the run in `out` has its attention elsewhere, as usual sites of an earlier version may be."""
    if record.sites and record.sites != list(sites):
        there, here = (", ".join([*each[:3], *["..."][: len(each) - 3]]) for each in (record.sites, list(sites)))
        raise ValueError(
            f"{out} holds a run with attention at {there}, and this one would have it at {here}: name the sites, e.g. "
            "se(sites=bottlenecks), and choose another --out"
        )


def check_state(state: Mapping[str, Any], recipe: Recipe, out: Path) -> None:
    """Raise ValueError if the training state in `out` is of another recipe, or seed."""
    if "recipe" not in state:  # states of before have none
        return
    differences = recipe.differences(Recipe.from_dict(json.loads(state["recipe"])))
    listed = [f"{name} is {there!r} there, not {here!r}" for name, (here, there) in differences.items()]
    if set(differences) - {"data_options"}:  # `run` compares those, and lets some of them change
        raise ValueError(f"{out} holds a training state of another run ({'; '.join(listed)}): remove it")


def stretches_of(
    state: Mapping[str, Any], environment: Mapping[str, Any], out: Path, *, allow_mixed: bool
) -> list[dict[str, Any]]:
    """The stretches so far of a run that resumes from `state`, and the one that begins here.

    Raises:
        ValueError: if it began with another number of processes, without `allow_mixed`.
    """
    earlier = json.loads(state.get("stretches", "[]"))  # states of before have none
    here = {"from_step": state["progress"]["step"]} | dict(environment)
    if earlier and not allow_mixed:
        _refuse_mixed(out, earlier[-1], here)
    return [*(each for each in earlier if each["from_step"] < here["from_step"]), here]


def _refuse_mixed(out: Path, before: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    if before["processes"] != here["processes"]:
        raise ValueError(
            f"{out} holds a run that began with another number of processes ({before['processes']} there, "
            f"{here['processes']} here), which gives other weights: go on as it began, choose another --out, or add "
            "--allow-mixed"
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
