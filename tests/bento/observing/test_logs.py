"""Lines on stderr: JSON, one an event, and never what a request was about."""

import json
import logging
import subprocess
import sys
import threading

import pytest

from backends.settings import Settings
from bento.observing.logs import MAX_LINES, AccessLog, JsonLines


def lines_of(requests, **settings) -> list[str]:
    lines: list[str] = []
    log = AccessLog(Settings(**settings), lines.append)
    log.start()
    for number, status in enumerate(requests):
        if log.wants(status):
            log.add(f"id-{number}", "rest", status, 1.25, 1, "EntityNotFoundError" if status == 404 else None)
    log.close()
    return lines


def test_a_record_with_its_traceback_is_one_line_of_json():
    try:
        raise ValueError("first line\nsecond line")
    except ValueError:
        record = logging.LogRecord("bentoml.tandem", logging.ERROR, "", 0, "It %s.", ("failed",), sys.exc_info())
    line = JsonLines().format(record)
    assert "\n" not in line
    read = json.loads(line)
    assert (read["level"], read["logger"], read["message"]) == ("error", "bentoml.tandem", "It failed.")
    assert "second line" in read["exception"]


def test_a_request_is_a_line_of_json_with_its_id():
    (line,) = lines_of([404], access_log="errors", log_format="json")
    read = json.loads(line)
    assert read.pop("time").startswith("20")
    assert read == {
        "level": "warning",
        "logger": "tandem.access",
        "message": "request",
        "request_id": "id-0",
        "protocol": "rest",
        "status": 404,
        "ms": 1.25,
        "rows": 1,
        "errors": "EntityNotFoundError",
    }


def test_a_request_is_a_line_of_text_by_default():
    (line,) = lines_of([200], access_log="all")
    assert line.split(" ", 1)[1] == "request request_id=id-0 protocol=rest status=200 ms=1.25 rows=1"


@pytest.mark.parametrize(("which", "lines"), [("none", 0), ("errors", 2), ("all", 4)])
def test_the_settings_say_which_requests_have_a_line(which, lines):
    assert len(lines_of([200, 404, 200, 503], access_log=which)) == lines


def test_of_the_good_answers_a_share_has_a_line_and_of_the_errors_all():
    lines = lines_of([200] * 10_000 + [500] * 10, access_log="all", access_log_sample=0.05)
    assert sum("status=500" in line for line in lines) == 10
    assert 300 < sum("status=200" in line for line in lines) < 800


def test_lines_that_cannot_be_written_in_time_are_dropped_and_counted():
    let_go, stuck = threading.Event(), threading.Event()

    def write(line: str) -> None:
        stuck.set()
        assert let_go.wait(60)

    log = AccessLog(Settings(access_log="all"), write)
    log.start()
    log.add("first", "rest", 200, 1.0, 1, None)
    assert stuck.wait(60)
    for _ in range(MAX_LINES + 7):
        log.add("more", "rest", 200, 1.0, 1, None)
    assert log.dropped == 7
    let_go.set()
    log.close()


CONFIGURED = """
import logging
from bentoml._internal.log import configure_server_logging
from backends.settings import Settings
from bento.observing.logs import configure

configure_server_logging()
configure(Settings(log_format="json"))
for name in ("", "bentoml.tandem", "uvicorn.error", "some.library"):
    logging.getLogger(name).warning("hello")
"""


def test_every_logger_of_a_process_writes_json_and_each_record_once():
    done = subprocess.run([sys.executable, "-c", CONFIGURED], capture_output=True, text=True, check=True)
    read = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["logger"] for line in read] == ["root", "bentoml.tandem", "uvicorn.error", "some.library"]
    assert done.stdout == ""
