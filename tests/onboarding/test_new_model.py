"""From a file or a table to Iceberg and a declaration, and back out of it: nothing half-made, nothing lost."""

import errno
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from backends.lakehouse.catalog import Lakehouse
from backends.settings import Settings
from models.declaration import load_declaration
from models.errors import LakehouseError, OnboardingError
from models.training.split import labels
from onboarding import declaring, new_model
from onboarding.baseline import measure
from tests.lives import write_table
from tests.onboarding.tables import changed, customers, made_from, with_column, write_csv

ROWS = with_column(customers(), "joined", lambda n, _: f"2026-{1 + n % 6:02d}-10")


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "t.csv", ROWS)


def tables(settings: Settings) -> dict[str, pa.Table]:
    with Lakehouse.open(settings) as lake:
        names = lake.catalog.list_tables("silver") if lake.catalog.namespace_exists("silver") else []
        return {name[-1]: lake.read(".".join(name)) for name in names}


def test_what_stands_in_a_file_stands_in_the_tables(home, csv):
    made = made_from(home, csv)
    loaded = tables(home)
    examples = loaded["m_examples"].to_pydict()
    assert {name: examples[name] for name in ("customer_id", "age", "spend", "plan", "left")} == {
        name: values for name, values in ROWS.items() if name != "joined"
    }
    assert [str(day) for day in examples["joined"]] == ROWS["joined"]
    assert loaded["m_population"].column_names == [name for name in ROWS if name != "left"]
    assert len(loaded["m_population"]) == 600
    assert list((home.scratch).iterdir()) == []
    assert made.declaration == load_declaration(home.models / "m.yaml")


def test_the_declaration_says_why(home, csv):
    text = made_from(home, csv).path.read_text()
    for said in (
        f"# {ROWS['left'].count('yes')} positive",
        "the usual word",
        "# joined  date:",
        "best F1 of a quick baseline",
        "chance",
    ):
        assert said in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_gates_are_below_what_the_baseline_reaches(home, csv):
    made = made_from(home, csv)
    assert 0.8 < made.declaration.gates.min_auc < made.baseline.auc
    assert 0.05 < made.declaration.decision_threshold < 0.95


def test_with_a_time_the_latest_months_are_the_test_set(home, csv):
    made = made_from(home, csv, time="joined")
    split = made.declaration.examples.split
    assert (split.method, split.test_months) == ("time", 1)
    assert "the latest 1 calendar months, 17% of the examples" in made.path.read_text()


def test_each_model_gets_a_port_of_its_own(home, csv):
    ports = [made_from(home, csv, name=name).declaration.api.port for name in ("a", "b")]
    assert ports == [3001, 3002]


def test_a_parquet_file_keeps_its_types_and_what_no_table_holds_is_said(home, tmp_path):
    table = pa.table(ROWS).append_column("nested", pa.array([[1]] * 600))
    table = table.append_column("short", pa.array([n % 7 for n in range(600)], pa.int16()))
    pq.write_table(table, tmp_path / "t.parquet")
    made = made_from(home, tmp_path / "t.parquet")
    assert {"age", "spend", "plan", "short"} == set(made.declaration.features)
    assert any("nested" in note for note in made.draft.notes)


@pytest.mark.parametrize("dtype", [pa.bool_(), pa.int8(), pa.float64()])
def test_a_parquet_label_of_any_type_keeps_its_outcomes(home, tmp_path, dtype):
    outcomes = [value == "yes" for value in ROWS["left"]]
    known = [outcome if n % 5 else None for n, outcome in enumerate(outcomes)]
    table = pa.table(ROWS).drop_columns(["left"])
    label = pa.array([None if outcome is None else int(outcome) for outcome in known]).cast(dtype)
    pq.write_table(table.append_column("left", label), tmp_path / "t.parquet")
    made_from(home, tmp_path / "t.parquet")
    examples = tables(home)["m_examples"].select(["customer_id", "left"]).to_pylist()
    expected = dict(zip(ROWS["customer_id"], known, strict=True))
    assert {row["customer_id"]: bool(row["left"]) for row in examples} == {
        key: outcome for key, outcome in expected.items() if outcome is not None
    }


def test_a_table_that_can_be_used_as_it_is_is_not_copied(home, csv):
    made_from(home, csv)
    made = made_from(home, "silver.m_examples", name="n")
    assert made.declaration.examples.table == made.declaration.scored_table == "silver.m_examples"
    assert set(tables(home)) == {"m_examples", "m_population"}


@pytest.mark.parametrize(
    ("values", "positive", "copied"),
    [
        ((1, 0), None, False),
        ((1, 0), "0", True),  # a column of numbers is read with 1 as yes
        ((True, False), "false", True),
        (("1", "0"), None, True),  # and texts of which one has to be named
    ],
)
def test_what_means_yes_in_a_table_of_the_catalog_is_what_was_asked_for(home, values, positive, copied):
    yes, no = values
    table = pa.table(ROWS | {"left": [yes if value == "yes" else no for value in ROWS["left"]]})
    write_table(home, "silver.theirs", table.drop_columns(["joined"]))  # texts that hold dates are copied anyway
    made = made_from(home, "silver.theirs", positive=positive)
    assert (made.declaration.examples.table != "silver.theirs") == copied
    left = ROWS["left"].count("yes")
    expected = left if positive is None else len(ROWS["left"]) - left
    examples = tables(home)[made.declaration.examples.table.removeprefix("silver.")]
    assert labels(made.declaration, examples).sum() == made.profiled.outcome.positives == expected


def test_numbers_that_no_float_holds_and_times_of_any_zone_are_read_as_they_are(home, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    many = len(ROWS["left"])
    more = {
        "flake": pa.array([2**60 + 3 * n * n for n in range(many)], pa.int64()),
        "hash": pa.array([2**63 + 5 * n for n in range(many)], pa.uint64()),
        "seen": pa.array([datetime(2026, 1, 1 + n % 28, tzinfo=UTC) for n in range(many)], pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(ROWS | more), tmp_path / "t.parquet")
    made = made_from(home, tmp_path / "t.parquet", key="hash")
    assert made.declaration.entity_key == "hash"
    population = tables(home)["m_population"]
    assert set(population["hash"].to_pylist()) == {str(2**63 + 5 * n) for n in range(many)}
    assert population["seen"].to_pylist()[0] == datetime(2026, 1, 1, tzinfo=UTC)


def test_numbers_that_mean_missing_are_so_in_a_table_of_the_catalog_and_in_a_parquet_file(home, tmp_path):
    table = pa.table(changed(ROWS, "age", lambda age: -999 if age % 7 == 0 else age)).drop_columns(["joined"])
    many = sum(age % 7 == 0 for age in ROWS["age"])
    pq.write_table(table, tmp_path / "t.parquet")
    write_table(home, "silver.theirs", table)
    for name, source in (("m", tmp_path / "t.parquet"), ("n", "silver.theirs")):
        made = made_from(home, source, name=name, missing=("-999",))
        assert made.declaration.features["age"].missing
        assert "'-999' means missing" in made.path.read_text()
        assert tables(home)[f"{name}_population"]["age"].null_count == many
    assert "silver.theirs is copied, since 'age' has values that mean missing" in made.path.read_text()


def test_infinities_are_missing_and_that_is_said(home, tmp_path):
    table = pa.table(ROWS | {"spend": [float("inf") if n % 50 == 0 else x for n, x in enumerate(ROWS["spend"])]})
    table = table.drop_columns(["joined"])
    pq.write_table(table, tmp_path / "t.parquet")
    write_table(home, "silver.theirs", table)
    for name, source in (("m", tmp_path / "t.parquet"), ("n", "silver.theirs")):
        made = made_from(home, source, name=name)
        assert "infinite in 12 rows, which is read as missing" in made.path.read_text()
        assert tables(home)[f"{name}_examples"]["spend"].null_count == 12
    assert "silver.theirs is copied, since 'spend' is infinite in some rows" in made.path.read_text()


def test_columns_that_could_be_no_feature_are_listed_without_a_kind(home, tmp_path):
    table = with_column(ROWS, "nothing", lambda n, _: None)
    table = with_column(table, "closed", lambda n, row: f"2026-01-{1 + n % 28:02d}" if row["left"] == "yes" else None)
    table = with_column(table, "always", lambda n, _: "2026-01-01")
    made = made_from(home, write_csv(tmp_path / "t.csv", table))
    lines = [line.strip() for line in made.path.read_text().splitlines()]
    assert "# nothing  empty: no row has a value" in lines
    assert any(line.startswith("# closed  leak: filled in for") for line in lines)
    assert any(line.startswith("# always  constant: every row has 2026-01-01") for line in lines)


def test_a_column_that_no_sampled_row_has_does_not_break_the_baseline(home, tmp_path):
    table = with_column(ROWS, "rare", lambda n, _: n % 7 if n % 50 == 3 else None)
    table = with_column(table, "odd", lambda n, _: "ab"[n % 2] if n % 50 == 3 else None)
    made = made_from(home, write_csv(tmp_path / "t.csv", table))
    assert {"rare", "odd"} <= made.declaration.features.keys()
    examples = tables(home)["m_examples"].filter(pc.is_null(pc.field("rare")))
    assert measure(made.declaration, examples).auc > 0.8


def test_of_rare_outcomes_the_baseline_has_all(home, tmp_path, monkeypatch):
    monkeypatch.setattr(declaring, "SAMPLE", 60)
    rows = ROWS | {"left": ["yes" if n % 50 == 0 else "no" for n in range(len(ROWS["left"]))]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    assert made_from(home, tmp_path / "t.parquet").baseline.rows == len(ROWS["left"])


def test_a_table_that_needs_it_is_copied_and_that_is_said(home):
    half = ROWS | {"left": [value if n % 2 else "" for n, value in enumerate(ROWS["left"])]}
    write_table(home, "silver.theirs", pa.table(half))
    made = made_from(home, "silver.theirs")
    assert made.declaration.examples.table == "silver.m_examples"
    assert "silver.theirs is copied, since 'left' is missing in some rows" in made.path.read_text()
    assert len(tables(home)["m_examples"]) == 300


@pytest.mark.parametrize("name", ["Churn", "churn\n", "1st", "", "a-b", "../x"])
def test_a_name_that_no_table_could_have_is_refused(home, csv, name):
    with pytest.raises(OnboardingError, match="Use lower-case letters"):
        made_from(home, csv, name=name)


def test_nothing_is_overwritten_unless_asked(home, csv):
    before = made_from(home, csv).path.read_text()
    with pytest.raises(OnboardingError, match="--replace writes it anew"):
        made_from(home, csv)
    (home.models / "m.yaml").unlink()
    with pytest.raises(LakehouseError, match=r"silver.m_population and silver.m_examples already. --replace"):
        made_from(home, csv)
    assert not (home.models / "m.yaml").exists()
    assert made_from(home, csv, replace=True).path.read_text() == before


def test_a_replaced_table_has_the_new_columns_and_types_and_keeps_the_old_rows(home, csv, tmp_path):
    made_from(home, csv)
    with Lakehouse.open(home) as lake:
        old = lake.snapshot("silver.m_examples")
    other = with_column(changed(ROWS, "age", lambda age: f"{age}.5"), "size", lambda n, _: n % 3)
    del other["plan"]
    made_from(home, write_csv(tmp_path / "other.csv", other), replace=True)
    with Lakehouse.open(home) as lake:
        now = lake.read("silver.m_examples")
        assert len(lake.read("silver.m_examples", ("customer_id",), old.id)) == 600
    assert set(now.column_names) == set(other)
    assert now["age"].to_pylist() == [float(age) for age in other["age"]]


def test_a_table_without_a_feature_is_refused_and_says_why(home, tmp_path):
    table = {name: ROWS[name] for name in ("customer_id", "joined", "left")}
    with pytest.raises(OnboardingError, match=r"no column left .* 'joined' \(date: "):
        made_from(home, write_csv(tmp_path / "t.csv", table))


def test_a_key_of_fractions_is_refused(home, tmp_path):
    pq.write_table(pa.table(ROWS), tmp_path / "t.parquet")
    with pytest.raises(OnboardingError, match="a key is a whole number or a text"):
        made_from(home, tmp_path / "t.parquet", key="spend")


def test_a_key_that_answers_use_themselves_is_renamed(home, tmp_path):
    table = {("model" if name == "customer_id" else name): values for name, values in ROWS.items()}
    made = made_from(home, write_csv(tmp_path / "t.csv", table), key="model")
    assert made.declaration.entity_key == "model_key"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a: b", "#1"),
        ("- x", "yes"),
        ("'q' \"d\"", "{[,]}"),
        ("#", "nil"),
        ("ü € 😀", "tab\there"),
        ("true", "0x1F"),
        ("x\x81", "a\x85b"),
    ],
)
def test_whatever_stands_in_names_and_values_the_declaration_can_be_read(home, tmp_path, name, value):
    table = with_column(ROWS, name, lambda n, _: value if n % 2 else f"{value} too")
    made = made_from(home, write_csv(tmp_path / "t.csv", table))
    assert set(made.declaration.features[name].values) == {value, f"{value} too"}


def test_a_failure_while_loading_leaves_no_table_no_declaration_and_no_scratch(home, csv, monkeypatch):
    def broken(*_: object) -> None:
        raise OnboardingError("the disk is full")

    monkeypatch.setattr("onboarding.rows.Label.read", broken)  # the examples fail when the population is written
    monkeypatch.setattr(new_model, "declare", _without_a_sample(new_model.declare))
    with pytest.raises(OnboardingError, match="the disk is full"):
        made_from(home, csv)
    assert tables(home) == {}
    assert not list(home.models.iterdir())
    assert list(home.scratch.iterdir()) == []


@pytest.mark.parametrize("replace", [False, True])
def test_when_the_declaration_cannot_be_written_the_tables_are_as_they_were(home, csv, tmp_path, monkeypatch, replace):
    if replace:
        before = made_from(home, csv).path.read_text()
        loaded = {name: table.to_pydict() for name, table in tables(home).items()}
    monkeypatch.setattr(Path, "replace", _no_room)
    monkeypatch.setattr(Path, "hardlink_to", _no_room)
    other = write_csv(tmp_path / "other.csv", changed(ROWS, "age", lambda age: f"{age}.5"))
    with pytest.raises(OnboardingError, match=r"m.yaml cannot be written: .*No space left"):
        made_from(home, other, replace=replace)
    monkeypatch.undo()
    assert {name: table.to_pydict() for name, table in tables(home).items()} == (loaded if replace else {})
    assert [path.read_text() for path in home.models.iterdir()] == ([before] if replace else [])


def _no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_of_two_that_make_one_model_at_once_one_wins_and_the_other_says_so(home, csv, monkeypatch):
    once = [lambda: made_from(home, csv)]

    def overtaken(*arguments):
        made = declare(*arguments)
        if once:
            once.pop()()
        return made

    declare = new_model.declare
    monkeypatch.setattr(new_model, "declare", overtaken)
    with pytest.raises(LakehouseError, match=r"silver.m_population and silver.m_examples already"):
        made_from(home, csv)
    assert len(tables(home)["m_population"]) == len(tables(home)["m_examples"]) == 600
    assert load_declaration(home.models / "m.yaml").name == "m"


def test_a_declaration_that_somebody_else_wrote_meanwhile_stays_theirs(home, csv, monkeypatch):
    made_from(home, csv)

    def overtaken(*arguments):
        (home.models / "n.yaml").write_text("theirs")
        return declare(*arguments)

    declare = new_model.declare
    monkeypatch.setattr(new_model, "declare", overtaken)
    with pytest.raises(OnboardingError, match="was written by somebody else meanwhile"):
        made_from(home, "silver.m_examples", name="n")
    assert (home.models / "n.yaml").read_text() == "theirs"


def _without_a_sample(declare):
    """Declare as if from a clean run: the sample reads labels too."""
    from onboarding import declaring
    from onboarding.baseline import Baseline

    def quick(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(declaring, "_sample", lambda _: None)
            patch.setattr(declaring, "measure", lambda *_: Baseline(0.8, 600, 0.5, 0.5, 0.5))
            return declare(*arguments)

    return quick


def test_a_broken_neighbour_is_named_before_anything_is_read(home, csv):
    (home.models / "other.yaml").write_text("name: other")
    with pytest.raises(OnboardingError, match="Another declaration is broken"):
        made_from(home, csv)
