"""`docs/open-inference.md` says what is true: its snippets are run against a service."""

import json
import re
import subprocess
from typing import Any

import numpy as np
import pytest

from backends.settings import ROOT
from bento.open_inference.tensors import outputs_of
from models.encoding import encode_rows
from models.scoring import Scorer
from tests.bento.conftest import Served
from tests.processes import program

PAGE = (ROOT / "docs" / "open-inference.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SHELL = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def snippets(served) -> dict[str, str]:
    """The page's snippets as they are there, and as they are for the service of the tests."""
    addresses = {"127.0.0.1:3001": served.url.removeprefix("http://"), "127.0.0.1:3101": served.grpc}
    return {text: _replaced(text, addresses | {"churn": "tiny"}) for text in (*PYTHON, *SHELL)}


def _replaced(text: str, changed: dict[str, str]) -> str:
    for old, new in changed.items():
        text = text.replace(old, new)
    return text


def scores_of(served: Served, rows: list[dict[str, Any]]) -> np.ndarray:
    return Scorer(served.onnx).score(encode_rows(served.contract, rows))


@pytest.mark.parametrize("snippet", PYTHON, ids=["Triton's over REST", "Triton's over gRPC", "Tandem's own"])
def test_the_python_on_the_page_gets_the_scorers_own_float32(served, snippets, snippet):
    names: dict[str, Any] = {}
    exec(compile(snippets[snippet], "open-inference.md", "exec"), names)
    found = [names[name] for name in ("scores", "over_rest", "over_grpc") if name in names]
    assert found
    for scores in found:
        np.testing.assert_array_equal(np.float32(scores), scores_of(served, served.rows[1:4]))


def test_the_curl_on_the_page_overrides_a_feature(served, snippets):
    if not program("curl"):
        pytest.skip("curl is not installed: apt-get install curl")
    (snippet,) = [snippets[shell] for shell in SHELL if shell.startswith("curl")]
    done = subprocess.run(["sh", "-c", snippet], capture_output=True, text=True, check=True)
    (output,) = json.loads(done.stdout)["outputs"]
    changed = [served.rows[1] | {"plan": "pro"}, served.rows[2] | {"plan": "basic"}]
    np.testing.assert_array_equal(np.float32(output["data"]), scores_of(served, changed))


def test_what_is_not_run_says_so():
    others = [shell for shell in SHELL if not shell.startswith("curl")]
    assert [shell.split()[0] for shell in others] == ["TANDEM_GRPC_PORT=3101", "grpcurl"]
    assert "Not tested here:\n\n```sh\ngrpcurl" in PAGE


def test_the_outputs_on_the_page_are_those_that_there_are(served):
    table = PAGE[PAGE.index("| output |") :].partition("\n\n")[0].splitlines()[2:]
    told = {cells[1].strip(" `"): cells[2].strip(" `") for cells in (row.split("|") for row in table)}
    outputs = outputs_of(served.contract.model_copy(update={"model": "churn"}))
    assert told == {output.name: output.datatype for output in outputs.values()}
