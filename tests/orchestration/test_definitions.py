"""Loading: quickly, without the heavy libraries, and with every mistake of a declaration named."""

import subprocess
import sys

import pytest

from backends.settings import ROOT
from models.errors import DeclarationError
from orchestration.definitions import assemble
from tests.lives import TINY, declare

HEAVY = ("mlflow", "sklearn", "matplotlib", "pyiceberg", "bentoml", "onnxruntime", "onnx", "pandas", "pyarrow")


def test_the_workspace_loads_none_of_the_heavy_libraries(tmp_path):
    code = (
        "import sys, dagster\n"
        "known = set(sys.modules)\n"
        "from orchestration.definitions import defs\n"
        "defs().get_repository_def().load_all_definitions()\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules and name not in known])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_broken_declaration_does_not_load_and_all_its_errors_are_named(home):
    declare(home, TINY)
    path = home.models / "tiny.yaml"
    broken = path.read_text().replace("entity_key:", "entity_ky:").replace("method: stratified", "method: time")
    path.write_text(broken.replace("max_calibration_error: 0.1", "max_calibration_error: much"))
    with pytest.raises(DeclarationError) as caught:
        assemble(home)
    said = str(caught.value)
    assert str(path) in said
    named = {problem.field for problem in caught.value.problems}
    assert {"entity_key", "entity_ky", "examples.time", "gates.max_calibration_error"} <= named
    assert "Did you mean 'entity_key'?" in said


def test_steps_share_a_process(home):
    declare(home, TINY)
    assert assemble(home).resolve_job_def("tiny_training").executor_def.name == "in_process"
