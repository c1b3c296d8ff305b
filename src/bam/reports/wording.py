"""The text of reports: verdicts, notes, and numbers with units."""

from typing import Any

from bam.costs import format_count

_DECISIVE = ("device", "precision", "processes", "versions", "kernel")  #: environment entries that change results


def heading(summary: dict[str, Any]) -> str:
    """The recipe and the variants compared, in one line."""
    names = [variant["name"] for variant in summary["variants"]]
    text = " against ".join(names)
    if len(names) > 2 and len(text) > 60:
        text = f"{names[0]} against {len(names) - 1} variants"
    return f"{summary['recipe']['name']}: {text}"


def verdict_kind(verdict: str) -> str:
    """A verdict without its reason: better, worse, no difference shown, or no verdict."""
    kinds = ("better", "worse", "no difference shown")
    return next((kind for kind in kinds if verdict.startswith(kind)), "no verdict")


def verdict_parts(comparison: dict[str, Any], measure: dict[str, Any]) -> tuple[str, str]:
    """The verdict on one variant in two parts: better, worse or no difference shown; then the difference."""
    name, baseline, verdict = comparison["name"], comparison["baseline"], comparison["verdict"]
    label, count = measure["label"], len(comparison["seeds"])
    kind = verdict_kind(verdict)
    if kind in ("better", "worse"):
        lead = f"{name} is {kind} than {baseline}"
    elif kind == "no difference shown":
        lead = f"No difference shown between {name} and {baseline}"
    else:
        reason = verdict.removeprefix("no verdict: ")
        lead = f"No verdict on {name} against {baseline} ({reason})"
    corrected = comparison["corrected_interval"]
    ends, percent = corrected or comparison["interval"], round(100 * comparison["confidence"])
    text = f"{label} {comparison['mean']:+.2f} percentage points"
    if ends:
        text += f", {percent} % confidence interval {interval_text(ends)}{' (Holm)' if corrected else ''}"
    return lead, f"{text}, {count} paired seed{'s' if count > 1 else ''}."


def verdict_notes(comparison: dict[str, Any], number: int) -> str:
    """The note below a verdict: the correction for `number` comparisons, and the seeds needed to halve the interval."""
    sentences = []
    if comparison["corrected_interval"]:
        plain = interval_text(comparison["interval"])
        sentences.append(f"Corrected for {number} comparisons (Holm); the uncorrected interval is {plain}.")
    if comparison["seeds_to_halve"]:
        sentences.append(f"{comparison['seeds_to_halve']} seeds would halve the interval.")
    return " ".join(sentences)


def table(summary: dict[str, Any]) -> list[str]:
    """The results as lines for a terminal."""
    label = summary["measures"][0]["label"]
    lines = [
        f"{v['name']}: {percent(v['mean'], v['std'])} {label}, {v['params']:,} parameters, "
        f"{format_count(v['macs'])} MACs, {rate(v['images_per_second'])} images/s in training"
        for v in summary["variants"]
    ]
    for c in summary["comparisons"]:
        difference = f"{c['mean']:+.2f} points {interval_text(c['interval'])}"
        corrected = f", corrected (Holm) {interval_text(c['corrected_interval'])}" if c["corrected_interval"] else ""
        more = f"; {c['seeds_to_halve']} seeds would halve the interval" if c["seeds_to_halve"] else ""
        lines.append(f"{c['name']} - {c['baseline']}: {difference}{corrected}: {c['verdict']}{more}")
    return [*lines, *warnings(summary), *probe_notes(summary)]


def warnings(summary: dict[str, Any]) -> list[str]:
    """Reasons to doubt the results: failed runs, and runs that differ in more than attention and seed."""
    lines = [f"{failed['name']} seed {failed['seed']} failed: {failed['reason']}" for failed in summary["failures"]]
    mixed = []
    for name, values in summary["other_environments"].items():
        if name in _DECISIVE or (name == "threads" and summary["environment"].get("device") == "cpu"):
            first = summary["environment"].get(name, "unknown")
            mixed.append(f"{name} ({'; '.join(map(_plain, _differing([first, *values])))})")
    if mixed:
        lines.append(f"the runs differ in {', '.join(mixed)}, which may explain differences between them")
    return lines


def _differing(values: list[Any]) -> list[Any]:
    """The values; of mappings only the entries that differ."""
    if not all(isinstance(value, dict) for value in values):
        return values
    names = dict.fromkeys(name for value in values for name in value)
    changed = [name for name in names if any(value.get(name) != values[0].get(name) for value in values)]
    return [{name: value.get(name, "unknown") for name in changed} for value in values]


def probe_notes(summary: dict[str, Any]) -> list[str]:
    """The result of a linear probe of the pretrained features, with a warning if the baseline does worse."""
    measure = summary["measures"][0]
    if not summary["probe"] or measure["key"] not in summary["probe"]:
        return []
    reached, baseline = 100 * summary["probe"][measure["key"]], summary["variants"][0]
    note = f"linear probe of the frozen features: {reached:.2f} % {measure['label']}"
    if baseline["mean"] <= reached:
        return [note]
    return [
        f"{note}. The baseline {baseline['name']} is worse ({baseline['mean']:.2f} %): training spoils the pretrained "
        "features, so the comparison says little about attention; try a lower lr or more epochs"
    ]


def environment_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The environment of the runs as (name, value) rows, and entries that differ between runs."""
    environment = summary["environment"]
    versions = environment.get("versions", {})
    rows = [(name, _plain(value)) for name, value in environment.items() if name != "versions"]
    rows += [(name, str(value)) for name, value in versions.items() if value != "unknown"]
    for name, values in summary["other_environments"].items():
        rows.append((f"{name}, in other runs", "; ".join(map(_plain, values))))
    return rows


def percent(mean: float | None, deviation: float | None) -> str:
    """A percentage with its standard deviation, if known; "-" without a mean."""
    if mean is None:
        return "-"
    return f"{mean:.2f} %" if deviation is None else f"{mean:.2f} ± {deviation:.2f} %"


def relative(value: float, baseline: float) -> str:
    """The relative difference from the baseline, in percent."""
    return f"{100 * (value / baseline - 1):+.1f} %" if baseline else "-"


def rate(images_per_second: float) -> str:
    """A rate with a sensible number of digits."""
    return f"{images_per_second:,.{0 if images_per_second >= 10 else 1}f}"


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 3 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"


def epochs_text(epochs: list[int | None]) -> str:
    """The epochs of several seeds: one number or a range, with "none" if a seed had nothing evaluated."""
    known = sorted({epoch for epoch in epochs if epoch is not None})
    text = f"{known[0]} to {known[-1]}" if len(known) > 1 else "".join(map(str, known))
    return ", ".join(part for part in (text, "none" if None in epochs else "") if part)


def interval_text(interval: list[float] | None) -> str:
    """An interval in brackets."""
    return "(no interval)" if interval is None else f"[{interval[0]:+.2f}, {interval[1]:+.2f}]"


def capitalized(text: str) -> str:
    """`text` with its first letter capitalized and the rest unchanged."""
    return text[:1].upper() + text[1:]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return str(value)


def share(estimate: dict[str, Any], with_interval: bool = True) -> str:
    """A mean over images, in percent, with its interval."""
    mean, interval = f"{100 * estimate['mean']:.1f} %", estimate["interval"]
    if not with_interval or interval is None:
        return mean
    return f"{mean} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def examination_lines(results: dict[str, Any]) -> list[str]:
    """The results of `bam.explanation.examine`, as lines for a terminal."""
    ablations = results["ablations"]
    skipped = f", {results['num_unreadable']} unreadable ones left out" if results["num_unreadable"] else ""
    if ablations is None:  # a detector
        lines = [f"{results['num_images']} images with objects{skipped}"]
        lines += [f"{site}: {_pointing(values)}" for site, values in results["pointing"].items()]
        return [*lines, *_corrected(results["pointing"])]
    lines = [f"{results['num_images']} images{skipped}, accuracy {share(ablations['accuracy'])}"]
    for site, values in results["statistics"].items():
        entropy = "" if values["entropy"] is None else f", entropy over places {values['entropy']:.3f}"
        lines.append(f"{site}: mean gain {values['mean_gain']:.3f}{entropy}, dead maps {100 * values['dead']:.1f} %")
        if results["pointing"] is not None:
            lines.append(f"  {_pointing(results['pointing'][site])}")
        if values["classes"] is not None:
            lines.append(f"  {_selectivity(values['classes'])}")
        lines.append(f"  deletion and insertion: {results['faithfulness'][site]['verdict']}")
        off = ablations["sites_off"][site]
        lines.append(f"  without this site: accuracy {share(off['accuracy'])}: {off['verdict']}")
    off = ablations["all_off"]
    lines.append(f"all attention off: accuracy {share(off['accuracy'])}: {off['verdict']}")
    for name, alone in ablations["branches_alone"].items():
        lines.append(f"{name} branch alone: accuracy {share(alone['accuracy'])}: {alone['verdict']}")
    return [*lines, *_corrected(results["statistics"])]


def _selectivity(classes: dict[str, Any]) -> str:
    """The three channels that tell classes apart best, in one line."""
    known = {k: value for k, value in enumerate(classes["selectivity"]) if value is not None}
    best = sorted(known, key=lambda k: -known[k])[:3]
    chance = classes["selectivity_by_chance"]
    by_chance = "" if chance is None else f"; by chance {chance:.3f} on average"
    listed = ", ".join(f"{k} ({known[k]:.3f})" for k in best) or "none varies"
    return f"most selective channels (share of variance between classes): {listed}{by_chance}"


def _pointing(values: dict[str, Any]) -> str:
    hits = values["hits"]
    others = ", ".join(f"{name.replace('_', '-')} {share(other, False)}" for name, other in hits["others"].items())
    return f"points into the box: {share(hits['attention'])} ({others}): {hits['verdict']}"


def _corrected(sites: dict[str, Any]) -> list[str]:
    note = f"verdicts on sites are corrected for {len(sites)} sites (Holm); intervals are not"
    return [note] if len(sites) > 1 else []
