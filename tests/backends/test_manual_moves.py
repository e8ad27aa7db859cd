"""What a person may name: which champion is the one before, and what is offered, with its history."""

from datetime import UTC, datetime

import pytest

from backends.manual_moves import Choice, previous, promotable, reachable
from backends.promotion_ledger import Kind, Move
from backends.registry import Version


def move(number: int, kind: Kind, to: int | None) -> Move:
    at = datetime(2026, 11, 21, 2, 3, 4, tzinfo=UTC)
    return Move(number, at, kind, None, to, f"sha-{to}" if to else "", "marta", "why", "", "", "", True, {})


def moves(*steps: tuple[Kind, int | None]) -> list[Move]:
    return [move(number, kind, to) for number, (kind, to) in enumerate(steps, 1)]


P, M, R, H = "promotion", "manual", "rollback", "by_hand"


@pytest.mark.parametrize(
    ("steps", "before"),
    [
        ([], None),
        ([(P, 1)], None),
        ([(P, 1), (P, 2)], 1),
        ([(P, 1), (P, 2), (P, 3), (R, 2)], 1),  # rolled back twice: two champions back
        ([(P, 1), (P, 2), (P, 3), (R, 2), (R, 1)], None),
        ([(P, 1), (P, 2), (P, 3), (R, 1)], None),  # two at once
        ([(P, 1), (P, 2), (R, 1), (P, 3)], 1),
        ([(P, 1), (P, 2), (R, 1), (M, 2)], 1),
        ([(P, 1), (P, 2), (R, 1), (R, 2)], 1),  # undone by a rollback forward
        ([(P, 1), (H, 2)], 1),
        ([(P, 1), (H, None), (M, 1)], None),  # taken away and given back
        ([(P, 1), (P, 2), (H, None), (M, 3)], 2),
        ([(P, 1), (P, 2), (H, 1)], 2),  # by hand: nobody said that it was a rollback
    ],
)
def test_the_champion_before_is_that_of_the_line_without_what_was_rolled_back(steps, before):
    assert previous(moves(*steps)) == before


def choice(number: int, *history: Move, **tags: str) -> Choice:
    return Choice(Version("m", number, "run", f"sha-{number}", tags), history)


def test_what_is_offered_depends_on_gates_history_and_champion():
    champion = Version("m", 3, "run", "sha-3", {})
    there = [
        choice(7, verdict="tie"),
        choice(6, verdict="rejected"),
        choice(5),  # registered, and never before a gate
        choice(4, verdict="better"),  # won, and came second
        choice(3, move(2, P, 3), verdict="better"),
        choice(2, move(1, P, 2), verdict="rejected"),  # was the champion, and was judged again
        choice(1, promoted_by_dagster_run_id="run of an older Tandem"),
    ]
    assert [each.version.version for each in promotable(there, champion)] == [7, 4, 1]
    assert [each.version.version for each in reachable(there, champion)] == [2]
    assert [each.version.version for each in reachable(there, None)] == [3, 2]


def test_a_choice_tells_its_metrics_its_verdict_and_its_moves():
    tags = {"metric.auc": "0.831234", "metric.log_loss": "0.412", "verdict": "tie"}
    assert str(choice(12, move(1, M, 12), **tags)).splitlines() == [
        "  12  auc 0.8312, log_loss 0.4120, verdict: tie",
        "      2026-11-21 02:03:04 UTC  manual     none -> 12  by marta: why",
    ]
    assert str(choice(1)) == "   1  no metrics"
