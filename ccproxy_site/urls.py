"""Every path of the product."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views import defaults

from gateway.api import api, not_found

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", api.urls),
]


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Under /v1 every error has the form a Messages client reads, whichever handler serves it."""
    return (
        not_found(request, exception) if request.path.startswith("/v1") else defaults.page_not_found(request, exception)
    )
