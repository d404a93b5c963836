"""What every page tells the browser: which scripts it may run, and that its cookies stay on https."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.deprecation import MiddlewareMixin

STRICT = {
    "default-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
# The admin's own scripts (Alpine) make functions of the attributes in its templates, and set styles as text.
ADMIN = {**STRICT, "script-src": "'self' 'unsafe-eval'", "style-src": "'self' 'unsafe-inline'"}


class SafePages(MiddlewareMixin):
    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        policy = ADMIN if request.path.startswith("/admin/") else STRICT
        text = "; ".join(f"{name} {sources}" for name, sources in policy.items())
        response.headers.setdefault("content-security-policy", text)
        if came_over_https(request):
            for cookie in response.cookies.values():
                cookie["secure"] = True
        return response


def came_over_https(request: HttpRequest) -> bool:
    """Also through a proxy in front: an admin that is reached by https there must be a trusted origin by that name."""
    host = request.headers.get("host", "")
    trusted = settings.CSRF_TRUSTED_ORIGINS
    return request.is_secure() or (f"https://{host}" in trusted and f"http://{host}" not in trusted)
