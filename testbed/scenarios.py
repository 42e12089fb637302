"""The SIPp scenarios that the phones follow, as XML text.

A scenario writes one log line for each step: `EVENT CALL_ID SECONDS MICROSECONDS …`, by the clock of the phone
itself (`gettimeofday`). `testbed.sipp` runs the scenarios and reads these lines.

RFC 3261 is followed as far as a phone on loopback needs it: CANCEL and the ACK of a refusal carry the branch of
their INVITE (9.1, 17.1.1.3), the ACK of a 200 a new one (13.2.2.4).

A steered phone does in a conversation what it is told by cues: requests `INFO` with its Call-ID and a header `Cue:`,
which come from the test and not from the switch (`CUES`). Transfers are those of RFC 5589, hold that of RFC 3264.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from testbed.installation import TestbedError

Signalling = Literal["clear", "tls", "claims-tls"]
"""How a phone signals; "claims-tls" is in clear with a Contact that says otherwise."""

# The ending of a number whose phone answers and then hangs up by itself.
HANGS_UP = "92"

# The ending of a number whose phone answers and then does as it is told.
STEERED = "88"

CUES = ("bye", "refer", "hold", "resume", "fax", "press")
"""What a steered phone can be told: to hang up, to send REFER with the rest of the cue as Refer-To, to send a
re-INVITE that puts the other side on hold, takes it back, or asks for T.38, to press the key that follows (INFO)."""

# How long a phone waits for the answer to its CANCEL or BYE.
GLARE_MS = 5_000

# What a UAC may be refused with; SIPp must be told each code by itself.
FINAL_STATUSES = (
    *(300, 301, 302, 305, 380),
    *(400, 401, 402, 403, 404, 405, 406, 407, 408, 410, 413, 414, 415, 416, 420, 421, 423),
    *(480, 481, 482, 483, 484, 485, 486, 487, 488, 491, 493),
    *(500, 501, 502, 503, 504, 505, 513, 580, 600, 603, 604, 606),
)

_CLOCK = '<gettimeofday assign_to="seconds,micros"/>'
_STAMP = "[call_id] [$seconds] [$micros]"


def caller(
    *,
    hang_up_after_ms: int | None,
    give_up_after_ms: int | None,
    ring_limit_ms: int,
    talk_limit_ms: int,
    extra_headers: Mapping[str, str],
    signalling: Signalling = "clear",
    srtp: bool = False,
    video: bool = False,
    steered: bool = False,
) -> str:
    """A phone that calls: From user and dialled number are fields 0 and 1 of the injection file.

    It cancels after `give_up_after_ms`, at most `ring_limit_ms`, and hangs up after `hang_up_after_ms`. A
    conversation that lasts longer than `talk_limit_ms` is logged as `overdue` and ended. What it says over
    `signalling` "tls" another has to carry. With `srtp` it offers encrypted media (SDES, RFC 4568) and nothing else,
    with `video` a picture (H.264) besides. A `steered` one takes cues, and logs what names its dialog.
    """
    via = "TLS" if signalling == "tls" else "UDP"
    contact = "" if signalling == "clear" else ";transport=tls"
    headers = "".join(f"      {_checked(name)}: {_checked(value)}\n" for name, value in extra_headers.items())
    give_up_ms = ring_limit_ms if give_up_after_ms is None else min(give_up_after_ms, ring_limit_ms)
    hanging_up = "overdue" if hang_up_after_ms is None or hang_up_after_ms > talk_limit_ms else "caller"
    hang_up_ms = talk_limit_ms if hang_up_after_ms is None else min(hang_up_after_ms, talk_limit_ms)
    # SIPp looks at the limit of the step that it stands at, which moves on with each provisional answer. Before
    # the first one no CANCEL may be sent (9.1).
    giving_up = f'timeout="{give_up_ms}" ontimeout="give_up"'
    refusals = "".join(
        f'  <recv response="{status}" optional="true" next="refused" {giving_up}><action>{_CLOCK}{_REASON}'
        f'<log message="final {_STAMP} {status} [$reason]"/></action></recv>\n'
        for status in FINAL_STATUSES
    )
    dialog = talk = ""
    if steered:
        dialog = (
            f'<ereg regexp=".+" search_in="hdr" header="To:" assign_to="peer"/>'
            f'<assignstr assign_to="me" value="&lt;sip:[field0]@[local_ip]:[local_port]&gt;;tag=[pid]-[call_number]"/>'
            f'<log message="dialog {_STAMP} [pid]-[call_number] [$peer]"/>'
            f'<ereg regexp="m=audio ([0-9]+)" search_in="body" assign_to="audio,media_port"/>'
            f'<log message="media {_STAMP} [$media_port]"/>'
        )
        talk = _talk("far_end", talk_limit_ms)
        hanging_up = "caller"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<scenario name="caller">
  <nop><action>{_CLOCK}<log message="invite {_STAMP}"/></action></nop>
  <send retrans="500"><![CDATA[
      INVITE sip:[field1]@[remote_ip]:[remote_port] SIP/2.0
      Via: SIP/2.0/{via} [local_ip]:[local_port];branch=z9hG4bK-[pid]-[call_number]-invite
      From: <sip:[field0]@[local_ip]:[local_port]>;tag=[pid]-[call_number]
      To: <sip:[field1]@[remote_ip]:[remote_port]>
      Call-ID: [call_id]
      CSeq: 1 INVITE
      Contact: <sip:[field0]@[local_ip]:[local_port]{contact}>
      Max-Forwards: 70
{headers}      Content-Type: application/sdp
      Content-Length: [len]
{_SRTP_SDP if srtp else _SDP}{_VIDEO if video else ""}
  ]]></send>
  <recv response="100" optional="true" {giving_up.replace("give_up", "unanswered")}/>
  <recv response="180" optional="true" {giving_up}><action>{_CLOCK}<log message="ringing {_STAMP}"/></action></recv>
  <recv response="181" optional="true" {giving_up}/>
  <recv response="183" optional="true" {giving_up}/>
{refusals}  <recv response="200" rrs="true" {giving_up}>
    <action>{_CLOCK}<log message="final {_STAMP} 200"/>{dialog}</action>
  </recv>
{_ack("[branch]", via)}
{talk}  <recv request="BYE" timeout="{hang_up_ms}" ontimeout="hang_up"><action>{_CLOCK}{_REASON}
    <log message="far_end {_STAMP} [$reason]"/></action></recv>
{_OK_TO_REQUEST}
  <nop next="end"><action/></nop>

  <label id="hang_up"/>
  <nop><action>{_CLOCK}<log message="{hanging_up} {_STAMP}"/></action></nop>
  <send retrans="500"><![CDATA[
      BYE [next_url] SIP/2.0
      Via: SIP/2.0/{via} [local_ip]:[local_port];branch=[branch]
      [routes]
      From: <sip:[field0]@[local_ip]:[local_port]>;tag=[pid]-[call_number]
      To: <sip:[field1]@[remote_ip]:[remote_port]>[peer_tag_param]
      Call-ID: [call_id]
      CSeq: [cseq] BYE
      Max-Forwards: 70
      Content-Length: 0

  ]]></send>
  <recv request="BYE" optional="true" next="crossed" timeout="{GLARE_MS}" ontimeout="end"/>
  <recv response="481" optional="true" next="end"/>
  <recv response="200" next="end"/>
  <label id="crossed"/>
{_OK_TO_REQUEST}
  <nop next="end"><action/></nop>

  <label id="give_up"/>
  <nop><action>{_CLOCK}<log message="cancel {_STAMP}"/></action></nop>
  <send retrans="500"><![CDATA[
      CANCEL sip:[field1]@[remote_ip]:[remote_port] SIP/2.0
      Via: SIP/2.0/{via} [local_ip]:[local_port];branch=z9hG4bK-[pid]-[call_number]-invite
      From: <sip:[field0]@[local_ip]:[local_port]>;tag=[pid]-[call_number]
      To: <sip:[field1]@[remote_ip]:[remote_port]>
      Call-ID: [call_id]
      CSeq: 1 CANCEL
      Max-Forwards: 70
      Content-Length: 0

  ]]></send>
  <recv response="200" optional="true" timeout="{GLARE_MS}" ontimeout="unanswered"/>
  <recv response="487" timeout="{GLARE_MS}" ontimeout="unanswered"><action>{_CLOCK}{_REASON}
    <log message="final {_STAMP} 487 [$reason]"/></action></recv>

  <label id="refused"/>
{_ack("z9hG4bK-[pid]-[call_number]-invite", via)}
  <nop next="end"><action/></nop>

  <label id="unanswered"/>
  <nop><action>{_CLOCK}<log message="final {_STAMP} 408"/></action></nop>
  <label id="end"/>
  <nop><action/></nop>
</scenario>
"""


def texter(*, extra_headers: Mapping[str, str], times: int = 1) -> str:
    """A phone that sends a message (RFC 3428): line, number and text are fields 0 to 2 of the injection file.

    times: it sends the same once more, and again: with one Call-ID and CSeq, in a transaction of its own.
    """
    headers = "".join(f"      {_checked(name)}: {_checked(value)}\n" for name, value in extra_headers.items())
    steps = []
    for n in range(times):
        refusals = "".join(
            f'  <recv response="{status}" optional="true" next="told_{n}"><action>{_CLOCK}'
            f'<log message="final {_STAMP} {status}"/></action></recv>\n'
            for status in FINAL_STATUSES
        )
        steps.append(f"""
  <send retrans="500"><![CDATA[
      MESSAGE sip:[field1]@[remote_ip]:[remote_port] SIP/2.0
      Via: SIP/2.0/UDP [local_ip]:[local_port];branch=z9hG4bK-[pid]-[call_number]-{n}
      From: <sip:[field0]@[local_ip]:[local_port]>;tag=[pid]-[call_number]
      To: <sip:[field1]@[remote_ip]:[remote_port]>
      Call-ID: [call_id]
      CSeq: 1 MESSAGE
      Max-Forwards: 70
{headers}      Content-Type: text/plain
      Content-Length: [len]

      [field2]
  ]]></send>
{refusals}  <recv response="202"><action>{_CLOCK}<log message="final {_STAMP} 202"/></action></recv>
  <label id="told_{n}"/>
  <nop><action/></nop>
""")
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<scenario name="texter">
{"".join(steps)}
</scenario>
"""


def carrier(
    *,
    logged: bool,
    hang_up_after_ms: int,
    refusals: Mapping[str, tuple[int, str]],
    rings: Mapping[str, int],
    plays: Mapping[str, int],
    forwards: Mapping[str, str],
) -> str:
    """A phone that answers, or does not: the last two digits of the number in the request URI decide.

    `refusals` maps such an ending to status and phrase, `rings` to the milliseconds of ringing before the answer
    (-1: it never answers), `plays` to those of early media (183), `forwards` to the number that a 302 names;
    `HANGS_UP` is the ending that answers and hangs up after `hang_up_after_ms`, `STEERED` the one that takes cues.
    Any other number is answered at once until the caller's side hangs up. Messages are taken, each with its text.
    """

    # A log step stands before the message that it is about: SIPp takes no step after a message that it may have
    # to send again until the answer to that has come. Each step costs a millisecond, so a number without a special
    # ending meets none but its log.
    def log(message: str) -> str:
        return _log(message) if logged else ""

    def step(message: str) -> str:
        return f"  <nop><action>{_log(message)}</action></nop>" if logged else ""

    choices = "".join(
        f'  <nop next="{label}_{ending}" test="is_{ending}"><action/></nop>\n'
        for label, endings in (("refuse", refusals), ("ring", rings), ("play", plays), ("forward", forwards))
        for ending in endings
    )
    endings = (*refusals, *rings, *plays, *forwards, HANGS_UP, STEERED)
    special = (
        f'<ereg regexp="^INVITE sip:[^@]*({"|".join(endings)})@" search_in="msg" assign_to="is_special"/>'
    )
    tests = special + "".join(
        f'<ereg regexp="^INVITE sip:[^@]*{ending}@" search_in="msg" assign_to="is_{ending}"/>'
        for ending in endings
    )
    refusing = "".join(
        f"""
  <label id="refuse_{ending}"/>
{step(f"refused {_STAMP} {status}")}
{_reply(f"{status} {phrase}", retransmitted=True)}
  <recv request="ACK" next="end"/>
"""
        for ending, (status, phrase) in refusals.items()
    )
    ringing = "".join(
        f"""
  <label id="ring_{ending}"/>
{_reply("180 Ringing")}
  <recv request="CANCEL" {_wait(ring_ms)} next="cancelled"/>
"""
        for ending, ring_ms in rings.items()
    )
    ringing += "".join(
        f"""
  <label id="play_{ending}"/>
{_reply("183 Session Progress", body=_SDP)}
  <recv request="CANCEL" {_wait(play_ms)} next="cancelled"/>
"""
        for ending, play_ms in plays.items()
    )
    refusing += "".join(
        f"""
  <label id="forward_{ending}"/>
{step(f"refused {_STAMP} 302")}
{_reply("302 Moved Temporarily", retransmitted=True, user=f"{number}@")}
  <recv request="ACK" next="end"/>
"""
        for ending, number in forwards.items()
    )
    who = """<ereg regexp=".+" search_in="hdr" header="From:" assign_to="from"/>
    <ereg regexp=".+" search_in="hdr" header="To:" assign_to="called"/>
    <assignstr assign_to="to" value="[$called];tag=[pid]-[call_number]"/>
    <ereg regexp="sip:[^@;>]*" search_in="hdr" header="From:" assign_to="caller"/>
    <ereg regexp="INVITE sip:[^@;>]*" search_in="msg" assign_to="dialled"/>
    <ereg regexp="[0-9]+ INVITE" search_in="hdr" header="CSeq:" assign_to="invite_cseq"/>"""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<scenario name="carrier">
  <recv request="MESSAGE" optional="true" next="message"><action>
    <ereg regexp="MESSAGE sip:[^@;>]*" search_in="msg" assign_to="recipient"/>
    <ereg regexp="sip:[^@;>]*" search_in="hdr" header="From:" assign_to="sender"/>
    <ereg regexp="[^[:cntrl:]]+" search_in="body" assign_to="text"/>
    {_log(f"text {_STAMP} [$recipient] [$sender] [$text]")}
  </action></recv>
  <recv request="INVITE" rrs="true" next="special" test="is_special"><action>
    {who}
    {tests}
    {log(f"invited {_STAMP} [$dialled] [$caller]")}
  </action></recv>

  <label id="answer"/>
{step(f"answered {_STAMP}")}
{_reply("200 OK", retransmitted=True, body=_SDP)}
  <recv request="ACK" next="hang_up_later" test="is_{HANGS_UP}"/>
  <nop next="steered" test="is_{STEERED}"><action/></nop>
  <recv request="BYE"><action>{log(f"bye_seen {_STAMP}")}</action></recv>
{_OK_TO_REQUEST}
  <nop next="end"><action/></nop>

  <label id="special"/>
{choices}  <nop next="answer"><action/></nop>

  <label id="hang_up_later"/>
  <recv request="BYE" timeout="{hang_up_after_ms}" ontimeout="hang_up"><action>
    {log(f"bye_seen {_STAMP}")}</action></recv>
{_OK_TO_REQUEST}
  <nop next="end"><action/></nop>

  <label id="hang_up"/>
{step(f"bye_sent {_STAMP}")}
  <send retrans="500"><![CDATA[
      BYE [next_url] SIP/2.0
      Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
      From: <sip:carrier@[local_ip]:[local_port]>;tag=[pid]-[call_number]
      To: [$from]
      Call-ID: [call_id]
      CSeq: [cseq] BYE
      Max-Forwards: 70
      Reason: Q.850;cause=16;text="Normal Clearing"
      Content-Length: 0

  ]]></send>
  <recv request="BYE" optional="true" next="crossed" timeout="{GLARE_MS}" ontimeout="end"/>
  <recv response="481" optional="true" next="end"/>
  <recv response="200" next="end"/>

  <label id="crossed"/>
{_OK_TO_REQUEST}
  <nop next="end"><action/></nop>
{refusing}{ringing}
  <label id="steered"/>
  <nop><action><assignstr assign_to="peer" value="[$from]"/><assignstr assign_to="me" value="[$to]"/></action></nop>
{_talk("bye_seen", None)}
  <label id="cancelled"/>
{_OK_TO_REQUEST}
{step(f"cancelled {_STAMP}")}
{_reply("487 Request Terminated", retransmitted=True)}
  <recv request="ACK" next="end"/>

  <label id="message"/>
{_OK_TO_REQUEST}
  <label id="end"/>
  <nop><action/></nop>
  <Reference variables="from,caller,dialled"/>
</scenario>
"""


_REASON = '<ereg regexp=".+" search_in="hdr" header="Reason:" assign_to="reason"/>'

_SDP = """
      v=0
      o=phone 1 1 IN IP[local_ip_type] [local_ip]
      s=-
      c=IN IP[media_ip_type] [media_ip]
      t=0 0
      m=audio [media_port] RTP/AVP 0
      a=rtpmap:0 PCMU/8000
"""

_VIDEO = """      m=video [media_port+2] RTP/AVP 99
      a=rtpmap:99 H264/90000
"""

# The key is 30 bytes in Base64, of which nothing depends: no media is sent.
_SRTP_SDP = (
    _SDP.replace("RTP/AVP", "RTP/SAVP")
    + "      a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5\n"
)

_HOLD_SDP = f"{_SDP}      a=sendonly\n"

_FAX_SDP = """
      v=0
      o=phone 1 2 IN IP[local_ip_type] [local_ip]
      s=-
      c=IN IP[media_ip_type] [media_ip]
      t=0 0
      m=image [media_port] udptl t38
      a=T38FaxVersion:0
      a=T38MaxBitRate:14400
      a=T38FaxRateManagement:transferredTCF
      a=T38FaxMaxDatagram:176
      a=T38FaxUdpEC:t38UDPRedundancy
"""

# RFC 6086 carries it, the body is a de facto standard. `refer_to` holds the rest of the cue.
_KEY = """
      Signal=[$refer_to]
      Duration=100
"""

_OK_TO_REQUEST = """  <send><![CDATA[
      SIP/2.0 200 OK
      [last_Via:]
      [last_From:]
      [last_To:]
      [last_Call-ID:]
      [last_CSeq:]
      Content-Length: 0

  ]]></send>"""


def _talk(ended: str, limit_ms: int | None) -> str:
    """The conversation of a steered phone: it answers what comes and does what it is told, until a BYE.

    ended: the name under which the other side's BYE is logged. Variables `me` and `peer` hold the two parties of the
    dialog. It goes on at the label `hang_up` where it is told so, or after `limit_ms` without any message.
    """
    # An expression that does not match leaves its variable as it was, so words are compared.
    cues = "".join(_is(f"is_{cue}", "cue", cue) for cue in CUES if cue != "bye")
    offers = "".join(
        f"""
  <label id="send_{cue}"/>
{_request("INVITE", 'retrans="500" start_txn="offer" next="talk"', body=body)}
"""
        for cue, body in (("hold", _HOLD_SDP), ("resume", _SDP), ("fax", _FAX_SDP))
    )
    patience = "" if limit_ms is None else f'timeout="{limit_ms}" ontimeout="late"'
    told = "".join(
        f'  <recv response="{status}" response_txn="{transaction}" optional="true" next="{then}"><action>'
        f'<ereg regexp="m=image [0-9]+" search_in="msg" assign_to="fax"/>'
        f"{_log(f'told {_STAMP} {status} [$fax]')}</action></recv>\n"
        for transaction, then, statuses in (
            # Who has handed a call over hangs up: the switch waits a minute for that (RFC 5589, 6.1).
            ("refer", "hang_up", (202,)),
            ("refer", "talk", (400, 403, 404, 481, 488, 491, 500, 503, 603)),
            ("offer", "acknowledge", (200, 403, 415, 481, 488, 491, 500, 503, 603)),
            ("press", "talk", (200, 415, 481, 500)),
        )
        for status in statuses
    )
    # Sent requests stand first in the text: SIPp takes an answer only below the request that it is for.
    return f"""  <nop next="talk"><action>{_log(f"ready {_STAMP}")}</action></nop>
{offers}
  <label id="send_refer"/>
{_request("REFER", 'retrans="500" start_txn="refer" next="talk"', "Refer-To: [$refer_to]")}

  <label id="send_press"/>
{_request("INFO", 'retrans="500" start_txn="press" next="talk"', body=_KEY, content="application/dtmf-relay")}

  <label id="acknowledge"/>
{_request("ACK", 'ack_txn="offer"')}

  <label id="talk"/>
  <recv request="BYE" optional="true" next="parted" {patience}><action>{_CLOCK}{_REASON}
    <log message="{ended} {_STAMP} [$reason]"/></action></recv>
  <recv request="INVITE" optional="true" next="offered"><action>
    <ereg regexp="m=([a-z]+)" search_in="body" assign_to="offer,kind"/>{_is("is_image", "kind", "image")}
    {_log(f"offered {_STAMP} [$kind]")}</action></recv>
  <recv request="ACK" optional="true" next="talk"/>
  <recv response="100" response_txn="offer" optional="true" next="talk"/>
{told}  <recv request="INFO"><action>
    <ereg regexp="([a-z]+) *(.*)" search_in="hdr" header="Cue:" assign_to="whole,cue,refer_to"/>{cues}</action></recv>
{"".join(f'  <nop next="send_{cue}" test="is_{cue}"><action/></nop>{chr(10)}' for cue in CUES if cue != "bye")}\
  <nop next="hang_up"><action/></nop>

  <label id="offered"/>
  <nop next="offered_image" test="is_image"><action/></nop>
{_taken(_SDP)}
  <label id="offered_image"/>
{_taken(_FAX_SDP)}

  <label id="late"/>
  <nop next="hang_up"><action>{_log(f"overdue {_STAMP}")}</action></nop>

  <label id="parted"/>
{_OK_TO_REQUEST}
  <nop next="end"><action/></nop>
  <Reference variables="whole,offer{"" if limit_ms is None else ",audio"}"/>
"""


def _is(truth: str, variable: str, word: str) -> str:
    return (
        f'<strcmp assign_to="difference" variable="{variable}" value="{word}"/>'
        f'<test assign_to="{truth}" variable="difference" compare="equal" value="0"/>'
    )


def _request(
    method: str, sending: str, headers: str = "", *, body: str = "", content: str = "application/sdp"
) -> str:
    """A request within the dialog of `me` and `peer`; sending: SIPp's attributes; content: the body's type."""
    content = (
        f"Content-Type: {content}\n      Content-Length: [len]\n{body}" if body else "Content-Length: 0\n"
    )
    return f"""  <send {sending}><![CDATA[
      {method} [next_url] SIP/2.0
      Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
      From: [$me]
      To: [$peer]
      Call-ID: [call_id]
      CSeq: [cseq] {method}
      Contact: <sip:[local_ip]:[local_port]>
      Max-Forwards: 70
      {headers}
      {content}
  ]]></send>""".replace("\n      \n", "\n")


def _taken(body: str) -> str:
    """200 to a re-INVITE, and its ACK."""
    return f"""  <send retrans="500"><![CDATA[
      SIP/2.0 200 OK
      [last_Via:]
      [last_From:]
      [last_To:]
      [last_Call-ID:]
      [last_CSeq:]
      Contact: <sip:[local_ip]:[local_port]>
      Content-Type: application/sdp
      Content-Length: [len]
{body}
  ]]></send>
  <recv request="ACK" next="talk"/>"""


def _log(message: str) -> str:
    return f'{_CLOCK}<log message="{message}"/>'


def _wait(ring_ms: int) -> str:
    return "" if ring_ms < 0 else f'timeout="{ring_ms}" ontimeout="answer"'


def _reply(status: str, *, retransmitted: bool = False, body: str = "", user: str = "") -> str:
    """An answer to the INVITE, which may not be the last request received (a CANCEL may have come between).

    user: what stands before the address in its Contact, with the @.
    """
    content = (
        f"Content-Type: application/sdp\n      Content-Length: [len]\n{body}"
        if body
        else "Content-Length: 0\n"
    )
    return f"""  <send{' retrans="500"' if retransmitted else ""}><![CDATA[
      SIP/2.0 {status}
      [last_Via:]
      [last_From:]
      [last_To:];tag=[pid]-[call_number]
      [last_Call-ID:]
      CSeq: [$invite_cseq]
      Contact: <sip:{user}[local_ip]:[local_port]>
      {content}
  ]]></send>"""


def _ack(branch: str, via: str) -> str:
    return f"""  <send><![CDATA[
      ACK sip:[field1]@[remote_ip]:[remote_port] SIP/2.0
      Via: SIP/2.0/{via} [local_ip]:[local_port];branch={branch}
      From: <sip:[field0]@[local_ip]:[local_port]>;tag=[pid]-[call_number]
      To: <sip:[field1]@[remote_ip]:[remote_port]>[peer_tag_param]
      Call-ID: [call_id]
      CSeq: 1 ACK
      Max-Forwards: 70
      Content-Length: 0

  ]]></send>"""


def _checked(text: str) -> str:
    """`text`, safe inside a scenario; raises `TestbedError` where it would mean something to SIPp or to SIP."""
    if any(mark in text for mark in ("[", "]]>", "\r", "\n")):
        raise TestbedError(f"header text {text!r}: leave out [ and line breaks")
    return text
