"""YAML and JSON on the pages say what is true: each fragment is read by what reads the file that it stands for."""

import json
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster_shared.yaml_utils import load_run_config_yaml

from backends.settings import ROOT, Settings
from docs.making.declaration_reference import EXAMPLES
from docs.making.pages import Block, blocks
from models.declaration import Declaration, load_declaration, read_yaml
from models.errors import DeclarationError
from orchestration.definitions import assemble
from tests.docs.house import CHURN
from tests.lives import merged

YAML = blocks("yaml")
CONFIGS = [block for block in YAML if block.text.startswith("ops:")]
DECLARED = [block for block in YAML if block not in CONFIGS]
OF_EVENTS = re.compile(r"kind: history|^events:|^history:|models/fraud", re.MULTILINE)


def whole(fragment: dict[str, Any], of_events: bool) -> dict[str, Any]:
    """Lay a fragment over the declaration that it belongs to, unless it is one itself."""
    if {"name", "entity_key", "features"} <= set(fragment):
        return fragment
    raw = read_yaml((ROOT / "models" / f"{'fraud' if of_events else 'churn'}.yaml").read_text())
    if "decision_costs" in fragment:
        raw.pop("decision_threshold", None)
    if "split" in fragment.get("examples", {}):
        raw["examples"].pop("split", None)
    return merged(raw, fragment)


def read(text: str, folder: Path) -> Declaration:
    """Read a fragment as part of a declaration, as Tandem reads files."""
    raw = whole(read_yaml(text), bool(OF_EVENTS.search(text)))
    path = folder / f"{raw['name']}.yaml"
    path.write_text(json.dumps(raw))  # JSON is YAML in which every text is in quotes
    return load_declaration(path)


@pytest.mark.parametrize("block", DECLARED, ids=str)
def test_yaml_on_a_page_is_part_of_a_declaration(block, tmp_path):
    read(block.text, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "gates: {min_acu: 0.7}",
        "costs: {cpu_hour: dear}",
        "features: {a: {kind: colour}}",
        "gates: {min_auc: 0.7}\ngates: {max_rejected_share: 0.1}",  # plain YAML takes the second
    ],
)
def test_yaml_that_is_none_would_be_seen(text, tmp_path):
    with pytest.raises((DeclarationError, yaml.YAMLError), match=r"min_acu|cpu_hour|features\.a|'gates' stands twice"):
        read(text, tmp_path)


def test_what_looks_like_another_type_is_the_text_that_tandem_reads(tmp_path):
    read_as = read("features: {answer: {kind: category, values: [no, 18:30, 2026-11-28]}}", tmp_path).features["answer"]
    assert read_as.values == ("no", "18:30", "2026-11-28")


def test_each_part_of_the_reference_has_an_example_that_shows_it():
    parts = set(Declaration.model_json_schema()["$defs"])
    assert set(EXAMPLES) == parts, "docs/making/declaration_reference.py, EXAMPLES"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> dict[str, dg.JobDefinition]:
    """Every job of churn, by each of its steps."""
    folder = tmp_path_factory.mktemp("declared")
    (folder / "churn.yaml").write_text(yaml.safe_dump(CHURN))
    definitions = assemble(Settings(home=folder, models=folder))
    names = ("churn_watch", "rollback_churn_predictions", "rollback_churn_model", "promote_churn", "lake_maintenance")
    found = [definitions.resolve_job_def(name) for name in names]
    return {node.name: job for job in found for node in job.nodes}


@pytest.mark.parametrize("block", CONFIGS, ids=str)
def test_a_run_config_on_a_page_is_taken_by_its_job(block, jobs):
    config = load_run_config_yaml(block.text)
    (step,) = config["ops"]
    dg.validate_run_config(jobs[step], config)


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_on_a_page_is_json(block: Block):
    json.loads(block.text)
