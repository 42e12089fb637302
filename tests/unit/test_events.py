"""ARI events as Asterisk sends them, and what is refused."""

import msgspec
import pytest

from ari_handlers import events

ENVELOPE = {
    "timestamp": "2026-11-21T08:00:00.000+0000",
    "asterisk_id": "52:54:00:12:34:56",
    "application": "fairdial",
}


def channel(name: str = "PJSIP/alice-00000001", **more: object) -> dict[str, object]:
    """A channel with every field of Asterisk 22's `Channel` model."""
    return {
        "id": "1795248000.1",
        "name": name,
        "state": "Ring",
        "protocol_id": "3848276298220188511@192.0.2.1",
        "caller": {"name": "Alice", "number": "441632960001"},
        "connected": {"name": "", "number": ""},
        "accountcode": "alice",
        "dialplan": {
            "context": "outbound",
            "exten": "0100",
            "priority": 2,
            "app_name": "Stasis",
            "app_data": "fairdial,outbound,0100",
        },
        "creationtime": "2026-11-21T08:00:00.000+0000",
        "language": "en",
        "channelvars": {"A": "b"},
        **more,
    }


def decoded(event_type: str, **fields: object) -> events.Event:
    return events.decode(msgspec.json.encode({"type": event_type, **fields, **ENVELOPE}))


def test_stasis_start() -> None:
    event = decoded("StasisStart", args=["outbound", "0100"], channel=channel(), replace_channel=channel())
    assert isinstance(event, events.StasisStart)
    assert (event.args, event.timestamp) == (("outbound", "0100"), ENVELOPE["timestamp"])
    assert event.channel == events.ChannelInfo(
        id="1795248000.1",
        name="PJSIP/alice-00000001",
        state="Ring",
        protocol_id="3848276298220188511@192.0.2.1",
        accountcode="alice",
        caller=events.CallerId("441632960001", "Alice"),
        dialplan=events.Dialplan("outbound", "0100", "Stasis", "fairdial,outbound,0100"),
        creationtime="2026-11-21T08:00:00.000+0000",
    )
    assert event.channel.created_ms == 1_795_248_000_000


def test_stasis_end() -> None:
    event = decoded("StasisEnd", channel=channel())
    assert isinstance(event, events.StasisEnd)
    assert events.channel_ids(event) == ("1795248000.1",)


@pytest.mark.parametrize("dialstatus", ["", "RINGING", "PROGRESS", "ANSWER", "CHANUNAVAIL"])
def test_dial(dialstatus: str) -> None:
    event = decoded(
        "Dial",
        caller=channel(),
        peer=channel("PJSIP/carrier-00000002", id="1795248000.2"),
        dialstatus=dialstatus,
        dialstring="0100@carrier",
        forward="",
    )
    assert isinstance(event, events.Dial)
    assert event.dialstatus == dialstatus
    assert events.channel_ids(event) == ("1795248000.1", "1795248000.2")


def test_dial_that_was_originated_has_no_caller() -> None:
    event = decoded("Dial", peer=channel(), dialstatus="ANSWER")
    assert isinstance(event, events.Dial)
    assert event.caller is None
    assert events.channel_ids(event) == ("1795248000.1",)


def test_channel_destroyed() -> None:
    event = decoded(
        "ChannelDestroyed", cause=16, cause_txt="Normal Clearing", tech_cause=200, channel=channel()
    )
    assert isinstance(event, events.ChannelDestroyed)
    assert (event.cause, event.channel.endpoint) == (16, "alice")


def test_application_replaced() -> None:
    event = decoded("ApplicationReplaced")
    assert isinstance(event, events.ApplicationReplaced)
    assert event.application == "fairdial"


@pytest.mark.parametrize("more", [{}, {"content_type": "application/json", "message_body": "[]"}])
def test_rest_response(more: dict[str, str]) -> None:
    event = decoded(
        "RESTResponse",
        transaction_id="",
        request_id="7",
        status_code=409,
        reason_phrase="Conflict",
        uri="channels/1.1/continue",
        **more,
    )
    assert isinstance(event, events.RestResponse)
    assert (event.request_id, event.status_code, event.reason_phrase) == ("7", 409, "Conflict")
    assert event.message_body == more.get("message_body", "")


def test_every_type_that_is_let_through_can_be_read() -> None:
    """And no other: what the filter lets pass but nobody reads would only cost time."""
    fields = {
        "channel": channel(),
        "peer": channel(),
        "playback": {"id": "play-1"},
        "recording": {"name": "name-1", "format": "wav", "state": "done"},
    }
    assert {type(decoded(name, **fields)).__name__ for name in events.EVENT_TYPES} == {
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
        "RestResponse",
    }
    with pytest.raises(msgspec.DecodeError, match="ChannelVarset"):
        decoded("ChannelVarset", variable="A", value="b", channel=channel())


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"null",
        b"[]",
        b'{"channel":{"id":"1.1","name":"PJSIP/alice-00000001"}}',
        b'{"type":7}',
        b'{"type":"StasisStart"}',
        b'{"type":"StasisStart","channel":{"id":1.1,"name":"PJSIP/alice-00000001"}}',
        b'{"type":"StasisStart","channel":{"id":"1.1"}}',
        b'{"type":"StasisStart","args":"outbound","channel":{"id":"1.1","name":"x"}}',
        b'{"type":"StasisStart","args":[1],"channel":{"id":"1.1","name":"x"}}',
        b'{"type":"ChannelDestroyed","cause":"16","channel":{"id":"1.1","name":"x"}}',
        b'{"type":"Dial","peer":null}',
        b'{"type":"RESTResponse","status_code":"200"}',
        b'{"type":"StasisEnd","channel":{"id":"\xff","name":"x"}}',
        b'{"type":"StasisEnd","channel":{"id":"1.1","name":"x"}',
        b'{"type":"StasisEnd","channel":' + b"[" * 100_000,
    ],
)
def test_anything_else_is_refused_with_one_kind_of_error(frame: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        events.decode(frame)


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [
        ("PJSIP/alice-00000001", "alice"),
        ("PJSIP/alice-home-00000001", "alice-home"),
        ("PJSIP/+441632960001-0000000a", "+441632960001"),
        ("Local/100@ctx-00000001;1", "100@ctx"),
        ("Local/100@ctx-with-dash-00000001;2", "100@ctx-with-dash"),
        ("PJSIP/alice", ""),
        ("alice-00000001", ""),
        ("/alice-00000001", ""),
        ("PJSIP/-00000001", ""),
        ("", ""),
    ],
)
def test_endpoint_is_the_part_of_the_name_between_technology_and_serial(name: str, endpoint: str) -> None:
    assert events.ChannelInfo("1.1", name).endpoint == endpoint


def test_bodies_of_answers() -> None:
    listing = msgspec.json.encode([channel(), channel("PJSIP/bob-00000002")]).decode()
    assert [info.endpoint for info in events.decode_channels(listing)] == ["alice", "bob"]
    assert events.decode_channels("[]") == ()
    status = '{"status":{"startup_time":"2026-11-21T08:00:00.000+0000","last_reload_time":"2026-11-21"}}'
    assert events.decode_startup_time(status) == "2026-11-21T08:00:00.000+0000"
    assert events.decode_version('{"system":{"version":"22.10.1","entity_id":"x"}}') == "22.10.1"


@pytest.mark.parametrize("body", ["", "{}", "null", '{"status":{},"system":{}}', '{"status":[],"system":7}'])
def test_bodies_of_another_shape_are_refused(body: str) -> None:
    for decode in (events.decode_channels, events.decode_startup_time, events.decode_version):
        with pytest.raises(msgspec.DecodeError):
            decode(body)
