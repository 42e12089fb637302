"""A phone that registers with the switch, from any loopback address and with any user agent (RFC 3261, section 10).

SIPp binds its sender to one address and asks for a scenario of its own; this is one request, and again with the answer
to the switch's challenge (RFC 2617, MD5).
"""

import asyncio
import hashlib
import re
import secrets
from dataclasses import dataclass

from testbed.asterisk import Switch
from testbed.installation import TestbedError

WITHIN_S = 5.0
_CHALLENGE = re.compile(r'(\w+)=(?:"([^"]*)"|([^",\s]+))')


@dataclass(frozen=True, slots=True)
class Registration:
    """Who registers. source: a loopback address such as 127.0.3.1."""

    line: str
    password: str
    source: str = "127.0.0.1"
    user_agent: str = "a phone"


class Answers(asyncio.DatagramProtocol):
    """What comes back to a socket: the first few, the rest is let go."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue(16)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.received.full():
            self.received.put_nowait(data)


async def register(switch: Switch, who: Registration) -> int:
    """Register once; the final status, 200 where the password was right. Raises TestbedError without an answer."""
    loop = asyncio.get_running_loop()
    transport, answers = await loop.create_datagram_endpoint(
        Answers, local_addr=(who.source, 0), remote_addr=(switch.sip_host, switch.sip_port)
    )
    try:
        port = transport.get_extra_info("sockname")[1]
        call_id, tag = secrets.token_hex(8), secrets.token_hex(4)
        login = ""
        uri = f"sip:{switch.sip_host}:{switch.sip_port}"
        for sequence in (1, 2):
            transport.sendto(_request(switch, who, port, call_id, tag, sequence, login))
            status, text = await _final(answers)
            if status != 401 or login:
                return status
            login = authorization(text, who.line, who.password, "REGISTER", uri)
        raise TestbedError(f"{who.line}: no final answer to REGISTER")
    finally:
        transport.close()


def _request(
    switch: Switch, who: Registration, port: int, call_id: str, tag: str, sequence: int, login: str
) -> bytes:
    domain = f"{switch.sip_host}:{switch.sip_port}"
    return (
        f"REGISTER sip:{domain} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {who.source}:{port};rport;branch=z9hG4bK{secrets.token_hex(8)}\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:{who.line}@{domain}>;tag={tag}\r\nTo: <sip:{who.line}@{domain}>\r\n"
        f"Call-ID: {call_id}\r\nCSeq: {sequence} REGISTER\r\nUser-Agent: {who.user_agent}\r\n"
        f"Contact: <sip:{who.line}@{who.source}:{port}>\r\nExpires: 300\r\n{login}Content-Length: 0\r\n\r\n"
    ).encode()


async def _final(answers: Answers) -> tuple[int, str]:
    try:
        async with asyncio.timeout(WITHIN_S):
            while True:
                text = (await answers.received.get()).decode()
                # The switch also asks whether the phone is there.
                answer = re.match(r"SIP/2\.0 ([2-6][0-9][0-9]) ", text)
                if answer is not None:
                    return int(answer[1]), text
    except TimeoutError:
        raise TestbedError(f"no answer to REGISTER within {WITHIN_S} s") from None


def authorization(answer: str, user: str, password: str, method: str, uri: str) -> str:
    """The Authorization header, with its line break, that takes up the challenge of a 401."""
    [line] = re.findall(r"^WWW-Authenticate: *Digest (.*?)\r?$", answer, re.MULTILINE | re.IGNORECASE)
    asked = {name: quoted or bare for name, quoted, bare in _CHALLENGE.findall(line)}
    count, own = "00000001", secrets.token_hex(8)
    secret = _md5(f"{user}:{asked['realm']}:{password}")
    response = _md5(f"{secret}:{asked['nonce']}:{count}:{own}:auth:{_md5(f'{method}:{uri}')}")
    return (
        f'Authorization: Digest username="{user}", realm="{asked["realm"]}", nonce="{asked["nonce"]}",'
        f' uri="{uri}", response="{response}", algorithm=MD5, qop=auth, nc={count}, cnonce="{own}"'
        + (f', opaque="{asked["opaque"]}"' if "opaque" in asked else "")
        + "\r\n"
    )


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
