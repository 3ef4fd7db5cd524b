"""A PostgreSQL server of our own in a temporary folder: unix socket only, gone at the end of the tests."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from aggregator.storage.database import Database

INSTALL = "apt-get install postgresql"


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, the newest version's; None where PostgreSQL is not installed."""
    found = shutil.which("pg_ctl")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda p: float(p.parts[-3]))
    return debian[-1].parent if debian else Path(found).resolve().parent if found else None


class Cluster:
    """One server. It refuses to run as root, so root starts it as another user."""

    def __init__(self) -> None:
        found = programs()
        assert found is not None
        self._programs = found
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="medveil-pg-", dir=memory if memory.is_dir() else None))
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._numbers = count(1)
        self._call("initdb", "-D", self.data, "-U", "medveil", "-A", "trust", "-E", "UTF8", "--no-locale")
        self.start()

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def start(self, *, fsync: str = "on") -> None:
        """Start and wait until it answers."""
        options = f"-k {self.folder} -c listen_addresses='' -c max_connections=40 -c fsync={fsync}"
        self._call("pg_ctl", "-D", self.data, "-w", "-o", options, "-l", f"{self.folder}/log", "start")

    @property
    def running(self) -> bool:
        return (self.folder / "data" / "postmaster.pid").exists()

    def stop(self, mode: str = "fast") -> None:
        """Stop; ``immediate`` is what a power cut does to it."""
        self._call("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://medveil@/{database}?host={self.folder}"

    @functools.cached_property
    def template(self) -> str:
        """A database with the present schema and no row, to be copied."""
        name = self.database(template="template1")
        Database(self.url(name)).close()
        return name

    def database(self, *, template: str | None = None) -> str:
        """A new database's name; with the present schema unless a template is given."""
        template = template or self.template
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def dumped_and_restored(self, database: str) -> str:
        """A new database made by pg_restore of what pg_dump gives, as docs/operations.md says."""
        name, file = f"test_{next(self._numbers)}", str(self.folder / f"{database}.dump")
        self.execute(f"CREATE DATABASE {name}")
        at = ["--host", str(self.folder), "--username", "medveil"]
        self._call("pg_dump", *at, "--format=custom", "--file", file, database)
        self._call("pg_restore", *at, "--exit-on-error", "--no-owner", "--dbname", name, file)
        return name

    def execute(self, statement: str, *, database: str = "postgres") -> None:
        """One statement outside any transaction."""
        with psycopg.connect(host=str(self.folder), user="medveil", dbname=database, autocommit=True) as link:
            link.execute(statement)  # type: ignore[call-overload]

    def remove(self) -> None:
        """Stop it and remove every trace."""
        if self.running:
            self.stop("immediate")
        shutil.rmtree(self.folder)

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(
            command, capture_output=True, cwd=self.folder, text=True, env={"LC_ALL": "C"}, **self._as
        )
        assert done.returncode == 0, done.stdout + done.stderr
