"""The floor of `make bench-api`: the least that a Python service can do for the same answer.

Starlette on uvicorn, with the same scorer and the same store, and nothing else: no checks of the request, no lineage,
no metrics, no other protocol. Of a model of events it looks the history up, adds the event and counts, as the service
does. Its model and its store come from Tandem's settings, as the service's do.
"""

import gc
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import numpy as np
import uvicorn
from pydantic_core import from_json, to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.histories import HistoryStore, open_histories
from backends.online_store import OnlineStore, open_store
from backends.settings import Settings
from bento.event_reader import EPOCH, MICROSECOND
from bento.lineage import MODEL_FILE
from models.contract import Contract
from models.encoding import Encoded, encode_rows
from models.history import history_values, remembered, with_values
from models.scoring import Scorer

Rows = Callable[[Any], Awaitable[Encoded]]  # from a request to the one row that is scored


def bare_app(settings: Settings) -> Starlette:
    """Return the app of the model in the settings' folder."""
    scorer = Scorer.from_file(settings.model_folder / MODEL_FILE)
    contract = scorer.contract
    store: OnlineStore | HistoryStore
    if contract.events:
        store = open_histories(settings.online, contract)
        row_of = _of_events(store)
    else:
        store = open_store(settings.online, contract.model)
        row_of = _of_entities(store, contract)

    async def predict(request: Request) -> Response:
        scores = scorer.score(await row_of(from_json(await request.body())))
        answer = {"probability": float(scores[0]), "decision": bool(scorer.decide(scores)[0])}
        return Response(to_json(answer), media_type="application/json")

    async def ready(_: Request) -> Response:
        store.describe()
        return Response("ready")

    return Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/readyz", ready)])


def _of_entities(store: OnlineStore, contract: Contract) -> Rows:
    async def row_of(asked: Any) -> Encoded:
        return (await store.get_many_async(contract, [asked[contract.entity_key]])).rows

    return row_of


def _of_events(store: HistoryStore) -> Rows:
    contract, history = store.contract, store.history
    events = contract.events
    assert events is not None

    async def row_of(asked: Any) -> Encoded:
        rows = encode_rows(contract.asked, [asked["features"]])
        at = (datetime.fromisoformat(asked[events.time]) - EPOCH) // MICROSECOND
        event = remembered(history, contract.asked, rows, np.array([at]), np.array([asked[events.key]]))
        (past,) = await store.fetch_and_append_async([asked[contract.entity_key]], event, [True])
        return with_values(history, contract, rows, history_values(history, past.events, event)[None])

    return row_of


if __name__ == "__main__":
    app = bare_app(Settings())
    gc.collect()
    gc.freeze()  # as the service does: a collection over the imports' objects would be most of its tail
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
