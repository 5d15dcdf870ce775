"""A PostgreSQL server for the tests, from the binaries that the package `pgserver` carries."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def installed() -> Path | None:
    """Returns the folder of the binaries; None if the package is not installed.

    The package is not imported, since that changes the system.
    """
    package = importlib.util.find_spec("pgserver")
    folders = list(package.submodule_search_locations or ()) if package else []
    return Path(folders[0]) / "pginstall" / "bin" if folders else None


class Server:
    """A new server with its own folder and socket, for a `with` block.

    PostgreSQL refuses to run as root, so there it runs as nobody.
    """

    def __init__(self) -> None:
        binaries = installed()
        assert binaries is not None
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="nosbench-pg-"))  # short: the path of a socket may have 107 bytes
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam("nobody")
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()}
            packages = binaries.parents[2]  # which nobody may not reach
            for package in packages.glob("pgserver*"):
                if package.is_dir():
                    shutil.copytree(package, self._folder / package.name, symlinks=True)
            self._binaries = self._folder / binaries.relative_to(packages)
        self._databases, self._free = 0, list[str]()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        if self._user:
            os.chown(self._folder, self._user["user"], self._user["group"])
        self._run(
            "initdb", "--auth=trust", "--encoding=utf8", "--locale=C", "--no-sync", "-U", "test", "-D", self._data
        )
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        settings = ["listen_addresses=", f"unix_socket_directories={self._folder}", "fsync=off", "max_connections=200"]
        command = [self._binaries / "postgres", "-D", self._data, *(part for s in settings for part in ("-c", s))]
        log = open(self._folder / "log", "ab")  # noqa: SIM115
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._user)
        for _ in range(300):
            if self._process.poll() is not None:
                break
            if self._ask("postgres", "SELECT 1").returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError(f"the server did not start:\n{(self._folder / 'log').read_text()}")

    def stop(self) -> None:
        """Ends the server at once, as in a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yields the URL of an empty database, which later blocks may reuse."""
        if not self._free:
            self._databases += 1
            self._free.append(f"test{self._databases}")
            self._done("postgres", f"CREATE DATABASE {self._free[-1]}")
        name = self._free.pop()
        try:
            yield f"postgresql://test@/{name}?host={self._folder}"
        finally:
            others = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            self._done("postgres", others)
            schemas = "DROP SCHEMA IF EXISTS nosbench CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public"
            self._done(name, schemas)
            self._free.append(name)

    def _done(self, database: str, statement: str) -> None:
        done = self._ask(database, statement)
        if done.returncode:
            raise RuntimeError(done.stderr.decode())

    def _ask(self, database: str, statement: str) -> subprocess.CompletedProcess[bytes]:
        command = [self._binaries / "psql", "-h", self._folder, "-U", "test", "-d", database, "-Xqc", statement]
        return subprocess.run(command, capture_output=True, cwd="/")

    def _run(self, program: str, *arguments: str) -> None:
        command = [self._binaries / program, *arguments]
        done = subprocess.run(command, capture_output=True, cwd="/", **self._user)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.decode()}")
