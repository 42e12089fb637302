"""What `fairdial doctor` looks at, put together. Apart from main.py, which loads it for this command alone: it brings
the clients of the switch.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

from agi_app.ami import AmiLink
from agi_app.probe import clocks_agree, dialplan_is_loaded, logged_in, probe_ami, records_are_written
from ari_handlers.probe import probe_ari
from fairdial.cdr_probe import file_is_readable
from fairdial.clock import SystemClock
from fairdial.config import Config, ConfigError, with_secrets
from fairdial.console.control import NotRunning, ask
from fairdial.console.operations import OperationError, Operations
from fairdial.console.proof import decision_is_given, server_runs
from fairdial.doctor import Ailment, Finding, Probe, examine
from fairdial.hardening import examine_files, exposed_secrets
from fairdial.ledger.contract import LedgerError, LedgerUnavailable
from fairdial.loading import (
    StartError,
    load_numbering,
    load_policies,
    open_desk,
)
from fairdial.shipped import dialplan_text, mark_of
from fairdial.switch_files import Needs
from fairdial.tls import TlsError, ami_context, ari_context


async def look(config: Config) -> list[Finding]:
    """What is found, well or not."""
    findings = await examine(probes(config))
    findings += exposed_secrets(config.secret_files)
    needs = Needs(
        config.ari.user,
        config.ami.user,
        config.ari.app,
        cdr_file=config.cdr.file is not None,
        logins=config.logins.watch,
    )
    return findings + await asyncio.to_thread(examine_files, config.asterisk_etc, needs)


def probes(config: Config) -> dict[str, Probe]:
    """How each part is examined by `fairdial doctor`."""

    async def policies() -> str:
        try:
            return "read: " + ", ".join(load_policies(config.policies).names)
        except (ValueError, OSError, StartError) as error:
            raise Ailment(str(error), "mend the file, or set `policies` to the right folder") from error

    async def numbers() -> str:
        try:
            load_numbering(config.prefixes)
        except (ValueError, OSError) as error:
            raise Ailment(
                str(error), "mend the table, or leave `prefixes` out for the shipped one"
            ) from error
        return "number table read"

    async def store() -> str:
        try:
            status, health = ask(config.control, "status", {}), ask(config.control, "ready", {})
        except NotRunning:
            try:
                async with open_desk(config) as desk:
                    await desk.ledger.probe()
                    return f"{config.store.shown}: {len(await desk.ledger.accounts())} accounts; no server is running"
            except (LedgerError, OSError, ValueError, StartError) as error:
                cure = error.cure if isinstance(error, LedgerUnavailable) else ""
                found = error.found if isinstance(error, LedgerUnavailable) else str(error)
                cure = cure or (
                    "see that `store.url` is right and its server runs"
                    if config.store.url
                    else "see that `store.path` is in a folder that FairDial can write"
                )
                raise Ailment(found, cure) from error
        except OperationError as error:
            raise Ailment(str(error), "look into the server's log") from error
        for each in health["parts"]:
            if each["part"] in {"store", "node"} and not each["well"]:
                raise Ailment(each["text"], each["cure"])
        held = "".join(f"; {each['text']}" for each in health["parts"] if each["part"] == "node")
        return (
            f"{config.store.shown}: in use by the running server, {status['calls']} calls in progress{held}"
        )

    async def standby() -> str:
        return await asyncio.to_thread(_standby, config)

    async def ari() -> str:
        usable = _usable(config)
        settings = usable.ari
        return await probe_ari(
            settings.url,
            settings.user,
            settings.password.get_secret_value(),
            settings.app,
            _for_probe(lambda config: ari_context(config.ari), usable),
        )

    shut_out: list[Ailment] = []

    async def ami() -> str:
        try:
            return await asked(logged_in)()
        except Ailment as ailment:
            shut_out.append(ailment)
            raise

    def asked(question: Callable[[AmiLink], Awaitable[str]]) -> Probe:
        async def probe() -> str:
            if shut_out:
                # Nobody waits again for what does not answer.
                raise Ailment(f"cannot be asked: {shut_out[0]}", shut_out[0].cure)
            tls = _for_probe(lambda config: ami_context(config.ami), config)
            return await probe_ami(_usable(config).ami, tls, question)

        return probe

    async def cdr() -> str:
        if not config.cdr.wanted:
            return "not read (cdr.file): calls that end while FairDial is away are settled by their lease"
        if config.cdr.file is not None:
            file_is_readable(config.cdr.file)
        return await asked(records_are_written)()

    async def server() -> str:
        return await asyncio.to_thread(server_runs, config)

    async def here(operation: str, arguments: Mapping[str, object]) -> object:
        async with open_desk(config) as desk:
            return await Operations(desk).call(operation, arguments)

    async def decision() -> str:
        return await decision_is_given(config, here)

    return {
        "policies": policies,
        "numbers": numbers,
        "store": store,
        **({"standby": standby} if config.store.url else {}),
        "ari": ari,
        "ami": ami,
        "clock": asked(partial(clocks_agree, clock=SystemClock())),
        "dialplan": asked(partial(dialplan_is_loaded, mark=mark_of(dialplan_text()))),
        "cdr": cdr,
        "server": server,
        "decision": decision,
    }


def _standby(config: Config) -> str:
    """How well the server keeps what it acknowledges. Raises Ailment."""
    from fairdial.ledger.postgres import DURABLE_CURE, examine

    try:
        store = with_secrets(config, only="store").store
        found = examine(store.url, store.password.get_secret_value() or None)
    except LedgerUnavailable as error:
        raise Ailment(error.found, error.cure, grave=False) from error
    except ConfigError as error:
        raise Ailment(str(error), "mend `store.password_file`", grave=False) from error
    if found.faults:
        raise Ailment(", ".join(found.faults), DURABLE_CURE, grave=False)
    if found.alone:
        raise Ailment(
            found.standbys,
            "give it one where no call may be lost with the server: docs/postgresql.md, High availability",
            grave=False,
        )
    return found.standbys


def _usable(config: Config) -> Config:
    """With its secrets. Raises Ailment."""
    return _for_probe(with_secrets, config)


Made = TypeVar("Made")


def _for_probe(make: Callable[[Config], Made], config: Config) -> Made:
    """What `make` makes of the configuration; its errors are findings. Raises Ailment."""
    try:
        return make(config)
    except (ConfigError, TlsError) as error:
        finding, _, cure = str(error).partition("; ")
        raise Ailment(finding, cure) from error
