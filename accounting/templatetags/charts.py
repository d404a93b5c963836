"""Charts in templates: {% load charts %}{% bars points title="Cost per day" unit="USD" %}."""

from __future__ import annotations

from django import template

from accounting import charts

register = template.Library()
register.simple_tag(charts.bars)
register.simple_tag(charts.stacked_bars)
