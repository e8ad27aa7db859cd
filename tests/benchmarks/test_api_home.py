"""What the API is measured on is found again by the next run, so it must not be found half-written."""

from pathlib import Path

import pytest

from benchmarks.api_home import whole


def stopped_half_way(path: Path) -> None:
    with whole(path) as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt


def test_what_was_stopped_half_way_is_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stopped_half_way(tmp_path / "rows.parquet")
    assert not (tmp_path / "rows.parquet").exists()


def test_the_next_run_finishes_it_and_leaves_nothing_else(tmp_path):
    (tmp_path / "model.unfinished").mkdir()
    (tmp_path / "model.unfinished" / "of an earlier run").touch()
    with whole(tmp_path / "model") as unfinished:
        unfinished.mkdir()
        (unfinished / "file").write_text("all")
        assert not (tmp_path / "model").exists()
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["model", "model/file"]
