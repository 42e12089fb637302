"""Which releases of Asterisk FairDial works with: those that take ARI requests on the event socket."""

import re
from typing import Final

REQUESTS_ON_SOCKET_SINCE: Final = {20: (20, 14), 21: (21, 9), 22: (22, 4)}
"""First version of each branch that takes ARI requests on the event socket; later branches all do."""
USABLE: Final = "Asterisk 20.14, 21.9, 22.4 or later"


def is_recent(version: str) -> bool:
    """Whether this version takes requests on the event socket; one that cannot be read counts as recent."""
    match = re.match(r"(?:GIT-|certified[-/])?(\d+)(?:\.(\d+))?", version)
    if match is None:
        return True
    major = int(match[1])
    if major < min(REQUESTS_ON_SOCKET_SINCE):
        return False
    if match[2] is None:
        return True  # built from a branch, such as GIT-22-1a2b3c4
    return (major, int(match[2])) >= REQUESTS_ON_SOCKET_SINCE.get(major, (0, 0))
