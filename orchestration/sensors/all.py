"""Which sensors there are: of each source table, of each model, and of everything."""

from collections.abc import Sequence

import dagster as dg

from models.declaration import Declaration
from orchestration.sensors.api import api_observer
from orchestration.sensors.champion import champion_observer
from orchestration.sensors.notifications import notifications
from orchestration.sensors.open_lineage import open_lineage
from orchestration.sensors.readiness import readiness_observer
from orchestration.sensors.retraining import retraining
from orchestration.sensors.sources import source_observers


def sensors(declarations: Sequence[Declaration]) -> dg.Definitions:
    """Return every sensor; none without a declaration."""
    if not declarations:
        return dg.Definitions()
    of_models = [
        sensor
        for declaration in declarations
        for sensor in (
            champion_observer(declaration),
            api_observer(declaration),
            readiness_observer(declaration),
            retraining(declaration),
        )
    ]
    of_everything = (notifications(declarations), open_lineage(declarations))
    return dg.Definitions(sensors=[*source_observers(declarations), *of_models, *of_everything])
