"""One Daphne process: what must be decided before Daphne is imported, and then Daphne."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os

# Bodies reach the application in pieces of this size; Daphne's 8 KB would make 4,000 messages of a large one.
BODY_PIECE = 1024 * 1024
# Objects made before a collection of the youngest generation: with the default of 700 the collector was the tail of
# the delays over a thousand slow streams.
GC_THRESHOLDS = (50_000, 20, 50)


def use_uvloop() -> None:
    """Daphne makes its event loop when it is imported."""
    try:
        import uvloop
    except ImportError:
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def serve(host: str, port: int) -> None:
    use_uvloop()
    from ccproxy_site.listener import Server  # isort: skip

    from ccproxy_site.asgi import application
    from gateway import runtime

    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    Server(
        application,
        # Colons separate the parts of an endpoint: those of an IPv6 address are escaped.
        endpoints=["tcp:port={}:interface={}".format(port, host.replace(":", r"\:"))],
        request_buffer_size=BODY_PIECE,
        server_name="ccproxy",
        verbosity=0,
    ).run()
    runtime.running().stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="One web process of ccproxy; `manage.py serve` starts the family.")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ccproxy_site.settings")
    serve(options.host, options.port)


if __name__ == "__main__":
    main()
