"""The name that a caller of a reverse-charge call says: heard by who is called, and never kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.asterisk import Switch
from testbed.capture import Heard, is_audible, listening
from testbed.installation import Installation
from testbed.sipp import CallOutcome
from testbed.voice import Media, Voice, media_of, speaking, tone_s
from tests.switch.test_collect import ANN, BOB, QUIET_LINE, Exchange, at, running_exchange, seen

NAME_S = 0.7
# What is heard of the caller is all that is said.
SETTINGS = {
    "calls.collect_record_name": True,
    "calls.collect_prompt": ["{caller}"],
    "calls.collect_key_within_s": 3,
}


def recordings(switch: Switch) -> list[str]:
    """Files of the recordings that the switch keeps."""
    return sorted(path.name for path in folder(switch).rglob("*") if path.is_file())


def folder(switch: Switch) -> Path:
    """Where Asterisk keeps what is recorded over ARI."""
    return switch.directory / "spool" / "recording"


@dataclass(frozen=True)
class Asked:
    """A caller whom the switch has begun to record."""

    call: asyncio.Task[CallOutcome]
    voice: Voice
    media: Media


@asynccontextmanager
async def caller_asked(exchange: Exchange, *, give_up_after_s: float | None = None) -> AsyncIterator[Asked]:
    """A call to ann whose caller has heard the beep, and is silent so far."""
    switch = exchange.spine.switch
    call = asyncio.create_task(exchange.call(hang_up_after_s=1, give_up_after_s=give_up_after_s))
    try:
        media = await media_of(switch, BOB)
        async with speaking(switch, media) as voice:
            await recording_begun(switch)
            yield Asked(call, voice, media)
    finally:
        await asyncio.gather(call, return_exceptions=True)


async def recording_begun(switch: Switch) -> None:
    async with asyncio.timeout(10):
        while not recordings(switch):
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(installation: Installation, directory: Path) -> AsyncIterator[Exchange]:
    """An exchange that asks callers for their names, and at whose end none is kept."""
    async with running_exchange(installation, directory, SETTINGS) as exchange:
        folder(exchange.spine.switch).mkdir()
        await exchange.provision("own")
        yield exchange
        assert recordings(exchange.spine.switch) == []


async def heard_by_ann(exchange: Exchange, wire: Heard) -> bytes:
    """The samples that ann's phone was sent, once the call talks."""
    await exchange.spine.server.talking(ANN)
    return bytes(wire.samples_to[(await media_of(exchange.spine.switch, ANN)).phone_port])


async def test_who_is_called_hears_the_name_that_the_caller_said(
    installation: Installation, tmp_path: Path
) -> None:
    async with running(installation, tmp_path) as exchange:
        switch = exchange.spine.switch
        with listening(switch.pid) as wire:
            async with exchange.phone((1500, "1")) as phone, caller_asked(exchange) as asked:
                # Nobody rings before the name is known.
                assert phone.events() == []
                asked.voice.say(NAME_S)
                sound = await heard_by_ann(exchange, wire)
                async with asyncio.timeout(5):
                    # It was heard: nobody needs it any more.
                    while recordings(switch):
                        await asyncio.sleep(0.02)
                outcome = await asked.call
                assert (outcome.final_status, outcome.ended_by) == (200, "caller")
                # To be recorded is not to be answered.
                assert 0 <= (outcome.answered_at or 0) - at(phone, "key") < 0.5
        assert NAME_S - 0.2 <= tone_s(sound) <= NAME_S + 0.1
        # The caller was asked aloud.
        assert is_audible(wire.samples_to[asked.media.phone_port])
        assert await exchange.cost() == (1, 0)
        assert "does not exist" not in switch.log_path.read_text()


@pytest.mark.parametrize("said_s", [0.0, 0.06], ids=["nothing", "a click"])
async def test_who_says_nothing_is_announced_by_number(
    installation: Installation, tmp_path: Path, said_s: float
) -> None:
    async with running(installation, tmp_path) as exchange:
        with listening(exchange.spine.switch.pid) as wire:
            async with exchange.phone((1500, "1")), caller_asked(exchange) as asked:
                asked.voice.say(said_s)
                sound = await heard_by_ann(exchange, wire)
                assert (await asked.call).final_status == 200
        assert (is_audible(sound), tone_s(sound)) == (True, 0)


async def test_a_switch_that_cannot_record_announces_the_number(
    installation: Installation, tmp_path: Path
) -> None:
    async with running(installation, tmp_path) as exchange:
        switch = exchange.spine.switch
        folder(switch).rmdir()
        with listening(switch.pid) as wire:
            async with exchange.phone((1500, "1")):
                call = asyncio.create_task(exchange.call(hang_up_after_s=1))
                sound = await heard_by_ann(exchange, wire)
                assert (await call).final_status == 200
        assert (is_audible(sound), tone_s(sound)) == (True, 0)
        assert await exchange.cost() == (1, 0)


async def test_a_name_is_not_kept_where_the_call_is_refused(
    installation: Installation, tmp_path: Path
) -> None:
    async with (
        running(installation, tmp_path) as exchange,
        exchange.phone((800, "2")) as phone,
        caller_asked(exchange) as asked,
    ):
        asked.voice.say(NAME_S)
        await seen(phone, "bye_seen")
        async with asyncio.timeout(0.5):
            while recordings(exchange.spine.switch):
                await asyncio.sleep(0.01)
        assert (await asked.call).final_status == 403
        assert await exchange.cost() == (0, 0)


async def test_a_caller_who_hangs_up_while_being_recorded_rings_nobody(
    installation: Installation, tmp_path: Path
) -> None:
    async with (
        running(installation, tmp_path) as exchange,
        exchange.phone() as phone,
        # Counted from the first early media: the question takes about three seconds.
        caller_asked(exchange, give_up_after_s=4.5) as asked,
    ):
        asked.voice.say(9)
        assert (await asked.call).final_status == 487
        assert await exchange.cost() == (0, 0)
        assert phone.events() == []


async def test_a_caller_who_never_stops_is_heard_for_four_seconds(
    installation: Installation, tmp_path: Path
) -> None:
    async with running(installation, tmp_path) as exchange:
        with listening(exchange.spine.switch.pid) as wire:
            async with exchange.phone((6500, "1")) as phone, caller_asked(exchange) as asked:
                loop = asyncio.get_running_loop()
                begun_s = loop.time()
                asked.voice.say(20)
                await seen(phone, "answered")
                assert loop.time() - begun_s < 6
                asked.voice.say(0)
                sound = await heard_by_ann(exchange, wire)
                assert (await asked.call).final_status == 200
        assert 3.5 <= tone_s(sound) <= 5.1


@pytest.mark.parametrize("how", ["killed", "stopped", "cut off"])
async def test_what_an_earlier_run_recorded_is_deleted_and_nothing_else(
    installation: Installation, tmp_path: Path, how: str
) -> None:
    async with running(installation, tmp_path) as exchange:
        server, switch = exchange.spine.server, exchange.spine.switch
        others = folder(switch) / "fairdial-name-of-somebody-else.wav"
        async with exchange.phone((1500, "1")) as phone, caller_asked(exchange) as asked:
            others.write_bytes(b"")
            asked.voice.say(9)
            if how == "cut off":
                exchange.relay.cut()
                async with asyncio.timeout(5):
                    while (await server.ask("status"))["ari"]:
                        await asyncio.sleep(0.02)
                exchange.relay.mend()
                await server.ready()
                # It goes on where it was, with the number.
                assert (await asked.call).final_status == 200
            else:
                await (server.kill() if how == "killed" else server.stop())
                await server.launch()
                # The caller is refused first, then what is left of the call is swept away.
                assert (await asked.call).final_status == 503
                assert phone.events() == []
            async with asyncio.timeout(2):
                while recordings(switch) != [others.name]:
                    await asyncio.sleep(0.02)
        others.unlink()
        assert await exchange.cost() == ((1 if how == "cut off" else 0), 0)


async def test_a_line_that_does_not_answer_leaves_no_name(installation: Installation, tmp_path: Path) -> None:
    async with running(installation, tmp_path) as exchange:
        await exchange.spine.server.ask("line_add", line=QUIET_LINE, account="acme")
        await exchange.spine.switch.cli(f"database put did 442079460123 {QUIET_LINE}")
        async with caller_asked(exchange) as asked:
            asked.voice.say(NAME_S)
            assert (await asked.call).final_status == 480
        assert await exchange.cost() == (0, 0)
