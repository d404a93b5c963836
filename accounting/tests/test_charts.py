"""Charts that are drawn on the server, looked at as XML."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

import pytest
from django.template import Context, Template

from accounting.charts import bars, figure, stacked_bars

HOSTILE = '"><script>alert(1)</script>{{7*7}}'
DAYS = [f"2026-11-{day:02}" for day in range(1, 31)]


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 - of our own making


def drawn(chart: str) -> ElementTree.Element:
    found = parsed(chart).find("svg")
    assert found is not None
    return found


def rectangles(svg: ElementTree.Element) -> list[dict[str, str]]:
    return [found.attrib for found in svg.iter("rect") if found.attrib["class"] != "cc-hit"]


def heights(svg: ElementTree.Element) -> list[float]:
    return [float(rectangle["height"]) for rectangle in rectangles(svg)]


def labels(svg: ElementTree.Element) -> list[str]:
    return [found.text or "" for found in svg.iter("text")]


def test_bars_are_as_high_as_their_figures() -> None:
    svg = drawn(bars([("a", 10), ("b", 5), ("c", Decimal("2.5")), ("d", 7.5)], title="Requests"))
    assert heights(svg) == [120.0, 60.0, 30.0, 90.0]
    assert [rectangle["y"] for rectangle in rectangles(svg)] == ["14.00", "74.00", "104.00", "44.00"]


def test_each_bar_says_its_figure_exactly_to_a_pointer() -> None:
    svg = drawn(bars([("2026-11-01", Decimal("1234.567890120000"))], title="Cost per day", unit="USD"))
    assert [found.text for found in svg.findall("g/title")] == ["2026-11-01: 1,234.56789012 USD"]


def test_a_chart_says_in_words_what_it_shows() -> None:
    svg = drawn(bars([("Mon", 1), ("Tue", 3)], title="Requests", unit="per day"))
    assert svg.attrib["role"] == "img"
    assert svg.attrib["aria-label"] == "Requests (per day): 2 bars, the highest 3 per day at Tue."
    assert svg.attrib["viewBox"] == "0 0 720 160"


def test_without_a_point_it_says_so() -> None:
    for chart in (bars([], title="Cost"), stacked_bars([], title="Cost")):
        assert labels(drawn(chart)) == ["Nothing in this period"]


@pytest.mark.parametrize("zero", [0, 0.0, Decimal("0E-12")])
def test_only_zeros_are_a_line_without_bars(zero: Any) -> None:
    svg = drawn(bars([("a", zero), ("b", zero)], title="Cost"))
    assert rectangles(svg) == []
    assert labels(svg) == ["0", "0.5", "1", "a", "b"]
    assert [found.text for found in svg.findall("g/title")] == ["a: 0", "b: 0"]


def test_a_single_bar_is_not_as_wide_as_the_chart() -> None:
    (bar,) = rectangles(drawn(bars([("a", 3)], title="Cost")))
    assert float(bar["width"]) < 60
    assert 350 < float(bar["x"]) < 410


@pytest.mark.parametrize("count", [2, 5, 6, 31, 92, 365])
def test_however_many_there_are_all_stay_inside_and_few_are_labelled(count: int) -> None:
    first = dt.date(2026, 1, 1)
    days = [((first + dt.timedelta(days=number)).isoformat(), number + 1) for number in range(count)]
    svg = drawn(bars(days, title="Requests"))
    found = rectangles(svg)
    assert len(found) == count
    assert all(float(bar["x"]) >= 20 and float(bar["x"]) + float(bar["width"]) <= 716 for bar in found)
    along = [text for text in labels(svg) if text.startswith("2026")]
    assert len(along) == min(count, 4)
    assert (along[0], along[-1]) == (days[0][0], days[-1][0])


def test_what_is_below_zero_hangs_from_the_line() -> None:
    svg = drawn(bars([("a", 10), ("b", -10)], title="Cost"))
    up, down = rectangles(svg)
    assert float(up["y"]) + float(up["height"]) == float(down["y"])
    assert labels(svg)[:4] == ["-10", "0", "5", "10"]


@pytest.mark.parametrize(
    ("most", "marks"),
    [
        (1, ["0", "0.5", "1"]),
        (7, ["0", "4", "8"]),
        (3.1, ["0", "2", "4"]),
        (Decimal("0.00042"), ["0", "0.00025", "0.0005"]),
        (1_900_000, ["0", "1M", "2M"]),
        (10.9, ["0", "6", "12"]),
        (220, ["0", "150", "300"]),
        (10**21, ["0", "5e+08T", "1e+09T"]),
    ],
)
def test_the_axis_has_round_figures(most: Any, marks: list[str]) -> None:
    assert labels(drawn(bars([("a", most)], title="t")))[:3] == marks


def test_parts_are_stacked_and_named() -> None:
    days = [("Mon", {"opus": 6, "haiku": 4}), ("Tue", {"haiku": 5})]
    chart = stacked_bars(days, title="Tokens")
    svg = drawn(chart)
    first, second, third = rectangles(svg)
    assert [first["class"], second["class"], third["class"]] == ["cc-s0", "cc-s1", "cc-s0"]
    assert (first["height"], second["height"], third["height"]) == ("48.00", "72.00", "60.00")
    assert float(second["y"]) + float(second["height"]) == float(first["y"])
    legend = parsed(chart).findall("ul/li")
    assert ["".join(item.itertext()) for item in legend] == ["haiku", "opus"]


def test_of_many_names_the_small_ones_are_drawn_together() -> None:
    names = {f"model {number:02}": 100 - number for number in range(20)}
    chart = stacked_bars([("Mon", names)], title="Tokens")
    found = rectangles(drawn(chart))
    assert [bar["class"] for bar in found] == [f"cc-s{number}" for number in range(8)]
    assert f"Mon, others: {sum(range(81, 94)):,}" in chart
    assert "model 06" in chart
    assert "model 07" not in chart


def test_names_stay_text() -> None:
    def both(name: str) -> ElementTree.Element:
        simple = bars([(name, 1), ("b", 2)], title=name, unit=name)
        return parsed(f"<both>{simple}{stacked_bars([(name, {name: 1, 'b': 2})], title=name, unit=name)}</both>")

    shapes = [(found.tag, sorted(found.attrib)) for found in both("harmless").iter()]
    assert [(found.tag, sorted(found.attrib)) for found in both(HOSTILE).iter()] == shapes
    assert HOSTILE in "".join(both(HOSTILE).itertext())


def test_a_model_may_be_called_as_the_rest_is() -> None:
    names = {"others": 100, **{f"model {number}": 10 for number in range(9)}}
    svg = drawn(stacked_bars([("Mon", names)], title="Tokens"))
    assert sum(heights(svg)) == pytest.approx(120 * 190 / 200, abs=0.1)


def test_a_chart_needs_no_style_and_no_script() -> None:
    chart = stacked_bars([(day, {"a": 1, "b": 2}) for day in DAYS], title="Tokens")
    assert " style=" not in chart
    assert "<style" not in chart
    assert " on" not in chart.replace(" on ", "")


def test_long_labels_are_cut() -> None:
    svg = drawn(bars([("claude-opus-5-5-20261120-" + "x" * 200, 1), ("b", 2), ("c", 3)], title="Cost"))
    assert max(len(text) for text in labels(svg)) <= 18


def test_templates_draw_them_too() -> None:
    page = "{% load charts %}{% bars points title='Cost' unit='EUR' %}{% stacked_bars days title='Tokens' %}"
    context = Context({"points": [("a", Decimal(3))], "days": [("a", {"b": 1})]})
    assert Template(page).render(context).count('<svg class="cc-chart"') == 2


@pytest.mark.parametrize(
    ("value", "told"),
    [(1234567, "1,234,567"), (Decimal("0.100000000000"), "0.1"), (Decimal(1000), "1,000"), (0.25, "0.25")],
)
def test_figures_are_told_exactly(value: Any, told: str) -> None:
    assert figure(value) == told
