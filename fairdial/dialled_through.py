"""Which contexts of a dialplan let phones dial through FairDial: found in extensions.conf, without running it.

Responsible for following `include`, and `Goto()` and `Gosub()` with a context written out, to a question to FairDial.
A context whose only question is about inbound calls is a trunk's. Leaves AEL, Lua and computed names aside.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from fairdial.asterisk_conf import Conf, Section

_OURS: Final = re.compile(r"fairdial(-[a-z]+)?")
"""Contexts of dialplan/fairdial.conf: reached by every question, of trunks too."""
_QUESTION: Final = re.compile(
    r"\bfairdial,\s*s,\s*1\(\s*(?P<gosub>[^,()]*)|/authorise\?kind=(?P<agi>[^&,)]*)|\bStasis\((?P<stasis>[^)]*)"
)
_JUMP: Final = re.compile(r"\b(?:Goto|Gosub)\((?P<context>[A-Za-z0-9_.@-]+),[^,()]+,")
_STEPS: Final = frozenset({"exten", "same"})


def dialling_contexts(extensions: Conf, app: str) -> frozenset[str]:
    """Names of the contexts from which a call can reach FairDial as a customer's. app: the Stasis application."""
    asks: set[str] = set()
    leads: defaultdict[str, set[str]] = defaultdict(set)
    for context in extensions.sections:
        if _OURS.fullmatch(context.name):
            continue
        for target in _led_to(context):
            leads[target].add(context.name)
        if any(_is_asked(step.value, app) for step in context.settings if step.key.casefold() in _STEPS):
            asks.add(context.name)
    return _reached(asks, leads)


def contexts_below(extensions: Conf, starts: Collection[str]) -> frozenset[str]:
    """Names of these contexts, and of all to which a call in one of them can get."""
    leads: defaultdict[str, set[str]] = defaultdict(set)
    for context in extensions.sections:
        leads[context.name].update(_led_to(context))
    return _reached(set(starts), leads)


def _led_to(context: Section) -> Iterator[str]:
    """Contexts that it includes or jumps to."""
    for setting in context.settings:
        key = setting.key.casefold()
        if key == "include":
            yield setting.value.split(",")[0].split("|")[0].strip()
        elif key in _STEPS:
            for jump in _JUMP.finditer(setting.value):
                yield jump["context"]


def _is_asked(step: str, app: str) -> bool:
    for found in _QUESTION.finditer(step):
        if found["stasis"] is not None:
            if found["stasis"].split(",")[0].strip() == app or "FAIRDIAL_APP" in found["stasis"]:
                return True
        elif (found["gosub"] or found["agi"]) != "inbound":
            return True
    return False


def _reached(targets: set[str], leads: Mapping[str, set[str]]) -> frozenset[str]:
    reached, ahead = set(targets), list(targets)
    while ahead:
        new = leads.get(ahead.pop(), set()) - reached
        reached |= new
        ahead += new
    return frozenset(reached)
