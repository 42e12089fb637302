"""Writes the manual page fairdial(1) to standard output, from the command line itself. Run with the packaged Python.

Its date is that of SOURCE_DATE_EPOCH, so that the same source gives the same page.
"""

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import typer.main

from fairdial.console import cli

FILES = (
    ("/etc/fairdial/fairdial.toml", "settings"),
    ("/etc/fairdial/policies", "one TOML file for each policy"),
    ("/etc/fairdial/ari-password, ami-secret", "what the switch knows FairDial by"),
    ("/var/lib/fairdial/ledger.sqlite", "the ledger"),
    (
        "/run/fairdial/control.sock",
        "where the running FairDial takes commands: as root, or as the user fairdial",
    ),
    ("/usr/share/fairdial/dialplan", "what to include into extensions.conf, and samples"),
    ("/usr/share/doc/fairdial", "documentation"),
)
STATUSES = (
    ("0", "done"),
    ("1", "refused, or found something"),
    ("2", "bad usage or input"),
    ("70", "a fault"),
)


def escaped(text: str) -> str:
    """Text that troff prints as it is."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{plain}" if plain.startswith((".", "'")) else plain


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Each command with its arguments, and the first sentence of its help."""
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        arguments = [
            (part.metavar or part.name).upper()
            for part in command.params
            if part.param_type_name == "argument"
        ]
        yield " ".join((*path, *arguments)), (command.help or "").strip().split("\n")[0]
        return
    for name, below in sorted(subcommands.items()):
        yield from commands(below, (*path, name))


def page(program: Any) -> Iterator[str]:
    """The lines of the page."""
    moment = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), tz=UTC)
    yield f'.TH FAIRDIAL 1 "{moment:%Y\\-%m\\-%d}" "fairdial {version("fairdial")}" "User Commands"'
    yield from (".SH NAME", "fairdial \\- fair\\-use policy in the call path of an Asterisk switch")
    yield from (".SH SYNOPSIS", ".B fairdial", "[\\fB\\-\\-config\\fR \\fIFILE\\fR] \\fICOMMAND\\fR ...")
    yield from (".SH DESCRIPTION", escaped((program.help or "").strip()))
    yield "\\fBfairdial COMMAND \\-\\-help\\fR says what a command takes. Those that only read have \\fB\\-\\-json\\fR."
    yield ".SH COMMANDS"
    for name, text in commands(program):
        yield from (".TP", f"\\fB{escaped(name)}\\fR", escaped(text))
    for title, rows in (("FILES", FILES), ("EXIT STATUS", STATUSES)):
        yield f".SH {title}"
        for name, text in rows:
            yield from (".TP", f"\\fI{escaped(name)}\\fR", escaped(text))
    yield from (".SH SEE ALSO", "asterisk(8), systemctl(1), journalctl(1)")


if __name__ == "__main__":
    sys.stdout.write("\n".join(page(typer.main.get_command(cli.app))) + "\n")
