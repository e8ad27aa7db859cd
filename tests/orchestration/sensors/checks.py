"""Run a check as a person does in the UI."""

import dagster as dg

from assets.resources import Backends
from backends.settings import Settings


def run_by_hand(
    check: dg.AssetChecksDefinition, settings: Settings, instance: dg.DagsterInstance
) -> dg.AssetCheckEvaluation:
    """Return what a check says."""
    resources = {"backends": Backends(settings)}
    result = dg.materialize(
        [check], instance=instance, resources=resources, selection=dg.AssetSelection.checks(check), raise_on_error=True
    )
    (found,) = result.get_asset_check_evaluations()
    return found
