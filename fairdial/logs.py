"""How the process logs: structlog to standard error, for people or as JSON lines.

Responsible for two things that hold for every line, whoever writes it: what a caller can choose (names, numbers,
headers in an error's text) forges no line and steers no terminal, and telephone numbers are masked unless the
configuration wants them in full. Leaves to the ledger and the command line, which show numbers as they are, who may
read those.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

import structlog

from fairdial.config import Logs

NUMBER_KEYS = frozenset(
    {"called", "callee", "caller", "destination", "dialled", "e164", "first", "number", "shown"}
)
"""Keys whose values are telephone numbers, however they are written."""

IDENTIFIER_KEYS = frozenset(
    {
        *("account", "app", "asterisk_since", "bridge", "call", "calls", "channel", "clause", "event", "leg"),
        *(
            "level",
            "line",
            "path",
            "reason",
            "room",
            "sip_call_id",
            "source",
            "store",
            "timestamp",
            "uniqueid",
        ),
        *("url", "version"),
    }
)
"""Keys whose values are looked up elsewhere as they stand: they are never masked. A line's id is the operator's own
name for it and what a log is searched for; who names lines by their numbers has these in the log. What was dialled
and became part of a channel's name (Local/02079460123@phones) is masked there too."""

_LEADING_DIGITS, _TRAILING_DIGITS, _HIDDEN_DIGITS_MIN = 4, 2, 4
_SHORT_DIGITS = 6
"""Numbers of so many digits are extensions and services, and stay."""
_HIDDEN = "•"

# In a text a number is: + and digits, perhaps in groups; or so many digits in one piece as only numbers have. Not
# the seconds of a channel's id (1795315345.12) or an instant in seconds or milliseconds since 1970, nor a part of a
# word, an address or a decimal.
_INTERNATIONAL = re.compile(r"(?:\+|%2[Bb])\d(?:[ .()-]{0,2}\d){6,14}(?!\d)")
_NATIONAL = re.compile(r"(?<![\w.+%-])(?!1[5-9]\d{8}(?:\d{3})?(?!\d))(?:0\d{8,17}|\d{10,17})(?![\w%]|\.\d)")
_IN_A_NAME = re.compile(r"(?<=/)\+?\d{7,17}(?=@)")
_DIGIT = re.compile(r"\d")

# Control characters (C0, DEL, C1), line and paragraph separators, what turns the direction of writing, and lone
# surrogates, which no encoding takes.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_DEPTH_MAX = 6


def masked(number: str) -> str:
    """A telephone number with the digits in its middle hidden: "+4479•••••12". Short ones stay as they are."""
    digits = len(_DIGIT.findall(number))
    if digits <= _SHORT_DIGITS:
        return number
    leading = min(_LEADING_DIGITS, digits - _TRAILING_DIGITS - _HIDDEN_DIGITS_MIN)
    seen = 0

    def hide(digit: re.Match[str]) -> str:
        nonlocal seen
        seen += 1
        return digit[0] if seen <= leading or seen > digits - _TRAILING_DIGITS else _HIDDEN

    return _DIGIT.sub(hide, number)


def masked_in(text: str) -> str:
    """A text with the telephone numbers in it masked."""
    if len(text) <= _SHORT_DIGITS:
        return text
    for pattern in (_IN_A_NAME, _INTERNATIONAL, _NATIONAL):
        text = pattern.sub(_masked_match, text)
    return text


def _masked_match(found: re.Match[str]) -> str:
    return masked(found[0])


def escaped(text: str) -> str:
    r"""A text on one line: what would break it or steer a terminal is written as "\n", "\x1b" or "\u202e"."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def mask_numbers(
    _logger: object, _method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    """Processor: no telephone number in full."""
    return {key: _mask(key, value, _DEPTH_MAX) for key, value in event.items()}


def escape_text(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Processor: an entry is one line, but for a traceback, whose lines are set off from those of entries."""
    told = {escaped(key): _escape(value, _DEPTH_MAX) for key, value in event.items()}
    if isinstance(trace := event.get("exception"), str):
        told["exception"] = "\n".join(f"  | {escaped(line)}" for line in trace.split("\n"))
    return told


def _mask(key: str, value: Any, depth: int) -> Any:
    match value:
        case str() if key in IDENTIFIER_KEYS:
            return _IN_A_NAME.sub(_masked_match, value) if "@" in value else value
        case bool() | float() | None:
            return value
        case int():
            return masked(str(value)) if key in NUMBER_KEYS else value
        case str():
            return masked(str(value)) if key in NUMBER_KEYS else masked_in(str(value))
        case Mapping() if depth:
            return {inner: _mask(str(inner), each, depth - 1) for inner, each in value.items()}
        case list() | tuple() | set() | frozenset() if depth:
            return [_mask(key, each, depth - 1) for each in value]
        case _:
            return masked_in(repr(value))


def _escape(value: Any, depth: int) -> Any:
    match value:
        case str():
            return escaped(str(value))
        case bool() | int() | float() | None:
            return value
        case Mapping() if depth:
            return {escaped(str(key)): _escape(each, depth - 1) for key, each in value.items()}
        case list() | tuple() | set() | frozenset() if depth:
            return [_escape(each, depth - 1) for each in value]
        case _:
            return escaped(repr(value))


class _Libraries(logging.Handler):
    """Takes in what libraries warn of by the standard library's way, so that the same holds for it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            logger = structlog.get_logger(record.name)
            logger.log(
                record.levelno,
                "library",
                logger=record.name,
                said=record.getMessage(),
                exc_info=record.exc_info,
            )
        except Exception:
            self.handleError(record)


def _take_in_libraries() -> None:
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, _Libraries):
            root.removeHandler(handler)
    root.addHandler(_Libraries(logging.WARNING))


_LEVELS = {name.lower(): level for name, level in logging.getLevelNamesMapping().items()}

_PROCESSORS: list[structlog.types.Processor] = []
"""The one list that all loggers hold, those too that are kept: filled anew, it changes how they all log."""


def _from_level(least: int) -> structlog.types.Processor:
    """Drops what is below that level. A processor and not the logger's class, which a kept logger never changes."""

    def drop(_logger: Any, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        if _LEVELS.get(method, least) < least:
            raise structlog.DropEvent
        return event

    return drop


def set_up(settings: Logs, *, for_good: bool = False) -> None:
    """Configure structlog, before anything logs or later. for_good: loggers are kept from their first use on, which is
    faster; only these settings change for them afterwards.
    """
    console = settings.format == "console"
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if console
        else structlog.processors.JSONRenderer()
    )
    _PROCESSORS[:] = [
        _from_level(_LEVELS[settings.level]),
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        *([mask_numbers] if settings.numbers == "masked" else []),
        # JSON has its own escapes.
        *([escape_text] if console else []),
        renderer,
    ]
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=for_good,
    )
    _take_in_libraries()
