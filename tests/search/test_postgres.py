"""Many processes, as on many machines, on one PostgreSQL server, which the tests start themselves."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import psycopg
import pytest
from optuna.trial import TrialState
from support.processes import CommandServer, serving, wait_until

from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.search.internals import SLOT

PASSWORD = secrets.token_hex(8)
TRIALS, OUTER = 50, 3
OPTIONS = ["--features", "none", "--trials", TRIALS, "--outer-folds", OUTER, "--folds", 2, "--members", 1]
OPTIONS += ["--epochs", 2, "--sampler", "random", "--device", "cpu"]


def as_postgres(*argv: object) -> None:
    """The server's programs refuse to run as root."""
    user = [] if os.geteuid() else ["runuser", "-u", "postgres", "--"]
    subprocess.run([*user, *map(str, argv)], check=True, stdout=subprocess.DEVNULL, cwd="/")


@pytest.fixture(scope="module", name="database")
def _database() -> Iterator[str]:
    """host:port of a server of one's own."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no PostgreSQL: apt-get install postgresql")
    bin_folder = programs[-1].parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp())  # which its own user can reach
    (folder / "password").write_text(PASSWORD)
    if not os.geteuid():
        shutil.chown(folder, "postgres"), shutil.chown(folder / "password", "postgres")
    data = folder / "data"
    auth = ["--auth-host", "scram-sha-256", "--auth-local", "reject", "--pwfile", folder / "password"]
    as_postgres(bin_folder / "initdb", "-D", data, "-U", "tuner", "--no-sync", *auth)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
    as_postgres(bin_folder / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-o", options, "start")
    try:
        yield f"127.0.0.1:{port}"
    finally:
        as_postgres(bin_folder / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(name="url")
def _url(database: str) -> str:
    """An empty database."""
    name = f"db{secrets.token_hex(4)}"
    server = f"postgresql://tuner:{PASSWORD}@{database}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    return f"{server}/{name}"


@dataclass(frozen=True)
class Server(CommandServer):
    """Starts real processes that run mil-tune on the metadata of a cohort."""

    toml: Path

    def start(self, study: Path, url: str, *more: object, log: str = "log") -> int:
        study.parent.mkdir(parents=True, exist_ok=True)
        argv = [str(each) for each in (self.toml, "--study", study, *OPTIONS, "--storage", url, *more)]
        return self.ask(argv=argv, env={}, log=str(study.parent / log), fault=[])

    def run(self, study: Path, url: str, *more: object) -> int:
        return self.wait(self.start(study, url, *more))


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("postgres")
    toml = draw_cohort(folder / "cohort", patients=24, unlabelled=0, image_size=8, images=(1, 2))
    with serving("tune_server.py") as process:
        server = Server(process, toml)
        argv = (toml, "--study", folder / "first", *OPTIONS, "--trials", 1)
        assert server.run_here(argv, folder / "log") == 0
        yield server


def trials(url: str) -> dict[str, list[optuna.trial.FrozenTrial]]:
    storage = optuna.storages.RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
    names = optuna.get_all_study_names(storage)
    found = {name: optuna.load_study(study_name=name, storage=storage).trials for name in names}
    storage.remove_session()
    storage.engine.dispose()
    return found


def finished(url: str) -> int:
    """Trials that came to their end; none before there is a table."""
    with psycopg.connect(url) as connection, contextlib.suppress(psycopg.errors.UndefinedTable):
        row = connection.execute(
            "select count(*) from trials where state in ('COMPLETE', 'PRUNED')"
        ).fetchone()
        return int(row[0]) if row else 0
    return 0


def test_eight_processes_share_two_hundred_trials_and_three_of_them_are_killed(
    server: Server, url: str, tmp_path: Path
) -> None:
    """Four in each of two folders, as on two machines. None is lost, none is run twice."""
    folders = [tmp_path / machine / "study" for machine in ("one", "two")]
    assert server.run(folders[0], url, "--trials", 3, "--study", tmp_path / "first" / "other") == 0
    begun = finished(url)
    processes = [server.start(folders[each % 2], url, log=f"{each}.log") for each in range(8)]
    for victim, share in zip((1, 2, 5), (30, 70, 110), strict=True):
        wait_until(lambda: finished(url) - begun >= share, minutes=30)  # noqa: B023 - called at once
        os.kill(processes[victim], signal.SIGKILL)
    codes = [server.wait(each) for each in processes]
    logs = "\n".join(path.read_text() for path in tmp_path.glob("*/*.log"))
    assert codes == [-signal.SIGKILL if each in (1, 2, 5) else 0 for each in range(8)], logs
    found = {name: each for name, each in trials(url).items() if name.startswith("study/")}
    assert len(found) == OUTER + 1
    for each in found.values():
        done = [trial for trial in each if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        assert Counter(trial.user_attrs[SLOT] for trial in done) == Counter(range(TRIALS))
    states = Counter(trial.state for each in found.values() for trial in each)
    assert states.keys() <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert states[TrialState.FAIL] <= 3
    for name in ("trials.csv", "best.json", "predictions.csv", "scores.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert PASSWORD not in logs
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


def test_a_machine_with_other_data_or_options_is_refused(server: Server, url: str, tmp_path: Path) -> None:
    few = ("--trials", 2, "--outer-folds", 0)
    assert server.run(tmp_path / "one" / "study", url, *few) == 0
    begun = finished(url)
    assert server.run(tmp_path / "two" / "study", url, *few, "--seed", 7) == 3
    said = (tmp_path / "two" / "log").read_text()
    assert "study.seed: 0 there, 7 now." in said and "Traceback" not in said and PASSWORD not in said
    other = draw_cohort(tmp_path / "cohort", patients=24, unlabelled=0, image_size=8, images=(1, 2), seed=5)
    argv = [str(each) for each in (other, "--study", tmp_path / "three" / "study", *OPTIONS, *few)]
    (tmp_path / "three").mkdir()
    process = server.ask(
        argv=[*argv, "--storage", url], env={}, log=str(tmp_path / "three" / "log"), fault=[]
    )
    assert server.wait(process) == 3 and "cohort.digest" in (tmp_path / "three" / "log").read_text()
    assert finished(url) == begun
    assert (
        server.run(tmp_path / "two" / "another", url, *few, "--seed", 7) == 0
    )  # another name, another study


def test_two_commands_with_different_settings_at_once(server: Server, url: str, tmp_path: Path) -> None:
    """One of them begins the study, in the folder and in the storage; the other one is refused."""
    for folders in (["same", "same"], ["one", "two"]):
        studies = [tmp_path / folder / f"study-{folders[0]}" for folder in folders]
        few = ("--trials", 2, "--outer-folds", 0, "--seed")
        both = [server.start(each, url, *few, seed, log=f"{seed}.log") for seed, each in enumerate(studies)]
        codes = [server.wait(each) for each in both]
        assert sorted(codes) == [0, 3]
        refused = codes.index(3)
        said = (studies[refused].parent / f"{refused}.log").read_text()
        assert "describes another study" in said and f"{refused} now" in said


def test_an_embedded_run_keeps_out_of_a_shared_one(server: Server, url: str, tmp_path: Path) -> None:
    study = tmp_path / "study"
    process = server.start(study, url)
    wait_until(lambda: finished(url) > 0)
    argv = [str(each) for each in (server.toml, "--study", study, *OPTIONS)]
    assert server.wait(server.ask(argv=argv, env={}, log=str(tmp_path / "other"), fault=[])) == 75
    os.kill(process, signal.SIGTERM)
    assert server.wait(process) == 130
    assert not [each for each in trials(url)["study/repeat1-fold1"] if each.state is TrialState.RUNNING]


def test_the_password_may_come_from_a_file(server: Server, url: str, tmp_path: Path) -> None:
    place, name = url.partition("@")[2].split("/")
    (tmp_path / "pgpass").write_text(f"{place}:{name}:tuner:{PASSWORD}\n")
    (tmp_path / "pgpass").chmod(0o600)
    few = ("--trials", "1", "--outer-folds", "0", "--storage", f"postgresql://tuner@{place}/{name}")
    argv = [str(each) for each in (server.toml, "--study", tmp_path / "study", *OPTIONS, *few)]
    env = {"PGPASSFILE": str(tmp_path / "pgpass")}
    process = server.ask(argv=argv, env=env, log=str(tmp_path / "log"), fault=[])
    assert server.wait(process) == 0 and finished(url) == 1


@pytest.mark.parametrize("wrong", ["password", "port"])
def test_a_server_that_cannot_be_reached_is_told(
    wrong: str, server: Server, url: str, tmp_path: Path
) -> None:
    bad = (
        url.replace(PASSWORD, "hunter2") if wrong == "password" else "postgresql://me:hunter2@127.0.0.1:9/db"
    )
    assert server.run(tmp_path / "study", bad) == 2
    said = (tmp_path / "log").read_text()
    assert "cannot be used" in said and "Traceback" not in said and "hunter2" not in said
