"""The operations about messages: a gateway asks before it sends, and operators look at what was sent.

Leaves what is decided to the desk, and how it is asked over HTTP to `api_messages.py`.
"""

import hashlib
from typing import Any

from fairdial.answer import RING_S
from fairdial.console.once import OtherRequest
from fairdial.console.shapes import Json
from fairdial.desk import Asked, Desk, Failed, decision_json
from fairdial.ledger.contract import DecisionRecord, LedgerSlow, LedgerUnavailable
from fairdial.policy.account import Kind, Medium, Message
from fairdial.policy.outcomes import OUTCOMES, Reason

LISTED_MAX = 10_000


class Messages:
    """Messages that others send."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ask(
        self, line: str, to: str, medium: str, key: str, by: str, text: str = "", sender: str = ""
    ) -> Json:
        """Whether a message may be sent. Allowed, it is counted, once for each key of who asks.

        Raises OtherRequest where the key was used for another message, LedgerUnavailable, ValueError (medium).
        """
        asked = Asked(
            _call_id(by, key),
            Kind.MESSAGE,
            to,
            line,
            "api",
            RING_S,
            sender,
            message=Message(Medium(medium), self._desk.fingerprint(text)),
        )
        sending = await self._desk.message(asked)
        if isinstance(sending.outcome, Failed):
            raise _failure(sending.outcome.reason)
        told = decision_json(asked.call_id, sending.outcome)
        charge, number = told["charge"], sending.outcome.number
        decision = sending.outcome.decision
        return {
            "decision": told["decision"],
            "reason": told["reason"],
            "text": OUTCOMES[decision.reason].text,
            "clause": told["clause"],
            # A message is charged as a call of no length.
            "charge": {
                "mode": charge["mode"],
                "currency": charge["currency"],
                "amount": charge["connect_fee"],
            },
            "number": number.e164 or number.dialled,
            "sender": getattr(decision, "caller", None),
            "repeated": sending.outcome.repeated,
            "id": asked.call_id,
        }

    async def latest(
        self, account: str | None = None, limit: int = 100, after: str | None = None
    ) -> list[Json]:
        """The latest messages, newest first. Raises NotFound (account)."""
        found = await self._desk.ledger.messages(account, max(1, min(limit, LISTED_MAX)), after)
        return [_row(each) for each in found]


def _call_id(by: str, key: str) -> str:
    """The ledger's key: of who asks, and what that one calls the message."""
    digest = hashlib.sha256(f"{len(by)}:{by}{key}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"msg-{digest[:32]}"


def _failure(reason: Reason) -> Exception:
    text = OUTCOMES[reason].text
    if reason is Reason.REQUEST_MALFORMED:
        return OtherRequest("this Idempotency-Key was used for another message; use a new one")
    if reason is Reason.TOO_LATE:
        return LedgerSlow(f"{text} Nothing was counted; ask again with the same key.")
    return LedgerUnavailable(f"{text} Nothing was counted; ask again with the same key.")


def _row(record: DecisionRecord) -> dict[str, Any]:
    return {
        "id": record.call_id,
        "at_ms": record.at_ms,
        "account": record.account_id,
        "line": record.line_id,
        "to": record.dialled,
        "number": record.e164,
        "kind": record.medium,
        "decision": record.decision,
        "reason": record.reason,
        "clause": {
            "policy": record.clause_policy,
            "version": record.clause_version,
            "id": record.clause_id,
        },
    }
