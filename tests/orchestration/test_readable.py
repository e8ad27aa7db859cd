"""One look at Dagster: whatever the definitions have says in words what it is, and what must hold. For every model."""

import re

import dagster as dg
import pytest
import yaml

from backends.settings import ROOT, Settings
from orchestration.definitions import assemble
from tests.lives import TINY

LONGEST_DESCRIPTION = 260  # what an asset's node and a list of checks show without being opened
IMPLICIT = "__ASSET_JOB"  # Dagster's own
PREDICATE = re.compile(  # what must hold: a noun and a verb, like `api_agrees_with_gold`
    r"^(?:[a-z0-9]+_)*(?:is|are|has|have|keeps?|reach(?:es)?|agrees?|answers?|resembles?|beats?)(?:_[a-z0-9]+)*$"
)


@pytest.fixture(scope="module")
def definitions(tmp_path_factory) -> dg.Definitions:
    """The demo's models, and one that declares as little as it can."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("churn.yaml", "fraud.yaml"):
        (folder / name).write_text((ROOT / "models" / name).read_text())
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return assemble(Settings(models=folder))


@pytest.fixture(scope="module")
def graph(definitions):
    return definitions.resolve_asset_graph()


@pytest.fixture(scope="module")
def repository(definitions):
    return definitions.get_repository_def()


def told(text: str | None) -> bool:
    """Tell whether a text is one or a few sentences that fit where they are shown."""
    return (
        bool(text)
        and (text[0].isupper() or text[0].isdigit())
        and text.rstrip().endswith(".")
        and len(text) <= LONGEST_DESCRIPTION
    )


def test_every_asset_says_what_it_is_whose_it_is_and_what_it_is_made_with(graph):
    assert [key.to_user_string() for key in graph.get_all_asset_keys() if not told(graph.get(key).description)] == []
    assert [key.to_user_string() for key in graph.get_all_asset_keys() if not graph.get(key).kinds] == []
    teams = {"churn": ["team:growth"], "tiny": ["team:growth"], "fraud": ["team:payments"]}
    ours = [key for key in graph.get_all_asset_keys() if graph.get(key).group_name in teams]
    assert [key.to_user_string() for key in ours if graph.get(key).owners != teams[graph.get(key).group_name]] == []


def test_only_tables_that_others_write_have_no_owner_here(graph):
    foreign = {key.to_user_string() for key in graph.get_all_asset_keys() if not graph.get(key).owners}
    assert foreign == {
        *("silver/active_customers", "silver/churn_examples", "silver/tiny_examples"),
        "silver/card_transactions",
    }
    assert {graph.get(dg.AssetKey(key.split("/"))).group_name for key in foreign} == {"silver"}


def test_every_table_says_its_name_and_its_tier(graph):
    tables = [key for key in graph.get_all_asset_keys() if key.path[0] in ("gold", "silver")]
    for key in tables:
        node = graph.get(key)
        assert getattr(node.metadata["dagster/table_name"], "value", node.metadata["dagster/table_name"]) == ".".join(
            key.path
        )
        assert node.tags["tier"] == key.path[0]
    assert len(tables) >= 7


def test_every_check_says_what_must_hold_by_its_name_and_in_a_sentence(graph):
    assert [key.name for key in graph.asset_check_keys if not PREDICATE.match(key.name)] == []
    assert [key.name for key in graph.asset_check_keys if not told(graph.get(key).description)] == []


@pytest.mark.parametrize("name", ["auc", "check_drift", "drift_check", "quality", "gold_parity"])
def test_a_name_that_says_nothing_is_none_for_a_check(name):
    assert not PREDICATE.match(name)


def test_every_job_schedule_and_sensor_says_what_it_does(repository):
    everything = [
        *(job for job in repository.get_all_jobs() if job.name != IMPLICIT),
        *repository.schedule_defs,
        *repository.sensor_defs,
    ]
    assert [one.name for one in everything if not told(one.description)] == []
    assert {"churn_training", "churn_nightly", "lake_maintenance", "open_lineage"} <= {one.name for one in everything}


def test_a_jobs_configuration_explains_its_fields(repository):
    """Where a person has to fill something in, the launchpad says what."""
    seen = set()
    for job in repository.get_all_jobs():
        for op in getattr(job.graph, "node_defs", []):
            schema = getattr(op, "config_schema", None)
            fields = getattr(schema.config_type, "fields", {}) if schema else {}
            seen |= set(fields)
            assert [name for name, field in fields.items() if not field.description] == [], op.name
    assert {"to", "reason", "by", "apply"} <= seen
