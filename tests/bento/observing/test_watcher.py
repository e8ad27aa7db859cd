"""What a watcher makes of a request's notes, where the model refuses stale features, and what it does at its end."""

import numpy as np
import pytest

from backends.lakehouse.catalog import Lakehouse
from backends.request_logs import carry_requests
from backends.settings import Settings
from backends.vectors import NOT_A_TIME
from bento.lineage import Lineage
from bento.observing.watch import Scored, Watch
from bento.observing.watcher import OIP_REST, REST, Watcher
from models.contract import Api
from models.encoding import encode_rows
from models.request_record import REPLAY
from tests.bento.observing.test_metrics import samples
from tests.tiny_model import tiny_contract, tiny_rows

LINEAGE = Lineage(model="tiny", version="3", sha256="ab" * 32)
NOW = 1_795_600_000_000
HOUR = 3_600_000


def watched(request_id: str, stale: list[bool], times: list[int]) -> Watch:
    watch, rows = Watch(request_id), len(stale)
    for stage in ("parse", "lookup", "score"):
        watch.mark(stage)
    encoded = encode_rows(tiny_contract(), tiny_rows(tiny_contract(), rows))
    scores, decisions = np.linspace(0.1, 0.9, rows).tolist(), [False] * rows
    watch.scored = Scored(range(rows), [*range(rows)], encoded, times, stale, scores, decisions, NOW)
    return watch


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path, request_log_sample=1.0)


def test_rows_that_are_refused_for_their_age_are_no_answers(settings):
    contract = tiny_contract(api=Api(stale_features="refuse"))
    watcher = Watcher(contract, LINEAGE, settings).start()
    watcher.answered(watched("some", [False, True], [NOW - HOUR, NOW - 60 * HOUR]), REST, 200)
    watcher.answered(watched("all", [True], [NOW - 60 * HOUR]), REST, 503)
    watcher.close()
    text = watcher.metrics.text()
    assert samples(text, "tandem_score_count") == {(): 1}
    assert samples(text, "tandem_feature_age_seconds_count") == {(): 3}
    assert samples(text, "tandem_logged_rows_total")["written",] == 1
    with Lakehouse.open(settings) as lake:
        assert carry_requests(lake, "silver.tiny_requests", settings.request_log_of("tiny")).rows == 1


def test_rows_of_a_request_that_fails_as_a_whole_are_no_answers(settings):
    watcher = Watcher(tiny_contract(), LINEAGE, settings).start()
    watcher.answered(watched("half", [False], [NOW - HOUR]), OIP_REST, 404)
    watcher.close()
    text = watcher.metrics.text()
    assert samples(text, "tandem_score_count") == {(): 0}
    assert samples(text, "tandem_logged_rows_total")["written",] == 0
    assert samples(text, "tandem_feature_age_seconds_count") == {(): 1}


def test_ages_that_are_not_known_are_left_out(settings):
    watcher = Watcher(tiny_contract(), LINEAGE, settings)
    watcher.answered(watched("sent", [False, False], [NOT_A_TIME, NOW - HOUR]), REST, 200)
    assert samples(watcher.metrics.text(), "tandem_feature_age_seconds_sum") == {(): 3600}


def test_what_tandem_asks_itself_is_counted_and_not_logged(settings):
    watcher = Watcher(tiny_contract(), LINEAGE, settings).start()
    for request_id in (REPLAY, "a caller's", REPLAY):
        watcher.answered(watched(request_id, [False], [NOW]), REST, 200)
    watcher.close()
    text = watcher.metrics.text()
    assert samples(text, "tandem_score_count") == {(): 3}
    assert samples(text, "tandem_logged_rows_total")["written",] == 1


def test_the_end_of_a_worker_writes_what_waits(settings):
    watcher = Watcher(tiny_contract(), LINEAGE, settings).start()
    for number in range(50):
        watcher.answered(watched(str(number), [False], [NOW]), REST, 200)
    watcher.close()
    assert samples(watcher.metrics.text(), "tandem_logged_rows_total")["written",] == 50
    (file,) = settings.request_log_of("tiny").iterdir()
    assert file.suffix == ".jsonl"


def test_the_setting_overrides_the_declared_sample(settings, tmp_path):
    declared = tiny_contract(api=Api(log_sample=1.0))
    for sample, rows in ((None, 1), (0.0, 0)):
        own = Settings(home=tmp_path / str(sample), request_log_sample=sample)
        watcher = Watcher(declared, LINEAGE, own).start()
        watcher.answered(watched("one", [False], [NOW]), REST, 200)
        watcher.close()
        assert samples(watcher.metrics.text(), "tandem_logged_rows_total")["written",] == rows
        assert own.request_log_of("tiny").exists() == bool(rows)
