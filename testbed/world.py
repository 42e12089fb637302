"""The sample world: accounts under each of the published policies, and calls that show their clauses.

`world.toml` is what `fairdial import` reads; here are the policies that it needs besides, the switch's own data
(numbers and extensions of the phones), the dialplan with a callback, and what should become of which call. Leaves to
`testbed.demo` to place the calls and to hold what is seen against it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import TestbedError
from testbed.scenarios import HANGS_UP, STEERED
from testbed.server import PROJECT, Server, dialplan

FILE = PROJECT / "testbed" / "world.toml"
RATES = PROJECT / "testbed" / "rates.csv"
CARD, CURRENCY = "kryptotel", "EUR"

CALLBACK = "*77"
"""Dialled before a number: FairDial is asked as for a callback to it, whose minutes count twice (V6)."""

DIALPLAN = f"""
[phones](+)
exten => _{CALLBACK}X!,1,Gosub(fairdial,s,1(callback,${{EXTEN:{len(CALLBACK)}}}))
 same => n,GotoIf($["${{FAIRDIAL_RESULT}}" = "ALLOW"]?dial)
 same => n,Hangup(${{FAIRDIAL_CAUSE}})
 same => n(dial),Dial(PJSIP/${{FAIRDIAL_NUMBER}}@carrier,60,${{FAIRDIAL_DIAL}})
 same => n,Hangup(${{HANGUPCAUSE}})
"""

EXTENSIONS = {"101": "kate"}

CALL_ME_BACK, REVERSE = "*55", "*66"
"""The codes of dialplan/samples/callback.conf and collect.conf, before a number."""

CODES = f"""Besides numbers, phones dial
  7000 to 7999           a conference room of their account (on kryptotel, four at a time, and on voxdirect)
  {CALL_ME_BACK} and a number       hangs the phone up, rings it again and puts it through (accounts on voxdirect)
  {REVERSE}442079460205        reverse charge to nora, who accepts with key 1 or refuses with key 2"""
"""What `make serve` says of the calls whose bridge FairDial holds."""

RINGS = MappingProxyType({"nora": f"nora{STEERED}"})
"""Lines whose phone does as it is told when it is called."""

# What the phones show; erin's number is her account's, eve's is somebody else's. The others show none.
_SHOWN = {"erin": "+442079460202", "eve": "+442079460999"}


@dataclass(frozen=True)
class Shrunk:
    """A copy of a published policy in which a number is too small to wait for. numbers: text to its replacement."""

    policy: str
    numbers: Mapping[str, str]


SHRUNK = MappingProxyType(
    {
        "kryptotel-small": Shrunk("kryptotel", {"outbound = 14400": "outbound = 3"}),
        "acceptable-use-small": Shrunk("acceptable-use", {"outbound = 14400": "outbound = 3"}),
        "redconnect-small": Shrunk("redconnect", {"limit_s = 144000": "limit_s = 5"}),
        "voxdirect-small": Shrunk("voxdirect", {"limit_s = 1800000": "limit_s = 6"}),
    }
)


def shrunk(policy: str, name: str, numbers: Mapping[str, str]) -> str:
    """The text of a published policy as policy `name`, each text of `numbers` replaced; all else is unchanged.

    Raises TestbedError unless each of them is there exactly once.
    """
    text = (PROJECT / "policies" / f"{policy}.toml").read_text()
    for old, new in {f'name = "{policy}"': f'name = "{name}"', **numbers}.items():
        if (found := text.count(old)) != 1:
            raise TestbedError(
                f"policies/{policy}.toml has {old!r} {found} times, not once; write it in testbed/world.py as it is"
            )
        text = text.replace(old, new)
    return text


def policies() -> dict[str, str]:
    """The policy files of this world beside those of the project: name to text."""
    return {name: shrunk(copy.policy, name, copy.numbers) for name, copy in SHRUNK.items()}


def plan() -> tuple[str, dict[str, str]]:
    """The project's dialplan with the callback: extensions.conf and the files that it includes."""
    extensions, files = dialplan()
    return f"{extensions}{DIALPLAN}", files


@dataclass(frozen=True)
class Customer:
    """An account of the file."""

    account: str
    policy: str
    lines: tuple[str, ...]


def customers() -> tuple[Customer, ...]:
    """The accounts of world.toml in its order."""
    tables = tomllib.loads(FILE.read_text())
    return tuple(
        Customer(
            account["account"],
            account["policy"],
            tuple(line["line"] for line in tables["line"] if line["account"] == account["account"]),
        )
        for account in tables["account"]
    )


def lines(password: Mapping[str, str] | None = None) -> list[Line]:
    """The endpoints of all lines. password: by line, for softphones that register."""
    return [
        Line(
            name,
            accountcode=customer.account,
            context="phones",
            password=(password or {}).get(name),
            caller_id=_SHOWN.get(name),
            rings=RINGS.get(name),
        )
        for customer in customers()
        for name in customer.lines
    ]


def rung(line: str) -> str:
    """What the carrier's phones are called when FairDial or the switch rings a line."""
    return RINGS.get(line, line)


async def provision(switch: Switch, server: Server) -> None:
    """Load rates and accounts with the command line, and tell the switch where its numbers ring.

    Raises TestbedError with what the command said.
    """
    for arguments in (
        ("rates", "load", str(RATES), "--card", CARD, "--currency", CURRENCY),
        ("import", str(FILE)),
    ):
        done = await server.command(*arguments)
        if done.status != 0:
            raise TestbedError(
                f"`fairdial {' '.join(arguments)}` ended with status {done.status}: {done.error}"
            )
    for number in tomllib.loads(FILE.read_text())["number"]:
        await switch.cli(f"database put did {number['number'].removeprefix('+')} {number['line']}")
    for extension, line in EXTENSIONS.items():
        await switch.cli(f"database put extension {extension} {line}")


LONDON, BERLIN, MADRID, TOKYO = "02079460100", "00493012345678", "0034911234567", "0081312345678"
PREMIUM, NON_GEOGRAPHIC, INVALID, VOICEMAIL = "09098790000", "03001234567", "0207", "*97"
ROOM = "7001"
NORA = "442079460205"
MEETING = f"020794601{HANGS_UP}"
MEETING_E164 = f"+4420794601{HANGS_UP}"


@dataclass(frozen=True)
class Expected:
    """What should become of a call.

    line: the one that pays. decision None: FairDial is not asked. talk_s None: the call is not answered. metered:
    seconds by allowance, or in all where no allowance counts them. charge: amount, currency and clause. caller: who
    calls where it is not the line. during: a call while this one is up. suspend: the account is suspended after talk_s.
    cause: of the hang-up (Q.850) where the refusal is told in an answered call. key: what the called party presses.
    called_back: the number to which FairDial puts the phone through after that was hung up; they talk for talk_s.
    own_clock: metered are the seconds of this stay, not those of the room, which counts for all who are in it once.
    """

    what: str
    line: str
    number: str
    decision: str | None
    reason: str
    clause: str = ""
    status: int = 200
    talk_s: float | None = None
    cut: bool = False
    metered: str = ""
    charge: str = ""
    caller: str | None = None
    during: Expected | None = None
    suspend: bool = False
    cause: int | None = None
    key: str | None = None
    called_back: str | None = None
    own_clock: bool = False


def _talk(
    what: str,
    line: str,
    number: str,
    reason: str,
    clause: str,
    talk_s: float,
    metered: str,
    charge: str = "",
    *,
    cut: bool = False,
    caller: str | None = None,
    during: Expected | None = None,
    suspend: bool = False,
) -> Expected:
    return Expected(
        what,
        line,
        number,
        "allow",
        reason,
        clause,
        talk_s=talk_s,
        cut=cut,
        metered=metered,
        charge=charge,
        caller=caller,
        during=during,
        suspend=suspend,
    )


def _refused(what: str, line: str, number: str, reason: str, clause: str, status: int = 403) -> Expected:
    return Expected(what, line, number, "refuse", reason, clause, status)


def _stays(line: str, during: Expected) -> Expected:
    return replace(
        _talk("K5 joins", line, ROOM, "within_allowance", "K5", 3, "3", during=during), own_clock=True
    )


def _emergency(line: str, number: str = "999", what: str = "emergency") -> Expected:
    return Expected(what, line, number, None, "emergency", talk_s=1)


@dataclass(frozen=True)
class Scene:
    """Calls of one account, one after the other. Scenes run at the same time: no account is in two of them."""

    account: str
    calls: tuple[Expected, ...]


_FIFTH = Expected("K5 is the fifth", "sam", ROOM, "refuse", "conference_full", "K5", cause=17)
_FOURTH = _stays("rosa", during=_FIFTH)
_THIRD = _stays("paul", during=_FOURTH)
_SECOND = _stays("olga", during=_THIRD)
# Whoever comes first stays longest, so that the clock of the room is that of this stay.
_FIRST = _talk(
    "K5 opens a room",
    "nora",
    ROOM,
    "within_allowance",
    "K5",
    6,
    "conference-day/month 6",
    during=_SECOND,
)

SCENES = (
    Scene(
        "kryptotel",
        (
            _talk("K1 a country bought", "alice", LONDON, "covered", "K1", 2, "voice 2"),
            _talk("K1 another one", "alice", BERLIN, "covered", "K1", 2, "voice 2"),
            _refused("K2 premium", "alice", PREMIUM, "class_not_covered", "K2"),
            _refused("K2 non-geographic", "alice", NON_GEOGRAPHIC, "class_not_covered", "K2"),
            _refused("an invalid number", "alice", INVALID, "number_invalid", "always", 484),
            _talk("K4 on credit", "alice", MADRID, "by_credit", "K4", 3, "3", "0.08 EUR K4"),
            _talk("K4 dialled again", "alice", MADRID, "by_credit", "K4", 3, "3", "0.08 EUR K4"),
            _talk("K4 to the last cent", "alice", MADRID, "by_credit", "K4", 2, "2", "0.07 EUR K4", cut=True),
            _refused("K4 no credit left", "alice", MADRID, "credit_too_low", "K4"),
            _emergency("alice"),
        ),
    ),
    Scene(
        "kryptotel-small",
        (
            _talk("K3 the longest call", "dave", LONDON, "covered", "K1", 3, "voice 3", cut=True),
            _talk("K3 dialled again", "dave", LONDON, "covered", "K1", 2, "voice 2"),
            _talk("K12 suspended", "dave", LONDON, "covered", "K1", 1, "voice 1", cut=True, suspend=True),
            _refused("K12 is suspended", "dave", LONDON, "account_suspended", "K12"),
            _emergency("dave", "112", "suspended, emergency"),
        ),
    ),
    Scene(
        "kryptotel-team",
        (
            Expected(
                "K6 accepts with key 1",
                "nora",
                REVERSE + NORA,
                "allow",
                "not_counted",
                "K1",
                talk_s=2,
                metered="2",
                caller="erin",
                key="1",
            ),
            Expected(
                "K6 refuses with key 2",
                "nora",
                REVERSE + NORA,
                "allow",
                "not_counted",
                "K1",
                status=403,
                metered="0",
                caller="erin",
                key="2",
            ),
            _FIRST,
            _emergency("sam"),
        ),
    ),
    Scene(
        "acceptable-use",
        (
            _talk("A4 shows its number", "erin", LONDON, "within_allowance", "A8", 1, "day 1"),
            _refused("A4 shows another's", "eve", LONDON, "caller_not_own", "A4"),
            _refused("A1 premium", "erin", PREMIUM, "class_not_covered", "A1"),
            _emergency("eve", what="another's, emergency"),
        ),
    ),
    Scene(
        "acceptable-use-small",
        (
            _talk("A8 the longest call", "frank", LONDON, "within_allowance", "A8", 3, "day 3", cut=True),
            _talk("A8 a shorter one", "frank", LONDON, "within_allowance", "A8", 1, "day 1"),
            _emergency("frank"),
        ),
    ),
    Scene(
        "redconnect",
        (
            _talk("R1 local", "grace", LONDON, "within_allowance", "R1", 2, "voice 2"),
            _talk("R1 international", "grace", TOKYO, "within_allowance", "R1", 2, "voice 2"),
            _refused("R1 premium", "grace", PREMIUM, "class_not_covered", "R1"),
            _emergency("grace"),
        ),
    ),
    Scene(
        "redconnect-small",
        (
            _talk(
                "R1 inbound",
                "henry",
                "442079460203",
                "within_allowance",
                "R1",
                2,
                "voice 2",
                caller="carrier",
            ),
            _talk("R1 outbound", "henry", LONDON, "within_allowance", "R1", 2, "voice 2"),
            _talk("R2 voicemail", "henry", VOICEMAIL, "not_counted", "R2", 1, "0"),
            _talk(
                "R3 passes the limit",
                "henry",
                LONDON,
                "within_allowance",
                "R1",
                4,
                "voice 1, past 3",
                "0.04 USD R3",
            ),
            _talk("R3 past it", "henry", LONDON, "past_allowance", "R3", 2, "past 2", "0.04 USD R3"),
            _emergency("henry"),
        ),
    ),
    Scene(
        "voxdirect",
        (
            _talk("V1 a country bought", "iris", LONDON, "within_allowance", "V1", 2, "voice 2"),
            _talk("V1 another one", "iris", BERLIN, "within_allowance", "V1", 2, "voice 2"),
            _refused("V1 outside the plan", "iris", TOKYO, "country_not_covered", "V1"),
            _talk("V5 a conference", "iris", ROOM, "within_allowance", "V5", 2, "voice 2"),
            Expected(
                "V6 is called back",
                "iris",
                CALL_ME_BACK + MEETING,
                "allow",
                "within_allowance",
                "V6",
                status=486,
                talk_s=2,
                metered="voice 4",
                called_back=MEETING_E164,
            ),
            _refused("V6 premium", "iris", CALL_ME_BACK + PREMIUM, "class_not_covered", "V1"),
            _emergency("iris"),
        ),
    ),
    Scene(
        "voxdirect-small",
        (
            _talk("V6 callback", "ivan", CALLBACK + LONDON, "within_allowance", "V6", 2, "voice 4"),
            _talk(
                "V1 a second line",
                "ines",
                LONDON,
                "within_allowance",
                "V1",
                4,
                "voice 2, past 2",
                "0.02 USD V2",
            ),
            _talk("V2 past the limit", "ines", BERLIN, "past_allowance", "V2", 2, "past 2", "0.02 USD V2"),
            _talk(
                "V6 callback past it",
                "ivan",
                CALLBACK + LONDON,
                "past_allowance",
                "V2",
                2,
                "past 4",
                "0.04 USD V2",
            ),
            _emergency("ivan"),
        ),
    ),
    Scene(
        "spokephone",
        (
            _talk("S1 outbound", "judy", LONDON, "covered", "S1", 2, "outbound 2"),
            _talk("S1 inbound", "judy", "442079460204", "covered", "S1", 2, "inbound 2", caller="carrier"),
            _talk("S1 internal", "judy", "101", "covered", "S1", 2, "internal 2"),
            _refused("S8 premium", "judy", PREMIUM, "class_not_covered", "S8"),
            _refused("S1 outside the plan", "judy", TOKYO, "country_not_covered", "S1"),
            _emergency("judy"),
        ),
    ),
    Scene(
        "contact-centre",
        (
            _talk("S5 surcharge agreed", "leo", LONDON, "covered", "S1", 3, "outbound 3", "0.0005 USD S5"),
            _emergency("leo"),
        ),
    ),
    Scene(
        "scarce",
        (
            _talk(
                "the last 15 s",
                "bob",
                LONDON,
                "within_allowance",
                "Q4",
                3,
                "voice 3",
                during=_refused("meanwhile", "carol", LONDON, "allowance_reserved", "Q4"),
            ),
            _emergency("carol"),
        ),
    ),
)
STOPPED = Scene(
    "kryptotel",
    (
        Expected("a number", "alice", LONDON, None, "fairdial_unreachable", status=503),
        _emergency("alice", "112"),
    ),
)
