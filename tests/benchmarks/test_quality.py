import json

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import quality, quality_generated, quality_pages
from benchmarks.api_pages import filled
from benchmarks.quality_plot import differences
from benchmarks.quality_rivals import RIVALS, logistic
from benchmarks.quality_sets import SETS, QualitySet, set_of
from benchmarks.quality_verdict import bars, rows_of
from models.encoding import Encoded

GENERATED = [name for name in SETS if hasattr(quality_generated, name)]


def record(system, seed, auc, **more):
    facts = {"set": "flags", "system": system, "seed": seed, "auc": auc, "log_loss": 0.5, "calibration_error": 0.01}
    return facts | {"seconds": 10.0, "rows": 9000} | more


RECORDS = [
    record("float", 1, 0.80),
    record("float", 2, 0.82),
    record("int8", 1, 0.7995, p99_change=0.004),
    record("int8", 2, 0.8195, p99_change=0.006),
    record("lightgbm", 1, 0.803),
    record("lightgbm", 2, 0.823),
    record("boosted_trees", 2, 0.79),
    record("boosted_trees", 1, 0.78),
]


def test_means_spreads_and_leads_are_taken_split_by_split():
    (row,) = rows_of(RECORDS)
    assert (row.name, row.splits) == ("flags", 2)
    assert row.systems["float"].auc == pytest.approx(0.81)
    assert row.systems["float"].auc_spread == pytest.approx(0.01)
    assert row.leads["lightgbm"] == pytest.approx((-0.003, 0))
    assert row.leads["boosted_trees"] == pytest.approx((0.025, 0.005))
    assert row.p99_change == 0.006


def test_the_bars_say_which_is_missed():
    found = bars(rows_of(RECORDS), RECORDS)
    reached = {name: reached for name, (_, reached) in found.items()}
    assert reached == {
        "mean AUC above that of boosted_trees": True,
        "least lead over boosted_trees, at least -0.002": True,
        "mean AUC above that of lightgbm": False,
        "least lead over lightgbm, at least -0.002": False,
        "largest mean AUC difference of int8, at most 0.001": True,
    }


def test_the_docs_show_what_was_measured_and_mark_what_is_missed():
    facts = {"machine": {"processor": "a CPU", "cores": 2, "instructions": ["avx2"]}, "records": RECORDS}
    found = quality_pages.tables(facts)
    assert "| flags | 2 | .8100 ±.0100 | .8095 ±.0100 | .7850 ±.0050 | .8130 ±.0100 | +0.0250 | **-0.0030** |" in found
    assert "| mean AUC above that of lightgbm | -0.0030 | **missed** |" in found
    assert "Of 1 tables the network is ahead of HistGradientBoosting on 1, of tuned LightGBM on 0." in found
    assert found in filled(quality_pages.PAGE.read_text(), found, "bench-quality")


def test_only_large_tables_are_timed():
    large = [record("float", 1, 0.8, set="mixed", rows=200_000, seconds=70.0)]
    assert bars(rows_of(large), large)["seconds of a training of 200,000 rows, below 60"] == (70.0, False)


@pytest.mark.parametrize("name", GENERATED)
def test_a_made_table_is_the_same_each_time_and_has_both_outcomes(name):
    make = getattr(quality_generated, name)
    once, again = (make(np.random.default_rng(1), 3000) for _ in range(2))
    for column in once:
        np.testing.assert_array_equal(once[column], again[column])
    assert 0.001 < once["label"].mean() < 0.7


def test_a_table_is_declared_by_its_columns():
    made = set_of({"x": np.array([1.0, np.nan]), "word": np.array(["b", "a"]), "label": np.array([True, False])}, 0.5)
    one, two = made.declared(1), made.declared(2)
    assert list(one.features) == ["x", "word"]
    assert one.features["x"].missing
    assert one.features["word"].values == ("a", "b")
    assert (one.examples.split.seed, two.examples.split.seed) == (1, 2)


def small() -> QualitySet:
    rng = np.random.default_rng(0)
    x = rng.normal(size=900)
    columns = {"x": x, "word": rng.choice(["a", "b"], 900), "label": rng.random(900) < 1 / (1 + np.exp(-2 * x))}
    made = set_of(columns, 0.3)
    quick = {"teacher_folds": 2, "teacher_iterations": 10, "synthetic_rows": 500, "row_presentations": 5000}
    return QualitySet(made.table, made.fields | {"training": quick})


def test_the_benchmark_runs_and_goes_on_where_it_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(quality, "SETS", {"small": small, "absent": lambda: None})
    monkeypatch.setattr(quality, "RIVALS", dict.fromkeys(RIVALS, logistic))
    asked, app = ["--splits", "1", "--json", str(tmp_path / "q.json"), "--plot", str(tmp_path / "q.png")], _app()
    first = CliRunner().invoke(app, asked)
    assert first.exit_code == 0, first.output
    assert "absent is left out" in first.output
    records = json.loads((tmp_path / "q.json").read_text())["records"]
    assert {one["system"] for one in records} == {"float", "int8", "teacher", *RIVALS}
    assert (tmp_path / "q.png").stat().st_size > 5000
    monkeypatch.setattr(quality, "train", None)  # would fail if anything was trained again
    assert CliRunner().invoke(app, asked).exit_code == 0


def _app():
    import typer

    app = typer.Typer()
    app.command()(quality.main)
    return app


def test_an_unknown_table_is_refused():
    result = CliRunner().invoke(_app(), ["--only", "nonsense"])
    assert result.exit_code == 2
    assert "no such table: nonsense" in result.output


def test_the_tuned_rival_learns():
    pytest.importorskip("lightgbm")
    rng = np.random.default_rng(0)
    rows = Encoded(rng.normal(size=(300, 2)).astype(np.float32), rng.integers(0, 3, (300, 1)).astype(np.int32))
    y = (rows.numbers[:, 0] > 0).astype(np.float32)
    scores = RIVALS["lightgbm"](rows, y, rows, 0)
    assert scores[y == 1].mean() > scores[y == 0].mean() + 0.5


def test_the_picture_needs_no_display(tmp_path):
    differences(rows_of(RECORDS), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
