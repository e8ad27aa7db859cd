"""Counting: exact, in the right buckets, whatever happens meanwhile."""

import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backends.settings import ROOT
from bento.lineage import Lineage
from bento.observing.metrics import LATENCIES, STAGES, Metrics

LINEAGE = Lineage(model="tiny", version="3", sha256="ab" * 32, training_snapshot="8170927402156543211")


def samples(text: bytes, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of one sample, by its labels in the order of their names, without those of the model."""
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if sample.name == name:
                own = sorted((label, value) for label, value in sample.labels.items() if not label.startswith("model"))
                found[tuple(value for _, value in own)] = sample.value
    return found


def without_cpu(text: bytes) -> list[bytes]:
    """Leave away what goes on while nothing happens."""
    return [line for line in text.splitlines() if b"tandem_cpu_seconds" not in line]


@pytest.mark.parametrize("stage", STAGES)
def test_the_dashboard_and_the_page_say_what_each_stage_is(stage):
    panels = json.loads((ROOT / "deploy" / "grafana" / "api.json").read_text())["panels"]
    (by_stage,) = [panel["description"] for panel in panels if panel.get("title") == "p99 by stage"]
    assert f" {stage}: " in f" {by_stage}"
    assert f" `{stage}`: " in (ROOT / "docs" / "observing-the-api.md").read_text()


def test_the_cpu_time_is_counted_from_when_the_service_can_answer():
    metrics, begun = Metrics(LINEAGE), time.process_time()
    while time.process_time() - begun < 0.05:
        pass
    once, twice = (samples(metrics.text(), "tandem_cpu_seconds_total")[()] for _ in range(2))
    assert 0.05 <= once < twice <= time.process_time() - begun + 0.01


def test_requests_and_errors_are_counted_by_what_they_were():
    metrics = Metrics(LINEAGE)
    for status in (200, 200, 404):
        metrics.request("rest", status, 0.001)
    metrics.request("oip_grpc", 200, 0.001)
    metrics.request("rest", 401)
    metrics.error("EntityNotFoundError")
    metrics.logged("dropped", 7)
    metrics.logged("dropped", 5)
    text = metrics.text()
    assert samples(text, "tandem_requests_total") == {
        ("rest", "200"): 2,
        ("rest", "404"): 1,
        ("rest", "401"): 1,
        ("oip_grpc", "200"): 1,
    }
    assert samples(text, "tandem_errors_total") == {("EntityNotFoundError",): 1}
    assert samples(text, "tandem_logged_rows_total") == {("written",): 0, ("dropped",): 12, ("failed",): 0}
    assert samples(text, "tandem_request_duration_seconds_count") == {("rest",): 3, ("oip_rest",): 0, ("oip_grpc",): 1}
    assert without_cpu(metrics.text()) == without_cpu(text)


def test_a_time_is_in_the_first_bucket_whose_bound_is_not_below_it():
    metrics = Metrics(LINEAGE)
    for seconds in (0.00005, 0.0001, 0.00011, 0.0149, 0.015, 0.0151, 99.0):
        metrics.observe("score", seconds)
    buckets = samples(metrics.text(), "tandem_stage_duration_seconds_bucket")
    at = {float(bound): count for (bound, stage), count in buckets.items() if stage == "score"}
    assert min(at) == 0.0001
    assert (at[0.0001], at[0.0002], at[0.01], at[0.015], at[0.025]) == (2, 3, 3, 5, 6)
    assert (at[LATENCIES[-1]], at[float("inf")]) == (6, 7)
    sums = samples(metrics.text(), "tandem_stage_duration_seconds_sum")
    assert sums["score",] == pytest.approx(99.04526)


def test_scores_and_ages_have_their_distributions():
    metrics = Metrics(LINEAGE)
    metrics.scores([0.03, 0.05, 0.051, 1.0])
    metrics.feature_ages([59.0, 3600.0, 10**7])
    text = metrics.text()
    scores = samples(text, "tandem_score_bucket")
    assert (scores["0.05",], scores["0.1",], scores["0.95",], scores["1.0",]) == (2, 3, 3, 4)
    ages = samples(text, "tandem_feature_age_seconds_bucket")
    assert (ages["60.0",], ages["3600.0",], ages["604800.0",], ages["+Inf",]) == (1, 2, 2, 3)


def test_the_model_is_named_in_full_once_and_in_short_everywhere():
    metrics = Metrics(LINEAGE, {"precision": "int8"})
    metrics.request("rest", 200, 0.001)
    families = list(text_string_to_metric_families(metrics.text().decode()))
    labels = [sample.labels for family in families for sample in family.samples]
    assert all({"model": "tiny", "model_version": "3"}.items() <= own.items() for own in labels)
    (info,) = [own for own in labels if "model_sha256" in own]
    assert info["model_sha256"] == LINEAGE.sha256
    assert (info["training_snapshot"], info["precision"]) == ("8170927402156543211", "int8")


def test_nothing_is_lost_while_others_count_and_scrape():
    metrics = Metrics(LINEAGE).start()
    each, workers = 20_000, 4

    def work() -> None:
        for _ in range(each):
            metrics.observe("parse", 0.001)
            metrics.request("rest", 200, 0.001)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.flush()
    metrics.close()
    text = metrics.text()
    assert samples(text, "tandem_requests_total") == {("rest", "200"): each * workers}
    assert samples(text, "tandem_stage_duration_seconds_count")["parse",] == each * workers
    assert samples(text, "tandem_request_duration_seconds_bucket")["0.001", "rest"] == each * workers


def test_a_failure_while_counting_does_not_end_it(monkeypatch, caplog):
    monkeypatch.setattr("bento.observing.metrics.FLUSH_SECONDS", 0.01)
    metrics, failed, again = Metrics(LINEAGE), threading.Event(), threading.Event()
    flush = metrics.flush

    def failing() -> None:
        if failed.is_set():
            again.set()
            return flush()
        failed.set()
        raise OSError("no space left")

    monkeypatch.setattr(metrics, "flush", failing)
    metrics.start()
    assert again.wait(60)
    metrics.close()
    assert "could not be counted" in caplog.text


def test_the_buckets_are_those_that_a_numpy_histogram_finds():
    values = np.random.default_rng(0).lognormal(-7, 2, 5000)
    metrics = Metrics(LINEAGE)
    for value in values.tolist():
        metrics.observe("lookup", value)
    buckets: dict[Any, float] = samples(metrics.text(), "tandem_stage_duration_seconds_bucket")
    for bound in LATENCIES:
        assert buckets[str(bound), "lookup"] == np.count_nonzero(values <= bound)
