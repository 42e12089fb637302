"""How long FairDial takes to answer all that the page asks for when it is opened, with a thousand calls in progress.

A real server process on a real switch, a ledger with a hundred thousand accounts. Asked one after the other over one
connection, in a browser's order: the page and its modules, who is signed in, calls, decisions, state, and a search for
an account; the median of twenty times. What the browser then does with it is its own time.
"""

import argparse
import asyncio
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import dirname, join, normpath

import aiohttp

from benchmarks.measure import Outcome, Sheet, going_on, parser, program, site
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Account, Line, Options
from testbed.configuration import Line as Endpoint
from testbed.installation import TestbedError
from testbed.server import Server
from testbed.sipp import place_calls

BUDGET_MS = 300.0
ROUNDS = 20
RATE_PER_S = 40.0
MEASURES_S = 90.0
"""For so long after the last has begun, calls stay up."""
AT_ONCE = 5_000
LONDON = "02079460123"
PLAN = "kryptotel-in-shadow"
WHOLE_PAGE = "/, and the files of the page"
START_VIEW = "/page/views/calls.js"


@dataclass(frozen=True)
class Answers:
    """Medians in ms and bytes by what was asked, in the order in which it is."""

    calls: int
    ms: dict[str, float]
    size: dict[str, int]

    @property
    def sum_ms(self) -> float:
        """All of it."""
        return sum(self.ms.values())


async def fill(path: Path, accounts: int) -> None:
    """A ledger with so many accounts, and one that calls."""
    ledger = await SqliteLedger.open(path)
    options = Options(countries=frozenset({"GB"}))
    try:
        for first in range(0, accounts, AT_ONCE):
            group = range(first, min(first + AT_ONCE, accounts))
            await asyncio.gather(
                *(
                    ledger.add_account(Account(f"customer-{number:06}", PLAN, options=options))
                    for number in group
                )
            )
        await ledger.add_account(Account("bench", PLAN, "Europe/London", options=options))
        await ledger.add_line(Line("alice", "bench"))
    finally:
        await ledger.close()


async def files_of(session: aiohttp.ClientSession) -> list[str]:
    """What the page loads before it is there: what its HTML names, and what its modules import."""
    async with session.get("/") as answer:
        html = await answer.text()
    wanted = [*re.findall(r'(?:href|src)="(/page/[^"]+)"', html), START_VIEW]
    found: list[str] = []
    while wanted:
        path = wanted.pop(0)
        if path in found:
            continue
        found.append(path)
        if path.endswith(".js"):
            async with session.get(path) as answer:
                text = await answer.text()
            inside = re.findall(r'(?:\bfrom|\bimport)\s*"(\.[^"]+)"', text)
            wanted += [normpath(join(dirname(path), each)) for each in inside]
    return ["/", *found]


async def timed(session: aiohttp.ClientSession, path: str) -> tuple[float, int]:
    """Milliseconds until an answer was there in full, and its bytes as text."""
    began = time.perf_counter()
    async with session.get(path) as answer:
        body = await answer.read()
        if answer.status != 200:
            raise TestbedError(f"{path} answered {answer.status}: {body[:200]!r}")
    return (time.perf_counter() - began) * 1_000, len(body)


async def measure(accounts: int, calls: int, rounds: int) -> Outcome:
    """The answers of a server with that much in it."""
    async with site(lines=[Endpoint("alice", context="phones")], launch=False) as at:
        server = at.server
        await fill(server.directory / "ledger.sqlite", accounts)
        await server.launch()
        made = await server.command("token", "add", "bench", "--role", "operator", "--json")
        stays_s = 2 * calls / RATE_PER_S + MEASURES_S
        load = place_calls(
            at.switch,
            line="alice",
            number=LONDON,
            # A busy machine loses some of so many; those that are there are what counts.
            count=calls * 6 // 5,
            rate_per_s=RATE_PER_S,
            hang_up_after_s=stays_s,
            timeout_s=stays_s + 30,
        )
        async with going_on(load):
            await _all_talk(server, calls)
            found = await _asked(server.http_url, str(made.json["token"]), rounds)
    outcome = Outcome([report(found, accounts, rounds)], versions=at.versions)
    if found.sum_ms > BUDGET_MS:
        outcome.wrong.append(f"all of it takes {found.sum_ms:.0f} ms, where {BUDGET_MS:.0f} are allowed")
    return outcome


async def _all_talk(server: Server, calls: int) -> None:
    talking = 0
    try:
        async with asyncio.timeout(2 * calls / RATE_PER_S + 60):
            while talking < calls:
                await asyncio.sleep(0.5)
                talking = sum(row["state"] == "talking" for row in await server.ask("calls"))
    except TimeoutError:
        raise TestbedError(
            f"{talking} of {calls} calls talk; try fewer (--calls):\n{server.last_words()}"
        ) from None


async def _asked(url: str, token: str, rounds: int) -> Answers:
    jar = aiohttp.CookieJar(unsafe=True)  # the server has an address and no name
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(url, cookie_jar=jar, connector=connector) as session:
        async with session.post("/session", json={"token": token}) as answer:
            if answer.status != 200:
                raise TestbedError(f"/session answered {answer.status}")
        files = await files_of(session)
        asked = [
            *files,
            "/session",
            "/v1/calls",
            "/v1/decisions?limit=100",
            "/v1/status",
            "/v1/accounts?starts=customer-05&limit=25",
        ]
        times: dict[str, list[float]] = {path: [] for path in asked}
        size: dict[str, int] = {}
        for _ in range(rounds):
            for path in asked:
                took_ms, size[path] = await timed(session, path)
                times[path].append(took_ms)
        async with session.get("/v1/calls") as answer:
            calls = len(await answer.json())
    ms = {path: statistics.median(each) for path, each in times.items()}
    together = {WHOLE_PAGE: files, **{path: [path] for path in asked if path not in files}}
    return Answers(
        calls,
        {name: sum(ms[path] for path in paths) for name, paths in together.items()},
        {name: sum(size[path] for path in paths) for name, paths in together.items()},
    )


def report(found: Answers, accounts: int, rounds: int) -> Sheet:
    """The table of a run."""
    rows: list[Sequence[str]] = [
        (path, f"{found.size[path] / 1_000:.1f}", f"{ms:.1f}") for path, ms in found.ms.items()
    ]
    rows.append(("all of it", "", f"{found.sum_ms:.1f}"))
    title = (
        f"The page is opened: {found.calls:,} calls in progress, {accounts:,} accounts, median of {rounds}"
    )
    return Sheet(title, ("asked", "KB", "ms"), rows, caption=f"budget {BUDGET_MS:.0f} ms")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 where it takes longer than the budget."""
    options = parser(__doc__)
    options.add_argument("--accounts", type=int, default=100_000, help="in the ledger (100000)")
    options.add_argument("--calls", type=int, default=1_000, help="in progress (1000)")
    options.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"of which the median is taken ({ROUNDS})"
    )

    def run(given: argparse.Namespace) -> Outcome:
        return asyncio.run(measure(given.accounts, given.calls, given.rounds))

    return program("page", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
