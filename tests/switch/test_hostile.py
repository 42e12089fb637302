"""Who means harm: nothing gets through, and the calls of everybody else are answered as ever."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.hostile import (
    ATTACKER,
    INJECTIONS,
    Probe,
    flood,
    probing,
    processor_s,
    resident_mb,
    scan_all,
    send_malformed,
)
from testbed.installation import Installation, obtain_sipvicious
from testbed.server import Server, dialplan
from testbed.sipp import CallOutcome, Carrier
from testbed.tls import tunnel
from tests.switch.conftest import LINES, Spine, running_spine

LONDON = "02079460100"
PREMIUM = "09098790000"
OWN = "+442079460001"
CALLERS = [each for each in INJECTIONS if each not in ("\x00", "\r\nX-Evil: 1")]
"""SIPp cannot send the others in a header."""
GUARDED = {"desk.attempts_per_s": 20, "desk.attempts_per_s_source": 50}
ANSWER_WITHIN_S = 0.5
"""Past it the dialplan's failure rule decides."""
GROWTH_MAX_MB = 60
FLOOD_PER_S = 100
PASSWORDS = ("secret", "1234", "7001", "admin", "password") * 20


async def calls_while(spine: Spine, attack: asyncio.Task[object]) -> list[CallOutcome]:
    """Calls of alice, one after the other, until the attack is over; at least one."""
    calls: list[CallOutcome] = []
    while not calls or not attack.done():
        calls.append(await spine.call("alice", LONDON, hang_up_after_s=0.1, timeout_s=10))
    return calls


async def not_held_up(spine: Spine, probe: Probe, calls: list[CallOutcome], grown_mb: float) -> None:
    """Calls were set up and questions answered in time; a loop that stalls would show in all that wait for it.

    The attacker, the phones and the switch share this machine's cores with other tests, and a starved switch gives
    up on a call by itself (408, 503): most must come in time, and none may be decided in another way.
    """
    statuses = Counter(call.final_status for call in calls)
    assert set(statuses) <= {200, 408, 503}
    assert statuses[200] >= len(calls) - max(1, len(calls) // 5)
    late = probe.answers.pop("FAILED*too_late", 0)
    assert set(probe.answers) == {"REFUSE*class_not_covered"}
    assert late <= len(probe.took_s) / 20
    assert probe.percentile_s(0.5) < 0.1
    assert probe.percentile_s(0.9) < ANSWER_WITHIN_S
    assert grown_mb < GROWTH_MAX_MB
    assert spine.server.running
    assert spine.switch.is_running


async def only_asked_for(spine: Spine, calls: list[CallOutcome]) -> None:
    """The carrier saw the good calls and no other; the ledger granted these and settled them."""
    await spine.server.idle(20)
    assert {call.number for call in spine.carrier.calls()} == {"+442079460100"}
    answered = sum(call.final_status == 200 for call in calls)
    assert answered <= len(spine.carrier.calls()) <= len(calls)
    allowed = [row for row in await spine.server.ask("decisions", limit=10_000) if row["decision"] == "allow"]
    assert answered <= len(allowed) <= len(calls)
    assert {row["line_id"] for row in allowed} == {"alice"}


def log_of(spine: Spine) -> list[dict[str, object]]:
    """FairDial's log; each line must be one entry of its own."""
    return [json.loads(line) for line in spine.server.log_path.read_text().splitlines()]


@pytest.fixture
async def guarded(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    """The whole call path, with the guard as it is by default."""
    async with running_spine(installation, tmp_path, GUARDED) as spine:
        yield spine


@pytest.mark.parametrize("gate", ["stasis", "agi"])
async def test_a_flood_of_invites_is_refused_from_memory_and_others_calls_go_on(
    guarded: Spine, gate: str
) -> None:
    spine = guarded
    await spine.ask_by(gate)
    await spine.server.account("acme", "voxdirect-in-shadow", "alice", "probe", countries=["GB"])
    await spine.server.account("other", "minute", "bob", "carol")
    before_mb, before_s = resident_mb(spine.server.pid), processor_s(spine.server.pid)
    async with probing(spine.switch.agi_port, "probe", PREMIUM, every_s=0.1) as probe:
        attack = asyncio.create_task(
            flood(spine.switch, lines=("bob", "carol"), number=PREMIUM, count=2_000, rate_per_s=400)
        )
        calls = await calls_while(spine, attack)
        statuses = await attack
    assert processor_s(spine.server.pid) - before_s < 2_000 * 0.003, "with the decisions on all other calls"
    await not_held_up(spine, probe, calls, resident_mb(spine.server.pid) - before_mb)
    assert set(statuses) <= {403, 408, 503}, (
        "refused, by the failure rule too, or given up on by the switch itself"
    )
    await only_asked_for(spine, calls)
    await spine.server.stop()
    told = [entry for entry in log_of(spine) if entry["event"] == "dials_too_fast"]
    refused = sum(int(str(entry["refused"])) for entry in told)
    assert {(entry["by"], entry.get("line") or entry.get("source")) for entry in told} <= {
        ("line", "bob"),
        ("line", "carol"),
        ("source", ATTACKER),
    }
    assert refused > 1_000
    assert len(told) < 60
    decided = [entry for entry in log_of(spine) if entry["event"] == "decided"]
    assert len(decided) + refused >= sum(count for status, count in statuses.items() if status == 403)


async def test_an_emergency_call_from_where_the_flood_comes_goes_through(guarded: Spine) -> None:
    await guarded.server.account("other", "minute", "bob")
    attack = asyncio.create_task(
        flood(guarded.switch, lines=("bob",), number=PREMIUM, count=300, rate_per_s=100)
    )
    helped = await guarded.call("bob", "112", hang_up_after_s=0.1)
    still_flooded = not attack.done()
    assert set(await attack) <= {403, 408}
    assert (helped.final_status, still_flooded) == (200, True)


async def test_a_flood_of_channels_stalls_neither_the_reader_nor_the_queues(
    installation: Installation, tmp_path: Path
) -> None:
    extensions, files = dialplan()
    extensions += (
        "\n[flood]\nexten => gone,1,Hangup()\n"
        "exten => asks,1,Gosub(fairdial,s,1(outbound,09098790000))\n same => n,Hangup(${FAIRDIAL_CAUSE})\n"
    )
    async with running_spine(installation, tmp_path, plan=(extensions, files)) as spine:
        await spine.server.account("acme", "voxdirect-in-shadow", "alice", "probe", countries=["GB"])
        before_mb = resident_mb(spine.server.pid)
        async with probing(spine.switch.agi_port, "probe", PREMIUM) as probe:
            attack = asyncio.create_task(originate(spine.switch, 2_000))
            calls = await calls_while(spine, attack)
            assert await attack == 2_000
        assert await spine.switch.no_channels(20) == []
        await not_held_up(spine, probe, calls, resident_mb(spine.server.pid) - before_mb)
        await only_asked_for(spine, calls)
        events = {entry["event"] for entry in log_of(spine)}
        assert not events & {"ari_disconnected", "call_event_dropped", "call_event_failed"}


async def originate(switch: Switch, count: int) -> int:
    """Make so many Local channels over ARI, half of which ask FairDial; how many were made.

    As many a second as the switch can still place the calls of others beside, on a slow machine too.
    """
    made = 0
    who = {"Authorization": aiohttp.encode_basic_auth(switch.ari_user, switch.ari_password)}
    free = asyncio.Semaphore(10)
    async with aiohttp.ClientSession(headers=who) as session:

        async def one(serial: int) -> None:
            nonlocal made
            asked = {
                "endpoint": f"Local/{'asks' if serial % 2 else 'gone'}@flood",
                "extension": "gone",
                "context": "flood",
            }
            await asyncio.sleep(serial / FLOOD_PER_S)
            async with free, session.post(f"{switch.ari_url}/channels", params=asked) as response:
                made += response.status == 200

        await asyncio.gather(*(one(serial) for serial in range(count)))
    return made


async def test_ten_thousand_malformed_messages_change_nothing(
    installation: Installation, tmp_path: Path
) -> None:
    """As datagrams, on streams, and to the FastAGI server."""
    async with running_spine(installation, tmp_path, tls=True) as spine, tunnel(spine.switch) as stream_port:
        switch, server = spine.switch, spine.server
        await server.account("acme", "voxdirect-in-shadow", "alice", "probe", "bob", countries=["GB"])
        before_mb = resident_mb(server.pid)
        async with probing(switch.agi_port, "probe", PREMIUM) as probe:
            attack = asyncio.create_task(send_malformed(switch, stream_port, "bob", PREMIUM))
            calls = await calls_while(spine, attack)
            assert await attack == 10_000
        assert await switch.no_channels(40) == []
        await not_held_up(spine, probe, calls, resident_mb(server.pid) - before_mb)
        await only_asked_for(spine, calls)
        await server.stop()
        assert {"fastagi_failed", "decided"} <= {entry["event"] for entry in log_of(spine)}
        no_canary(switch)


def no_canary(switch: Switch) -> None:
    """Nothing that was sent was run: neither by Asterisk in its root nor beside it."""
    for path in (switch.installation.outside("/tmp/fairdial-canary"), Path("/tmp/fairdial-canary")):
        assert not path.exists(), f"{path} was made: something that a caller sent was executed"


@pytest.mark.parametrize("gate", ["stasis", "agi"])
async def test_a_number_with_more_than_a_number_in_it_is_refused_and_runs_nothing(
    spine: Spine, gate: str
) -> None:
    await spine.ask_by(gate)
    await spine.server.account("acme", "voxdirect-in-shadow", "alice", countries=["GB"])
    # For Asterisk a NUL ends the number; what stands before it is a good one.
    for injection in (each for each in INJECTIONS if each != "\x00"):
        outcome = await spine.call("alice", quote(LONDON + injection, safe=""), hang_up_after_s=0.1)
        assert outcome.final_status in (400, 404, 484), injection
    assert spine.carrier.calls() == []
    no_canary(spine.switch)
    good = await spine.call("alice", LONDON, hang_up_after_s=0.1)
    await only_asked_for(spine, [good])


@pytest.mark.parametrize("gate", ["stasis", "agi"])
async def test_a_caller_that_is_more_than_a_number_runs_nothing_and_is_never_shown(
    installation: Installation, tmp_path: Path, gate: str
) -> None:
    """What a trusted PBX says its number is: the call is refused, or shows the number that is in it and no more."""
    async with running_spine(installation, tmp_path) as spine:
        await spine.ask_by(gate)
        # Here the calls come as fast as the machine can make them.
        often = ("attempts_per_s = { limit = 5,", "attempts_per_s = { limit = 900,")
        await spine.publish_variant("acceptable-use", "often", often)
        await spine.server.account("acme", "often", "pbx", countries=["GB"])
        added = await spine.server.command("number", "add", OWN, "--account", "acme")
        assert added.status == 0, added.error
        for injection in CALLERS:
            outcome = await spine.call(
                "pbx", LONDON, shows=quote(OWN + injection, safe="$"), hang_up_after_s=0.1
            )
            assert outcome.final_status in (200, 403), injection
            if outcome.final_status == 403:
                assert (await spine.newest_decision())["reason"] == "caller_not_own"
        assert {call.caller for call in spine.carrier.calls()} <= {OWN}
        no_canary(spine.switch)
        assert (await spine.call("pbx", LONDON, shows=OWN, hang_up_after_s=0.1)).final_status == 200


@pytest.mark.parametrize("gate", ["stasis", "agi"])
@pytest.mark.parametrize("variable", ["FAIRDIAL_LINE", "FAIRDIAL_RING"])
async def test_a_dialplan_that_hands_on_what_a_caller_chose_lets_nobody_pay_for_it(
    installation: Installation, tmp_path: Path, variable: str, gate: str
) -> None:
    """A fault of an operator's dialplan, which takes the line that pays from the caller: it names no other line."""
    extensions, files = dialplan()
    files["outbound.conf"] = files["outbound.conf"].replace(
        "exten => _[0-9+*#]!,1,", f"exten => _[0-9+*#]!,1,Set({variable}=${{CALLERID(num)}})\n same => n,"
    )
    assert variable in files["outbound.conf"]
    async with running_spine(installation, tmp_path, plan=(extensions, files)) as spine:
        await spine.ask_by(gate)
        await spine.server.account("acme", "voxdirect-in-shadow", "alice", countries=["GB"])
        for injection in CALLERS:
            shows = quote(f"mallory{injection}", safe="$")
            outcome = await spine.call("pbx", LONDON, shows=shows, hang_up_after_s=0.1)
            assert outcome.final_status in (403, 503), injection
        assert spine.carrier.calls() == []
        assert await spine.server.usage("acme") == {"used_s": 0, "reserved_s": 0}
        no_canary(spine.switch)


@asynccontextmanager
async def with_password(installation: Installation, directory: Path) -> AsyncIterator[Spine]:
    """A switch with a line that registers, and the rest as in `running_spine`."""
    extensions, files = dialplan()
    guarded = Line("7001", accountcode="acme", context="phones", password="not to be guessed")
    async with (
        Switch.start(installation, extensions, files=files, lines=(*LINES, guarded)) as switch,
        Carrier.start(switch) as carrier,
        # The scanner guesses from the address of the good callers, who would be turned away with it.
        Server.start(switch, directory, GUARDED | {"logins.block_s": 0}) as server,
    ):
        yield Spine(switch, carrier, server)


async def test_a_scanner_finds_no_way_in(installation: Installation, tmp_path: Path) -> None:
    programs = await asyncio.to_thread(obtain_sipvicious)
    async with with_password(installation, tmp_path) as spine:
        await spine.server.account("acme", "voxdirect-in-shadow", "alice", "7001", "probe", countries=["GB"])
        before_mb = resident_mb(spine.server.pid)
        async with probing(spine.switch.agi_port, "probe", PREMIUM, every_s=0.2) as probe:
            attack = asyncio.create_task(scan_all(programs, spine.switch, "7001", PASSWORDS))
            calls = await calls_while(spine, attack)
            said = await attack
        await not_held_up(spine, probe, calls, resident_mb(spine.server.pid) - before_mb)
        assert "switch" in said["svmap"], "the scanner must have reached the switch"
        assert "found nothing" in said["svcrack"]
        assert "7001/" not in await spine.switch.cli("pjsip show contacts")
        await only_asked_for(spine, calls)
