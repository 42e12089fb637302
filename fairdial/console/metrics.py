"""`/metrics`: what FairDial counts, in Prometheus' text format; docs/metrics.md says what each name means.

`FAMILIES` is the closed list of names. Where the numbers come from is handed in, one source for each family: tallies
that are kept where things happen, and questions that are asked at scrape time. The store is asked too, on its reading
connection and within a bound; where it does not answer, its families have no samples, and the rest is told.
Nothing global: each has a registry of its own.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fairdial.ledger.contract import Ledger, LedgerError
from fairdial.ledger.notice import DeliveryState
from fairdial.tallies import Labels, Spread, Tally

FRESH_S: Final = 1.0
"""How long an answer is good for: whoever asks more often costs nothing more."""
STORE_WITHIN_S: Final = 0.25
"""For the store's numbers; a scrape is not late because the disk is."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram"]
Numbers = Mapping[Labels, float]
Source = Tally | Spread | Callable[[], Numbers]
"""A histogram's is a Spread; any other's a Tally, or a question."""


@dataclass(frozen=True, slots=True)
class Family:
    """What is told under one name. Counters end in _total, durations are seconds."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


FAMILIES: Final = (
    Family("fairdial_build_info", "gauge", "1, with the version that runs", ("version",)),
    # --- decisions -------------------------------------------------------------------------------
    Family(
        "fairdial_decisions_total",
        "counter",
        "Dials and messages that the desk answered",
        ("kind", "decision", "reason"),
    ),
    Family(
        "fairdial_answer_seconds",
        "histogram",
        "From the dialplan's question until it had its answer: set-up time added",
        ("gate", "result"),
    ),
    # --- calls -----------------------------------------------------------------------------------
    Family("fairdial_calls_live", "gauge", "Calls that hold a grant and are followed", ("kind",)),
    Family("fairdial_calls_ended_total", "counter", "Grants that are over, by how", ("kind", "end")),
    Family("fairdial_settle_lag_seconds", "histogram", "From the end of a call until it was settled"),
    Family("fairdial_renewals_total", "counter", "Questions for more seconds in mid-call", ("outcome",)),
    Family("fairdial_lease_settings_total", "counter", "Leases set on legs over AMI", ("outcome",)),
    # --- links -----------------------------------------------------------------------------------
    Family("fairdial_link_up", "gauge", "1 while connected and logged in", ("link",)),
    Family("fairdial_link_connects_total", "counter", "Connections made, the first included", ("link",)),
    Family("fairdial_ari_fenced", "gauge", "1 where another FairDial took the application over"),
    Family("fairdial_ari_request_seconds", "histogram", "Requests on the event socket", ("outcome",)),
    Family("fairdial_ari_events_lost_total", "counter", "Events that nobody could take", ("why",)),
    # --- nodes -----------------------------------------------------------------------------------
    Family("fairdial_node_holds", "gauge", "1 while the lease on its own switch's calls holds"),
    Family("fairdial_nodes_looked_after", "gauge", "Switches of other nodes whose calls it settles"),
    # --- store -----------------------------------------------------------------------------------
    Family("fairdial_store_commit_seconds", "histogram", "Transactions that write", ("outcome",)),
    Family("fairdial_store_steps_total", "counter", "Steps written, many to a commit", ("outcome",)),
    Family("fairdial_store_steps_waiting", "gauge", "Steps that wait to be written, or are"),
    Family("fairdial_store_reads_total", "counter", "Readings beside the writer", ("outcome",)),
    Family("fairdial_store_reads_waiting", "gauge", "Readings that wait, or are under way"),
    Family("fairdial_store_answers", "gauge", "1 where the store was read for this scrape"),
    Family("fairdial_grants_live", "gauge", "Grants in the ledger that are not settled"),
    Family("fairdial_unwritten_steps", "gauge", "Steps of calls kept in memory until the store takes them"),
    Family("fairdial_unwritten_given_up_total", "counter", "Steps of calls that were never written"),
    # --- abuse and notices -----------------------------------------------------------------------
    Family("fairdial_detector_hits_total", "counter", "Findings of detectors", ("detector",)),
    Family("fairdial_cases_opened_total", "counter", "Cases opened, by what led to them", ("detector",)),
    Family("fairdial_watch_waiting", "gauge", "Events and findings that the watch has not dealt with"),
    Family("fairdial_notices_waiting", "gauge", "Notices that are to be told", ("channel",)),
    Family("fairdial_notices_dead", "gauge", "Notices that were given up", ("channel",)),
    Family("fairdial_notice_channel_paused", "gauge", "1 while its far end is away", ("channel",)),
)

FROM_STORE: Final = frozenset(
    {
        "fairdial_grants_live",
        "fairdial_notices_waiting",
        "fairdial_notices_dead",
        "fairdial_store_answers",
    }
)
"""Asked of the ledger, at scrape time. All others have a source that is handed in."""


def alone(value: Callable[[], float]) -> Callable[[], Numbers]:
    """The source of a family without labels."""
    return lambda: {(): value()}


class Metrics(Collector):
    """Tells all families, once for all who ask within `fresh_s`."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        ledger: Ledger,
        *,
        fresh_s: float = FRESH_S,
        is_ours: Callable[[str], bool] | None = None,
    ) -> None:
        """is_ours: whether a call is of this node, by its id; None: all are. Raises ValueError where the sources are
        not those of FAMILIES.
        """
        for family in FAMILIES:
            if (family.name in sources) is (family.name in FROM_STORE):
                raise ValueError(f"{family.name}: needs one source")
            if (family.kind == "histogram") is not isinstance(sources.get(family.name), Spread):
                raise ValueError(f"{family.name}: a histogram's source is a Spread, and no other's")
        unknown = set(sources) - {family.name for family in FAMILIES}
        if unknown:
            raise ValueError(f"no such family: {', '.join(sorted(unknown))}")
        self._sources = dict(sources)
        self._ledger = ledger
        self._is_ours = is_ours
        self._stored: Mapping[str, Numbers] = {}
        self._fresh_s = fresh_s
        self._asking = asyncio.Lock()
        self._text = b""
        self._fresh_until_s = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def __call__(self) -> bytes:
        """The exposition, to be sent as CONTENT_TYPE."""
        loop = asyncio.get_running_loop()
        async with self._asking:
            if loop.time() >= self._fresh_until_s:
                self._stored = await self._from_store()
                self._text = generate_latest(self._registry)
                self._fresh_until_s = loop.time() + self._fresh_s
            return self._text

    def describe(self) -> Iterator[Metric]:
        """Nothing is asked when this is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All families with their samples."""
        for family in FAMILIES:
            source = self._sources.get(family.name)
            if isinstance(source, Spread):
                yield _histogram(family, source)
                continue
            if source is None:
                numbers = self._stored.get(family.name, {})
            else:
                numbers = source.counts if isinstance(source, Tally) else source()
            yield _plain(family, numbers)

    async def _from_store(self) -> Mapping[str, Numbers]:
        try:
            async with asyncio.timeout(STORE_WITHIN_S):
                grants, untold = await self._grants(), await self._ledger.untold()
        except (LedgerError, TimeoutError):
            return {"fairdial_store_answers": {(): 0}}
        stored: dict[str, Numbers] = {
            "fairdial_store_answers": {(): 1},
            "fairdial_grants_live": {(): grants},
        }
        for state in (DeliveryState.WAITING, DeliveryState.DEAD):
            stored[f"fairdial_notices_{state}"] = {
                (str(channel),): count for (channel, found), count in untold.items() if found is state
            }
        return stored

    async def _grants(self) -> int:
        if self._is_ours is None:
            return await self._ledger.live_grant_count()
        return sum(self._is_ours(grant.call_id) for grant in await self._ledger.live_grants())


def _plain(family: Family, numbers: Numbers) -> Metric:
    made: CounterMetricFamily | GaugeMetricFamily
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    made = make(family.name, family.help, labels=family.labels)
    for labels, number in numbers.items():
        made.add_metric(labels, number)
    return made


def _histogram(family: Family, spread: Spread) -> Metric:
    made = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    bounds = (*(str(bound_s) for bound_s in spread.bounds_s), "+Inf")
    for labels, ranges, sum_s in spread:
        reached = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip(bounds, ranges, strict=True):
            reached += count
            buckets.append((bound, reached))
        made.add_metric(labels, buckets, sum_s)
    return made
