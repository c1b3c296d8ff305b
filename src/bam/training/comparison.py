"""The main job: the same network with and without attention, seed by seed."""

from collections.abc import Sequence
from pathlib import Path

from bam.recipes import Recipe
from bam.records import Record
from bam.training.run import run


def compare(
    recipe: Recipe,
    attentions: Sequence[str],
    num_seeds: int,
    out: Path,
    *,
    data_root: str | Path | None = None,
    device: str | None = None,
    save_minutes: float = 2.0,
) -> dict[str, list[Record]]:
    """Run `recipe` with each of `attentions` for `num_seeds` seeds from the recipe's on; returns attention -> records.

    Runs are paired: with the same seed, all variants start from the same backbone weights and see the same images in
    the same order. Each run has its folder in `out`; complete ones are skipped and unfinished ones go on, so that the
    same call resumes the whole. Seeds are the outer loop: an early stop leaves whole pairs.

    Raises:
        ValueError: for fewer than one seed or an attention given twice, and what `run` raises.
        Interrupted: after Ctrl-C or SIGTERM, with the state saved.
    """
    if num_seeds < 1:
        raise ValueError(f"seeds: at least 1, got {num_seeds}")
    if len(set(attentions)) < len(attentions) or not attentions:
        raise ValueError(f"attention: each variant once, got {', '.join(attentions) or 'none at all'}")
    records: dict[str, list[Record]] = {attention: [] for attention in attentions}
    total, number = num_seeds * len(attentions), 0
    for seed in range(recipe.seed, recipe.seed + num_seeds):
        for attention in attentions:
            number += 1
            variant = recipe.replace(attention=attention, seed=seed)
            folder = out / f"{attention}-seed{seed}"
            records[attention].append(
                run(variant, folder, resume=True, data_root=data_root, device=device, save_minutes=save_minutes,
                    title=f"[{number}/{total}] {folder.name}")
            )  # fmt: skip
    return records
