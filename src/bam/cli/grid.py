"""Variants that cross two axes, as a table of both."""

import dataclasses
from typing import Any

from bam.attention.spec import AttentionSpec
from bam.recipes import Recipe


def grid(summary: dict[str, Any]) -> dict[str, Any] | None:
    """The results by attention and by a field that variants set, e.g. cross_modal; None if these are not crossed.

    Returns: "field", "columns" (the attention of each), and "rows": for each value of the field "value" and "cells",
    mean and std of the variants in the order of the columns, None where there is none.
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
