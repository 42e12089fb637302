"""`/metrics`: what Prometheus reads of a FairDial, and that page, dashboard and alert rules speak of nothing else."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fairdial.clock import Moment
from fairdial.config import Config
from fairdial.console.metrics import CONTENT_TYPE, FAMILIES, FROM_STORE, Metrics, Source
from fairdial.desk import Asked
from fairdial.ledger.notice import Channel, NoticeRules
from fairdial.loading import open_desk
from fairdial.policy.account import Kind, Medium, Message, Standing
from fairdial.serving import Service
from fairdial.tallies import Spread, Tally
from testbed.installation import obtain_promtool
from testbed.ports import free_ports
from tests.samples import PLAN, provision
from tests.unit.test_policy_reference import coded, rows

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "metrics.md").read_text()
DASHBOARD = PROJECT / "packaging" / "grafana" / "fairdial.json"
ALERTS = PROJECT / "packaging" / "prometheus" / "alerts.yml"
LONDON, PREMIUM = "02079460123", "09098790000"
Found = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Found:
    """Each sample by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Found, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def configured(folder: Path, **http: Any) -> Config:
    (folder / "policies").mkdir()
    (folder / "policies" / "plan.toml").write_text(PLAN)
    [port] = free_ports(1)
    return Config.model_validate(
        {
            "policies": folder / "policies",
            "control": folder / "control.sock",
            "store": {"path": folder / "ledger.sqlite"},
            "http": {"port": port, **http},
        }
    )


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A whole FairDial of which only the web server is started: no switch is there."""
    config = configured(tmp_path)
    async with open_desk(config) as desk:
        await provision(desk.ledger)
        service = Service(config, desk)
        await service.http.start()
        yield service
        await service.http.stop()


async def get(service: Service) -> tuple[int, str, str]:
    """Status, media type and text of the answer."""
    url = f"http://127.0.0.1:{service.http.port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, answer.headers["Content-Type"], await answer.text()


async def scraped(service: Service) -> Found:
    code, media_type, text = await get(service)
    assert (code, media_type) == (200, CONTENT_TYPE)
    return parsed(text)


def asked(call_id: str, number: str = LONDON) -> Asked:
    return Asked(call_id, Kind.OUTBOUND, number, "alice", f"channel-{call_id}", 60)


async def talked(service: Service, call_id: str, used_s: int, *, lag_s: int = 0, **settled: Any) -> None:
    """A call that was allowed, answered, and ended `lag_s` ago."""
    desk = service._desk
    await desk.authorise(asked(call_id))
    end_ms = desk.now_ms() - 1000 * lag_s
    await desk.answered(call_id, "leg", Moment(end_ms - 1000 * used_s, 0))
    await desk.settle(call_id, used_s, Moment(end_ms, 0), **settled)


# --- what is told ----------------------------------------------------------------------------------


async def test_a_fresh_fairdial_tells_every_family_and_that_nothing_is_connected(service: Service) -> None:
    _, _, text = await get(service)
    told = dict(re.findall(r"^# TYPE (fairdial_\w+) (\w+)$", text, re.MULTILINE))
    assert told == {family.name: family.kind for family in FAMILIES}
    found = parsed(text)
    assert value(found, "fairdial_link_up", link="ari") == value(found, "fairdial_link_up", link="ami") == 0
    assert value(found, "fairdial_ari_fenced") == 0
    # Zero, and not missing: an alert on the first increase would not see it.
    assert value(found, "fairdial_lease_settings_total", outcome="not_set") == 0
    assert value(found, "fairdial_answer_seconds_count", gate="agi", result="failed") == 0
    assert value(found, "fairdial_calls_live", kind="outbound") == 0
    assert (value(found, "process_resident_memory_bytes") or 0) > 1_000_000


async def test_what_is_allowed_refused_and_not_decided_is_counted_by_kind_and_reason(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = service._desk
    await desk.authorise(asked("call-1"))
    await desk.authorise(asked("call-2", PREMIUM))
    await desk.authorise(asked("call-3", PREMIUM))
    monkeypatch.setattr(desk.ledger, "authorise", None)
    await desk.authorise(asked("call-4"))
    found = await scraped(service)
    counted = {
        tuple(sorted(dict(labels).items())): number
        for (name, labels), number in found.items()
        if name == "fairdial_decisions_total"
    }
    assert counted == {
        (("decision", "allow"), ("kind", "outbound"), ("reason", "within_allowance")): 1,
        (("decision", "refuse"), ("kind", "outbound"), ("reason", "class_not_covered")): 2,
        (("decision", "failed"), ("kind", "outbound"), ("reason", "internal_error")): 1,
    }


async def test_messages_are_counted_beside_calls(service: Service) -> None:
    text = replace(asked("msg-1"), kind=Kind.MESSAGE, message=Message(Medium.SMS, ""))
    await service._desk.message(text)
    await service._desk.authorise(asked("call-1"))
    found = await scraped(service)
    refused = {"decision": "refuse", "reason": "kind_not_covered"}
    assert value(found, "fairdial_decisions_total", kind="message", **refused) == 1
    assert value(found, "fairdial_decisions_total", kind="outbound", **refused) is None


async def test_a_grant_that_is_given_back_is_told_as_released(service: Service) -> None:
    desk = service._desk
    await desk.authorise(asked("call-1"))
    desk.take_back("call-1")
    desk.take_back("call-1")
    await desk.close()
    labels = {"kind": "outbound", "end": "released"}
    found = await scraped(service)
    assert value(found, "fairdial_calls_ended_total", **labels) == 1
    assert value(found, "fairdial_settle_lag_seconds_count") == value(found, "fairdial_grants_live") == 0


async def test_ends_are_told_apart_and_a_settlement_that_is_repeated_counts_once(service: Service) -> None:
    desk = service._desk
    await talked(service, "talked", 10)
    await desk.settle("talked", 10, Moment(desk.now_ms(), 0))
    granted_s = (await desk.ledger.grant("talked")).granted_s  # type: ignore[union-attr]
    assert granted_s is not None
    await talked(service, "cut", granted_s)
    await talked(service, "guessed", 10, estimated=True)
    await desk.authorise(asked("silent"))
    await desk.settle("silent", 0, Moment(desk.now_ms(), 0))
    await desk.authorise(asked("up"))
    found = await scraped(service)
    ends = {
        end: value(found, "fairdial_calls_ended_total", kind="outbound", end=end)
        for end in ("talked", "cut", "estimated", "unanswered", "released")
    }
    assert ends == {"talked": 1, "cut": 1, "estimated": 1, "unanswered": 1, "released": None}
    assert value(found, "fairdial_settle_lag_seconds_count") == 4
    assert value(found, "fairdial_grants_live") == 1


async def test_the_settle_lag_is_from_the_end_of_the_call(service: Service) -> None:
    await talked(service, "prompt", 10)
    await talked(service, "late", 10, lag_s=20)
    found = await scraped(service)
    buckets = {
        le: value(found, "fairdial_settle_lag_seconds_bucket", le=le) for le in ("5.0", "30.0", "+Inf")
    }
    assert buckets == {"5.0": 1, "30.0": 2, "+Inf": 2}
    assert 20 <= (value(found, "fairdial_settle_lag_seconds_sum") or 0) < 25


async def test_no_label_names_a_customer(service: Service) -> None:
    await talked(service, "call-1", 10)
    await service._desk.authorise(asked("call-2", PREMIUM))
    _, _, text = await get(service)
    assert "fairdial_decisions_total{" in text
    assert not [word for word in ("acme", "alice", LONDON[1:], PREMIUM[1:], "call-1") if word in text]


async def test_notices_that_wait_and_that_were_given_up_are_counted_by_channel(service: Service) -> None:
    ledger, now_ms = service._desk.ledger, service._desk.now_ms()
    await ledger.set_notice_rules(NoticeRules(channels=frozenset({Channel.WEBHOOK})))
    for standing in (Standing.SUSPENDED, Standing.ACTIVE, Standing.SUSPENDED):
        await ledger.set_standing("acme", standing, now_ms)
    newest, *_ = await ledger.notices()
    await ledger.not_delivered(newest[0].id, Channel.WEBHOOK, now_ms, "answered 422", None)
    found = await scraped(service)
    assert value(found, "fairdial_notices_waiting", channel="webhook") == 2
    assert value(found, "fairdial_notices_dead", channel="webhook") == 1
    assert value(found, "fairdial_notices_waiting", channel="email") is None


async def test_a_store_that_does_not_answer_is_told_and_hides_nothing_else(service: Service) -> None:
    assert value(await scraped(service), "fairdial_store_answers") == 1
    service.metrics._fresh_until_s = 0.0
    await service._desk.ledger.close()
    await service._desk.authorise(asked("call-1"))
    found = await scraped(service)
    assert value(found, "fairdial_store_answers") == 0
    assert value(found, "fairdial_grants_live") is None
    labels = {"kind": "outbound", "decision": "failed", "reason": "store_unavailable"}
    assert value(found, "fairdial_decisions_total", **labels) == 1


async def test_two_in_one_process_count_apart(service: Service, tmp_path: Path) -> None:
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    config = configured(other_folder)
    async with open_desk(config) as desk:
        other = Service(config, desk)
        await other.http.start()
        await service._desk.authorise(asked("call-1", PREMIUM))
        here, there = await scraped(service), await scraped(other)
        await other.http.stop()
    labels = {"kind": "outbound", "decision": "refuse", "reason": "class_not_covered"}
    assert value(here, "fairdial_decisions_total", **labels) == 1
    assert value(there, "fairdial_decisions_total", **labels) is None


async def test_metrics_that_are_switched_off_are_not_there(tmp_path: Path) -> None:
    config = configured(tmp_path, metrics=False)
    async with open_desk(config) as desk:
        service = Service(config, desk)
        await service.http.start()
        assert (await get(service))[0] == 404
        await service.http.stop()


# --- how it is made --------------------------------------------------------------------------------


def sources(**changed: Source) -> dict[str, Source]:
    """One for each family that needs one."""
    made: dict[str, Source] = {
        family.name: Spread() if family.kind == "histogram" else Tally()
        for family in FAMILIES
        if family.name not in FROM_STORE
    }
    return made | changed


async def test_whoever_asks_within_a_second_gets_the_same_answer(service: Service) -> None:
    tally, ledger = Tally(), service._desk.ledger
    kept = Metrics(sources(fairdial_watch_waiting=tally), ledger, fresh_s=60)
    anew = Metrics(sources(fairdial_watch_waiting=tally), ledger, fresh_s=0)
    first = await kept(), await anew()
    tally.add()
    again = await kept(), await anew()
    assert [b"fairdial_watch_waiting 1.0" in text for text in (*first, *again)] == [False, False, False, True]


async def test_a_store_that_hangs_holds_the_answer_up_for_a_quarter_of_a_second(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = service._desk.ledger
    monkeypatch.setattr(ledger, "live_grant_count", asyncio.Event().wait)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    text = await Metrics(sources(), ledger)()
    assert 0.2 <= loop.time() - began_s < 2
    assert b"fairdial_store_answers 0.0" in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"fairdial_unheard_of": Tally()},
        {"fairdial_grants_live": Tally()},
        {"fairdial_settle_lag_seconds": Tally()},
        {"fairdial_renewals_total": Spread()},
    ],
)
async def test_a_source_that_does_not_fit_its_family_is_refused(
    service: Service, wrong: dict[str, Source]
) -> None:
    Metrics(sources(), service._desk.ledger)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Metrics(sources(**wrong), service._desk.ledger)


async def test_a_family_without_a_source_is_refused(service: Service) -> None:
    lacking = sources()
    del lacking["fairdial_renewals_total"]
    with pytest.raises(ValueError, match="fairdial_renewals_total"):
        Metrics(lacking, service._desk.ledger)


def test_names_are_as_prometheus_wants_them() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"fairdial_[a-z_]+", family.name)
        assert (family.kind == "counter") == family.name.endswith("_total")
        assert (family.kind == "histogram") == family.name.endswith("_seconds")


# --- page, dashboard, alert rules ------------------------------------------------------------------


def test_the_page_has_each_name_with_its_type_and_labels_and_no_other() -> None:
    table = [
        (coded(name)[0], kind, tuple(coded(labels)))
        for name, kind, labels, _meaning, _watch in rows(PAGE, "name | type | labels | meaning | watch")
    ]
    assert table == [(family.name, family.kind, family.labels) for family in FAMILIES]
    assert all(
        len(meaning) > 1 for *_, meaning, _watch in rows(PAGE, "name | type | labels | meaning | watch")
    )


TOLD_BESIDE = {
    "process_start_time_seconds",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "up",
}
SAMPLES = TOLD_BESIDE | {
    f"{family.name}{end}"
    for family in FAMILIES
    for end in (("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",))
}
LABELS = {
    name: {*family.labels, "instance", "job", "le"}
    for family in FAMILIES
    for name in SAMPLES
    if name.startswith(family.name)
}


def strange(expression: str) -> list[str]:
    """Names and labels in a query that are not told."""
    named = re.findall(r"\b((?:fairdial|process)_\w+|up)\b(?:\{([^}]*)\})?", expression)
    wrong = [name for name, _ in named if name not in SAMPLES]
    for name, matchers in named:
        labels = re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matchers)
        wrong += [label for label in labels if label not in LABELS.get(name, {"instance", "job"})]
    return wrong


def queries() -> Iterator[str]:
    """Of the dashboard, as Grafana would ask them."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")


@pytest.mark.parametrize("expression", list(queries()))
def test_a_query_of_the_dashboard_asks_for_what_is_told(expression: str) -> None:
    assert strange(expression) == []
    assert re.search(r"\b(?:fairdial|process)_", expression)


@pytest.mark.parametrize(
    "wrong", ["fairdial_unheard_of", "fairdial_answer_seconds", 'fairdial_link_up{line="x"}']
)
def test_a_query_for_what_nobody_tells_is_found(wrong: str) -> None:
    assert strange(f"sum(rate({wrong}[5m]))")


def test_the_dashboard_shows_every_family_and_no_panel_covers_another() -> None:
    asked_for = " ".join(queries())
    assert [family.name for family in FAMILIES if family.name not in asked_for] == NOT_SHOWN
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in panels})


NOT_SHOWN = [
    "fairdial_ari_fenced",
    "fairdial_node_holds",
    "fairdial_nodes_looked_after",
    "fairdial_store_answers",
    "fairdial_unwritten_given_up_total",
]
"""What is nothing or an alert."""


def test_alert_rules_ask_for_what_is_told() -> None:
    text = ALERTS.read_text()
    expressions = re.findall(r"expr: (?:>-\n)?((?:.*\n)(?: {10}\S.*\n)*)", text)
    assert len(expressions) == text.count("- alert:") > 10
    for expression in expressions:
        assert strange(" ".join(expression.split())) == []
    # What the dashboard leaves out, somebody is told of.
    assert all(name in text for name in NOT_SHOWN)


@pytest.fixture(scope="module")
def promtool() -> str:
    return obtain_promtool()


def check(promtool: str, rules: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [promtool, "check", "rules", str(rules)], capture_output=True, text=True, timeout=60, check=False
    )


def test_prometheus_itself_takes_alert_rules_and_queries_and_no_broken_ones(
    promtool: str, tmp_path: Path
) -> None:
    done = check(promtool, ALERTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{ALERTS.read_text().count('- alert:')} rules found" in done.stdout
    recorded = [{"record": f"query:{number}", "expr": text} for number, text in enumerate(queries())]
    # JSON is YAML.
    rules = tmp_path / "queries.yml"
    rules.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
    done = check(promtool, rules)
    assert done.returncode == 0, done.stdout + done.stderr
    rules.write_text(rules.read_text().replace("[5m]", "[5 minutes]"))
    assert check(promtool, rules).returncode != 0


SWITCH = 'instance="a",job="fairdial"'
WELL = {
    "up": "1+0x60",
    "fairdial_ari_fenced": "0+0x60",
    "fairdial_node_holds": "1+0x60",
    "fairdial_nodes_looked_after": "0+0x60",
    'fairdial_link_up{link="ari"}': "1+0x60",
    'fairdial_link_connects_total{link="ari"}': "1+0x60",
    'fairdial_answer_seconds_count{gate="stasis",result="failed"}': "0+1x60",
    'fairdial_answer_seconds_bucket{gate="stasis",le="0.05"}': "0+60x60",
    'fairdial_answer_seconds_bucket{gate="stasis",le="0.1"}': "0+60x60",
    'fairdial_answer_seconds_bucket{gate="stasis",le="+Inf"}': "0+60x60",
    "fairdial_store_answers": "1+0x60",
    "fairdial_unwritten_steps": "0+0x60",
    "fairdial_unwritten_given_up_total": "0+0x60",
    'fairdial_settle_lag_seconds_bucket{le="5.0"}': "0+60x60",
    'fairdial_settle_lag_seconds_bucket{le="30.0"}': "0+60x60",
    'fairdial_settle_lag_seconds_bucket{le="+Inf"}': "0+60x60",
    "fairdial_grants_live": "100+0x60",
    'fairdial_calls_live{kind="outbound"}': "90+0x60",
    'fairdial_calls_live{kind="inbound"}': "5+0x60",
    'fairdial_lease_settings_total{outcome="not_set"}': "0+0x60",
    'fairdial_renewals_total{outcome="failed"}': "0+0x60",
    'fairdial_renewals_total{outcome="none_left"}': "0+5x60",
    'fairdial_ari_events_lost_total{why="no_room"}': "0+0x60",
    "fairdial_watch_waiting": "100+0x60",
    'fairdial_notice_channel_paused{channel="email"}': "0+0x60",
    'fairdial_notices_dead{channel="email"}': "0+0x60",
}
"""An hour of a FairDial that nobody needs to look at, minute by minute: value at first, and what is added."""
ALARMS = [
    ("FairDialDown", {"up": "0+0x60"}),
    ("FairDialFenced", {"fairdial_ari_fenced": "1+0x60"}),
    ("FairDialSwitchNotHeld", {"fairdial_node_holds": "0+0x60"}),
    ("FairDialNodeGone", {"fairdial_nodes_looked_after": "1+0x60"}),
    ("FairDialLinkDown", {'fairdial_link_up{link="ari"}': "0+0x60"}),
    ("FairDialLinkUnsteady", {'fairdial_link_connects_total{link="ari"}': "1+1x60"}),
    ("FairDialDoesNotDecide", {'fairdial_answer_seconds_count{gate="stasis",result="failed"}': "0+10x60"}),
    ("FairDialAnswersLate", {'fairdial_answer_seconds_bucket{gate="stasis",le="0.05"}': "0+50x60"}),
    ("FairDialStoreInTrouble", {"fairdial_store_answers": "0+0x60"}),
    ("FairDialStoreInTrouble", {"fairdial_unwritten_steps": "3+0x60"}),
    ("FairDialUsageGivenUp", {"fairdial_unwritten_given_up_total": "0+1x60"}),
    ("FairDialSettlesLate", {'fairdial_settle_lag_seconds_bucket{le="5.0"}': "0+50x60"}),
    ("FairDialGrantsWithoutCalls", {"fairdial_grants_live": "130+0x60"}),
    ("FairDialLeasesNotSet", {'fairdial_lease_settings_total{outcome="not_set"}': "0+1x60"}),
    ("FairDialRenewalsFail", {'fairdial_renewals_total{outcome="failed"}': "0+1x60"}),
    ("FairDialEventsLost", {'fairdial_ari_events_lost_total{why="no_room"}': "0+1x60"}),
    ("FairDialWatchBehind", {"fairdial_watch_waiting": "6000+0x60"}),
    ("FairDialNoticesPaused", {'fairdial_notice_channel_paused{channel="email"}': "1+0x60"}),
    ("FairDialNoticesDead", {'fairdial_notices_dead{channel="email"}': "2+0x60"}),
]


def hour(changed: Mapping[str, str], alarms: list[str]) -> dict[str, Any]:
    """An hour as promtool tests it, and what is sounded after 50 minutes of it."""
    series = []
    for name, values in {**WELL, **changed}.items():
        bare, _, labels = name.rstrip("}").partition("{")
        series.append({"series": f"{bare}{{{','.join(filter(None, (SWITCH, labels)))}}}", "values": values})
    sounded = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "50m",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alarms],
    }
    return {"interval": "1m", "input_series": series, "promql_expr_test": [sounded]}


def test_each_alarm_sounds_for_what_it_is_for_and_none_where_all_is_well(
    promtool: str, tmp_path: Path
) -> None:
    assert {name for name, _ in ALARMS} == set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
    hours = [hour({}, []), *(hour(changed, [name]) for name, changed in ALARMS)]
    told = tmp_path / "hours.yml"
    told.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": hours}))
    done = subprocess.run(
        [promtool, "test", "rules", str(told)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_prometheus_itself_finds_nothing_to_mend_in_what_is_told(
    promtool: str, service: Service
) -> None:
    await talked(service, "call-1", 10)
    _, _, text = await get(service)
    lint = await asyncio.create_subprocess_exec(
        *(promtool, "check", "metrics"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(lint.communicate(text.encode()), 60)
    assert (lint.returncode, said.decode()) == (0, "")
