"""Sums of money: what predictions cost, and what came since the last reading."""

import pytest

from models.costs import Usage


def test_an_hour_of_one_core_costs_its_price():
    assert Usage(1, 3600.0).money(0.05) == 0.05


@pytest.mark.parametrize("predictions", [1, 5_000_000])
def test_the_price_of_a_million_does_not_depend_on_how_many_there_are(predictions):
    usage = Usage(predictions, predictions * 2e-6)
    assert usage.microseconds_each == pytest.approx(2.0)
    assert usage.money_per_million(3.6) == pytest.approx(2 / 3600 * 3.6)


def test_no_prediction_has_no_price():
    with pytest.raises(ZeroDivisionError):
        _ = Usage(0, 1.0).money_per_million(1.0)


@pytest.mark.parametrize(
    ("now", "before", "between"),
    [
        (Usage(100, 2.0), None, Usage(100, 2.0)),
        (Usage(100, 2.0), Usage(60, 1.5), Usage(40, 0.5)),
        (Usage(100, 2.0), Usage(100, 1.5), Usage(0, 0.5)),
        (Usage(100, 2.0), Usage(101, 1.0), Usage(100, 2.0)),  # it was started again
        (Usage(100, 2.0), Usage(50, 9.0), Usage(100, 2.0)),  # and had a busy start before
    ],
)
def test_counters_that_began_again_count_from_there(now, before, between):
    assert now.since(before) == between
