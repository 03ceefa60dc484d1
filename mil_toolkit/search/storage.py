"""`Storage`: where the searches of a study keep their trials: SQLite, PostgreSQL, or memory."""

import contextlib
import functools
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from mil_toolkit.core.errors import DataError, UsageError, import_extra
from mil_toolkit.core.files import digest, publish
from mil_toolkit.core.locks import CLAIM, exclusive
from mil_toolkit.core.reading import check_input, open_input
from mil_toolkit.core.text import printable
from mil_toolkit.search.batched import BatchedStorage

HEARTBEAT, GRACE = (
    15,
    120,
)  # seconds between signs of life on a shared storage; after GRACE a trial counts as dead
PATIENCE = 120  # seconds that SQLite waits for another writer
DATABASE = "optuna.db"
SIDE_FILES = ("-journal", "-wal", "-shm")  # of the database, which SQLite opens by itself
MAGIC = b"SQLite format 3\0"
DAMAGED = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_ERROR,  # a table or a column is missing
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_SCHEMA,
)


class Storage(Protocol):
    """Where the searches of a study keep their trials.

    optuna: Optuna's storage; shared: whether processes of several commands and machines use it at the same
    time
    """

    optuna: optuna.storages.BaseStorage
    shared: bool

    def name_of(self, search: str) -> str:
        """Return the name of a search within the storage."""
        ...

    def exclusive(self) -> AbstractContextManager[Callable[[], None]]:
        """Keep all other processes of the study from claiming trials within the block.

        Yields a function that releases the lock before the block ends.
        """
        ...


class DatabaseStorage:
    """A storage that survives its process.

    Embedded (SQLite in the study folder): for one command with its workers. They hold the folder's lock, so
    that trials left running by others are dead. Shared (PostgreSQL): for any number of commands on any number
    of machines; a trial counts as dead after GRACE seconds without a sign of life.

    Raises UsageError where the database cannot be reached.
    """

    def __init__(self, folder: Path, url: str | None = None):
        self.folder, self.shared = folder.resolve(), url is not None
        self._engines: list[sqlalchemy.Engine] = []
        self._path = folder / DATABASE
        self._url = sqlalchemy.URL.create("sqlite", database=str(self._path))
        if url is not None:
            self._url = postgresql_url(url)
            self._engine = sqlalchemy.create_engine(self._url, pool_pre_ping=True)
            self._engines.append(self._engine)
        with self.errors_explained(), self.exclusive():  # two processes must not create the tables at once
            self.optuna = self._open()

    def __str__(self) -> str:
        """Return where the storage is, without anything that may be secret."""
        if not self.shared:
            return str(self._url.database)
        return f"database {self._url.database!r} at {self._url.host or 'localhost'}"

    def _open(self) -> optuna.storages.BaseStorage:
        url = self._url.render_as_string(hide_password=False)
        options = {"pool_pre_ping": True} if self.shared else {"connect_args": {"timeout": PATIENCE}}
        heartbeat, grace = (HEARTBEAT, GRACE) if self.shared else (None, None)
        if not self.shared:
            self._check_or_create()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            try:
                storage = optuna.storages.RDBStorage(
                    url, options, heartbeat_interval=heartbeat, grace_period=grace
                )
            except (RuntimeError, AssertionError, LookupError, TypeError, ValueError) as error:
                reason = printable(str(error)) or "its version is missing."
                raise DataError(f"{self} is not a database of this version of Optuna: {reason}") from None
        self._engines.append(storage.engine)
        return storage if self.shared else BatchedStorage(storage)

    def _check_or_create(self) -> None:
        """Create the database in the study folder; raise DataError where it is something else."""
        for suffix in SIDE_FILES:
            with contextlib.suppress(FileNotFoundError):
                check_input(self._path.with_name(f"{DATABASE}{suffix}"))
        try:
            with open_input(self._path) as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise DataError(f"{printable(self._path)} is not an SQLite database.")
        except FileNotFoundError:
            publish(self._path, _empty_database())

    def name_of(self, search: str) -> str:
        """Return the name of a search; in a shared storage, which holds many studies, with the folder's."""
        return f"{self.folder.name}/{search}" if self.shared else search

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[Callable[[], None]]:
        """Keep all other processes of the study, on any machine, from claiming; wait for the one that does.

        Yields a function that releases the lock before the block ends.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(exclusive(self.folder, CLAIM, wait=True))
            if self.shared:
                connection = stack.enter_context(self._engine.begin())
                # A machine that stops responding while it holds the lock must not block the others forever.
                connection.execute(sqlalchemy.text("set local idle_in_transaction_session_timeout = '60s'"))
                key = int(digest(self.folder.name.encode())[:15], 16)
                connection.execute(sqlalchemy.text("select pg_advisory_xact_lock(:key)"), {"key": key})
            yield stack.close

    @contextlib.contextmanager
    def errors_explained(self) -> Iterator[None]:
        """Turn database errors into an error that says what to do; close all connections at the end.

        A DataError where the database is damaged, else a UsageError.
        """
        try:
            yield
        except (StorageInternalError, SQLAlchemyError) as error:
            if _sqlite_code(error) in DAMAGED:
                advice = "Ask for the original, or begin a new study."
                raise DataError(f"{self} is damaged: {_reason(error)}. {advice}") from None
            advice = "Finished trials are kept: fix the cause and run the same command again."
            raise UsageError(f"{self} cannot be used: {_reason(error)}. {advice}") from None
        finally:
            for engine in self._engines:
                engine.dispose()


class MemoryStorage:
    """A storage for searches that are never resumed."""

    shared = False

    def __init__(self) -> None:
        self.optuna: optuna.storages.BaseStorage = optuna.storages.InMemoryStorage()

    def name_of(self, search: str) -> str:
        """Return the search's own name."""
        return search

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[Callable[[], None]]:
        """Do nothing: no other process can reach the storage."""
        yield lambda: None


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's log within the block: its warnings hold tracebacks of errors reported elsewhere."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@functools.cache
def _empty_database() -> bytes:
    """Return SQLite's file before the first trial, to be published as a whole.

    If an interruption left the database without the index that keeps names unique, every run would begin all
    searches anew.
    """
    with contextlib.closing(optuna.storages.RDBStorage("sqlite://").engine.raw_connection()) as connection:
        driver: Any = connection.driver_connection
        return bytes(driver.serialize())


def postgresql_url(text: str) -> sqlalchemy.URL:
    """Return the URL of a shared storage; raises UsageError where it is malformed or psycopg is missing."""
    form = "postgresql://USER@HOST/DATABASE"
    try:
        url = sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):  # whose message may hold a part of the password
        raise UsageError(f"--storage is not of the form {form}.") from None
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise UsageError(
            f"--storage takes {form}, not {url.drivername}."
            " Without it, the trials are kept in the study folder."
        )
    import_extra("psycopg", "postgres", "--storage")
    return url.set(drivername="postgresql+psycopg")


def _sqlite_code(error: BaseException | None) -> int | None:
    """Return the primary result code of SQLite in an error or its causes; None where there is none."""
    if error is None:
        return None
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else _sqlite_code(error.__cause__)


def _reason(error: BaseException) -> str:
    """Return the driver's own message; SQLAlchemy's text also holds the statement with its values."""
    driver = getattr(error, "orig", None)
    if driver is None and error.__cause__ is not None:
        return _reason(error.__cause__)
    return str(error if driver is None else driver).strip().partition("\n")[0].rstrip(".")
