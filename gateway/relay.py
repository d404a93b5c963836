"""One question, its candidates, one answer: try, wait, stream, meter, settle.

The rules, in the order in which they bite: an intent stands in the ledger before a provider is called; nothing is
sent to the client before a provider has begun to answer, so that the next one can be tried in silence; the
settlement stands in the ledger before the bytes that end the answer leave.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
from django.conf import settings

from accounting.ledger import (
    CANCELLED,
    COMPLETED,
    COUNTED,
    CUT,
    ESTIMATED,
    FAILED,
    NEVER_LEFT,
    NOTHING_BILLED,
    UPSTREAM,
    Bill,
    Entry,
)
from gateway.intake import Question
from gateway.runtime import Runtime
from providers import tokens, weighing
from providers.dialects import DIALECTS, Answer, Dialect, Exchange, fields
from providers.dialects.declined import Declined, is_an_answer
from providers.dialects.lessons import LEARNT, Lesson
from providers.dialects.refusals import scrub
from providers.errors import (
    BrokenOff,
    BrokenStream,
    ClientError,
    NotServed,
    ProxyError,
    RateLimited,
    Refused,
    TimedOut,
    Unreachable,
    UpstreamError,
)
from providers.events import PING
from providers.log_events import LogEvent, about
from providers.routing import Candidate, Timeouts
from providers.upstream import MOST_ERROR_BODY, Call
from providers.usage import Usage
from providers.weighing import Estimate

logger = logging.getLogger("ccproxy.relay")
requests_log = logging.getLogger("ccproxy.requests")

NO_ANSWER: Bill = (Usage(), ESTIMATED, "no answer")
WAITING = b": waiting\n\n"
MOST_ANSWER = 64 * 1024 * 1024
MOST_TOLD = 1000
LONGEST_REASON = 300  # characters, in the log
PREVIEW = 200  # characters of an answer, in the log at debug level only
# After the reason to stop is known, usage may still follow; so long is it waited for, in seconds.
USAGE_GRACE, LAST_GRACE = 2.0, 0.1
# A provider that finds fault with one parameter after the other is asked so many times in all.
MOST_LESSONS = 4
# Of so many answers one teaches how far estimates are from what is billed.
LEARNT_FROM = 1 / 32


class Meter:
    """What an attempt has used, as far as anybody knows."""

    def __init__(self, exchange: Exchange, answer: Answer) -> None:
        self._exchange = exchange
        self._answer = answer
        self._counted: Usage | None = None
        self._estimate: Estimate | None = None  # of what the upstream has read

    def so_far(self) -> Bill:
        """Of a running or broken answer. Only reads the answer: another thread asks too."""
        told, produced = self._answer.usage, tokens.estimate(self._answer.output_characters)
        usage = told or Usage(input=self._estimated_input().tokens)
        return msgspec.structs.replace(usage, output=max(usage.output, produced)), ESTIMATED, "characters"

    def known(self) -> tuple[int, int]:
        told, produced = self._answer.usage, tokens.estimate(self._answer.output_characters)
        if told is None:
            return self._estimate.tokens if self._estimate else 0, produced
        return told.read, max(told.output, produced)

    def counted(self) -> Usage:
        """Of a finished answer whose provider said nothing."""
        if self._counted is None:
            exchange = self._exchange
            if self._is_short(len(exchange.body)):
                read = weighing.count_at_once(exchange.request, exchange.endpoint, exchange.model)
            else:
                read = self._estimated_input().tokens
            self._counted = Usage(input=read, output=self._counted_output())
        return self._counted

    def _counted_output(self) -> int:
        characters = self._answer.output_characters
        if self._is_short(characters):
            return tokens.count_text(self._answer.output_sample)
        return tokens.estimate(characters)

    def _is_short(self, size: int) -> bool:
        return size <= tokens.COUNTED_AT_ONCE and tokens.is_ready()

    def final(self) -> Bill:
        told = self._answer.usage
        if told is None:
            return self.counted(), COUNTED, self._method(len(self._exchange.body))
        if not self._answer.output_is_told:
            method = self._method(self._answer.output_characters)
            return msgspec.structs.replace(told, output=self._counted_output()), COUNTED, method
        self._learn(told)
        return told, UPSTREAM, ""

    def _method(self, size: int) -> str:
        return "tokenizer" if self._is_short(size) else "characters"

    def _learn(self, told: Usage) -> None:
        """Estimates get better by what was billed; an estimate is made for few answers only, it takes 0.1 ms."""
        if self._estimate is not None or (random.random() < LEARNT_FROM and not self._counts_itself):
            weighing.learn(self._estimated_input(), told.read)

    @property
    def _counts_itself(self) -> bool:
        return weighing.counts_itself(self._exchange.endpoint)

    def _estimated_input(self) -> Estimate:
        if self._estimate is None:
            self._estimate = estimated(self._exchange)
        return self._estimate


def estimated(exchange: Exchange) -> Estimate:
    return weighing.estimate(exchange.request, exchange.endpoint, exchange.model)


class Unanswered:
    """The meter of an attempt that has said nothing yet: its provider may have read the request all the same."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._read = 0

    def so_far(self) -> Bill:
        self._read = self._read or estimated(self._exchange).tokens
        return Usage(input=self._read), ESTIMATED, "request read, nothing heard"

    def known(self) -> tuple[int, int]:
        return self._read, 0


class Relay:
    """One client request on its way through its candidates."""

    # Of the call that is under way.
    _candidate: Candidate
    _exchange: Exchange
    _called_at: float
    _deadline: float  # until when the provider may be silent; 0: to be set when we wait for it

    def __init__(self, question: Question, runtime: Runtime, intake_seconds: float = 0.0) -> None:
        self._question = question
        self._runtime = runtime
        self._intake_seconds = intake_seconds  # for the key, the body and the routes, before the row began
        self._pace = runtime.pace
        self._clock = asyncio.get_running_loop().time
        self._failures: list[ProxyError] = []
        self._answer: Answer | None = None
        self._meter: Meter | None = None
        self._committed = False  # the client has its 200
        self._fresh = False  # a kept connection was dead: the next call makes its own
        self._lessons: tuple[Lesson, ...] = ()  # what this provider's refusals have taught
        self._next_sign = self._clock() + self._pace.commit_after  # when the client should hear from us
        self.provider = ""  # whose answer it is
        self.entry: Entry = runtime.ledger.begin(
            question.request_id,
            question.caller.key,
            model=question.request.model,
            streamed=bool(question.request.stream),
            client_request_id=question.headers.get("x-request-id", ""),
            session_id=question.headers.get("x-claude-code-session-id", ""),
        )

    async def stream(self) -> AsyncGenerator[bytes]:
        """The answer as Messages events, one piece for everything one upstream read yields.

        Raises ProxyError only before the first piece; afterwards every ending is in the stream.
        """
        try:
            for candidate in self._candidates():
                try:
                    async with self._begin(candidate) as call:
                        while piece := await self._next_piece(call):
                            self._committed = True
                            self._next_sign = self._clock() + self._pace.ping_after
                            yield piece
                    return
                except (UpstreamError, ClientError) as error:
                    if self._has_begun:
                        raise
                    self._note_failure(error)
            raise self._most_useful_failure()
        except Exception as error:
            last_word = self._break_off(error)
            if not self._committed:
                raise last_word from error
            yield last_word.event(self.entry.request_id)
        finally:
            self._settle_unfinished()
            self._let_go()
            self._say()

    async def whole(self) -> bytes:
        """The answer as one Messages reply. Raises ProxyError."""
        try:
            for candidate in self._candidates():
                try:
                    async with self._begin(candidate) as call:
                        return await self._reply(call)
                except (UpstreamError, ClientError) as error:
                    self._note_failure(error)
            raise self._most_useful_failure()
        except Exception as error:
            raise self._break_off(error) from error
        finally:
            self._settle_unfinished()
            self._let_go()
            self._say()

    def _candidates(self) -> Iterator[Candidate]:
        """The next one to try, as long as the last failure leaves hope that another would do better."""
        too_small = 0  # a context window that the prompt did not fit
        for candidate in self._question.candidates:
            if too_small and (candidate.limits.context_window or 0) <= too_small:
                continue
            self._lessons = LEARNT.of(candidate.endpoint.id, candidate.model)
            self._fresh = False
            yield candidate
            while self._has_learnt(candidate) or self._tries_again():
                yield candidate
            failure = self._failures[-1]
            if isinstance(failure, Refused) and failure.window is not None:
                too_small = failure.window or candidate.limits.context_window or 0
            if isinstance(failure, UpstreamError) and not failure.elsewhere and not too_small:
                return

    def _tries_again(self) -> bool:
        """Once, on a connection of its own."""
        failure = self._failures[-1]
        if self._fresh or not (isinstance(failure, UpstreamError) and failure.again):
            return False
        self._fresh = True
        return True

    def _has_learnt(self, candidate: Candidate) -> bool:
        """Whether the last refusal taught how to ask this provider instead; then it was none."""
        failure = self._failures[-1]
        lesson = failure.lesson if isinstance(failure, Refused) else None
        if lesson is None or lesson in self._lessons or len(self._lessons) >= MOST_LESSONS:
            return False
        before, self._lessons = self._exchange, (*self._lessons, lesson)
        exchange = self._question.towards(candidate, self._runtime.state_secret, self._lessons)
        if self._dialect.encode(exchange).body == self._dialect.encode(before).body:
            return False
        LEARNT.learn(candidate.endpoint.id, candidate.model, lesson)
        self._failures.pop()
        return True

    def _begin(self, candidate: Candidate) -> AbstractAsyncContextManager[Call]:
        """The call to one candidate, with its intent in the ledger."""
        if self._failures:
            self._say_what_follows(candidate)
        self._candidate = candidate
        exchange = self._exchange = self._question.towards(candidate, self._runtime.state_secret, self._lessons)
        outbound, headers = self._dialect.encode(exchange), self._question.headers_for(candidate)
        if logger.isEnabledFor(logging.DEBUG):
            say_what_is_dropped(exchange)
        self.entry.open_attempt(candidate)
        self.entry.meter = Unanswered(exchange)
        self._called_at, self._deadline = self._clock(), 0.0
        return self._runtime.upstreams.call(candidate.endpoint, outbound, headers, fresh=self._fresh)

    async def _next_piece(self, call: Call) -> bytes:
        """What the client gets next; nothing after the last. Raises UpstreamError when the rest will not come."""
        answer = self._answer
        while answer is None or not answer.complete:
            if answer is not None and answer.error is not None:
                raise answer.error
            has_news = await call.wait(self._moment_to_act(call))
            if not has_news and self._clock() < self._deadline:
                return PING if self._has_begun else WAITING
            self._deadline = 0.0
            is_over = not has_news or (call.ended and not call.has_data)
            if is_over:
                self._check_ending(call)
            answer = answer or await self._hear(call)
            piece = answer.finish() if is_over else answer.feed(call.take())
            if piece:
                self._before_sending(answer)
                return piece
        return b""

    def _moment_to_act(self, call: Call) -> float:
        """When the provider has been silent for too long, or the client should hear from us.

        The deadline is set when we begin to wait for the provider: a client that is slow to take what there is does
        not make it late.
        """
        if not self._deadline:
            now, timeouts = self._clock(), self._exchange.endpoint.timeouts
            if self._answer is not None and self._answer.finishing:
                self._deadline = now + (LAST_GRACE if self._answer.usage else USAGE_GRACE)
            else:
                silence = now + timeouts.idle if call.got_bytes else self._called_at + timeouts.first_byte
                self._deadline = min(silence, self._called_at + timeouts.total)
                if now >= self._deadline and not call.ended:
                    raise self._too_late()
        return min(self._deadline, self._next_sign)

    def _check_ending(self, call: Call) -> None:
        """The provider has closed its stream, or been silent too long: raises UpstreamError unless it was finishing."""
        if self._answer is not None and self._answer.finishing:
            return
        if not call.ended:
            raise self._too_late()
        if call.failure is not None:
            raise call.failure

    async def _reply(self, call: Call) -> bytes:
        timeouts = self._timeouts
        body = await call.whole(self._clock() + timeouts.total, MOST_ANSWER)
        if call.failure is not None:
            raise call.failure
        if body is None:
            raise TimedOut(f"the provider gave no answer in {timeouts.total:g} s: try again")
        answer = await self._hear(call, body)
        reply = answer.whole(body)
        if answer.error is not None:
            raise answer.error
        self._before_sending(answer)
        return reply

    async def _hear(self, call: Call, body: bytes | None = None) -> Answer:
        """The machine that reads this answer; raises UpstreamError where the provider refused to give one."""
        if not self._exchange.endpoint.client_token:  # there the account is the client's own
            self._runtime.rests.note(self._candidate, call.headers, call.status, time.time())
        if call.status == 200:
            answer = self._dialect.answer(self._exchange, call.headers.get("content-type", ""))
        else:
            error = await self._refusal(call, body)
            if not is_an_answer(error, self._exchange):
                raise error
            answer = Declined(self._exchange, error)
        self._meter = Meter(self._exchange, answer)
        answer.count = self._meter.counted
        self._answer = answer
        self.entry.meter = self._meter
        self.provider = self._exchange.endpoint.name
        return answer

    async def _refusal(self, call: Call, body: bytes | None) -> UpstreamError:
        if 300 <= call.status < 400:
            return BrokenStream(
                f"the provider answered with a redirect (HTTP {call.status}), and none is followed: "
                "an administrator has to correct its base URL"
            )
        if call.status < 400:
            return BrokenStream(f"the provider answered HTTP {call.status} where an answer was due")
        if body is None:
            body = await call.whole(self._clock() + self._timeouts.idle, MOST_ERROR_BODY) or b""
        return self._dialect.refusal(self._exchange, call.status, call.headers, body)

    @property
    def _dialect(self) -> Dialect:
        return DIALECTS[self._exchange.endpoint.type]

    @property
    def _timeouts(self) -> Timeouts:
        return self._exchange.endpoint.timeouts

    @property
    def is_over(self) -> bool:
        """Whether the piece given last ends the answer."""
        return self._answer is not None and self._answer.complete

    @property
    def _has_begun(self) -> bool:
        return self._answer is not None and self._answer.began

    def _before_sending(self, answer: Answer) -> None:
        """The settlement stands before the ending leaves."""
        row = self.entry.row
        if row.first_byte_ms is None:
            row.first_byte_ms = int((time.time() - row.started_at) * 1000)
        if answer.ended and not self.entry.settled and self._meter is not None:
            self.entry.close_attempt(COMPLETED, self._meter.final(), upstream_id=answer.upstream_id or "")
            odd = [*sorted(answer.notes), *map(str, self._lessons)]
            self.entry.settle(COMPLETED, stop_reason=answer.stop_reason or "", reason="; ".join(odd))

    def _too_late(self) -> TimedOut:
        if self._clock() >= self._called_at + self._timeouts.total:
            return TimedOut(f"the provider took longer than {self._timeouts.total:g} s: ask for a shorter answer")
        return TimedOut("the provider was silent for too long: try again")

    def _note_failure(self, error: ProxyError) -> None:
        """A candidate gave nothing; what it may have billed stands under the request all the same."""
        self._failures.append(error)
        self._blame(error)
        if isinstance(error, UpstreamError) and error.preview:
            logger.debug("request %s got no answer but %r", self.entry.request_id, scrub(error.preview))
        if self.entry.has_open_attempt:
            reached = not isinstance(error, UpstreamError) or error.reached
            self.entry.close_attempt(FAILED, self._failed_bill(error), reason=error.message, reached=reached)
        self._let_go()
        self._answer = self._meter = None

    def _most_useful_failure(self) -> ProxyError:
        """No candidate is left: of all failures the one that helps the client most, with who was tried."""
        error = most_useful(self._failures, self._question.request.model)
        if settings.EXPOSE_PROVIDER and self.entry.attempts:
            tried = [{"provider": attempt.provider, "reason": attempt.reason} for attempt in self.entry.attempts]
            error.details = {**(error.details or {}), "provider": tried[-1]["provider"], "attempts": tried}
        return error

    def _failed_bill(self, error: ProxyError) -> Bill:
        if isinstance(error, UpstreamError) and not error.reached:
            return NEVER_LEFT
        if self._answer is not None and self._answer.usage is not None and self._meter is not None:
            return (self._answer.usage, UPSTREAM, "") if self._answer.output_is_told else self._meter.so_far()
        if isinstance(error, TimedOut | BrokenOff) and self.entry.meter is not None:
            return self.entry.meter.so_far()
        if self._answer is not None or isinstance(error, Unreachable):
            return NO_ANSWER
        return NOTHING_BILLED

    def _break_off(self, error: Exception) -> ProxyError:
        """No candidate is left, or the answer was cut, or the gateway cannot go on: a full ledger, or a bug."""
        if not isinstance(error, ProxyError):
            request_id = self.entry.request_id
            logger.error(
                "request %s failed inside the gateway",
                request_id,
                exc_info=error,
                extra=about(LogEvent.REQUEST_BROKE, request_id=request_id),
            )
            error = ProxyError(f"the gateway failed on this request; its log has the reason under {request_id}")
        status = CUT if self._committed and self._has_begun else FAILED
        if not self.entry.settled:
            self._say_that_it_failed(status, error)
        if self.entry.has_open_attempt:
            bill = self._meter.so_far() if self._meter else NO_ANSWER
            upstream_id = self._answer.upstream_id if self._answer else None
            self.entry.close_attempt(status, bill, reason=error.message, upstream_id=upstream_id or "")
        self.entry.settle(status, reason=error.message)
        return error

    def _blame(self, error: ProxyError) -> None:
        if is_the_providers(error):
            self._runtime.metrics.failed(self._candidate.endpoint.name, error)

    def _settle_unfinished(self) -> None:
        """The client has left, or we end before it has taken all: only appends, this may run while being cancelled."""
        if self.entry.settled:
            return
        status, reason = CANCELLED, "the client left"
        if self._runtime.upstreams.is_broken_off:
            status, reason = CUT, "the gateway ended before the client had taken its answer"
        if self.entry.has_open_attempt:
            bill = self.entry.meter.so_far() if self.entry.meter else NO_ANSWER
            self.entry.close_attempt(status, bill, reason=reason)
        self.entry.settle(status, reason=reason)

    def _let_go(self) -> None:
        """Answer and meter know each other: the request's body would wait for the garbage collector with them."""
        if self._answer is not None:
            self._answer.count = None

    def _say_what_follows(self, candidate: Candidate) -> None:
        failed, follows = self._candidate.endpoint.name, candidate.endpoint.name
        event = LogEvent.ATTEMPT_FAILED if failed == follows else LogEvent.FAILOVER
        if event is LogEvent.FAILOVER:
            self._runtime.metrics.failed_over(failed)
        if logger.isEnabledFor(logging.INFO):
            request_id, reason = self.entry.request_id, self._failures[-1].message[:LONGEST_REASON]
            logger.info(
                "%s %s provider=%s next=%s: %s",
                event,
                request_id,
                failed,
                follows,
                reason,
                extra=about(event, request_id=request_id, provider=failed, next=follows, reason=reason),
            )

    def _say_that_it_failed(self, status: str, error: ProxyError) -> None:
        if self._has_begun:  # who never began was blamed when another was tried
            self._blame(error)
        if not self.entry.attempts:
            return
        reason = error.message[:LONGEST_REASON]
        level = logging.WARNING if is_the_providers(error) else logging.INFO
        row, provider = self.entry.row, self.entry.attempts[-1].provider
        fields = {"request_id": row.request_id, "key": row.key, "model": row.model, "provider": provider}
        logger.log(
            level,
            "request_failed %s provider=%s status=%s: %s",
            row.request_id,
            provider,
            status,
            reason,
            extra=about(LogEvent.REQUEST_FAILED, **fields, status=status, error=error.kind, reason=reason),
        )

    def _count(self) -> None:
        row = self.entry.row
        route = self._runtime.configuration.current.routing.route(row.model)
        language = self._candidate.endpoint.type
        self._runtime.metrics.settled(row, self.entry.attempts, route.pattern if route else "", language)

    def _say(self) -> None:
        """One line per request that was booked, on a logger of its own."""
        if self.entry.settled:
            self._count()
        if self._answer is not None and logger.isEnabledFor(logging.DEBUG):
            logger.debug("request %s: %r", self.entry.request_id, scrub(self._answer.output_sample[:PREVIEW]))
        if not self.entry.settled or not requests_log.isEnabledFor(logging.INFO):
            return
        row, last = self.entry.row, self.entry.attempts[-1]
        requests_log.info(
            "request_completed %s key=%s model=%s provider=%s status=%s attempts=%d messages=%d ms=%d in=%d out=%d",
            row.request_id,
            row.key,
            row.model if row.model.isprintable() else repr(row.model),  # the client chose it: still one line
            last.provider,
            row.status,
            last.number,
            len(self._question.request.messages),
            int((row.finished_at - row.started_at) * 1000),
            last.usage.input,
            last.usage.output,
            extra=about(LogEvent.REQUEST_COMPLETED, **self._figures()),
        )

    def _figures(self) -> dict[str, Any]:
        """Of a settled request, with the time that each of its stages took."""
        row, last, first = self.entry.row, self.entry.attempts[-1], self.entry.attempts[0]
        return {
            "request_id": row.request_id,
            "key": row.key,
            "cost_centre": row.cost_centre,
            "model": row.model,
            "provider": last.provider,
            "upstream_model": last.upstream_model,
            "status": row.status,
            "stop_reason": row.stop_reason,
            "streamed": row.streamed,
            "attempts": last.number,
            "messages": len(self._question.request.messages),
            "duration_ms": milliseconds(row.finished_at - row.started_at),
            "intake_ms": milliseconds(self._intake_seconds),
            "failed_attempts_ms": milliseconds(last.started_at - first.started_at),
            "last_attempt_ms": milliseconds(last.finished_at - last.started_at),
            "first_byte_ms": row.first_byte_ms,
            "input": last.usage.input,
            "cache_read": last.usage.cache_read,
            "cache_write": last.usage.cache_write_5m + last.usage.cache_write_1h,
            "output": last.usage.output,
            "thinking": last.usage.thinking,
        }


def is_the_providers(error: ProxyError) -> bool:
    """Its fault, and neither the request's nor this gateway's."""
    return isinstance(error, UpstreamError) and error.elsewhere


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)


_told_of: set[tuple[int, str]] = set()


def say_what_is_dropped(exchange: Exchange) -> None:
    """Fields that this provider never hears of; once for each, since clients send the same ones every time."""
    endpoint = exchange.endpoint
    for field in fields.dropped(exchange.body, endpoint.type):
        if (endpoint.id, field) not in _told_of and len(_told_of) < MOST_TOLD:
            _told_of.add((endpoint.id, field))
            logger.debug("%s takes no %s: it is left out of requests", endpoint.name, scrub(field[:100]))


def most_useful(failures: list[ProxyError], model: str) -> ProxyError:
    """Of all candidates' failures the one that tells the client most about what to do."""
    best = min(failures, key=lambda error: error.rank)
    if isinstance(best, NotServed):
        best = NotServed(f"model: no provider here serves {model[:200]!r} now", details=best.details)
    if isinstance(best, RateLimited):
        best.retry_after = min(error.retry_after or 5 for error in failures if isinstance(error, RateLimited))
    return best
