"""Declarations of models of events: what their fields come to, and what is said when they disagree."""

from collections.abc import Callable
from pathlib import Path

import pytest

from models.declaration import Declaration, load_declaration
from models.errors import DeclarationError, Problem

FRAUD = """\
name: fraud
entity_key: card_id
events: {table: silver.card_transactions, key: transaction_id, time: occurred_at}
examples: {label: is_fraud}
features:
  amount:  {kind: number, min: 0, max: 50000}
  hour:    {kind: number}
  country: {kind: category, values: [de, fr]}
  swipes:  {kind: history, measure: count, window: 10min}
"""
CHURN = """\
name: fraud
entity_key: customer_id
population: {table: silver.active_customers}
examples: {table: silver.churn_examples, label: churned, time: observed_on}
features:
  age: {kind: number, min: 0, max: 100}
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Declaration]:
    def load(text: str) -> Declaration:
        (tmp_path / "fraud.yaml").write_text(text)
        return load_declaration(tmp_path / "fraud.yaml")

    return load


@pytest.fixture
def problems(load) -> Callable[[str], dict[str, Problem]]:
    def problems(text: str) -> dict[str, Problem]:
        with pytest.raises(DeclarationError) as caught:
            load(text)
        found = {problem.field: problem for problem in caught.value.problems}
        assert len(found) == len(caught.value.problems), "a problem is said twice"
        assert all(problem.remedy for problem in found.values())
        return found

    return problems


def test_a_model_of_events_learns_from_its_own_features_unless_told_otherwise(load):
    fraud = load(FRAUD)
    assert (fraud.examples.table, fraud.examples.time) == ("silver.fraud_features", "occurred_at")
    assert fraud.scored_table == fraud.features_table == "silver.fraud_features"
    assert (fraud.source_table, fraud.outcomes_table) == ("silver.card_transactions", "silver.card_transactions")
    assert (fraud.row_key, fraud.scored_time) == ("transaction_id", "occurred_at")
    other = load(FRAUD.replace("{label: is_fraud}", "{label: is_fraud, table: silver.labelled, time: known_at}"))
    assert (other.examples.table, other.examples.time) == ("silver.labelled", "known_at")


def test_a_model_of_entities_is_as_it_was(load):
    churn = load(CHURN)
    assert churn.scored_table == churn.source_table == "silver.active_customers"
    assert (churn.row_key, churn.scored_time, churn.events_of("integer")) == ("customer_id", None, None)


@pytest.mark.parametrize(
    ("window", "microseconds"),
    [("30s", 30_000_000), ("10min", 600_000_000), ("1h", 3_600_000_000), ("30d", 2_592_000_000_000)],
)
def test_a_window_is_a_number_and_a_unit(load, window: str, microseconds: int):
    assert load(FRAUD.replace("10min", window)).features["swipes"].microseconds == microseconds


@pytest.mark.parametrize("window", ["30", "h", "0h", "1 h", "1m", "1.5h", "-1h", "1H", "3651d", "90000h"])
def test_other_windows_are_refused(problems, window: str):
    found = problems(FRAUD.replace("10min", window))
    assert len(found) == 1
    assert next(iter(found)).startswith("features.swipes")


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        (FRAUD + "population: {table: silver.cards}\n", "events", "stands beside `population`"),
        (FRAUD.replace("events:", "evens:"), "population", "is missing, and `events` too"),
        (CHURN.replace("table: silver.churn_examples, ", ""), "examples.table", "is missing"),
        (CHURN + "history: {max_events: 3}\n", "history", "is of no use without `events`"),
        (CHURN + "  n: {kind: history, measure: count, window: 1h}\n", "features.n", "there are none"),
        (FRAUD.replace("transaction_id", "card_id"), "events.key", "is also the entity_key"),
        (FRAUD.replace("occurred_at", "transaction_id"), "events.time", "is also the events.key"),
        (FRAUD + "  transaction_id: {kind: number}\n", "features.transaction_id", "is also the events.key"),
        (FRAUD + "  occurred_at: {kind: number}\n", "features.occurred_at", "is also the e"),
        (FRAUD + "  event_day: {kind: number}\n", "features.event_day", "is a name that is taken"),
        (FRAUD.replace("card_id", "event_day"), "entity_key", "is a name that is taken"),
        (FRAUD.replace("transaction_id", "scored_at"), "events.key", "is a name that requests or answers use"),
        (
            FRAUD + "decision_threshold: 0.2\ndecision_costs: {missed: 2, false_alarm: 1}\n",
            "decision_threshold",
            "beside",
        ),
        (FRAUD + "decision_costs: {missed: 0, false_alarm: 1}\n", "decision_costs.missed", "greater than 0"),
        (FRAUD + "history: {resolution: 0}\n", "history.resolution", "greater than 0"),
        (FRAUD + "history: {max_events: 0}\n", "history.max_events", "greater than or equal to 1"),
    ],
)
def test_what_disagrees_is_said_with_its_remedy(problems, text: str, field: str, said: str):
    found = problems(text)
    assert said in found[field].message
    assert set(found) - {field} <= (
        {"evens", "features.swipes", "examples.table", "examples.time"} if "evens" in found else set()
    )


@pytest.mark.parametrize(
    ("feature", "field", "said"),
    [
        ("{measure: sum, window: 1h}", "features.x.of", "is missing"),
        ("{measure: sum, of: amonut, window: 1h}", "features.x.of", "is not one of the features"),
        ("{measure: sum, of: country, window: 1h}", "features.x.of", "is a category, and 'sum' measures a number"),
        ("{measure: same, of: amount, window: 1h}", "features.x.of", "is a number, and 'same' measures a category"),
        ("{measure: mean, of: swipes, window: 1h}", "features.x.of", "is a history, and 'mean' measures a number"),
        ("{measure: count, of: amount, window: 1h}", "features.x.of", "is of no use to the measure 'count'"),
        ("{measure: since_last, of: amount, window: 1h}", "features.x.of", "is of no use"),
        ("{measure: median, of: amount, window: 1h}", "features.x.measure", "input should be"),
        ("{measure: count}", "features.x.window", "is missing"),
        ("{measure: ratio, of: hour, window: 1h}", "features.hour", "has not both bounds"),
        ("{measure: count, window: 1h, max: 3}", "features.x.max", "input should be None"),
        ("{measure: count, window: 1h, missing: false}", "features.x.missing", "input should be True"),
    ],
)
def test_a_history_that_cannot_be_counted_is_refused(problems, feature: str, field: str, said: str):
    found = problems(FRAUD + f"  x: {feature.replace('{', '{kind: history, ')}\n")
    assert list(found) == [field]
    assert said in found[field].message


def test_sums_that_would_not_be_exact_are_refused(problems, load):
    spent = FRAUD + "  x: {kind: history, measure: sum, of: amount, window: 1h}\n"
    load(spent)
    found = problems(spent.replace("50000", "1e12"))
    assert list(found) == ["features.amount"]
    assert "beyond the 9.0e+15 that are exact" in found["features.amount"].message
    load(spent.replace("50000", "1e12") + "history: {resolution: 1}\n")
    assert list(problems(spent + "history: {resolution: 1e-9}\n")) == ["features.amount"]


def test_the_fingerprint_changes_with_what_the_features_mean_and_with_nothing_else(load):
    same = [FRAUD, FRAUD + "decision_threshold: 0.1\n", FRAUD.replace("min: 0,", "description: Paid, min: 0,")]
    assert len({load(text).features_fingerprint for text in same}) == 1
    others = [FRAUD.replace("10min", "11min"), FRAUD.replace("_id, t", "_nr, t"), FRAUD + "history: {max_events: 9}\n"]
    assert len({load(text).features_fingerprint for text in [FRAUD, *others]}) == 4
