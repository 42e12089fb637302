"""Who means harm: floods, messages that no switch should ever see, and a scanner.

Everything is seeded, so that what broke something once can be sent again. Floods come from an address of their own
on loopback (`ATTACKER`), as another machine's would.

Left to others: the switch (`testbed.asterisk`), well-behaved phones (`testbed.sipp`), and what must hold meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from urllib.parse import quote

from testbed import scenarios
from testbed.asterisk import Switch
from testbed.installation import TestbedError
from testbed.phone import Phone, scratch_directory
from testbed.ports import LOOPBACK, free_ports

ATTACKER = "127.0.0.2"
SCAN_WITHIN_S = 60.0
CONNECT_WITHIN_S = 5.0

INJECTIONS = (
    *(
        "&PJSIP/premium@carrier",
        "@carrier&PJSIP/09098790000@carrier",
        "&Local/999@phones",
        "/n",
        "|U(evil)",
        ",60,U(evil)",
    ),
    *(
        "${SHELL(touch /tmp/fairdial-canary)}",
        "$[1+1]",
        "${EVAL(${GLOBAL(X)})}",
        ")",
        "))",
        "(",
        "\\",
        '"',
        "'",
        ",,",
        "^evil",
    ),
    *(
        '," = "" & "x" = "y',
        ",System(touch /tmp/fairdial-canary)",
        "\x00",
        "\r\nX-Evil: 1",
        "\x1b[2J",
        "%s%n%x",
        "\u202e",
        ";id",
        "`id`",
    ),
)
"""What turns a number into something else where a dial string, an expression or a log takes it as it is."""


# --- floods


async def flood(
    switch: Switch, *, lines: Sequence[str], number: str, count: int, rate_per_s: int, timeout_s: float = 40.0
) -> Mapping[int, int]:
    """`count` INVITEs from one SIPp process at ATTACKER; how many got which final status (408: none)."""
    text = scenarios.caller(
        hang_up_after_ms=100,
        give_up_after_ms=None,
        ring_limit_ms=round(timeout_s * 1000),
        talk_limit_ms=1_000,
        extra_headers={},
    )
    async with scratch_directory() as directory:
        rows = "".join(f"{line};{number};\n" for line in lines)
        (directory / "calls.csv").write_text(f"SEQUENTIAL\n{rows}")
        phone = Phone(switch, directory, text, options=("-inf", "calls.csv", "-i", ATTACKER))
        await phone.run(
            count / rate_per_s + 2 * timeout_s, "-m", str(count), "-l", str(count), "-r", str(rate_per_s)
        )
        return Counter(int(event.rest.split()[0]) for event in phone.events() if event.name == "final")


# --- messages


def sip_messages(
    seed: int, count: int, host: str, port: int, users: Sequence[str], number: str
) -> Iterator[bytes]:
    """SIP requests that are wrong in one or more ways, from `users` to `number` and what can be hung on to it."""
    dice = random.Random(seed)
    for serial in range(count):
        message = _sip(dice, f"{seed}-{serial}", host, port, dice.choice(users), number)
        for _ in range(dice.choice((0, 1, 1, 2, 4))):
            message = _damaged(dice, message)
        yield message[:60_000]


_METHODS = (
    *("INVITE",) * 6,
    *("REGISTER", "OPTIONS", "MESSAGE", "BYE", "CANCEL", "REFER", "NOTIFY", "\x00", "A" * 500),
)
_NAMES = (
    *("", '"Bob"', '"a\\"b\\\\"c"', "\x1b[31mBob", "Bob\r\n evil", '"' * 30, "A" * 5_000),
    *(f'"{injection}"' for injection in INJECTIONS),
)
_SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
_BODIES = ("", "v=0\r\n", _SDP, "\x00" * 40)
_SEQUENCES = ("1", "1", "1", "99999999999999999999", "-1", "x")
_EXTRA_HEADERS = (
    *(
        "X: " + "y" * 9_000,
        "X:\r\n folded\r\n\tline",
        "Require: 100rel, evil",
        "Replaces: a;to-tag=b;from-tag=c",
    ),
    *(f"P-Asserted-Identity: <sip:+442079460001{injection}@x>" for injection in INJECTIONS),
)


def _sip(dice: random.Random, serial: str, host: str, port: int, user: str, number: str) -> bytes:
    method, body = dice.choice(_METHODS), dice.choice(_BODIES)
    called = number + (dice.choice(INJECTIONS) if method == "INVITE" or dice.random() < 0.5 else "")
    if dice.random() < 0.7:
        called = quote(called, safe="")
    length = dice.choice((len(body), len(body), len(body), 0, len(body) + 1000, -1, 2**40))
    headers = [
        f"Via: SIP/2.0/UDP {ATTACKER}:9;branch=z9hG4bK-{serial}",
        f"From: {dice.choice(_NAMES)} <sip:{user}@{ATTACKER}>;tag={serial}",
        f"To: <sip:{called}@{host}:{port}>",
        f"Call-ID: {dice.choice((serial, serial, '%s' * 50, ''))}",
        f"CSeq: {dice.choice(_SEQUENCES)} {method}",
        f"Contact: <sip:{user}@{ATTACKER}:9{dice.choice(('', ';x=' + 'y' * 2_000))}>",
        "Max-Forwards: 70",
        *((dice.choice(_EXTRA_HEADERS),) if dice.random() < 0.8 else ()),
        "Content-Type: application/sdp",
        f"Content-Length: {length}",
    ]
    if dice.random() < 0.1:
        dice.shuffle(headers)
    if dice.random() < 0.1:
        headers += headers
    start = f"{method} sip:{called}@{host}:{port} SIP/2.0"
    return ("\r\n".join((start, *headers)) + "\r\n\r\n" + body).encode("utf-8", "surrogatepass")


def agi_messages(seed: int, count: int, line: str, number: str) -> Iterator[bytes]:
    """FastAGI requests that are wrong in one or more ways; whole ones are of kinds that nobody may have."""
    dice = random.Random(seed)
    for serial in range(count):
        called = number + dice.choice(INJECTIONS)
        kind = dice.choice(("outbound", "evil", "%00", ""))
        query = dice.choice((f"kind={kind}&number={called}", "a=b&" * 50, "%ff%fe", "../../etc"))
        text = (
            f"agi_network: yes\nagi_network_script: authorise?{query}\nagi_request: agi://127.0.0.1/authorise\n"
            f"agi_channel: PJSIP/{line}-{serial:08x}\nagi_uniqueid: {seed}.{serial}\n"
            f"agi_callerid: {dice.choice(INJECTIONS)}\nagi_calleridname: {dice.choice(INJECTIONS)}\n"
            f"agi_extension: {called}\n\n"
        )
        message = text.encode("utf-8", "surrogatepass")
        for _ in range(dice.choice((0, 1, 1, 2, 4))):
            message = _damaged(dice, message)
        yield message[:60_000]


def _damaged(dice: random.Random, message: bytes) -> bytes:
    at = dice.randrange(len(message) + 1)
    match dice.randrange(8):
        case 0:
            return message[:at]
        case 1:
            return (
                message[:at] + bytes(dice.randrange(256) for _ in range(dice.randrange(1, 30))) + message[at:]
            )
        case 2:
            return message[:at] + b"\x00" + message[at:]
        case 3:
            return (
                message[:at]
                + dice.choice((b"\xff\xfe", b"\xc3\x28", b"%s%n", b"\r\n\r\n", b"\n", b'"', b"${SHELL(id)}"))
                + message[at:]
            )
        case 4:
            return message[:at] + message[at : at + 40] * dice.randrange(2, 200) + message[at:]
        case 5:
            return message.replace(b": ", dice.choice((b":", b" : ", b"\t:\t", b"::")), dice.randrange(1, 6))
        case 6:
            return message.replace(b"\r\n", dice.choice((b"\n", b"\r", b"\r\n ")), dice.randrange(1, 4))
        case _:
            return message[:at] + bytes(byte ^ 0x80 for byte in message[at : at + 8]) + message[at + 8 :]


async def send_udp(messages: Iterator[bytes], host: str, port: int, *, rate_per_s: int) -> int:
    """Send datagrams from ATTACKER, take no answer; how many were sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((ATTACKER, 0))
        sent = 0
        for message in messages:
            with contextlib.suppress(
                OSError
            ):  # too long, or nobody listens any more, which the test will see
                sender.sendto(message, (host, port))
            sent += 1
            if sent % 20 == 0:
                await asyncio.sleep(20 / rate_per_s)
        return sent


async def send_tcp(messages: Iterator[bytes], port: int, *, at_once: int = 20, wait_s: float = 0.2) -> int:
    """Send each on a TCP connection of its own, wait a little for an answer, close; how many were sent."""
    free = asyncio.Semaphore(at_once)

    async def send(message: bytes) -> None:
        async with free:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(CONNECT_WITHIN_S):
                    reader, writer = await asyncio.open_connection(LOOPBACK, port)
                try:
                    writer.write(message)
                    async with asyncio.timeout(wait_s):
                        await reader.read(1_000)
                finally:
                    writer.transport.abort()

    tasks = [asyncio.create_task(send(message)) for message in messages]
    await asyncio.gather(*tasks)
    return len(tasks)


async def send_malformed(switch: Switch, stream_port: int, line: str, number: str) -> int:
    """10,000 messages: 4,000 SIP datagrams, 1,000 SIP messages to `stream_port`, 5,000 to FastAGI; how many were sent.

    line: of an account; number: one that it may not dial.
    """
    users = (line, "dave", "nobody", "carrier")
    udp, tcp = (
        sip_messages(seed, count, switch.sip_host, switch.sip_port, users, number)
        for seed, count in ((1, 4_000), (2, 1_000))
    )
    sent = await asyncio.gather(
        send_udp(udp, switch.sip_host, switch.sip_port, rate_per_s=400),
        send_tcp(tcp, stream_port, at_once=10),
        send_tcp(agi_messages(3, 5_000, line, number), switch.agi_port, at_once=20, wait_s=0.05),
    )
    return sum(sent)


# --- what must hold meanwhile


@dataclass
class Probe:
    """How long FairDial took to answer, in seconds, asked over FastAGI as Asterisk would; the answers by text."""

    took_s: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    def percentile_s(self, share: float) -> float:
        """The time that this share of the answers took at most."""
        return sorted(self.took_s)[min(len(self.took_s) - 1, int(share * len(self.took_s)))]


@asynccontextmanager
async def probing(port: int, line: str, number: str, *, every_s: float = 0.05) -> AsyncIterator[Probe]:
    """Ask FairDial about a dial again and again while the block runs: is its event loop held up?

    `number` should be one that the line may not dial, so that each question is one decision and nothing more.
    """
    probe = Probe()

    async def ask(serial: int) -> None:
        request = (
            f"agi_network: yes\nagi_network_script: authorise?kind=outbound&number={number}\n"
            f"agi_channel: PJSIP/{line}-{serial:08x}\nagi_uniqueid: probe.{serial}\n\n"
        )
        began = perf_counter()
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        try:
            writer.write(request.encode())
            answer = await asyncio.wait_for(reader.readline(), 10)
            probe.took_s.append(perf_counter() - began)
            found = re.search(rb'"([A-Z]+\*[a-z_]+)', answer)
            probe.answers[found[1].decode() if found else repr(answer)] += 1
            writer.write(b"200 result=1\n")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask_on() -> None:
        serial = 0
        while True:
            serial += 1
            await ask(serial)
            await asyncio.sleep(every_s)

    asking = asyncio.create_task(ask_on())
    try:
        yield probe
    finally:
        asking.cancel()
        [ended] = await asyncio.gather(asking, return_exceptions=True)
        if not isinstance(ended, asyncio.CancelledError):
            raise TestbedError(f"FairDial did not answer a question over FastAGI: {ended!r}")


def resident_mb(pid: int) -> float:
    """Resident memory of a process, in megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def processor_s(pid: int) -> float:
    """Processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- the scanner


async def scan(program: str, *arguments: str) -> str:
    """Run svmap, svwar or svcrack from ATTACKER to its end; what it says. Raises `TestbedError` where it hangs."""
    [port] = free_ports(1)
    async with scratch_directory() as home:
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", program, "-b", ATTACKER, "-x", ATTACKER, "-P", str(port)),
            *arguments,
            cwd=home,
            env={**os.environ, "HOME": str(home), "PYTHONWARNINGS": "ignore"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(SCAN_WITHIN_S):
                output, _ = await process.communicate()
        except TimeoutError:
            raise TestbedError(f"{program} did not end within {SCAN_WITHIN_S:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return output.decode(errors="replace")


async def scan_all(
    programs: Mapping[str, str], switch: Switch, user: str, passwords: Sequence[str]
) -> Mapping[str, str]:
    """Look for the switch, for its extensions, and for the password of `user`; what each of the programs says."""
    target = (switch.sip_host, "-p", str(switch.sip_port))
    extensions = ("-e", "7000-7100", "--force")
    async with scratch_directory() as directory:
        words = directory / "words"
        words.write_text("\n".join(passwords))
        return {
            "svmap": await scan(programs["svmap"], *target),
            "svwar": await scan(programs["svwar"], *target, *extensions),
            "svwar INVITE": await scan(programs["svwar"], *target, *extensions, "-m", "INVITE"),
            "svcrack": await scan(programs["svcrack"], *target, "-u", user, "-d", str(words)),
        }
