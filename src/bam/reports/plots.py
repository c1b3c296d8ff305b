"""Plots as SVG text, for embedding in a page."""

import io
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Distinguishable by colour-blind readers.
_COLOURS = ("#5b6770", "#d1495b", "#00798c", "#edae49", "#30638e", "#8d5a97", "#3c7a45")


def learning_curves(variants: list[dict[str, Any]], measure: str) -> str:
    """The measure (%) by epoch: one thin line per seed, and a thick line for the mean."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for variant, colour in zip(variants, _cycle(len(variants)), strict=True):
        curves = [[point[1] for point in curve] for curve in variant["curves"]]
        epochs = [point[0] for point in variant["curves"][0]][: min(map(len, curves))]
        for curve in curves:
            axes.plot(epochs, curve[: len(epochs)], color=colour, alpha=0.3, linewidth=0.8)
        mean = [sum(values) / len(curves) for values in zip(*curves, strict=False)]
        axes.plot(epochs, mean, color=colour, linewidth=2, marker="o", markersize=3, label=variant["name"])
    axes.set(xlabel="epoch", ylabel=f"{measure}, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return _svg(figure)


def differences(comparisons: list[dict[str, Any]], measure: dict[str, Any]) -> str:
    """Paired differences of the measure (percentage points): one dot per seed, the mean and its interval."""
    figure = Figure(figsize=(6.4, 0.9 + 0.6 * len(comparisons)), layout="constrained")
    axes = figure.add_subplot()
    for row, (comparison, colour) in enumerate(zip(comparisons, _cycle(len(comparisons) + 1)[1:], strict=True)):
        axes.plot(comparison["differences"], [row] * len(comparison["differences"]), "o", color=colour, alpha=0.35)
        if comparison["interval"]:
            axes.plot(comparison["interval"], [row, row], color=colour, linewidth=2, marker="|", markersize=10)
        axes.plot(comparison["mean"], row, "D", color=colour, markersize=7)
    axes.axvline(0, color="#999999", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(comparisons)), [c["name"] for c in comparisons])
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    side = "right" if measure["higher_is_better"] else "left"
    baseline = comparisons[0]["baseline"]
    axes.set_xlabel(f"{measure['label']} minus that of {baseline}, percentage points ({side} is better)")
    return _svg(figure)


def _cycle(count: int) -> list[str]:
    return [_COLOURS[k % len(_COLOURS)] for k in range(count)]


def _svg(figure: Figure) -> str:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "bam"}):  # the same records give the same file
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
