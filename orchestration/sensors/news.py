"""What has happened since somebody was last told: runs that ended, checks that sensors evaluated, new champions."""

from collections.abc import Callable, Iterator

import dagster as dg
from dagster._core.events import DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.utils import RUNLESS_RUN_ID
from dagster._core.storage.event_log.base import EventLogCursor

from assets.recorded import DATA_VERSION, text_of
from backends.notifications import Message
from orchestration.sensors.told import Source, Told
from orchestration.sensors.wording import about_champion, about_check, about_observation, about_run

ENDS = (DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_CANCELED)
READ = {DagsterEventType.STEP_FAILURE, DagsterEventType.ASSET_CHECK_EVALUATION, DagsterEventType.RUN_FAILURE}
AT_ONCE = 50  # events of a kind in a tick
RETRY_SECONDS = 900.0  # a retry that was promised, and has not begun by then, will not come

Tell = Callable[[], Message | None]
Item = tuple[float, Tell]  # when something happened, and how it is told


def begin(source: Source, now: float) -> Told:
    """Start with what happens from now on."""
    instance, told = source.instance, Told(looked=now)
    told.ends = {kind.value: _newest_end(instance, kind) for kind in ENDS}
    told.runless = _newest_runless(instance)
    for model in source.models:
        _begin_champion(source, told, model)
    return told


def news(source: Source, told: Told, now: float, settled: float) -> list[Message]:
    """Return what is to be told, in the order it happened, and move `told` on. Runs count that ended before `settled`.

    A run that has just ended may not have its tags yet, and storage ids need not become visible in their order. Where
    the newest id is lower than before, somebody has deleted runs or wiped Dagster: then `told.looked` says what is old.
    """
    runs = [*_ended(source, told, settled), *_awaited(source, told, now)]
    found = sorted([*runs, *_runless(source, told), *_champions(source, told)], key=lambda one: one[0])
    told.looked = settled
    return [message for _, tell in found if (message := tell()) is not None]


# --- runs -----------------------------------------------------------------------------------------------------------


def _ended(source: Source, told: Told, settled: float) -> Iterator[Item]:
    for kind in ENDS:
        after, newest = told.ends.setdefault(kind.value, 0), _newest_end(source.instance, kind)
        if newest == after:
            continue
        if newest < after:
            after = told.ends[kind.value] = _newest_end(source.instance, kind, told.looked)
        which = dg.RunStatusChangeRecordsFilter(kind, after_storage_id=after, before_timestamp=settled)
        for record in source.instance.fetch_run_status_changes(which, limit=AT_ONCE, ascending=True).records:
            told.ends[kind.value] = record.storage_id
            run = source.instance.get_run_by_id(record.run_id)
            if run and source.is_ours(run):
                yield record.timestamp, _teller(source, told, run, record.timestamp)


def _newest_end(instance: dg.DagsterInstance, kind: DagsterEventType, before: float | None = None) -> int:
    which = dg.RunStatusChangeRecordsFilter(kind, before_timestamp=before)
    records = instance.fetch_run_status_changes(which, limit=1).records
    return records[0].storage_id if records else 0


def _teller(source: Source, told: Told, run: dg.DagsterRun, at: float, last: bool = False) -> Tell:
    def tell() -> Message | None:
        if not last and run.status == dg.DagsterRunStatus.FAILURE and _will_be_retried(run):
            told.awaited[run.run_id] = at
            return None
        log = source.instance.all_logs(run.run_id, of_type=READ)
        checks = [check for entry in log if (check := entry.asset_check_evaluation) and not check.passed]
        failed = [check for check in checks if _is_news(told, check)]
        return about_run(run, log, failed, source.words)

    return tell


def _awaited(source: Source, told: Told, now: float) -> Iterator[Item]:
    """Look after failed runs that are to be retried: when the retry begins it speaks for itself."""
    for run_id, at in list(told.awaited.items()):
        run = source.instance.get_run_by_id(run_id)
        begun = run is None or "dagster/auto_retry_run_id" in run.tags
        if begun or not _will_be_retried(run) or now - at > RETRY_SECONDS:
            del told.awaited[run_id]
            if run is not None and not begun:
                yield at, _teller(source, told, run, at, last=True)


def _will_be_retried(run: dg.DagsterRun | None) -> bool:
    return run is not None and run.tags.get("dagster/will_retry") == "true"


# --- what sensors report --------------------------------------------------------------------------------------------


def _runless(source: Source, told: Told) -> Iterator[Item]:
    if _newest_runless(source.instance) < told.runless:
        told.runless = _newest_runless(source.instance, told.looked)
    after = EventLogCursor.from_storage_id(told.runless).to_string()
    found = source.instance.get_records_for_run(RUNLESS_RUN_ID, cursor=after, limit=AT_ONCE, ascending=True)
    for record in found.records:
        told.runless = record.storage_id
        yield record.timestamp, _runless_teller(source, told, record.event_log_entry)


def _runless_teller(source: Source, told: Told, entry: EventLogEntry) -> Tell:
    def tell() -> Message | None:
        check, observed = entry.asset_check_evaluation, entry.asset_observation
        if check and _is_news(told, check):
            return about_check(check, source.words)
        if observed and text_of(observed.metadata, "headline"):
            return about_observation(observed, source.words)
        return None

    return tell


def _newest_runless(instance: dg.DagsterInstance, before: float = float("inf")) -> int:
    records = instance.get_records_for_run(RUNLESS_RUN_ID, limit=AT_ONCE, ascending=False).records
    return next((record.storage_id for record in records if record.timestamp < before), 0)


def _is_news(told: Told, check: dg.AssetCheckEvaluation) -> bool:
    """Tell whether a result is worth telling: every failure, but of one that lasts (it has an occasion) its changes."""
    name = f"{check.asset_key.to_user_string()}:{check.check_name}"
    if check.passed:
        return told.troubles.pop(name, None) is not None
    if "occasion" not in check.metadata:
        return True
    occasion = text_of(check.metadata, "occasion")
    known = told.troubles.get(name)
    if occasion:
        told.troubles[name] = occasion
    return bool(occasion) and occasion != known


# --- champions ------------------------------------------------------------------------------------------------------


def _champions(source: Source, told: Told) -> Iterator[Item]:
    for model in source.models:
        if model not in told.champions:  # declared since
            _begin_champion(source, told, model)
        newest = _newest_champion(source.instance, model)
        if (newest.storage_id if newest else 0) < told.champions[model]:
            old = _newest_champion(source.instance, model, told.looked)
            told.champions[model] = old.storage_id if old else 0
        which = dg.AssetRecordsFilter(dg.AssetKey([model, "champion"]), after_storage_id=told.champions[model])
        for record in source.instance.fetch_materializations(which, limit=AT_ONCE, ascending=True).records:
            told.champions[model] = record.storage_id
            event = record.asset_materialization
            if event and (event.tags or {}).get(DATA_VERSION):
                yield record.timestamp, _champion_teller(source, told, model, event)


def _champion_teller(source: Source, told: Told, model: str, event: dg.AssetMaterialization) -> Tell:
    def tell() -> Message | None:
        before, now = told.versions.get(model, ""), _version(event)
        told.versions[model] = now
        if before.partition(" ")[2] == now.partition(" ")[2]:
            return None
        return about_champion(model, before.partition(" ")[0], event, source.words)

    return tell


def _begin_champion(source: Source, told: Told, model: str) -> None:
    newest = _newest_champion(source.instance, model)
    told.champions[model] = newest.storage_id if newest else 0
    if newest and newest.asset_materialization:
        told.versions[model] = _version(newest.asset_materialization)


def _newest_champion(instance: dg.DagsterInstance, model: str, before: float | None = None) -> dg.EventLogRecord | None:
    which = dg.AssetRecordsFilter(dg.AssetKey([model, "champion"]), before_timestamp=before)
    return next(iter(instance.fetch_materializations(which, limit=1).records), None)


def _version(event: dg.AssetMaterialization) -> str:
    return f"{text_of(event.metadata, 'model_version') or '?'} {(event.tags or {}).get(DATA_VERSION, '')}"
