"""A PostgreSQL server of its own for tests and benchmarks: a cluster in a temporary folder, on a free port.

`obtain_postgres` finds the programs of Debian's package, or installs it without the cluster that it would start.
`Cluster` runs one server as a plain user, for PostgreSQL refuses root, and hands out databases with an empty ledger.
It can fail in the ways that servers do: it is stopped, frozen, its disk is full, and its standby takes its place.
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
STANDBY = "follower"
"""What a standby calls itself to the server that it follows."""
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

    disk: wait for the disk at each commit, as a server that is relied on does. disk_mb: on a disk of its own of that
    size, for which root is needed. copy_of: a standby of that one (`standby`).
    """

    def __init__(
        self, programs: Path, *, disk: bool = False, disk_mb: int = 0, copy_of: Cluster | None = None
    ) -> None:
        self.programs = programs
        self._settings = SETTINGS | ({"fsync": "on", "full_page_writes": "on"} if disk else {})
        self.folder = Path(tempfile.mkdtemp(prefix="fairdial-pg-"))
        [self.port] = free_ports(1)
        self._frozen: list[int] = []
        self._mounted: Path | None = None
        self._names = itertools.count(1)
        self._free: list[str] = []
        self._free_spread: list[Spread] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam(PLAIN_USER)
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        if disk_mb:
            # One file of what is logged, and the next.
            self._settings |= {"min_wal_size": "32MB", "max_wal_size": "48MB"}
            self._mount(disk_mb)
        if copy_of is not None:
            self._run(
                *("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
                *("--wal-method=stream", "--pgdata", str(self.folder / "data")),
                *("--dbname", f"{copy_of.url('postgres')}&application_name={STANDBY}"),
            )
            return
        self._run(
            "initdb",
            *("--pgdata", str(self.folder / "data"), "--username", "fairdial", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
        )

    def _run(self, program: str, *arguments: str) -> None:
        _done([str(self.programs / program), *arguments], **self._as)

    def url(self, database: str, *, user: str = "fairdial") -> str:
        """As `store.url`, on the server's socket."""
        return f"postgresql://{user}@/{database}?host={self.folder}&port={self.port}"

    def tcp_url(self, database: str, *, user: str = "fairdial") -> str:
        """As `store.url`, on loopback."""
        return f"postgresql://{user}@{LOOPBACK}:{self.port}/{database}"

    def with_standby_url(self, standby: Cluster, database: str) -> str:
        """As `store.url`, of whichever of the two leads."""
        hosts = ",".join(f"{LOOPBACK}:{each.port}" for each in (self, standby))
        return f"postgresql://fairdial@{hosts}/{database}?target_session_attrs=read-write"

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

    def standby(self) -> Cluster:
        """A running server that follows this one, which from now on commits nothing without it."""
        following = Cluster(self.programs, copy_of=self)
        try:
            following.start()
            self.set(synchronous_standby_names=STANDBY)
            self._wait_for(
                "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", "its standby follows"
            )
        except BaseException:
            following.remove()
            raise
        return following

    def promote(self) -> None:
        """Let a standby take the lead, whether or not the server that it follows is there."""
        self.admin("SELECT pg_promote()")
        self._wait_for("SELECT (NOT pg_is_in_recovery())::int", "it leads")

    def set(self, **settings: str) -> None:
        """Change settings that need no restart; they hold for this server and its data."""
        for name, value in settings.items():
            self.admin(f"ALTER SYSTEM SET {name} = '{value}'")
        self.admin("SELECT pg_reload_conf()")

    def _wait_for(self, sql: str, what: str) -> None:
        until = time.monotonic() + START_WITHIN_S
        while not self.admin(sql)[0][0]:
            if time.monotonic() > until:
                raise TestbedError(f"after {START_WITHIN_S} s it is not so that {what}")
            time.sleep(0.02)

    def freeze(self) -> None:
        """Stop all its processes where they are: connections stay, and nothing is answered, until `thaw`."""
        assert self._server is not None
        # The first makes no more of them.
        self._send(signal.SIGSTOP, self._server.pid)
        self._frozen = [self._server.pid, *_children(self._server.pid)]
        for pid in self._frozen:
            self._send(signal.SIGSTOP, pid)

    def thaw(self) -> None:
        """Let it go on."""
        for pid in reversed(self._frozen):
            self._send(signal.SIGCONT, pid)
        self._frozen = []

    def _send(self, number: signal.Signals, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Until the block ends its disk has no room, of a server that has a disk of its own (`disk_mb`)."""
        ballast = self.folder / "data" / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (1_048_576, 4_096, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass
        try:
            yield
        finally:
            ballast.unlink()

    def _mount(self, size_mb: int) -> None:
        place = self.folder / "data"
        place.mkdir(mode=0o700)
        owner = f",uid={self._as['user']},gid={self._as['group']}" if self._as else ""
        _done(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=0700{owner}", "tmpfs", str(place)])
        self._mounted = place

    def remove(self) -> None:
        """Stop it and remove all that it holds."""
        self.thaw()
        self.stop(signal.SIGQUIT)
        if self._mounted is not None:
            _done(["umount", str(self._mounted)])
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def pooler(self) -> Iterator[Pooler]:
        """PgBouncer before this server, running."""
        pooler = Pooler(self)
        pooler.start()
        try:
            yield pooler
        finally:
            pooler.stop()

    def admin(self, sql: str, database: str = "postgres", **parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement, and what it found."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description is not None else []

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """A database with an empty ledger, by its name; emptied afterwards, and given to the next who asks."""
        name = self._free.pop() if self._free else self.made()
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

    def made(self) -> str:
        """A database with an empty ledger, by its name; it goes with the server."""
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


class Pooler:
    """PgBouncer before a server: three connections, another for each transaction. It may be stopped and started."""

    def __init__(self, cluster: Cluster) -> None:
        self._program, environment = obtain_pgbouncer()
        self._environment = {**os.environ, **environment}
        [self.port] = free_ports(1)
        self._folder = cluster.folder
        self._settings = cluster.folder / "pgbouncer.ini"
        self._settings.write_text(
            f"[databases]\n* = host={LOOPBACK} port={cluster.port} user=fairdial\n[pgbouncer]\n"
            f"listen_addr = {LOOPBACK}\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\n"
            "pool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 200\n"
        )
        self._settings.chmod(0o644)
        self._running: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        """As `store.url`."""
        return f"postgresql://fairdial@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it takes connections. Raises `TestbedError`."""
        # It becomes a plain user by itself, who could not reach it in root's cache.
        plain = ["-u", PLAIN_USER] if os.geteuid() == 0 else []
        with (self._folder / "pooler.log").open("ab") as output:
            running = subprocess.Popen(
                [self._program, *plain, str(self._settings)],
                cwd="/",
                env=self._environment,
                stdout=output,
                stderr=output,
            )
        self._running = running
        until = time.monotonic() + START_WITHIN_S
        while not _answers(self.port):
            if time.monotonic() > until or running.poll() is not None:
                said = (self._folder / "pooler.log").read_text(errors="replace")[-500:]
                raise TestbedError(f"PgBouncer does not start: {said}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Cut all connections, at once."""
        if self._running is not None:
            self._running.terminate()
            self._running.wait(START_WITHIN_S)
            self._running = None


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


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            # The name stands in brackets and may hold anything (proc(5)); state and parent come after it.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def _done(command: list[str], **run_as: Any) -> None:
    """Run a command to its end. Raises `TestbedError` where it fails."""
    done = subprocess.run(
        command, cwd="/", capture_output=True, text=True, timeout=COMMAND_WITHIN_S, **run_as
    )
    if done.returncode:
        raise TestbedError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-500:]}")
