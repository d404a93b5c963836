from django.apps import AppConfig


class GatewayConfig(AppConfig):
    name = "gateway"

    def ready(self) -> None:
        """The admin's page about routes is told what only this package knows."""
        from gateway.which import of_rests, of_the_key
        from providers.admin.which import REMARKS

        REMARKS[:] = [of_the_key, of_rests]
