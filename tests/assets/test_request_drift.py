"""The drift of requests as Dagster shows it: whose are judged, and what is said where there is nothing to judge."""

import time

import dagster as dg
import pytest

from assets.resources import Backends
from bento.observing.request_files import RequestFiles
from bento.observing.request_log import RequestLog
from orchestration.definitions import assemble
from tests.backends.nights import customers
from tests.backends.test_request_logs import answered
from tests.lives import TINY, checks, declare, promoted, run_job
from tests.tiny_model import tiny_contract, tiny_onnx_with_profile

CHECK = "requests_resemble_the_training_set"
DAY = 86_400


@pytest.fixture
def champion(home):
    declare(home, TINY, drift={"min_rows": 100})
    onnx = tiny_onnx_with_profile(tiny_contract(), customers(5000, seed=1))
    return promoted(home, tiny_contract(), onnx=onnx)


@pytest.fixture
def asked(home, instance):
    """Log requests as the service does, and carry them into the lake."""

    def ask(rows: int, sha256: str, days_ago: float = 0, version: str = "1", seed: int = 0) -> None:
        files = RequestFiles(home.request_log_of("tiny"), 10**9)
        log = RequestLog(tiny_contract(), version, sha256, 1.0, files, lambda *_: None)
        log.offer(answered(tiny_contract(), rows, at=time.time() - days_ago * DAY, seed=seed))
        log.close()
        assert run_job(home, instance, "tiny_requests").success

    return ask


@pytest.fixture
def drift(home, instance):
    def look() -> tuple[dict, dg.AssetCheckEvaluation]:
        asset = assemble(home).get_assets_def(dg.AssetKey(["tiny", "request_drift"]))
        result = dg.materialize([asset], instance=instance, resources={"backends": Backends(home)})
        (event,) = result.get_asset_materialization_events()
        facts = {name: getattr(fact, "records", fact.value) for name, fact in event.materialization.metadata.items()}
        return facts, checks(result)[CHECK]

    return look


def test_requests_unlike_the_training_set_warn(champion, asked, drift):
    asked(600, champion.sha256)  # every value is as likely as any: in `channel`, others are missing and unseen
    facts, check = drift()
    assert (facts["requests"], facts["requests_to_the_champion"], facts["rows_counted"]) == (600, 600, 600)
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert check.metadata["reason"].value.startswith("channel: has moved away from the training set, most in unseen: 0")
    assert facts["psi_channel"] == facts["largest_feature_psi"] > 0.25 > facts["psi_balance"]
    assert [record.data for record in facts["by_protocol"]] == [{"name": "rest", "requests": 600}]
    assert {"how_far", "what_moved"} <= facts.keys()


def test_requests_that_another_version_answered_are_told_and_not_judged(champion, asked, drift):
    asked(600, "ab" * 32, version="7")
    asked(40, champion.sha256, seed=1)
    facts, check = drift()
    assert (facts["requests"], facts["requests_to_the_champion"]) == (640, 40)
    assert [record.data["requests"] for record in facts["by_version"]] == [600, 40]
    assert check.passed
    assert check.metadata["reason"].value == (
        "not judged: 40 logged requests were answered by version 1, but at least 100 are needed (drift.min_rows)"
    )


def test_requests_of_more_than_a_week_ago_are_left_out(champion, asked, drift):
    asked(600, champion.sha256, days_ago=8)
    asked(50, champion.sha256, days_ago=5, seed=1)
    assert drift()[0]["requests"] == 50


def test_nothing_logged_is_no_failure(champion, drift):
    facts, check = drift()
    assert check.passed
    assert facts["requests"] == 0
    assert facts["reason"].startswith("not judged: no request was logged in the last 7 days (api.log_sample")
    assert check.metadata["reason"].value == facts["reason"]


def test_a_champion_from_before_profiles_says_to_train_again(home, asked, drift):
    declare(home, TINY)
    version = promoted(home, tiny_contract())
    asked(10, version.sha256)
    facts, check = drift()
    assert check.passed
    assert "was trained before the ONNX file had a profile of its training set" in facts["reason"]
    assert facts["requests_to_the_champion"] == 10
