"""What a page took of the database is given back with its answer."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from ccproxy_site.pages import PagesHandler

SESSION = "a" * 32  # of nobody: to know that, the database is asked


async def test_a_page_leaves_no_connection_to_the_database(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would pile up until the garbage collector comes by: anybody's hundred requests would lock everybody out."""
    opened: list[BaseDatabaseWrapper] = []
    closed: list[BaseDatabaseWrapper] = []
    wrapper: Any = type(connections["default"])
    honest = wrapper.close

    def note(connection: BaseDatabaseWrapper, **_: Any) -> None:
        opened.append(connection)

    def close(connection: BaseDatabaseWrapper) -> None:
        closed.append(connection)
        honest(connection)

    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 60)
    monkeypatch.setattr(wrapper, "close", close)
    headers = [(b"host", b"localhost"), (b"cookie", f"sessionid={SESSION}".encode())]
    scope = {"type": "http", "method": "GET", "path": "/me", "query_string": b"", "headers": headers}
    communicator: Any = ApplicationCommunicator
    page = communicator(PagesHandler(), scope)
    connection_created.connect(note)
    try:
        await page.send_input({"type": "http.request", "body": b""})
        assert (await page.receive_output(timeout=10))["status"] == 200
        await page.wait(timeout=10)
    finally:
        connection_created.disconnect(note)
    assert len(opened) == 1
    assert opened[0] in closed
