import numpy as np
from sklearn.metrics import roc_auc_score

from models.encoding import Encoded
from models.training.rates import cross_fitted, learn_rates, log_odds, many_valued

WIDTH = 200


def draw(effect, rows=4000, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, WIDTH, rows).astype(np.int32)
    y = (rng.random(rows) < 1 / (1 + np.exp(1 - effect * rng.normal(size=WIDTH)[codes]))).astype(np.float32)
    return Encoded(np.empty((rows, 0), np.float32), codes[:, None]), y


def test_values_that_do_not_differ_beyond_chance_all_read_nearly_alike():
    rows, y = draw(effect=0)
    odds = log_odds(rows.categories[:, 0], y, WIDTH)
    assert np.ptp(odds) < 0.5


def test_a_value_without_rows_reads_like_the_mean_of_all():
    rows, y = draw(effect=1)
    odds = log_odds(rows.categories[:, 0], y, WIDTH + 1)
    mean = y.mean()
    assert abs(odds[-1] - np.log(mean / (1 - mean))) < 0.01


def test_the_more_rows_a_value_has_the_nearer_it_is_to_its_own_rate():
    codes = np.repeat([0, 1, *range(2, 42)], [4, 400, *[50] * 40]).astype(np.int32)
    rng = np.random.default_rng(0)
    y = (rng.random(len(codes)) < np.repeat(rng.uniform(0.1, 0.5, 42), np.bincount(codes))).astype(np.float32)
    y[codes < 2] = 1
    few, many = log_odds(codes, y, 42)[:2]
    assert few < many


def test_no_row_reads_its_own_outcome():
    rows, y = draw(effect=0, rows=400)  # two rows of a value
    own = learn_rates(rows, y, (0,), [WIDTH]).added_to(rows).numbers[:, -1]
    others = cross_fitted(rows, y, (0,), [WIDTH], 0).numbers[:, -1]
    assert roc_auc_score(y, own) > 0.6
    assert roc_auc_score(y, others) < 0.58


def test_rates_tell_unseen_rows_what_values_mean():
    rows, y = draw(effect=1.5)
    half = np.arange(len(y)) % 2 == 0
    read = learn_rates(rows[half], y[half], (0,), [WIDTH]).added_to(rows[~half]).numbers[:, -1]
    assert roc_auc_score(y[~half], read) > 0.7


def test_only_categories_of_many_values_are_read_by_rates():
    codes = np.stack([np.arange(1000) % 30, np.arange(1000) % 31], axis=1).astype(np.int32)
    rows = Encoded(np.empty((1000, 0), np.float32), codes)
    assert many_valued(rows) == (1,)
    assert cross_fitted(rows, np.zeros(1000, np.float32), (), [31, 32], 0).numbers.shape == (1000, 0)
