"""The reports, under /admin/reports/."""

from __future__ import annotations

from django.urls import path

from accounting import report_pages

app_name = "reports"
urlpatterns = [
    path("", report_pages.overview, name="overview"),
    *(path(f"{part}/", report_pages.table, {"part": part}, name=part) for part in report_pages.DIVISIONS),
]
