"""Daphne, without the parts of Twisted's web server that an ASGI application does not use.

Import it only when the event loop's policy is decided: Daphne makes its loop as it is imported.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from daphne import server
from daphne.http_protocol import HTTPFactory, WebRequest


class LeanFactory(HTTPFactory):
    """Twisted would format a log line that goes nowhere and parse each POST's content type as an e-mail header."""

    def buildProtocol(self, addr: Any) -> Any:
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = partial(WebRequest, parsePOSTFormSubmission=False)
        return protocol

    def log(self, request: Any) -> None:
        pass


class Server(server.Server):
    """Daphne makes its factory by the name it knows it by; that name is the only way in."""

    def run(self) -> None:
        server.HTTPFactory = LeanFactory
        super().run()
