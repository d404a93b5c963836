"""What a developer can do about a request that brought no whole answer, by what its row in the ledger says."""

from __future__ import annotations

from accounting.models import Status

# Parts of the sentences of providers/errors.py, providers/dialects/refusals.py and gateway/relay.py; the first counts.
BY_REASON = (
    ("exceed context limit", "Lower max_tokens, or shorten the history with /compact."),
    ("prompt is too long", "Shorten the history with /compact, or start a new session."),
    ("could not process image", "Leave the picture out, or send it smaller, as PNG or JPEG; /clear drops it."),
    ("does not support pdf", "Send the text of the document instead, or choose another model."),
    ("wants your own token", "Send your own token in `authorization`, and the gateway's key in `x-api-key`."),
    (
        "account of the provider is used up",
        "Tell the administrator: the provider's account needs money.",
    ),
    (
        "credential for this provider was refused",
        "Tell the administrator: the credential has to be renewed.",
    ),
    ("base url", "Tell the administrator: the provider's address has to be corrected."),
    (
        "is not available here",
        "Choose another model, and tell the administrator: the route leads nowhere.",
    ),
    (
        "no provider here serves",
        "Choose another model, and tell the administrator: the route leads nowhere.",
    ),
    ("limiting its rate", "Wait a minute, and run fewer sessions at once."),
    ("overloaded", "Try again in a moment."),
    ("ask for a shorter answer", "Ask for less at once: the answer took longer than it may."),
    ("took too long", "Try again; a smaller task answers sooner."),
    ("silent for too long", "Try again; a smaller task answers sooner."),
    ("gave no answer in", "Try again; a smaller task answers sooner."),
    ("cannot be reached", "Try again; tell the administrator when it lasts."),
    ("gateway is ending", "The gateway was restarted: try again."),
    ("gateway ended", "The gateway was restarted: try again."),
    ("gateway failed", "Tell the administrator the request id: the gateway's log has the reason."),
    ("empty answer", "Try again; when it stays empty, choose another model."),
)
BY_STATUS = {
    Status.CUT: "Try again: Claude Code does so by itself.",
    Status.INTERRUPTED: "The gateway was restarted: try again.",
    Status.FAILED: "Do as the reason says, or try again; when it stays, tell the administrator the request id.",
}


def what_to_do(status: str, reason: str) -> str:
    said = reason.lower()
    return next((advice for part, advice in BY_REASON if part in said), BY_STATUS[Status(status)])
