"""Sessions of browsers: who showed a token once is known by a cookie from then on, so that no page keeps the token.

Sessions live in memory, and end with the process; of the token its digest is kept, by which the ledger is asked at each
request. Leaves cookies and headers to `api_session.py` and `http.py`. A session's key has 256 random bits, as a token.
"""

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

LASTS_MS: Final = 12 * 3_600_000
IDLE_MS: Final = 3_600_000
SESSIONS_MAX: Final = 512
OF_ONE_TOKEN_MAX: Final = 32
"""So that the holder of one token cannot throw out everybody else."""


@dataclass(slots=True)
class Session:
    """A browser that was let in. digest: of its token. csrf: what its page sends with each change. Monotonic ms."""

    digest: str
    since_ms: int
    used_ms: int
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def over(self, now_ms: int) -> bool:
        """Whether it lasted for long enough, or nobody used it for too long."""
        return now_ms - self.since_ms >= LASTS_MS or now_ms - self.used_ms >= IDLE_MS


class Sessions:
    """The sessions that run, the one that was used the longest ago first: it goes where there are too many."""

    def __init__(self) -> None:
        self._running: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, digest: str, now_ms: int) -> tuple[str, Session]:
        """A new session for the holder of a token, with the key that its cookie has."""
        self._forget_old(now_ms)
        of_token = [key for key, each in self._running.items() if each.digest == digest]
        if len(of_token) >= OF_ONE_TOKEN_MAX:
            del self._running[of_token[0]]
        while len(self._running) >= SESSIONS_MAX:
            self._running.popitem(last=False)
        key, session = secrets.token_urlsafe(32), Session(digest, now_ms, now_ms)
        self._running[_id(key)] = session
        return key, session

    def find(self, key: str, now_ms: int) -> Session | None:
        """The session of that key, unless it is over. To be asked for is a use of it."""
        session = self._running.get(_id(key))
        if session is None:
            return None
        if session.over(now_ms):
            self.end(key)
            return None
        session.used_ms = now_ms
        self._running.move_to_end(_id(key))
        return session

    def end(self, key: str) -> None:
        """End a session, if there is one of that key."""
        self._running.pop(_id(key), None)

    def _forget_old(self, now_ms: int) -> None:
        for key in [key for key, each in self._running.items() if each.over(now_ms)]:
            del self._running[key]


def _id(key: str) -> str:
    # Not the key itself: a look-up that takes longer the more of it is right would tell.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
