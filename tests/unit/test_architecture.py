"""The rules that hold the house together: who imports whom, a pure policy, and SQL in one place."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("fairdial", "agi_app", "ari_handlers", "testbed", "benchmarks")

# Longest prefix first. What a module may import of ours, besides its own part.
_SHELL = (
    *("fairdial.desk", "fairdial.answer", "fairdial.clock", "fairdial.ledger.contract", "fairdial.policy"),
    *("fairdial.tallies", "fairdial.call_log"),
)
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "fairdial.policy": (),
    "fairdial.clock": (),
    "fairdial.tallies": (),
    "fairdial.call_log": (),
    "fairdial.garbage": (),
    "fairdial.config": ("fairdial.policy",),
    "fairdial.tls": ("fairdial.config",),
    "fairdial.asterisk_conf": (),
    "fairdial.dialled_through": ("fairdial.asterisk_conf",),
    "fairdial.switch_files": ("fairdial.asterisk_conf", "fairdial.doctor"),
    "fairdial.switch_access": ("fairdial.asterisk_conf", "fairdial.doctor", "fairdial.switch_files"),
    "fairdial.hardening": (
        *("fairdial.asterisk_conf", "fairdial.dialled_through", "fairdial.doctor"),
        *("fairdial.switch_access", "fairdial.switch_files"),
    ),
    "fairdial.asterisk_version": (),
    "fairdial.shipped": (),
    "fairdial.switch_cli": (),
    "fairdial.file_changes": (),
    "fairdial.switch_setup": (
        *("fairdial.asterisk_conf", "fairdial.dialled_through", "fairdial.file_changes"),
        *("fairdial.hardening", "fairdial.shipped", "fairdial.switch_files"),
    ),
    "fairdial.first_steps": (
        *("fairdial.asterisk_conf", "fairdial.asterisk_version", "fairdial.config", "fairdial.file_changes"),
        *("fairdial.shipped", "fairdial.switch_cli", "fairdial.switch_setup"),
    ),
    "fairdial.pjsip": ("fairdial.asterisk_conf", "fairdial.switch_files"),
    "fairdial.passwords": (),
    "fairdial.password_ages": (),
    "fairdial.audit": (
        *("fairdial.asterisk_conf", "fairdial.doctor", "fairdial.hardening", "fairdial.password_ages"),
        *("fairdial.passwords", "fairdial.pjsip", "fairdial.switch_files"),
    ),
    "fairdial.logs": ("fairdial.config",),
    "fairdial.notice_text": ("fairdial.policy", "fairdial.ledger.notice"),
    "fairdial.notices": (
        *("fairdial.policy", "fairdial.ledger.contract", "fairdial.ledger.notice", "fairdial.clock"),
        "fairdial.notice_text",
    ),
    "fairdial.notice_ways": (
        *("fairdial.policy", "fairdial.ledger.notice", "fairdial.clock", "fairdial.config"),
        "fairdial.notices",
    ),
    "fairdial.systemd": ("fairdial.clock",),
    "fairdial.reload": (
        *("fairdial.policy", "fairdial.ledger.contract", "fairdial.config", "fairdial.desk"),
        "fairdial.notice_text",
    ),
    "fairdial.news": (),
    "fairdial.doctor": ("fairdial.config", "fairdial.clock"),
    "fairdial.ledger": ("fairdial.policy", "fairdial.tallies"),
    "fairdial.desk": (
        "fairdial.policy",
        "fairdial.ledger.contract",
        "fairdial.clock",
        "fairdial.attempts",
        "fairdial.unwritten",
        "fairdial.tallies",
    ),
    "fairdial.attempts": ("fairdial.call_log",),
    "fairdial.csv_cells": (),
    "fairdial.statements": ("fairdial.policy", "fairdial.ledger.contract"),
    "fairdial.unwritten": ("fairdial.ledger.contract", "fairdial.call_log"),
    "fairdial.provision": ("fairdial.policy", "fairdial.ledger.contract"),
    "fairdial.answer": ("fairdial.policy", "fairdial.desk", "fairdial.call_log"),
    "fairdial.cdr": ("fairdial.policy",),
    "fairdial.cdr_file": ("fairdial.cdr",),
    "fairdial.cdr_probe": ("fairdial.doctor",),
    "fairdial.witness": ("fairdial.policy", "fairdial.cdr"),
    "fairdial.evidence": (
        "fairdial.policy",
        "fairdial.ledger.contract",
        "fairdial.clock",
        "fairdial.cdr",
        "fairdial.witness",
    ),
    "fairdial.late": (
        "fairdial.policy",
        "fairdial.desk",
        "fairdial.ledger.contract",
        "fairdial.clock",
        "fairdial.cdr",
    ),
    "fairdial.records": (
        "fairdial.clock",
        "fairdial.cdr",
        "fairdial.cdr_file",
        "fairdial.witness",
        "fairdial.late",
    ),
    "fairdial.differences": (
        "fairdial.policy",
        "fairdial.ledger.contract",
        "fairdial.clock",
        "fairdial.evidence",
    ),
    "fairdial.reconcile": (
        "fairdial.call_log",
        "fairdial.policy",
        "fairdial.desk",
        "fairdial.ledger.contract",
        "fairdial.clock",
        "fairdial.evidence",
    ),
    "fairdial.rounds": (
        "fairdial.policy",
        "fairdial.desk",
        "fairdial.ledger.contract",
        "fairdial.clock",
        "fairdial.evidence",
        "fairdial.reconcile",
        "fairdial.records",
        "fairdial.differences",
        "fairdial.late",
        "fairdial.whose",
    ),
    "fairdial.whose": (),
    "fairdial.nodes": (
        *("fairdial.policy", "fairdial.desk", "fairdial.ledger.contract", "fairdial.clock"),
        *("fairdial.evidence", "fairdial.reconcile", "fairdial.records", "fairdial.whose"),
    ),
    "fairdial.cases": ("fairdial.policy", "fairdial.ledger.contract", "fairdial.tallies"),
    "fairdial.logins": ("fairdial.policy", "fairdial.ledger.contract", "fairdial.clock"),
    "fairdial.cycles": ("fairdial.policy", "fairdial.ledger.contract", "fairdial.clock"),
    "fairdial.watch": ("fairdial.policy", "fairdial.ledger.contract", "fairdial.clock", "fairdial.cases"),
    "fairdial.replay": (
        *_SHELL,
        "fairdial.cases",
        *("fairdial.ledger.database", "fairdial.ledger.direct", "fairdial.ledger.working"),
        "fairdial.cdr",
        "fairdial.witness",
        "fairdial.provision",
        "fairdial.logs",
        "fairdial.csv_cells",
    ),
    "fairdial.console": (
        *_SHELL,
        "fairdial.replay",
        "fairdial.cases",
        *("fairdial.ledger.notice", "fairdial.notice_text"),
        *("fairdial.news", "fairdial.whose"),
        "fairdial.attempts",
        "fairdial.provision",
        "fairdial.config",
        "fairdial.doctor",
        "fairdial.logs",
        *("fairdial.statements", "fairdial.csv_cells"),
        *("fairdial.asterisk_conf", "fairdial.audit", "fairdial.password_ages"),
        *("fairdial.file_changes", "fairdial.first_steps", "fairdial.shipped", "fairdial.switch_cli"),
    ),
    "agi_app": (*_SHELL, "fairdial.config", "fairdial.doctor", "fairdial.tls"),
    "ari_handlers": (
        *_SHELL,
        "fairdial.evidence",
        "fairdial.late",
        "fairdial.config",
        *("fairdial.asterisk_version", "fairdial.doctor"),
        "fairdial.tls",
    ),
    # One composition in four modules: a command that reads the ledger does not load what only a server is made of.
    "fairdial.loading": (
        "fairdial.policy",
        "fairdial.config",
        "fairdial.clock",
        "fairdial.desk",
        "fairdial.ledger",
    ),
    **dict.fromkeys(
        ("fairdial.main", "fairdial.serving", "fairdial.examining"), ("fairdial", "agi_app", "ari_handlers")
    ),
    "testbed": ("fairdial", "agi_app", "ari_handlers"),
    "benchmarks": ("fairdial", "agi_app", "ari_handlers", "testbed"),
    "fairdial": (),
}

COMPOSITION = ("fairdial.main", "fairdial.loading", "fairdial.serving", "fairdial.examining")

IMPURE_MODULES = frozenset(
    {
        "time",
        "random",
        "secrets",
        "uuid",
        "os",
        "io",
        "logging",
        "structlog",
        "socket",
        "asyncio",
        "threading",
    }
    | {"sqlite3", "aiosqlite", "subprocess", "tempfile", "shutil", "pathlib", "urllib", "http", "sys"}
)
IMPURE_CALLS = frozenset({"open", "print", "input", "exec", "eval", "__import__"})
CLOCK_READINGS = frozenset({"now", "utcnow", "today"})

SQL = re.compile(
    r"\b(?:SELECT\s.+\sFROM|INSERT\s+(?:OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM"
    r"|CREATE\s+(?:TABLE|INDEX)|BEGIN\s+IMMEDIATE|PRAGMA)\b",
    re.DOTALL,
)


def _sources() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file.read_text("utf-8")


SOURCES = dict(_sources())
"""Source of each module of ours by its name."""


def imports(source: str, module: str) -> Iterator[str]:
    """Dotted names that a source imports, from anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            origin = ".".join(part for part in (base, node.module or "") if part)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def part_of(module: str) -> str:
    """The entry of MAY_IMPORT that speaks of a module."""
    return max((part for part in MAY_IMPORT if is_within(module, part)), key=len)


def forbidden_imports(source: str, module: str) -> list[str]:
    part = part_of(module)
    allowed = (part, *MAY_IMPORT[part])
    if part == "fairdial":
        allowed = ()  # the package itself stays empty of imports, so that nothing comes in by it
    return [
        name
        for name in imports(source, module)
        if any(is_within(name, package) for package in PACKAGES)
        and not any(is_within(name, package) for package in allowed)
    ]


def composers(source: str, module: str) -> list[str]:
    """Imports of the composition by a module that is neither of it nor a program of its own."""
    if part_of(module) in {*COMPOSITION, "testbed", "benchmarks"}:
        return []
    return [name for name in imports(source, module) if any(is_within(name, part) for part in COMPOSITION)]


def impurities(source: str) -> list[str]:
    """What in a source reads a clock, does I/O or is random. By the tree, so that no alias hides it."""
    tree = ast.parse(source)
    found = [name for name in imports(source, "m") if name.split(".")[0] in IMPURE_MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in IMPURE_CALLS:
            found.append(node.id)
        elif isinstance(node, ast.Attribute) and node.attr in CLOCK_READINGS:
            found.append(node.attr)
        elif isinstance(node, ast.Constant) and node.value in CLOCK_READINGS:
            found.append(str(node.value))  # getattr(datetime, "now")
    return found


def sql_in(source: str) -> list[str]:
    """String literals that hold SQL, f-strings and joined ones included; docstrings too."""
    texts = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
            texts.append("".join(str(part) for part in parts))
    return [text for text in texts if SQL.search(text)]


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_inward(module: str) -> None:
    assert forbidden_imports(SOURCES[module], module) == []
    assert composers(SOURCES[module], module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fairdial.policy.decide", "from fairdial.clock import Clock"),
        ("fairdial.policy.decide", "from fairdial import desk"),
        ("fairdial.policy.decide", "from .. import ledger"),
        ("fairdial.policy.decide", "def later():\n    import fairdial.ledger.sqlite as store"),
        ("fairdial.ledger.sqlite", "import fairdial.desk"),
        ("fairdial.desk", "from fairdial.ledger.sqlite import SqliteLedger"),
        ("fairdial.desk", "from fairdial.ledger import sqlite"),
        ("agi_app.authorise", "from ari_handlers.dial import Dials"),
        ("agi_app.authorise", "from fairdial.console.operations import Operations"),
        ("ari_handlers.dial", "import agi_app.ami"),
        ("fairdial.console.cli", "from ari_handlers.client import Client"),
        ("fairdial.console.cli", "from fairdial.loading import open_desk"),
        ("fairdial.loading", "from ari_handlers.client import Client"),
        ("fairdial", "from fairdial.policy import decide"),
    ],
)
def test_an_import_that_points_outward_is_found(module: str, source: str) -> None:
    assert forbidden_imports(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fairdial.policy.decide", "from fairdial.policy.numbers import Number"),
        ("fairdial.desk", "from fairdial.ledger.contract import Ledger"),
        ("fairdial.main", "from ari_handlers.dial import Dials\nfrom fairdial.ledger.sqlite import x"),
        ("ari_handlers.dial", "from ari_handlers.client import Client\nimport aiohttp"),
    ],
)
def test_an_import_that_points_inward_is_allowed(module: str, source: str) -> None:
    assert forbidden_imports(source, module) == []


def test_only_programs_may_import_the_composition_root() -> None:
    assert composers("from fairdial.serving import Service", "fairdial.doctor")
    assert composers("from fairdial.loading import open_desk", "fairdial.doctor")
    assert composers("from fairdial import main", "ari_handlers.dial")
    assert composers("from fairdial.serving import Service", "testbed.demo") == []


@pytest.mark.parametrize("module", [name for name in SOURCES if is_within(name, "fairdial.policy")])
def test_the_policy_is_pure(module: str) -> None:
    assert impurities(SOURCES[module]) == []


def test_every_module_is_looked_at() -> None:
    assert {"fairdial.policy.decide", "fairdial.ledger.sqlite", "agi_app.fastagi", "fairdial.main"} <= set(
        SOURCES
    )


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import time as chronos",
        "from time import monotonic as tick",
        "from datetime import datetime\ndatetime.now()",
        "from datetime import datetime as instant\nread = instant.utcnow",
        "import datetime as d\nd.date.today()",
        "from datetime import datetime\ngetattr(datetime, 'now')()",
        "import random",
        "from secrets import token_hex",
        "import uuid",
        "from os import environ",
        "import os.path",
        "with open('x') as file: pass",
        "read = open",
        "import logging",
        "import structlog",
        "import socket",
        "async def f():\n    import asyncio",
        "import sqlite3",
        "print('x')",
        "say = print",
    ],
)
def test_an_impurity_is_found(source: str) -> None:
    assert impurities(source)


def test_what_is_pure_passes() -> None:
    assert impurities("from datetime import UTC, datetime\ndatetime.fromtimestamp(0, tz=UTC)") == []


SQL_SPEAKERS = ("fairdial.ledger", "testbed.postgres", "benchmarks.accounts")
"""The testbed's own server is started, asked and emptied in its language."""


@pytest.mark.parametrize(
    "module", [name for name in SOURCES if not any(is_within(name, part) for part in SQL_SPEAKERS)]
)
def test_only_the_ledger_speaks_sql(module: str) -> None:
    assert sql_in(SOURCES[module]) == []


@pytest.mark.parametrize(
    "source",
    [
        "db.execute('SELECT * FROM meters')",
        "db.execute('SELECT a'\n ' FROM meters')",
        "db.execute(f'SELECT {columns} FROM meters')",
        "db.execute(f'UPDATE {table} SET a = 1')",
        "db.execute('INSERT OR IGNORE INTO meters VALUES (1)')",
        "db.execute('DELETE FROM meters')",
        "db.execute('PRAGMA user_version')",
    ],
)
def test_sql_is_found(source: str) -> None:
    assert sql_in(source)


def test_prose_is_not_taken_for_sql() -> None:
    assert sql_in("'''Select a policy from the folder; update the set, insert into it.'''") == []
