"""A PostgreSQL server of its own for tests and benchmarks: a cluster in a temporary folder, on a free port.

`obtain_postgres` finds the programs of Debian's package, or installs it without the cluster that it would start.
`Cluster` runs one server as a plain user, for PostgreSQL refuses root, and hands out databases with an empty ledger.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from fairdial.ledger.postgres import migrate
from fairdial.ledger.resharding import init
from testbed.installation import SYSTEM_PATH, TestbedError, install_packages, unpacked
from testbed.ports import LOOPBACK, free_ports

PLAIN_USER = "nobody"
VERSION_MIN = 15
START_WITHIN_S = 30.0
COMMAND_WITHIN_S = 60.0
SETTINGS = {
    # Processes die here, the machine does not: what was committed is there without waiting for a disk.
    "fsync": "off",
    "synchronous_commit": "on",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "log_min_messages": "fatal",
}

Progress = Callable[[str], object]


def obtain_postgres(progress: Progress = print) -> Path:
    """The folder with `initdb` and `postgres`, 15 or later. Raises `TestbedError` where there can be none."""
    found = _programs()
    if found is None:
        # Else the package makes a cluster of its own and starts it.
        settings = Path("/etc/postgresql-common/createcluster.conf")
        if os.geteuid() == 0 and not settings.exists():
            settings.parent.mkdir(parents=True, exist_ok=True)
            settings.write_text("create_main_cluster = false\n")
        install_packages("postgresql", progress=progress)
        found = _programs()
    if found is None:
        raise TestbedError(
            f"Debian's package postgresql brought no PostgreSQL {VERSION_MIN} or later; install one that is, so that"
            " it is below /usr/lib/postgresql"
        )
    return found


def obtain_plproxy(programs: Path, progress: Progress = print) -> None:
    """See that those programs have PL/Proxy, from Debian's package. Raises `TestbedError`."""
    if not (programs.parent / "lib" / "plproxy.so").exists():
        install_packages(f"postgresql-{programs.parent.name}-plproxy", progress=progress)


def obtain_pgbouncer(progress: Progress = print) -> tuple[str, dict[str, str]]:
    """The path of PgBouncer, and what its environment needs. Raises `TestbedError`.

    Where it is not installed, it is unpacked into the cache with its libraries: installed, it would start a server.
    """
    installed = shutil.which("pgbouncer", path=SYSTEM_PATH)
    if installed is not None:
        return installed, {}
    needs = subprocess.run(
        ["apt-cache", "depends", "pgbouncer"], capture_output=True, text=True, timeout=COMMAND_WITHIN_S
    ).stdout
    libraries = re.findall(r"Depends: (libc-ares\S+|libevent\S+)", needs)
    folder = unpacked("pgbouncer", *libraries, progress=progress)
    paths = [str(path) for path in (folder / "usr" / "lib").glob("*-linux-*")]
    return str(folder / "usr" / "sbin" / "pgbouncer"), {"LD_LIBRARY_PATH": os.pathsep.join(paths)}


def _programs() -> Path | None:
    versions = {
        int(folder.parent.name): folder
        for folder in Path("/usr/lib/postgresql").glob("*/bin")
        if re.fullmatch(r"\d+", folder.parent.name) and (folder / "initdb").exists()
    }
    newest = max(versions, default=0)
    return versions[newest] if newest >= VERSION_MIN else None


class Cluster:
    """One server. `start` before use, `stop` after; it may be stopped and started again with what it holds.

    disk: wait for the disk at each commit, as a server that is relied on does.
    """

    def __init__(self, programs: Path, *, disk: bool = False) -> None:
        self.programs = programs
        self._settings = SETTINGS | ({"fsync": "on", "full_page_writes": "on"} if disk else {})
        self.folder = Path(tempfile.mkdtemp(prefix="fairdial-pg-"))
        [self.port] = free_ports(1)
        self._names = itertools.count(1)
        self._free: list[str] = []
        self._free_spread: list[Spread] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam(PLAIN_USER)
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._run(
            "initdb",
            *("--pgdata", str(self.folder / "data"), "--username", "fairdial", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
        )

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(
            command, cwd="/", capture_output=True, text=True, timeout=COMMAND_WITHIN_S, **self._as
        )
        if done.returncode:
            raise TestbedError(f"{program} failed: {done.stderr.strip()[-500:]}")

    def url(self, database: str, *, user: str = "fairdial") -> str:
        """As `store.url`, on the server's socket."""
        return f"postgresql://{user}@/{database}?host={self.folder}&port={self.port}"

    def tcp_url(self, database: str, *, user: str = "fairdial") -> str:
        """As `store.url`, on loopback."""
        return f"postgresql://{user}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers. Raises `TestbedError`."""
        settings = [f"-c{name}={value}" for name, value in self._settings.items()]
        with (self.folder / "server.log").open("ab") as output:
            self._server = subprocess.Popen(
                [
                    str(self.programs / "postgres"),
                    *("-D", str(self.folder / "data"), "-k", str(self.folder), "-h", LOOPBACK),
                    *("-p", str(self.port), *settings),
                ],
                cwd="/",
                stdout=output,
                stderr=output,
                **self._as,
            )
        until = time.monotonic() + START_WITHIN_S
        while True:
            try:
                self.admin("SELECT 1")
            except psycopg.OperationalError as error:
                if time.monotonic() > until or self._server.poll() is not None:
                    said = (self.folder / "server.log").read_text(errors="replace")[-500:]
                    raise TestbedError(f"PostgreSQL does not start ({error}): {said}") from error
                time.sleep(0.02)
            else:
                return

    @property
    def process(self) -> int:
        """Of the running server, whose children all others of it are."""
        assert self._server is not None
        return self._server.pid

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: connections are cut, what was committed stays. SIGQUIT: as a crash. What it holds stays."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(START_WITHIN_S)
            self._server = None

    def remove(self) -> None:
        """Stop it and remove all that it holds."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def pooler(self) -> Iterator[int]:
        """PgBouncer before this server: three connections, another for each transaction. Its port on loopback."""
        program, environment = obtain_pgbouncer()
        [port] = free_ports(1)
        settings = self.folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={LOOPBACK} port={self.port} user=fairdial\n[pgbouncer]\n"
            f"listen_addr = {LOOPBACK}\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            "pool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 200\n"
        )
        settings.chmod(0o644)
        # It becomes a plain user by itself, who could not reach it in root's cache.
        plain = ["-u", PLAIN_USER] if self._as else []
        with (self.folder / "pooler.log").open("ab") as output:
            running = subprocess.Popen(
                [program, *plain, str(settings)],
                cwd="/",
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
            )
        try:
            until = time.monotonic() + START_WITHIN_S
            while not _answers(port):
                if time.monotonic() > until or running.poll() is not None:
                    said = (self.folder / "pooler.log").read_text(errors="replace")[-500:]
                    raise TestbedError(f"PgBouncer does not start: {said}")
                time.sleep(0.02)
            yield port
        finally:
            running.terminate()
            running.wait(START_WITHIN_S)

    def admin(self, sql: str, database: str = "postgres", **parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement, and what it found."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description is not None else []

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """A database with an empty ledger, by its name; emptied afterwards, and given to the next who asks."""
        name = self._free.pop() if self._free else self._made()
        yield name
        self.empty(name)
        self._free.append(name)

    @contextlib.contextmanager
    def spread(self, *clusters: Cluster) -> Iterator[Spread]:
        """An empty ledger on two shards of this server, emptied afterwards for the next, or on those servers."""
        if self._free_spread and not clusters:
            made = self._free_spread.pop()
        else:
            obtain_plproxy(self.programs)
            made = Spread(self, clusters or (self, self), f"spread_{next(self._names)}")
        yield made
        if not clusters:
            made.empty()
            self._free_spread.append(made)

    def _made(self) -> str:
        name = f"ledger_{next(self._names)}"
        self.make(name)
        with psycopg.connect(self.url(name), autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
            migrate(connection)
        return name

    def make(self, name: str) -> None:
        """A database without tables."""
        self.admin(f"CREATE DATABASE {name}")

    def empty(self, name: str) -> None:
        """Ten times as fast as a new one."""
        self.admin(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %(name)s", name=name
        )
        self.admin(_EMPTY, name)


class Spread:
    """A ledger on shards: the database before them, and a database on each of those servers."""

    def __init__(self, proxy: Cluster, clusters: Sequence[Cluster], name: str) -> None:
        self.proxy = proxy
        self.name = name
        self.shards = [(cluster, f"{name}_{n}") for n, cluster in enumerate(clusters)]
        for cluster, database in [(proxy, name), *self.shards]:
            cluster.make(database)
        init(self.url, None, self.urls)

    @property
    def url(self) -> str:
        """As `store.url`."""
        return self.proxy.url(self.name)

    @property
    def urls(self) -> list[str]:
        """Of the shards."""
        return [cluster.url(database) for cluster, database in self.shards]

    def remove(self) -> None:
        """With all that it holds."""
        for cluster, database in [(self.proxy, self.name), *self.shards]:
            cluster.admin(f"DROP DATABASE {database} WITH (FORCE)")

    def empty(self) -> None:
        """Take out all that was written."""
        self.proxy.empty(self.name)
        for cluster, database in self.shards:
            cluster.empty(database)
            cluster.admin("DELETE FROM shard.versions; DELETE FROM shard.directory", database)


_EMPTY = """
DO $$ DECLARE each record; BEGIN
    SET LOCAL session_replication_role = replica; -- without looking after references
    FOR each IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_version' LOOP
        EXECUTE format('DELETE FROM %I', each.tablename);
    END LOOP;
    FOR each IN SELECT sequencename FROM pg_sequences WHERE last_value IS NOT NULL LOOP
        PERFORM setval(each.sequencename::regclass, 1, false);
    END LOOP;
END $$
"""


@functools.cache
def shared_cluster() -> Cluster:
    """A running server for all that this process asks of one; gone with the process."""
    running = Cluster(obtain_postgres())
    atexit.register(running.remove)
    running.start()
    return running


def _answers(port: int) -> bool:
    with socket.socket() as trying:
        return trying.connect_ex((LOOPBACK, port)) == 0
