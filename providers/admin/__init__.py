"""Providers and routes in the admin."""

from providers.admin import providers, routes
from providers.admin.kept import KeptForTheLedger

__all__ = ["KeptForTheLedger", "providers", "routes"]
