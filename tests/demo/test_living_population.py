"""The company's customers before and after the campaign: who they are, why they leave, and what is known of it."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from demo.churn_process import churn_probability, expected_auc, expected_auc_of
from demo.living_population import (
    MOST_TEMPTED,
    Campaign,
    known_outcomes,
    leavers,
    living_customers,
    living_probability,
    newest_known_day,
)
from demo.population import CHUNK_ROWS, Chunk, active_customers, churn_examples
from models.contract import Contract
from models.encoding import encode_arrow

BEFORE, HEIGHT = date(2026, 1, 5), date(2026, 4, 6)
CAMPAIGN = Campaign(date(2026, 2, 2))
CHUNK = Chunk(0, 20_000)
WEEK = timedelta(days=7)


def customers(day: date, chunk: Chunk = CHUNK, seed: int = 5) -> pa.Table:
    return living_customers(chunk, seed=seed, day=day, campaign=CAMPAIGN)


def outcomes(day: date, share: float = 0.25) -> pa.Table:
    return known_outcomes(CHUNK, seed=5, day=day, campaign=CAMPAIGN, share=share)


def test_the_campaign_grows_from_nothing_to_its_height_in_three_weeks():
    days = [CAMPAIGN.starts + timedelta(days=n) for n in (-100, 0, 7, 14, 21, 500)]
    assert [CAMPAIGN.strength(day) for day in days] == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1])


def test_before_the_campaign_the_customers_are_the_demos(churn: Contract):
    plain = active_customers(CHUNK, seed=5, as_of=BEFORE)
    assert encode_arrow(churn, customers(BEFORE)).numbers.tobytes() == encode_arrow(churn, plain).numbers.tobytes()
    assert customers(BEFORE).schema == plain.schema


def test_before_the_campaign_the_truth_is_the_demos():
    table = customers(BEFORE)
    observed = table.append_column("observed_on", pa.array([BEFORE] * len(table), pa.date32()))
    assert living_probability(table, BEFORE, CAMPAIGN) == pytest.approx(churn_probability(observed))


def test_the_same_seed_gives_the_same_weeks():
    assert customers(HEIGHT) == customers(HEIGHT)
    assert outcomes(HEIGHT) == outcomes(HEIGHT)
    assert customers(HEIGHT, seed=6)["usage_trend"] != customers(HEIGHT)["usage_trend"]


def test_who_is_tempted_stays_tempted():
    day = CAMPAIGN.starts + WEEK
    tempted = [
        customers(each)["monthly_charge"].to_numpy()
        < active_customers(CHUNK, seed=5, as_of=each)["monthly_charge"].to_numpy()
        for each in (day, HEIGHT)
    ]
    assert not (tempted[0] & ~tempted[1]).any()
    assert [flags.mean() for flags in tempted] == pytest.approx([MOST_TEMPTED / 3, MOST_TEMPTED], abs=0.02)


def test_every_value_fits_the_declaration_at_the_campaigns_height(churn: Contract):
    for chunk in (CHUNK, Chunk(3, 5000)):
        encode_arrow(churn, customers(HEIGHT, chunk))  # refuses what is out of bounds, or missing where it may not be


def test_tempted_customers_try_something_else_and_get_an_offer():
    before, now = active_customers(CHUNK, seed=5, as_of=HEIGHT), customers(HEIGHT)
    for name, sign in (("usage_trend", -1), ("days_since_login", -1), ("discount_share", 1), ("monthly_charge", -1)):
        known = before[name].is_valid().to_numpy()
        change = (now[name].to_numpy() - before[name].to_numpy())[known]
        assert np.sign(change[np.abs(change) > 1e-9]).tolist() == [sign] * int((np.abs(change) > 1e-9).sum()), name
        assert now[name].null_count == before[name].null_count


def test_the_old_reasons_to_leave_rank_badly_once_the_campaign_has_come():
    table = customers(HEIGHT)
    truth = living_probability(table, HEIGHT, CAMPAIGN)
    observed = table.append_column("observed_on", pa.array([HEIGHT] * len(table), pa.date32()))
    assert expected_auc(truth) > 0.88
    assert expected_auc_of(churn_probability(observed), truth) < 0.80


def test_outcomes_come_about_as_the_truth_says():
    truth = living_probability(customers(HEIGHT), HEIGHT, CAMPAIGN)
    left = leavers(CHUNK, truth, seed=5, day=HEIGHT)
    for low, high in ((0, 0.05), (0.05, 0.2), (0.2, 1)):
        rows = (truth >= low) & (truth < high)
        noise = np.sqrt((truth[rows] * (1 - truth[rows])).sum()) / rows.sum()
        assert abs(left[rows].mean() - truth[rows].mean()) < 4 * noise


def test_known_outcomes_are_of_scored_customers_in_the_form_of_the_examples():
    known, scored = outcomes(HEIGHT), customers(HEIGHT)
    assert known.schema == churn_examples(Chunk(0, 1), seed=0, last_month=HEIGHT).schema
    assert 0.23 < len(known) / len(scored) < 0.27
    assert set(known["customer_id"].to_pylist()) < set(scored["customer_id"].to_pylist())
    assert known["observed_on"].unique().to_pylist() == [HEIGHT]
    same = scored.filter(pa.array(np.isin(scored["customer_id"].to_numpy(), known["customer_id"].to_numpy())))
    assert known["usage_trend"] == same["usage_trend"]


def test_other_days_make_other_outcomes_known():
    first, second = (set(outcomes(day)["customer_id"].to_pylist()) for day in (BEFORE, BEFORE + WEEK))
    assert len(first & second) < 0.5 * len(first)


def test_an_outcome_is_known_after_whole_weeks():
    assert newest_known_day(HEIGHT, WEEK) == HEIGHT - 5 * WEEK
    assert newest_known_day(HEIGHT, timedelta(days=1)) == HEIGHT - timedelta(days=30)
    assert newest_known_day(HEIGHT, timedelta(days=30)) == HEIGHT - timedelta(days=30)


def test_a_later_chunk_has_customers_of_its_own():
    ids = [set(customers(HEIGHT, chunk)["customer_id"].to_pylist()) for chunk in (Chunk(0, 100), Chunk(1, 100))]
    assert not ids[0] & ids[1]
    assert min(ids[1]) > 10_000_000 + 8 * (CHUNK_ROWS - 1)


# --- the expected AUC of any scores ---------------------------------------------------------------------------------


def test_the_expected_auc_of_the_truth_is_the_best_possible():
    truth = np.round(np.random.default_rng(0).beta(1, 9, 500), 2)  # with ties
    assert expected_auc_of(truth, truth) == pytest.approx(expected_auc(truth))
    assert expected_auc_of(np.random.default_rng(1).random(500), truth) < expected_auc(truth)


def test_the_expected_auc_is_the_sum_over_pairs():
    rng = np.random.default_rng(2)
    truth, scores = rng.random(60), np.round(rng.random(60), 1).astype(np.float32)
    weight = truth[:, None] * (1 - truth) * (1 - np.eye(60))
    won = (scores[:, None] > scores) + 0.5 * (scores[:, None] == scores)
    assert expected_auc_of(scores, truth) == pytest.approx((weight * won).sum() / weight.sum())
