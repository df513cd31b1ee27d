"""A PostgreSQL server of a test's own, on loopback, with a password."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

USER = "smdl"
UNPRIVILEGED = ("postgres", "nobody")  # the server refuses to run as root


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        folder: Its data.
        port: On 127.0.0.1.
        password: Of the user; with signs that a URL must escape.
    """

    folder: Path
    port: int
    password: str

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        return (
            f"postgresql+psycopg://{USER}:{quote(self.password, safe='')}@127.0.0.1:{self.port}"
            f"/{database}"
        )

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """Connect as the administrator does; each statement is its own transaction."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=self.password,
            dbname=database,
            autocommit=True,
        )

    def new_database(self) -> str:
        """Create an empty database and return its name."""
        name = f"test_{secrets.token_hex(6)}"
        with self.connect() as connection:
            connection.execute(f"create database {name}".encode())
        return name


def binaries() -> Path | None:
    """Return the folder of the server's programs; None if there is none."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    needed = ("initdb", "postgres")
    return next((f for f in folders if all((f / name).exists() for name in needed)), None)


@contextlib.contextmanager
def running(programs: Path) -> Iterator[Server]:
    """Start a server, and stop it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="smdl-postgresql-"))
    account = _account()
    try:
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
        server = Server(folder, _free_port(), f"pa/ss@wo:rd?{secrets.token_hex(8)}")
        _initialise(programs, server, account)
        process = _start(programs, server, account)
        try:
            _wait_for(server, process)
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # a fast shutdown
            process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> pwd.struct_passwd | None:
    if os.getuid() != 0:
        return None
    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise LookupError("no account to run the server as")


def _initialise(programs: Path, server: Server, account: pwd.struct_passwd | None) -> None:
    password_file = server.folder / "password"
    password_file.write_text(server.password)
    if account is not None:
        os.chown(password_file, account.pw_uid, account.pw_gid)
    subprocess.run(
        [
            *(programs / "initdb", "--pgdata", server.folder / "data", "--username", USER),
            *("--auth", "scram-sha-256", "--pwfile", password_file, "--no-sync"),
        ],
        check=True,
        capture_output=True,
        cwd=server.folder,
        **_as(account),
    )


def _start(
    programs: Path, server: Server, account: pwd.struct_passwd | None
) -> subprocess.Popen[bytes]:
    with (server.folder / "log").open("wb") as log:
        started: subprocess.Popen[bytes] = subprocess.Popen(
            [
                *(programs / "postgres", "-D", server.folder / "data", "-p", str(server.port)),
                *("-h", "127.0.0.1", "-k", server.folder, "-F"),
            ],
            stdout=log,
            stderr=log,
            cwd=server.folder,
            **_as(account),
        )
    return started


def _as(account: pwd.struct_passwd | None) -> dict[str, Any]:
    return {} if account is None else {"user": account.pw_uid, "group": account.pw_gid}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        with contextlib.suppress(psycopg.OperationalError):
            server.connect().close()
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError((server.folder / "log").read_text())
