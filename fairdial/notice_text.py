"""The words of notices: a template for each topic and language, filled with what the ledger wrote down.

A template is a text file, `LANGUAGE/TOPIC.txt`: its first line is the subject, a sentence that also does alone, as in a
SIP MESSAGE. Those that come with FairDial can be replaced one by one in a folder of the operator's. Numbers, times and
amounts are made here, in the account's zone and currency. Leaves to `notices.py` how it gets to people.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from fairdial.ledger.notice import DEFAULT_LANGUAGE, Contact, Notice, Topic
from fairdial.policy.account import Account, Kind
from fairdial.policy.book import PolicyBook
from fairdial.policy.difference import difference
from fairdial.policy.document import Allowance, Policy
from fairdial.policy.periods import MS_PER_S, zone_named
from fairdial.policy.rating import format_micros
from fairdial.policy.requests import unit_of
from fairdial.policy.terms import Clause
from fairdial.policy.wording import KINDS, amounts, duration, joined

SUBJECT_MAX: Final = 200
_WHY: Final = {
    "longest_call": "it reached the longest that a call may last",
    "allowances": "the allowance is used up",
    "credit": "the credit is used up",
}


class NotWritten(Exception):
    """A notice has no words: its template is broken, or what it speaks of is gone."""


@dataclass(frozen=True, slots=True)
class Words:
    """A notice as people read it. facts: those of the notice, and what was made of them. language: of the template."""

    subject: str
    text: str
    language: str
    facts: Mapping[str, Any]


class Templates:
    """Templates by language and topic; all are read at once, so that a broken one is found before it is needed.

    sources: the text of each, by "language/topic".
    """

    def __init__(self, folder: Path | None = None) -> None:
        """folder: the operator's own. Raises ValueError that names the file and the cure, OSError."""
        self._environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
        self._by_name = {}
        self.sources: dict[str, str] = {}
        for file in (*_files(resources.files("fairdial").joinpath("notice_templates")), *_own(folder)):
            language, topic = file.parent, file.topic
            try:
                self._by_name[language, topic] = self._environment.from_string(file.text)
                self.sources[f"{language}/{topic}"] = file.text
            except TemplateError as error:
                raise ValueError(
                    f"{file.where}: {error}; correct the template, or remove the file"
                ) from error

    @property
    def languages(self) -> frozenset[str]:
        """Those in which there is any template."""
        return frozenset(language for language, _ in self._by_name)

    def fill(self, topic: Topic, language: str, fields: Mapping[str, Any]) -> tuple[str, str, str]:
        """Language, subject and text; in the default language where there is no template. Raises NotWritten."""
        used = language if (language, topic) in self._by_name else DEFAULT_LANGUAGE
        try:
            filled = self._by_name[used, topic].render(fields)
        except TemplateError as error:
            raise NotWritten(f"template {used}/{topic}.txt: {error}; correct it") from error
        subject, _, text = filled.strip().partition("\n")
        # A subject that ran on would be another header of the mail.
        return used, " ".join(subject.split())[:SUBJECT_MAX], text.strip() + "\n"


@dataclass(frozen=True, slots=True)
class _File:
    parent: str
    topic: Topic
    text: str
    where: str


def _own(folder: Path | None) -> list[_File]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise ValueError(f"notices.templates: {folder} is no folder; make it, or remove the setting")
    return _files(folder)


def _files(folder: Traversable | Path) -> list[_File]:
    found = []
    for language in sorted(folder.iterdir(), key=lambda each: each.name):
        if not language.is_dir():
            continue
        for file in sorted(language.iterdir(), key=lambda each: each.name):
            name, dot, ending = file.name.rpartition(".")
            if not dot or ending != "txt" or name not in frozenset(Topic):
                known = ", ".join(sorted(f"{topic}.txt" for topic in Topic))
                raise ValueError(f"{file}: there is no such notice; files are {known}")
            found.append(_File(language.name, Topic(name), file.read_text(encoding="utf-8"), str(file)))
    return found


class Composer:
    """Puts notices into words. policies: as they are now. `templates` are replaced whole on reload."""

    def __init__(self, templates: Templates, policies: Callable[[], PolicyBook]) -> None:
        self.templates = templates
        self._policies = policies

    def compose(self, notice: Notice, account: Account, contact: Contact) -> Words:
        """Raises NotWritten."""
        fields = _Fields(account, self._policies()).of(notice)
        shown = {**fields, "account": account.name or account.id}
        language, subject, text = self.templates.fill(notice.topic, contact.language, shown)
        return Words(subject, text, language, {**notice.facts, **fields})


class _Fields:
    """What the templates of each topic can speak of."""

    def __init__(self, account: Account, policies: PolicyBook) -> None:
        self._account = account
        self._zone = zone_named(account.zone)
        self._policies = policies

    def of(self, notice: Notice) -> dict[str, Any]:
        """All of them, beside the account. Raises NotWritten."""
        make: Mapping[Topic, Callable[[Notice], dict[str, Any]]] = {
            Topic.USED: self._used,
            Topic.OVERAGE: self._used,
            Topic.LOW_CREDIT: self._credit,
            Topic.CUT: self._cut,
            Topic.CASE: self._case,
            Topic.STANDING: lambda notice: {"standing": notice.facts["standing"]},
            Topic.SERVICES: self._services,
            Topic.POLICY: self._change,
            Topic.REQUEST: self._request,
        }
        return make[notice.topic](notice)

    def _day(self, at_ms: int) -> str:
        return f"{datetime.fromtimestamp(at_ms / MS_PER_S, self._zone):%Y-%m-%d}"

    def _minute(self, at_ms: int) -> str:
        return f"{datetime.fromtimestamp(at_ms / MS_PER_S, self._zone):%Y-%m-%d %H:%M} ({self._account.zone})"

    def _used(self, notice: Notice) -> dict[str, Any]:
        facts = notice.facts
        name = str(facts["allowance"]).partition("/")[0]
        policy = self._policies.at(self._account.policy, self._zone, notice.at_ms)
        allowances = () if policy is None else policy.allowances
        allowance = next((each for each in allowances if each.name == name), None)
        used, limit, unit = _units(allowance, facts["used"], facts["limit"])
        return {
            "allowance": str(facts["allowance"]),
            "percent": facts.get("percent"),
            "used": used,
            "limit": limit,
            "unit": unit,
            "start": self._day(facts["start_ms"]),
            # The last day of it: a period ends as the next one begins.
            "end": self._day(facts["end_ms"] - 1),
        }

    def _credit(self, notice: Notice) -> dict[str, Any]:
        return {"balance": format_micros(notice.facts["balance_micros"], notice.facts["currency"])}

    def _cut(self, notice: Notice) -> dict[str, Any]:
        facts = notice.facts
        policy = self._policies.version(facts["policy"], facts["version"])
        clause = "" if policy is None else policy.rule_clause(facts["rule"], Kind(facts["kind"]))
        return {
            "number": facts["number"],
            "duration": duration(facts["used_s"]),
            "why": _WHY.get(str(facts["rule"]).partition(".")[0], _WHY["allowances"]),
            "line": notice.line_id,
            "at": self._minute(notice.at_ms),
            "clause": _clause(Clause(facts["policy"], facts["version"], clause) if clause else None),
        }

    def _case(self, notice: Notice) -> dict[str, Any]:
        facts = notice.facts
        return {
            "case": facts["case"],
            "step": facts["step"],
            "services": joined(KINDS[Kind(kind)] for kind in facts["services"]),
            "words": str(facts["words"]).rstrip("."),
            "deadline": None if facts["deadline_ms"] is None else self._minute(facts["deadline_ms"]),
            "clause": _clause(notice.clause),
        }

    def _services(self, notice: Notice) -> dict[str, Any]:
        named = joined(KINDS[Kind(kind)] for kind in notice.facts["services"])
        return {"services": named, "lifted": notice.facts["lifted"]}

    def _request(self, notice: Notice) -> dict[str, Any]:
        facts = notice.facts
        policy = self._policies.at(facts["policy"], self._zone, notice.at_ms)
        talk = policy is not None and unit_of(policy, str(facts["rule"]).partition("/")[0]) == "s"
        plan = facts["plan"]
        amount = facts["limit"] or facts["more"]
        return {
            "request": facts["request"],
            "what": facts["what"],
            "rule": facts["rule"],
            "amount": f"{amount // 60:,}" if talk else f"{amount:,}",
            "minutes": talk,
            "adds": facts["more"] is not None,
            "start": None if facts["from_ms"] is None else self._minute(facts["from_ms"]),
            "end": None if facts["until_ms"] is None else self._minute(facts["until_ms"]),
            "note": facts["note"],
            "plan": None if plan is None else plan["name"],
            "price": None if plan is None else format_micros(plan["price_micros"], plan["currency"]),
            "period": None if plan is None else plan["period"],
            "clause": _clause(notice.clause),
        }

    def _change(self, notice: Notice) -> dict[str, Any]:
        facts = notice.facts
        before = self._policies.version(facts["policy"], facts["before"])
        after = self._policies.version(facts["policy"], facts["version"])
        if before is None or after is None:
            missing = facts["before"] if before is None else facts["version"]
            raise NotWritten(
                f"version {missing} of policy {facts['policy']} is not there any more; put its file back"
            )
        return {
            "title": after.title,
            "before": before.version,
            "version": after.version,
            "effective": _effective(after, notice.at_ms, self._day),
            "effective_ms": after.effective_ms(self._zone) or notice.at_ms,
            "changes": list(difference(before, after)),
        }


def _effective(policy: Policy, at_ms: int, day: Callable[[int], str]) -> str:
    return day(at_ms) if policy.effective == "at_once" else str(policy.effective)


def _units(allowance: Allowance | None, used: int, limit: int) -> tuple[str, str, str]:
    """Used and limit as people read them, and their unit: whole minutes of talk, cut down, or messages."""
    if allowance is not None and not allowance.measures_talk:
        (shown,), unit = amounts(allowance, limit)
        return f"{used:,}", shown, unit
    return f"{used // 60:,}", f"{limit // 60:,}", "minutes"


def _clause(clause: Clause | None) -> str:
    return "" if clause is None else f"{clause.policy} {clause.version}, {clause.id}"
