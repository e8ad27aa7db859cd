"""The paired bootstrap: held against brute force, scikit-learn and the truth, and what its intervals come to."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from models.declaration import Comparison, Gates
from models.training.comparison import Gain, Ranking, behind, compare, draws, outcome
from models.training.comparison_plots import gain_histograms

QUICK = Comparison(resamples=100)


def drawn(rows: int, seed: int = 0, noise: tuple[float, float] = (0.5, 1.0), decimals: int | None = None):
    """Return outcomes, and two models' scores that see the truth through noise; rounded ones have ties."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-0.5, 1, rows)
    y = (rng.random(rows) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    shared = rng.normal(0, 0.5, rows)
    models = [1 / (1 + np.exp(-truth - shared - rng.normal(0, each, rows))) for each in noise]
    return y, *(np.float32(scores if decimals is None else scores.round(decimals)) for scores in models)


# --- against brute force ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decimals", [None, 2, 1, 0])
def test_each_resample_has_scikit_learns_gains(decimals):
    y, candidate, champion = drawn(80, decimals=decimals)
    gains = compare(y, candidate, champion, QUICK)
    for auc, nats, counts in zip(gains["auc"].resampled, gains["log_loss"].resampled, draws(y, QUICK), strict=True):
        weighted = [roc_auc_score(y, scores, sample_weight=counts) for scores in (candidate, champion)]
        assert auc == pytest.approx(weighted[0] - weighted[1], abs=1e-12)
        losses = [log_loss(y, s.astype(np.float64), sample_weight=counts) for s in (candidate, champion)]
        assert nats == pytest.approx(losses[1] - losses[0], abs=1e-12)


@pytest.mark.parametrize("decimals", [None, 1])
def test_the_gains_themselves_are_those_of_the_rows_as_they_are(decimals):
    y, candidate, champion = drawn(300, decimals=decimals)
    gains = compare(y, candidate, champion, QUICK)
    assert gains["auc"].value == pytest.approx(roc_auc_score(y, candidate) - roc_auc_score(y, champion), abs=1e-12)
    saved = log_loss(y, champion.astype(np.float64)) - log_loss(y, candidate.astype(np.float64))
    assert gains["log_loss"].value == pytest.approx(saved, abs=1e-12)


def test_pairs_are_counted_one_by_one_and_ties_half():
    y, scores = np.float32([1, 0, 1, 0, 0]), np.float32([0.5, 0.5, 0.9, 0.1, 0.9])
    counts = np.array([2, 1, 1, 3, 0])
    twice = sum(
        counts[i] * counts[j] * (2 * (scores[i] > scores[j]) + (scores[i] == scores[j]))
        for i in range(5)
        for j in range(5)
        if y[i] == 1 and y[j] == 0
    )
    assert Ranking(y, scores).won(counts) == twice


def test_the_interval_is_that_of_percentiles_and_the_probability_a_share():
    gain = compare(*drawn(400), Comparison(resamples=500, confidence=0.9))["log_loss"]
    assert (gain.lower, gain.upper) == pytest.approx(tuple(np.quantile(gain.resampled, [0.05, 0.95])), rel=1e-12)
    assert gain.probability == (gain.resampled > 0).mean()
    assert len(gain.resampled) == 500


# --- what must hold ---------------------------------------------------------------------------------------------------


def test_a_model_against_itself_gains_exactly_nothing_and_ties():
    y, scores, _ = drawn(500)
    gains = compare(y, scores, scores.copy(), QUICK)
    for gain in gains.values():
        assert (gain.value, gain.lower, gain.upper, gain.probability) == (0, 0, 0, 0.5)
        assert not gain.resampled.any()
    assert outcome(Gates(), gains) == "tie"


def test_changing_places_changes_the_signs_and_nothing_else():
    y, one, other = drawn(500)
    forth, back = compare(y, one, other, QUICK), compare(y, other, one, QUICK)
    for metric, gain in forth.items():
        np.testing.assert_array_equal(gain.resampled, -back[metric].resampled)
        assert gain.value == -back[metric].value


def test_the_same_seed_gives_the_same_gains_and_another_one_others():
    rows = drawn(200)
    first, again, other = (compare(*rows, Comparison(resamples=100, seed=seed))["auc"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.resampled, again.resampled)
    assert first.lower != other.lower
    assert first.value == other.value


def test_the_order_of_the_rows_does_not_move_the_gains_of_the_rows():
    y, candidate, champion = drawn(300, decimals=1)
    turned = np.random.default_rng(1).permutation(300)
    assert compare(y[turned], candidate[turned], champion[turned], QUICK)["auc"].value == pytest.approx(
        compare(y, candidate, champion, QUICK)["auc"].value, abs=1e-15
    )


def test_constant_scores_rank_nothing_and_lose_to_a_model_that_does():
    y, scores, _ = drawn(600, noise=(0.1, 1.0))
    constant = np.full_like(scores, y.mean())
    gains = compare(y, scores, constant, QUICK)
    assert gains["auc"].value == pytest.approx(roc_auc_score(y, scores) - 0.5)
    assert gains["auc"].lower > 0.1
    assert outcome(Gates(), compare(y, constant, scores, QUICK)) == "worse"


def test_certain_scores_that_are_wrong_cost_much_and_not_infinitely():
    y = np.float32([0, 1] * 20)
    gains = compare(y, 1 - y, y, QUICK)
    assert gains["log_loss"].value == pytest.approx(-36.04, abs=0.01)
    assert gains["auc"].value == -1


def test_a_resample_of_one_outcome_is_drawn_again():
    y = np.zeros(12, np.float32)
    y[3] = 1
    counts = list(draws(y, QUICK))
    assert len(counts) == 100
    assert all(each[3] >= 1 and each.sum() == 12 for each in counts)
    gains = compare(y, np.linspace(0.1, 0.9, 12, dtype=np.float32), np.full(12, 0.5, np.float32), QUICK)
    assert np.isfinite(gains["auc"].resampled).all()


def test_two_rows_are_enough_to_compare_and_not_to_win():
    y = np.float32([0, 1])
    gains = compare(y, np.float32([0.4, 0.6]), np.float32([0.5, 0.5]), QUICK)
    assert gains["auc"].value == 0.5
    assert np.isfinite(gains["log_loss"].resampled).all()


def test_intervals_cover_the_true_gain_as_often_as_they_promise():
    """Of 150 samples, about 135 must have the true gain in their 90 % interval: 126 to 144 in 98 of 100 such tests."""
    truth = compare(*drawn(200_000, seed=99), Comparison(resamples=100))
    settings, hits = Comparison(resamples=200, confidence=0.9), {"auc": 0, "log_loss": 0}
    for seed in range(150):
        for metric, gain in compare(*drawn(400, seed=seed), settings).items():
            hits[metric] += gain.lower <= truth[metric].value <= gain.upper
    for metric, count in hits.items():
        assert 126 <= count <= 144, (metric, count)


def test_more_rows_make_a_small_gain_certain():
    noise = (0.6, 0.75)
    few, many = (compare(*drawn(rows, seed=3, noise=noise), Comparison(resamples=300)) for rows in (300, 30_000))
    assert outcome(Gates(), few) != "better"
    assert outcome(Gates(), many) == "better"


# --- the verdict ------------------------------------------------------------------------------------------------------


def gains(auc: tuple[float, float, float], log_loss: tuple[float, float, float]) -> dict[str, Gain]:
    """Return gains of (lower, value, upper)."""
    return {
        metric: Gain(value, lower, upper, 0.5, np.array([lower, upper]))
        for metric, (lower, value, upper) in {"auc": auc, "log_loss": log_loss}.items()
    }


SURE, NONE = (0.001, 0.002, 0.003), (-0.001, 0.0, 0.001)


@pytest.mark.parametrize(
    ("auc", "log_loss", "said"),
    [
        (SURE, SURE, "better"),
        (SURE, NONE, "better"),
        (NONE, SURE, "better"),
        (NONE, NONE, "tie"),
        ((0.0, 0.001, 0.002), NONE, "tie"),  # the interval touches the least gain
        (SURE, (-0.006, 0.0, 0.006), "tie"),  # log-loss may be behind by more than .005
        ((-0.0021, 0.0, 0.002), SURE, "tie"),
        ((-0.002, 0.0, 0.002), SURE, "better"),  # at the margin
        ((-0.004, -0.0021, 0.0), SURE, "worse"),
        ((-0.004, -0.002, 0.0), NONE, "tie"),  # behind, but not by more than the margin
        (SURE, (-0.01, -0.0051, 0.0), "worse"),
        ((-1.0, float("nan"), 1.0), SURE, "worse"),
    ],
)
def test_the_intervals_decide(auc, log_loss, said):
    assert outcome(Gates(), gains(auc, log_loss)) == said


def test_a_declared_least_gain_has_to_be_reached():
    ambitious = Gates(comparison=Comparison(min_auc_gain=0.002, min_log_loss_gain=0.01))
    assert outcome(ambitious, gains(SURE, SURE)) == "tie"
    assert outcome(ambitious, gains((0.0021, 0.003, 0.004), NONE)) == "better"


def test_who_is_behind_is_told_in_what_and_by_how_much():
    found = behind(Gates(), gains((-0.02, -0.01, 0.0), (-0.03, -0.02, 0.0)))
    assert [problem.field for problem in found] == ["max_auc_behind_champion", "max_log_loss_behind_champion"]
    assert [problem.value for problem in found] == [-0.01, -0.02]
    assert "ROC-AUC is behind the champion's by more than 0.002" in found[0].message
    assert behind(Gates(), gains(NONE, NONE)) == []


# --- the picture ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [(0.5, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("least", [0, 0.01])
def test_the_gains_are_drawn(noise, least):
    y, candidate, champion = drawn(300, noise=noise)
    gates = Gates(comparison=Comparison(resamples=100, min_auc_gain=least))
    png = gain_histograms(compare(y, candidate, champion, gates.comparison), gates)
    assert png.startswith(b"\x89PNG")


def test_gains_of_exactly_nothing_can_be_drawn():
    y, scores, _ = drawn(100)
    assert gain_histograms(compare(y, scores, scores, QUICK), Gates()).startswith(b"\x89PNG")
