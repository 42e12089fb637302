"""The sample world: accounts under each of the published policies, provisioned as an operator does it.

`world.toml` is what `fairdial import` reads; here are the policies that it needs besides, the switch's own data
(numbers and extensions of the phones), and the dialplan with a callback. What is called in this world and what should
become of it is in `testbed.demo`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import TestbedError
from testbed.server import PROJECT, Server, dialplan

FILE = PROJECT / "testbed" / "world.toml"
RATES = PROJECT / "testbed" / "rates.csv"
CARD, CURRENCY = "kryptotel", "EUR"

CALLBACK = "*66"
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
        )
        for customer in customers()
        for name in customer.lines
    ]


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
