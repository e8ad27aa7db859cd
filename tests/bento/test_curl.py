"""The `curl` commands of the pages, asked of a running service: each is answered with a score."""

import json
import subprocess

import pytest

from docs.making.pages import Command, commands
from tests.processes import program

ASKED = "curl http://127.0.0.1:3001/"
KEY, KEY_HERE = "10000002", "1"
COMMANDS = [c for c in commands() if c.text.startswith(ASKED) and c.where.page != "tutorial.md"]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_curl_on_a_page_is_answered(command: Command, served):
    if not program("curl"):
        pytest.skip("curl is not installed: apt-get install curl")
    text = command.text.replace("http://127.0.0.1:3001", served.url).replace(KEY, KEY_HERE)
    done = subprocess.run(["sh", "-c", f"{text} --silent --fail-with-body"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    answer = json.loads(done.stdout)
    rows = answer.get("predictions", [answer])
    assert any("probability" in row for row in rows)
