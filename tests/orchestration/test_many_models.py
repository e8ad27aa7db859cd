"""Twenty declarations at once: both kinds of model, in one workspace that loads in a few seconds."""

import subprocess
import sys

import dagster as dg
import pytest
import yaml

from backends.settings import ROOT, Settings
from models.declaration import load_declarations
from orchestration.definitions import assemble
from tests.lives import declare

MOST_SECONDS = 6.0  # of CPU, the import of dagster included

LOAD = """
import time
from orchestration.definitions import defs
repository = defs().get_repository_def()
repository.load_all_definitions()
print(len(repository.asset_graph.get_all_asset_keys()), time.process_time())
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    folder = tmp_path_factory.mktemp("twenty")
    settings = Settings(home=folder / "home", models=folder / "models")
    settings.home.mkdir()
    for name in ("churn", "fraud"):
        raw = yaml.safe_load((ROOT / "models" / f"{name}.yaml").read_text())
        raw["predictions"].pop("table", None)  # each has a Gold table of its own
        for number in range(10):
            declare(settings, raw, name=f"{name}_{number}")
    return settings


def test_twenty_declarations_load_in_six_seconds_of_cpu(settings):
    environment = {"TANDEM_HOME": str(settings.home), "TANDEM_MODELS": str(settings.models), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assets, seconds = done.stdout.split()
    assert int(assets) > 20 * 8
    assert float(seconds) < MOST_SECONDS


def test_each_model_has_its_group_and_those_of_a_kind_have_the_same_shape(settings):
    graph = assemble(settings).resolve_asset_graph()
    groups = {graph.get(key).group_name for key in graph.get_all_asset_keys()}
    names = {declaration.name for declaration in load_declarations(settings.models)}
    assert len(names) == 20
    assert groups - {"silver"} == names
    shapes = {name: _shape(graph, name) for name in names}
    for kind in ("churn", "fraud"):
        assert len({frozenset(shapes[name]) for name in names if name.startswith(kind)}) == 1
    assert shapes["churn_0"] <= shapes["fraud_0"]
    assert shapes["fraud_0"] - shapes["churn_0"] == {"silver/MODEL_features"}


def _shape(graph: "dg.AssetGraph", name: str) -> set[str]:
    keys = (key for key in graph.get_all_asset_keys() if graph.get(key).group_name == name)
    return {key.to_user_string().replace(name, "MODEL") for key in keys}
