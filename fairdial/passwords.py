"""How hard a SIP password is to guess. Nothing of the password leaves this module but the estimate.

Responsible for the three ways of being easy: a published one, the owner's own name, and what an attacker tries
early (zxcvbn). Leaves where passwords come from and what is said about them to `audit`.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

READ_CHARACTERS: Final = 72
"""zxcvbn takes no more, as its time grows with their square. Who guesses all must guess these."""
STRONG_SCORE: Final = 3
"""Of 0 to 4: 10^8 guesses and more. Phones are guessed at from many addresses, day and night."""
NAMES_MAX: Final = 200
_WORDS: Final = re.compile(r"[^\W_]{3,}")

DEFAULTS: Final = frozenset(
    {
        *("0000", "1234", "12345", "123456", "12345678", "123456789", "1234567890"),
        *(
            "admin",
            "asterisk",
            "astronpassword",
            "changeme",
            "changethis",
            "default",
            "demo",
            "fairdial",
            "freepbx",
        ),
        *(
            "guest",
            "letmein",
            "mypassword",
            "mysecret",
            "pass",
            "passw0rd",
            "password",
            "pbx",
            "phone",
            "secret",
        ),
        *("sip", "test", "trixbox", "unsecurepassword", "user", "voip", "welcome", "xivo"),
        # Asterisk's sample files; made at random, and in every copy of them.
        *("4webrethuphewu4", "be4eberekusumaf", "spefache7ruxare", "sw2fur7facrarac", "zutanache8ewuwr"),
        *("tecrubus3u7utab", "q7raphatrustesw", "nefrestaq8phaph", "cebran2trezaqet", "6ebu8egespuwuth"),
        *("vust6spuferetha", "fu8puzuzeprusta", "xapr4munecadrub", "mu8apr4dajaqade", "kathufrude6uyas"),
    }
)
"""Passwords that stand in samples, manuals and delivered devices, in lower case."""


@dataclass(frozen=True, slots=True)
class Strength:
    """An estimate. score: 0 (guessed at once) to 4. guesses_log10: the power of ten of guesses that find it."""

    score: int
    guesses_log10: float

    @property
    def is_weak(self) -> bool:
        """Whether somebody who tries long enough gets in."""
        return self.score < STRONG_SCORE

    def __str__(self) -> str:
        return f"about 10^{max(1, round(self.guesses_log10))} guesses find it, score {self.score} of 4"


def is_default(password: str) -> bool:
    """Whether it is published somewhere as a password; case does not matter."""
    return password.casefold() in DEFAULTS


def is_name(password: str, names: Collection[str]) -> bool:
    """Whether it is one of the names; case does not matter."""
    return password.casefold() in {name.casefold() for name in names}


def strength(password: str, names: Collection[str]) -> Strength:
    """How hard it is to guess for somebody who knows these names of its owner."""
    if not password:
        return Strength(0, 0.0)
    # Only here: its word lists cost time and memory that no other command should spend.
    from zxcvbn import zxcvbn

    known = list(dict.fromkeys(part for name in names for part in (name, *_WORDS.findall(name))))
    found = zxcvbn(password[:READ_CHARACTERS], user_inputs=known[:NAMES_MAX])
    return Strength(found["score"], found["guesses_log10"])
