"""How slow a body may be, when a client counts as gone, and what a request's target means."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace

import pytest

from ccproxy_site import limits as limits_module
from ccproxy_site.connection import origin_path, status_line
from ccproxy_site.limits import Limits, Stall, Upload


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(limits_module, "monotonic", clock)
    return clock


@pytest.fixture
def limits() -> Limits:
    return Limits.from_settings()


def test_the_limits_are_the_settings(settings: SimpleNamespace) -> None:
    settings.HEADER_SECONDS = 3.5
    settings.MAX_BODY_BYTES = 77
    assert Limits.from_settings().header_seconds == 3.5
    assert Limits.from_settings().body_bytes == 77


def upload_after(clock: Clock, limits: Limits, pieces: list[tuple[float, int]]) -> int | None:
    """The status that a body gets whose pieces come after such pauses, looked at once a second; None: it lives."""
    upload = Upload(limits)
    for pause, length in pieces:
        until = clock.now + pause
        while clock.now < until:
            clock.now = min(clock.now + 1, until)
            refusal = upload.refusal(clock.now)
            if refusal is not None:
                return refusal.status
        upload.take(length)
    return None


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        pytest.param([(1, 2048)] * 60, None, id="slow but steady"),
        pytest.param([(9, 20 * 1024), (9, 20 * 1024)], None, id="in bursts"),
        pytest.param([(9.5, 50 * 1024), (29.5, 1024)], None, id="a long pause, well ahead"),
        pytest.param([(1, 1024 * 1024), (31, 1)], 408, id="silence for too long"),
        pytest.param([(0.5, 100)] * 30, 408, id="a trickle"),
        pytest.param([(0.5, 100)] * 18, None, id="a trickle within the grace"),
    ],
)
def test_a_body_must_keep_coming(
    clock: Clock, limits: Limits, pieces: list[tuple[float, int]], status: int | None
) -> None:
    assert upload_after(clock, limits, pieces) == status


def test_framing_without_content_is_too_large_in_the_end(clock: Clock, limits: Limits) -> None:
    upload = Upload(limits)
    upload.take(2 * limits.body_bytes)
    assert upload.refusal(clock.now) is None
    upload.take(1)
    refusal = upload.refusal(clock.now)
    assert refusal is not None
    assert refusal.status == 413


def test_a_client_that_takes_a_byte_now_and_then_is_not_gone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = SimpleNamespace(socket=ours, dataBuffer=b"x" * 1000, offset=0, _tempDataLen=0)
        stall = Stall(transport, now=0.0)
        assert stall.seconds(200.0) == 200.0
        transport.offset = 1
        assert stall.seconds(299.0) == 0.0
        assert stall.seconds(399.0) == 100.0


def test_what_the_kernel_has_delivered_counts_as_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with ours, theirs:
        ours.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ours.sendall(b"x" * 64 * 1024 * 1024)
        transport = SimpleNamespace(socket=ours, dataBuffer=b"rest", offset=0, _tempDataLen=0)
        stall = Stall(transport, now=0.0)
        assert stall.seconds(10.0) == 10.0
        theirs.settimeout(0.2)
        assert theirs.recv(256 * 1024, socket.MSG_WAITALL)
        time.sleep(0.1)  # the kernel's, not ours
        assert stall.seconds(20.0) == 0.0


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v1/messages", "/v1/messages"),
        (b"//v1/messages", "/v1/messages"),
        (b"http://gateway.example/v1/models", "/v1/models"),
        (b"http://gateway.example", "/"),
        (b"*", "/*"),
    ],
)
def test_what_a_target_means(target: bytes, path: str) -> None:
    assert origin_path(target) == path


def test_a_status_nobody_has_named_is_still_a_line() -> None:
    assert status_line(200) == b"HTTP/1.1 200 OK\r\n"
    assert status_line(529) == b"HTTP/1.1 529 \r\n"


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"/%761/messages", "/v1/messages"), (b"http://[", "/"), (b"/x?y=http://z", "/x?y=http://z")],
)
def test_no_spelling_of_a_target_breaks_anything_or_hides_where_it_leads(target: bytes, path: str) -> None:
    assert origin_path(target) == path
