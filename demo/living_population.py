"""The demo's customers as they live on: the same ones week after week, until a competitor's campaign changes them.

And with them the truth: who is tempted behaves differently and leaves for other reasons. Both are functions of the
features and the day, so that the best possible AUC of any day is known. Whether somebody leaves is drawn for each day
anew; whoever leaves is replaced by somebody alike.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from demo.churn_process import Columns, Floats, churn_probability
from demo.draws import Draws, Flags
from demo.population import OUTCOME_DAYS, Chunk, active_customers

MOST_TEMPTED = 0.6  # of the customers, at the campaign's height
_TEMPTED, _LEAVES, _KNOWN = 11, 12, 13  # which draw: part of the random key
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Campaign:
    """A competitor's campaign: nobody knows of it before `starts`, and all that it tempts after `grows_days`."""

    starts: date
    grows_days: int = 21

    def strength(self, day: date) -> float:
        """Return how far it has come on a day, from 0 to 1."""
        return min(1.0, max(0.0, (day - self.starts).days / self.grows_days))


def living_customers(chunk: Chunk, *, seed: int, day: date, campaign: Campaign) -> pa.Table:
    """Return the customers as they stand at the start of a day: `active_customers`, and those that are tempted changed.

    Tempted ones try the competitor: their use falls, they look their contract up, and get an offer to stay.
    """
    table = active_customers(chunk, seed=seed, as_of=day)
    chance = Draws(chunk.rows, seed, _TEMPTED, chunk.index).uniform()
    tempted = pa.array(chance < MOST_TEMPTED * campaign.strength(day))
    changes = {
        "usage_trend": pc.max_element_wise(pc.subtract(table["usage_trend"], 0.35), -1.0, skip_nulls=False),
        "days_since_login": pc.min_element_wise(table["days_since_login"], 5, skip_nulls=False),
        "discount_share": pc.min_element_wise(pc.add(table["discount_share"], 0.15), 0.85),
        "monthly_charge": pc.multiply(table["monthly_charge"], 0.85),
    }
    for name, changed in changes.items():
        new = pc.if_else(tempted, changed.cast(table[name].type), table[name])
        table = table.set_column(table.schema.get_field_index(name), name, _rounded(new))
    return table


def living_probability(table: pa.Table, day: date, campaign: Campaign) -> Floats:
    """Return float64 [rows]: the true probability of leaving within 30 days of a day.

    Where the campaign has come, falling use says little, since it falls for everybody who tries something else; support
    has become better, so that tickets do not drive customers away; heavy users, and those who pay by card, are wanted.
    """
    strength = campaign.strength(day)
    before = churn_probability(table.append_column("observed_on", _observed_on(day, table)))
    c = Columns(table)
    heavy, falling = c["data_used_gb"] > 18, c["usage_trend"] < -0.3
    unhappy = (c["tickets_90d"] >= 2) & ~(c["last_satisfaction"] > 6)
    monthly, card = np.isnan(c["days_to_contract_end"]), c.among("payment_method", "card", "wallet")
    change = -0.9 - 1.9 * falling - 1.8 * unhappy + 2.2 * heavy + 1.0 * card + 0.8 * (heavy & monthly)
    score = np.log(before / (1 - before)) + strength * change
    return np.asarray(1 / (1 + np.exp(-score)), np.float64)


def leavers(chunk: Chunk, probability: Floats, *, seed: int, day: date) -> Flags:
    """Return bool [rows]: who of a day's customers leaves within the time."""
    flags: Flags = Draws(chunk.rows, seed, _LEAVES, chunk.index, (day - _EPOCH).days).uniform() < probability
    return flags


def known_outcomes(chunk: Chunk, *, seed: int, day: date, campaign: Campaign, share: float) -> pa.Table:
    """Return a share of a day's customers with what came of them: the columns of the examples table.

    It is known `OUTCOME_DAYS` later.
    """
    table = living_customers(chunk, seed=seed, day=day, campaign=campaign)
    left = leavers(chunk, living_probability(table, day, campaign), seed=seed, day=day)
    asked = Draws(chunk.rows, seed, _KNOWN, chunk.index, (day - _EPOCH).days).flag(share)
    examples = table.drop_columns("updated_at").add_column(1, "observed_on", _observed_on(day, table))
    return examples.append_column("churned", pa.array(left)).filter(pa.array(asked))


def newest_known_day(today: date, step: timedelta) -> date:
    """Return the newest of the days that are a whole number of steps before today and whose outcomes are known."""
    steps = -(-timedelta(days=OUTCOME_DAYS) // step)
    return today - steps * step


def _observed_on(day: date, table: pa.Table) -> pa.Array:
    return pa.repeat(pa.scalar(day, pa.date32()), len(table))


def _rounded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.round(column, 3) if pa.types.is_floating(column.type) else column
