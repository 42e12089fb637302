"""The ARI events and answers that FairDial understands, as strict types.

Shapes follow Asterisk 22's `rest-api/events.json`; only the fields that are used are named, unknown
ones pass. Whatever is not named here never reaches us: the client sets the application's event filter
to `EVENT_TYPES`.
"""

from typing import TypeVar

import msgspec

from ari_handlers.event_time import unix_ms
from fairdial.answer import endpoint_of


class CallerId(msgspec.Struct, frozen=True):
    """Caller identification as the switch shows it; never an identity."""

    number: str = ""
    name: str = ""


class Dialplan(msgspec.Struct, frozen=True):
    """Where in the dialplan a channel is."""

    context: str = ""
    exten: str = ""
    app_name: str = ""
    app_data: str = ""


class ChannelInfo(msgspec.Struct, frozen=True):
    """One channel. `protocol_id` is the SIP Call-ID, `state` e.g. Ring or Up."""

    id: str
    name: str
    state: str = ""
    protocol_id: str = ""
    accountcode: str = ""
    caller: CallerId = CallerId()
    dialplan: Dialplan = Dialplan()
    creationtime: str = ""

    @property
    def created_ms(self) -> int | None:
        """When it came to be (UTC milliseconds)."""
        return unix_ms(self.creationtime)

    @property
    def endpoint(self) -> str:
        """Name of the endpoint: "alice" of "PJSIP/alice-00000001"; "" where the name has no such form."""
        return endpoint_of(self.name)


class BridgeInfo(msgspec.Struct, frozen=True):
    """One bridge with the ids of the channels in it."""

    id: str
    channels: tuple[str, ...] = ()


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    """What every event has. `timestamp` is the switch's wall clock, ISO 8601 with offset."""

    timestamp: str = ""


class StasisStart(_Event, frozen=True, tag=True):
    """A channel came into the application."""

    channel: ChannelInfo
    args: tuple[str, ...] = ()


class StasisEnd(_Event, frozen=True, tag=True):
    """A channel left the application."""

    channel: ChannelInfo


class Dial(_Event, frozen=True, tag=True):
    """A `Dial()` went on: `dialstatus` is "", PROGRESS, RINGING, ANSWER, BUSY, NOANSWER, CANCEL, …"""

    peer: ChannelInfo
    caller: ChannelInfo | None = None
    dialstatus: str = ""


class ChannelDestroyed(_Event, frozen=True, tag=True):
    """A channel is gone; `cause` is Q.850."""

    channel: ChannelInfo
    cause: int = 0


class ChannelDtmfReceived(_Event, frozen=True, tag=True):
    """A key was pressed: `digit` is one of 0-9, *, #, A-D."""

    channel: ChannelInfo
    digit: str = ""


class Playback(msgspec.Struct, frozen=True):
    """A sound that is or was played."""

    id: str


class PlaybackFinished(_Event, frozen=True, tag=True):
    """A sound is over, or could not be played."""

    playback: Playback


class ChannelTalkingStarted(_Event, frozen=True, tag=True):
    """Somebody began to speak on a channel where that is detected."""

    channel: ChannelInfo


class ChannelTalkingFinished(_Event, frozen=True, tag=True):
    """Somebody fell silent there, after `duration` milliseconds of speech."""

    channel: ChannelInfo
    duration: int = 0


class Recording(msgspec.Struct, frozen=True):
    """What is or was recorded."""

    name: str


class RecordingFinished(_Event, frozen=True, tag=True):
    """A recording is over and stored."""

    recording: Recording


class RecordingFailed(_Event, frozen=True, tag=True):
    """Nothing could be recorded."""

    recording: Recording


class ApplicationReplaced(_Event, frozen=True, tag=True):
    """Another socket took the application over: this one is fenced off."""

    application: str = ""


class RestResponse(_Event, frozen=True, tag="RESTResponse"):
    """Answer to a request that was sent on the event socket."""

    request_id: str = ""
    status_code: int = 0
    reason_phrase: str = ""
    message_body: str = ""


CallEvent = StasisStart | StasisEnd | Dial | ChannelDestroyed | ChannelDtmfReceived
TalkEvent = ChannelTalkingStarted | ChannelTalkingFinished
RecordingEvent = RecordingFinished | RecordingFailed
Event = CallEvent | PlaybackFinished | TalkEvent | RecordingEvent | ApplicationReplaced | RestResponse

# RESTResponse must be among them: the filter drops answers to our own requests as well.
EVENT_TYPES = (
    "StasisStart",
    "StasisEnd",
    "Dial",
    "ChannelDestroyed",
    "ChannelDtmfReceived",
    "PlaybackFinished",
    "ChannelTalkingStarted",
    "ChannelTalkingFinished",
    "RecordingFinished",
    "RecordingFailed",
    "ApplicationReplaced",
    "RESTResponse",
)

_Shape = TypeVar("_Shape")

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def _decode(decoder: msgspec.json.Decoder[_Shape], data: str | bytes) -> _Shape:
    try:
        return decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        # Bytes that are not UTF-8, or brackets without end: what any caller might try to put into a header.
        raise msgspec.DecodeError(str(error)) from error


def decode(frame: str | bytes) -> Event:
    """One frame of the event socket. Raises msgspec.DecodeError for anything else."""
    return _decode(_decoder, frame)


def channel_ids(event: CallEvent) -> tuple[str, ...]:
    """Channels that an event speaks of, the followed one first."""
    if isinstance(event, Dial):
        return (event.caller.id, event.peer.id) if event.caller is not None else (event.peer.id,)
    return (event.channel.id,)


class _Status(msgspec.Struct, frozen=True):
    startup_time: str


class _StatusInfo(msgspec.Struct, frozen=True):
    status: _Status


class _System(msgspec.Struct, frozen=True):
    version: str


class _SystemInfo(msgspec.Struct, frozen=True):
    system: _System


class _Variable(msgspec.Struct, frozen=True):
    value: str


_variable = msgspec.json.Decoder(_Variable)
_channels = msgspec.json.Decoder(tuple[ChannelInfo, ...])
_recordings = msgspec.json.Decoder(tuple[Recording, ...])
_bridges = msgspec.json.Decoder(tuple[BridgeInfo, ...])
_status = msgspec.json.Decoder(_StatusInfo)
_system = msgspec.json.Decoder(_SystemInfo)


# Bodies of answers. All raise msgspec.DecodeError for anything else.


def decode_channels(body: str) -> tuple[ChannelInfo, ...]:
    """Body of `GET /channels`."""
    return _decode(_channels, body)


def decode_bridges(body: str) -> tuple[BridgeInfo, ...]:
    """Body of `GET /bridges`."""
    return _decode(_bridges, body)


def decode_recordings(body: str) -> tuple[Recording, ...]:
    """Body of `GET /recordings/stored`."""
    return _decode(_recordings, body)


def decode_variable(body: str) -> str:
    """Body of `GET /channels/{id}/variable`."""
    return _decode(_variable, body).value


def decode_startup_time(body: str) -> str:
    """Body of `GET /asterisk/info?only=status`."""
    return _decode(_status, body).status.startup_time


def decode_version(body: str | bytes) -> str:
    """Body of `GET /asterisk/info?only=system`."""
    return _decode(_system, body).system.version
