"""What can be asked of Asterisk over ARI: channels, bridges, sounds played and recorded, the application, the switch.

Handles: they hold an id and send requests, as ari-py's do; whether the thing exists, the switch knows. Leaves to
`client.py` how requests travel. Requests that may be repeated take "gone already" for done.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from ari_handlers import events

_Read = TypeVar("_Read")


class AriError(Exception):
    """Base of what the client raises."""


class AriUnavailable(AriError):
    """There is no connection, or it broke before the answer; the request may or may not have been done."""


class AriTimeout(AriUnavailable):
    """No answer within the time limit."""


class AriRefused(AriError):
    """Asterisk answered with an error. `status` is the HTTP status: 404 no such channel, 409 not in Stasis."""

    def __init__(self, status: int, request: str, reason: str) -> None:
        self.status = status
        super().__init__(f"{request}: {status} {reason}")


class AriUnreadable(AriError):
    """Asterisk answered with something that its API does not describe."""


async def _unless_gone(request: Awaitable[str]) -> None:
    """Done already is done: what no longer exists, or no longer plays."""
    try:
        await request
    except AriRefused as error:
        if error.status not in (404, 409):
            raise


class Requests(Protocol):
    """What carries requests to one switch, for one application."""

    @property
    def app(self) -> str: ...

    def send(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> Awaitable[str]: ...

    async def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> str: ...

    async def fetch(self, path: str) -> str: ...


def _read_as(decode: Callable[[str], _Read], body: str, request: str) -> _Read:
    try:
        return decode(body)
    except msgspec.DecodeError as error:
        raise AriUnreadable(f"{request}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Heard:
    """What sounds can be played to: a channel, or all who are in a bridge."""

    COLLECTION: ClassVar[str]
    client: Requests
    id: str

    @property
    def _path(self) -> str:
        return f"{self.COLLECTION}/{quote(self.id, safe='')}"

    async def play(self, playback_id: str, media: Sequence[str]) -> None:
        """Begin to play sounds one after the other: "sound:conf-full", "digits:42", "tone:ring"."""
        query = {"media": ",".join(media), "playbackId": playback_id}
        await self.client.request("POST", f"{self._path}/play", query)

    async def start_music(self) -> None:
        """Music on hold until `stop_music`."""
        await self.client.request("POST", f"{self._path}/moh")

    async def stop_music(self) -> None:
        """Also where none plays."""
        await _unless_gone(self.client.request("DELETE", f"{self._path}/moh"))


@dataclass(frozen=True, slots=True)
class Channel(_Heard):
    """A channel by id; whether it exists, the switch knows."""

    COLLECTION = "channels"

    async def set_variable(self, variable: str, value: str) -> None:
        """Only while it is in Stasis; elsewhere Asterisk answers 409."""
        await self.send_variable(variable, value)

    async def variable(self, variable: str) -> str | None:
        """Value of a variable or a function such as CHANNEL(pjsip,secure); None where it has none."""
        try:
            body = await self.client.request("GET", f"{self._path}/variable", {"variable": variable})
        except AriRefused as error:
            if error.status in (404, 500):
                return None
            raise
        return _read_as(events.decode_variable, body, f"GET {self._path}/variable")

    def send_variable(self, variable: str, value: str) -> Awaitable[str]:
        """`set_variable` as a request on its way."""
        return self.client.send("POST", f"{self._path}/variable", {"variable": variable, "value": value})

    def send_continue(self, context: str = "", extension: str = "", priority: int = 1) -> Awaitable[str]:
        """`continue_in_dialplan` as a request on its way."""
        query = {"context": context, "extension": extension, "priority": str(priority)} if context else None
        return self.client.send("POST", f"{self._path}/continue", query)

    async def continue_in_dialplan(self, context: str = "", extension: str = "", priority: int = 1) -> None:
        """Leave Stasis; the dialplan goes on there, or at the next priority if no context is given."""
        await self.send_continue(context, extension, priority)

    async def exists(self) -> None:
        """Raises AriRefused (404) for a channel that is gone."""
        await self.client.request("GET", self._path)

    async def hangup(self, reason_code: int = 16) -> None:
        """Hang up with a Q.850 cause. A channel that is gone already is no error, so it may be repeated."""
        await _unless_gone(self.client.request("DELETE", self._path, {"reason_code": str(reason_code)}))

    async def answer(self) -> None:
        """Answer it."""
        await self.client.request("POST", f"{self._path}/answer")

    async def progress(self) -> None:
        """Let the caller hear early media; nothing is answered."""
        await self.client.request("POST", f"{self._path}/progress")

    async def ring(self) -> None:
        """Let it hear ringing until `stop_ringing`: 180 before it is answered, a tone after."""
        await self.client.request("POST", f"{self._path}/ring")

    async def stop_ringing(self) -> None:
        """Also where none is heard."""
        await _unless_gone(self.client.request("DELETE", f"{self._path}/ring"))

    async def stop_playing(self, playback_id: str) -> None:
        """Also where it is over."""
        await _unless_gone(self.client.request("DELETE", f"playbacks/{quote(playback_id, safe='')}"))

    async def snoop(self, snoop_id: str, app_args: str) -> None:
        """A channel that whispers to whoever is on this one, handed to our application with `app_args`."""
        await self._snoop(snoop_id, {"whisper": "out"}, app_args)

    async def overhear(self, snoop_id: str, app_args: str) -> None:
        """A channel on which is heard what whoever is on this one says, answered or not, handed over likewise."""
        await self._snoop(snoop_id, {"spy": "in"}, app_args)

    async def _snoop(self, snoop_id: str, how: Mapping[str, str], app_args: str) -> None:
        query = {**how, "app": self.client.app, "appArgs": app_args}
        await self.client.request("POST", f"{self._path}/snoop/{quote(snoop_id, safe='')}", query)

    async def record(self, name: str, *, longest_s: int, silence_s: int) -> None:
        """Begin to record what is heard from it, until `silence_s` of silence. Asterisk answers it (22.10)."""
        query = {
            "name": name,
            "format": "wav",
            "maxDurationSeconds": str(longest_s),
            "maxSilenceSeconds": str(silence_s),
            "ifExists": "overwrite",
        }
        await self.client.request("POST", f"{self._path}/record", query)


@dataclass(frozen=True, slots=True)
class Channels:
    """`/channels`."""

    client: Requests

    def get(self, channel_id: str) -> Channel:
        """A handle; sends nothing."""
        return Channel(self.client, channel_id)

    async def originate(
        self,
        channel_id: str,
        endpoint: str,
        *,
        app_args: str,
        caller_id: str = "",
        ring_s: int,
        variables: Mapping[str, str],
        originator: str | None = None,
    ) -> None:
        """Call an endpoint such as "PJSIP/+4420…@carrier"; answered, it comes to our application.

        variables are set before it rings, so that a lease among them holds from then on. originator: the channel
        from which it takes account code, language and formats.
        """
        query = {
            "endpoint": endpoint,
            "app": self.client.app,
            "appArgs": app_args,
            "timeout": str(ring_s),
            "channelId": channel_id,
        }
        if caller_id:
            query["callerId"] = caller_id
        if originator is not None:
            query["originator"] = originator
        await self.client.request("POST", "channels", query, {"variables": dict(variables)})

    async def list(self) -> tuple[events.ChannelInfo, ...]:
        """All channels of the switch. Also raises AriUnreadable.

        Over HTTP: Asterisk 22.10 puts a whole frame of the event socket onto its thread's stack. One of 465 KB
        passed, a listing of 1,130 channels (about half a megabyte) crashed it.
        """
        body = await self.client.fetch("channels")
        return _read_as(events.decode_channels, body, "GET channels")


@dataclass(frozen=True, slots=True)
class Bridge(_Heard):
    """A mixing bridge of ours by id."""

    COLLECTION = "bridges"

    async def exists(self) -> bool:
        """Whether it is there."""
        try:
            await self.client.request("GET", self._path)
        except AriRefused as error:
            if error.status != 404:
                raise
            return False
        return True

    async def create(self) -> None:
        """Make it; repeating changes nothing."""
        try:
            await self.client.request("POST", self._path, {"type": "mixing"})
        except AriRefused as error:
            if error.status != 409:  # there already
                raise

    async def add(self, *channel_ids: str) -> None:
        """Let channels, which must be in Stasis, hear each other. Music that they hear ends."""
        await self.client.request("POST", f"{self._path}/addChannel", {"channel": ",".join(channel_ids)})

    async def destroy(self) -> None:
        """Channels in it stay up. One that is gone already is no error."""
        await _unless_gone(self.client.request("DELETE", self._path))


@dataclass(frozen=True, slots=True)
class Bridges:
    """`/bridges`."""

    client: Requests

    def get(self, bridge_id: str) -> Bridge:
        """A handle; sends nothing."""
        return Bridge(self.client, bridge_id)

    async def list(self) -> tuple[events.BridgeInfo, ...]:
        """All bridges of the switch, also those of its own `Dial()`s. Also raises AriUnreadable."""
        return _read_as(events.decode_bridges, await self.client.fetch("bridges"), "GET bridges")


class Playbacks:
    """Sounds that somebody waits for, by playback id."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Event] = {}

    def finished(self, playback_id: str) -> None:
        """The sound is over."""
        waiting = self._waiting.get(playback_id)
        if waiting is not None:
            waiting.set()

    async def hear_out(self, channel: Channel | Bridge, media: Sequence[str], within_s: float) -> bool:
        """Play sounds to the end, at most `within_s`; False where they were not heard out.

        A sound that is missing, or a link that is slow, holds nobody up longer than that. What still plays then,
        or when this is cancelled, is stopped: until it is over, the channel does nothing else.
        """
        playback_id = f"play-{secrets.token_hex(8)}"
        over = self._waiting[playback_id] = asyncio.Event()
        try:
            async with asyncio.timeout(within_s):
                await channel.play(playback_id, media)
                await over.wait()
        except AriError:
            return False
        except TimeoutError:
            await self._stop(channel.client, playback_id)
            return False
        except asyncio.CancelledError:
            await self._stop(channel.client, playback_id)
            raise
        finally:
            del self._waiting[playback_id]
        return True

    @staticmethod
    async def _stop(client: Requests, playback_id: str) -> None:
        with contextlib.suppress(AriError):
            await client.request("DELETE", f"playbacks/{playback_id}")


@dataclass(slots=True)
class Recording:
    """A recording that somebody waits for. spoken_ms: speech so far, without the words that are just being said."""

    name: str
    channel_id: str
    over: asyncio.Event = field(default_factory=asyncio.Event)
    spoken_ms: int = 0
    speaks: bool = False


class Recordings:
    """`/recordings`, and those that somebody waits for.

    How long somebody spoke is told by Asterisk's TALK_DETECT() on the channel that is recorded: the durations of
    RecordingFinished are whole seconds, and Asterisk 22.10 counts two of silence as one of speech.
    """

    def __init__(self, client: Requests) -> None:
        self._client = client
        self._by_name: dict[str, Recording] = {}
        self._by_channel: dict[str, Recording] = {}

    def expect(self, name: str, channel_id: str) -> Recording:
        """From now on that recording, made from that channel, is followed, until `forget`."""
        recording = Recording(name, channel_id)
        self._by_name[name] = self._by_channel[channel_id] = recording
        return recording

    def forget(self, recording: Recording) -> None:
        """Nobody waits for it any more."""
        self._by_name.pop(recording.name, None)
        self._by_channel.pop(recording.channel_id, None)

    def speaks(self, channel_id: str) -> None:
        """Somebody began to speak."""
        recording = self._by_channel.get(channel_id)
        if recording is not None:
            recording.speaks = True

    def fell_silent(self, channel_id: str, spoken_ms: int) -> None:
        """Somebody fell silent, who had spoken for so long."""
        recording = self._by_channel.get(channel_id)
        if recording is not None:
            recording.speaks = False
            recording.spoken_ms += spoken_ms

    def over(self, name: str) -> None:
        """The recording is stored, or could not be made."""
        recording = self._by_name.get(name)
        if recording is not None:
            recording.over.set()

    async def stored(self) -> tuple[str, ...]:
        """Names of all stored recordings of the switch. Also raises AriUnreadable.

        Over HTTP, as there may be many. Asterisk 22.10 answers 500 where its folder for them does not exist.
        """
        body = await self._client.fetch("recordings/stored")
        found = _read_as(events.decode_recordings, body, "GET recordings/stored")
        return tuple(each.name for each in found)

    async def delete(self, name: str) -> None:
        """Delete a stored one. One that is gone already, or never was, is no error."""
        await _unless_gone(self._client.request("DELETE", f"recordings/stored/{quote(name, safe='')}"))


@dataclass(frozen=True, slots=True)
class Applications:
    """`/applications/{app}` of our own application."""

    client: Requests

    async def follow_all_channels(self) -> None:
        """Hear of every channel of the switch, in Stasis or not, in one subscription.

        One for each channel would cost a request a leg, and each answer names all channels followed so far.
        """
        await self.client.request("POST", f"{self._path}/subscription", {"eventSource": "channel:"})

    async def set_event_filter(self, types: tuple[str, ...]) -> None:
        """Let only events of these types come."""
        await self.client.request(
            "PUT", f"{self._path}/eventFilter", body={"allowed": [{"type": name} for name in types]}
        )

    @property
    def _path(self) -> str:
        return f"applications/{quote(self.client.app, safe='')}"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """`/endpoints`: what the switch says to phones outside of calls."""

    client: Requests

    async def send_message(self, to: str, sender: str, text: str) -> None:
        """A text to an endpoint such as "pjsip:alice" (SIP MESSAGE). The switch has it then; what the phone answers is
        not told. Raises AriError; AriRefused where there is no such endpoint, or nobody is registered there.
        """
        await self.client.request("PUT", "endpoints/sendMessage", {"to": to, "from": sender, "body": text})


@dataclass(frozen=True, slots=True)
class AsteriskInfo:
    """`/asterisk/info`."""

    client: Requests

    async def startup_time(self) -> str:
        """When this Asterisk was started; another value means another process."""
        return await self._info("status", events.decode_startup_time)

    async def version(self) -> str:
        """Version of Asterisk, such as "22.10.1"."""
        return await self._info("system", events.decode_version)

    async def ping(self) -> None:
        """A sign of life; the answer comes after all events of before. Raises AriError."""
        await self.client.request("GET", "asterisk/ping")

    async def _info(self, only: str, decode: Callable[[str], str]) -> str:
        body = await self.client.request("GET", "asterisk/info", {"only": only})
        return _read_as(decode, body, "GET asterisk/info")
