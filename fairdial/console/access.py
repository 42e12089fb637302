"""Who may use the HTTP API: holders of tokens, of which only a digest is kept, browsers in which they logged in, and
what each role may do.

A token is 256 random bits, so that a plain SHA-256 of it is as good as it. How it is asked for is `http.py`'s.
"""

import hashlib
import secrets

from fairdial.attempts import Attempts
from fairdial.clock import Clock
from fairdial.console.browser import Session, Sessions
from fairdial.ledger.contract import Ledger, Role, Token

PREFIX = "fairdial_"
"""By which one that was published by mistake is found."""

FAILED_PER_S_MAX = 5
"""Wrong tokens from one address in a second before it is told to wait, whatever it sends."""

WAIT_S = 1

_RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


def may(role: Role, needed: Role) -> bool:
    """Whether `role` is allowed what `needed` is: an operator all that a viewer is, an admin everything."""
    return _RANK[role] >= _RANK[needed]


def new_secret() -> str:
    """A token as its holder gets it, once."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """What the ledger knows a token by."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Gate:
    """Lets holders of a token in."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._failed = Attempts()
        self._sessions = Sessions()

    async def holder(self, secret: str | None) -> Token | None:
        """Whose token that is; None: nobody's. Raises LedgerError."""
        return None if secret is None else await self._ledger.token(digest_of(secret))

    async def knows(self, digest: str) -> bool:
        """Whether the token of that digest still lets in. Raises LedgerError."""
        return await self._ledger.token(digest) is not None

    def log_in(self, held: Token) -> tuple[str, Session]:
        """Begin a session for the holder of a token; with the key of its cookie."""
        return self._sessions.begin(held.digest, self._clock.now().mono_ms)

    async def session(self, key: str) -> tuple[Session, Token] | None:
        """The session of that key with the token that it stands for; None: there is none, or its token was removed.

        To be asked for keeps it from being idle. Raises LedgerError.
        """
        session = self._sessions.find(key, self._clock.now().mono_ms)
        if session is None:
            return None
        held = await self._ledger.token(session.digest)
        if held is None:
            self._sessions.end(key)
            return None
        return session, held

    def log_out(self, key: str) -> None:
        """End the session of that key, if there is one."""
        self._sessions.end(key)

    def too_often(self, address: str) -> bool:
        """Note a wrong token; whether that address is to wait."""
        return self._failed.count(address, self._clock.now().mono_ms) > FAILED_PER_S_MAX
