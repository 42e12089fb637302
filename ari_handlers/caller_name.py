"""The name that a caller says, for the called party of a reverse-charge call to hear.

The caller is asked, and recorded, as early media. Asterisk answers each channel that it records over ARI (measured on
22.10), and a caller is not to be answered before the call is accepted: so a channel that overhears the caller is
recorded in its place. A voice belongs to who speaks: whoever asks for a name deletes it as soon as nobody is to hear
it any more, and `sweep` what an earlier run left. When to ask, and where the name is heard, is `collect.py`'s.
"""

import asyncio
from collections.abc import Set

import structlog

from ari_handlers.followed import DialCall
from ari_handlers.owned import ANSWER_SLACK_S, LegNotAnswered, OwnCalls, rings
from ari_handlers.resources import AriError, Recording

log = structlog.get_logger(__name__)

PROMPT = ("sound:priv-recordintro", "sound:beep")
"""Of Asterisk's core sounds: at the tone, please say your name."""

PROMPT_WITHIN_S = 10.0
LONGEST_S = 4
SILENCE_S = 2
"""Ends the name, and also the wait for its first word."""

RECORD_WITHIN_S = LONGEST_S + 3.0
"""Asterisk counts whole seconds."""

STORED_WITHIN_S = 1.0
"""For a recording that is cut short to be closed."""

ASK_WITHIN_S = round(PROMPT_WITHIN_S + ANSWER_SLACK_S + RECORD_WITHIN_S + STORED_WITHIN_S)
"""The longest that a caller is asked for."""

NAME_MS_MIN = 150
"""Speech that is shorter is a click or a cough."""

DETECT_TALK = "20"
"""Milliseconds of silence after which TALK_DETECT() takes speech for over: one frame.

With more, Asterisk 22.10 takes a channel that is silent from the start for one that speaks.
"""

_PREFIX, _EAR = "fairdial-name-", "-name"


def recording_of(call_id: str) -> str:
    """Name of the recording in which that call's caller says a name."""
    return f"{_PREFIX}{call_id}"


def ear_of(call_id: str) -> str:
    """Id of the channel that overhears that call's caller."""
    return f"{call_id}{_EAR}"


class CallerNames:
    """The names of callers, each for one call."""

    def __init__(self, own: OwnCalls) -> None:
        self._own = own
        own.on_sweep(self.sweep)

    async def ask(self, call: DialCall) -> str | None:
        """Ask a caller who is not answered; the recording of the name.

        None where there is none: nothing was said, nothing could be recorded, it took too long, or the caller is
        gone. To be followed by `delete` in every case, also after a cancellation.
        """
        caller = self._own.client.channels.get(call.channel)
        try:
            await caller.progress()
            if not await self._own.hear(caller, PROMPT, PROMPT_WITHIN_S) or not rings(call):
                return None
            said = await self._record(call)
        except (AriError, LegNotAnswered, TimeoutError) as error:
            log.warning("name_not_recorded", call=call.call_id, error=str(error) or type(error).__name__)
            return None
        log.info("name_asked", call=call.call_id, said=said)
        return recording_of(call.call_id) if said else None

    async def _record(self, call: DialCall) -> bool:
        """Whether anything was said. Raises AriError, LegNotAnswered, TimeoutError."""
        ear = self._own.client.channels.get(ear_of(call.call_id))
        recording = self._own.client.recordings.expect(recording_of(call.call_id), ear.id)
        begun = False
        try:
            async with asyncio.timeout(RECORD_WITHIN_S + ANSWER_SLACK_S):
                await self._own.legs.overhear(call.queue, ear.id, call.channel)
                await ear.set_variable("TALK_DETECT(set)", DETECT_TALK)
                begun = True
                await ear.record(recording.name, longest_s=LONGEST_S, silence_s=SILENCE_S)
                await recording.over.wait()
        finally:
            await self._own.legs.hang_up(ear.id)
            if begun:
                await _closed(recording)
            self._own.client.recordings.forget(recording)
        return recording.speaks or recording.spoken_ms >= NAME_MS_MIN

    async def delete(self, call: DialCall) -> None:
        """Nobody is to hear that name any more. A link that is down leaves it to the next `sweep`."""
        try:
            await self._own.client.recordings.delete(recording_of(call.call_id))
        except AriError as error:
            log.warning("name_not_deleted", call=call.call_id, error=str(error))

    async def sweep(self, channel_ids: Set[str]) -> None:
        """Delete names of calls that nobody follows, and end what records them. Never raises AriError."""
        for channel_id in channel_ids:
            call_id = channel_id.removesuffix(_EAR)
            if ear_of(call_id) == channel_id and self._is_left(call_id):
                await self._own.legs.hang_up(channel_id)
        try:
            for name in await self._own.client.recordings.stored():
                call_id = name.removeprefix(_PREFIX)
                if recording_of(call_id) == name and self._is_left(call_id):
                    await self._own.client.recordings.delete(name)
        except AriError as error:
            # Where callers are never asked, a switch may have no folder for recordings.
            log.info("names_not_swept", error=str(error))

    def _is_left(self, call_id: str) -> bool:
        return self._own.dials.places(call_id) and not self._own.dials.follows(call_id)


async def _closed(recording: Recording) -> None:
    """Wait until the file is written, so that none comes to be after it was deleted."""
    try:
        async with asyncio.timeout(STORED_WITHIN_S):
            await recording.over.wait()
    except TimeoutError:
        log.warning("recording_not_closed", recording=recording.name)
