"""Which requests are counted, and into whose bins."""

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from backends.request_drift import requests_between
from backends.request_logs import carry_requests
from bento.observing.request_files import RequestFiles
from bento.observing.request_log import RequestLog
from models.contract import NumberFeature
from models.counting import BinCounter
from models.encoding import encode_rows
from models.profile import Histograms, profile_in
from models.scoring import Scorer
from tests.backends.nights import customers
from tests.backends.test_request_logs import answered
from tests.tiny_model import FEATURES, tiny_contract, tiny_onnx_with_profile, tiny_rows

TABLE, DAY, NEXT = "silver.tiny_requests", date(2026, 11, 25), date(2026, 11, 26)
AT = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
SCORER = Scorer(tiny_onnx_with_profile(tiny_contract(), customers(2000, seed=1)))
PROFILE = profile_in(SCORER.metadata)


@pytest.fixture
def asked(lake, tmp_path):
    """Log requests as a version answers them, and carry them into the table."""

    def ask(rows: int, at: float = AT, seed: int = 0, version: str = "3", sha256: str = SCORER.sha256, contract=None):
        contract = contract or tiny_contract()
        files = RequestFiles(tmp_path / "logged", 10**9)
        log = RequestLog(contract, version, sha256, 1.0, files, lambda *_: None)
        log.offer(answered(contract, rows, at=at, seed=seed))
        log.close()
        carry_requests(lake, TABLE, Path(tmp_path / "logged"))

    return ask


def between(lake, first: date = DAY, end: date = NEXT, profile=PROFILE, scorer: Scorer = SCORER):
    return requests_between(lake, TABLE, scorer, profile, first, end)


def test_what_was_answered_is_counted_as_it_was_scored(lake, asked):
    asked(500)
    found = between(lake)
    rows = encode_rows(tiny_contract(), tiny_rows(tiny_contract(), 500))
    wanted = Histograms.from_flat(PROFILE, BinCounter(PROFILE).count(rows, SCORER.score(rows)))
    assert (found.rows, found.answered, found.found.rows) == (500, 500, 500)
    assert found.found.to_text() == wanted.to_text()
    assert found.found.features["plan"][-2] > 0  # unseen values are unseen still
    assert found.versions == {f"3 ({SCORER.sha256[:12]})": 500}
    assert found.protocols == {"rest": 500}


def test_what_another_model_has_answered_is_told_and_not_counted(lake, asked):
    asked(30, version="2", sha256="ab" * 32)
    asked(50, seed=1)
    found = between(lake)
    assert (found.rows, found.answered, found.found.rows) == (80, 50, 50)
    assert found.versions == {"2 (abababababab)": 30, f"3 ({SCORER.sha256[:12]})": 50}


def test_only_the_days_that_are_asked_for_are_read(lake, asked):
    asked(10)
    asked(20, at=AT - 86_400, seed=1)
    asked(40, at=AT + 86_400, seed=2)
    assert between(lake).answered == 10
    assert between(lake, first=date(2026, 11, 24)).answered == 30
    assert between(lake, first=date(2026, 11, 1), end=date(2026, 11, 24)).rows == 0


def test_nothing_logged_is_nothing_found(lake):
    found = between(lake)
    assert (found.rows, found.answered, found.found) == (0, 0, None)


def test_without_a_profile_it_is_still_told_who_answered(lake, asked):
    asked(10)
    found = between(lake, profile=None)
    assert (found.rows, found.answered, found.found) == (10, 10, None)


def test_a_new_model_whose_features_the_table_has_not_has_answered_nothing(lake, asked):
    asked(10)
    contract = tiny_contract(features={**FEATURES, "new_one": NumberFeature(kind="number", missing=True)})
    training = customers(500).append_column("new_one", [np.arange(500.0)])
    scorer = Scorer(tiny_onnx_with_profile(contract, training))
    found = between(lake, scorer=scorer, profile=profile_in(scorer.metadata))
    assert (found.rows, found.answered, found.found) == (10, 0, None)


def test_a_feature_with_the_name_of_another_column_is_read_from_its_own(lake, asked):
    contract = tiny_contract(features={**FEATURES, "protocol": NumberFeature(kind="number", min=0, max=9)})
    training = customers(500).append_column("protocol", [np.arange(500) % 10])
    scorer = Scorer(tiny_onnx_with_profile(contract, training))
    asked(60, contract=contract, sha256=scorer.sha256)
    found = between(lake, scorer=scorer, profile=profile_in(scorer.metadata))
    rows = encode_rows(contract, tiny_rows(contract, 60))
    wanted = BinCounter(profile_in(scorer.metadata)).count(rows, scorer.score(rows))
    assert found.found.to_text() == Histograms.from_flat(profile_in(scorer.metadata), wanted).to_text()
    assert found.protocols == {"rest": 60}
