"""Draw each of a report's figures as SVG."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from bam.costs import format_count
from bam.reports.svg import WIDTH, Chart, clipped, dash, escaped, marker, spread, text_width, ticks

_POINTS = 160  #: most points per curve: more would lie within a pixel or two of each other
_STOPS = 60  #: most epochs that show their numbers under the pointer
_CLASSES = 16  #: most classes in the figure of classes
_ROW = 46  #: height of a row with its name above it, in pixels


def curves(variants: Sequence[dict[str, Any]], column: int, label: str) -> str:
    """Curves by epoch: thin lines for seeds, a bold line for their mean. `column` indexes the points of the curves."""
    known = [point[column] for v in variants for curve in v["curves"] for point in curve if point[column] is not None]
    epochs = [point[0] for v in variants for curve in v["curves"] for point in curve]
    alt = f"{label} by epoch: for each variant thin lines for seeds, a bold line for their mean"
    chart = _curve_chart(alt, label, known, epochs)
    chart.x_axis(ticks(min(epochs), max(epochs), whole=True), "epoch")
    means = []
    for number, variant in enumerate(variants):
        seeds = [[(point[0], point[column]) for point in curve] for curve in variant["curves"]]
        mean = _mean_curve(seeds)
        means.append(dict(mean))
        with chart.variant(number):
            _lines(chart, number, seeds, mean)
    height = chart.height - chart.bottom - chart.top
    for epoch, left, right in _stops(sorted({int(epoch) for epoch in epochs}), chart):
        values = [(v["name"], mean.get(epoch)) for v, mean in zip(variants, means, strict=True)]
        lines = [f"{name}: {value:.4g}" for name, value in values if value is not None]
        box = f'x="{left:.1f}" y="{chart.top}" width="{right - left:.1f}" height="{height:.1f}"'
        chart.add(f'<rect class="hit" {box}/>', "\n".join([f"epoch {epoch}, {label}", *lines]))
    chart.legend([variant["name"] for variant in variants])
    return chart.svg()


def curves_by_time(variants: Sequence[dict[str, Any]], equal: dict[str, Any], label: str) -> str:
    """The measure by training time, with a line where the fastest variant ended."""
    points = [point for v in variants for curve in v["curves"] for point in curve if None not in (point[1], point[3])]
    unit, name = (60.0, "min") if max(point[3] for point in points) > 300 else (1.0, "s")
    times = [point[3] / unit for point in points]
    times += [0.0] if min(point[0] for point in points) <= 1 else []
    alt = f"{label} by training time; the fastest variant, {equal['fastest']}, needs {equal['seconds']:.3g} s"
    chart = _curve_chart(alt, label, [point[1] for point in points], times)
    chart.x_axis(ticks(min(times), max(times)), f"training time, {name}")
    end = f"M{chart.x(equal['seconds'] / unit):.1f} {chart.top}V{chart.height - chart.bottom:.1f}"
    chart.add(f'<path class="zero" d="{end}"/>', f"{equal['fastest']} ends after {equal['seconds']:.3g} s (mean)")
    for number, variant in enumerate(variants):
        seeds = [[(p[3] / unit, p[1]) for p in curve if p[3] is not None] for curve in variant["curves"]]
        mean = _mean_curve(seeds)
        with chart.variant(number):
            _lines(chart, number, seeds, mean)
            for x, y in _thinned(mean, 20):
                if y is not None:
                    tooltip = f"{variant['name']}: {y:.4g} after {x:.4g} {name}"
                    chart.add(marker(number, chart.x(x), chart.y(y), size=3.4), tooltip)
    chart.legend([variant["name"] for variant in variants])
    return chart.svg()


def differences(comparisons: Sequence[dict[str, Any]], measure: dict[str, Any]) -> str:
    """Paired differences of the measure in percentage points: seeds, mean, interval, and Holm's interval if any."""
    intervals = [c[kind] for c in comparisons for kind in ("interval", "corrected_interval") if c[kind]]
    values = [0.0, *(value for c in comparisons for value in [*c["differences"], c["mean"]])]
    means = ", ".join(f"{c['name']} {c['mean']:+.2f}" for c in comparisons)
    baseline = comparisons[0]["baseline"]
    chart = _rows(f"{measure['label']}, difference from {baseline} in points: {means}", len(comparisons))
    chart.x_range = spread([*values, *(end for interval in intervals for end in interval)])
    _row_axis(chart, baseline, measure)
    for row, comparison in enumerate(comparisons):
        y = chart.top + row * _ROW + 28
        with chart.variant(row + 1):
            _difference(chart, comparison, y, row + 1)
    return chart.svg()


def cost(variants: Sequence[dict[str, Any]], key: str, label: str, measure: dict[str, Any]) -> str:
    """The measure with one standard deviation, plotted against a cost."""
    costs = [variant[key] for variant in variants]
    ends = [variant["mean"] + side * (variant["std"] or 0.0) for variant in variants for side in (-1, 1)]
    results = ", ".join(f"{v['name']} {v['mean']:.2f} % at {_amount(v[key])}" for v in variants)
    scale, unit = _scale(key, max(costs))
    low, high = (value / scale for value in spread(costs, 0.12))
    alt = f"{measure['label']} (%, mean and standard deviation) against {label}: {results}"
    chart = Chart(alt, 250, (low, high), spread(ends, 0.1), top=22)
    chart.text(4, 13, f"{measure['label']}, %", "small")
    chart.x_axis(ticks(low, high), f"{label}{unit}")
    chart.y_axis(ticks(*chart.y_range))
    for number, variant in enumerate(variants):
        with chart.variant(number):
            _cost_mark(chart, variant, number, variant[key] / scale)
    chart.legend([variant["name"] for variant in variants])
    return chart.svg()


def equal_time(variants: Sequence[dict[str, Any]], equal: dict[str, Any], measure: dict[str, Any]) -> str:
    """Each variant's mean at equal epochs (hollow) and at equal time (filled)."""
    full = [_mean_over(variant, equal["seeds"]) for variant in variants]
    values = [*full, *(v["mean"] for v in equal["variants"] if v["mean"] is not None)]
    pairs = zip(variants, full, equal["variants"], strict=True)
    means = "; ".join(f"{v['name']} {before:.2f} % and {_known(after['mean'])}" for v, before, after in pairs)
    chart = _rows(f"{measure['label']} at equal epochs and at equal training time: {means}", len(variants))
    chart.x_range = spread(values, 0.1)
    chart.x_axis(ticks(*chart.x_range, 6), "hollow: equal epochs, filled: equal time")
    for row, variant in enumerate(variants):
        y = chart.top + row * _ROW + 28
        after, before = equal["variants"][row]["mean"], full[row]
        numbers = f"  {before:.2f} %, {_known(after)}"
        name = clipped(variant["name"], WIDTH - 16 - text_width(numbers))
        chart.text(4, y - 14, name + numbers, "small halo")
        with chart.variant(row):
            if after is not None:
                chart.parts.append(f'<path class="thin" d="M{chart.x(before):.1f} {y}H{chart.x(after):.1f}"/>')
            chart.add(marker(row, chart.x(before), y, "hollow", 6), f"equal epochs: {before:.2f} %")
            if after is not None:
                chart.add(marker(row, chart.x(after), y, size=4.5), f"equal training time: {after:.2f} %")
    return chart.svg()


def most_different(classes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `_CLASSES` classes whose errors differ most from the baseline's, largest gain first."""
    largest = sorted(classes, key=lambda entry: -max(abs(v["difference"]) for v in entry["variants"]))[:_CLASSES]
    return sorted(largest, key=lambda entry: fmean(v["difference"] for v in entry["variants"]))


def classes(entries: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The mean paired difference in each class's error, for all variants but the baseline, names[0]."""
    gutter = min(150.0, 14 + max(text_width(entry["name"]) for entry in entries))
    alt = f"Error of {len(entries)} classes, difference from {names[0]} in percentage points; the table has the numbers"
    chart = Chart(alt, 8 + 22 * len(entries) + 42, (0, 1), (0, 1), left=gutter)
    chart.x_range = spread([0.0, *(v["difference"] for entry in entries for v in entry["variants"])])
    chart.x_axis(ticks(*chart.x_range, 6), f"points against {names[0]} (left is better)")
    _zero(chart)
    places = [chart.top + 22 * row + 11 for row in range(len(entries))]
    for y, entry in zip(places, entries, strict=True):
        chart.parts.append(f'<path class="grid" d="M{gutter:.1f} {y}H{WIDTH - chart.right:.1f}"/>')
        name = escaped(clipped(entry["name"], gutter - 12))
        chart.add(f'<text class="small end" x="{gutter - 6:.1f}" y="{y + 4}">{name}</text>', entry["name"])
    for number in range(1, len(names)):
        with chart.variant(number):
            for y, entry in zip(places, entries, strict=True):
                v = entry["variants"][number - 1]
                tooltip = f"{entry['name']}, {v['name']}: {v['difference']:+.2f} points ({entry['images']} images)"
                chart.add(marker(number, chart.x(v["difference"]), y, size=4), tooltip)
    chart.legend(names[1:], range(1, len(names)))
    return chart.svg()


def channels(selective: dict[str, Any], site: str) -> str:
    """Mean attention by class, each channel scaled from pale (lowest) to full; bars above show class selectivity."""
    gutter = min(150.0, 14 + max(text_width(name) for name in [*selective["means"], "selectivity"]))
    count, bars = len(selective["channels"]), 40
    alt = f"Mean attention of {count} channels at {site} for {len(selective['means'])} classes; the CSV has the numbers"
    chart = Chart(alt, bars + 20 * len(selective["means"]) + 62, (0, count), (0, 1), left=gutter)
    columns = list(zip(*selective["means"].values(), strict=True))
    wide = chart.x(1) - chart.x(0) - 1.5
    chart.parts.append(f'<text class="small end" x="{gutter - 6:.1f}" y="{bars - 4}">selectivity</text>')
    base = bars + 20 * len(selective["means"])
    with chart.variant(1):
        for k, (channel, share) in enumerate(zip(selective["channels"], selective["selectivity"], strict=True)):
            x, tall = chart.x(k), 34 * share
            bar = f'<rect class="dot" x="{x:.1f}" y="{bars - 2 - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>'
            chart.add(bar, f"channel {channel}: selectivity {share:.3f}")
            place = f'transform="translate({x + wide / 2 + 4:.1f} {base + 6}) rotate(-90)"'
            chart.parts.append(f'<text class="small end" {place}>{channel}</text>')
            for row, (name, means) in enumerate(selective["means"].items()):
                low, high = min(columns[k]), max(columns[k])
                full = 0.04 + 0.96 * (means[k] - low) / (high - low or 1)
                size = f'x="{x:.1f}" y="{bars + 20 * row}" width="{wide:.1f}" height="18.5"'
                cell = f'<rect class="dot" fill-opacity="{full:.3f}" {size}/>'
                chart.add(cell, f"{name}, channel {channel}: {means[k]:.3f}")
    for row, name in enumerate(selective["means"]):
        label = escaped(clipped(name, gutter - 12))
        chart.add(f'<text class="small end" x="{gutter - 6:.1f}" y="{bars + 20 * row + 14}">{label}</text>', name)
    chart.text(4, chart.height - 6, "channels, each scaled from its lowest mean to its highest", "small")
    return chart.svg()


def _curve_chart(alt: str, label: str, values: Sequence[float], along: Sequence[float]) -> Chart:
    last = max(along)
    first = min(along) if last > min(along) else last - 1
    chart = Chart(alt, 268, (first, last), spread(values), top=24)
    chart.text(4, 13, label, "small")
    chart.y_axis(ticks(*chart.y_range))
    return chart


def _lines(chart: Chart, number: int, seeds: Sequence[Any], mean: Sequence[tuple[float, float | None]]) -> None:
    if len(seeds) > 1:
        for curve in seeds:
            chart.path(_thinned(curve, _POINTS), "thin")
    chart.path(_thinned(mean, _POINTS), "line", dash(number))
    if len(mean) <= 12:
        for x, y in mean:
            if y is not None:
                chart.parts.append(marker(number, chart.x(x), chart.y(y), size=3.4))


def _mean_curve(seeds: Sequence[Sequence[tuple[float, float | None]]]) -> list[tuple[float, float | None]]:
    """The mean of x and y, point by point, up to the shortest curve; y is None where a seed has none."""
    points: list[tuple[float, float | None]] = []
    for together in zip(*seeds, strict=False):
        known = [y for _, y in together if y is not None]
        points.append((fmean(x for x, _ in together), fmean(known) if len(known) == len(together) else None))
    return points


def _thinned(points: Sequence[Any], count: int) -> list[Any]:
    """About `count` of the points at most, evenly spaced, always with the last one."""
    step = -(-len(points) // count) or 1
    return [*points[:-1][::step], *points[-1:]]


def _stops(epochs: Sequence[int], chart: Chart) -> Iterator[tuple[int, float, float]]:
    """Epochs, each with the left and right edge of the strip where the pointer is closest to it."""
    chosen = _thinned(epochs, _STOPS)
    edges = [(chart.x(a) + chart.x(b)) / 2 for a, b in pairwise(chosen)]
    left, right = chart.left, WIDTH - chart.right
    yield from zip(chosen, [left, *edges], [*edges, right], strict=True)


def _rows(alt: str, count: int) -> Chart:
    return Chart(alt, 14 + _ROW * count + 42, (0, 1), (0, 1), left=16, right=16, top=6)


def _row_axis(chart: Chart, baseline: str, measure: dict[str, Any]) -> None:
    side = "right" if measure["higher_is_better"] else "left"
    suffix = f" ({side} is better)"
    against = clipped(f"points against {baseline}", WIDTH - 30 - text_width(suffix))
    chart.x_axis(ticks(*chart.x_range, 7), against + suffix)
    _zero(chart)


def _zero(chart: Chart) -> None:
    zero = f"M{chart.x(0):.1f} {chart.top}V{chart.height - chart.bottom:.1f}"
    chart.parts.append(f'<path class="zero" d="{zero}"/>')


def _difference(chart: Chart, comparison: dict[str, Any], y: float, number: int) -> None:
    """One row: the name, a thin Holm interval, a thick plain interval, seeds as circles, the mean as a mark."""
    interval, corrected = comparison["interval"], comparison["corrected_interval"]
    numbers = f"  {comparison['mean']:+.2f}" + (f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else "")
    name = clipped(comparison["name"], WIDTH - 16 - text_width(numbers))
    chart.text(4, y - 14, name + numbers, "small halo")
    for ends, width, kind in ((corrected, 1.5, "95 % with all variants (Holm)"), (interval, 5, "95 %")):
        if ends:
            a, b = (chart.x(end) for end in ends)
            caps = f"M{a:.1f} {y - 6}V{y + 6}M{b:.1f} {y - 6}V{y + 6}M{a:.1f} {y}H{b:.1f}"
            line = f"M{a:.1f} {y}H{b:.1f}" if width > 2 else caps
            style = f'stroke="currentColor" stroke-width="{width}" fill="none"'
            faint = ' class="faint"' if width > 2 else ""
            chart.add(f'<path{faint} {style} d="{line}"/>', f"{kind}: [{ends[0]:+.2f}, {ends[1]:+.2f}]")
    for seed, value in zip(comparison["seeds"], comparison["differences"], strict=True):
        circle = f'<circle class="hollow" cx="{chart.x(value):.1f}" cy="{y}" r="3.6"/>'
        chart.add(circle, f"{comparison['name']}, seed {seed}: {value:+.2f} points")
    tooltip = f"{comparison['name']}, mean: {comparison['mean']:+.2f} points"
    chart.add(marker(number, chart.x(comparison["mean"]), y, size=6), tooltip)


def _cost_mark(chart: Chart, variant: dict[str, Any], number: int, at: float) -> None:
    x, y, spread_by = chart.x(at), chart.y(variant["mean"]), variant["std"] or 0.0
    low, high = chart.y(variant["mean"] - spread_by), chart.y(variant["mean"] + spread_by)
    tooltip = f"{variant['name']}: {variant['mean']:.2f} %"
    tooltip += f" ± {spread_by:.2f}" if variant["std"] is not None else ""
    bar = f'<path stroke="currentColor" stroke-width="1.5" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
    chart.add(bar + marker(number, x, y, size=6), tooltip)


def _scale(key: str, largest: float) -> tuple[float, str]:
    """The number to divide a cost by, and the unit to add to its label."""
    if key == "train_seconds":
        units = ((3600.0, ", h"), (60.0, ", min"))
        return next((unit for unit in units if largest >= 3 * unit[0]), (1.0, ", s"))
    for factor, name in ((1e9, ", billions"), (1e6, ", millions"), (1e3, ", thousands")):
        if largest >= factor:
            return factor, name
    return 1.0, ""


def _amount(value: float) -> str:
    return format_count(value) if value >= 1000 else f"{value:.3g}"


def _known(value: float | None) -> str:
    return "nothing evaluated by then" if value is None else f"{value:.2f} %"


def _mean_over(variant: dict[str, Any], seeds: Sequence[int]) -> float:
    return fmean(variant["results"][variant["seeds"].index(seed)] for seed in seeds)
