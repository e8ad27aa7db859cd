"""What a night's snapshot says of drift: every scored row is counted in the pass, and kept with the day."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from backends.engines import LocalEngine
from backends.lakehouse.publishing import rollback
from backends.night_drift import HISTOGRAMS, INDICES, drift_history, histograms_of
from backends.nights import night_of, published_nights
from models import counting
from models.drift import shift_index
from models.encoding import encode_arrow
from models.errors import SnapshotNotFoundError
from models.profile import Histograms, profile_in
from models.scoring import Scorer
from tests.backends.nights import (
    FRIDAY,
    LAX,
    POPULATION,
    PREDICTIONS,
    SATURDAY,
    WatchedEngine,
    customers,
    publish,
    published_rows,
    with_column,
    write_files,
)
from tests.tiny_model import tiny_contract, tiny_onnx, tiny_onnx_with_profile

SCORER = Scorer(tiny_onnx_with_profile(tiny_contract(), customers(10_000, seed=1)))
PROFILE = profile_in(SCORER.metadata)
FILES = [customers(1500), customers(1, first_key=1500), customers(2499, first_key=1501)]


@pytest.fixture
def population(lake) -> pa.Table:
    write_files(lake, POPULATION, FILES)
    return pa.concat_tables(FILES)


def counted(lake, engine=None, **changes) -> Histograms:
    found = histograms_of(publish(lake, engine, scorer=SCORER, **changes).snapshot)
    assert found is not None
    return found


def by_hand(rows: pa.Table) -> Histograms:
    """Count every row with Python's own means."""
    encoded, scores = encode_arrow(SCORER.contract, rows), SCORER.score(encode_arrow(SCORER.contract, rows))
    columns = {name: encoded.numbers[:, j] for j, name in enumerate(SCORER.contract.numbers)} | {"": scores}
    found = {}
    for name, values in columns.items():
        bins = PROFILE.score if name == "" else PROFILE.features[name]
        counts = Counter(
            len(bins.edges) + 1 if np.isnan(v) else sum(v > np.float32(e) for e in bins.edges) for v in values
        )
        found[name] = np.array([counts[at] for at in range(len(bins.counts))])
    for name, category in SCORER.contract.categories.items():
        words = [word if word in category.values else "other" for word in rows[name].to_pylist() if word is not None]
        order = [*category.values, "further", "other"]
        found[name] = np.array([*(words.count(word) for word in order), rows[name].null_count])
    score = found.pop("")
    return Histograms({name: found[name] for name in PROFILE.features}, score)


def test_every_scored_row_is_counted_once_and_the_indices_are_kept_beside(lake, population):
    published = publish(lake, scorer=SCORER)
    found, wanted = histograms_of(published.snapshot), by_hand(population)
    assert found.to_text() == wanted.to_text()
    assert found.rows == 4000
    indices = json.loads(published.snapshot.properties[INDICES])
    training = PROFILE.histograms
    assert indices == {
        "rows": 4000,
        "score": round(shift_index(training.score, found.score), 4),
        "features": {n: round(shift_index(training.features[n], c), 4) for n, c in found.features.items()},
    }
    assert 0 < max(indices["features"].values()) < 0.02


def test_rejected_rows_are_not_counted(lake, population):
    files = [with_column(FILES[0], "balance", np.array([1e6, *[0.0] * 1499], np.float32)), *FILES[1:]]
    write_files(lake, POPULATION, files)
    assert counted(lake, limits=LAX).to_text() == by_hand(pa.concat_tables(files).slice(1)).to_text()


def test_a_shifted_night_is_told_by_the_feature_that_has_shifted(lake, population):
    tenure = pa.array(np.full(4000, 600, np.int32))
    write_files(lake, POPULATION, [with_column(population, "tenure_months", tenure)])
    publish(lake, scorer=SCORER, limits=LAX)
    (of_night,) = drift_history(lake, PREDICTIONS).values()
    assert of_night.features.pop("tenure_months") > 2
    assert max(of_night.features.values()) < 0.02
    assert of_night.score > 0.25


def test_a_model_without_a_profile_counts_nothing_and_scores_the_same(lake, population):
    before = publish(lake, scorer=Scorer(tiny_onnx(tiny_contract())))
    rows = published_rows(lake)
    assert {INDICES, HISTOGRAMS}.isdisjoint(before.snapshot.properties)
    assert histograms_of(before.snapshot) is None
    assert drift_history(lake, PREDICTIONS) == {}
    publish(lake, scorer=SCORER)
    assert published_rows(lake).drop_columns("model_sha256").equals(rows.drop_columns("model_sha256"))


def test_a_rerun_on_other_threads_counts_the_same(lake, population):
    assert counted(lake, LocalEngine(1)).to_text() == counted(lake, LocalEngine(4)).to_text()


# --- samples --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sampled(monkeypatch):
    """Let a population of 40,000 rows be a large one: every eighth row is counted."""
    monkeypatch.setattr(counting, "SAMPLED_ROWS", 5000)


def test_a_large_population_is_sampled_with_the_same_verdict(lake, sampled, monkeypatch):
    rows = customers(40_000, seed=5)
    write_files(lake, POPULATION, [rows.slice(0, 25_000), rows.slice(25_000)])
    sample, again = counted(lake), counted(lake)
    monkeypatch.setattr(counting, "SAMPLED_ROWS", 10**9)
    whole = counted(lake)
    assert (whole.rows, sample.to_text()) == (40_000, again.to_text())
    assert sample.rows == pytest.approx(5000, abs=4)
    for name, counts in PROFILE.histograms.features.items():
        indices = (shift_index(counts, found.features[name]) for found in (whole, sample))
        assert max(indices) < 3 * 12 * (1 / 5000 + 1 / 10_000)


def test_batches_smaller_than_the_stride_are_sampled_as_one_run_of_rows(lake, monkeypatch):
    monkeypatch.setattr(counting, "SAMPLED_ROWS", 15)
    write_files(lake, POPULATION, [customers(4, first_key=4 * file) for file in range(30)])  # one row in eight
    assert counted(lake, LocalEngine(1)).rows == pytest.approx(15, abs=8)  # at most eight shares


# --- with the day ---------------------------------------------------------------------------------------------------


def test_what_was_counted_survives_a_publish_on_top_of_another_day(lake, population):
    maps = []

    def publish_friday_meanwhile(results):
        maps.append(results)
        if len(maps) == 2:  # the parts are staged, and read back
            publish(lake, scorer=SCORER, scored_on=FRIDAY)
        return results

    saturday = publish(lake, WatchedEngine(publish_friday_meanwhile), scorer=SCORER)
    nights = published_nights(lake, PREDICTIONS)
    assert nights["2026-11-21"].id == saturday.snapshot.id
    assert histograms_of(saturday.snapshot).to_text() == by_hand(population).to_text()
    assert list(drift_history(lake, PREDICTIONS)) == ["2026-11-20", "2026-11-21"]


def test_a_rolled_back_night_is_no_history_and_is_named(lake, population):
    friday = publish(lake, scorer=SCORER, scored_on=FRIDAY)
    publish(lake, scorer=SCORER, scored_on=SATURDAY)
    rollback(lake, PREDICTIONS, friday.snapshot.id, reason="bad", by="me")
    assert list(drift_history(lake, PREDICTIONS)) == ["2026-11-20"]
    assert night_of(lake, PREDICTIONS, "2026-11-20").id == friday.snapshot.id
    with pytest.raises(SnapshotNotFoundError, match=r"no published night of 2026-11-21, or it was rolled back\. Mater"):
        night_of(lake, PREDICTIONS, "2026-11-21")


def test_a_table_that_is_not_there_has_no_night(lake):
    with pytest.raises(SnapshotNotFoundError, match=r"Materialize gold/tiny_predictions of 2026-11-21"):
        night_of(lake, PREDICTIONS, "2026-11-21")


def test_nights_that_were_published_without_are_left_out_of_the_history(lake, population):
    publish(lake, scorer=SCORER, scored_on=FRIDAY)
    publish(lake, scorer=Scorer(tiny_onnx(tiny_contract())), scored_on=SATURDAY)
    assert list(drift_history(lake, PREDICTIONS)) == ["2026-11-20"]
