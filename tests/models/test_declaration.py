import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml

from models.declaration import Declaration, StratifiedSplit, TimeSplit, json_schema, load_declaration, load_declarations
from models.errors import DeclarationError, Problem

MODELS = Path(__file__).parents[2] / "models"

HEAD = """\
name: churn
entity_key: customer_id
population: {table: silver.active_customers}
examples: {table: silver.churn_examples, label: churned, time: observed_on}
"""
MINIMAL = HEAD + "features:\n  age: {kind: number}\n"


@pytest.fixture
def load(tmp_path: Path):
    def write_and_load(text: str | bytes, file: str = "churn.yaml") -> Declaration:
        path = tmp_path / file
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_declaration(path)

    return write_and_load


@pytest.fixture
def problems(load):
    def problems_of(text: str | bytes, file: str = "churn.yaml") -> dict[str, Problem]:
        with pytest.raises(DeclarationError) as caught:
            load(text, file)
        assert all(problem.message and problem.remedy for problem in caught.value.problems)
        return {problem.field: problem for problem in caught.value.problems}

    return problems_of


# --- what can be written ----------------------------------------------------------------------------------------------


def test_the_shipped_declarations_load():
    declaration = load_declaration(MODELS / "churn.yaml")
    assert declaration.name == "churn"
    assert sum(feature.kind == "number" for feature in declaration.features.values()) >= 12
    assert sum(feature.kind == "category" for feature in declaration.features.values()) >= 6
    assert [each.name for each in load_declarations(MODELS)] == ["churn", "fraud"]


def test_a_minimal_file_has_at_most_ten_lines_besides_its_features(load):
    assert len(HEAD.splitlines()) + 1 <= 10
    declaration = load(MINIMAL)
    assert declaration.predictions_table == "gold.churn_predictions"
    assert declaration.examples.split == TimeSplit(test_months=2, calibration_share=0.1)
    assert declaration.decision_threshold == 0.5
    assert declaration.network.hidden == (128, 32)
    assert declaration.gates.max_auc_behind_champion == 0.002
    assert (declaration.predictions.score_at, declaration.predictions.ready_by) == ("02:00", "08:00")
    assert (declaration.api.port, declaration.api.stale_features) == (3001, "flag")


def test_what_is_written_replaces_the_defaults(load):
    declaration = load(
        MINIMAL.replace(", time: observed_on", ", split: {method: stratified, test_share: 0.3}")
        + "decision_threshold: 0.2\n"
        + "predictions: {table: gold.leavers, timezone: Europe/Berlin}\n"
        + "api: {port: 4000, stale_features: refuse}\n"
    )
    assert declaration.examples.split == StratifiedSplit(method="stratified", test_share=0.3)
    assert declaration.decision_threshold == 0.2
    assert declaration.predictions_table == "gold.leavers"
    assert (declaration.api.port, declaration.api.stale_features) == (4000, "refuse")


def test_features_keep_their_order(load):
    names = ["zeta", "alpha", "mid", "beta"]
    declaration = load(HEAD + "features:\n" + "".join(f"  {name}: {{kind: number}}\n" for name in names))
    assert list(declaration.features) == names


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path):
    for name in ("zebra", "ant"):
        (tmp_path / f"{name}.yaml").write_text(MINIMAL.replace("churn\n", f"{name}\n", 1))
    (tmp_path / "notes.txt").write_text("no model")
    assert [declaration.name for declaration in load_declarations(tmp_path)] == ["ant", "zebra"]


# --- the traps of YAML ------------------------------------------------------------------------------------------------


def test_words_that_yaml_takes_for_something_else_stay_text(load):
    values = "[Yes, No, on, off, 18:30, 2026-01-01, 1_000, 0x1F, 007, 1, true, NULL]"
    feature = load(HEAD + f"features:\n  answer: {{kind: category, values: {values}}}\n").features["answer"]
    # `1_000`, `1` and `true` are numbers and a boolean to YAML: written as a column of their type holds them
    assert feature.values == (
        *("Yes", "No", "on", "off", "18:30", "2026-01-01"),
        *("1000", "0x1F", "007", "1", "true", "NULL"),
    )


def test_unquoted_times_are_times(load):
    predictions = load(MINIMAL + "predictions: {score_at: 18:30, ready_by: 23:05}\n").predictions
    assert (predictions.score_at, predictions.ready_by) == ("18:30", "23:05")


@pytest.mark.parametrize(("text", "number"), [("1e3", 1000), ("-2.5", -2.5), (".5", 0.5), ("7", 7), ("1E-2", 0.01)])
def test_numbers_are_numbers(load, text: str, number: float):
    assert load(HEAD + f"features:\n  age: {{kind: number, min: {text}}}\n").features["age"].min == number


def test_a_key_that_stands_twice_is_an_error(problems):
    found = problems(MINIMAL + "  age: {kind: number, min: 3}\n")
    assert "'age' stands twice" in found["file"].message


# --- errors -----------------------------------------------------------------------------------------------------------


def test_all_errors_show_at_once_with_field_value_and_remedy(problems):
    found = problems("""\
name: Churn-Model
entity_key: customer_id
population: silver.active_customers
examples: {table: examples, label: churned}
features:
  age: {kind: number, mim: 3}
  wage: {kind: number, min: 10, max: 1}
  plan: {kind: text}
  bonus: {min: 1}
  contract: {kind: category, values: [a, b, a]}
  region: {kind: category, values: []}
  customer_id: {kind: number}
decision_treshold: 0.3
gates: {min_auc: high, int8: {max_auc_drop: -1}}
predictions: {ready_by: 8 o'clock}
api: {port: 0}
""")
    assert set(found) == {
        "name",
        "population",
        "examples.table",
        "examples.time",
        "features.age.mim",
        "features.wage",
        "features.plan",
        "features.bonus",
        "features.contract",
        "features.region.values",
        "features.customer_id",
        "decision_treshold",
        "gates.min_auc",
        "gates.int8.max_auc_drop",
        "predictions.ready_by",
        "api.port",
    }
    assert found["name"].value == "Churn-Model"
    assert found["gates.min_auc"].value == "high"
    assert "'min'" in found["features.age.mim"].remedy
    assert "'decision_threshold'" in found["decision_treshold"].remedy
    assert "min 10 is above max 1" in found["features.wage"].message
    assert "kind: number" in found["features.bonus"].remedy
    assert "stand twice: a" in found["features.contract"].message
    assert "stratified" in found["examples.time"].remedy


def test_the_message_lists_every_problem_under_the_files_name(tmp_path: Path):
    path = tmp_path / "churn.yaml"
    path.write_text("name: churn\n")
    with pytest.raises(DeclarationError) as caught:
        load_declaration(path)
    assert caught.value.file == str(path)
    assert str(caught.value).startswith(f"{path} has 4 errors:\n  - entity_key: is missing")
    assert len(str(caught.value).splitlines()) == 5


def test_the_name_is_the_files_name(problems):
    found = problems(MINIMAL, file="fraud.yaml")
    assert list(found) == ["name"]
    assert found["name"].value == "churn"
    assert "fraud" in found["name"].remedy


@pytest.mark.parametrize(
    ("column", "role"),
    [
        ("customer_id", "entity_key"),
        ("churned", "examples.label"),
        ("observed_on", "examples.time"),
        ("updated_at", "population.time"),
    ],
)
def test_a_feature_that_leaks_is_refused(problems, column: str, role: str):
    text = MINIMAL.replace("active_customers}", "active_customers, time: updated_at}")
    found = problems(text + f"  {column}: {{kind: number}}\n")
    assert list(found) == [f"features.{column}"]
    assert role in found[f"features.{column}"].message


def test_a_split_by_time_needs_the_time(load, problems):
    assert list(problems(MINIMAL.replace(", time: observed_on", ""))) == ["examples.time"]
    load(MINIMAL.replace("time: observed_on", "split: {method: stratified}"))


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ("predictions: {score_at: 09:00}", "predictions.ready_by"),  # the default 08:00 is earlier
        ("predictions: {score_at: 08:00}", "predictions.ready_by"),  # no time at all to score
        ("predictions: {score_at: 9:00}", "predictions.score_at"),  # not compared as a text with 08:00
        ("predictions: {score_at: 24:00, ready_by: 24:30}", "predictions.score_at"),
        ("predictions: {timezone: Mars/Olympus}", "predictions"),
        ("predictions: {first_day: someday}", "predictions.first_day"),
        ("examples: ", "file"),  # a second `examples`
        ("decision_threshold: 1", "decision_threshold"),
        ("network: {hidden: []}", "network.hidden"),
        ("network: {hidden: [128, 2]}", "network.hidden.1"),
        ("owner: 5", "owner"),
        ("api: {stale_features: ignore}", "api.stale_features"),
    ],
)
def test_wrong_values_name_their_field(problems, written: str, field: str):
    assert field in problems(MINIMAL + written + "\n")


def test_a_bound_must_be_finite(problems):
    assert "features.age.max" in problems(HEAD + "features:\n  age: {kind: number, max: .inf}\n")


def test_an_unknown_split_is_refused_by_its_place(problems):
    assert list(problems(MINIMAL.replace("time: observed_on", "split: {method: random}"))) == ["examples.split"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00name", "cannot be read"),
        (b"", "is not a mapping"),
        (b"- name: churn\n", "is not a mapping"),
        (b"name: [churn\n", "flow sequence"),
        (b"name: churn\n\tentity_key: id\n", "found character '\\t'"),  # a tab as indentation
        (b"name: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        (b"{[1]: 2}", "unhashable key"),
    ],
)
def test_a_file_that_holds_no_mapping_is_one_problem(problems, content: bytes, message: str):
    found = problems(content)
    assert list(found) == ["file"]
    assert message in found["file"].message


@pytest.mark.parametrize("missing", ["nothing.yaml", "."])  # no file, and a folder
def test_an_unreadable_file_is_one_problem(tmp_path: Path, missing: str):
    with pytest.raises(DeclarationError, match="cannot be read"):
        load_declaration(tmp_path / missing)


def test_lists_where_columns_belong_are_problems_and_no_crash(problems):
    found = problems(MINIMAL.replace("customer_id", "[customer_id]").replace("label: churned", "label: {a: 1}"))
    assert set(found) == {"entity_key", "examples.label"}


# --- the JSON Schema --------------------------------------------------------------------------------------------------


def test_the_schema_file_is_up_to_date():
    assert (MODELS / "declaration.schema.json").read_text("utf-8") == json_schema()


def test_the_schema_accepts_what_the_loader_accepts():
    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(yaml.safe_load((MODELS / "churn.yaml").read_text("utf-8")))
    validator.validate(yaml.safe_load(MINIMAL + "  answer: {kind: category, values: [no, 1, text]}\n"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Churn"},
        {"decision_treshold": 0.3},
        {"features": {}},
        {"features": {"age": {"kind": "text"}}},
        {"predictions": {"score_at": "8:00"}},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(wrong: dict):
    validator = jsonschema.Draft202012Validator(json.loads(json_schema()))
    assert not validator.is_valid(yaml.safe_load(MINIMAL) | wrong)


def test_the_errors_of_all_files_show_at_once(tmp_path):
    (tmp_path / "first.yaml").write_text("name: first\n")
    (tmp_path / "second.yaml").write_text("name: second\nentity_key: [a]\n")
    shutil.copy(MODELS / "churn.yaml", tmp_path)
    with pytest.raises(DeclarationError) as error:
        load_declarations(tmp_path)
    fields = {problem.field for problem in error.value.problems}
    assert {"first.yaml: entity_key", "second.yaml: entity_key", "second.yaml: features"} <= fields
    assert not any("churn" in field for field in fields)
