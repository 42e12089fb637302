"""Rows of `Master.csv` as tests write them, and replays of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from fairdial.desk import DeskRules
from fairdial.policy.account import Kind
from fairdial.policy.book import PolicyBook
from fairdial.policy.document import Policy
from fairdial.policy.numbers import Numbering
from fairdial.policy.prefixes import PrefixTable
from fairdial.replay.layout import Layout
from fairdial.replay.prepare import Grounds, Site
from fairdial.replay.result import Outcome
from fairdial.replay.run import Result, Wanted, replay
from tests.samples import LONDON, NOON_MS

NUMBERING = Numbering(PrefixTable.parse("prefix,class,country,risk,note,source,date\n"))
PREMIUM = "09098790000"
LEAD_S = 10

CUSTOMERS = """
[[account]]
account = "acme"
policy = "plan"
[[line]]
line = "alice"
account = "acme"
internal = "_1XX"
[[line]]
line = "bob"
account = "acme"
[[account]]
account = "other"
policy = "plan"
[[line]]
line = "carol"
account = "other"
"""


def row(
    number: int,
    at_s: int,
    talk_s: int | None = 60,
    *,
    line: str = "alice",
    dst: str = LONDON.dialled,
    ring_s: int = 5,
    code: str | None = None,
    channel: str | None = None,
    dst_channel: str | None = None,
    unique_id: str | None = None,
    last_app: str = "Dial",
    last_data: str = "",
    src: str | None = None,
    bill_s: int | None = None,
) -> str:
    """One row. at_s: its start, in seconds after NOON_MS; talk_s: None where nobody answers.

    bill_s: talk_s if left out.
    """
    start_s = NOON_MS // 1000 + at_s
    answer_s = None if talk_s is None else start_s + ring_s
    end_s = start_s + ring_s + (talk_s or 0)
    fields: tuple[str | int, ...] = (
        _quoted(line if code is None else code),
        _quoted(line if src is None else src),
        _quoted(dst),
        _quoted("outbound"),
        _quoted(f'"{line}" <{line}>'),
        _quoted(f"PJSIP/{line}-{number:08x}" if channel is None else channel),
        _quoted(f"PJSIP/carrier-{number:08x}" if dst_channel is None else dst_channel),
        _quoted(last_app),
        _quoted(last_data),
        _quoted(_instant(start_s)),
        "" if answer_s is None else _quoted(_instant(answer_s)),
        _quoted(_instant(end_s)),
        end_s - start_s,
        (talk_s or 0) if bill_s is None else bill_s,
        _quoted("NO ANSWER" if talk_s is None else "ANSWERED"),
        _quoted("DOCUMENTATION"),
        _quoted(call_of(number)[:-2] if unique_id is None else unique_id),
        _quoted(""),
    )
    return ",".join(str(each) for each in fields)


def call_of(number: int) -> str:
    """The call id of a row."""
    return f"1795262400.{number}-1"


def _quoted(text: str) -> str:
    return '"{}"'.format(text.replace('"', '""'))


def _instant(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


@dataclass
class Replayed:
    """A replay's result, with the outcome of each call by its id."""

    result: Result
    calls: dict[str, Outcome] = field(default_factory=dict)

    def of(self, number: int) -> Outcome:
        """The outcome of the call of a row."""
        return self.calls[call_of(number)]

    @property
    def used_units(self) -> dict[str, int]:
        """Units used by account."""
        used: dict[str, int] = {}
        for account, usage in self.result.usage:
            used[account] = used.get(account, 0) + usage.meter.used_units
        return used


def site(*policies: Policy) -> Site:
    """A site without a ledger."""
    return Site(
        Path("/nowhere/ledger.sqlite"),
        NUMBERING,
        DeskRules(),
        LEAD_S,
        lambda _published: PolicyBook(policies),
    )


async def replayed(
    folder: Path,
    rows: Sequence[str],
    *policies: Policy,
    customers: str = CUSTOMERS,
    policy: str | None = None,
    against: str | None = None,
    layout: Layout | None = None,
    grounds: Grounds | None = None,
    codes: Mapping[str, Kind] = MappingProxyType({}),
) -> Replayed:
    """Replay rows, written in the order in which they are given."""
    file, accounts = folder / "Master.csv", folder / "customers.toml"
    file.write_text("".join(f"{each}\n" for each in rows))
    accounts.write_text(customers)
    calls: dict[str, Outcome] = {}

    def told(outcome: Outcome) -> None:
        calls[outcome.call_id] = outcome

    wanted = Wanted((file,), UTC, layout, policy, against, grounds or Grounds((accounts,)), codes)
    result = await replay(site(*policies), wanted, lambda _step, _done, _total: None, told)
    return Replayed(result, calls)
