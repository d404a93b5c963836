"""Every path of the product."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views import defaults

from ccproxy_site import live
from gateway import me
from gateway.api import api, not_found

urlpatterns = [
    path("admin/live/", admin.site.admin_view(live.page), name="live"),
    path("admin/reports/", include("accounting.report_urls")),
    path("admin/", admin.site.urls),
    path("me", me.page, name="me"),
    path("me/", me.page),
    path("me/key", me.open_with_key, name="me-open"),
    path("me/leave", me.leave, name="me-leave"),
    path("me/statusline", me.status_line, name="me-statusline"),
    path("", api.urls),
]


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Under /v1 every error has the form a Messages client reads, whichever handler serves it."""
    return (
        not_found(request, exception) if request.path.startswith("/v1") else defaults.page_not_found(request, exception)
    )
