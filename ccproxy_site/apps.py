from django.apps import AppConfig


class SiteConfig(AppConfig):
    """Here for the management command that starts the family, and the checks."""

    name = "ccproxy_site"

    def ready(self) -> None:
        from ccproxy_site import checks  # noqa: F401 - registers itself
