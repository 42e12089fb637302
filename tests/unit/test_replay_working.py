"""A replay that keeps accounts in memory finds to the byte what one finds that runs every step in the database."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC
from pathlib import Path

import pytest

from fairdial.ledger import working
from fairdial.ledger.contract import ConstraintViolated, IdempotencyConflict, NotFound
from fairdial.ledger.direct import DirectWriter
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.ledger.working import WorkingLedger
from fairdial.policy.account import Kind, Needs
from fairdial.policy.cards import RateCard
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.document import Policy, parse_policy
from fairdial.policy.outcomes import Reason
from fairdial.policy.periods import Window
from fairdial.policy.sizing import Hold
from fairdial.policy.terms import Clause
from fairdial.replay import engine, prepare
from fairdial.replay.detectors import look_on
from fairdial.replay.prepare import Grounds
from fairdial.replay.report import report
from fairdial.replay.result import Outcome
from fairdial.replay.run import Result, Wanted, replay
from fairdial.replay.written import CallsFile
from tests.cdrs import PREMIUM, row, site
from tests.samples import LONDON, MONTH_END_MS, NOON_MS, PLAN, authorise, outbound, plan, provision

PROJECT = Path(__file__).resolve().parents[2]
KEPT = PROJECT / "tests/data/cdr/report.json"
MONTH_END_S = (MONTH_END_MS - NOON_MS) // 1000


def policy(name: str, *changes: tuple[str, str], more: str = "") -> Policy:
    """The sample plan under another name, with these changes and tables."""
    text = PLAN.replace('name = "plan"', f'name = "{name}"')
    for old, new in (*changes, ('"voicemail"]', '"voicemail", "conference", "callback", "collect"]')):
        assert old in text
        text = text.replace(old, new)
    return parse_policy(text + more, f"{name}.toml")


def allowance(name: str, limit_s: int, period: str, more: str = "") -> str:
    return (
        f'[[allowances]]\nname = "{name}"\nlimit_s = {limit_s}\nperiod = "{period}"\nclause = "P5"\n'
        f'counts = ["outbound", "inbound", "callback", "collect"]\n{more}\n'
    )


OVER = 'used_up = "overage"\nweights = { callback = 2 }'
CHARGED = '[charges]\noverage_per_min = "0.60"\nincrement = "60/60"\ncurrency = "GBP"\nclause = "P6"\n'
POLICIES = (
    policy(
        "refuses", ("limit_s = 6000", "limit_s = 4000"), more=allowance("daily", 900, "day", 'scope = "line"')
    ),
    policy(
        "charges",
        ("limit_s = 6000", "limit_s = 3000"),
        ('clause = "P4"', f'clause = "P4"\n{OVER}'),
        more=allowance("daily", 600, "day", OVER)
        + CHARGED
        + 'surcharge_per_min = "0.01"\nsurcharge_needs_agreement = false\n',
    ),
    policy(
        "credit",
        ("limit_s = 6000", "limit_s = 1200"),
        ('clause = "P4"', 'clause = "P4"\nused_up = "credit"'),
        more='[charges]\ncard = "standard"\nclause = "P6"\n[uncovered]\npay = "credit"\nclause = "P7"\n'
        '[caps]\nsimultaneous_calls = { limit = 3, clause = "P8" }\n[identity]\ncaller_number = "own"\nclause = "P9"\n',
    ),
    policy(
        "endless",
        ("limit_s = 6000\n", ""),
        more='[caps]\nsimultaneous_inbound = { limit = 1, clause = "P8" }\n',
    ),
    *(
        parse_policy((PROJECT / f"policies/{name}.toml").read_text(), name)
        for name in ("kryptotel", "voxdirect")
    ),
)
CARD = RateCard.parse((PROJECT / "testbed/rates.csv").read_text(), "standard", "EUR", "rates.csv")
NUMBERS = (
    "02079460123",
    "02079460124",
    "07400123456",
    PREMIUM,
    "+34912345678",
    "112",
    "200",
    "0",
    "+4930123456",
)


def policy_with(kind: Kind) -> Policy:
    """The sample plan, which counts calls out and those of that kind."""
    return policy("plan", ('counts = ["outbound", "inbound"]', f'counts = ["outbound", "{kind}"]'))


def customers() -> str:
    """Two accounts for each policy, with two lines and a number each."""
    found = []
    for which, each in enumerate(POLICIES):
        for number in range(2):
            account = f"{each.name}{number}"
            options = 'countries = ["GB"]\n' if each.name in ("kryptotel", "voxdirect") else ""
            found.append(f'[[account]]\naccount = "{account}"\npolicy = "{each.name}"\n{options}')
            found += [f'[[line]]\nline = "{account}-{line}"\naccount = "{account}"\n' for line in "ab"]
            found.append(
                f'[[number]]\nnumber = "+4420794602{which}{number}"\naccount = "{account}"\nline = "{account}-a"\n'
            )
    return "".join(found)


def calls(seed: int, count: int) -> list[str]:
    """Rows of all kinds of calls, close together, around the end of a month."""
    chance = random.Random(seed)
    lines = [f"{each.name}{number}-{line}" for each in POLICIES for number in range(2) for line in "ab"]
    rows = []
    at_s = MONTH_END_S - 3_000
    for number in range(1, count + 1):
        at_s += chance.choice((0, 1, 5, 20, 60))
        talk_s = None if chance.random() < 0.2 else int(chance.expovariate(1 / 200))
        line, kind = chance.choice(lines), chance.random()
        # Now and then the id of an earlier call.
        again = f"1795262400.{chance.randrange(1, number + 1)}" if chance.random() < 0.05 else None
        app, data, code, dst = "Dial", "", line, chance.choice(NUMBERS)
        channel = rung = None
        src = chance.choice((f"0207946020{chance.randrange(4)}", "02079460999", line))
        if kind < 0.2:
            code, channel, rung = "", f"PJSIP/carrier-{number:08x}", f"PJSIP/{line}-{number:08x}"
        elif kind < 0.25:
            app, dst = "ConfBridge", "7001"
        elif kind < 0.35:
            app, data = "Stasis", f"fairdial,own,callback,02079460123,{line}"
        rows.append(
            row(
                *(number, at_s, talk_s),
                line=line,
                code=code,
                channel=channel,
                dst_channel=rung,
                src=src,
                dst=dst,
                last_app=app,
                last_data=data,
                unique_id=again,
            )
        )
    return rows


class InTheDatabase(SqliteLedger):
    """What a replay runs on without a memory of its own."""

    def __init__(self, writer: DirectWriter) -> None:
        super().__init__(writer)
        self.charges_of, self.usage, self.forget = writer.charges_of, writer.usage, writer.forget


async def found(
    folder: Path,
    rows: list[str],
    *,
    against: str | None = None,
    told: Callable[[Outcome], None] | None = None,
) -> tuple[Result, list[Outcome]]:
    file, accounts = folder / "Master.csv", folder / "customers.toml"
    file.write_text("".join(f"{each}\n" for each in rows))
    accounts.write_text(customers())
    outcomes: list[Outcome] = []
    wanted = Wanted((file,), UTC, against=against, grounds=Grounds((accounts,), None, 900_000, (CARD,)))
    result = await replay(site(*POLICIES), wanted, lambda *_told: None, told or outcomes.append, look_on)
    return result, outcomes


@pytest.mark.parametrize("seed", range(4))
async def test_every_call_and_every_meter_is_as_in_the_database(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = calls(seed, 350)
    monkeypatch.setattr(engine, "FORGET_EVERY", 40)
    monkeypatch.setattr(working, "ACCOUNTS_MAX", 3 if seed % 2 else 1_000)
    result, outcomes = await found(tmp_path, rows, against="charges" if seed == 0 else None)
    monkeypatch.setattr(prepare, "WorkingLedger", InTheDatabase)
    expected, expected_outcomes = await found(tmp_path, rows, against="charges" if seed == 0 else None)
    for outcome, as_expected in zip(outcomes, expected_outcomes, strict=True):
        assert outcome == as_expected
    assert result == expected
    # The calls are such that there is something to get wrong.
    said = Counter(outcome.reason for outcome in outcomes)
    assert {"past_allowance", "by_credit", "allowance_used_up", "within_allowance", "covered"} <= set(said)
    kinds = {outcome.kind for outcome in outcomes if outcome.metered_s}
    assert {Kind.CONFERENCE, Kind.CALLBACK, Kind.INBOUND, Kind.OUTBOUND} <= kinds
    assert any(outcome.cut for outcome in outcomes)
    assert any(outcome.charges for outcome in outcomes)


async def written(folder: Path) -> str:
    """The report of three thousand calls as it is written, and of the file of all calls its digest."""
    with CallsFile(folder / "calls.csv", mask=False) as calls_file:
        result, _ = await found(folder, calls(7, 3_000), told=calls_file.write)
    digest = hashlib.sha256((folder / "calls.csv").read_bytes()).hexdigest()
    whole = json.dumps({"calls": digest, "report": report(result)}, indent=1, ensure_ascii=False) + "\n"
    return whole.replace(str(folder), "FOLDER")


async def test_the_report_is_to_the_byte_the_one_that_is_kept(tmp_path: Path) -> None:
    """Kept from before accounts were held in memory: whatever makes a replay faster changes nothing that it finds.

    Only where the calls or the policies here change it is another: what `written` returns.
    """
    assert await written(tmp_path) == KEPT.read_text()


# --- a call by itself -----------------------------------------------------------------------------------


@pytest.fixture
async def ledger() -> AsyncIterator[WorkingLedger]:
    """With an account of one line."""
    ledger = WorkingLedger(DirectWriter())
    await provision(ledger)
    yield ledger
    await ledger.close()


async def test_a_repeated_id_has_the_verdict_of_before_and_another_dial_under_it_is_refused(
    ledger: WorkingLedger,
) -> None:
    first = await authorise(ledger, outbound(), plan(limit_s=300))
    again = await authorise(ledger, outbound(), plan(limit_s=300))
    assert (again, first.repeated, again.repeated) == (first, False, True)
    with pytest.raises(IdempotencyConflict, match="was decided for alice dialling"):
        await authorise(ledger, outbound(dialled="02079460124"), plan(limit_s=300))
    await ledger.settle("call-1", 10, NOON_MS + 10_000)
    with pytest.raises(IdempotencyConflict, match="is over"):
        await authorise(ledger, outbound(), plan(limit_s=300))
    assert [usage.meter.used_units for _, usage in ledger.usage()] == [10]


async def test_a_call_is_settled_once_and_one_that_was_forgotten_is_not_known(ledger: WorkingLedger) -> None:
    await authorise(ledger, outbound(), plan(limit_s=300))
    await ledger.answered("call-1", "leg", NOON_MS)
    settled = await ledger.settle("call-1", 10, NOON_MS + 10_000)
    again = await ledger.settle("call-1", 20, NOON_MS + 20_000)
    assert (settled.repeated, again.repeated, again.used_s) == (False, True, 10)
    assert [usage.meter.used_units for _, usage in ledger.usage()] == [10]
    ledger.forget(NOON_MS)
    with pytest.raises(NotFound, match="no grant for call call-1"):
        await ledger.settle("call-1", 20, NOON_MS + 20_000)


@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.CONFERENCE])
async def test_what_is_in_the_database_and_what_is_in_memory_is_one_account(
    ledger: WorkingLedger, kind: Kind
) -> None:
    """A conference has the account written down, with the call that is up; both hold of the same meter."""
    policy = policy_with(kind)
    await authorise(ledger, outbound("call-1"), policy)
    await ledger.answered("call-1", "leg", NOON_MS)
    await authorise(ledger, outbound("call-2", kind=kind, dialled="7001", ring_s=0), policy)
    assert len(await ledger.live_grants()) == (2 if kind is Kind.CONFERENCE else 0)
    await ledger.settle("call-1", 10, NOON_MS + 10_000)
    await ledger.settle("call-2", 7, NOON_MS + 10_000)
    [(account, usage)] = ledger.usage()
    assert (account, usage.meter.used_units, usage.meter.reserved_units, usage.calls) == ("acme", 17, 0, 2)


async def test_more_than_a_limit_is_never_held(ledger: WorkingLedger) -> None:
    dial, window = outbound(), Window(NOON_MS, NOON_MS + 3_600_000)
    too_much = Allow(
        Reason.COVERED, Clause("plan", "1", "P4"), "acme", 301, 301, (Hold("voice", window, 300, 301),)
    )
    with pytest.raises(ConstraintViolated, match="meter voice of account acme"):
        await ledger.authorise(dial, lambda *_: Needs(), lambda _: Verdict(LONDON, too_much))
