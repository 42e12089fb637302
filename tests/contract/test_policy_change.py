"""A published version of a policy: each account is told once, it decides from its local moment on, and a call that is
up keeps the version with which it began (R7, V9).
"""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from fairdial.ledger.contract import Ledger, PublishedPolicy
from fairdial.ledger.notice import NoticeRules, Topic
from fairdial.policy.account import Account, Line
from fairdial.policy.document import Policy
from fairdial.policy.outcomes import Reason
from tests.charges import LONDON, PARIS, Counter, priced_plan

DAY = date(2026, 12, 21)
PUBLISHED_MS = round(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp() * 1000)
ZONES = {"acme": "Europe/London", "east": "Pacific/Auckland", "west": "America/Los_Angeles"}


def midnight_ms(account: str) -> int:
    moment = datetime(DAY.year, DAY.month, DAY.day, tzinfo=ZoneInfo(ZONES[account]))
    return round(moment.timestamp() * 1000)


def versions() -> tuple[Policy, Policy]:
    """The second one, thirty days later, has calls last a minute in place of an hour, and has no Paris."""
    before = priced_plan(longest_s=3_600, uncovered="refuse")
    after = priced_plan(longest_s=60, countries='["GB"]', uncovered="refuse")
    return before, after.model_copy(update={"version": "2", "effective": DAY})


async def test_a_change_is_told_ahead_decides_at_local_midnight_and_leaves_calls_that_are_up(
    ledger: Ledger,
) -> None:
    await ledger.set_notice_rules(NoticeRules())
    counter = Counter(ledger, *versions())
    for account, zone in ZONES.items():
        await ledger.add_account(Account(account, "plan", zone))
        await ledger.add_line(Line(f"line-of-{account}", account))
    await ledger.publish(PublishedPolicy("plan", "2", PUBLISHED_MS, "text"), "1")
    while await ledger.announce_next(2):
        pass
    told = [notice for notice, _ in await ledger.notices()]
    assert sorted(notice.account_id for notice in told) == sorted(ZONES)
    assert {notice.topic for notice in told} == {Topic.POLICY}

    for account in ZONES:
        line = f"line-of-{account}"
        counter.at(midnight_ms(account) - 1)
        up = await counter.allow(f"up-{account}", line=line)
        assert (up.clause.version, up.limit_s) == ("1", 3_600)
        await counter.desk.answered(f"up-{account}", "leg", counter.clock.now())
        await counter.allow(f"before-{account}", PARIS, line=line)
        counter.clock.forward(1)
        new = await counter.allow(f"new-{account}", LONDON, line=line)
        assert (new.clause.version, new.limit_s) == ("2", 60)
        assert await counter.refuse(f"after-{account}", PARIS, line=line) == (
            Reason.COUNTRY_NOT_COVERED,
            "C2",
        )
        # An hour under the old version, although it is past the new one's minute.
        granted_s = up.granted_s or 0
        while granted_s < 3_600:
            counter.clock.forward(
                1_000 * (granted_s - 5) - (counter.clock.now().wall_ms - midnight_ms(account))
            )
            renewed = await counter.desk.renew(f"up-{account}", 5_000)
            assert (renewed.policy_version, (renewed.granted_s or 0) > granted_s) == ("1", True)
            granted_s = renewed.granted_s or 0
        await counter.settle(f"up-{account}", 3_600)
        grant = await ledger.grant(f"up-{account}")
        assert grant is not None
        assert grant.used_s == 3_600
