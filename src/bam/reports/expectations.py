"""What differences a comparison can show, before it starts."""

from collections.abc import Mapping, Sequence

from bam.records import Record
from bam.reports.statistics import detectable_difference, standard_deviation
from bam.reports.summary import summarize


def expectations(earlier: Sequence[Mapping[str, list[Record]]], seeds: int) -> list[str]:
    """A line for each variant of earlier comparisons: the difference that this number of seeds will probably show."""
    spreads: dict[str, tuple[float, int]] = {}  # variant -> deviation of its differences, and how many there are
    for records in earlier:
        try:
            comparisons = summarize(records)["comparisons"]
        except ValueError:  # nothing is complete yet
            continue
        for one in comparisons:
            deviation, pairs = standard_deviation(one["differences"]), len(one["differences"])
            if deviation is not None and pairs > spreads.get(one["name"], (0.0, 0))[1]:
                spreads[one["name"]] = deviation, pairs
    lines = []
    for name, (deviation, pairs) in spreads.items():
        least = detectable_difference(deviation, seeds)
        if least is not None:
            lines.append(
                f"{seeds} seeds will probably show a difference of {name} if it is {least:.2f} points or more (four "
                f"times in five; the {pairs} differences so far spread by {deviation:.2f} points)"
            )
    return lines
