from django.apps import AppConfig


class SiteConfig(AppConfig):
    """Here for the management command that starts the family."""

    name = "ccproxy_site"
