"""The truth behind the demo: the probability that a customer leaves, and the best AUC that any model of it can have.

A function of what the lake holds and of nothing else: values as rounded there, a missing value as a state of its own,
an unknown category as one bucket. So the ceiling is exact for a model that reads the same columns and the calendar.
Effects interact and have thresholds; three of them drift over the months, slowly. Effects are log-odds.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from demo.customers import BRANDS, LIST_PRICES, PLANS

Floats = npt.NDArray[np.float64]
Effect = npt.NDArray[np.floating[Any] | np.bool_]
Flags = npt.NDArray[np.bool_]

BASE = -4.4
DAYS_A_YEAR = 365.25


class Columns:
    """Columns of an Arrow table as NumPy arrays; a missing number is NaN and fails every comparison."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __getitem__(self, name: str) -> Floats:
        """Return a number as float64 [rows]."""
        return cast(Floats, self._table[name].cast(pa.float64()).to_numpy())

    def among(self, name: str, *words: str | None) -> Flags:
        """Return bool [rows]: whether a category is one of `words`; None is missing."""
        column = self._table[name].combine_chunks()
        column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        known = np.array([word in words for word in (*column.dictionary.to_pylist(), None)])
        codes = column.indices.cast(pa.int32()).fill_null(len(known) - 1).to_numpy(zero_copy_only=False)
        return cast(Flags, known[codes])


def churn_probability(table: pa.Table) -> Floats:
    """Return float64 [rows]: the true probability of leaving within 30 days of `observed_on`.

    `table` has the features and `observed_on` (date32); categories may be plain or dictionary-encoded text.
    """
    columns = Columns(table)
    years = table["observed_on"].cast(pa.int32()).to_numpy() / DAYS_A_YEAR
    season = 0.12 * np.sin(2 * np.pi * years)  # more leave in spring than in autumn
    score: Floats = BASE + season
    for effect in _effects(columns, years):
        score = score + effect
    return 1 / (1 + np.exp(-score))


def expected_auc(probability: Floats) -> float:
    """Return the expected AUC of the true probabilities `probability` [rows] against labels drawn from them.

    With every pair weighted by the chance that `i` leaves and `j` stays, and half a point for a tie:

        sum_ij p_i (1 - p_j) ([p_i > p_j] + [p_i = p_j] / 2)  /  sum_ij p_i (1 - p_j),   i != j

    No other score of the same rows has a higher one: a pair is worth p_i (1 - p_j) when `i` is ranked first and
    p_j (1 - p_i) when `j` is; the former is larger exactly where p_i > p_j. The AUC of one draw of labels scatters
    around it.
    """
    return expected_auc_of(probability, probability)


def expected_auc_of(scores: npt.NDArray[np.floating[Any]], probability: Floats) -> float:
    """Return the expected AUC of any `scores` [rows] against labels drawn from the true `probability` [rows].

    The same sum as in `expected_auc`, with `s` for the order.
    """
    values, place = np.unique(scores, return_inverse=True)
    leave, stay, itself = (
        np.bincount(place, weight, len(values))
        for weight in (probability, 1 - probability, probability * (1 - probability))
    )
    below = np.cumsum(stay) - stay
    won = (leave * below).sum() + (leave * stay - itself).sum() / 2
    return float(won / (leave.sum() * stay.sum() - itself.sum()))


def _effects(c: Columns, years: Floats) -> Iterator[Effect]:
    yield from _commitment(c, years)
    yield from _service(c, years)
    yield from _money(c)
    yield from _habits(c)


def _commitment(c: Columns, years: Floats) -> Iterator[Effect]:
    """Tenure is U-shaped, a long term binds, and a discount that ends with the term is a price rise in sight."""
    tenure, left, discount = c["tenure_months"], c["days_to_contract_end"], c["discount_share"]
    monthly = np.isnan(left)
    lapsing = (left <= 60) & (discount >= 0.1)
    price_pressure = 1 + 0.25 * np.sin(2 * np.pi * years / 3)
    yield 1.1 * np.exp(-tenure / 4) + 0.9 * np.clip((tenure - 84) / 60, 0, 1) * ~c.among("plan", "business")
    yield np.where(monthly, 0.6, np.where(left <= 60, 0.8, np.where(left > 180, -1.2, -0.4)))
    yield lapsing * (1.0 + 4 * discount) * price_pressure
    yield monthly * c.among("acquisition_channel", "partner", "field_sales") * 0.9 * (tenure < 24)


def _service(c: Columns, years: Floats) -> Iterator[Effect]:
    """Tickets hurt where satisfaction is low or unknown; outages only those who live on data."""
    tickets, satisfaction = c["tickets_90d"], c["last_satisfaction"]
    outage, data = c["outage_hours_30d"], c["data_used_gb"]
    silent = np.isnan(satisfaction)
    heavy = (data > 20) | c.among("region", "islands")
    patience = 1 - 0.25 * np.sin(2 * np.pi * years / 2.5)
    yield np.where(silent, 0.25, np.where(satisfaction <= 4, 0.5, np.where(satisfaction >= 9, -0.5, 0)))
    yield (tickets >= 2) * np.where(silent, 0.9, np.where(satisfaction <= 6, 2.5, -0.2))
    yield heavy * np.minimum(outage, 24) / 24 * 3.2 * patience
    yield (tickets == 0) * (outage > 8) * heavy * 0.7  # who does not complain leaves


def _money(c: Columns) -> Iterator[Effect]:
    """Prices above the list or for more than is used; being late means something else by payment method."""
    late, charge = c["late_payments_12m"], c["monthly_charge"]
    listed = sum(price * c.among("plan", plan) for plan, price in zip(PLANS, LIST_PRICES.tolist(), strict=True))
    ratio = charge / listed
    yield np.clip((ratio - 1.1) / 0.4, 0, 1) * np.where(c["products_held"] >= 3, -0.3, 1.4)
    yield c.among("plan", "pro", "family") * (c["data_used_gb"] < 8) * 1.6
    yield (late >= 1) * c.among("payment_method", "direct_debit") * 2.0  # the account was closed
    yield (late >= 3) * c.among("payment_method", "invoice", "cash") * 0.8
    yield c.among("payment_method", "wallet") * np.where(late >= 1, -0.4, 0.4)


def _habits(c: Columns) -> Iterator[Effect]:
    """Falling use, a sudden login (to look up the contract), a brand that somebody else sells."""
    trend, login, age = c["usage_trend"], c["days_since_login"], c["age_years"]
    young = age < 30
    yield np.where(trend < -0.3, 2.1, np.where(trend > 0.25, -0.5, 0))
    yield np.where(np.isnan(login), 0, (login <= 1) * np.where(c["days_to_contract_end"] > 180, 0, 0.8))
    yield np.where(login > 60, 0.6, 0) * ~young
    yield young * (c["call_minutes"] == 0) * 0.5 + (age > 70) * (-0.6)
    yield np.isnan(c["data_used_gb"]) * 0.4
    yield ~c.among("device_brand", *BRANDS) * 0.7 - c.among("device_brand", "apple") * 0.15
