"""The yardsticks of fraud detection, on outcomes counted by hand."""

import numpy as np
import pytest

from demo.fraud_report import BEST, TREES, Yardstick, report_table, yardstick
from models.declaration import DecisionCosts

COSTS = DecisionCosts(missed=150, false_alarm=4)


def test_it_counts_what_is_stopped_and_what_it_saves():
    y = np.repeat(np.array([1, 0], np.float32), [4, 996])
    scores = np.full(1000, 0.001, np.float32)
    scores[:3], scores[4] = [0.9, 0.8, 0.5], 0.7  # three frauds of four found; one false alarm, above one of them
    found = yardstick("x", y, scores, 0.4, COSTS)
    assert found.recall_at_1_percent == 0.75
    assert found.recall_at_01_percent == 0.5  # one of 996 is more than 0.1 %
    assert found.cost_saved == pytest.approx(1 - (150 + 4) / 600)
    assert found.saved_a_thousand == pytest.approx(600 - 154)


def test_stopping_nothing_saves_nothing():
    y = np.array([1, 0, 0, 0], np.float32)
    assert yardstick("x", y, np.full(4, 0.1, np.float32), 0.5, COSTS).cost_saved == 0


def test_the_table_has_a_row_for_each():
    row = {"auc": 0.9, "pr_auc": 0.8, "recall_at_1_percent": 0.7, "recall_at_01_percent": 0.6, "cost_saved": 0.5}
    table = report_table([Yardstick(name=name, saved_a_thousand=321.0, **row) for name in (TREES, BEST)])
    assert table.row_count == 2
    assert list(table.columns[0].cells) == [TREES, BEST]
    assert list(table.columns[-1].cells) == ["321", "321"]
