"""What is kept of a message's text: a keyed fingerprint, by which the same text is known again (A2, S8).

HMAC-SHA-256 (RFC 2104), cut to its first 128 bits. Keyed, because a text is short: "call me back" could be guessed from
a plain digest by whoever sees one, in a case or an export, and not from this without the ledger's secret.
Two texts count as the same whatever their letters' case, width and spacing. Digits and addresses stay as they are:
without them every one-time code and every reminder of an appointment would be one text to thousands of people.
"""

import hashlib
import hmac
import unicodedata
from typing import Final

SECRET_BYTES: Final = 32
FINGERPRINT_BYTES: Final = 16


def normalised(text: str) -> str:
    """NFKC (Unicode Standard Annex 15), case folded, each run of spaces and line breaks one space, none at the ends."""
    # Folding can undo what was composed before, as with U+0345: once more makes it stable.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def fingerprint(secret: bytes, text: str) -> str:
    """32 hexadecimal digits that stand for the text; "" where it says nothing."""
    plain = normalised(text)
    if not plain:
        return ""
    digest = hmac.new(secret, plain.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
    return digest[:FINGERPRINT_BYTES].hex()
