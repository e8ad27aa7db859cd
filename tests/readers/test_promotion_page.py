"""`docs/promotion.md` says what is true: its query of the ledger is run, its columns are held against the table's."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from pyiceberg.utils.config import Config

from assets.resources import Backends
from backends.promotion_ledger import SCHEMA, Why, begin, read_moves, write_move
from backends.registry import Version
from backends.settings import ROOT

PAGE = (ROOT / "docs" / "promotion.md").read_text()
TABLE = "gold.churn_promotions"


def test_who_served_customers_when_is_one_query(home, monkeypatch):
    pytest.importorskip("duckdb")
    steps = [("promotion", None, 6), ("manual", 6, 7), ("rollback", 7, 6)]
    with Backends(home).lakehouse() as lake:
        begin(lake, TABLE)
        for kind, origin, to in steps:
            version = Version("churn", to, "run", "sha", {"training_snapshot": "1"})
            write_move(lake, TABLE, read_moves(lake, TABLE), origin, version, Why(kind, "marta", f"why {to}"))
    monkeypatch.setenv("PYICEBERG_CATALOG__TANDEM__URI", home.catalog)
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # which it reads once, when it is imported
    (query,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(query, names)  # the page's own
    rows = names["served"].fetchall()
    assert [(version, kind, by, reason) for version, _, _, kind, by, reason in rows] == [
        (to, kind, "marta", f"why {to}") for kind, _, to in steps
    ]
    assert [until for _, _, until, *_ in rows] == [*(since for _, since, *_ in rows[1:]), None]
    assert all(row[1].astimezone(UTC) <= datetime.now(UTC) for row in rows)


def test_every_column_is_told():
    section = PAGE[PAGE.index("## The ledger") :]
    told = set(re.findall(r"`(\w+)`", section[: section.index("Who served customers when?")]))
    columns = {name for name in SCHEMA.names if not name.startswith("log_loss")}
    assert columns <= told
    assert {name.replace("auc", "log_loss") for name in SCHEMA.names if name.startswith("auc")} <= set(SCHEMA.names)
