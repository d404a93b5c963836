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


def heads(site: Site) -> Iterator[tuple[str, bytes]]:
    """Each is a good question but for one thing."""
    body = a_question()
    length, key = b"content-length: %d" % len(body), b"x-api-key: " + site.key.encode()
    good = [b"host: localhost", key, length]

    def posted(*lines: bytes, first: bytes = b"POST /v1/messages HTTP/1.1", rest: bytes = body) -> bytes:
        return b"\r\n".join([first, *lines, b"", b""]) + rest

    def chunked(*lines: bytes, rest: bytes) -> bytes:
        return posted(b"host: localhost", key, *lines, rest=rest)

    whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    chunks = b"transfer-encoding: chunked"
    yield "both lengths", chunked(length, chunks, rest=whole)
    yield "both lengths, the other way round", chunked(chunks, length, rest=whole)
    yield "a length and transfer-encoding identity", posted(*good, b"transfer-encoding: identity")
    yield "transfer-encoding identity alone", posted(b"host: localhost", key, b"transfer-encoding: identity")
    yield "an unknown transfer-encoding", chunked(b"transfer-encoding: xchunked", rest=whole)
    yield "gzip, chunked", chunked(b"transfer-encoding: gzip, chunked", rest=whole)
    yield "chunked twice", chunked(b"transfer-encoding: chunked, chunked", rest=whole)
    yield "chunked on two lines", chunked(chunks, chunks, rest=whole)
    yield "chunked hidden by a tab", chunked(length, b"transfer-encoding:\x0bchunked", rest=whole)
    yield "chunked in HTTP/1.0", posted(*good[:2], chunks, first=b"POST /v1/messages HTTP/1.0", rest=whole)
    yield "two hosts", posted(*good, b"host: other")
    yield "the same host twice", posted(*good, b"host: localhost")
    yield "no host", posted(*good[1:])
    yield "two lengths", posted(*good, b"content-length: 3")
    yield "the same length twice", posted(*good, length)
    yield "two lengths in one line", posted(*good[:2], b"content-length: %d, %d" % (len(body), len(body)))
    for wrong in (b"-1", b"+%d" % len(body), b"0x%x" % len(body), b"%d.0" % len(body), b"1e2", b"", b"9" * 400):
        yield f"a length of {wrong[:10].decode()!r}", posted(*good[:2], b"content-length: " + wrong)
    yield "a length in Arabic digits", posted(*good[:2], "content-length: ١٢٣".encode())
    yield "a NUL in a header", posted(*good, b"x-a: b\0c")
    yield "a lone CR in a header", posted(*good, b"x-a: b\rx-c: d")
    yield "a lone LF in a header", posted(*good, b"x-a: b\nx-c: d")
    yield "a header without a colon", posted(*good, b"x-nothing")
    yield "a header without a name", posted(*good, b": nothing")
    yield "a blank before the colon", posted(b"host: localhost", key, b"content-length : %d" % len(body))
    yield "a blank in a header's name", posted(*good, b"x nothing: a")
    yield "a folded header", posted(*good, b"x-a: b\r\n c")
    yield "a first header that is folded", posted(b" host: localhost", key, length)
    yield "only line feeds", posted(*good).replace(b"\r\n", b"\n")
    yield "only carriage returns", posted(*good).replace(b"\r\n", b"\r")
    for wrong in (b"zz", b"-5", b"+5", b"0x5", b"", b"5 5", b"5_5", b"f" * 40):
        yield f"a chunk of size {wrong[:10].decode()!r}", chunked(chunks, rest=wrong + b"\r\n" + whole)
    yield "a chunk longer than it says", chunked(chunks, rest=b"5\r\n" + whole)
    yield "a chunk extension without end", chunked(chunks, rest=b"5;" + b"e" * 100_000)
    most = site.limit("MAX_HEADER_BYTES")
    yield "431: a header too long", posted(*good, b"x-long: " + b"x" * most)
    yield (
        "431: headers too long together",
        posted(*good, *(b"x-%d: " % n + b"x" * 1000 for n in range(1 + most // 1000))),
    )
    yield "431: too many headers", posted(*good, *(b"x-%d: y" % n for n in range(site.limit("MAX_HEADERS"))))
    yield "431: a path too long", posted(*good, first=b"POST /v1/messages?" + b"x" * most + b" HTTP/1.1")
    yield "a header without end", b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nx-long: " + b"x" * 2 * most
    yield "no version", posted(*good, first=b"POST /v1/messages")
    yield "HTTP/0.9", b"GET /v1/models\r\n"
    yield "a version that is none", posted(*good, first=b"POST /v1/messages HTTP/1.one")
    yield "HTTP/3.7", posted(*good, first=b"POST /v1/messages HTTP/3.7")
    yield "two blanks in the first line", posted(*good, first=b"POST  /v1/messages HTTP/1.1")
    yield "four words in the first line", posted(*good, first=b"POST /v1/messages twice HTTP/1.1")
    yield "a method of no letters", posted(*good, first=b"PO(ST /v1/messages HTTP/1.1")
    yield "a NUL in the path", posted(*good, first=b"POST /v1/messages\0 HTTP/1.1")
    yield "a path that climbs", posted(*good, first=b"POST /v1/%2e%2e/v1/messages HTTP/1.1")
    yield "a path that climbs to the admin", posted(*good, first=b"POST /v1/%2e%2e/admin/ HTTP/1.1")
    yield "a slash in disguise", posted(*good, first=b"POST /v1%2fmessages%2f.. HTTP/1.1")
    yield "another machine's address", posted(b"host: localhost", first=b"GET http://127.0.0.1:1/v1/models HTTP/1.1")
    yield "two slashes and no key", posted(b"host: localhost", first=b"GET //v1/models HTTP/1.1")
    yield "a length of 5,000 digits", posted(b"host: localhost", key, b"content-length: " + b"9" * 5000)
    yield "CONNECT", posted(b"host: localhost", first=b"CONNECT 127.0.0.1:22 HTTP/1.1", rest=b"")
    yield "TRACE", posted(*good, first=b"TRACE /v1/messages HTTP/1.1")
    yield "the preface of HTTP/2", HTTP2_PREFACE
    yield "a TLS hello", TLS_HELLO
    yield "noise", bytes(range(256)) * 20


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
