"""What a line in a log is about, by name: programs look for these and not for the words of the line."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class LogEvent(StrEnum):
    """The value is what stands in the log; one that is in use is never renamed."""

    REQUEST_COMPLETED = "request_completed"  # once for each request, whatever became of it: its status says
    REQUEST_FAILED = "request_failed"  # no provider answered, or one broke off
    ATTEMPT_FAILED = "attempt_failed"  # and the same provider is asked once more
    FAILOVER = "failover"  # and another provider is asked
    REQUEST_BROKE = "request_broke"  # the gateway itself failed
    KEY_REFUSED = "key_refused"

    CONFIGURATION_IN_FORCE = "configuration_in_force"
    CONFIGURATION_UNREADABLE = "configuration_unreadable"

    LEDGER_WAITING = "ledger_waiting"
    LEDGER_BOOKING_AGAIN = "ledger_booking_again"
    ROW_SET_ASIDE = "row_set_aside"
    ROWS_ADOPTED = "rows_adopted"
    JOURNAL_DAMAGED = "journal_damaged"
    SPOOL_FULL = "spool_full"
    SPOOL_WRITABLE = "spool_writable"
    SETTLEMENT_WAITING = "settlement_waiting"
    SETTLEMENT_WRITTEN = "settlement_written"

    PROVIDER_ILL = "provider_ill"
    PROVIDER_WELL = "provider_well"
    ADDRESS_REFUSED = "address_refused"

    LOGIN_FAILED = "login_failed"

    ENDING = "ending"
    REQUESTS_BROKEN_OFF = "requests_broken_off"
    CONNECTIONS_REFUSED = "connections_refused"
    CHILD_RESTARTED = "child_restarted"
    CHILD_KILLED = "child_killed"
    RESTART_BEGUN = "restart_begun"
    RESTART_DONE = "restart_done"
    RESTART_GIVEN_UP = "restart_given_up"


def about(event: LogEvent, /, **fields: Any) -> dict[str, Any]:
    """For a logger's `extra`: the fields stand in the JSON form of a line beside its words. None of them is secret."""
    return {"event": event, "fields": fields}
