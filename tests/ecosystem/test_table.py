import pytest

from tests.ecosystem.table import ATTENTION, PLACES, ROWS, Case


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.__name__)
@pytest.mark.parametrize("attention", ATTENTION)
def test_what_others_do(row, place, attention):
    row(Case(place, attention))
