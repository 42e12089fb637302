"""The closed list of reasons: why a dial is allowed, refused or left to the failure rule.

A reason is a stable slug that operators search for. What a caller's side sees of it (the Q.850 cause
that Asterisk turns into a SIP answer, the prompt, the words) is looked up here and nowhere else.
"""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Slug of an outcome; stored in every decision record."""

    # Allowed.
    EMERGENCY = "emergency"
    WITHIN_ALLOWANCE = "within_allowance"
    COVERED = "covered"
    WITHIN_RAISED_LIMIT = "within_raised_limit"
    NOT_COUNTED = "not_counted"
    PAST_ALLOWANCE = "past_allowance"
    BY_CREDIT = "by_credit"
    # Refused.
    NUMBER_INVALID = "number_invalid"
    LINE_UNKNOWN = "line_unknown"
    LINE_SUSPENDED = "line_suspended"
    ACCOUNT_SUSPENDED = "account_suspended"
    ACCOUNT_TERMINATED = "account_terminated"
    SERVICE_RESTRICTED = "service_restricted"
    KIND_NOT_COVERED = "kind_not_covered"
    CLASS_NOT_COVERED = "class_not_covered"
    COUNTRY_NOT_COVERED = "country_not_covered"
    ALLOWANCE_USED_UP = "allowance_used_up"
    ALLOWANCE_RESERVED = "allowance_reserved"
    SUBSCRIPTION_OVER = "subscription_over"
    CREDIT_TOO_LOW = "credit_too_low"
    NO_RATE = "no_rate"
    TOO_MANY_CALLS = "too_many_calls"
    TOO_MANY_INBOUND = "too_many_inbound"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    TOO_MANY_NUMBERS = "too_many_numbers"
    DIALS_TOO_FAST = "dials_too_fast"
    SOURCE_BLOCKED = "source_blocked"
    CONFERENCE_FULL = "conference_full"
    CALLER_NOT_OWN = "caller_not_own"
    CALLER_NOT_VERIFIED = "caller_not_verified"
    NOT_ENCRYPTED = "not_encrypted"
    MESSAGE_UNREADABLE = "message_unreadable"
    MESSAGE_REPEATED = "message_repeated"
    # No decision could be made: the dialplan's failure rule for that kind of call applies.
    POLICY_MISSING = "policy_missing"
    STORE_UNAVAILABLE = "store_unavailable"
    TOO_LATE = "too_late"
    REQUEST_MALFORMED = "request_malformed"
    CALL_NOT_FOLLOWED = "call_not_followed"
    STOPPING = "stopping"
    INTERNAL_ERROR = "internal_error"


UNDECIDED = frozenset(
    {
        Reason.POLICY_MISSING,
        Reason.STORE_UNAVAILABLE,
        Reason.INTERNAL_ERROR,
        Reason.TOO_LATE,
        Reason.REQUEST_MALFORMED,
        Reason.CALL_NOT_FOLLOWED,
        Reason.STOPPING,
    }
)
"""Reasons for which nothing was decided: they are neither allowed nor refused, here or in a record."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one reason is told to the switch and to people.

    cause: Q.850 cause for `Hangup()`; 0 where the call goes on. Asterisk's PJSIP channel turns it into
        the SIP status in `sip_status` (measured by a test on the switch; cause 21 → 403, 28 → 484, 34 → 503).
    prompt: one of Asterisk's stock sounds that says roughly this, or "" for none.
    text: one sentence for an operator.
    """

    cause: int
    sip_status: int
    prompt: str
    text: str


_CALL_REJECTED = (21, 403)
_INVALID_FORMAT = (28, 484)
_NO_CIRCUIT = (34, 503)
_USER_BUSY = (17, 486)

OUTCOMES: dict[Reason, Outcome] = {
    Reason.EMERGENCY: Outcome(0, 200, "", "Emergency calls always go through."),
    Reason.WITHIN_ALLOWANCE: Outcome(0, 200, "", "Covered by the plan, within the allowance."),
    Reason.COVERED: Outcome(0, 200, "", "Covered by the plan, which does not limit these minutes."),
    Reason.WITHIN_RAISED_LIMIT: Outcome(
        0, 200, "", "Covered by the plan, within a limit that was raised for the account."
    ),
    Reason.NOT_COUNTED: Outcome(0, 200, "", "This kind of call is not counted."),
    Reason.PAST_ALLOWANCE: Outcome(0, 200, "", "The allowance is used up; the call is charged."),
    Reason.BY_CREDIT: Outcome(0, 200, "", "Outside the plan; paid from prepaid credit."),
    Reason.NUMBER_INVALID: Outcome(*_INVALID_FORMAT, "invalid", "The dialled string is not a valid number."),
    Reason.LINE_UNKNOWN: Outcome(*_CALL_REJECTED, "ss-noservice", "No account holds this line."),
    Reason.LINE_SUSPENDED: Outcome(*_CALL_REJECTED, "ss-noservice", "The line is suspended."),
    Reason.ACCOUNT_SUSPENDED: Outcome(*_CALL_REJECTED, "ss-noservice", "The account is suspended."),
    Reason.ACCOUNT_TERMINATED: Outcome(*_CALL_REJECTED, "ss-noservice", "The account is terminated."),
    Reason.SERVICE_RESTRICTED: Outcome(
        *_CALL_REJECTED, "ss-noservice", "This service was taken from the account for now."
    ),
    Reason.KIND_NOT_COVERED: Outcome(*_CALL_REJECTED, "ss-noservice", "The plan has no calls of this kind."),
    Reason.CLASS_NOT_COVERED: Outcome(
        *_CALL_REJECTED, "ss-noservice", "The plan does not cover this class of number."
    ),
    Reason.COUNTRY_NOT_COVERED: Outcome(
        *_CALL_REJECTED, "ss-noservice", "The plan does not cover calls to this country."
    ),
    Reason.ALLOWANCE_USED_UP: Outcome(
        *_CALL_REJECTED, "ss-noservice", "The allowance of this period is used up."
    ),
    Reason.ALLOWANCE_RESERVED: Outcome(
        *_CALL_REJECTED, "ss-noservice", "Calls in progress hold what is left of the allowance."
    ),
    Reason.SUBSCRIPTION_OVER: Outcome(*_CALL_REJECTED, "ss-noservice", "The period that was bought is over."),
    Reason.CREDIT_TOO_LOW: Outcome(
        *_CALL_REJECTED, "ss-noservice", "The credit does not pay for the first seconds of the call."
    ),
    Reason.NO_RATE: Outcome(*_CALL_REJECTED, "ss-noservice", "The rate card has no price for this number."),
    Reason.TOO_MANY_CALLS: Outcome(
        *_CALL_REJECTED, "ss-noservice", "The account has as many calls at once as its plan allows."
    ),
    Reason.TOO_MANY_ATTEMPTS: Outcome(
        *_CALL_REJECTED, "ss-noservice", "The line dials more often in a second than its plan allows."
    ),
    Reason.TOO_MANY_NUMBERS: Outcome(
        *_CALL_REJECTED,
        "ss-noservice",
        "The account has called as many numbers in a day as its plan allows, and this one never before.",
    ),
    Reason.DIALS_TOO_FAST: Outcome(
        *_CALL_REJECTED,
        "ss-noservice",
        "The line, or where it calls from, dials faster than this FairDial takes questions.",
    ),
    Reason.CALLER_NOT_VERIFIED: Outcome(
        *_CALL_REJECTED, "ss-noservice", "The network does not vouch for the number of who calls."
    ),
    Reason.SOURCE_BLOCKED: Outcome(
        *_CALL_REJECTED, "ss-noservice", "Passwords were guessed from where this call comes from."
    ),
    Reason.TOO_MANY_INBOUND: Outcome(
        *_USER_BUSY, "ss-noservice", "The line has as many inbound calls at once as its plan allows."
    ),
    Reason.CONFERENCE_FULL: Outcome(
        *_USER_BUSY, "conf-full", "The conference has as many participants as the plan allows."
    ),
    Reason.CALLER_NOT_OWN: Outcome(
        *_CALL_REJECTED, "ss-noservice", "The number that the call shows does not belong to the account."
    ),
    Reason.NOT_ENCRYPTED: Outcome(
        *_CALL_REJECTED, "ss-noservice", "The plan asks for TLS and SRTP, and the call has them not."
    ),
    Reason.MESSAGE_UNREADABLE: Outcome(
        *_CALL_REJECTED,
        "ss-noservice",
        "The switch has no text of the message: it is empty, or longer than 1,023 bytes.",
    ),
    Reason.MESSAGE_REPEATED: Outcome(
        *_CALL_REJECTED, "ss-noservice", "The same message was decided before; it is not sent twice."
    ),
    Reason.POLICY_MISSING: Outcome(*_NO_CIRCUIT, "", "The account's policy is not loaded."),
    Reason.STORE_UNAVAILABLE: Outcome(*_NO_CIRCUIT, "", "The ledger cannot be written."),
    Reason.TOO_LATE: Outcome(*_NO_CIRCUIT, "", "No decision was made in time."),
    Reason.REQUEST_MALFORMED: Outcome(
        *_NO_CIRCUIT, "", "The dialplan asked in a form that is not understood."
    ),
    Reason.CALL_NOT_FOLLOWED: Outcome(*_NO_CIRCUIT, "", "Without ARI nobody would hear of the call's end."),
    Reason.INTERNAL_ERROR: Outcome(*_NO_CIRCUIT, "", "FairDial made a mistake; its log has the details."),
    Reason.STOPPING: Outcome(*_NO_CIRCUIT, "", "FairDial is stopping and grants no further calls."),
}
