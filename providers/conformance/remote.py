"""A gateway that runs as the player: each call goes to it over HTTP, and it calls the scripted upstream."""

from __future__ import annotations

import contextlib
import http.client
import time
from urllib.parse import urlsplit

import msgspec

from providers.conformance.cases import Setup, Turn
from providers.conformance.running import Call, Outcome
from providers.conformance.scripted import PATHS, ScriptedUpstream
from providers.conformance.scripts import replies

PATIENCE = 10.0  # seconds for one call; a hang is a failure
PIECE = 64 * 1024
KEY = "$KEY"


class Remote:
    def __init__(self, base_url: str, key: str, upstream: ScriptedUpstream, *, prefix: str, strict: bool) -> None:
        self.strict = strict
        self.ids: set[str] = set()
        self._address = urlsplit(base_url.rstrip("/").removesuffix("/v1"))
        self._key = key
        self._upstream = upstream
        self._prefix = prefix
        self._served: dict[Setup, bool] = {}

    def model(self, setup: Setup) -> str:
        return self._prefix + setup.name

    def play(self, call: Call) -> Outcome:
        self._upstream.prepare(call.replies, call.setup.language)
        outcome = Outcome()
        try:
            self._ask(call, outcome)
        except TimeoutError:
            outcome.trouble = f"no complete answer in {PATIENCE:g} s"
        except (OSError, http.client.HTTPException) as error:
            outcome.trouble = f"the connection to the gateway broke: {type(error).__name__} {error}"
        outcome.upstream = self._upstream.received()
        return outcome

    def serves(self, setup: Setup) -> bool:
        """Whether a question for this model reaches our upstream, under its name and in the language that is meant."""
        if setup not in self._served:
            body = {"model": self.model(setup), "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
            turn = Turn()
            sent = msgspec.json.encode(body)
            call = Call(setup, turn, "POST", turn.path, {"content-type": "application/json"}, sent, [])
            outcome = self.play(msgspec.structs.replace(call, replies=replies(turn, setup.language)))
            self._served[setup] = any(
                seen.path.partition("?")[0].endswith(PATHS[setup.language][0])
                and (setup.upstream_model or setup.name).encode() in seen.body
                for seen in outcome.upstream
            )
        return self._served[setup]

    def _ask(self, call: Call, outcome: Outcome) -> None:
        until = time.monotonic() + PATIENCE
        make = http.client.HTTPSConnection if self._address.scheme == "https" else http.client.HTTPConnection
        headers = {"x-api-key": self._key, "authorization": f"Bearer {self._key}", **call.headers}
        sent = {name: value.replace(KEY, self._key) for name, value in headers.items() if value}
        connection = make(self._address.hostname or "", self._address.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(call.method, self._address.path + call.path, call.body or None, sent)
            response = connection.getresponse()
            outcome.status = response.status
            outcome.headers = {name.lower(): value for name, value in response.getheaders()}
            while piece := response.read1(PIECE):
                outcome.body += piece
                if time.monotonic() > until:
                    raise TimeoutError
