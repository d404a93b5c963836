from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig as DjangoAdminConfig


class AdminConfig(DjangoAdminConfig):
    default_site = "ccproxy_site.site.Site"


class SiteConfig(AppConfig):
    """Here for the management command that starts the family, the checks, and what signing in leaves in the log."""

    name = "ccproxy_site"

    def ready(self) -> None:
        from ccproxy_site import checks, logs  # noqa: F401 - they register themselves
