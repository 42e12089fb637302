"""Replays that are asked for over HTTP: a file of call records is taken in, and replayed beside the calls in progress.

Responsible for one replay at a time in a process of its own that steps back behind everything else, for its progress,
its end (also by force), and that of it nothing is left longer than it is wanted. Leaves what a replay is to the command
`replay`, which runs in that process, and who may ask to the routes (`api_replays.py`).

Nothing outlives FairDial: what was found is kept in a folder that is emptied at the start and at the end, and the
process ends with the pipe that it holds (`attend`), also where FairDial was killed.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from fairdial.policy.book import PolicyBook

log = structlog.get_logger(__name__)

Json = dict[str, Any]
State = Literal["running", "done", "failed", "cancelled"]

KEPT_MAX: Final = 20
KEPT_S: Final = 24 * 3_600.0
WITHIN_S: Final = 3_600.0
"""For a replay; 64 MB of records take some minutes."""
NICE: Final = 19
FOUND, DONE = 1, 0
"""Exit statuses of the command: something would be refused or cut, or nothing."""
READING_SHARE: Final = 0.2
"""Of the work, reading the records; deciding is the rest."""

RECORDS, RESULT, REPORT = "Master.csv", "result.json", "report.html"
"""Files of a replay, in its folder."""

_PIECE_BYTES: Final = 256 * 1024
_SAID_MAX: Final = 2_000
_LINE_MAX: Final = 64 * 1024


class ReplayBusy(ValueError):
    """There is a replay under way, or it is not in the state for that; the text says which one."""


class ReplayUnknown(ValueError):
    """There is no such replay."""


class NoRoom(ValueError):
    """The file system does not take what is sent."""


@dataclass(frozen=True, slots=True)
class Runner:
    """How the process is started: the command line of `fairdial`, without a command, and its environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(slots=True)
class _Replay:
    """A replay. rows: lines of its file; ended_ms, error: None until it is over, or where nothing went wrong."""

    id: str
    policy: str | None
    against: str | None
    folder: Path
    by: str = ""
    state: State = "running"
    rows: int = 0
    rows_done: int = 0
    error: str | None = None
    started_ms: int = 0
    ended_ms: int | None = None
    task: "asyncio.Task[None] | None" = None
    forget: asyncio.TimerHandle | None = None

    def as_json(self) -> Json:
        """As it is told."""
        return {
            "replay": self.id,
            "state": self.state,
            "policy": self.policy,
            "against": self.against,
            "rows": self.rows,
            "rows_done": self.rows_done,
            "error": self.error,
            "started_ms": self.started_ms,
            "ended_ms": self.ended_ms,
            "by": self.by,
        }


class Upload:
    """A file that is being sent, written in pieces. Made by `Replays.receive`."""

    def __init__(self, replay: str, file: Any, bytes_max: int) -> None:
        self.replay = replay
        self.bytes_max = bytes_max
        self.rows = 0
        self._file = file
        self._held = bytearray()
        self._last = b"\n"

    async def write(self, piece: bytes) -> None:
        """Take what came. Raises NoRoom."""
        self._held += piece
        if len(self._held) >= _PIECE_BYTES:
            await self._flush()

    async def end(self) -> None:
        """It has come in full. Raises NoRoom."""
        await self._flush()
        self.rows += self._last != b"\n"

    async def _flush(self) -> None:
        held, self._held = bytes(self._held), bytearray()
        if held:
            self.rows += held.count(b"\n")
            self._last = held[-1:]
            try:
                await asyncio.to_thread(self._keep, held)
            except OSError as error:
                raise NoRoom(
                    f"the file cannot be kept: {error.strerror}; make room and send it again"
                ) from error

    def _keep(self, held: bytes) -> None:
        self._file.write(held)
        self._file.flush()


class Replays:
    """The replays of one FairDial.

    folder: for their files, its own; nobody else writes there. policies: those that can be named. mb_max: of a file.
    """

    def __init__(
        self,
        folder: Path,
        runner: Runner,
        policies: Callable[[], PolicyBook],
        now_ms: Callable[[], int],
        mb_max: int = 64,
    ) -> None:
        self._folder = folder
        self._runner = runner
        self._policies = policies
        self._now_ms = now_ms
        self._bytes_max = mb_max * 1_000_000
        self._kept: dict[str, _Replay] = {}
        self._receiving: str | None = None
        self._last_id = 0
        self.by_name: Mapping[str, Callable[..., Awaitable[Any]]] = {
            "replay_start": self._start,
            "replay_list": self._list,
            "replay_show": self._show,
            "replay_remove": self._remove,
        }

    async def open(self) -> None:
        """Remove what an earlier FairDial left that was killed. Raises OSError."""
        await asyncio.to_thread(self._sweep)

    async def close(self) -> None:
        """End what runs, and leave nothing."""
        tasks = [kept.task for kept in self._kept.values() if kept.task is not None]
        for kept in self._kept.values():
            if kept.forget is not None:
                kept.forget.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._kept.clear()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    # --- a file comes in -------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def receive(self, policy: str | None, against: str | None) -> AsyncIterator[Upload]:
        """Take a file in, for a replay that then begins with the operation `replay_start`; one that does not leaves
        nothing. Raises ReplayBusy, ValueError where a policy is not known, and NoRoom.
        """
        self._check_policies(policy, against)
        self._check_free()
        replay_id = self._receiving = self._new_id()
        folder = self._folder / replay_id
        try:
            upload_file = await asyncio.to_thread(_open_for, folder)
            with contextlib.closing(upload_file):
                yield Upload(replay_id, upload_file, self._bytes_max)
        except OSError as error:
            raise NoRoom(f"{folder}: {error.strerror}; see that FairDial can write there") from error
        finally:
            if self._receiving == replay_id:
                self._receiving = None
            if replay_id not in self._kept:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _new_id(self) -> str:
        # No number of an earlier process comes again: somebody may still ask for that.
        self._last_id = max(self._now_ms(), self._last_id + 1)
        return str(self._last_id)

    def _check_free(self) -> None:
        if self._receiving is not None:
            raise ReplayBusy(f"the file of replay {self._receiving} is coming in; one runs at a time")
        running = next((kept.id for kept in self._kept.values() if kept.state == "running"), None)
        if running is not None:
            raise ReplayBusy(f"replay {running} is running; wait for it, or cancel it")

    def _check_policies(self, *named: str | None) -> None:
        book = self._policies()
        for each in named:
            if each is None:
                continue
            name, at, version = each.partition("@")
            if not book.versions(name):
                raise ValueError(f"policy {each!r:.100} is not loaded; known are {', '.join(book.names)}")
            if at and book.version(name, version) is None:
                known = ", ".join(policy.version for policy in book.versions(name))
                raise ValueError(f"policy {name!r} has no version {version!r:.100}; known are {known}")

    # --- the operations --------------------------------------------------------------------------

    async def _start(
        self, replay: str, rows: int, by: str, policy: str | None = None, against: str | None = None
    ) -> Json:
        """Replay the file that came in."""
        if replay != self._receiving:
            raise ReplayUnknown(f"no file came in for replay {replay!r:.40}")
        self._check_policies(policy, against)
        self._receiving = None
        kept = _Replay(replay, policy, against, self._folder / replay, by, rows=rows)
        kept.started_ms = self._now_ms()
        self._kept[replay] = kept
        while len(self._kept) > KEPT_MAX:
            await self._drop(next(iter(self._kept.values())))
        kept.task = asyncio.create_task(self._run(kept), name=f"replay-{replay}")
        return kept.as_json()

    async def _list(self) -> list[Json]:
        """Newest first."""
        return [kept.as_json() for kept in reversed(self._kept.values())]

    async def _show(self, replay: str) -> Json:
        return self._find(replay).as_json()

    async def _remove(self, replay: str) -> Json:
        """Cancel it where it runs, else remove it."""
        kept = self._find(replay)
        if kept.task is not None and not kept.task.done():
            kept.task.cancel()
            await asyncio.gather(kept.task, return_exceptions=True)
        else:
            await self._drop(kept)
        return kept.as_json()

    def file(self, replay: str, name: str) -> Path:
        """What was found, as RESULT or REPORT. Raises ReplayUnknown, and ReplayBusy until it is done."""
        kept = self._find(replay)
        if kept.state == "running":
            raise ReplayBusy(f"replay {replay} is running; its result is there when it is done")
        if kept.state != "done":
            raise ReplayBusy(f"replay {replay} has no result: it is {kept.state}")
        return kept.folder / name

    def _find(self, replay: str) -> _Replay:
        try:
            return self._kept[replay]
        except KeyError:
            raise ReplayUnknown(f"there is no replay {replay!r:.40}; they are kept for a day") from None

    async def _drop(self, kept: _Replay) -> None:
        self._kept.pop(kept.id, None)
        if kept.forget is not None:
            kept.forget.cancel()
        await asyncio.to_thread(shutil.rmtree, kept.folder, ignore_errors=True)

    # --- the process -----------------------------------------------------------------------------

    async def _run(self, kept: _Replay) -> None:
        state: State = "cancelled"
        try:
            async with asyncio.timeout(WITHIN_S):
                kept.error = await self._replayed(kept)
            state = "done" if kept.error is None else "failed"
        except TimeoutError:
            state, kept.error = (
                "failed",
                f"it was not done within {WITHIN_S:.0f} s; send fewer records at once",
            )
        except OSError as error:
            state, kept.error = "failed", f"no process can be started: {error.strerror}"
        except Exception:
            state, kept.error = "failed", "FairDial made a mistake; its log has the details"
            log.exception("replay_failed", replay=kept.id)
        finally:
            kept.ended_ms = self._now_ms()
            if state == "done":
                kept.rows_done = kept.rows
            try:
                # Shielded: one that is cancelled here is cleared to the end all the same.
                wanted = (RESULT, REPORT) if state == "done" else ()
                await asyncio.shield(asyncio.to_thread(_clear, kept.folder, wanted))
            finally:
                kept.state = state
                kept.forget = asyncio.get_running_loop().call_later(KEPT_S, self._expire, kept)
                log.info("replay_ended", replay=kept.id, state=state, by=kept.by, error=kept.error)

    def _expire(self, kept: _Replay) -> None:
        kept.task = asyncio.create_task(self._drop(kept), name=f"replay-{kept.id}-expires")

    async def _replayed(self, kept: _Replay) -> str | None:
        """Run it to its end; what went wrong in words, None where nothing did. Raises OSError."""
        result = await asyncio.to_thread((kept.folder / RESULT).open, "wb")
        with contextlib.closing(result):
            process = await asyncio.create_subprocess_exec(
                *self._runner.command,
                *_arguments(kept),
                cwd=kept.folder,
                env={**self._runner.environment, "TMPDIR": str(kept.folder)},
                stdin=asyncio.subprocess.PIPE,
                stdout=result,
                stderr=asyncio.subprocess.PIPE,
            )
        try:
            _step_back(process.pid)
            said = await self._listen(kept, process)
            status = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
        if status in (DONE, FOUND):
            return None
        if status < 0:
            return (
                f"its process was killed by signal {-status}; see the machine's log, its memory may be short"
            )
        return said or f"its process ended with status {status}"

    async def _listen(self, kept: _Replay, process: asyncio.subprocess.Process) -> str:
        """Read the progress until the process says nothing more; what else it said."""
        assert process.stderr is not None
        said, left = "", b""
        while piece := await process.stderr.read(_LINE_MAX):
            *lines, left = (left + piece).split(b"\n")
            left = left[-_LINE_MAX:]
            for line in lines:
                progress = _progress(line)
                if progress is None:
                    said = f"{said}\n{line.decode(errors='replace')}"[-_SAID_MAX:]
                else:
                    kept.rows_done = max(kept.rows_done, int(progress * kept.rows))
        return said.strip().removeprefix("fairdial: ")

    def _sweep(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _arguments(kept: _Replay) -> Sequence[str]:
    named = [
        f"--{name}={value}" for name, value in (("policy", kept.policy), ("against", kept.against)) if value
    ]
    return ("replay", RECORDS, *named, "--json", "--html", REPORT, "--attended")


def _open_for(folder: Path) -> Any:
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700)
    return (folder / RECORDS).open("xb")


def _clear(folder: Path, wanted: Sequence[str]) -> None:
    """Remove all but those files; without any the folder too."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.name not in wanted:
            file.unlink(missing_ok=True)
    if not wanted:
        shutil.rmtree(folder, ignore_errors=True)


def _step_back(pid: int) -> None:
    """Behind calls where processors are short, and first to go where memory is."""
    try:
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
    except (ProcessLookupError, FileNotFoundError):
        pass  # over already
    except OSError as error:
        log.warning("replay_not_stepped_back", error=str(error))


def _progress(line: bytes) -> float | None:
    """How much of the work is done, 0 to 1, where a line says so."""
    try:
        told = json.loads(line)
        step, done = str(told["step"]), min(1.0, float(told["done"]) / max(1.0, float(told["total"])))
    except (ValueError, KeyError, TypeError):
        return None
    return done * READING_SHARE if step == "reading" else READING_SHARE + done * (1 - READING_SHARE)


# --- in the process ----------------------------------------------------------------------------------


def attend() -> Callable[[str, int, int], None]:
    """In the process of a replay: end with the one that started it; how it is told of the progress."""

    def watch() -> None:
        # Nothing is ever sent: what is read is the end, also of one that was killed. Not by `sys.stdin`, whose lock
        # an exit in order would wait for.
        with contextlib.suppress(OSError):
            os.read(0, 1)
        os._exit(os.EX_TEMPFAIL)

    threading.Thread(target=watch, name="attended", daemon=True).start()

    def tell(step: str, done: int, total: int) -> None:
        sys.stderr.write(json.dumps({"step": step, "done": done, "total": total}) + "\n")
        sys.stderr.flush()

    return tell
