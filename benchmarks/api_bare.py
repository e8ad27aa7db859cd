"""The floor of `make bench-api`: the least that a Python service can do for the same answer.

Starlette on uvicorn, with the same scorer and the same store, and nothing else: no checks of the request, no lineage,
no metrics, no other protocol. Its model and its store come from Tandem's settings, as the service's do.
"""

import gc
import sys

import uvicorn
from pydantic_core import from_json, to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.online_store import open_store
from backends.settings import Settings
from bento.lineage import MODEL_FILE
from models.scoring import Scorer


def bare_app(settings: Settings) -> Starlette:
    """Return the app of the model in the settings' folder."""
    scorer = Scorer.from_file(settings.model_folder / MODEL_FILE)
    contract = scorer.contract
    store = open_store(settings.online, contract.model)

    async def predict(request: Request) -> Response:
        key = from_json(await request.body())[contract.entity_key]
        scores = scorer.score((await store.get_many_async(contract, [key])).rows)
        answer = {"probability": float(scores[0]), "decision": bool(scorer.decide(scores)[0])}
        return Response(to_json(answer), media_type="application/json")

    async def ready(_: Request) -> Response:
        store.describe()
        return Response("ready")

    return Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/readyz", ready)])


if __name__ == "__main__":
    app = bare_app(Settings())
    gc.collect()
    gc.freeze()  # as the service does: a collection over the imports' objects would be most of its tail
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
