"""A phone that sends one SIP MESSAGE (RFC 3428) as it is told: what SIPp would not write, and with a password.

Left to others: many messages, and who receives them (`testbed.sipp`).
"""

import asyncio
import re
import secrets

from testbed.asterisk import Switch
from testbed.configuration import LOOPBACK
from testbed.registration import Answers, authorization


async def send_message(
    switch: Switch,
    number: str,
    text: bytes = b"hello",
    *,
    user: str = "alice",
    password: str | None = None,
    sender: str | None = None,
    headers: str = "",
    content: str = "text/plain",
    within_s: float = 2.0,
) -> int | None:
    """The final status that the switch answers; None where it answers none within `within_s`.

    user: who logs in, with the password, where the switch asks for it (RFC 2617, MD5). sender: the From header, the
    user's own if left out. headers: further ones, each with its line break.
    """
    loop = asyncio.get_running_loop()
    transport, answers = await loop.create_datagram_endpoint(
        Answers, local_addr=(LOOPBACK, 0), remote_addr=(switch.sip_host, switch.sip_port)
    )
    try:
        port, call_id = transport.get_extra_info("sockname")[1], secrets.token_hex(8)
        uri, login = f"sip:{number}@{switch.sip_host}", ""
        for sequence in (1, 2):
            head = (
                f"MESSAGE {uri} SIP/2.0\r\n"
                f"Via: SIP/2.0/UDP {LOOPBACK}:{port};rport;branch=z9hG4bK{secrets.token_hex(8)}\r\n"
                f"From: {sender or f'<sip:{user}@{LOOPBACK}>'};tag=t\r\nTo: <{uri}>\r\nCall-ID: {call_id}\r\n"
                f"CSeq: {sequence} MESSAGE\r\nMax-Forwards: 70\r\n{login}{headers}"
                f"Content-Type: {content}\r\nContent-Length: {len(text)}\r\n\r\n"
            )
            transport.sendto(head.encode() + text)
            try:
                async with asyncio.timeout(within_s):
                    answer = (await answers.received.get()).decode(errors="replace")
            except TimeoutError:
                return None
            status = re.match(r"SIP/2\.0 ([2-6][0-9][0-9]) ", answer)
            if status is None:
                return None
            if int(status[1]) != 401 or password is None or login:
                return int(status[1])
            login = authorization(answer, user, password, "MESSAGE", uri)
        return None
    finally:
        transport.close()
