"""The best that can be known of a swipe: right as a probability, of the past alone, and beyond what others reach."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from scipy.linalg import expm
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits

from demo.episodes import HOME, STATES, SWIPES, rates
from demo.fraud_ceiling import Drift, fraud_probability
from demo.swipe_kinds import FRAUD, KINDS
from demo.transactions import Stream
from tests.demo.test_transactions import LAST, fraud  # noqa: F401  # a fixture


@pytest.fixture(scope="module")
def stream() -> Stream:
    return Stream(300_000, LAST, seed=11)


@pytest.fixture(scope="module")
def kind(stream: Stream) -> np.ndarray:
    return np.concatenate([stream.swipes(day).kind for day in stream.days])


@pytest.fixture(scope="module")
def probability(stream: Stream) -> np.ndarray:
    return fraud_probability(stream)


@pytest.mark.parametrize("days", [0.0, 1e-6, 0.01, 1.0, 40.0])
def test_a_belief_drifts_by_the_exponential_of_the_chain(days: float):
    rate = rates()
    change = rate.T - np.diag(rate.sum(axis=1) + SWIPES)
    belief = np.random.default_rng(0).dirichlet(np.ones(len(STATES)), 3)
    expected = belief @ expm(change * days).T
    np.testing.assert_allclose(Drift().after(belief, np.full(3, days)), expected, rtol=1e-7, atol=1e-13)


def test_silence_speaks_for_home():
    burst = np.zeros((1, len(STATES)))
    burst[0, int(np.argmax(SWIPES))] = 1
    later = Drift().after(burst, np.array([0.5]))[0]
    assert later.argmax() == HOME
    assert later.sum() < 1  # most bursts would have been seen


@pytest.mark.parametrize(("low", "high"), [(0, 0.001), (0.001, 0.02), (0.02, 0.5), (0.5, 0.95), (0.95, 1.01)])
def test_it_is_right_as_a_probability(probability: np.ndarray, kind: np.ndarray, low: float, high: float):
    rows = (probability >= low) & (probability < high)
    p, found = probability[rows], FRAUD[kind[rows]]
    noise = np.sqrt((p * (1 - p)).sum())  # of independent rows; those of an episode go together
    assert abs(found.sum() - p.sum()) < 5 * noise + 1


def test_it_says_nothing_else_if_nobody_knew_what_comes_later():
    before, after = Stream(26_000, LAST, seed=3), Stream(28_000, LAST + timedelta(days=7), seed=3, weeks=14)
    p, q = fraud_probability(before), fraud_probability(after)
    # Alike but for the mean number of everyday swipes, which a week more changes a little.
    np.testing.assert_allclose(q[: len(p)], p, rtol=0.05, atol=0.005)


def test_bursts_are_all_but_certain_and_a_single_misuse_is_not(probability: np.ndarray, kind: np.ndarray):
    middle = {k.name: float(np.median(probability[kind == j])) for j, k in enumerate(KINDS)}
    assert min(middle["testing"], middle["stolen"], middle["far"], middle["cashing"]) > 0.9
    assert middle["quiet"] < 0.2
    assert max(middle["everyday"], middle["journey"], middle["spree"], middle["play"]) < 0.001


def test_histories_tell_what_requests_do_not_and_the_ceiling_is_above_both(fraud, tmp_path):  # noqa: F811
    """What `models/fraud.yaml` declares separates fraud: counted as the nights count it, read by plain trees."""
    stream = Stream(150_000, LAST, seed=7)
    history, requested = features_of(fraud, stream, tmp_path)
    y = FRAUD[np.concatenate([stream.swipes(day).kind for day in stream.days])]
    learnt = np.arange(len(y)) < 0.7 * len(y)
    kept = learnt & (y | (np.random.default_rng(0).random(len(y)) < 0.15))
    found = {"best": average_precision_score(y[~learnt], fraud_probability(stream)[~learnt])}
    for name, columns in (("request", requested), ("history", history)):
        trees = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=16, early_stopping=False, random_state=0)
        with threadpool_limits(1, user_api="openmp"):  # on a busy machine, threads that wait for each other take long
            trees.fit(columns[kept], y[kept], sample_weight=np.where(y[kept], 1, 1 / 0.15))
            found[name] = average_precision_score(y[~learnt], trees.predict_proba(columns[~learnt])[:, 1])
    assert found["request"] + 0.15 < found["history"]
    assert found["history"] + 0.05 < found["best"]
    assert 0.75 < found["best"] < 0.95


def features_of(declaration, stream: Stream, scratch) -> tuple[np.ndarray, np.ndarray]:
    """Return what the model reads of each swipe, and what of it stands in the request; categories as codes."""
    from backends.history_windows import Windows, counted
    from models.encoding import screen_arrow
    from models.history import history_of
    from models.training.fit import contract_of

    contract = contract_of(declaration, "integer", "1")
    table = pa.concat_tables([stream.table(day) for day in stream.days])
    plain = pa.schema([f.with_type(pa.string()) if pa.types.is_dictionary(f.type) else f for f in table.schema])
    table = table.cast(plain)
    columns = ("transaction_id", "card_id", *contract.asked.features)
    windows = Windows(history_of(declaration.features, declaration.history), contract, columns, 0, 2**60)
    parts = list(counted(windows, table.schema, table.to_batches(), scratch, 2))
    history = np.concatenate([part.values for part in parts])
    keys = np.concatenate([part.rows.column("transaction_id").to_numpy() for part in parts])
    encoded = screen_arrow(contract.asked, table).encoded
    requested = np.hstack([encoded.numbers, encoded.categories])
    return np.hstack([requested, history[np.argsort(keys)]]), requested
