"""What is no request, or could be read as two: refused in words where HTTP has words, and never passed on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

from ccproxy_site.tests.e2e.siege import Effort, Figure
from ccproxy_site.tests.e2e.siege.site import Site, a_question, told
from ccproxy_site.tests.e2e.siege.visitors import Gate, Gone, Reply

# To something that speaks another language a closed connection is word enough.
OTHER_LANGUAGES = {"a TLS hello", "the preface of HTTP/2"}
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(32)) + b"\x00\x20" + b"\x13\x01" * 16 + bytes(120)
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


HOST = b"host: localhost"
CHUNKS = b"transfer-encoding: chunked"

Cases = Iterator[tuple[str, bytes]]


class Form:
    """A good question, to be spoilt in one thing."""

    def __init__(self, site: Site) -> None:
        self.body = a_question()
        self.key = b"x-api-key: " + site.key.encode()
        self.length = b"content-length: %d" % len(self.body)
        self.good = [HOST, self.key, self.length]
        self.whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(self.body), self.body)  # in chunks

    def posted(self, *lines: bytes, first: bytes = b"POST /v1/messages HTTP/1.1", rest: bytes | None = None) -> bytes:
        return b"\r\n".join([first, *lines, b"", b""]) + (self.body if rest is None else rest)

    def chunked(self, *lines: bytes, rest: bytes) -> bytes:
        return self.posted(HOST, self.key, *lines, rest=rest)


def heads(site: Site) -> Cases:
    form = Form(site)
    yield from lengths(form)
    yield from headers(form)
    yield from too_much(form, site)
    yield from first_lines(form)
    yield "the preface of HTTP/2", HTTP2_PREFACE
    yield "a TLS hello", TLS_HELLO
    yield "noise", bytes(range(256)) * 20


def lengths(form: Form) -> Cases:
    """Where a request ends must be said once, and clearly."""
    yield "both lengths", form.chunked(form.length, CHUNKS, rest=form.whole)
    yield "both lengths, the other way round", form.chunked(CHUNKS, form.length, rest=form.whole)
    yield (
        "a length and transfer-encoding identity",
        form.posted(*form.good, b"transfer-encoding: identity"),
    )
    yield "transfer-encoding identity alone", form.posted(HOST, form.key, b"transfer-encoding: identity")
    yield "an unknown transfer-encoding", form.chunked(b"transfer-encoding: xchunked", rest=form.whole)
    yield "gzip, chunked", form.chunked(b"transfer-encoding: gzip, chunked", rest=form.whole)
    yield "chunked twice", form.chunked(b"transfer-encoding: chunked, chunked", rest=form.whole)
    yield "chunked on two lines", form.chunked(CHUNKS, CHUNKS, rest=form.whole)
    yield "chunked hidden by a tab", form.chunked(form.length, b"transfer-encoding:\x0bchunked", rest=form.whole)
    yield (
        "chunked in HTTP/1.0",
        form.posted(HOST, form.key, CHUNKS, first=b"POST /v1/messages HTTP/1.0", rest=form.whole),
    )
    yield "two hosts", form.posted(*form.good, b"host: other")
    yield "the same host twice", form.posted(*form.good, HOST)
    yield "no host", form.posted(form.key, form.length)
    yield "two lengths", form.posted(*form.good, b"content-length: 3")
    yield "the same length twice", form.posted(*form.good, form.length)
    yield (
        "two lengths in one line",
        form.posted(HOST, form.key, b"content-length: %d, %d" % (len(form.body), len(form.body))),
    )
    for wrong in (
        b"-1",
        b"+%d" % len(form.body),
        b"0x%x" % len(form.body),
        b"%d.0" % len(form.body),
        b"1e2",
        b"",
        b"9" * 400,
    ):
        yield f"a length of {wrong[:10].decode()!r}", form.posted(HOST, form.key, b"content-length: " + wrong)
    yield "a length in Arabic digits", form.posted(HOST, form.key, "content-length: ١٢٣".encode())
    yield "a length of 5,000 digits", form.posted(HOST, form.key, b"content-length: " + b"9" * 5000)
    for wrong in (b"zz", b"-5", b"+5", b"0x5", b"", b"5 5", b"5_5", b"f" * 40):
        yield f"a chunk of size {wrong[:10].decode()!r}", form.chunked(CHUNKS, rest=wrong + b"\r\n" + form.whole)
    yield "a chunk longer than it says", form.chunked(CHUNKS, rest=b"5\r\n" + form.whole)
    yield "a chunk extension without end", form.chunked(CHUNKS, rest=b"5;" + b"e" * 100_000)


def headers(form: Form) -> Cases:
    yield "a NUL in a header", form.posted(*form.good, b"x-a: b\0c")
    yield "a lone CR in a header", form.posted(*form.good, b"x-a: b\rx-c: d")
    yield "a lone LF in a header", form.posted(*form.good, b"x-a: b\nx-c: d")
    yield "a header without a colon", form.posted(*form.good, b"x-nothing")
    yield "a header without a name", form.posted(*form.good, b": nothing")
    yield "a blank before the colon", form.posted(HOST, form.key, b"content-length : %d" % len(form.body))
    yield "a blank in a header's name", form.posted(*form.good, b"x nothing: a")
    yield "a folded header", form.posted(*form.good, b"x-a: b\r\n c")
    yield "a first header that is folded", form.posted(b" host: localhost", form.key, form.length)
    yield "only line feeds", form.posted(*form.good).replace(b"\r\n", b"\n")
    yield "only carriage returns", form.posted(*form.good).replace(b"\r\n", b"\r")


def too_much(form: Form, site: Site) -> Cases:
    most = site.limit("MAX_HEADER_BYTES")
    yield "431: a header too long", form.posted(*form.good, b"x-long: " + b"x" * most)
    yield (
        "431: headers too long together",
        form.posted(*form.good, *(b"x-%d: " % n + b"x" * 1000 for n in range(1 + most // 1000))),
    )
    yield (
        "431: too many headers",
        form.posted(*form.good, *(b"x-%d: y" % n for n in range(site.limit("MAX_HEADERS")))),
    )
    yield (
        "431: a path too long",
        form.posted(*form.good, first=b"POST /v1/messages?" + b"x" * most + b" HTTP/1.1"),
    )
    yield "a header without end", b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nx-long: " + b"x" * 2 * most


def first_lines(form: Form) -> Cases:
    yield "no version", form.posted(*form.good, first=b"POST /v1/messages")
    yield "HTTP/0.9", b"GET /v1/models\r\n"
    yield "a version that is none", form.posted(*form.good, first=b"POST /v1/messages HTTP/1.one")
    yield "HTTP/3.7", form.posted(*form.good, first=b"POST /v1/messages HTTP/3.7")
    yield "two blanks in the first line", form.posted(*form.good, first=b"POST  /v1/messages HTTP/1.1")
    yield (
        "four words in the first line",
        form.posted(*form.good, first=b"POST /v1/messages twice HTTP/1.1"),
    )
    yield "a method of no letters", form.posted(*form.good, first=b"PO(ST /v1/messages HTTP/1.1")
    yield "a NUL in the path", form.posted(*form.good, first=b"POST /v1/messages\0 HTTP/1.1")
    yield "a path that climbs", form.posted(*form.good, first=b"POST /v1/%2e%2e/v1/messages HTTP/1.1")
    yield (
        "a path that climbs to the admin",
        form.posted(*form.good, first=b"POST /v1/%2e%2e/admin/ HTTP/1.1"),
    )
    yield "a slash in disguise", form.posted(*form.good, first=b"POST /v1%2fmessages%2f.. HTTP/1.1")
    yield "another machine's address", form.posted(HOST, first=b"GET http://127.0.0.1:1/v1/models HTTP/1.1")
    yield "two slashes and no key", form.posted(HOST, first=b"GET //v1/models HTTP/1.1")
    yield "CONNECT", form.posted(HOST, first=b"CONNECT 127.0.0.1:22 HTTP/1.1", rest=b"")
    yield "TRACE", form.posted(*form.good, first=b"TRACE /v1/messages HTTP/1.1")


# Good HTTP, whose answer is a refusal all the same: the connection may stay, and what follows is another request.
MAY_STAY = re.compile("climbs|disguise|another machine|two slashes|TRACE|CONNECT")


def malformed(site: Site, effort: Effort) -> list[Figure]:
    return asyncio.run(_malformed(site, effort))


async def _malformed(site: Site, effort: Effort) -> list[Figure]:
    before = len(site.upstream.bill())
    cases = list(heads(site))
    with Gate(site.port) as gate:
        patience = (site.limit("HEADER_SECONDS") + 4) * effort.slack
        outcomes = await asyncio.gather(*(outcome(site, gate, name, data, patience) for name, data in cases))
    refused_wrongly = [f"{name}: {heard}" for (name, _), (heard, _) in zip(cases, outcomes, strict=True) if heard]
    left_open = [name for (name, _), (_, is_open) in zip(cases, outcomes, strict=True) if is_open]
    reached = len(site.upstream.bill()) - before
    return [
        Figure(
            f"of {len(cases)} no requests, not refused as they should{told(refused_wrongly)}", len(refused_wrongly), 0
        ),
        Figure(f"connections left open after that{told(left_open)}", len(left_open), 0),
        Figure("calls that reached an upstream", reached, 0),
    ]


async def outcome(site: Site, gate: Gate, name: str, data: bytes, patience: float) -> tuple[str, bool]:
    """What is wrong with the answer, if anything, and whether the connection is still open.

    A good question follows at once, as it would on a line that somebody smuggles on: it must not be answered.
    """
    visitor = await gate.enter()
    may_stay = MAY_STAY.search(name) is not None
    try:
        await visitor.say(data if may_stay else data + site.post(a_question()))
        reply = await visitor.reply(seconds=patience)
    except (Gone, OSError):
        return ("" if name in OTHER_LANGUAGES else "closed without a word"), False
    except TimeoutError:
        return "no answer", True
    except (ValueError, IndexError) as error:
        return f"an answer nobody can read ({error})", False
    wrong = complaint(name, reply)
    is_open = not may_stay and await visitor.until_closed(patience) is None
    return (wrong or "a second answer" if not may_stay and visitor.unread else wrong), is_open


def complaint(name: str, reply: Reply) -> str:
    if name.startswith("431") and reply.status != 431:
        return f"status {reply.status}"
    if not 400 <= reply.status < 500:
        return f"status {reply.status}"
    return "" if reply.envelope or name in OTHER_LANGUAGES else f"{reply.status} without the envelope"
