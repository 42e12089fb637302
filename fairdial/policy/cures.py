"""What an operator can do about a call that was refused, or that nobody decided about: for each such reason a sentence.

Words alone; what the reason means stands in `outcomes.py`. Commands are those of docs/ and README.md.
"""

from collections.abc import Mapping
from typing import Final

from fairdial.policy.outcomes import Reason

CURES: Final[Mapping[Reason, str]] = {
    Reason.NUMBER_INVALID: "Look at how it is read with `fairdial classify`; if the line dials in another way, set its"
    " habit; if the number is real, add its prefix to your table of numbers.",
    Reason.LINE_UNKNOWN: "Add the line with `fairdial line add`, or have the dialplan send the right FAIRDIAL_LINE.",
    Reason.LINE_SUSPENDED: "Set the line's standing to active once the reason for it is gone.",
    Reason.ACCOUNT_SUSPENDED: "See `fairdial case list` for why; `fairdial account restore` lifts it.",
    Reason.ACCOUNT_TERMINATED: "It has ended; `fairdial account restore` takes that back, if it was a mistake.",
    Reason.SERVICE_RESTRICTED: "See `fairdial case list` for why; close that case with `--undo`, or give the service"
    " back with `fairdial account lift`.",
    Reason.KIND_NOT_COVERED: "Put the account on a policy that has such calls.",
    Reason.CLASS_NOT_COVERED: "Put the account on a policy that covers such numbers; if the class is wrong, mend your"
    " table of numbers.",
    Reason.COUNTRY_NOT_COVERED: "Subscribe the account with that country, or add credit where its policy takes that.",
    Reason.ALLOWANCE_USED_UP: "Wait for the next period, approve a request for a higher limit, or add credit where the"
    " policy takes that.",
    Reason.ALLOWANCE_RESERVED: "Try again once one of the calls in progress has ended; `fairdial calls` shows them.",
    Reason.SUBSCRIPTION_OVER: "Renew it with `fairdial subscribe`.",
    Reason.CREDIT_TOO_LOW: "Add credit with `fairdial credit add`.",
    Reason.NO_RATE: "Load a rate card that has the number's prefix with `fairdial rates load`.",
    Reason.TOO_MANY_CALLS: "Try again once one has ended, or approve a request for more calls at once.",
    Reason.TOO_MANY_INBOUND: "Try again once one has ended, or approve a request for more inbound calls at once.",
    Reason.TOO_MANY_ATTEMPTS: "Find out what dials so fast; if it is wanted, approve a request for more dials a"
    " second.",
    Reason.TOO_MANY_NUMBERS: "Find out who calls so many; if it is wanted, approve a request for more numbers a day.",
    Reason.DIALS_TOO_FAST: "Find out what dials so fast; `desk.attempts_per_s` is how much is looked at.",
    Reason.SOURCE_BLOCKED: "Let the address in again with `fairdial block remove`, once its passwords are changed.",
    Reason.CONFERENCE_FULL: "Try again once somebody has left, or approve a request for more participants.",
    Reason.CALLER_NOT_OWN: "Have the phone show a number of the account, or add the number with `fairdial number add`.",
    Reason.CALLER_NOT_VERIFIED: "Ask the carrier to sign its calls, or use a policy that only flags such calls.",
    Reason.NOT_ENCRYPTED: "Set the phone to TLS and SRTP, or use a policy that only flags such calls.",
    Reason.MESSAGE_UNREADABLE: "Have the sender write something, or less than 1,023 bytes.",
    Reason.MESSAGE_REPEATED: "Nothing is to be done: it was sent, or refused, before.",
    Reason.POLICY_MISSING: "Put the policy's file into the folder of policies and run `fairdial reload`, or"
    " publish it.",
    Reason.STORE_UNAVAILABLE: "`fairdial ready` says what is wrong with the ledger, and how to mend it.",
    Reason.TOO_LATE: "See that the disk and the machine are not overloaded; `desk.answer_within_s` is the limit.",
    Reason.REQUEST_MALFORMED: "Compare the dialplan with the one that comes with FairDial; `fairdial doctor` looks"
    " at it.",
    Reason.CALL_NOT_FOLLOWED: "`fairdial doctor` says why ARI is not connected.",
    Reason.STOPPING: "Nothing is to be done: FairDial was being stopped.",
    Reason.INTERNAL_ERROR: "Look at the log of that moment, and report what it says.",
}
"""By the reason; what is not here was allowed."""
