"""A chart shows the values that it is given, and words are never markup."""

import base64
import io
import re

import pytest
from PIL import Image

from handloom import svg


def test_higher_values_are_drawn_higher_and_later_ones_further_right() -> None:
    drawn = svg.line_chart("t", "steps", [svg.Line("a", [(0, 1.0), (5, 3.0), (10, 2.0)])])
    (x0, y0), (x1, y1), (x2, y2) = points(drawn)
    assert x0 < x1 < x2
    assert y1 < y2 < y0  # SVG counts from the top
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)


def test_values_that_are_not_finite_are_left_out() -> None:
    drawn = svg.line_chart("t", "", [svg.Line("a", [(0, 1.0), (1, float("nan")), (2, 2.0)])])
    assert len(points(drawn)) == 2
    assert svg.line_chart("t", "", [svg.Line("a", [(0, float("inf"))])]) == ""


def test_pictures_are_made_no_larger() -> None:
    for most, size in ((100, (30, 20)), (15, (15, 10))):
        shown = svg.inline(Image.new("RGB", (30, 20)), "a < b", width=most)
        assert 'alt="a &lt; b"' in shown
        data = base64.b64decode(shown.split("base64,")[1].removesuffix('">'))
        assert Image.open(io.BytesIO(data)).size == size


def points(drawn: str) -> list[tuple[float, float]]:
    """Where the only line of a chart goes, on the page."""
    (path,) = re.findall(r'<polyline points="([^"]*)"', drawn)
    pairs = (pair.split(",") for pair in path.split())
    return [(float(x), float(y)) for x, y in pairs]


def test_a_column_is_as_tall_as_its_value_on_either_scale() -> None:
    linear = svg.Axes(10, 20, 100, 80, (0, 4), (0, 8))
    counts = svg.Axes(10, 20, 100, 80, (0, 4), (1, 10_000), log_y=True)
    for axes, values in ((linear, (2, 4, 6)), (counts, (10, 100, 1000))):
        drawn = [box(axes.column((1, 2), value, "red")) for value in values]
        assert [height for _, height in drawn] == pytest.approx([20, 40, 60])
        assert [top + height for top, height in drawn] == pytest.approx([100] * 3)


@pytest.mark.parametrize("most", [1, 9, 10, 4711])
def test_of_counts_one_is_seen_and_none_is_not(most: int) -> None:
    axes = svg.Axes(10, 20, 100, 80, (0, 4), svg.counts(most), log_y=True)
    assert axes.column((1, 2), 0, "red") == ""
    assert 4 < box(axes.column((1, 2), 1, "red"))[1] <= box(axes.column((1, 2), most, "red"))[1]
    assert box(axes.column((1, 2), most, "red"))[1] < 80
    assert svg.ticks(*axes.y_range, log=True)[0] == 1


def box(drawn: str) -> tuple[float, float]:
    """Top and height of a rectangle."""
    found = re.search(r'y="([\d.]+)" width="25.0" height="([\d.]+)"', drawn)
    assert found is not None
    return float(found[1]), float(found[2])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 17.0), (1e-6, 3e-6), (5.0, 5.001)])
def test_ticks_are_a_few_round_numbers_inside(low: float, high: float) -> None:
    found = svg.ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low <= value <= high for value in found)
    assert found == sorted(set(found))


def test_logarithmic_ticks_are_of_every_ten() -> None:
    assert svg.ticks(1.5, 60, log=True) == [2, 5, 10, 20, 50]
    assert svg.ticks(1, 1e6, log=True) == [1, 10, 100, 1e3, 1e4, 1e5, 1e6]
    assert [svg.short(value) for value in (5, 2e3, 1.5e6, 1e9)] == ["5", "2k", "1.5M", "1B"]


def test_words_are_escaped_unless_they_are_markup() -> None:
    bad = "<b>&"
    shown = svg.table((bad,), [(bad, 1), (svg.Markup("<br>"), bad)], words=(1,))
    assert shown.count("&lt;b&gt;&amp;") == 3
    assert shown.count("<br>") == 1
    assert shown.count("<td class=words>") == 2
    assert bad not in svg.page(bad, ()) + svg.text(0, 0, bad) + svg.rect(0, 0, 1, 1, "red", bad)
