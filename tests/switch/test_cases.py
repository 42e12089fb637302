"""Abuse on the real switch: found from the calls and logins as they happen, answered step by step, undone by people."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import Installation
from testbed.registration import Registration, register
from testbed.server import Server, dialplan
from testbed.sipp import CallOutcome, Carrier
from tests.switch.conftest import LINES, Spine

ELSEWHERE = "02079460177"
LINE_NUMBER = "442079460123"
WITHIN_S = 1.0
ROW = 10
"""Numbers in sequence from which on the shipped policies suspend."""


def number(n: int) -> str:
    """A number that is answered; each is the next after the one before."""
    return f"02079460{100 + n}"


async def dial(spine: Spine, first: int, count: int, line: str = "alice") -> list[int]:
    """Short calls to numbers one after the other; their final statuses."""
    return [
        (await spine.call(line, number(n), hang_up_after_s=0.1)).final_status
        for n in range(first, first + count)
    ]


async def cases(spine: Spine, count: int, **wanted: object) -> list[dict[str, Any]]:
    """All cases, once there are so many and the latest is as wanted."""
    async with asyncio.timeout(5):
        while True:
            found: list[dict[str, Any]] = await spine.server.ask("case_list")
            if len(found) >= count and wanted.items() <= found[0].items():
                return found
            await asyncio.sleep(0.02)


async def standing(spine: Spine, account: str) -> str:
    return str((await spine.server.ask("account_show", account=account))["standing"])


@pytest.mark.clause("K9", "cut")
@pytest.mark.clause("K9", "refused")
@pytest.mark.clause("K9", "allowed")
async def test_a_dialler_is_stopped_and_another_account_calls_undisturbed(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", "alice", "erin", countries=["GB"])
    await spine.server.account("other", "kryptotel", "carol", countries=["GB"])
    talks = {
        line: asyncio.create_task(spine.call(line, ELSEWHERE, hang_up_after_s=hang_up_after_s, timeout_s=60))
        for line, hang_up_after_s in (("erin", None), ("carol", 14.0))
    }
    for line in talks:
        await spine.server.talking(line)
    assert await dial(spine, 0, ROW - 1) == [200] * (ROW - 1)
    assert await spine.server.ask("case_list") == []
    last = asyncio.create_task(spine.call("alice", number(ROW - 1), timeout_s=30))
    [case] = await cases(spine, 1, step="suspend")
    found_at = time.time()
    assert (case["account"], case["detector"], case["clause"]["id"]) == ("acme", "sequential-dialling", "K9")
    assert (case["value"], len(case["calls"])) == (ROW, ROW + 1), "its other line's call is a call out too"
    # Both calls of the account end, whatever line they are of; the other account's goes on.
    for talk in (last, talks["erin"]):
        outcome: CallOutcome = await talk
        if outcome.answered:
            assert outcome.ended_by == "far_end"
            assert outcome.ended_at - found_at < WITHIN_S
    assert await dial(spine, ROW, 1) == [403]
    record = await spine.newest_decision()
    assert (record["reason"], record["clause_id"]) == ("account_suspended", "K12")
    assert (await spine.call("carol", number(50), hang_up_after_s=0.1)).final_status == 200
    undisturbed = await talks["carol"]
    assert undisturbed.answered
    assert undisturbed.ended_by != "far_end"


async def test_people_dismiss_a_case_and_the_same_evidence_opens_no_other(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", "alice", countries=["GB"])
    # The last of them is cut while it talks, or before it is answered.
    assert (await dial(spine, 0, ROW))[:-1] == [200] * (ROW - 1)
    [case] = await cases(spine, 1, step="suspend")
    assert await standing(spine, "acme") == "suspended"
    closed = await spine.server.command(
        "case", "close", str(case["case"]), "--dismiss", "--undo", "--by", "ann"
    )
    assert closed.status == 0
    assert await standing(spine, "acme") == "active"
    # In sequence with those before, but of the new ones there are too few.
    assert await dial(spine, ROW, 3) == [200] * 3
    await spine.server.stop()
    await spine.server.launch()
    assert await dial(spine, ROW + 3, 3) == [200] * 3
    assert [each["state"] for each in await spine.server.ask("case_list")] == ["dismissed"]
    shown = await spine.server.ask("case_show", case=case["case"])
    told = [(entry["what"], entry["by"]) for entry in shown["entries"]]
    assert told == [("opened", "fairdial"), ("suspend", "fairdial"), ("dismissed", "ann"), ("undone", "ann")]


async def test_a_restart_forgets_no_pattern(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", "alice", countries=["GB"])
    assert await dial(spine, 0, 5) == [200] * 5
    await spine.server.kill()
    await spine.switch.no_channels()
    await spine.server.launch()
    assert (await dial(spine, 5, ROW - 5))[:-1] == [200] * (ROW - 6)
    [case] = await cases(spine, 1, step="suspend")
    assert case["value"] == ROW
    assert await dial(spine, ROW, 1) == [403]


async def test_in_shadow_a_case_is_written_and_nobody_is_barred(spine: Spine) -> None:
    row = 'measure = "sequential_numbers"\nthreshold = 10\nwindow = "hour"\n'
    await spine.publish_variant("kryptotel", "shadowy", (row, f"{row}shadow = true\n"))
    await spine.server.account("acme", "shadowy", "alice", countries=["GB"])
    assert await dial(spine, 0, ROW + 2) == [200] * (ROW + 2)
    [case] = await cases(spine, 1, step="suspend")
    assert case["shadow"]
    assert await standing(spine, "acme") == "active"


@pytest.mark.clause("K11", "found")
@pytest.mark.clause("K11", "cut")
@pytest.mark.clause("K11", "allowed")
async def test_an_operator_flags_an_account_and_ends_its_calls(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", "alice", countries=["GB"])
    talking = asyncio.create_task(spine.call("alice", ELSEWHERE, timeout_s=30))
    await spine.server.talking("alice")
    flagged = await spine.server.command("case", "flag", "acme", "--note", "resold", "--json")
    assert flagged.status == 0
    assert await dial(spine, 0, 1, "alice") == [200], "a note alone bars nobody"
    flagged_at = time.time()
    await spine.server.ask("case_close", case=1, by="ann")
    suspended = await spine.server.command("case", "flag", "acme", "--note", "resold", "--step", "suspend")
    assert suspended.status == 0
    outcome = await talking
    assert outcome.ended_by == "far_end"
    assert outcome.ended_at - flagged_at < 10
    assert await dial(spine, 0, 1) == [403]


@pytest.mark.clause("V8", "cut")
@pytest.mark.clause("V8", "refused")
async def test_fraud_terminates_at_once_and_forfeits_the_credit(spine: Spine) -> None:
    await spine.server.account("acme", "voxdirect", "alice", countries=["GB"])
    await spine.server.ask("credit_add", account="acme", amount="5", currency="USD", reference="p1")
    talking = asyncio.create_task(spine.call("alice", ELSEWHERE, timeout_s=30))
    await spine.server.talking("alice")
    case = await spine.server.ask("case_flag", account="acme", note="a stolen card", by="ann", fraud=True)
    assert (case["step"], case["clause"]["id"]) == ("terminate", "V8")
    assert (await talking).ended_by == "far_end"
    sheet = await spine.server.ask("account_show", account="acme")
    assert (sheet["standing"], sheet["fraud"], sheet["credit"]["balance"]) == ("terminated", True, "0")
    assert await dial(spine, 0, 1) == [403]


@pytest.mark.clause("A1", "found")
@pytest.mark.clause("A1", "refused")
async def test_complaints_are_counted_and_lead_to_a_case(spine: Spine) -> None:
    await spine.server.account("acme", "acceptable-use", "alice")
    for n in range(3):
        assert await dial(spine, n, 1) == [200]
        told = await spine.server.command("complaint", "add", "acme", "--note", f"threats, letter {n}")
        assert told.status == 0
    [case] = await spine.server.ask("case_list")
    assert (case["detector"], case["step"], case["clause"]["id"]) == ("complaints", "suspend", "A1")
    assert await dial(spine, 3, 1) == [403]


# --- logins --------------------------------------------------------------------------------------

PASSWORD = "geheim-8c1f"
PHONES = (
    Line("7001", accountcode="7001", context="phones", password=PASSWORD),
    Line("7002", accountcode="7002", context="phones", password=PASSWORD),
)


@asynccontextmanager
async def with_logins(
    installation: Installation, directory: Path, **settings: object
) -> AsyncIterator[Spine]:
    """A switch with lines that log in, and the rest as in `running_spine`."""
    extensions, files = dialplan()
    named = {f"logins.{key}": value for key, value in settings.items()}
    async with (
        Switch.start(installation, extensions, files=files, lines=(*LINES, *PHONES)) as switch,
        Carrier.start(switch) as carrier,
        Server.start(switch, directory, named) as server,
    ):
        spine = Spine(switch, carrier, server)
        await server.account("acme", "acceptable-use", "7001", "alice")
        await server.account("other", "acceptable-use", "7002")
        yield spine
        assert await switch.no_channels() == []
        await server.idle()


async def log_in(
    spine: Spine, line: str, *sources: str, password: str = PASSWORD, agent: str = "phone"
) -> list[int]:
    """Register from each source; the final statuses."""
    return [await register(spine.switch, Registration(line, password, source, agent)) for source in sources]


@pytest.mark.clause("A6", "found")
@pytest.mark.clause("A6", "allowed")
async def test_a_line_that_logs_in_from_several_networks_opens_a_case(
    installation: Installation, tmp_path: Path
) -> None:
    async with with_logins(installation, tmp_path) as spine:
        assert await log_in(spine, "7002", "127.0.1.1", "127.0.1.2", "127.0.2.1") == [200] * 3
        assert await log_in(spine, "7001", "127.0.1.1", "127.0.2.1") == [200] * 2
        assert await log_in(spine, "7001", "127.0.3.1") == [200]
        [case] = await cases(spine, 1)
        assert (case["account"], case["detector"], case["value"]) == ("acme", "shared-credentials", 3)
        assert await standing(spine, "acme") == "active", "its step is a notice"


async def test_two_networks_open_a_case_where_the_policy_says_two(
    installation: Installation, tmp_path: Path
) -> None:
    async with with_logins(installation, tmp_path) as spine:
        three = 'measure = "networks_of_a_line"\nthreshold = 3'
        await spine.publish_variant("acceptable-use", "strict", (three, three.replace("3", "2")))
        await spine.server.ask("subscribe", account="acme", policy="strict")
        assert await log_in(spine, "7001", "127.0.1.1", "127.0.1.2") == [200] * 2
        assert await log_in(spine, "7001", "127.0.2.1") == [200]
        [case] = await cases(spine, 1)
        assert (case["account"], case["detector"], case["value"]) == ("acme", "shared-credentials", 2)


@pytest.mark.clause("A9", "found")
async def test_a_pbx_behind_a_line_is_known_by_its_user_agent(
    installation: Installation, tmp_path: Path
) -> None:
    async with with_logins(installation, tmp_path) as spine:
        assert await log_in(spine, "7002", "127.0.1.1", agent="Zoiper rv2") == [200]
        assert await log_in(spine, "7001", "127.0.1.1", agent="FPBX-16.0.40(18.20)") == [200]
        [case] = await cases(spine, 1)
        assert (case["account"], case["detector"]) == ("acme", "behind-a-pbx")


@pytest.mark.clause("A5", "refused")
@pytest.mark.clause("A5", "allowed")
async def test_who_guesses_passwords_is_turned_away_for_a_while(
    installation: Installation, tmp_path: Path
) -> None:
    async with with_logins(installation, tmp_path, failures=5, block_s=600) as spine:
        # The phones of this test call from here too.
        assert await log_in(spine, "7001", *["127.0.0.1"] * 4, password="wrong") == [401] * 4
        assert await dial(spine, 0, 1) == [200]
        assert await log_in(spine, "nobody", "127.0.0.1", password="wrong") == [401]
        async with asyncio.timeout(5):
            while not (blocks := await spine.server.ask("block_list")):
                await asyncio.sleep(0.02)
        assert [block["source"] for block in blocks] == ["127.0.0.1"]
        assert await dial(spine, 1, 1) == [403]
        assert (await spine.call("alice", "999", hang_up_after_s=0.1)).final_status == 200
        assert (await spine.server.command("block", "remove", "127.0.0.1")).status == 0
        assert await dial(spine, 2, 1) == [200]


@pytest.mark.parametrize("gate", ["stasis", "agi"])
@pytest.mark.clause("A4", "refused")
@pytest.mark.clause("A4", "allowed")
async def test_a_caller_that_the_network_does_not_vouch_for_is_refused(spine: Spine, gate: str) -> None:
    await spine.ask_by(gate)
    await spine.publish_variant(
        "acceptable-use",
        "verifying",
        ('caller_number = "own"', 'caller_number = "own"\nunverified = "refuse"'),
    )
    await spine.server.account("acme", "verifying", "alice")
    await spine.switch.cli(f"database put did {LINE_NUMBER} alice")
    for said, status in (("", 403), ("passed", 200), ("failed", 403)):
        if said:
            await spine.switch.set_global("FAIRDIAL_VERIFIED", said)
        outcome = await spine.call("carrier", LINE_NUMBER, hang_up_after_s=0.2)
        assert outcome.final_status == status
        record = await spine.newest_decision()
        assert record["verified"] == said
        assert (record["reason"] == "caller_not_verified") is (status == 403)


@pytest.mark.clause("K10", "refused")
@pytest.mark.clause("K10", "allowed")
async def test_past_so_many_numbers_a_day_only_known_ones_are_called(spine: Spine) -> None:
    numbers = '[caps]\ncallees_per_day = { limit = 3, clause = "K10" }\n'
    await spine.publish_variant("kryptotel", "few", ("[caps]\n", numbers))
    await spine.server.account("acme", "few", "alice", "erin", countries=["GB"])
    assert await dial(spine, 0, 3) == [200] * 3
    assert await dial(spine, 3, 1, "erin") == [403]
    assert (await spine.newest_decision())["reason"] == "too_many_numbers"
    assert await dial(spine, 1, 1, "erin") == [200]


async def test_codecs_of_a_line_are_counted(spine: Spine) -> None:
    many = 'measure = "video_calls"\nthreshold = 50'
    await spine.publish_variant(
        "acceptable-use", "voices", (many, 'measure = "codecs_of_a_line"\nthreshold = 1')
    )
    await spine.server.account("acme", "voices", "alice")
    assert await dial(spine, 0, 1) == [200]
    [case] = await cases(spine, 1)
    assert case["found"] == "1 codecs of one line in a day; 1 is a case"


@pytest.mark.parametrize("gate", ["stasis", "agi"])
@pytest.mark.clause("A8", "found")
@pytest.mark.clause("A8", "allowed")
async def test_calls_with_a_picture_are_counted(spine: Spine, gate: str) -> None:
    await spine.ask_by(gate)
    many = 'measure = "video_calls"\nthreshold = 50'
    await spine.publish_variant("acceptable-use", "pictures", (many, many.replace("50", "2")))
    await spine.server.account("acme", "pictures", "camera")
    for video in (False, True, False):
        outcome = await spine.call("camera", ELSEWHERE, hang_up_after_s=0.1, video=video)
        assert outcome.final_status == 200
    assert await spine.server.ask("case_list") == []
    assert (await spine.call("camera", ELSEWHERE, hang_up_after_s=0.1, video=True)).final_status == 200
    [case] = await cases(spine, 1)
    assert (case["detector"], case["value"], case["clause"]["id"]) == ("video", 2, "A8")
