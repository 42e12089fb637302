"""What calls of FairDial's own are made with: keys in order, legs that ring until they answer or are given up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ari_handlers import events, owned
from ari_handlers.client import Client
from ari_handlers.collect import WITHHELD, prompt_for
from ari_handlers.owned import KEYS_MAX, Endpoints, Keys, LegNotAnswered, Legs, new_id
from ari_handlers.queues import CallQueue, CallQueues
from ari_handlers.resources import AriRefused, Channels, Playbacks
from fairdial.policy.decide import Allow
from fairdial.policy.outcomes import Reason
from fairdial.policy.rating import Tariff
from fairdial.policy.terms import Clause, Mode, Terms

LEG, CALLER = "own-1-second", "caller"
BUSY = 17


class FakeRequests:
    """Answers every request, or raises what a test says."""

    app = "fairdial"

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Mapping[str, str], object]] = []
        self.raises: Exception | None = None
        self.originated = asyncio.Event()

    async def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> str:
        self.sent.append((method, path, query or {}, body))
        if path == "channels":
            self.originated.set()
            if self.raises is not None:
                raise self.raises
        return ""

    def send(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> Awaitable[str]:
        return self.request(method, path, query, body)

    async def fetch(self, path: str) -> str:
        raise AssertionError(f"nothing is fetched here: {path}")

    def hung_up(self) -> list[str]:
        return [path.removeprefix("channels/") for method, path, _, _ in self.sent if method == "DELETE"]


class Phone:
    """Legs on fake requests, and one call's queue."""

    def __init__(self) -> None:
        self.requests = FakeRequests()
        self.queues = CallQueues()
        self.legs = Legs(cast(Client, SimpleNamespace(channels=Channels(self.requests), queues=self.queues)))
        queue = self.queues.open(CALLER)
        assert queue is not None
        self.queue: CallQueue = queue

    async def ring(self, **more: Any) -> "asyncio.Task[events.ChannelInfo]":
        """A leg that rings for the caller, from the moment that it was asked for."""
        task = asyncio.create_task(
            self.legs.ring(
                self.queue,
                LEG,
                "PJSIP/+44@carrier",
                **{"ring_s": 30, "lease_s": 93, "waiter": CALLER, **more},
            )
        )
        await self.requests.originated.wait()
        return task


@pytest.fixture
async def phone() -> AsyncIterator[Phone]:
    phone = Phone()
    yield phone
    assert len(phone.legs) == 0
    await phone.queues.stop(1)


def channel(channel_id: str = LEG) -> events.ChannelInfo:
    return events.ChannelInfo(channel_id, f"PJSIP/carrier-{channel_id}", "Up")


# --- legs --------------------------------------------------------------------------------------------


async def test_a_leg_has_its_lease_before_it_rings_and_is_there_when_it_answers(phone: Phone) -> None:
    ringing = await phone.ring()
    [(method, path, query, body)] = phone.requests.sent
    assert (method, path, query["channelId"], query["appArgs"]) == ("POST", "channels", LEG, owned.OWN)
    assert body == {"variables": {"TIMEOUT(absolute)": "93"}}
    assert phone.queues.find(LEG) is phone.queue
    assert phone.legs.came(channel())
    assert (await ringing).id == LEG
    assert phone.legs.is_up(LEG)
    assert phone.requests.hung_up() == []


async def test_a_leg_that_is_busy_says_why(phone: Phone) -> None:
    ringing = await phone.ring()
    phone.legs.gone(LEG, BUSY)
    with pytest.raises(LegNotAnswered) as raised:
        await ringing
    assert raised.value.cause == BUSY
    assert not phone.legs.is_up(LEG)
    # What comes after is of nobody.
    assert not phone.legs.came(channel())


async def test_a_leg_is_given_up_when_who_waits_for_it_is_gone(phone: Phone) -> None:
    ringing = await phone.ring()
    phone.legs.gone("somebody-else", 16)
    assert not ringing.done()
    phone.legs.gone(CALLER, 16)
    with pytest.raises(LegNotAnswered):
        await ringing
    assert phone.requests.hung_up() == [LEG]


async def test_a_leg_that_answered_and_went_is_known_to_be_gone_until_it_is_forgotten(phone: Phone) -> None:
    ringing = await phone.ring()
    phone.legs.came(channel())
    await ringing
    assert phone.legs.waited_for_by(CALLER) == LEG
    phone.legs.gone(LEG, 16)
    assert not phone.legs.is_up(LEG)
    phone.legs.forget(CALLER)
    assert phone.legs.waited_for_by(CALLER) is None


async def test_nobody_rings_longer_than_allowed(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned, "ANSWER_SLACK_S", 0.01)
    ringing = await phone.ring(ring_s=0)
    with pytest.raises(LegNotAnswered) as raised:
        await ringing
    assert raised.value.cause == owned.NO_ANSWER_CAUSE
    assert phone.requests.hung_up() == [LEG]


async def test_a_leg_that_the_switch_refuses_is_told_to_go_all_the_same(phone: Phone) -> None:
    phone.requests.raises = AriRefused(500, "POST channels", "Allocation failed")
    with pytest.raises(AriRefused):
        await (await phone.ring())
    assert phone.requests.hung_up() == [LEG]


async def test_who_is_cancelled_leaves_no_leg_ringing(phone: Phone) -> None:
    ringing = await phone.ring()
    ringing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ringing
    assert phone.requests.hung_up() == [LEG]


# --- keys --------------------------------------------------------------------------------------------


async def test_keys_come_in_the_order_in_which_they_were_pressed() -> None:
    keys = Keys()
    keys.press(LEG, "9")  # nobody listened yet
    keys.listen(LEG)
    for key in "12#":
        keys.press(LEG, key)
    assert [await keys.next(LEG, 1) for _ in range(3)] == ["1", "2", "#"]
    assert await keys.next(LEG, 0.01) is None


async def test_a_key_that_is_waited_for_ends_the_wait_and_another_channels_does_not() -> None:
    keys = Keys()
    keys.listen(LEG)
    keys.listen(CALLER)
    waiting = asyncio.create_task(keys.next(LEG, 5))
    await asyncio.sleep(0)
    keys.press(CALLER, "2")
    await asyncio.sleep(0)
    assert not waiting.done()
    keys.press(LEG, "1")
    assert await waiting == "1"


async def test_nobody_waits_for_keys_of_a_channel_that_is_gone() -> None:
    keys = Keys()
    keys.listen(LEG)
    keys.press(LEG, "1")
    waiting = asyncio.create_task(keys.next(LEG, 5))
    keys.gone(LEG)
    assert await waiting == "1"
    async with asyncio.timeout(1):
        assert await keys.next(LEG, 60) is None


async def test_only_so_many_keys_are_kept() -> None:
    keys = Keys()
    keys.listen(LEG)
    for _ in range(KEYS_MAX + 5):
        keys.press(LEG, "5")
    assert [await keys.next(LEG, 0) for _ in range(KEYS_MAX + 1)] == ["5"] * KEYS_MAX + [None]


async def test_keys_of_who_is_no_longer_listened_to_are_lost() -> None:
    keys = Keys()
    keys.listen(LEG)
    keys.forget(LEG)
    keys.press(LEG, "1")
    keys.listen(LEG)
    assert await keys.next(LEG, 0.01) is None


# --- sounds and names --------------------------------------------------------------------------------


async def test_a_sound_that_takes_too_long_is_stopped_and_one_that_ends_is_not() -> None:
    requests, playbacks = FakeRequests(), Playbacks()
    listener = Channels(requests).get(LEG)
    assert not await playbacks.hear_out(listener, ["tone:ring"], 0.01)
    playback = requests.sent[0][2]["playbackId"]
    assert requests.sent[1][:2] == ("DELETE", f"playbacks/{playback}")

    requests.sent.clear()
    hearing = asyncio.create_task(playbacks.hear_out(listener, ["sound:beep"], 5))
    await asyncio.sleep(0)
    playbacks.finished(requests.sent[0][2]["playbackId"])
    assert await hearing
    assert len(requests.sent) == 1


async def test_a_sound_is_stopped_where_nobody_waits_for_its_end_any_more() -> None:
    requests, playbacks = FakeRequests(), Playbacks()
    hearing = asyncio.create_task(playbacks.hear_out(Channels(requests).get(LEG), ["sound:beep"], 5))
    await asyncio.sleep(0)
    hearing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hearing
    assert [method for method, *_ in requests.sent] == ["POST", "DELETE"]


def caller(number: str) -> events.ChannelInfo:
    return events.ChannelInfo("1", "PJSIP/bob-1", caller=events.CallerId(number))


def allowed(reason: Reason, *modes: Mode) -> Allow:
    """A minute at 0.60, by any of these modes."""
    clause = Clause("plan", "1", "C1")
    tariff = Tariff(rate_per_min_micros=600_000)
    terms = tuple(Terms(mode, "EUR", tariff, "rate", clause) for mode in modes)
    return Allow(reason, clause, "acme", terms=terms)


DOT, PER_MINUTE = "sound:letters/dot", ("sound:for", "sound:minute")
PRICE = ("sound:digits/0", DOT, "sound:digits/6", *PER_MINUTE)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("+4420", ("sound:digits/4", "sound:digits/4", "sound:digits/2", "sound:digits/0")),
        ("10", ("sound:digits/1", "sound:digits/0")),
        ("", (WITHHELD,)),
        ("anonymous", (WITHHELD,)),
        ("+44,sound:x", (WITHHELD,)),
    ],
)
def test_who_calls_collect_is_said_by_number_or_as_unknown(number: str, said: tuple[str, ...]) -> None:
    media = prompt_for(["hello", "{caller}", "{rate}"], caller(number), allowed(Reason.COVERED))
    assert media == ("sound:hello", *said)


@pytest.mark.parametrize(
    ("allow", "said"),
    [
        (allowed(Reason.BY_CREDIT, Mode.CREDIT), PRICE),
        (allowed(Reason.PAST_ALLOWANCE, Mode.OVERAGE), PRICE),
        (allowed(Reason.WITHIN_ALLOWANCE, Mode.OVERAGE), ()),
        (allowed(Reason.COVERED, Mode.SURCHARGE), PRICE),
        (
            allowed(Reason.PAST_ALLOWANCE, Mode.OVERAGE, Mode.SURCHARGE),
            ("sound:digits/1", DOT, "sound:digits/2", *PER_MINUTE),
        ),
    ],
)
def test_the_price_is_said_where_there_is_one(allow: Allow, said: tuple[str, ...]) -> None:
    assert prompt_for(["{rate}"], caller(""), allow) == said


def test_ids_begin_with_the_switchs_name_and_differ() -> None:
    assert new_id("east").startswith("east-own-")
    assert new_id("").startswith("own-")
    assert new_id("east") != new_id("east")


def test_endpoints_need_a_place_for_who_is_called() -> None:
    endpoints = Endpoints("PJSIP/{number}@trunk", "PJSIP/{line}")
    assert endpoints.of_number("+4420") == "PJSIP/+4420@trunk"
    assert endpoints.of_line("ann") == "PJSIP/ann"
    for faulty in ({"public": "PJSIP/carrier"}, {"line": "PJSIP/ann"}):
        with pytest.raises(ValueError, match="write it where that belongs"):
            Endpoints(**faulty)
