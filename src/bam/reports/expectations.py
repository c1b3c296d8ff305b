"""Estimate, before a comparison starts, which differences it can detect."""

from collections.abc import Mapping, Sequence

from bam.records import Record
from bam.reports.statistics import detectable_difference, standard_deviation
from bam.reports.summary import summarize


def expectations(earlier: Sequence[Mapping[str, list[Record]]], seeds: int) -> list[str]:
    """One line per variant of earlier comparisons: the smallest difference that `seeds` seeds will probably show."""
    spreads: dict[str, tuple[float, int]] = {}  # variant -> deviation and number of its differences
    for records in earlier:
        try:
            comparisons = summarize(records)["comparisons"]
        except ValueError:  # no complete run yet
            continue
        for comparison in comparisons:
            name, differences = comparison["name"], comparison["differences"]
            deviation, pairs = standard_deviation(differences), len(differences)
            if deviation is not None and pairs > spreads.get(name, (0.0, 0))[1]:
                spreads[name] = deviation, pairs
    lines = []
    for name, (deviation, pairs) in spreads.items():
        smallest = detectable_difference(deviation, seeds)
        if smallest is not None:
            lines.append(
                f"{seeds} seeds will probably show a difference for {name} if it is {smallest:.2f} points or more "
                f"(80 % power; the {pairs} differences so far have a standard deviation of {deviation:.2f} points)"
            )
    return lines
