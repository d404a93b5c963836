"""A provider's moderation told as an answer: a turn that ends in a refusal, where the provider sent an error."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from providers import identity
from providers.dialects.dialect import Exchange
from providers.errors import UpstreamError
from providers.events import MessageWriter, fold
from providers.usage import Usage

MODERATED = "content_filter"


def is_an_answer(error: UpstreamError, exchange: Exchange) -> bool:
    return error.code == MODERATED and exchange.option("refusal_as_answer") is True


class Declined:
    """Finished before it begins; nothing was produced, so nothing is billed."""

    output_characters = 0
    output_sample = ""

    def __init__(self, exchange: Exchange, error: UpstreamError) -> None:
        self.message_id = identity.message_id()
        self.usage: Usage | None = Usage()
        self.output_is_told = True
        self.stop_reason: str | None = "refusal"
        self.upstream_id: str | None = None
        self.began = self.ended = self.complete = self.finishing = False
        self.count: Callable[[], Usage] | None = None
        self.error: UpstreamError | None = None
        self.notes = {f"refused: {error.message}"}
        self._model = exchange.request.model
        self._sentence = error.message

    def feed(self, _data: bytes) -> bytes:
        return self.finish()

    def finish(self) -> bytes:
        writer = MessageWriter(self.message_id, self._model)
        writer.text(self._sentence)
        details = {"type": "refusal", "category": None, "explanation": self._sentence}
        writer.end("refusal", Usage(), details=details)
        self.began = self.ended = self.complete = True
        return writer.take()

    def whole(self, _body: bytes) -> bytes:
        return msgspec.json.encode(fold(self.finish()))
