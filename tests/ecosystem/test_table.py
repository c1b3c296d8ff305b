from pathlib import Path

import pytest

from tests.ecosystem.table import ATTENTION, PLACES, ROWS, Case, section

REFUSALS = {
    "attached_later": "Accelerate has spread the model over devices (cpu_offload, disk_offload or a device map): "
    "attach to the model before that, or call accelerate.hooks.remove_hook_from_submodules(model) first",
    "scripted": "a network with attention can be traced, not scripted: use torch.jit.trace, or "
    'bam.export.export_model(model, "model.torchscript"), which traces it for any image size',
}


CASES = [
    pytest.param(place, attention, marks=[] if attention == "bam" or place == "layer" else [pytest.mark.slow])
    for place in PLACES
    for attention in ATTENTION
]


@pytest.mark.parametrize(("place", "attention"), CASES)
@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.__name__)
def test_what_others_do(row, place, attention):
    assert row(Case(place, attention)) == REFUSALS.get(row.__name__)


def test_the_page_has_every_row():
    page = (Path(__file__).parents[2] / "docs" / "coverage.md").read_text()
    shown = {name: {place: REFUSALS.get(row.__name__, "pass") for place in PLACES} for name, row in ROWS.items()}
    assert section(shown) in page
