from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from demo.churn_process import churn_probability, expected_auc
from demo.population import Chunk, churn_examples


@pytest.fixture(scope="module")
def examples() -> pa.Table:
    return churn_examples(Chunk(0, 20_000), seed=8, last_month=date(2026, 9, 1))


def pairwise_auc(score: np.ndarray, label: np.ndarray) -> float:
    won = np.sign(score[label][:, None] - score[~label][None, :])
    return float((won.mean() + 1) / 2)


def replaced(table: pa.Table, **values: object) -> pa.Table:
    for name, value in values.items():
        column = pa.array([value] * len(table), table[name].type if value is None else None)
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def test_the_ceiling_is_the_mean_auc_of_sampled_labels(examples: pa.Table):
    truth = churn_probability(examples.slice(0, 1500))
    draws = np.random.default_rng(0)
    sampled = [pairwise_auc(truth, draws.random(len(truth)) < truth) for _ in range(200)]
    assert abs(expected_auc(truth) - np.mean(sampled)) < 4 * np.std(sampled) / np.sqrt(len(sampled))


def test_the_ceiling_is_the_formula_over_all_pairs():
    p = np.array([0.1, 0.1, 0.3, 0.9, 0.9, 0.5])  # ties included
    pairs = [(i, j) for i in range(len(p)) for j in range(len(p)) if i != j]
    weight = np.array([p[i] * (1 - p[j]) for i, j in pairs])
    won = np.array([(np.sign(p[i] - p[j]) + 1) / 2 for i, j in pairs])
    assert expected_auc(p) == pytest.approx((weight * won).sum() / weight.sum(), rel=1e-12)


def test_nothing_to_tell_rows_apart_means_one_half():
    assert expected_auc(np.full(50, 0.2)) == pytest.approx(0.5)


def test_no_other_score_of_the_same_rows_passes_the_ceiling(examples: pa.Table):
    truth = churn_probability(examples.slice(0, 3000))
    draws = np.random.default_rng(1)
    noisy = truth * np.exp(0.3 * draws.normal(size=len(truth)))
    labels = [draws.random(len(truth)) < truth for _ in range(40)]
    assert np.mean([pairwise_auc(noisy, label) for label in labels]) < expected_auc(truth)


def test_the_truth_reads_columns_as_a_lake_returns_them(examples: pa.Table):
    plain = pa.table(
        {
            name: examples[name].cast(pa.string()) if pa.types.is_dictionary(examples[name].type) else examples[name]
            for name in reversed(examples.column_names)
        }
    )
    cut = pa.concat_tables([plain.slice(7000), plain.slice(0, 7000)])  # several chunks, other first-seen order
    truth = churn_probability(examples)
    assert (churn_probability(cut) == np.roll(truth, -7000)).all()
    assert (churn_probability(examples.drop_columns(["churned", "customer_id"])) == truth).all()


def test_all_unseen_brands_are_one_bucket(examples: pa.Table):
    a, b = (churn_probability(replaced(examples, device_brand=brand)) for brand in ("oppo", "a brand of next year"))
    assert (a == b).all()
    assert (a > churn_probability(replaced(examples, device_brand="sony"))).all()


def test_a_missing_value_has_an_effect_of_its_own(examples: pa.Table):
    silent = churn_probability(replaced(examples, last_satisfaction=None))
    others = [churn_probability(replaced(examples, last_satisfaction=answer)) for answer in range(11)]
    assert all((silent != other).all() for other in others)


@pytest.mark.parametrize(
    ("cause", "before", "after", "where", "elsewhere"),
    [
        ("discount_share", 0.0, 0.3, {"days_to_contract_end": 20}, {"days_to_contract_end": 120}),
        ("outage_hours_30d", 0.0, 12.0, {"data_used_gb": 40.0}, {"data_used_gb": 2.0, "region": "north"}),
        ("late_payments_12m", 0, 1, {"payment_method": "direct_debit"}, {"payment_method": "card"}),
        ("tickets_90d", 1, 3, {"last_satisfaction": 3}, {"last_satisfaction": 8}),
    ],
)
def test_causes_interact(examples: pa.Table, cause, before, after, where, elsewhere):
    def rise(circumstances: dict) -> float:
        rows = replaced(examples, **circumstances)
        return (
            churn_probability(replaced(rows, **{cause: after})).mean()
            - churn_probability(replaced(rows, **{cause: before})).mean()
        )

    assert rise(where) > 0.03
    assert rise(elsewhere) < 0.01


def test_tenure_is_u_shaped(examples: pa.Table):
    new, settled, old = (
        churn_probability(replaced(examples, tenure_months=months, plan="plus")).mean() for months in (0, 40, 200)
    )
    assert new > 1.5 * settled
    assert old > 1.5 * settled
