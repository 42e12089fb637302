"""Of which switch a call is: Asterisk begins each channel's id with its systemname, and the call's begins with that."""

import re
from typing import Final

_CHANNEL: Final = re.compile(r"(?:\d+\.\d+|own-[0-9a-f]+)(?!\w)")
"""What follows: Asterisk's seconds and count, or an id of ours (`ari_handlers/owned.py`)."""


def is_of(switch: str, call_id: str) -> bool:
    """Whether a call, or a channel, by its id, is of that switch; "": there is one switch, and all are its.

    What follows the name must be what a channel has, so that `east` has no call of `east-2`.
    """
    if not switch:
        return True
    return call_id.startswith(f"{switch}-") and _CHANNEL.match(call_id, len(switch) + 1) is not None
