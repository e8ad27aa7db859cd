"""The night on populations of several sizes: what is asked for, and how it is told."""

from dataclasses import asdict

import pytest
from typer import BadParameter

from benchmarks.growth import SIZES, line, sizes_of
from benchmarks.plots import growth
from benchmarks.rounds import record_of


def record(system: str, rows: int, *seconds: float):
    figures = {"rows": rows, "cpu_seconds": 1.0, "peak_rss_mb": 590.4}
    return record_of(system, [{"seconds": one, **figures} for one in seconds])


def test_a_line_has_the_median_the_spread_and_the_ratio_to_the_kernel():
    told = line(record("tandem-int8", 5_000_000, 2.5, 2.0, 4.0), record("kernel", 5_000_000, 1.25, 1.0, 1.5))
    assert told.startswith("   5,000,000 rows")
    assert "2.50 s (2.00 .. 4.00)" in told
    assert "2.00 x its kernel" in told
    assert told.endswith("2,000,000 rows/s  590 MB")


def test_sizes_are_numbers_of_rows():
    assert sizes_of(SIZES) == [1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000]
    assert sizes_of("1000, 2000") == [1000, 2000]


@pytest.mark.parametrize("text", ["1000,many", "", "0", "-5", "1e6", "1000,"])
def test_what_is_no_number_of_rows_is_named(text):
    with pytest.raises(BadParameter, match=f"no number of rows: '{text.split(',')[-1]}'"):
        sizes_of(text)


def test_the_picture_is_of_the_nights_and_not_of_their_kernels(tmp_path):
    records = [record("tandem-int8", rows, rows / 1e6) for rows in (2_000_000, 1_000_000)]
    kernels = [record("kernel", rows, rows / 2e6) for rows in (1_000_000, 2_000_000)]
    growth([asdict(one) for one in [*records, *kernels]], tmp_path / "with.png")
    growth([asdict(one) for one in records], tmp_path / "without.png")
    assert (tmp_path / "with.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "with.png").stat().st_size == (tmp_path / "without.png").stat().st_size
