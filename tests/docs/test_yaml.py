"""YAML and JSON on the pages say what is true: each fragment is read by what reads the file that it stands for."""

import json
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from backends.settings import ROOT, Settings
from docs.making.declaration_reference import EXAMPLES
from docs.making.pages import Block, blocks
from models.declaration import Declaration, load_declaration
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
    raw = yaml.safe_load((ROOT / "models" / f"{'fraud' if of_events else 'churn'}.yaml").read_text())
    if "decision_costs" in fragment:
        raw.pop("decision_threshold", None)
    if "split" in fragment.get("examples", {}):
        raw["examples"].pop("split", None)
    return merged(raw, fragment)


def read(text: str, folder: Path) -> Declaration:
    """Read a fragment as part of a declaration, as Tandem reads files."""
    raw = whole(yaml.safe_load(text), bool(OF_EVENTS.search(text)))
    path = folder / f"{raw['name']}.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return load_declaration(path)


@pytest.mark.parametrize("block", DECLARED, ids=str)
def test_yaml_on_a_page_is_part_of_a_declaration(block, tmp_path):
    read(block.text, tmp_path)


@pytest.mark.parametrize("text", ["gates: {min_acu: 0.7}", "costs: {cpu_hour: dear}", "features: {a: {kind: colour}}"])
def test_yaml_that_is_none_would_be_seen(text, tmp_path):
    with pytest.raises(Exception, match=r"min_acu|cpu_hour|features\.a"):
        read(text, tmp_path)


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
    config = yaml.safe_load(block.text)
    (step,) = config["ops"]
    dg.validate_run_config(jobs[step], config)


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_on_a_page_is_json(block: Block):
    json.loads(block.text)
