"""A collector of OpenLineage events for tests, and what every event must be by OpenLineage's specification, 2-0-2."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

SPEC = "https://openlineage.io/spec/"


@dataclass
class Collector:
    """What was taken, in its order. `answer` gives the status for an event; it may raise to hang up."""

    url: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    answer: Callable[[dict[str, Any]], int] = lambda _: 201


@contextmanager
def collecting() -> Iterator[Collector]:
    """Take events on a free port of loopback."""
    collector = Collector()

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = collector.answer(event)
            if status == 201:
                collector.events.append(event)
                collector.paths.append(self.path)
                collector.keys.append(self.headers["Authorization"])
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- the specification: what it requires of an event and of the facets that are used ----------------------------------


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _facet(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    url = {"type": "string", "pattern": f"^{SPEC}.+#/\\$defs/"}
    return _object({"_producer": URI, "_schemaURL": url, **required}, **optional)


TEXT, WHOLE = {"type": "string", "minLength": 1}, {"type": "integer"}
URI, UUID = {"type": "string", "pattern": "^[a-z][a-z0-9+.-]*:.+"}, {"type": "string", "format": "uuid"}
TIME = {"type": "string", "format": "date-time", "pattern": r"[+-]\d\d:\d\d$"}
NAMED = {"namespace": TEXT, "name": TEXT}
FIELD = _object({**NAMED, "field": TEXT})

RUN_FACETS = {
    "parent": _facet({"run": _object({"runId": UUID}), "job": _object(NAMED)}),
    "nominalTime": _facet({"nominalStartTime": TIME}, nominalEndTime=TIME),
    "errorMessage": _facet({"message": TEXT, "programmingLanguage": TEXT}),
}
JOB_FACETS = {
    "jobType": _facet({"processingType": {"enum": ["BATCH", "STREAMING", "SERVICE"]}, "integration": TEXT}),
    "documentation": _facet({"description": TEXT}),
}
DATASET_FACETS = {
    "version": _facet({"datasetVersion": TEXT}),
    "dataSource": _facet({}, name=TEXT, uri=URI),
    "documentation": _facet({"description": TEXT}),
    "ownership": _facet({}, owners={"type": "array", "items": _object({"name": TEXT})}),
    "symlinks": _facet({}, identifiers={"type": "array", "items": _object({**NAMED, "type": TEXT})}),
    "schema": _facet({}, fields={"type": "array", "items": _object({"name": TEXT}, type=TEXT)}),
    "columnLineage": _facet(
        {
            "fields": {
                "type": "object",
                "additionalProperties": _object({"inputFields": {"type": "array", "items": FIELD}}),
            }
        }
    ),
    "tandem_model": _facet({}),
}
STATISTICS = {"outputStatistics": _facet({}, rowCount=WHOLE, size=WHOLE)}


def _closed(facets: dict[str, Any]) -> dict[str, Any]:
    """Facets of these names alone: one that is not described here is not checked, and must not slip through."""
    return {"type": "object", "properties": facets, "additionalProperties": False}


EVENT = _object(
    {
        "eventTime": TIME,
        "producer": URI,
        "schemaURL": {"const": f"{SPEC}2-0-2/OpenLineage.json#/$defs/RunEvent"},
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "run": _object({"runId": UUID}, facets=_closed(RUN_FACETS)),
        "job": _object(NAMED, facets=_closed(JOB_FACETS)),
    },
    inputs={"type": "array", "items": _object(NAMED, facets=_closed(DATASET_FACETS))},
    outputs={
        "type": "array",
        "items": _object(NAMED, facets=_closed(DATASET_FACETS), outputFacets=_closed(STATISTICS)),
    },
)


def problems(event: dict[str, Any]) -> list[str]:
    """Return where an event is not as the specification requires."""
    validator = Draft202012Validator(EVENT, format_checker=FormatChecker())
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(event)]
