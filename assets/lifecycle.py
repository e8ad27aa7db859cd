"""One declaration -> every asset and check of the model, in the order of its lineage."""

from collections.abc import Sequence

import dagster as dg

from assets.api import api, api_agrees_with_gold
from assets.api_health import api_answers
from assets.api_requests import api_requests
from assets.bento import bento
from assets.champion import champion
from assets.costs import costs
from assets.drift import drift
from assets.event_features import event_features
from assets.online_features import online_features
from assets.outcomes import outcomes
from assets.predictions import predictions
from assets.quantized_model import quantized_model
from assets.readiness import is_ready_in_time
from assets.request_drift import request_drift
from assets.sources import source_tables
from assets.trained_model import trained_model
from assets.training_set import training_set
from models.declaration import Declaration


def lifecycle(declaration: Declaration, store: str) -> dg.Definitions:
    """Return the model's whole life; `store` is the technology of the online features."""
    return dg.Definitions(
        assets=[
            *([event_features(declaration)] if declaration.events else []),
            training_set(declaration),
            trained_model(declaration),
            quantized_model(declaration),
            champion(declaration),
            predictions(declaration),
            online_features(declaration, store),
            bento(declaration),
            api(declaration),
            api_requests(declaration),
            costs(declaration),
            drift(declaration),
            outcomes(declaration),
            request_drift(declaration),
        ],
        asset_checks=[api_agrees_with_gold(declaration), api_answers(declaration), is_ready_in_time(declaration)],
    )


def lifecycles(declarations: Sequence[Declaration], store: str) -> dg.Definitions:
    """Return the lives of all models, and the tables that they read."""
    tables = dg.Definitions(assets=source_tables(declarations))
    return dg.Definitions.merge(tables, *(lifecycle(declaration, store) for declaration in declarations))
