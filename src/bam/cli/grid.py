"""Results of variants that combine attention with a second field, as a table of both."""

import dataclasses
from typing import Any

from bam.attention.spec import AttentionSpec
from bam.recipes import Recipe


def grid(summary: dict[str, Any]) -> dict[str, Any] | None:
    """Results by attention and by one field that variants set, e.g. cross_modal; None if the variants cross no field.

    Returns: "field", "columns" (one attention per column) and "rows". Each row has the field's "value" and "cells": the
    mean and std of each column's variant, or None if no variant has that combination.
    """
    for field in Recipe.from_dict(summary["recipe"]).VARIANT_FIELDS:
        cells: dict[tuple[str, str], dict[str, Any]] = {}
        for variant in summary["variants"]:
            spec = AttentionSpec.parse(variant["name"])
            rest = {name: value for name, value in spec.options.items() if name != field}
            attention = str(dataclasses.replace(spec, options=rest))
            value = str(spec.options.get(field, summary["recipe"].get(field)))
            cells[value, attention] = {"mean": variant["mean"], "std": variant["std"]}
        values, columns = (list(dict.fromkeys(key[k] for key in cells)) for k in (0, 1))
        if len(values) > 1 and len(columns) > 1:
            rows = [{"value": v, "cells": [cells.get((v, column)) for column in columns]} for v in values]
            return {"field": field, "columns": columns, "rows": rows}
    return None
