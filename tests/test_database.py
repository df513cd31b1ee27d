"""The registry's database: errors are one line and tell no password. (A server: ``tests/e2e``.)"""

from pathlib import Path

import pytest
import sqlalchemy as sql

from smdl_flower.database import Database
from smdl_flower.errors import ConfigError, IntegrityError


def refusal(url: str | sql.URL) -> str:
    """What an owner is told of a database that cannot be used."""
    with pytest.raises(ConfigError) as error:
        Database(url).create()
    return str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:first@second@127.0.0.1:1/db",  # an "@" that was not escaped
        "postgresql+psycopg://me:first/second@127.0.0.1:1/db",
        "postgresql+psycopg://me:first#second@127.0.0.1:1/db",
        "postgresql+psycopg://me:first%second@127.0.0.1:1/db",
        "postgresql+psycopg://me:first%2Fsecond@127.0.0.1:1/db",
        "postgresql+psycopg://me:first:second@127.0.0.1:1:2/db",
        "postgresql+psycopg://me@127.0.0.1:1/db?password=first-second",
        "postgresql+psycopg://me@127.0.0.1:1/db?passfile=first-second",
        "postgresql+psycopg:me:first-second@127.0.0.1:1/db",
        "postgresql+psycopg://me:first-second@127.0.0.1:port/db",
        "nonsense://me:first-second@127.0.0.1:1/db",
        "first-second",
    ],
)
def test_a_password_is_in_no_message(url: str) -> None:
    pytest.importorskip("psycopg")
    told = refusal(url)
    assert "first" not in told
    assert "second" not in told
    assert "\n" not in told
    assert told.startswith("registry: ")


def test_a_driver_that_tells_the_password_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    url = sql.URL.create("postgresql+psycopg", "me", "s3/cret", "127.0.0.1", 1, "db")
    other = Database(url)
    for message, shown in (("host s3/cret is unknown", False), ("host h is unknown", True)):
        error = sql.exc.OperationalError("", {}, Exception(message))
        monkeypatch.setattr(
            other._engine, "begin", lambda error=error: (_ for _ in ()).throw(error)
        )
        with pytest.raises(ConfigError) as refused:
            other.create()
        assert "s3/cret" not in str(refused.value)
        assert ("host h is unknown" in str(refused.value)) == shown


def test_a_driver_that_is_not_installed_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'pg8000' is not installed; .*smdl-flower\[postgres\]"):
        Database("postgresql+pg8000://me@127.0.0.1/db")


def test_a_file_that_is_no_database_is_damage(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"not a database" * 100)
    database = Database(f"sqlite:///{tmp_path}/registry.db")
    with pytest.raises(IntegrityError), database.connection() as connection:
        connection.exec_driver_sql("select * from smdl_registry_1")
