"""The chart of a night's scores: every count has a bar of its height, and the colours tell the decision."""

from xml.etree import ElementTree

import numpy as np
import pytest

from models.training.plots import COLOURS
from models.training.score_chart import BOTTOM, TOP, score_chart

EDGES = np.linspace(0, 1, 11)
SVG = "{http://www.w3.org/2000/svg}"


def drawn(counts: list[int], threshold: float = 0.3) -> ElementTree.Element:
    return ElementTree.fromstring(score_chart(np.array(counts, np.int64), EDGES, threshold))


def bars(chart: ElementTree.Element) -> list[dict[str, str]]:
    return [bar.attrib for bar in chart.iter(f"{SVG}rect") if "x" in bar.attrib]


def texts(chart: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in chart.iter(f"{SVG}text")]


def test_a_bar_is_as_high_as_its_count():
    heights = [float(bar["height"]) for bar in bars(drawn([0, 50, 100, 25, 0, 0, 0, 0, 0, 0]))]
    assert heights[0] == 0
    assert heights[1] == pytest.approx(heights[2] / 2, abs=0.1)
    assert heights[3] == pytest.approx(heights[2] / 4, abs=0.1)
    assert 0.9 * (BOTTOM - TOP) < heights[2] <= BOTTOM - TOP


def test_scores_from_the_threshold_on_have_another_colour():
    assert [bar["fill"] for bar in bars(drawn([1] * 10))] == [COLOURS[0]] * 3 + [COLOURS[1]] * 7


@pytest.mark.parametrize("largest", [1, 7, 99, 1234, 2_000_000])
def test_the_grid_names_a_few_round_counts(largest):
    counts = [
        int(text.replace(",", ""))
        for text in texts(drawn([largest] + [0] * 9))
        if "." not in text and text[0].isdigit() and "scores" not in text
    ]
    assert counts[0] == 0
    assert 2 <= len(counts) <= 7
    assert largest <= counts[-1] + (counts[1] - counts[0])


def test_an_empty_night_is_drawn_too():
    assert "0 scores, threshold 0.3" in texts(drawn([0] * 10))


def test_the_title_says_how_many_and_where_the_threshold_is():
    assert "5,000,000 scores, threshold 0.25" in texts(drawn([5_000_000] + [0] * 9, 0.25))
