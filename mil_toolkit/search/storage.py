"""`Storage`: Optuna's storage of a study's searches, in SQLite or PostgreSQL."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from mil_toolkit.core.errors import UsageError, import_extra
from mil_toolkit.core.files import digest, publish
from mil_toolkit.core.locks import CLAIM, exclusive

HEARTBEAT, GRACE = 15, 120  # seconds: a trial on a shared storage that was silent for longer is held for dead
PATIENCE = 120  # seconds that SQLite waits for another writer
DATABASE = "optuna.db"


class Storage:
    """Where the searches of a study keep their trials.

    Embedded (SQLite in the study folder): for one command with its workers, who hold the folder's lock, so that what
    others left running is dead. Shared (PostgreSQL): for any number of commands on any number of machines; a trial
    is dead whose process was silent for GRACE seconds. Raises UsageError where it cannot be reached.
    """

    def __init__(self, folder: Path, url: str | None = None):
        self.folder, self.shared = folder.resolve(), url is not None
        self._engines: list[sqlalchemy.Engine] = []
        self._path = folder / DATABASE
        self._url = sqlalchemy.URL.create("sqlite", database=str(self._path))
        if url is not None:
            self._url = postgresql(url)
            self._engine = sqlalchemy.create_engine(self._url, pool_pre_ping=True)
            self._engines.append(self._engine)
        with self.told(), self.alone():  # or two processes would make the tables at once
            self.optuna = self._open()

    def __str__(self) -> str:
        """Where it is, without anything that may be secret."""
        if not self.shared:
            return str(self._url.database)
        return f"database {self._url.database!r} at {self._url.host or 'localhost'}"

    def _open(self) -> optuna.storages.BaseStorage:
        url = self._url.render_as_string(hide_password=False)
        kept = {"connect_args": {"timeout": PATIENCE}} if not self.shared else {"pool_pre_ping": True}
        beat, grace = (HEARTBEAT, GRACE) if self.shared else (None, None)
        if not (self.shared or self._path.exists()):
            publish(self._path, _empty_database())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = optuna.storages.RDBStorage(url, kept, heartbeat_interval=beat, grace_period=grace)
        self._engines.append(storage.engine)
        return storage

    def name_of(self, search: str) -> str:
        """A search's name in the storage: a shared one holds many studies, told apart by their folders' names."""
        return f"{self.folder.name}/{search}" if self.shared else search

    @contextlib.contextmanager
    def alone(self) -> Iterator[Callable[[], None]]:
        """Keep all other processes of the study, on whichever machine, from claiming; waits for one that does.

        Yields a function that lets go before the block ends.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(exclusive(self.folder, CLAIM, wait=True))
            if self.shared:
                connection = stack.enter_context(self._engine.begin())
                # A machine that falls silent just here must not stop the others for good.
                connection.execute(sqlalchemy.text("set local idle_in_transaction_session_timeout = '60s'"))
                key = int(digest(self.folder.name.encode())[:15], 16)
                connection.execute(sqlalchemy.text("select pg_advisory_xact_lock(:key)"), {"key": key})
            yield stack.close

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Make a database's error one that says what to do; connections are let go at the end."""
        try:
            yield
        except (StorageInternalError, SQLAlchemyError) as error:
            advice = "What was complete stays: see to it and run the same command again."
            raise UsageError(f"{self} cannot be used: {_reason(error)}. {advice}") from None
        finally:
            for engine in self._engines:
                engine.dispose()


class InMemory(Storage):
    """For searches that nobody goes on with."""

    def __init__(self) -> None:
        self.shared = False
        self.optuna = optuna.storages.InMemoryStorage()

    @contextlib.contextmanager
    def alone(self) -> Iterator[Callable[[], None]]:
        """There are no others."""
        yield lambda: None


def _empty_database() -> bytes:
    """SQLite's file before the first trial, to be published whole.

    Where a stop left it without the index that keeps names unique, each run would begin all searches anew.
    """
    with contextlib.closing(optuna.storages.RDBStorage("sqlite://").engine.raw_connection()) as connection:
        driver: Any = connection.driver_connection
        return bytes(driver.serialize())


def postgresql(text: str) -> sqlalchemy.URL:
    """The address of a shared storage; raises UsageError where it is none, or psycopg is missing."""
    form = "postgresql://USER@HOST/DATABASE"
    try:
        url = sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):  # whose message may hold a part of the password
        raise UsageError(f"--storage is not of the form {form}.") from None
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise UsageError(
            f"--storage takes {form}, not {url.drivername}. Without it the study folder keeps the trials itself."
        )
    import_extra("psycopg", "postgres", "--storage")
    return url.set(drivername="postgresql+psycopg")


def _reason(error: BaseException) -> str:
    """What the driver said; SQLAlchemy's own text also holds the statement with its values."""
    driver = getattr(error, "orig", None)
    if driver is None and error.__cause__ is not None:
        return _reason(error.__cause__)
    return str(error if driver is None else driver).strip().partition("\n")[0].rstrip(".")
