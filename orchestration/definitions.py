"""The root that assembles everything that Dagster shows, from the declarations. No logic here."""

from collections.abc import Mapping

import dagster as dg

from assets.lifecycle import lifecycles
from assets.manifests import ManifestFiles
from assets.resources import Backends
from backends.settings import Settings, quiet, thrifty
from models.declaration import load_declarations
from orchestration.automation import automation
from orchestration.conditions import with_conditions
from orchestration.jobs import jobs
from orchestration.promotions import promotions
from orchestration.sensors.all import sensors


def assemble(settings: Settings, loggers: Mapping[str, dg.LoggerDefinition] | None = None) -> dg.Definitions:
    """Return the definitions of every declaration in the settings' folder; `DeclarationError` names each mistake."""
    declarations = load_declarations(settings.models)
    common = dg.Definitions(
        resources={"backends": Backends(settings), "manifests": ManifestFiles(settings)},
        executor=dg.in_process_executor,  # steps share imports and memory; a process each would import for seconds
        loggers=loggers,
    )
    made = (part(declarations) for part in (automation, jobs, promotions, sensors))
    lives = with_conditions(lifecycles(declarations, settings.online_technology), declarations)
    return dg.Definitions.merge(common, lives, *made)


@dg.definitions
def defs() -> dg.Definitions:
    """Return what the workspace loads."""
    quiet()
    thrifty()
    return assemble(Settings())
