"""The testbed's command line: `python -m testbed.switch obtain` and `python -m testbed.switch run`.

`obtain` finds or makes an Asterisk; `run` starts a switch that stays up until Ctrl-C and says how to register a
softphone. What it dials is answered by a carrier made of SIPp phones (see `testbed.sipp`).
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from testbed.asterisk import Switch
from testbed.configuration import LOOPBACK, Line
from testbed.installation import TestbedError, obtain
from testbed.sipp import Carrier

EXIT_DONE = 0
EXIT_FAILED = 1

PLAIN_DIALPLAN = """[outbound]
exten => _X.,1,Dial(PJSIP/${EXTEN}@carrier)
same => n,Hangup(${HANGUPCAUSE})
exten => _+X.,1,Goto(${EXTEN:1},1)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; answers with the exit status (0 done, 1 impossible, 2 bad usage)."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "obtain":
            installation = obtain(_to_stderr)
            print(installation.root or installation.asterisk)
        else:
            asyncio.run(_run(options.dialplan, options.line, options.sip_host))
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m testbed.switch", description="An Asterisk of its own, and SIP phones for it."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("obtain", help="find or make an Asterisk and print where it is")
    run = commands.add_parser("run", help="start a switch and keep it up until Ctrl-C")
    run.add_argument(
        "--dialplan", type=Path, help="an extensions.conf; default: every number goes to the carrier"
    )
    run.add_argument(
        "--line",
        action="append",
        help="name of a line for a softphone, can be repeated; default: alice and bob",
    )
    run.add_argument(
        "--sip-host",
        default=LOOPBACK,
        help="address that softphones reach the switch at; default: %(default)s, this machine only",
    )
    return parser


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _run(dialplan: Path | None, names: Sequence[str] | None, sip_host: str) -> None:
    installation = await asyncio.to_thread(obtain, _to_stderr)
    try:
        text = PLAIN_DIALPLAN if dialplan is None else await asyncio.to_thread(dialplan.read_text)
    except (OSError, UnicodeDecodeError) as error:
        raise TestbedError(
            f"the dialplan {dialplan} cannot be read: {error}; give another --dialplan"
        ) from error
    lines = [
        Line(name, accountcode=name, password=secrets.token_urlsafe(9)) for name in names or ("alice", "bob")
    ]
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with (
        Switch.start(installation, text, lines=lines, sip_host=sip_host) as switch,
        Carrier.start(switch),
    ):
        print(describe(switch, lines), flush=True)
        await ended.wait()


def describe(switch: Switch, lines: Sequence[Line]) -> str:
    """What an operator needs to know of a running switch: its ports and how to register a softphone."""
    phones = "".join(
        f"    user {line.name}  password {line.password}\n" for line in lines if line.password is not None
    )
    return (
        f"Asterisk {switch.installation.version} is up (process {switch.pid}), Ctrl-C ends it.\n"
        f"  ARI   {switch.ari_url}  user {switch.ari_user}  password {switch.ari_password}\n"
        f"  AMI   {switch.ami_host}:{switch.ami_port}  user {switch.ami_user}  secret {switch.ami_secret}\n"
        f"  SIP   {switch.sip_host}:{switch.sip_port} over UDP\n"
        f"  log   {switch.log_path}\n"
        f"  CDRs  {switch.cdr_path}\n"
        f"Register a softphone with domain {switch.sip_host}:{switch.sip_port}, transport UDP:\n{phones}"
        "Numbers are answered by the carrier's phones: any number answers at once, ...82 after 2 s of ringing,\n"
        "...84 after 4 s, ...86 is busy, ...87 never answers, ...92 hangs up after 2 s, ...93 declines, ...94 has\n"
        "no route, ...95 is out of service."
    )


if __name__ == "__main__":
    sys.exit(main())
