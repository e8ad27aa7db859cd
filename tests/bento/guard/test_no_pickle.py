"""What a service loads is ONNX and JSON: a pickle would be code."""

import json
import subprocess
import sys

import httpx

SERVE_WITHOUT_PICKLES = """
import asyncio, pickle, sys

def forbid(event, arguments):
    if event == "pickle.find_class":
        raise RuntimeError(f"a pickle asks for {arguments}")

sys.addaudithook(forbid)

class Harmless:
    pass

try:
    pickle.loads(pickle.dumps(Harmless()))
except RuntimeError as error:
    assert "asks for" in str(error)
else:
    sys.exit("the hook does not work")

from bento.app import service

answer = asyncio.run(service.inner().predict(b'{"customer_id": 1}'))
print(answer.status_code, answer.body.decode())
"""


def test_a_service_starts_and_answers_without_unpickling_anything(served, tmp_path):
    environment = {
        "PYTHONPATH": str(served.bento.path / "src"),
        "TANDEM_HOME": str(served.settings.home),
        "BENTOML_HOME": str(tmp_path),
    }
    command = [sys.executable, "-P", "-c", SERVE_WITHOUT_PICKLES]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    status, body = done.stdout.split(" ", 1)
    assert (status, json.loads(body)["customer_id"]) == ("200", 1)
    kinds = {file.suffix for file in (served.bento.path / "src").rglob("*") if file.is_file()}
    assert kinds <= {".py", ".pyc", ".onnx", ".json", ".pb", ".yaml"}, kinds


def test_a_pickle_that_is_sent_is_not_read(served):
    for path in ("/predict", "/predict_many"):
        headers = {"Content-Type": "application/vnd.bentoml+pickle"}
        answer = httpx.post(f"{served.url}{path}", content=b"\x80\x04N.", headers=headers)
        assert answer.status_code == 415
