"""The `tandem` command, as a program: what it prints, and how it fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backends.settings import ROOT, Settings
from models.declaration import json_schema
from tests.lives import TINY, declare


def tandem(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TANDEM_HOME": str(settings.home), "TANDEM_MODELS": str(settings.models)}
    environment["COLUMNS"] = "400"  # however long the path of the test's folder is, no message is broken in two
    command = [sys.executable, "-m", "orchestration.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_good_declarations_are_listed(home):
    declare(home, TINY)
    done = tandem(home, "check")
    assert (done.returncode, done.stdout) == (0, "tiny: 5 features -> gold.tiny_predictions\n")


def test_our_own_declarations_are_good(home):
    assert tandem(home, "check", str(ROOT / "models")).returncode == 0


@pytest.mark.parametrize("how", ["the settings' folder", "a folder", "a file"])
def test_every_error_of_a_bad_declaration_is_said_without_a_traceback(home, how):
    declare(home, TINY)
    path = home.models / "tiny.yaml"
    path.write_text(path.read_text().replace("entity_key", "entity_ky").replace("kind: number", "kind: nummer"))
    arguments = {"the settings' folder": [], "a folder": [str(home.models)], "a file": [str(path)]}[how]
    done = tandem(home, "check", *arguments)
    assert done.returncode == 1
    assert f"error: {path} has " in done.stderr
    for said in ("entity_key: is missing", "entity_ky: is not a field here", "features.balance", "features.tenure_mo"):
        assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_all_files_are_checked_though_the_first_is_broken(home):
    for name in ("a", "b", "c"):
        declare(home, TINY, name=name)
    for name in ("a", "b"):
        (home.models / f"{name}.yaml").write_text("name: [")
    done = tandem(home, "check")
    assert done.returncode == 1
    assert done.stderr.count("has 1 error:") == 2
    assert done.stdout == "c: 5 features -> gold.c_predictions\n"


def test_a_folder_that_is_not_there_is_an_error(home):
    done = tandem(home, "check", str(home.models / "nowhere"))
    assert done.returncode != 0
    assert "does not exist" in done.stderr


def test_the_schema_is_printed_as_it_is_kept(home):
    done = tandem(home, "schema")
    assert done.stdout == json_schema() == (ROOT / "models" / "declaration.schema.json").read_text()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("tiny", "error: There is no Bento tiny. Materialize tiny/bento.\n"),
        ("no_such", "no_such.yaml has 1 error:\n  - file: cannot be read"),
    ],
)
def test_serving_what_is_not_there_is_said_in_one_message(home, model, said):
    declare(home, TINY)
    done = tandem(home, "serve", model)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_verbs_are_few_and_listed(home):
    done = tandem(home, "--help")
    assert done.returncode == 0
    assert {"demo", "dev", "serve", "check", "schema"} <= set(done.stdout.split())


def test_the_installed_command_is_this_one():
    program = Path(sys.executable).parent / "tandem"
    done = subprocess.run([program, "schema"], capture_output=True, text=True, check=True)
    assert done.stdout == json_schema()
