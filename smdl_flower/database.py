"""The registry's table in any SQLAlchemy database: transactions, and errors that tell no password.

SQLite and PostgreSQL let one process write at a time and the others wait. In any other database two
that add the same entry fail on the primary key: one of them does, and nothing is lost.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sql

from smdl_flower.errors import ConfigError, IntegrityError, SmdlError

VERSION = 1
_NAME = "smdl_registry_{}"

TABLE = sql.Table(
    _NAME.format(VERSION),
    sql.MetaData(),
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("kind", sql.String(16), nullable=False),
    sql.Column("body", sql.Text, nullable=False),
    sql.Column("mac", sql.String(64), nullable=False),
)


class Row(NamedTuple):
    """An entry as it is stored."""

    number: int
    kind: str
    body: str
    mac: str


class Database:
    """Where a log is stored.

    Args:
        url: SQLAlchemy URL; may hold a password, which is in no message and no ``repr``.

    Raises:
        ConfigError: The URL is none, or its driver is not installed.

    Example:
        >>> with Database("sqlite://").connection() as connection:
        ...     connection.exec_driver_sql("SELECT 1").scalar()
        1
    """

    def __init__(self, url: str | sql.URL) -> None:
        self._secrets = _secrets(url)
        try:
            self._engine = _engine(url)
        except ImportError as error:
            raise ConfigError(
                f"registry: the database's driver {error.name!r} is not installed; for PostgreSQL "
                "say: pip install 'smdl-flower[postgres]'"
            ) from None
        except (sql.exc.ArgumentError, ValueError, TypeError):
            raise ConfigError(
                "registry: not a usable database URL; expected dialect+driver://user@host/name, as "
                "SQLAlchemy reads it"
            ) from None

    def create(self) -> None:
        """Create the empty table.

        Raises:
            ConfigError: It is there already, or the database cannot be reached.
        """
        try:
            with self._engine.begin() as connection:
                TABLE.create(connection)
        except sql.exc.SQLAlchemyError as error:
            reason = self._told(error)
            raise ConfigError(
                f"registry: cannot be created, or is there already ({reason})"
            ) from None

    @contextmanager
    def connection(self) -> Iterator[sql.Connection]:
        """One transaction, rolled back if the block fails.

        Raises:
            ConfigError: The database is busy or cannot be reached.
            IntegrityError: The table is not as it was made.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except sql.exc.SQLAlchemyError as error:
            raise self._explained(error) from None
        except UnicodeDecodeError:  # SQLite believes that a text is one
            raise IntegrityError("registry: a text of an entry is none; restore it") from None

    def _explained(self, error: sql.exc.SQLAlchemyError) -> SmdlError:
        reason = self._told(error)
        if "locked" in reason:
            return ConfigError("registry: another process keeps it busy; try again")
        lost = getattr(error, "connection_invalidated", False)
        if lost or (self._engine.dialect.name != "sqlite" and _is_operational(error)):
            return ConfigError(
                f"registry: the database cannot be reached or broke off ({reason}); what was being "
                "recorded is recorded as a whole or not at all: try again"
            )
        newer = self._newer()
        if newer:
            return IntegrityError(
                f"registry: {newer} is of a newer version of smdl-flower (this one knows "
                f"{TABLE.name}); update it"
            )
        return IntegrityError(f"registry: cannot be used ({reason})")

    def _newer(self) -> str:
        """Name of a table that a later version made."""
        try:
            names = sql.inspect(self._engine).get_table_names()
        except sql.exc.SQLAlchemyError:
            return ""
        versions = [(int(found[1]), name) for name in names if (found := _TABLES.fullmatch(name))]
        version, name = max(versions, default=(0, ""))
        return name if version > VERSION else ""

    def _told(self, error: Exception) -> str:
        """The first line of a driver's message, unless that tells a part of the URL's secret."""
        line = next(iter(str(error).splitlines()), type(error).__name__)
        if any(secret in line for secret in self._secrets):
            return f"{type(error).__name__}; the reason holds the password and is not shown"
        return line


def one_writer(connection: sql.Connection) -> None:
    """Wait until no other process adds to the table; SQLite did when the transaction began."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {TABLE.name} IN EXCLUSIVE MODE")


_TABLES = re.compile(_NAME.format(r"(\d{1,6})"))


def _engine(url: str | sql.URL) -> sql.Engine:
    # Nothing stays open; and what is recorded (names of customers) is in no message.
    engine = sql.create_engine(url, poolclass=sql.pool.NullPool, hide_parameters=True)
    if engine.dialect.name == "sqlite":
        # One writer at a time, from its first read on: two processes that issue at once must not
        # continue the chain from the same entry. The driver's own BEGIN comes too late for that.
        @sql.event.listens_for(engine, "connect")
        def _no_implicit_begin(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA busy_timeout = 60000")

        @sql.event.listens_for(engine, "begin")
        def _begin_immediate(connection: sql.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _secrets(url: str | sql.URL) -> list[str]:
    """What must not be shown: the password, also in pieces if it was not escaped as it should."""
    if isinstance(url, sql.URL):
        found = [str(url.password or "")]
    else:
        found = re.split(r"[:@/?#&=]", url.partition("://")[2].rpartition("@")[0])[1:]
        found += re.findall(r"(?i)pass[a-z]*=([^&]+)", url)
    decoded = [re.sub("%([0-9a-fA-F]{2})", lambda m: chr(int(m[1], 16)), text) for text in found]
    return [text for text in {*found, *decoded} if len(text) > 2]


def _is_operational(error: sql.exc.SQLAlchemyError) -> bool:
    return isinstance(error, sql.exc.OperationalError | sql.exc.InterfaceError)
