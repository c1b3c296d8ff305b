"""Compare ways to train attention that starts as the identity on a pretrained network.

    python benchmarks/finetuning.py runs/finetuning photos insects --weights lite0.safetensors

`folder/finetune` with and without BAM on each folder of images: with attention's learning rate divided or multiplied by
ten, with a warm-up of its own, and with batch statistics in all BatchNorms. Prints a Markdown table of test errors. The
same command resumes, and reads what is finished; each run takes less than a minute at 96 x 96 pixels.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import nn

from bam import recipes
from bam.recipes import Recipe, RunOptions
from bam.reports.statistics import paired_difference
from bam.surgery import attended
from bam.training import loop, run, session


class Condition(NamedTuple):
    """A way to train: attention, factor on its learning rate, epochs of its own warm-up, changes to the recipe."""

    attention: str = "bam(identity=True)"
    factor: float = 1.0
    warmup: int = 0
    changes: dict[str, Any] = {}


DEFAULT = "attention's rate x 10 (default)"
CONDITIONS = {
    "none": Condition(attention="none"),
    DEFAULT: Condition(),
    "rate x 1": Condition(factor=0.1),
    "rate x 100": Condition(factor=10.0),
    "own warm-up of 3 epochs": Condition(warmup=3),
    "batch statistics": Condition(changes={"frozen_statistics": False}),
}


@contextmanager
def trained(condition: Condition) -> Iterator[None]:
    """Give the attention parameter groups of its own, with the condition's learning rate."""
    make_optimizer, usual_rate = session.optimizer, loop.learning_rate
    made: list[torch.optim.Optimizer] = []

    def optimizer(model: nn.Module, recipe: Recipe, new_parts: Any) -> torch.optim.Optimizer:
        made.append(make_optimizer(model, recipe, new_parts))
        members = {p for module in attended(model).values() for p in module.parameters()}
        for group in list(made[-1].param_groups):
            own = [p for p in group["params"] if p in members]
            group["params"] = [p for p in group["params"] if p not in members]
            if own:
                scale = condition.factor * group["lr_scale"]
                made[-1].add_param_group({**group, "params": own, "lr_scale": scale, "attention": scale})
        made[-1].param_groups = [group for group in made[-1].param_groups if group["params"]]
        return made[-1]

    def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
        if condition.warmup and recipe.warmup_epochs:
            own, usual = (min(1, (step + 1) / (e * steps)) for e in (condition.warmup, recipe.warmup_epochs))
            for group in made[-1].param_groups:  # looked up at each step, as resuming replaces them
                if "attention" in group:
                    group["lr_scale"] = group["attention"] * own / usual
        return usual_rate(recipe, step, steps)

    with patch.object(session, "optimizer", optimizer), patch.object(loop, "learning_rate", learning_rate):
        yield


def error(folder: Path, name: str, seed: int, args: argparse.Namespace) -> float:
    """The test error of one run, in %."""
    condition = CONDITIONS[name]
    recipe = recipes.load("folder/finetune").replace(
        data=f"folder:{folder}", data_options={"scale": [0.35, 1.0], "size": args.size}, model=args.model,
        pretrained=str(args.weights), attention=condition.attention, seed=seed, precision="fp32", evaluate_every=5,
        **condition.changes,
    )  # fmt: skip
    out = args.out / folder.name / f"{name}-seed{seed}".replace(" ", "_")
    with trained(condition):
        return 100 * run(recipe, out, RunOptions(device="cpu"), resume=True).final["test_error"]


def cell(errors: list[float], default: list[float] | None) -> str:
    """Mean and deviation, and the paired difference from the default."""
    text = f"{mean(errors):.2f} ± {stdev(errors):.2f}" if len(errors) > 1 else f"{errors[0]:.2f}"
    if default is None or len(errors) == 1:
        return text
    difference = paired_difference(default, errors)
    low, high = difference.interval or (0.0, 0.0)
    return f"{text} ({difference.mean:+.2f} [{low:+.2f}, {high:+.2f}])"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the runs")
    parser.add_argument("data", type=Path, nargs="+", help="folders of images with train/ and val/")
    parser.add_argument("--weights", type=Path, required=True, help="pretrained weights of --model")
    parser.add_argument("--model", default="timm/tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    table: dict[str, dict[str, list[float]]] = {folder.name: {} for folder in args.data}
    for seed in range(args.seeds):
        for folder in args.data:
            for name in CONDITIONS:
                table[folder.name].setdefault(name, []).append(error(folder, name, seed, args))
    print(f"| test error, % | {' | '.join(table)} |\n|---|{'---:|' * len(table)}")
    for name in CONDITIONS:
        cells = [cell(row[name], None if name == DEFAULT else row[DEFAULT]) for row in table.values()]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
