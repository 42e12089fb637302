"""The ways on which notices get to people: a signed webhook, mail, and SIP MESSAGE of the switch.

Each knows its protocol, and which failure concerns one letter and which the far end as a whole.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Final

import aiohttp
import aiosmtplib
import msgspec

from fairdial.clock import Clock
from fairdial.config import Email, SipMessages, Webhook
from fairdial.ledger.notice import Notice
from fairdial.notices import Letter, Refused, Unreachable
from fairdial.policy.periods import MS_PER_S

SIGNATURE: Final = "FairDial-Signature"
SAID_MAX: Final = 200


def signature(secret: str, at_s: int, body: bytes) -> str:
    """The header of a webhook: `t=<seconds>,v1=<hex>`, HMAC-SHA-256 (RFC 2104) of the seconds, a point and the body.

    The time is signed too, so that a receiver can turn away what was recorded and is sent again.
    """
    digest = hmac.new(secret.encode(), f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


def body_of(letter: Letter) -> bytes:
    """What a webhook sends: JSON, UTF-8."""
    notice, words = letter.delivery.notice, letter.words
    clause = notice.clause
    return msgspec.json.encode(
        {
            "id": notice.id,
            "topic": notice.topic,
            "account": notice.account_id,
            "line": notice.line_id or None,
            "at": _iso(notice.at_ms),
            "clause": None
            if clause is None
            else {"policy": clause.policy, "version": clause.version, "id": clause.id},
            "facts": words.facts,
            "language": words.language,
            "subject": words.subject,
            "text": words.text,
        }
    )


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / MS_PER_S, UTC).isoformat(timespec="milliseconds")


class WebhookWay:
    """POST to one URL. Any 2xx is delivered, 4xx refused but for 408 and 429, all else unreachable. Redirects are not
    followed: they would carry the notice to whom nobody named.
    """

    def __init__(self, settings: Webhook, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def send(self, letter: Letter) -> None:
        body = body_of(letter)
        at_s = self._clock.now().wall_ms // MS_PER_S
        headers = {
            "Content-Type": "application/json",
            "FairDial-Notice": str(letter.delivery.notice.id),
            SIGNATURE: signature(self._settings.secret.get_secret_value(), at_s, body),
        }
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
            self._session = aiohttp.ClientSession(timeout=timeout)
        try:
            async with self._session.post(
                self._settings.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(
                str(error)[:SAID_MAX] or f"no answer within {self._settings.timeout_s} s"
            ) from error
        if 200 <= status < 300:
            return
        if 400 <= status < 500 and status not in (408, 429):
            raise Refused(f"the receiver answered {status}")
        raise Unreachable(f"the receiver answered {status}")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class EmailWay:
    """Mail (RFC 5321) to the contact's address. What the server says of one letter refuses that one, also for now, as
    greylisting does; 421 and all else make it unreachable.
    """

    def __init__(self, settings: Email) -> None:
        self._settings = settings

    async def send(self, letter: Letter) -> None:
        settings = self._settings
        try:
            await aiosmtplib.send(
                self._message(letter),
                hostname=settings.host,
                port=settings.port,
                use_tls=settings.tls == "tls",
                start_tls=settings.tls == "starttls",
                username=settings.user or None,
                password=settings.password.get_secret_value() or None,
                timeout=settings.timeout_s,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise Refused("; ".join(str(each) for each in error.recipients)[:SAID_MAX]) from error
        except aiosmtplib.SMTPResponseException as error:
            raise _failure(error, isinstance(error, _OF_ONE_LETTER)) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise Unreachable(f"{settings.host}:{settings.port}: {error}"[:SAID_MAX]) from error

    def _message(self, letter: Letter) -> EmailMessage:
        notice = letter.delivery.notice
        if not letter.contact.email:
            raise Refused(f"account {notice.account_id} has no address any more")
        message = EmailMessage()
        message["From"] = self._settings.sender
        message["To"] = letter.contact.email
        message["Subject"] = letter.words.subject
        message["Date"] = datetime.fromtimestamp(notice.at_ms / MS_PER_S, UTC)
        # The same for each attempt, so that a mailbox can tell that it has it.
        domain = self._settings.sender.rpartition("@")[2]
        message["Message-ID"] = f"<fairdial-{notice.id}-{notice.at_ms}@{domain}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no robot is to answer
        message.set_content(letter.words.text)
        message["Content-Language"] = letter.words.language
        return message

    async def close(self) -> None:
        """Nothing is kept open."""


_OF_ONE_LETTER: Final = (
    aiosmtplib.SMTPSenderRefused,
    aiosmtplib.SMTPRecipientRefused,
    aiosmtplib.SMTPDataError,
)
_CLOSES: Final = 421


def _failure(error: aiosmtplib.SMTPResponseException, of_one_letter: bool) -> Exception:
    said = f"{error.code} {error.message}"[:SAID_MAX]
    return Refused(said) if of_one_letter and error.code != _CLOSES else Unreachable(said)


SendMessage = Callable[[str, str, str], Awaitable[bool]]
"""Has the switch send a text: to, from, text. False: it does not take it. Raises Unreachable."""


class SipWay:
    """SIP MESSAGE (RFC 3428) of the switch to a line. It has the subject alone: a MESSAGE over UDP is small."""

    def __init__(self, settings: SipMessages, send: SendMessage) -> None:
        self._settings = settings
        self._send = send

    async def send(self, letter: Letter) -> None:
        line_id = line_of(letter)
        if not line_id:
            raise Refused(f"account {letter.account.id} has no line to send it to any more")
        to = self._settings.to.replace("{line}", line_id)
        if not await self._send(to, self._settings.sender, letter.words.subject):
            raise Refused(f"the switch has no endpoint {to}, or it is not there")

    async def close(self) -> None:
        """Nothing is kept open."""


def line_of(letter: Letter) -> str:
    """The contact's own choice, else the line that the notice is about."""
    notice: Notice = letter.delivery.notice
    return letter.contact.line_id or notice.line_id
