"""The OpenAPI page is the truth: schemathesis makes requests from it, and compares the answers with it."""

import subprocess
import sys
from pathlib import Path

import pytest

# A whole number written as 1.0 is an integer to JSON Schema, and none to us: keys and batches have no fractions.
# A wrong row of many is answered in its place, beside the others. Truth values read as numbers, as they do in the lake.
CHECKS = """
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = ["/predict_many", "/predict"]
checks.negative_data_rejection.enabled = false
"""


@pytest.fixture
def config(tmp_path) -> Path:
    file = tmp_path / "schemathesis.toml"
    file.write_text(CHECKS)
    return file


def test_every_answer_is_as_the_openapi_page_says(served, config):
    program = Path(sys.executable).with_name("schemathesis")
    how = ["--max-examples", "40", "--phases", "examples,coverage,fuzzing", "--generation-deterministic"]
    command = [program, "--config-file", config, "run", f"{served.url}/docs.json", *how]
    done = subprocess.run(command, cwd=config.parent, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert "Tested: 7" in done.stdout
