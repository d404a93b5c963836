"""The page of the live view: what runs now, as its script hears it at /ws/live."""

from __future__ import annotations

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from gateway.live import may_watch


def page(request: HttpRequest) -> HttpResponse:
    if not may_watch(request.user):
        raise PermissionDenied("you may not see requests: ask an administrator for the right to view usage records")
    context = {**admin.site.each_context(request), "title": "Live view"}
    return TemplateResponse(request, "admin/live.html", context)
