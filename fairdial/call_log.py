"""Which call the log speaks of: `call` and `sip_call_id` stand in every record of a call, whoever writes it.

Whoever begins to work on a call says so once, in the task that does (`speak_of`); all that is logged in that task then
carries both, and so do tasks and timers that it starts for the call, as they take over its context (contextvars). What
works for all calls alike is started in a context of its own (`nobody`), or would speak of the call that happened to
start it. A record that names a `call` itself keeps that: the id of a dial, which begins with its channel's.

Leaves to `logs.py` that what a caller chose is escaped and that numbers are masked.
"""

import contextvars
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from structlog.contextvars import bind_contextvars, bound_contextvars, clear_contextvars, get_contextvars

SIP_CALL_ID_MAX: Final = 200
"""Characters that are kept of a Call-ID (RFC 3261 20.8 has no bound), in the log as in the ledger."""

Facts = Mapping[str, Any]


def speak_of(call: str, sip_call_id: str) -> None:
    """From now on this task works on that call alone. call: its id, or its channel's."""
    clear_contextvars()
    bind_contextvars(call=call, sip_call_id=sip_call_id[:SIP_CALL_ID_MAX])


def facts() -> Facts:
    """What is said of the call that is worked on; for work that is done later by others."""
    return get_contextvars()


def spoken_of(of: Facts) -> AbstractContextManager[None]:
    """For so long as the block runs, it is that call that is worked on."""
    return bound_contextvars(**of)


def nobody() -> contextvars.Context:
    """For a task or a timer that works for all calls."""
    return contextvars.Context()
