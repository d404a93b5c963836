"""One Daphne process: what must be decided before Daphne is imported, and then Daphne."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import socket

# Connections that may wait to be accepted: a burst of clients after a restart is larger than the usual 50.
BACKLOG = 4096


def use_uvloop() -> None:
    """Daphne makes its event loop when it is imported."""
    try:
        import uvloop
    except ImportError:
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def serve(listener: socket.socket, ready: int | None) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ccproxy_site.settings")
    use_uvloop()
    from ccproxy_site.listener import Server  # isort: skip

    from django.conf import settings

    from ccproxy_site.asgi import application
    from ccproxy_site.draining import Drain
    from ccproxy_site.memory import take_over, tidy_up
    from gateway import runtime

    raise_descriptor_limit()
    take_over()
    server = Server(application, listener, when_listening=lambda: tell(ready))
    Drain(server, runtime.running(), seconds=settings.DRAIN_SECONDS).listen_to_signals()
    memory = server.loop.create_task(tidy_up(lambda: not server.running))
    server.run()
    memory.cancel()
    runtime.running().stop()


def listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def inherited(descriptor: int) -> socket.socket:
    """A socket that our parent holds: it outlives us, and with it what waits in its queue."""
    return socket.socket(fileno=descriptor)


def raise_descriptor_limit() -> None:
    """A stream takes two; what a login allows by default is used up by five hundred of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def tell(ready: int | None) -> None:
    """Whoever has started us learns that we listen."""
    if ready is not None:
        os.write(ready, b"1")
        os.close(ready)


def main() -> None:
    parser = argparse.ArgumentParser(description="One web process of ccproxy; `manage.py serve` starts the family.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8787)
    parser.add_argument("--fd", type=int, help="Listen on this inherited socket instead.")
    parser.add_argument("--ready-fd", type=int, help="Write a byte there once connections are taken.")
    options = parser.parse_args()
    serve(inherited(options.fd) if options.fd is not None else listening(options.host, options.port), options.ready_fd)


if __name__ == "__main__":
    main()
