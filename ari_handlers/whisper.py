"""What a party to a call is told while it talks: a whisper, heard on its own channel alone.

It reaches a caller who is inside the dialplan's `Dial()` as well as one in a bridge of ours (ASTERISK: snoop with
whisper). A sound that is missing, or a switch that is slow, delays nothing: the lease runs in the switch.
"""

from collections.abc import Mapping, Sequence

import structlog

from ari_handlers.followed import DialCall
from ari_handlers.owned import LegNotAnswered, OwnCalls, new_id
from fairdial import call_log
from fairdial.policy.account import Kind

log = structlog.get_logger(__name__)

_CALLED_PAYS = frozenset({Kind.INBOUND, Kind.COLLECT})
"""Kinds whose called party pays, and is to hear that its call ends."""

WHISPER_WITHIN_S = 10.0


class Warnings:
    """Warns of cuts."""

    def __init__(
        self, own: OwnCalls, sounds: Sequence[str], sounds_for: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """sounds_for: by the rule that will cut the call (longest_call, allowances, credit), else `sounds`."""
        self._own = own
        self._sounds = tuple(sounds)
        self._sounds_for = dict(sounds_for or {})
        own.dials.leases.on_warning(self._warn)

    def _warn(self, call: DialCall, at_s: int) -> None:
        sounds = self._sounds_for.get(call.bound_by.partition(".")[0], self._sounds)
        with call_log.spoken_of(call.queue.facts):
            log.info("warned_of_cut", call=call.call_id, left_s=at_s, rule=call.bound_by)
            if sounds:
                self._own.start(f"warn-{call.call_id}", self._whisper(call, _ear(call), sounds))

    async def _whisper(self, call: DialCall, channel_id: str, sounds: Sequence[str]) -> None:
        snoop_id = new_id(self._own.rules.switch)
        try:
            await self._own.legs.whisper(call.queue, snoop_id, channel_id)
            await self._own.hear(self._own.client.channels.get(snoop_id), sounds, WHISPER_WITHIN_S)
        except LegNotAnswered as error:
            log.warning("not_whispered", call=call.call_id, channel=channel_id, error=str(error))
        finally:
            await self._own.legs.hang_up(snoop_id)


def _ear(call: DialCall) -> str:
    """The channel of the party that pays."""
    if call.kind in _CALLED_PAYS and call.legs:
        return min(call.legs)
    return call.channel
