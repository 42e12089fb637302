"""The commands that look on: `calls --watch` and `top`, for as long as FairDial runs or until Ctrl-C.

They ask the running FairDial over the control socket, at least once a second: for events, which come at once, and for
what is so now. Nothing is kept for them there, so a terminal that is closed or slow costs nobody anything.
"""

import json
import shutil
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fairdial.console.control import HungUp, NotRunning, ask
from fairdial.console.operations import OperationError
from fairdial.console.session import Session, fail
from fairdial.console.shapes import Json

WAIT_S: Final = 1.0
"""At most so old is what is shown."""
PACE_S: Final = 0.25
"""At least so long between two looks, however much happens."""
WIDTH_MIN: Final = 80
DECISIONS_MAX: Final = 200
"""That are remembered, to be shown where there is room."""
OF_CALLS: Final = frozenset({"call", "call_gone", "decision", "answered", "renewed", "settled"})
"""What `calls --watch --json` tells."""

NOT_HERE = "no FairDial is running here to look on at; start `fairdial serve`"
STOPPED = "FairDial has stopped"
NO_TERMINAL = "this draws on a terminal, and there is none; {instead}"


class Feed:
    """Asks a running FairDial for what happens, from now on. Raises NotRunning, OperationError."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self.stopping = False
        self._last = int(self.ask("events")["last"])

    def ask(self, operation: str, **arguments: Any) -> Any:
        """What an operation answers."""
        return ask(self._control, operation, arguments)

    def next(self) -> Json:
        """What came since: at once where there is something, else after WAIT_S. Raises NotRunning where it stops."""
        if self.stopping:
            raise KeyboardInterrupt
        piece: Json = self.ask("events", after=self._last, wait_s=WAIT_S, limit=500)
        self._last = piece["last"]
        if piece["closed"]:
            raise NotRunning(STOPPED)
        return piece


@contextmanager
def _looking_on(session: Session) -> Iterator[Feed]:
    """A feed, and its end: by Ctrl-C or SIGTERM well, where FairDial stops or runs not at all with a word."""
    feed: Feed | None = None

    def stop(_number: int, _frame: object) -> None:
        # Noted too: what is raised while an object is thrown away goes nowhere.
        if feed is not None:
            feed.stopping = True
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        feed = Feed(session.config.control)
        yield feed
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        # Who read it has gone: nothing is left to be flushed to it.
        sys.stdout = None
        return
    except (NotRunning, HungUp):
        fail(NOT_HERE if feed is None else STOPPED)
    except OperationError as error:
        fail(str(error))


def watch_calls(session: Session, as_json: bool) -> None:
    """The calls in progress, again and again; as JSON each event of calls in a line of its own."""
    if not as_json:
        _draw(session, Board(decisions=deque(maxlen=0)), "give --json to have events in lines")
        return
    with _looking_on(session) as feed:
        for row in feed.ask("calls"):
            _print_line({"event": "call", **row})
        while True:
            piece = feed.next()
            if piece["missed"]:
                _print_line({"event": "missed"})
            for event in piece["events"]:
                if event["event"] in OF_CALLS:
                    _print_line(event)


def _print_line(event: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def top(context: typer.Context) -> None:
    """Look on: calls with what is left of them, decisions as they are made and why, and how the parts are."""
    _draw(context.obj, Board(), "`fairdial ready` and `fairdial calls --watch --json` need none")


def _draw(session: Session, board: "Board", instead: str) -> None:
    if not sys.stdout.isatty():
        fail(NO_TERMINAL.format(instead=instead))
    console = Console()
    pace = threading.Event()
    with (
        _looking_on(session) as feed,
        Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        while True:
            board.status = feed.ask("status")
            size = shutil.get_terminal_size()
            live.update(board.drawn(feed.ask("calls"), size.columns, size.lines), refresh=True)
            pace.wait(PACE_S)
            board.take(feed.next())


CALL_COLUMNS = (
    ("call", 18),
    ("line", 12),
    ("kind", 8),
    ("dialled", 15),
    ("state", 7),
    ("up", 6),
    ("left", 6),
)
DECISION_COLUMNS = (("at", 8), ("line", 12), ("dialled", 15), ("", 6), ("reason", 20), ("clause", 12))


@dataclass
class Board:
    """What is shown. status: as `status` has it; counts: decisions by their reason."""

    status: Mapping[str, Any] = field(default_factory=dict)
    decisions: deque[Json] = field(default_factory=lambda: deque(maxlen=DECISIONS_MAX))
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    missed: bool = False

    def take(self, piece: Mapping[str, Any]) -> None:
        """Note what happened. Reasons are a closed list, so the counts are bounded."""
        self.missed = self.missed or piece["missed"]
        for event in piece["events"]:
            if event["event"] == "decision":
                self.decisions.appendleft(event)
                self.counts[event["decision"], event["reason"]] += 1

    def drawn(self, calls: Sequence[Mapping[str, Any]], columns: int, lines: int) -> RenderableType:
        """All of it, within a terminal of that size; what does not fit is told by its number."""
        head = [*self._health(), self._summary(len(calls))]
        # Two tables with a heading each, and a line that says how many calls are not shown.
        room = max(2, lines - len(head) - 1 - (2 if self.decisions.maxlen else 1))
        wanted = room if not self.decisions.maxlen else max(room // 2, room - len(self.decisions))
        shown = sorted(calls, key=_ends)[:wanted]
        parts: list[RenderableType] = [*head, _table(CALL_COLUMNS, map(_call_cells, shown))]
        hidden = len(calls) - len(shown)
        if hidden:
            parts.append(_line(f"... and {hidden} more calls"))
        if self.decisions.maxlen:
            left = max(1, room - len(shown) - bool(hidden))
            parts.append(_table(DECISION_COLUMNS, map(_decision_cells, list(self.decisions)[:left])))
        return Group(*parts)

    def _health(self) -> Iterator[Text]:
        waiting, faults = self.status.get("unwritten", 0), False
        told = Text(no_wrap=True, overflow="ellipsis")
        for name, well in (
            ("store", not waiting),
            ("ari", self.status.get("ari", True)),
            ("ami", self.status.get("ami", True)),
        ):
            told.append(f"{name} {'ok' if well else 'FAULT'}  ", "" if well else "bold red")
            if not well:
                faults = True
        yield told
        if waiting:
            yield _line(f"{waiting} steps of calls wait in memory to be written")
        if faults:
            yield _line("`fairdial ready` says what is wrong, and the cure")
        for channel, said in self.status.get("notices_pause", {}).items():
            yield _line(f"notices by {channel} pause: {said}")

    def _summary(self, calls: int) -> Text:
        told = f"calls {calls}"
        if self.decisions.maxlen:
            sums: Counter[str] = Counter()
            for (decision, _), count in self.counts.items():
                sums[decision] += count
            refused = (
                (reason, n) for (decision, reason), n in self.counts.most_common() if decision != "allow"
            )
            told += f"  allowed {sums['allow']}  refused {sums['refuse']}  failed {sums['failed']}"
            told += "".join(f"  {reason} {n}" for reason, n in refused)
        return _line(told + ("  (some were missed)" if self.missed else ""))


def _ends(call: Mapping[str, Any]) -> tuple[bool, int]:
    """Calls that end soonest first."""
    return call["left_s"] is None, call["left_s"] or 0


def _line(text: str) -> Text:
    return Text(_plain(text), no_wrap=True, overflow="ellipsis")


def _plain(value: object) -> str:
    """What a caller dialled must not steer the terminal."""
    return "".join(each if each.isprintable() else "?" for each in str(value))


def _table(columns: Sequence[tuple[str, int]], rows: Iterator[Sequence[object]]) -> Table:
    drawn = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for name, width in columns:
        drawn.add_column(name, width=width, no_wrap=True, overflow="ellipsis")
    for row in rows:
        drawn.add_row(*(Text("" if cell is None else _plain(cell)) for cell in row))
    return drawn


def _call_cells(call: Mapping[str, Any]) -> Sequence[object]:
    of = [call[key] for key in ("call", "line", "kind", "dialled", "state")]
    return [*of, _clock_text(call["up_s"]), _clock_text(call["left_s"])]


def _decision_cells(event: Mapping[str, Any]) -> Sequence[object]:
    at = datetime.fromtimestamp(event["at_ms"] / 1000, UTC).strftime("%H:%M:%S")
    clause = event["clause"]["id"] if event["clause"] else None
    return [at, event["line"], event["dialled"], event["decision"], event["reason"], clause]


def _clock_text(seconds: int | None) -> str | None:
    """Seconds as minutes and seconds."""
    return None if seconds is None else f"{seconds // 60}:{seconds % 60:02}"
