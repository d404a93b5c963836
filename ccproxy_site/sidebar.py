"""What the admin's sidebar leads to, in the order of the daily work; everybody sees what he may use."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

# Title, symbol, path and the permission it takes: none for whoever may enter the admin.
PLACES = (
    (
        "",
        (
            ("Home", "home", "/admin/", None),
            ("Live", "bolt", "/admin/live/", "accounting.view_usagerecord"),
            ("Requests", "receipt_long", "/admin/accounting/usagerecord/", "accounting.view_usagerecord"),
            ("Reports", "bar_chart", "/admin/reports/", "accounting.view_reports"),
        ),
    ),
    (
        "Who may ask",
        (
            ("Keys", "key", "/admin/accounting/apikey/", "accounting.view_apikey"),
            ("Cost centres", "account_balance", "/admin/accounting/costcentre/", "accounting.view_costcentre"),
        ),
    ),
    (
        "Who answers",
        (
            ("Providers", "dns", "/admin/providers/provider/", "providers.view_provider"),
            ("Routes", "alt_route", "/admin/providers/modelroute/", "providers.view_modelroute"),
            ("Prices", "sell", "/admin/accounting/price/", "accounting.view_price"),
        ),
    ),
    (
        "People",
        (
            ("Users", "person", "/admin/auth/user/", "auth.view_user"),
            ("Groups", "group", "/admin/auth/group/", "auth.view_group"),
            ("My page", "terminal", "/me", None),
        ),
    ),
)


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    return [
        {
            "title": title,
            "items": [
                {"title": name, "icon": symbol, "link": path}
                for name, symbol, path, permission in places
                if permission is None or request.user.has_perm(permission)
            ],
        }
        for title, places in PLACES
    ]
