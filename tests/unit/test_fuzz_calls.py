"""What callers, the network and whoever reaches a port can send, broken in every way: refused as documented."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agi_app.authorise import authorise_route
from agi_app.fastagi import AgiError, AgiMalformed, AgiRequest, AgiSession, FastAgiServer, parse_request
from ari_handlers import events
from ari_handlers.door import Door
from fairdial.answer import EXTENSION_CHARS_MAX, Answer, MalformedRequest, answer_to, asked_from
from fairdial.console.control import ControlServer
from fairdial.console.operations import OperationError, Operations
from fairdial.desk import Asked, Desk, DeskRules
from fairdial.ledger.contract import LedgerError
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Kind
from fairdial.policy.book import PolicyBook
from fairdial.policy.decide import Allow, Refuse, Verdict
from fairdial.policy.numbers import Habit, Numbering
from fairdial.policy.outcomes import OUTCOMES, UNDECIDED, Reason
from fairdial.policy.prefixes import PrefixTable
from fairdial.policy.terms import Clause
from fairdial.tallies import Spread
from tests.mutations import SPLINTERS, mutated
from tests.samples import SetClock, plan, provision

NUMBERING = Numbering(PrefixTable.parse("prefix,class,country,risk,note,source,date\n"))
HEADER = (
    "agi_network: yes\nagi_network_script: authorise?kind=outbound&number=%2B441632960001&attempt=1&ring=60&line="
    "&encrypted=01&source=127.0.0.1%3A5060\nagi_request: agi://127.0.0.1/authorise\nagi_channel: PJSIP/alice-00000001\n"
    "agi_uniqueid: 1795292472.9\nagi_callerid: 100\nagi_calleridname: Alice\nagi_accountcode: A1\n"
    "agi_extension: 01632960001\n"
)
EVENT = json.dumps(
    {
        "type": "StasisStart",
        "timestamp": "2026-11-21T08:00:00.000+0000",
        "args": ["outbound", "02079460123", "1", "", "", "00", "127.0.0.1:5060"],
        "channel": {
            "id": "1795248000.1",
            "name": "PJSIP/alice-00000001",
            "caller": {"name": "Alice", "number": "441632960001"},
            "dialplan": {"context": "outbound", "exten": "0100", "app_name": "Stasis"},
        },
    }
)
_word = st.text(max_size=200) | st.sampled_from(SPLINTERS) | st.from_regex(r"[+0-9*#]{0,20}", fullmatch=True)
fuzzed = settings(max_examples=200, deadline=2_000, suppress_health_check=[HealthCheck.too_slow])


# --- FastAGI


@fuzzed
@given(mutated((HEADER,)).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=2_000))
def test_any_header_is_a_request_or_malformed(header: bytes) -> None:
    with contextlib.suppress(AgiMalformed):
        request = parse_request(header)
        assert isinstance(request, AgiRequest)
        assert "\n" not in "".join(request.variables.values())


@fuzzed
@given(
    st.lists(
        st.binary(max_size=60) | st.sampled_from((b"200 result=1", b"520-", b"HANGUP", b"510 x", b"100 x")),
        max_size=8,
    )
)
def test_any_reply_to_a_command_is_success_or_a_documented_error(replies: list[bytes]) -> None:
    class Sink:
        def write(self, _data: bytes) -> None: ...

        async def drain(self) -> None: ...

    async def converse() -> None:
        reader = asyncio.StreamReader(limit=1_000)
        reader.feed_data(b"".join(reply + b"\n" for reply in replies))
        reader.feed_eof()
        nothing: Mapping[str, str] = {}
        request = AgiRequest("", nothing, nothing, ())
        session = AgiSession(request, reader, Sink(), command_timeout_s=1)  # type: ignore[arg-type]
        for _ in range(3):
            with contextlib.suppress(AgiError):
                await session.get_variable("X")

    asyncio.run(converse())


async def test_a_server_that_was_sent_anything_still_answers() -> None:
    """Seeded by hypothesis' own mutations: each on a connection of its own, then a call as ever."""
    asked: list[Asked] = []

    async def begin(question: Asked, _channel: str) -> Answer:
        asked.append(question)
        return Answer("REFUSE", Reason.LINE_UNKNOWN, 21)

    server = FastAgiServer(
        {"authorise": authorise_route(begin, Spread())}, port=0, header_timeout_s=0.5, stop_timeout_s=0.1
    )
    await server.start()

    async def send(data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(data)
        with contextlib.suppress(OSError):
            writer.write_eof()
            line = await asyncio.wait_for(reader.readline(), 5)
            writer.close()
            return line
        return b""

    try:
        messages = _examples(mutated((HEADER + "\n", HEADER)), 100)
        for message in messages:
            await send(message.encode("utf-8", "surrogatepass"))
        for question in asked:
            assert isinstance(question, Asked)
        before = len(asked)
        assert (await send(HEADER.encode() + b"\n")).startswith(b"SET VARIABLE FAIRDIAL_ANSWER")
        assert len(asked) == before + 1
    finally:
        await server.stop()
    assert server.sessions == 0


def _examples(strategy: st.SearchStrategy[str], count: int) -> list[str]:
    found: list[str] = []

    @settings(max_examples=count, database=None, derandomize=True, deadline=None)
    @given(strategy)
    def collect(text: str) -> None:
        found.append(text)

    collect()
    return found


# --- the question and its answer


@fuzzed
@given(
    st.fixed_dictionaries(
        {
            "channel_id": _word,
            "endpoint": _word,
            "kind": st.sampled_from([*Kind, "", "outgoing"]) | _word,
            "number": _word,
            "attempt": st.sampled_from(["1", "2"]) | _word,
            "ring_s": st.sampled_from(["", "60"]) | _word,
            "line": _word,
            "caller": _word,
            "sip_call_id": _word,
            "encrypted": st.sampled_from(["", "00", "11"]) | _word,
            "source": st.sampled_from(["", "127.0.0.1:5060"]) | _word,
        }
    ),
    st.sampled_from(Reason),
)
def test_any_question_is_answered_in_one_extension_that_steers_nothing(
    words: dict[str, str], reason: Reason
) -> None:
    try:
        asked = asked_from(**words)
    except MalformedRequest:
        return
    number = NUMBERING.classify(asked.dialled, Habit())
    allowed = OUTCOMES[reason].cause == 0
    clause = Clause("p", "1", "c")
    decision = Allow(reason, clause, "acme", 60, 60) if allowed else Refuse(reason, clause, "acme")
    packed = answer_to(asked, Verdict(number, decision)).packed()
    assert re.fullmatch(
        r"(ALLOW|REFUSE|FAILED)\*[a-z_]+\*[0-9]+\*\+?[0-9]*\*[0-9]*\*[0-9]*\*[a-z-]*\*", packed
    )
    assert len(packed) <= EXTENSION_CHARS_MAX


@fuzzed
@given(st.lists(_word | st.from_regex(r"(pin|host|end|line|quiet)=?.{0,10}"), max_size=8))
def test_any_words_are_a_door_or_malformed(words: list[str]) -> None:
    with contextlib.suppress(MalformedRequest):
        assert re.fullmatch(r"[0-9A-Za-z+*#._]{1,40}", Door.of(words).room)


# --- events


@fuzzed
@given(mutated((EVENT,)).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=500))
def test_any_frame_is_an_event_or_unreadable(frame: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError):
        event = events.decode(frame)
        if isinstance(event, events.StasisStart):
            assert isinstance(event.channel.endpoint, str)
            assert events.channel_ids(event)


@pytest.mark.parametrize(
    "frame", [b"[" * 10**6, b'{"a":' * 10**5, b'{"type":"Dial","peer":' + b"9" * 10**6, b"\xff" * 1000]
)
def test_a_frame_without_end_is_unreadable_at_once(frame: bytes) -> None:
    began = time.process_time()
    with pytest.raises(msgspec.DecodeError):
        events.decode(frame)
    assert time.process_time() - began < 0.1


# --- the control socket

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | st.floats() | _word,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_word, inner, max_size=3),
    max_leaves=6,
)
OPERATIONS = (
    *(
        "account_add",
        "account_list",
        "account_show",
        "account_standing",
        "agreement_add",
        "agreement_withdraw",
    ),
    *(
        "import",
        "subscribe",
        "credit_add",
        "rates_load",
        "rates_list",
        "line_add",
        "line_list",
        "line_standing",
    ),
    *("number_add", "number_list", "number_remove", "policy_publish", "usage", "check", "decisions", "calls"),
    *("hangup", "callback", "conference_add", "conference_list", "status", "grants", "grant", "none such"),
)
ARGUMENTS = (
    *("account", "policy", "zone", "name", "line", "number", "text", "where", "card", "currency", "amount"),
    *(
        "reference",
        "standing",
        "consent",
        "agreed_by",
        "limit",
        "call",
        "kind",
        "at",
        "caller",
        "habit",
        "region",
    ),
    *("dry_run", "countries", "until", "room", "plan", "cycle_day", "fraud", "note", "first", "self"),
)
_likely = st.sampled_from(
    ("acme", "alice", "plan", "GBP", "12.50", "active", "surcharge", "GB", 1, -1, 2**63, "x.csv", "x.toml")
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from(OPERATIONS),
            st.dictionaries(st.sampled_from(ARGUMENTS), _likely | _json, max_size=5),
        ),
        max_size=6,
    )
)
def test_any_arguments_of_an_operation_are_taken_or_refused_as_documented(
    requests: list[tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    async def run() -> None:
        ledger = await SqliteLedger.open(Path(tmp_path) / f"{time.monotonic_ns()}.sqlite")
        try:
            await provision(ledger)
            desk = Desk(ledger, PolicyBook([plan()]), NUMBERING, SetClock(), DeskRules())
            operations = Operations(desk)
            for name, arguments in requests:
                with contextlib.suppress(OperationError, LedgerError, ValueError):
                    json.dumps(await operations.call(name, arguments))
            await desk.close()
        finally:
            await ledger.close()

    asyncio.run(run())


class Deaf(Operations):
    """Operations of which one makes a mistake."""

    def __init__(self) -> None:
        pass

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        if name == "mistake":
            raise KeyError("a mistake of ours")
        return {"operation": name[:20]}


async def test_the_control_socket_answers_any_line_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    server = ControlServer(path, Deaf())
    await server.start()

    async def say(line: bytes) -> Any:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=2**24)
        writer.write(line + b"\n")
        reply = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        await writer.wait_closed()
        return json.loads(reply)

    try:
        hostile = (
            *(
                b"",
                b"null",
                b"[]",
                b"1",
                b'"x"',
                b"{",
                b"{}",
                b"\xff\xfe",
                b"[" * 100_000,
                b'{"operation":' * 10_000,
            ),
            *(b'{"operation": null, "arguments": 1}', b'{"operation": "x", "arguments": [1]}', b"9" * 10_000),
            *(b'{"operation": {"a": 1}, "arguments": {"\\ud800": "\\ud800"}}', b'{"operation": "mistake"}'),
        )
        for line in hostile:
            reply = await say(line)
            assert set(reply) in ({"error"}, {"result"}), line[:40]
        assert (await say(b'{"operation": "mistake"}'))[
            "error"
        ] == "FairDial made a mistake; its log has the details"
        assert await say(b'{"operation": "status"}') == {"result": {"operation": "status"}}
    finally:
        await server.stop()


def test_the_reasons_that_need_no_decision_are_known() -> None:
    assert Reason.DIALS_TOO_FAST not in UNDECIDED
