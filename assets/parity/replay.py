"""Ask a service for published customers, by key and by features, over each of its protocols, and compare.

Of a model of events, published events: each as of its time, with `record: false`, so that the proof leaves no trace.

An answer agrees when it is the same float32, bit for bit, and the same decision, of the file with the same sha256.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from assets.parity.report import Disagreement, ParityReport, Replayed
from assets.parity.sample import Customer, Question, sampled
from assets.parity.wires import Outcome, Patience, Wire, wires_to
from backends.lakehouse.catalog import Lakehouse
from backends.nights import newest_night
from backends.settings import Settings
from bento.client import ApiClient
from models.declaration import Declaration
from models.errors import ModelNotServedError, ServiceUnreachableError, TandemError

SAMPLE = 1000


def replay(lake: Lakehouse, declaration: Declaration, settings: Settings, sample: int = SAMPLE) -> ParityReport:
    """Ask the settings' service for some customers of the newest night. `ServiceUnreachableError` when nobody is there.

    A single protocol that does not answer is in the report.
    """
    night = newest_night(lake, declaration.predictions_table)
    url = settings.url_of_api(declaration.name, declaration.api.port)
    with ApiClient(url, key=settings.api_key) as client:
        served = client.lineage()
    customers = sampled(lake, declaration, night, sample)
    sha256, patience = night.properties["model_sha256"], Patience()
    with wires_to(url, served, declaration, settings) as wires:
        replayed = [_replayed(wire, customers, sha256, patience) for wire in wires]
    return ParityReport(url, night, served, len(customers), replayed)


def _replayed(wire: Wire, customers: Sequence[Customer], sha256: str, patience: Patience) -> Replayed:
    found = Replayed(wire.name, wire.rows)
    try:
        for asked_by, some, questions in _requests(wire, customers):
            begun = time.perf_counter()
            outcomes = patience.ask(wire, questions)
            found.latencies_ms.append(1000 * (time.perf_counter() - begun))
            found.compared += len(outcomes)
            found.out_of_reach += sum(_out_of_reach(outcome) for outcome in outcomes)
            found.disagreements += _disagreements(wire, asked_by, some, outcomes, sha256)
    except (ServiceUnreachableError, ModelNotServedError) as error:
        found.unreachable = str(error)
    return found


def _requests(wire: Wire, customers: Sequence[Customer]) -> Iterator[tuple[str, Sequence[Customer], list[Question]]]:
    """Yield what is asked, in the ways that there are, in turns."""
    for start in range(0, len(customers), wire.rows):
        some = customers[start : start + wire.rows]
        for way in some[0].ways:
            yield way, some, [customer.ways[way] for customer in some]


def _out_of_reach(outcome: Outcome) -> bool:
    """Whether the service says that it has no longer all of the history that counts."""
    return not isinstance(outcome, TandemError) and not outcome.complete


def _disagreements(
    wire: Wire, asked_by: str, customers: Sequence[Customer], outcomes: Sequence[Outcome], sha256: str
) -> Iterator[Disagreement]:
    for customer, outcome in zip(customers, outcomes, strict=True):
        kind = "" if _out_of_reach(outcome) else _difference(customer, outcome, sha256)
        if kind:
            yield Disagreement(customer.key, wire.name, asked_by, kind, float(customer.score), _shown(kind, outcome))


def _difference(customer: Customer, outcome: Outcome, sha256: str) -> str:
    """Return what differs most, nothing when it agrees."""
    if isinstance(outcome, TandemError):
        return "refusals"
    if outcome.score.tobytes() != np.float32(customer.score).tobytes():
        return "scores"
    if outcome.sha256 != sha256:
        return "files"
    return "" if outcome.decision == customer.decision else "decisions"


def _shown(kind: str, outcome: Outcome) -> str:
    if isinstance(outcome, TandemError):
        return str(outcome)
    return {"scores": repr(outcome.score.item()), "files": outcome.sha256, "decisions": str(outcome.decision)}[kind]
