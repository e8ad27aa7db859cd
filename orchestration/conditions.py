"""When each asset of a model is made: its automation condition, derived from the declaration.

The assets know nothing of it. Two rules make the conditions as they are:

- Nothing is lost. Dagster's `eager()` forgets an update that arrives while the target is requested or running
  (`since_last_handled`). Here a target stays due from an update on until it is requested, and a request that falls into
  the same tick as another update does not count for that one: the worst that can happen is a run too many.
- What has gates follows materializations, not check results. The Gold table and the champion are materialized only
  after each of their blocking checks has passed; a candidate that was refused, or a day that failed its audit, leaves
  them as they were, and what was good before stays good. All other blocking checks upstream must have passed.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import dagster as dg
from dagster_shared.record import replace

from assets.metadata import table_key
from models.declaration import Declaration, Predictions

AC = dg.AutomationCondition
Condition = dg.AutomationCondition
Key = dg.AssetKey | dg.AssetCheckKey

PARITY = "api_agrees_with_gold"
FAILED = AC.execution_failed()
NEWEST = timedelta(days=2)  # today's and yesterday's: a night may end after midnight


def conditions(declaration: Declaration) -> dict[Key, Condition]:
    """Return the condition of each asset and check of a model that is made by itself.

    What follows something is due since that; what failed is tried once more a day, at the hour that readers count on.
    """
    name, gold = declaration.name, table_key(declaration.predictions_table)
    champion, features = dg.AssetKey([name, "champion"]), dg.AssetKey([name, "online_features"])
    newest_night, any_night = _updated(gold, AC.in_latest_time_window(NEWEST)), _updated(gold)
    new_model, new_features = _updated(champion, AC.data_version_changed()), _updated(features)
    new_outcomes = _new_outcomes(declaration)
    new_requests = _updated(table_key(declaration.requests_table))
    together = AC.asset_matches(features, AC.will_be_requested())
    has_nights = AC.asset_matches(gold, ~AC.missing())
    gated = dg.AssetSelection.assets(gold, champion)

    refused = AC.asset_matches(champion, AC.execution_failed())  # the training ended there, before its Bento

    def follows(text: str, *events: Condition, failed: Condition = FAILED) -> Condition:
        again = _again(declaration.predictions.ready_by, declaration.predictions, failed)
        checked = AC.all_deps_blocking_checks_passed().ignore(gated)
        return ((_due(*events) | again) & checked & ~AC.in_progress()).with_label(text)

    return {
        **({table_key(declaration.features_table): counting(declaration)} if declaration.events else {}),
        gold: nightly(declaration),
        features: follows("after a night or a new champion", newest_night, new_model) & has_nights,
        dg.AssetKey([name, "bento"]): follows("after a new champion", new_model, failed=FAILED & ~refused),
        dg.AssetCheckKey(dg.AssetKey([name, "api"]), PARITY): follows("with the features", new_features, together),
        dg.AssetKey([name, "drift"]): follows("after its night", any_night),
        dg.AssetKey([name, "costs"]): follows("after its night", any_night),
        dg.AssetKey([name, "outcomes"]): follows("after a night or outcomes", newest_night, *new_outcomes) & has_nights,
        dg.AssetKey([name, "request_drift"]): follows("after requests", new_requests) & _once_a_day(declaration),
    }


def nightly(declaration: Declaration) -> Condition:
    """Request the newest partition once: from the declared hour on, when the population was written today.

    A day that is there already is left as it is. One that failed is tried again when its population or the champion
    changes, and half-way to `ready_by` as it is, unless its audit has refused it. Of events it is yesterday's, and the
    population are their features of that day (`counting`).
    """
    when, champion = declaration.predictions, dg.AssetKey([declaration.name, "champion"])
    new_model = _updated(champion, AC.data_version_changed())
    refused = AC.any_checks_match(AC.check_failed(), blocking_only=True)
    population = table_key(declaration.scored_table)
    written = _updated(population) if declaration.events else _told(population)
    due = _newest_once(declaration, written, "population", new_model, failed=FAILED & ~refused)
    gated = dg.AssetSelection.assets(champion)
    checked = AC.all_deps_blocking_checks_passed().ignore(gated)
    return (due & checked).with_label(f"nightly at {when.score_at} {when.timezone}")


def counting(declaration: Declaration) -> Condition:
    """Request the features of yesterday's events once: from the declared hour on, when the events were written today.

    Whatever was written after midnight, what happened before it has been written too, or is late. A day is made once
    more when its outcomes are known, so that trainings learn from them.
    """
    when, days = declaration.predictions, declaration.outcomes.after_days
    due = _newest_once(declaration, _told(table_key(declaration.source_table)), "events")
    newest = due.with_label(f"yesterday's events at {when.score_at} {when.timezone}")
    if not days or declaration.examples.table != declaration.features_table:
        return newest
    known = AC.in_latest_time_window(timedelta(days=days + 1)) & ~AC.in_latest_time_window(timedelta(days=days))
    again = known & _once_a_day(declaration) & ~AC.missing() & ~AC.in_progress()
    return newest | again.with_label(f"the day that is {days} days over, whose outcomes are known")


def with_conditions(definitions: dg.Definitions, declarations: Sequence[Declaration]) -> dg.Definitions:
    """Return the models' assets and checks with their conditions; everything else stays as it is."""
    made: dict[Key, Condition] = {}
    for declaration in declarations:
        made |= conditions(declaration)
    assets = [_automated(asset, made) for asset in definitions.assets or ()]
    checks = [_automated_checks(check, made) for check in definitions.asset_checks or ()]
    return replace(definitions, assets=assets, asset_checks=checks)


# --- the parts of a condition ---------------------------------------------------------------------------------------


def _newest_once(
    declaration: Declaration, written: Condition, what: str, *events: Condition, failed: Condition = FAILED
) -> Condition:
    """Request the newest partition, while it is missing: once the hour has come and a table was written today."""
    when = declaration.predictions
    midnight = _tick("00:00", when)
    hour_has_come = _tick(when.score_at, when).since(midnight).with_label(f"it is {when.score_at} or later")
    written_today = written.since(midnight).with_label(f"{what} written today")
    again = _again(_half_way(when), when, failed)
    begun = AC.in_latest_time_window() & hour_has_come if when.score_at != "00:00" else AC.in_latest_time_window()
    due = begun & written_today & (_due(written, *events) | again) & AC.missing()
    return due & ~AC.in_progress() & ~AC.any_deps_missing()


def _new_outcomes(declaration: Declaration) -> list[Condition]:
    """Return what brings outcomes. The table of events is written all day: its outcomes are looked at once a night."""
    table = declaration.outcomes_table
    if declaration.events and table == declaration.source_table:
        return []
    return [_updated(table_key(table))]


def _once_a_day(declaration: Declaration) -> Condition:
    """Allow one request between one declared hour and the next."""
    when = declaration.predictions
    return _tick(when.score_at, when).since(AC.newly_requested()).with_label("once a day")


def _due(*events: Condition) -> Condition:
    """Be true from an event on until the target is requested; an event in the same tick as the request counts."""
    happened = events[0]
    for event in events[1:]:
        happened = happened | event
    return happened.since(AC.newly_requested() & ~happened).with_label("due")


def _again(time: str, when: Predictions, failed: Condition) -> Condition:
    """Be true once a day for what has failed; a look at the very second of the tick would see it twice."""
    return (failed & _tick(time, when) & ~AC.newly_requested()).with_label(f"failed: once more at {time}")


def _told(key: dg.AssetKey) -> Condition:
    """Be true when a table that others write was reported to have changed."""
    return AC.asset_matches(key, AC.newly_updated())


def _updated(key: dg.AssetKey, which: Condition | None = None) -> Condition:
    """Be true when an asset was materialized by a run that does not make the target as well."""
    update = AC.newly_updated() & ~AC.executed_with_root_target()
    return AC.asset_matches(key, update & which if which else update)


def _tick(time: str, when: Predictions) -> Condition:
    hour, minute = map(int, time.split(":"))
    return AC.cron_tick_passed(f"{minute} {hour} * * *", when.timezone)


def _half_way(when: Predictions) -> str:
    begin, end = (60 * int(time[:2]) + int(time[3:]) for time in (when.score_at, when.ready_by))
    return "{:02}:{:02}".format(*divmod((begin + end) // 2, 60))


def _automated(asset: object, made: Mapping[Key, Condition]) -> object:
    if not isinstance(asset, dg.AssetsDefinition):
        return asset
    known = {key: made[key] for key in asset.keys & made.keys()}
    return asset.with_attributes(automation_condition=known) if known else asset


def _automated_checks(checks: dg.AssetChecksDefinition, made: Mapping[Key, Condition]) -> dg.AssetChecksDefinition:
    specs = checks.node_check_specs_by_output_name
    if not any(spec.key in made for spec in specs.values()):
        return checks
    return dg.AssetChecksDefinition.create(
        keys_by_input_name=checks.node_keys_by_input_name,
        node_def=checks.op,
        check_specs_by_output_name={
            name: spec._replace(automation_condition=made.get(spec.key)) for name, spec in specs.items()
        },
        can_subset=checks.can_subset,
    )
