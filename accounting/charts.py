"""Charts as SVG drawn on the server: no script, no inline style; ccproxy/charts.css has their look."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TypeAlias

import msgspec
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

Number: TypeAlias = int | float | Decimal

WIDTH = 720.0
RIGHT, TOP, BOTTOM = 4.0, 14.0, 26.0
# As wide as it gets in the large letters of a narrow screen.
LETTER = 12.0
WIDEST_BAR = 56.0
# Longer labels are cut rather than left out.
LONG_LABEL = 12
# Classes cc-s0 to cc-s7; what comes after the seventh name is drawn together.
SERIES = 8
REST = "others"


class Part(msgspec.Struct, frozen=True):
    """A stretch of one column, which begins where the one before it ended."""

    series: int
    value: Number
    told: str


class Column(msgspec.Struct, frozen=True):
    label: str
    parts: Sequence[Part]


class Scale(msgspec.Struct, frozen=True):
    """Where values and columns stand. Below zero there is room only where a value is."""

    low: float
    high: float
    bottom: float
    columns: int

    @property
    def ticks(self) -> list[float]:
        return sorted({self.low, 0.0, self.high / 2, self.high})

    @property
    def left(self) -> float:
        """After the widest figure of the axis."""
        return 8 + LETTER * max(len(_short(tick)) for tick in self.ticks)

    @property
    def slot(self) -> float:
        return (WIDTH - RIGHT - self.left) / self.columns

    def y(self, value: float) -> float:
        return self.bottom - (value - self.low) / (self.high - self.low) * (self.bottom - TOP)


def bars(points: Sequence[tuple[str, Number]], *, title: str, unit: str = "", height: int = 160) -> SafeString:
    """One bar for each point, in their order."""
    columns = [Column(label, [Part(0, value, f"{label}: {figure(value, unit)}")]) for label, value in points]
    return _figure(columns, (), title, unit, height)


def stacked_bars(
    days: Sequence[tuple[str, Mapping[str, Number]]], *, title: str, unit: str = "", height: int = 160
) -> SafeString:
    """Bars made of named parts; the names with the largest sums have a colour each."""
    ranked = _by_size(values for _, values in days)
    names = ranked if len(ranked) <= SERIES else ranked[: SERIES - 1]
    columns = [Column(label, list(_parts(label, values, names, unit))) for label, values in days]
    return _figure(columns, names if names == ranked else [*names, REST], title, unit, height)


def figure(value: Number, unit: str = "") -> str:
    """As people read it: every digit of it, thousands apart."""
    text = (
        f"{value:,.4g}" if isinstance(value, float) else f"{value:,f}" if isinstance(value, Decimal) else f"{value:,}"
    )
    if isinstance(value, Decimal) and "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text} {unit}".rstrip()


def _by_size(mappings: Iterable[Mapping[str, Number]]) -> list[str]:
    sums: dict[str, Decimal] = {}
    for values in mappings:
        for name, value in values.items():
            sums[name] = sums.get(name, Decimal(0)) + Decimal(value)
    return sorted(sums, key=lambda name: (-sums[name], name))


def _parts(label: str, values: Mapping[str, Number], names: Sequence[str], unit: str) -> Iterator[Part]:
    for series, name in enumerate(names):
        if name in values:
            yield Part(series, values[name], f"{label}, {name}: {figure(values[name], unit)}")
    others = [Decimal(value) for name, value in values.items() if name not in names]
    if others:
        yield Part(SERIES - 1, sum(others), f"{label}, {REST}: {figure(sum(others), unit)}")


def _figure(columns: Sequence[Column], names: Sequence[str], title: str, unit: str, height: int) -> SafeString:
    caption = f"{title} ({unit})" if unit else title
    return format_html(
        '<figure class="cc-chart-box"><figcaption class="cc-chart-title">{}</figcaption>{}{}</figure>',
        caption,
        _svg(columns, caption, unit, height),
        _legend(names),
    )


def _svg(columns: Sequence[Column], caption: str, unit: str, height: int) -> SafeString:
    if columns:
        scale = _scale(columns, height)
        drawn = format_html("{}{}{}", _grid(scale), _drawn(columns, scale), _labels(columns, scale, height))
    else:
        drawn = format_html(
            '<text class="cc-axis" x="{}" y="{}" text-anchor="middle">Nothing in this period</text>',
            WIDTH / 2,
            height / 2,
        )
    return format_html(
        '<svg class="cc-chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>',
        int(WIDTH),
        height,
        f"{caption}: {_summary(columns, unit)}",
        drawn,
    )


def _summary(columns: Sequence[Column], unit: str) -> str:
    """What somebody who cannot see the bars has to know first."""
    if not columns:
        return "nothing in this period."
    sums = [(sum(Decimal(part.value) for part in column.parts), column.label) for column in columns]
    most, label = max(sums, key=lambda found: found[0])
    return f"{len(columns)} bars, the highest {figure(most, unit)} at {label}."


def _scale(columns: Sequence[Column], height: int) -> Scale:
    high = max(sum(max(float(part.value), 0.0) for part in column.parts) for column in columns)
    low = min(sum(min(float(part.value), 0.0) for part in column.parts) for column in columns)
    if high == low:
        high = 1.0
    return Scale(0.0 - _round_up(-low), _round_up(high), height - BOTTOM, len(columns))


def _round_up(value: float) -> float:
    """To a figure that is short, and short when it is halved."""
    if value <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return power * next(step for step in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10, 12) if step * power >= value * (1 - 1e-9))


def _grid(scale: Scale) -> SafeString:
    shape = (
        '<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text class="cc-axis" x="{}" y="{}" text-anchor="end" dominant-baseline="middle">{}</text>'
    )
    left, right, places = (
        f"{scale.left:g}",
        f"{WIDTH - RIGHT:g}",
        [(tick, f"{scale.y(tick):.1f}") for tick in scale.ticks],
    )
    marks = (
        (("cc-grid" if tick else "cc-zero"), left, right, y, y, f"{scale.left - 6:g}", y, _short(tick))
        for tick, y in places
    )
    return format_html_join("", shape, marks)


def _short(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.3g}"


def _drawn(columns: Sequence[Column], scale: Scale) -> SafeString:
    """Each column over all its height tells its figures where a pointer rests on it; so does each part."""
    shape = (
        '<g><title>{}</title><rect class="cc-hit" x="{}" y="{}" width="{}" height="{}" fill="none"'
        ' pointer-events="all"/>{}</g>'
    )
    top, width, height = f"{TOP:g}", f"{scale.slot:.2f}", f"{scale.bottom - TOP:g}"
    lefts = [scale.left + number * scale.slot for number in range(len(columns))]
    groups = (
        ("\n".join(part.told for part in column.parts), f"{x:.2f}", top, width, height, _stack(column, x, scale))
        for x, column in zip(lefts, columns, strict=True)
    )
    return format_html_join("", shape, groups)


def _stack(column: Column, left: float, scale: Scale) -> SafeString:
    """Upwards from the zero line, and downwards what is below it."""
    width = min(scale.slot * 0.8, WIDEST_BAR)
    x = f"{left + (scale.slot - width) / 2:.2f}"
    rectangles, reached = [], {True: 0.0, False: 0.0}
    for part in column.parts:
        value = float(part.value)
        start = reached[value > 0]
        reached[value > 0] = end = start + value
        top, bottom = sorted((scale.y(start), scale.y(end)))
        if value:
            rectangles.append((part.series, x, f"{top:.2f}", f"{width:.2f}", f"{bottom - top:.2f}", part.told))
    shape = '<rect class="cc-s{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
    return format_html_join("", shape, rectangles)


def _labels(columns: Sequence[Column], scale: Scale, height: int) -> SafeString:
    """As many as there is room for, evenly spread, the first and the last among them."""
    room = WIDTH - RIGHT - scale.left
    longest = min(max(len(column.label) for column in columns), LONG_LABEL)
    shown = min(len(columns), max(2, int(room / LETTER / (longest + 2))))
    places = [round(number * (len(columns) - 1) / max(shown - 1, 1)) for number in range(shown)]
    labels = (
        (*_place(number, scale, shown), f"{height - 6}", _cut(columns[number].label, int(room / LETTER / shown)))
        for number in places
    )
    return format_html_join("", '<text class="cc-axis" x="{}" text-anchor="{}" y="{}">{}</text>', labels)


def _place(number: int, scale: Scale, shown: int) -> tuple[str, str]:
    """Below the middle of its bar, but where it would stand out at the side of a narrow one."""
    if shown < scale.columns and number == 0:
        return f"{scale.left:.1f}", "start"
    if shown < scale.columns and number == scale.columns - 1:
        return f"{WIDTH - RIGHT:.1f}", "end"
    return f"{scale.left + (number + 0.5) * scale.slot:.1f}", "middle"


def _cut(label: str, most: int) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _legend(names: Sequence[str]) -> SafeString:
    if not names:
        return SafeString()
    shape = (
        '<li><svg class="cc-swatch" viewBox="0 0 10 10" aria-hidden="true">'
        '<rect class="cc-s{}" width="10" height="10"/></svg>{}</li>'
    )
    return format_html('<ul class="cc-chart-legend">{}</ul>', format_html_join("", shape, enumerate(names)))
