"""When a recording counts as a name, what is said of the caller then, and what becomes of names that nobody needs."""

from collections.abc import Awaitable, Mapping
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from ari_handlers import caller_name, events
from ari_handlers.caller_name import NAME_MS_MIN, CallerNames, ear_of, recording_of
from ari_handlers.collect import prompt_for
from ari_handlers.dial import own_call_of
from ari_handlers.followed import DialCall, placed_here
from ari_handlers.owned import LegNotAnswered, OwnCalls
from ari_handlers.resources import AriError, AriRefused, AriUnavailable, Channels, Recordings
from fairdial.policy.decide import Allow
from fairdial.policy.outcomes import Reason
from fairdial.policy.terms import Clause

FOLLOWED, ENDED = own_call_of("1.1"), own_call_of("2.2")


class Switch:
    """Keeps recordings; what is said while it records, a test says. Also its parts that set calls up."""

    app = "fairdial"

    def __init__(self, *stored: str) -> None:
        self.stored = list(stored)
        self.sent: list[str] = []
        self.raises: AriError | None = None
        self.spoken_ms: tuple[int, ...] = ()
        self.ends = True
        self.recordings = Recordings(self)
        self.channels = Channels(self)
        self.hung_up: list[str] = []

    async def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> str:
        self.sent.append(f"{method} {path}")
        if self.raises is not None:
            raise self.raises
        if path.endswith("/record"):
            self._record(path.split("/")[1], (query or {})["name"])
        if method == "DELETE" and path.startswith("recordings/stored/"):
            name = path.removeprefix("recordings/stored/")
            if name not in self.stored:
                raise AriRefused(404, path, "Not Found")
            self.stored.remove(name)
        return ""

    def _record(self, channel_id: str, name: str) -> None:
        self.stored.append(name)
        for spoken_ms in self.spoken_ms:
            self.recordings.speaks(channel_id)
            self.recordings.fell_silent(channel_id, spoken_ms)
        if self.ends:
            self.recordings.over(name)

    def send(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> Awaitable[str]:
        return self.request(method, path, query, body)

    async def fetch(self, path: str) -> str:
        if self.raises is not None:
            raise self.raises
        return msgspec.json.encode([{"name": name, "format": "wav"} for name in self.stored]).decode()

    def names(self) -> CallerNames:
        async def hear(*_: object) -> bool:
            return True

        async def overhear(*_: object) -> None:
            if "no ear" in self.stored:
                raise LegNotAnswered("ear", 0)

        async def hang_up(channel_id: str) -> None:
            self.hung_up.append(channel_id)

        dials = SimpleNamespace(places=placed_here, follows=lambda call_id: call_id == FOLLOWED)
        legs = SimpleNamespace(overhear=overhear, hang_up=hang_up)
        own = SimpleNamespace(client=self, dials=dials, legs=legs, hear=hear, on_sweep=lambda _: None)
        return CallerNames(cast(OwnCalls, own))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> DialCall:
    monkeypatch.setattr(caller_name, "rings", lambda _: True)
    return cast(DialCall, SimpleNamespace(call_id=FOLLOWED, channel="1.1", queue=None))


@pytest.mark.parametrize(
    ("spoken_ms", "said"),
    [((NAME_MS_MIN,), True), ((100, 60), True), ((NAME_MS_MIN - 1,), False), ((), False)],
)
async def test_only_what_is_long_enough_is_a_name(
    call: DialCall, spoken_ms: tuple[int, ...], said: bool
) -> None:
    switch = Switch()
    switch.spoken_ms = spoken_ms
    names = switch.names()
    assert await names.ask(call) == (recording_of(FOLLOWED) if said else None)
    # Not the caller: to be recorded is to be answered.
    assert f"POST channels/{ear_of(FOLLOWED)}/record" in switch.sent
    assert "POST channels/1.1/record" not in switch.sent
    assert switch.hung_up == [ear_of(FOLLOWED)]
    await names.delete(call)
    assert switch.stored == []


async def test_a_recording_that_never_ends_is_given_up(
    call: DialCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("RECORD_WITHIN_S", "ANSWER_SLACK_S", "STORED_WITHIN_S"):
        monkeypatch.setattr(caller_name, bound, 0.01)
    switch = Switch()
    switch.spoken_ms, switch.ends = (900,), False
    assert await switch.names().ask(call) is None
    assert switch.hung_up == [ear_of(FOLLOWED)]


async def test_a_caller_who_cannot_be_overheard_has_no_name(call: DialCall) -> None:
    switch = Switch("no ear")
    assert await switch.names().ask(call) is None
    assert not [request for request in switch.sent if request.endswith("/record")]


@pytest.mark.parametrize("error", [AriRefused(500, "record", "Internal"), AriUnavailable("gone")])
async def test_a_switch_that_fails_leaves_the_number(call: DialCall, error: AriError) -> None:
    switch = Switch()
    switch.raises = error
    names = switch.names()
    assert await names.ask(call) is None
    await names.delete(call)
    await names.sweep(frozenset())


async def test_the_sweep_takes_names_of_calls_that_are_over_and_nothing_else() -> None:
    kept = [recording_of(FOLLOWED), "somebody-elses", "fairdial-name-of-another"]
    switch = Switch(*kept, recording_of(ENDED))
    await switch.names().sweep({ear_of(FOLLOWED), ear_of(ENDED), "2.2", "whatever-name"})
    assert switch.stored == kept
    assert switch.hung_up == [ear_of(ENDED)]


async def test_words_and_ends_of_what_nobody_waits_for_are_passed_over() -> None:
    switch = Switch()
    recording = switch.recordings.expect("name", "ear")
    switch.recordings.fell_silent("another", 900)
    switch.recordings.over("another")
    assert (recording.spoken_ms, recording.over.is_set()) == (0, False)
    switch.recordings.forget(recording)
    switch.recordings.fell_silent("ear", 900)
    switch.recordings.over("name")
    assert (recording.spoken_ms, recording.over.is_set()) == (0, False)


@pytest.mark.parametrize("number", ["+4420", ""])
def test_the_name_is_heard_in_place_of_the_number(number: str) -> None:
    caller = events.ChannelInfo("1", "PJSIP/bob-1", caller=events.CallerId(number))
    allow = Allow(Reason.COVERED, Clause("plan", "1", "C1"), "acme")
    assert prompt_for(["hello", "{caller}"], caller, allow, "a-name") == ("sound:hello", "recording:a-name")
    assert prompt_for(["{caller}"], caller, allow) != ("recording:a-name",)
