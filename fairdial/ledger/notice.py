"""Notices as the ledger keeps them: what somebody is told, where, and what became of telling it.

Values alone. Who is told of what is decided in the ledger's steps (`notices.py`); the words are those of
`fairdial/notice_text.py`, and their way to people that of `fairdial/notices.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fairdial.policy.terms import Clause


class Topic(StrEnum):
    """What a notice is about; its facts are those that `notices.py` writes for it."""

    USED = "allowance_used"
    """A part of an allowance is used up: one notice for each percentage that is told of, in each window."""
    OVERAGE = "overage_began"
    """Use of this window is charged from now on (R3, V2)."""
    LOW_CREDIT = "low_credit"
    CUT = "call_cut"
    """A call ended because it had no more time."""
    CASE = "case_step"
    """A step was taken for suspected abuse (A10, S4)."""
    STANDING = "standing"
    SERVICES = "services"
    """Services were taken from the account, or given back."""
    REQUEST = "request"
    """A request was decided, or its time is over; a minute plan was proposed or added (A11, R4, R5)."""
    POLICY = "policy_change"
    """Another version of the policy will decide (R7, V9)."""


class Channel(StrEnum):
    """How somebody is told."""

    WEBHOOK = "webhook"
    EMAIL = "email"
    SIP = "sip"


class DeliveryState(StrEnum):
    """WAITING is tried; DEAD was given up, and can be tried again by hand."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class NoticeRules:
    """What is told. used_percents: of an allowance, rising, from 50 on; low_credit_micros: of the account's currency;
    channels: those that are set up.
    """

    used_percents: tuple[int, ...] = (80, 100)
    low_credit_micros: int = 5_000_000
    channels: frozenset[Channel] = frozenset()


DEFAULT_LANGUAGE = "en"


@dataclass(frozen=True, slots=True)
class Contact:
    """Where an account is told. email: "" for none; line_id: to which the switch sends messages, "": to the line that a
    notice is about.
    """

    account_id: str
    language: str = DEFAULT_LANGUAGE
    email: str = ""
    line_id: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that an account is told. line_id: the line that it is about, "" for the account; clause: None where
    none stands behind it; facts: plain JSON values by topic. at_ms: UTC.
    """

    id: int
    account_id: str
    topic: Topic
    reference: str
    at_ms: int
    line_id: str
    clause: Clause | None
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notice on one of its ways. attempts: those that failed; last: what was said of the last one."""

    notice: Notice
    channel: Channel
    state: DeliveryState
    attempts: int
    next_ms: int
    done_ms: int | None
    last: str
