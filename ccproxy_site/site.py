"""The admin site."""

from __future__ import annotations

from typing import Any

from django.core.paginator import InvalidPage
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from unfold.sites import UnfoldAdminSite

from ccproxy_site.login import SignInForm


class Site(UnfoldAdminSite):
    login_form = SignInForm

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponseBase:
        """Whoever is signed in and has no place in the admin is sent to the developers' page."""
        response: HttpResponse = super().login(request, extra_context)
        if isinstance(response, HttpResponseRedirect):
            leads_to_admin = response.url.startswith("/admin/")
            return HttpResponseRedirect("/me") if leads_to_admin and not self.has_permission(request) else response
        form = (getattr(response, "context_data", None) or {}).get("form")
        if isinstance(form, SignInForm) and form.seconds_to_wait:
            response.status_code = 429
            response.headers["Retry-After"] = str(form.seconds_to_wait)
        return response

    def search(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        try:
            response: HttpResponse = super().search(request, extra_context)
        except (InvalidPage, ValueError):
            raise Http404("There is no such page of results.") from None
        return response
