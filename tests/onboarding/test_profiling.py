"""What is found in a table: types, what is left out and why, and what is refused with the remedy."""

import errno
import os
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from models.errors import OnboardingError
from onboarding.columns import Column, out_of_fold_auc
from onboarding.features import feature_of
from onboarding.profiling import Profiled, Request, profile
from onboarding.readings import Reading
from onboarding.sources import bring
from onboarding.staging import Counts
from tests.onboarding.tables import Table, changed, customers, wide, with_column, write_csv


@pytest.fixture
def found(tmp_path):
    def look(table: Table | Path, **asked) -> Profiled:
        path = write_csv(tmp_path / "t.csv", table) if isinstance(table, dict) else table
        staged = bring(str(path), None, tmp_path)
        return profile(staged, Request(**({"name": "m", "source": "", "key": "customer_id", "label": "left"} | asked)))

    return look


def left_out(profiled: Profiled) -> dict[str, str]:
    return {finding.column: finding.what for finding in profiled.findings if finding.left_out}


def declared(profiled: Profiled, name: str) -> dict[str, object]:
    return feature_of(next(column for column in profiled.columns if column.name == name)).fields


ROWS = customers()


def test_a_plain_table_has_no_findings(found):
    profiled = found(ROWS)
    assert profiled.findings == []
    assert [column.name for column in profiled.columns] == ["age", "spend", "plan"]
    assert (profiled.outcome.positives, profiled.outcome.labelled) == (ROWS["left"].count("yes"), 600)


@pytest.mark.parametrize(
    ("name", "make", "what"),
    [
        ("row_number", lambda n, _: n + 1, "identifier"),
        ("uuid", lambda n, _: f"{n:08x}-ab", "identifier"),
        ("notes", lambda n, _: f"she said {n} things about {n * 7 % 501}", "free text"),
        ("empty", lambda n, _: None, "empty"),
        ("constant", lambda n, _: "x", "constant"),
        ("age_again", lambda _, row: row["age"], "duplicate"),
        ("plan_name", lambda _, row: {"basic": "B", "plus": "P", "pro": "R"}[row["plan"]], "duplicate"),
        ("born", lambda n, _: f"{1 + n % 28}.{1 + n % 12}.{1950 + n % 40}", "date"),
        ("huge", lambda n, _: f"{n}e300", "unreadable"),
        ("essay", lambda n, _: f"{'word ' * 100}{n % 3}", "free text"),
        ("phone", lambda n, _: 491701000000 + n % 400 * 7919, "identifier"),
        ("", lambda n, _: n, "identifier"),  # the index that pandas writes: few, but without a gap
        ("rare", lambda n, _: 5 if n % 100 == 3 else None, "empty"),  # six: no half of the rows may have one
        ("closed_on", lambda n, row: "2026-01-01" if row["left"] == "yes" else None, "leak"),
        ("reason", lambda n, row: "price" if row["left"] == "yes" and n % 3 == 0 else None, "leak"),
        ("kept_since", lambda n, row: n % 9 if row["left"] == "no" else None, "leak"),
        ("final_score", lambda n, row: (row["left"] == "yes") * 10 + n % 5, "leak"),
        ("zigzag", lambda n, row: n % 10 * 2 + (row["left"] == "yes"), "leak"),  # no order, but each value tells
    ],
)
def test_what_is_no_feature_is_left_out_with_the_reason(found, name, make, what):
    assert left_out(found(with_column(ROWS, name, make))) == {name or "column_5": what}


def test_two_columns_that_each_tell_the_outcome_are_both_left_out(found):
    table = with_column(ROWS, "score", lambda n, row: (row["left"] == "yes") * 10 + n % 5)
    table = with_column(table, "closed", lambda n, row: "y" if row["left"] == "yes" or n % 100 == 0 else "n")
    assert left_out(found(table)) == {"score": "leak", "closed": "leak"}


def test_columns_with_the_same_values_in_other_rows_are_no_duplicates(found):
    table = with_column(customers(600), "a", lambda n, _: n * 7919 % 100_003)
    moved = {}
    for outcome in ("yes", "no"):
        rows = [n for n in range(600) if table["left"][n] == outcome]
        moved |= {row: table["a"][other] for row, other in zip(rows, rows[1:] + rows[:1], strict=True)}
    table = with_column(table, "b", lambda n, _: moved[n])
    assert sorted(table["a"]) == sorted(table["b"])
    assert left_out(found(table)) == {}


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("phone_minutes", lambda n, _: n * 37 % 5003),
        ("income", lambda n, _: n * 7919 % 100_003),  # nearly all distinct, but no name and no sequence
        ("amount", lambda n, _: round(n * 1.37 % 97, 3)),
        ("hint", lambda n, row: n % 5 + (row["left"] == "yes")),  # strong, but not alone
        ("half_missing", lambda n, _: n % 7 if n % 2 else None),
    ],
)
def test_an_unusual_column_stays_a_feature(found, name, make):
    assert left_out(found(with_column(ROWS, name, make))) == {}


@pytest.mark.parametrize(
    ("name", "make", "fields"),
    [
        ("senior", lambda n, _: n % 2, {"kind": "category", "values": [0, 1]}),
        ("satisfaction", lambda n, _: n % 5, {"kind": "number"}),
        ("plz", lambda n, _: f"{n % 30 * 333:05d}", {"kind": "category"}),  # zeros in front
        ("branch", lambda n, _: 100 + n % 20, {"kind": "category"}),  # named like a code
        ("vip", lambda n, _: ["yes", "N", "TRUE", "off"][n % 4], {"kind": "category", "values": [False, True]}),
        ("balance", lambda n, _: f"{n - 300},5", {"kind": "number"}),
        ("visits", lambda n, _: "?" if n % 9 == 0 else n % 50, {"kind": "number", "missing": True}),
        ("brand", lambda n, _: "a" if n % 50 else f"rare{n}", {"kind": "category", "values": ["a"]}),
    ],
)
def test_a_column_is_declared_as_what_it_is(found, name, make, fields):
    shown = declared(found(with_column(ROWS, name, make)), name)
    assert {key: shown[key] for key in fields} == fields
    assert shown.get("missing", False) == fields.get("missing", False)


def test_numbers_whose_neighbours_differ_are_codes_and_smooth_ones_are_not(found):
    rng = np.random.default_rng(0)
    rates = rng.random(60)
    table = customers(6000)
    table |= {"left": ["yes" if rng.random() < rates[n % 60] else "no" for n in range(6000)]}
    rough = with_column(table, "tariff", lambda n, _: n % 60)
    profiled = found(with_column(rough, "months", lambda n, _: n * 7 % 53))
    assert declared(profiled, "tariff")["kind"] == "category"
    assert declared(profiled, "months")["kind"] == "number"


@pytest.mark.parametrize("rows", [1500, 40_000])
def test_a_number_whose_rates_rise_or_have_a_hump_is_no_code(rows):
    rng, values = np.random.default_rng(rows), np.arange(72)
    labelled = np.full(72, rows // 72)
    for rates, is_code in (
        (1 / (1 + np.exp(-(values - 36) * 0.16)), False),
        (0.1 + 0.4 * np.exp(-(((values - 20) / 8) ** 2)), False),
        (rng.beta(2, 5, 72), True),
    ):
        positives = rng.binomial(labelled, rates)
        counts = (pa.array(values), labelled, labelled, positives, Counts(0, 0, 0))
        column = Column("x", 0, Reading("number", whole=True), *counts)
        assert (feature_of(column).fields["kind"] == "category") == is_code


def test_only_amounts_that_are_never_negative_get_a_bound(found):
    table = with_column(customers(1200), "temperature", lambda n, _: n % 30)
    table = with_column(table, "net_amount", lambda n, _: n % 100 - 5)
    table = with_column(table, "average_score", lambda n, _: n % 30 + 1)  # age is no word of it
    table = with_column(table, "months_to_end", lambda n, _: n % 24)  # may have ended tomorrow
    profiled = found(with_column(table, "visits", lambda n, _: n % 40))
    bounded = [c.name for c in profiled.columns if "min" in feature_of(c).fields]
    assert bounded == ["age", "spend", "visits"]


def test_rows_without_an_outcome_are_scored_but_no_examples(found):
    table = customers()
    table["left"] = [value if n % 3 else None for n, value in enumerate(table["left"])]
    profiled = found(table)
    assert (profiled.outcome.unlabelled, profiled.outcome.labelled, profiled.scored) == (200, 400, 600)
    assert sum(len(batch) for batch in profiled.rows.batches(with_label=True)) == 400


def test_the_newest_row_of_each_key_is_the_population(found):
    table = with_column(changed(ROWS, "customer_id", lambda key: key[:-1]), "at", lambda n, _: f"2026-01-{1 + n % 28}")
    profiled = found(table, time="at")
    rows = [row for batch in profiled.rows.batches(False, profiled.population) for row in batch.to_pylist()]
    newest: dict[str, int] = {}
    for key, at in zip(table["customer_id"], table["at"], strict=True):
        newest[key] = max(newest.get(key, 0), int(at[8:]))
    assert {row["customer_id"]: row["at"].day for row in rows} == newest
    assert len(rows) == 60


def test_what_is_said_to_mean_missing_does_in_the_label_and_where_it_stands_nowhere_that_is_said(found):
    table = ROWS | {"left": [value if n % 3 else "open" for n, value in enumerate(ROWS["left"])]}
    profiled = found(table, missing=("Open", "nix"))
    assert (profiled.outcome.unlabelled, profiled.outcome.labelled) == (200, 400)
    assert [note for note in profiled.staged.notes if "--missing" in note] == [
        "--missing 'nix' stands in no column: it is written otherwise there"
    ]


def test_what_means_missing_elsewhere_is_no_reason_to_be_without_an_outcome(found):
    profiled = found(
        with_column(changed(ROWS, "left", {"yes": "1", "no": "0"}.get), "x", lambda n, _: n % 9), missing=("0",)
    )
    assert (profiled.outcome.unlabelled, profiled.outcome.labelled) == (0, 600)
    assert declared(profiled, "x")["missing"]


def test_a_word_that_is_an_outcome_and_stands_nowhere_else_is_said_to_make_nothing_missing(found):
    table = changed(ROWS | {"age": [age + 1 for age in ROWS["age"]]}, "left", {"yes": "1", "no": "0"}.get)
    assert found(table, missing=("0",)).staged.notes == (
        "--missing '0' stands in no column but 'left', where it is an outcome",
    )


@pytest.mark.parametrize("word", ["0", "0.0"])
@pytest.mark.parametrize("has_a_type", [False, True])
def test_a_key_that_is_missing_because_that_was_said_is_refused_with_the_word(found, tmp_path, word, has_a_type):
    path = write_csv(tmp_path / "t.csv", ROWS | {"customer_id": list(range(600))})
    if has_a_type:
        pq.write_table(pa.table(ROWS | {"customer_id": list(range(600))}), path)
    elif word == "0.0":
        write_csv(path, ROWS | {"customer_id": ["0.0", *range(1, 600)]})
    with pytest.raises(OnboardingError, match=rf"like row {1 if has_a_type else 2}\. .*--missing says so of '{word}'"):
        found(path, missing=(word,))


def test_a_key_that_is_missing_by_itself_is_no_fault_of_what_was_said(found):
    table = changed(ROWS, "customer_id", lambda key: None if key == "C000007" else key)
    with pytest.raises(OnboardingError, match=r"leave those rows out\.$"):
        found(table, missing=("-1",))


def test_columns_of_types_that_are_not_read_are_said(found, tmp_path):
    more = {"uuid": pa.array([bytes(16)] * 600, pa.uuid()), "bytes": pa.array([b"x"] * 600, pa.binary_view())}
    pq.write_table(pa.table(ROWS | more), tmp_path / "t.parquet")
    profiled = found(tmp_path / "t.parquet")
    assert [column.name for column in profiled.columns] == ["age", "spend", "plan"]
    (note,) = profiled.staged.notes
    assert "'uuid' (extension<arrow.uuid>), 'bytes' (binary_view)" in note
    with pytest.raises(
        OnboardingError, match=r"--key is 'uuid', .* no such column\. Of it: not read, .*'uuid' \(extension"
    ):
        found(tmp_path / "t.parquet", key="uuid")


@pytest.mark.parametrize(
    ("spelled", "positive"),
    [
        ({"yes": "1", "no": "0"}, None),
        ({"yes": "TRUE", "no": "False"}, None),
        ({"yes": "Ja", "no": "Nein"}, None),
        ({"yes": "WAHR", "no": "FALSCH"}, None),
        ({"yes": "churned", "no": "active"}, None),
        ({"yes": "1", "no": "-1"}, None),
        ({"yes": "fraud", "no": "whatever"}, None),
        ({"yes": "gone", "no": "no"}, None),
        ({"yes": ">50K", "no": "<=50K"}, ">50K"),
        ({"yes": "2", "no": "1"}, "2"),
    ],
)
def test_any_label_of_two_values_works(found, spelled, positive):
    profiled = found(changed(ROWS, "left", spelled.get), positive=positive)
    assert profiled.outcome.positives == ROWS["left"].count("yes")
    read = [row["left"] for batch in profiled.rows.batches(with_label=True) for row in batch.to_pylist()]
    yes = profiled.label.positive or True
    assert [value == yes for value in read] == [value == "yes" for value in ROWS["left"]]


def test_a_label_in_several_spellings_is_one(found):
    spelled = {"yes": ["yes", "Yes", "YES"], "no": ["no", "No", "NO"]}
    table = ROWS | {"left": [spelled[value][n % 3] for n, value in enumerate(ROWS["left"])]}
    assert found(table).outcome.positives == ROWS["left"].count("yes")


@pytest.mark.parametrize(
    ("table", "asked", "said"),
    [
        (ROWS, {"key": "Customer_ID"}, "Did you mean 'customer_id'?"),
        (ROWS, {"key": "customer"}, "Its columns: customer_id, age"),
        (ROWS, {"label": "lef"}, "Did you mean 'left'?"),
        (ROWS, {"label": "plan"}, "has 3 values: "),
        (ROWS, {"key": "left"}, "name one column twice"),
        (ROWS, {"key": "plan"}, "3 of 3 keys stand in several rows"),
        (ROWS, {"time": "age"}, "no dates that are understood"),
        (changed(ROWS, "left", lambda _: "no"), {}, "has one value only: 'no'"),
        (changed(ROWS, "left", lambda _: None), {}, "is empty in all 600 rows"),
        (changed(ROWS, "left", {"yes": "A", "no": "B"}.get), {}, "--positive"),
        (changed(ROWS, "left", {"yes": "A", "no": "B"}.get), {"positive": "C"}, "are 'B' and 'A'|are 'A' and 'B'"),
        (customers(300, rate=0.01), {}, "positive rows of 300: at least 10"),
        (changed(ROWS, "customer_id", lambda key: None if key[-1] == "7" else key), {}, "missing in 60 of 600 rows"),
        (changed(ROWS, "customer_id", lambda key: "X" if key[-1] == "7" else key), {"missing": ("x",)}, "in 60 of 600"),
        (with_column(ROWS, "at", lambda n, _: "01/02/2026"), {"time": "at"}, "d/m/Y and m/d/Y"),
        (with_column(ROWS, "at", lambda n, _: "2026-01-02" if n else None), {"time": "at"}, "is missing in 1 rows"),
        (with_column(ROWS, "Age", lambda n, _: n), {}, "stand twice"),
        ({"customer_id": [], "left": []}, {}, "has a header but no rows"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(found, table, asked, said):
    with pytest.raises(OnboardingError, match=said):
        found(table, **asked)


def test_rows_that_stand_twice_in_every_column_count_once_and_that_is_said(found):
    twice = {name: [*values, *values[100:130]] for name, values in with_column(ROWS, "gap", lambda n, _: None).items()}
    profiled = found(twice)
    assert (profiled.staged.rows, profiled.outcome.labelled) == (600, 600)
    assert any(note.startswith("30 rows are left out") for note in profiled.staged.notes)
    rows = [row for batch in profiled.rows.batches(False) for row in batch.to_pylist()]
    assert [row["customer_id"] for row in rows] == ROWS["customer_id"]


def test_a_key_that_stands_twice_with_other_values_is_not_dropped(found):
    twice = {name: [*values, *values[100:130]] for name, values in ROWS.items()}
    twice["age"][-1] += 1
    with pytest.raises(OnboardingError, match="30 of 600 keys stand in several rows"):
        found(twice)


def test_a_label_of_dates_is_refused(found, tmp_path):
    days = [date(2026, 1, 1 + (value == "yes")) for value in ROWS["left"]]
    pq.write_table(pa.table(ROWS | {"left": days}), tmp_path / "t.parquet")
    with pytest.raises(OnboardingError, match=r"'left' holds date32\[day\] values: an outcome is yes or no"):
        found(tmp_path / "t.parquet", positive="2026-01-02")


def test_the_row_of_a_repeated_key_is_named_as_a_spreadsheet_does(found):
    table = ROWS | {"customer_id": ["C1", "C2", "C1", *ROWS["customer_id"][3:]]}
    with pytest.raises(OnboardingError, match="'C1' in rows 2 and 4"):
        found(table)


def test_the_row_of_a_repeated_key_is_that_of_the_file_when_blank_lines_stand_between(found, tmp_path):
    lines = write_csv(tmp_path / "t.csv", ROWS | {"customer_id": ["C1", "C1", *ROWS["customer_id"][2:]]}).read_text()
    header, first, rest = lines.split("\n", 2)
    (tmp_path / "t.csv").write_text(f"\n{header}\n{first}\n\n , ,,,\n{rest}")
    with pytest.raises(OnboardingError, match="'C1' in rows 3 and 6"):
        found(tmp_path / "t.csv")


def test_the_row_without_a_key_is_that_of_the_file_when_others_were_left_out(found):
    twice = {name: [*values[:5], *values[:5], *values[5:]] for name, values in ROWS.items()}
    twice["customer_id"][20] = None
    with pytest.raises(OnboardingError, match="like row 22"):
        found(twice)


@pytest.mark.parametrize(
    ("name", "there"), [("a.b", "a_b"), ("  spaced  name ", "spaced name"), ("Größe €", "Größe €")]
)
def test_names_that_no_table_takes_are_changed_and_said(found, name, there):
    profiled = found(
        {**{key: ROWS[key] for key in ("customer_id", "age", "plan")}, name: ROWS["spend"], "left": ROWS["left"]}
    )
    assert there in [column.name for column in profiled.columns]
    assert any(repr(there) in note for note in profiled.staged.notes) == ("." in name)


def test_a_column_that_each_rows_last_separator_makes_is_forgotten(found, tmp_path):
    lines = write_csv(tmp_path / "plain.csv", ROWS).read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join(line + "," for line in lines))
    assert [column.name for column in found(tmp_path / "t.csv").columns] == ["age", "spend", "plan"]


def test_eighty_columns_are_all_looked_at(found):
    profiled = found(wide(1000, 80))
    assert len(profiled.columns) == 78
    assert left_out(profiled) == {}


def test_half_a_percent_of_positives_are_enough(found):
    profiled = found(customers(4000, rate=0.01))
    assert 10 <= profiled.outcome.positives < 80
    assert left_out(profiled) == {}


def test_a_columns_auc_is_that_of_its_rates_on_rows_that_they_were_not_learnt_from():
    rng = np.random.default_rng(1)
    group = rng.integers(0, 20, 20_000)
    y = rng.random(20_000) < np.linspace(0.05, 0.6, 20)[group]
    labelled, positives = np.bincount(group), np.bincount(group, y).astype(np.int64)
    assert out_of_fold_auc(labelled, positives) == pytest.approx(roc_auc_score(y, group), abs=0.01)


def test_a_column_of_noise_has_an_auc_of_a_half_however_many_values_it_has():
    rng = np.random.default_rng(2)
    labelled = np.ones(5000, np.int64)
    assert out_of_fold_auc(labelled, (rng.random(5000) < 0.2).astype(np.int64)) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (".", "which is a folder"),
        (os.devnull, "no file but a pipe or a device"),
        ("x" * 300, "File name too long"),
        ("no/where.csv", "which is not there"),
        ("~nobody-of-that-name/t.csv", "which is not there"),
    ],
)
def test_what_is_no_file_that_can_be_read_is_said(tmp_path, given, said):
    with pytest.raises(OnboardingError, match=said):
        bring(given, None, tmp_path)


def test_a_file_that_must_not_be_read_is_said(tmp_path, monkeypatch):
    path = write_csv(tmp_path / "t.csv", ROWS)
    path.chmod(0)
    monkeypatch.setattr(Path, "open", _forbidden)  # to root nothing is
    with pytest.raises(OnboardingError, match=r"t.csv cannot be read: Permission denied. Mend its path or its rights"):
        bring(str(path), None, tmp_path)


def _forbidden(*_: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")
