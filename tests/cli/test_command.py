"""What all commands share: help, output, errors and exit codes."""

import errno
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from support.commands import Command
from support.paths import COMMANDS
from support.studies import Tiny
from support.users import as_nobody, needs_root

import mil_toolkit
from mil_toolkit.cli import command as frame
from mil_toolkit.core.errors import BusyError, DataError, UsageError
from mil_toolkit.core.verbosity import bars_disabled, heading

EditCohort = Callable[[Callable[[pd.DataFrame], object]], Path]


def no_traceback(text: str) -> bool:
    return "Traceback" not in text and "bug in mil_toolkit" not in text


# Help.


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_the_command_does(name: str, command: Command) -> None:
    done = command(name, "--help")
    assert done.code == 0 and done.err == ""
    assert done.out.startswith(f"usage: mil-{name} ")
    assert all(f"{option} " in done.out for option in ("--json", "--quiet", "--verbose", "--version"))
    assert "(default: None)" not in done.out and "(default: [])" not in done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_loads_nothing_heavy(name: str) -> None:
    """What makes help answer at once; the time itself depends on the machine."""
    script = f"""
import sys
from mil_toolkit.cli.{name} import main
try:
    main(["--help"])
except SystemExit:
    heavy = {{"torch", "numpy", "pandas", "optuna", "sklearn", "PIL", "h5py"}} & set(sys.modules)
    sys.exit(f"help loads {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_knows_its_version(name: str, command: Command) -> None:
    done = command(name, "--version")
    assert (done.code, done.out, done.err) == (0, f"mil-{name} {mil_toolkit.__version__}\n", "")


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return what a command that logs two messages says on stderr."""

    def work(_: object) -> frame.Outcome:
        logging.getLogger("mil_toolkit.study.run").info("progress")
        logging.getLogger("mil_toolkit.study.run").warning("doubt")
        return frame.Outcome("result", {})

    assert frame.run(frame.command_parser("mil-x", ""), work, argv) == 0
    out, err = capsys.readouterr()
    assert out == "result\n"
    return err


def test_quiet_commands_show_only_warnings_and_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys) == "progress\ndoubt\n" and bars_disabled() is None
    assert said(capsys, "--quiet") == "doubt\n" and bars_disabled() is True
    assert said(capsys) == "progress\ndoubt\n" and bars_disabled() is None


def test_verbose_commands_show_versions_the_command_and_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "--verbose").splitlines()
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines[1:]] == ["progress", "doubt"]
    assert re.fullmatch(
        rf"\d\d:\d\d:\d\d mil_toolkit {mil_toolkit.__version__}, Python .+: mil-x --verbose", lines[0]
    )


@pytest.mark.parametrize(
    "rest",
    [
        "mil:s3cret@host:5432/db",
        "mil:s3@cret@host/db",
        "mil:s3:cret@host/db",
        "mil:s3/cret@host/db",
        "mil:s3 cret@host/db",
        "mil:s3\ncret@host/db",
        "mil:s3'cret@host/db",
        "mil:s3://cret@host/db",
        "mil@host/db?user=mil&password=s3cret",
        "/db?password=s3cret",
    ],
)
@pytest.mark.parametrize("option", [["--storage"], []], ids=["apart", "joined"])
def test_no_password_is_shown(option: list[str], rest: str) -> None:
    url = [*option, f"postgresql://{rest}"] if option else [f"--storage=postgresql://{rest}"]
    text = heading("mil-tune", ["c.toml", *url, "--study", "s"])
    assert "s3" not in text and "cret" not in text
    assert re.search(r": mil-tune c\.toml '?--storage[ =]'?\*\*\*'? --study s$", text)


@pytest.mark.parametrize("option", ["--storage", "--stor"])
@pytest.mark.parametrize("value", ["postgresql:/mil:s3cret@host/db", "mil:s3cret@host/db", "s3cret"])
def test_no_password_is_shown_of_a_mistyped_storage(option: str, value: str) -> None:
    for words in ([option, value], [f"{option}={value}"]):
        text = heading("mil-tune", [*words, "c.toml", "--study", "--storage-like"])
        assert "s3" not in text and "cret" not in text and text.endswith(" c.toml --study --storage-like")


def test_what_follows_the_scheme_of_other_urls_is_hidden() -> None:
    assert heading("mil-x", ["http://me:pw@host", "a=b"]).endswith(": mil-x 'http://***' a=b")


def test_quiet_and_verbose_exclude_each_other(command: Command) -> None:
    assert command("report", "study", "--quiet", "--verbose").code == 2
    for first, second in (("--quiet", "--verbose"), ("--verbose", "--quiet")):
        for call in (
            (first, "info", "x", second),
            ("info", "x", first, second),
            (first, second, "info", "x"),
        ):
            done = command("cache", *call)
            assert done.code == 2 and "not allowed with argument" in done.err


def test_the_actions_of_the_cache_may_be_quiet_too(tiny: Tiny, command: Command) -> None:
    assert command("cache", "info", tiny.features, "--quiet").code == 0
    assert command("cache", "--quiet", "info", tiny.features).code == 0


def test_no_output_has_colours() -> None:
    """So NO_COLOR needs no code: no module writes the escape sequences that colour a terminal."""
    package = Path(mil_toolkit.__file__).parent
    users = [path.name for path in package.rglob("*.py") if re.search(r"\\(x1b|033|e)\[", path.read_text())]
    assert sorted(users) == ["text.py"]  # which escapes such sequences


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_a_usage_error(name: str, command: Command) -> None:
    done = command(name, "--no-such-option")
    assert done.code == 2 and done.out == "" and done.err.startswith(f"usage: mil-{name} ")


# The frame: errors and exit codes.


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("That cannot work."), 2),
        (DataError(["row 3: one.", "row 5: another."]), 3),
        (BusyError("Try again."), 75),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_printed_without_a_traceback(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> frame.Outcome:
        raise error

    assert frame.run(frame.command_parser("mil-test", "A test."), fail, []) == code
    out, err = capsys.readouterr()
    assert out == "" and no_traceback(err)
    assert err == f"mil-test: {str(error) or 'interrupted'}\n"


def test_an_interrupt_is_recognised_behind_an_error_of_a_library(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> frame.Outcome:
        try:
            raise KeyboardInterrupt
        finally:
            raise UnboundLocalError("updated_state")  # as optuna does if it is interrupted between two lines

    assert frame.run(frame.command_parser("mil-test", "A test."), fail, []) == 130
    assert capsys.readouterr().err == "mil-test: interrupted\n"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_command_that_is_ending(sent: signal.Signals) -> None:
    """Python prints no traceback of its exit handlers."""
    script = f"""
import atexit, os, sys
from mil_toolkit.cli import command
def stop(_):
    os.kill(os.getpid(), {int(sent)})
atexit.register(stop, None)
sys.exit(command.run(command.command_parser("mil-test", "A test."), stop, []))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-sent, "mil-test: interrupted\n")


@pytest.mark.parametrize("full", [False, True], ids=["closed", "full"])
def test_a_stdout_that_cannot_be_written_shows_no_traceback(full: bool) -> None:
    script = """
import sys
from mil_toolkit.cli import command
told = command.Outcome("done", {}, 4)
sys.exit(command.run(command.command_parser("mil-test", "A test."), lambda _: told, []))
"""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed, open("/dev/full", "w") as device:
        stdout = device if full else closed
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )
    said = "mil-test: done, but stdout cannot be written: No space left on device.\n"
    assert (done.returncode, done.stderr) == ((2, said) if full else (4, ""))


CLOSED = {
    "success": ("return command.Outcome('done', {}, 0)", 0),
    "an error of the user": ("raise DataError('row 3: one.')", 3),
    "a bug": ("raise ZeroDivisionError", 1),
    "an interrupt": ("raise KeyboardInterrupt", 130),
    "warnings": (
        "for _ in range(99): logging.getLogger('mil_toolkit').warning('no')\n    "
        + "return command.Outcome('done', {}, 4)",
        4,
    ),
}


@pytest.mark.parametrize("what", CLOSED)
@pytest.mark.parametrize("streams", ["both into a closed pipe", "stderr into a closed pipe", "stderr closed"])
def test_a_reader_that_is_gone_does_not_change_the_exit_code(what: str, streams: str) -> None:
    """As after `2>&1 | head -1`. Nothing meant for stderr goes to stdout."""
    body, code = CLOSED[what]
    script = f"""
import logging, sys, warnings
from mil_toolkit.cli import command
from mil_toolkit.core.errors import DataError
def work(_):
    {body}
sys.exit(command.run(command.command_parser("mil-test", "A test."), work, []))
"""
    reader, writer = os.pipe()
    os.close(reader)
    call = ["sh", "-c", 'exec "$0" -c "$1" 2>&-' if streams == "stderr closed" else 'exec "$0" -c "$1"']
    with open(writer, "w") as closed:
        stdout = closed if streams.startswith("both") else subprocess.PIPE
        done = subprocess.run([*call, sys.executable, script], stdout=stdout, stderr=closed, check=False)
    assert done.returncode == code
    assert done.stdout in (None, b"done\n" if "Outcome" in body else b"")


@pytest.mark.parametrize(("arguments", "code"), [("--help", 0), ("--no-such-option", 2)])
def test_help_may_be_cut_off(arguments: str, code: int) -> None:
    """As by `mil-extract --help | head -1`, and so may the message about a wrong option."""
    script = "import sys; from mil_toolkit.cli.extract import main; sys.exit(main())"
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        call = [sys.executable, "-c", script, arguments]
        assert subprocess.run(call, stdout=closed, stderr=closed, check=False).returncode == code
        done = subprocess.run(call, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_bug_shows_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> frame.Outcome:
        raise ZeroDivisionError("never meant to happen")

    assert frame.run(frame.command_parser("mil-test", "A test."), fail, []) == 1
    assert "Traceback" in (err := capsys.readouterr().err)
    assert "this is a bug in mil_toolkit, not a problem with your data." in err


# The terminal.


def run_test(work: Callable[[object], object], *argv: str) -> int:
    parser = frame.command_parser("mil-test", "A test.")
    parser.add_argument("paths", nargs="*", type=Path)
    return frame.run(parser, work, list(argv))  # type: ignore[arg-type]


def raising(error: BaseException) -> Callable[[object], object]:
    def work(_: object) -> object:
        raise error

    return work


HOSTILE = "a\x1b[31m\x07\r\x9b\u202e\u2028\x7f\udcffz"


@pytest.mark.parametrize("where", ["error", "bug", "log", "result", "argument"])
def test_no_text_reaches_the_terminal_that_it_may_act_on(
    where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_: object) -> frame.Outcome:
        if where == "log":
            logging.getLogger("mil_toolkit").warning("%s", HOSTILE)
        return frame.Outcome(f"first\n{HOSTILE}\tlast", {})

    if where == "argument":
        with pytest.raises(SystemExit):
            run_test(work, f"--{HOSTILE}")
    else:
        errors = {"error": DataError(HOSTILE), "bug": ValueError(HOSTILE)}
        run_test(raising(errors[where]) if where in errors else work)
    out, err = capsys.readouterr()
    assert all(character.isprintable() or character in "\n\t" for character in out + err)
    assert r"a\x1b[31m\x07\r\x9b\u202e\u2028\x7f\udcffz" in out + err


def test_words_in_any_language_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    run_test(raising(DataError("Zo\u00eb \u674e\u660e \u00a0\u2026")))
    assert "Zo\u00eb \u674e\u660e \u00a0\u2026" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [DataError, UsageError])
def test_many_problems_fill_at_most_a_screen(
    kind: Callable[[str], Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_test(raising(kind("\n".join(f"key {number}" for number in range(200_000))))) in (2, 3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 40 and lines[-2] == "... and 199961 more problems ..."
    assert lines[0].endswith("key 0") and lines[-1] == "key 199999"
    run_test(raising(kind(", ".join(map(str, range(200_000))))))
    assert len(capsys.readouterr().err) < 1000


def test_the_error_itself_keeps_all_problems() -> None:
    assert len(DataError([str(number) for number in range(200_000)]).problems) == 200_000


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"}, {}])
def test_a_locale_without_the_characters_of_a_message_shows_them_escaped(locale: dict[str, str]) -> None:
    script = """
import sys
from mil_toolkit.cli import command
outcome = command.Outcome("caf\\u00e9 \\u674e", {}, 4)
sys.exit(command.run(command.command_parser("mil-test", "A \\u674e test."), lambda _: outcome, sys.argv[1:]))
"""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"}
    environment = inherited | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} | locale
    call = [sys.executable, "-X", "utf8=0", "-c", script]
    done = subprocess.run(call, capture_output=True, check=False, env=environment)
    accent = b"\xe9" if locale.get("PYTHONIOENCODING") == "latin-1" else b"\\xe9"
    assert (done.returncode, done.stdout, done.stderr) == (4, b"caf" + accent + b" \\u674e\n", b"")
    helped = subprocess.run([*call, "--help"], capture_output=True, check=False, env=environment)
    assert helped.returncode == 0 and b"A \\u674e test." in helped.stdout


# Files that cannot be used.


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_an_argument_that_cannot_be_a_path_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_test(raising(ZeroDivisionError()), "fine", name) == 2
    assert "cannot be the path of a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EACCES, 2, "permission denied"),
        (errno.ELOOP, 3, "Too many levels"),
        (errno.ENAMETOOLONG, 3, "File name too long"),
        (errno.EIO, 3, "Input/output error"),
    ],
)
def test_a_file_that_the_system_refuses_is_not_a_bug(
    number: int, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OSError(number, os.strerror(number), str(tmp_path / "file"))
    assert run_test(raising(error)) == code
    err = capsys.readouterr().err
    assert no_traceback(err) and words in err and str(tmp_path / "file") in err


def test_an_error_of_the_system_without_a_file_is_a_bug() -> None:
    assert run_test(raising(OSError(errno.EINVAL, "Invalid argument"))) == 1


@needs_root
def test_a_folder_that_may_not_be_searched_is_named_with_its_owner(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with tempfile.TemporaryDirectory() as name:  # everyone may search its parents
        folder = Path(name) / "private"
        folder.mkdir(mode=0o700)
        Path(name).chmod(0o755)
        text = as_nobody(lambda: frame._explained(caught(lambda: (folder / "x").stat())))
    assert "private/x cannot be read: permission denied" in text and "Ask root for permission" in text


def caught(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except OSError as error:
        return error
    raise AssertionError


# The results.


def test_init_reads_a_table_and_writes_a_cohort(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    cohort, output = tiny.cohort_toml.parent, tmp_path / "cohort.toml"
    done = command("init", cohort / "patients.csv", cohort / "images", "--output", output, "--json")
    assert done.code == 0 and output.is_file()
    assert done.json["output"] == str(output) and done.json["patients"] == 27
    assert {"doubts", "problems"} <= done.json.keys()


def test_extract_prints_only_the_cache_folder(tiny: Tiny, command: Command) -> None:
    options = ("--backbone", "resnet18", "--weights", "random", "--image-size", 32)
    done = command("extract", tiny.cohort_toml, *options, "--cache", tiny.folder / "cache")
    assert done.code == 0 and done.out == f"{tiny.features}\n"
    assert "27 patients" in done.err and ": 0 embedded, 0 skipped" in done.err


def test_extract_prints_json(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    options = ("--backbone", "resnet18", "--weights", "random", "--image-size", 32, "--dry-run", "--json")
    told = command("extract", tiny.cohort_toml, *options, "--cache", tmp_path).json
    assert told["patients"] == 27 and told["images"] == told["extracted"] > 27
    assert told["skipped"] == [] and told["images_per_second"] >= 0
    assert Path(told["features"]).name == tiny.features.name


def test_an_unreadable_image_is_named_or_skipped(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort")
    broken = tmp_path / "cohort" / "images" / "P002" / "000.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    options = ("--backbone", "resnet18", "--weights", "random", "--image-size", 32, "--cache", tmp_path / "c")
    failed = command("extract", tmp_path / "cohort" / "cohort.toml", *options)
    assert failed.code == 3 and failed.out == "" and no_traceback(failed.err)
    assert "P002/000.jpg" in failed.err
    done = command("extract", tmp_path / "cohort" / "cohort.toml", *options, "--on-error", "skip", "--json")
    assert done.code == 4
    assert [line for line in done.json["skipped"] if "P002/000.jpg" in line] == done.json["skipped"] != []


def test_fit_and_predict_print_json(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    common = (tiny.cohort_toml, "--features", tiny.features, "--json")
    fitted = command("fit", *common, "--study", tiny.study, "--output", tmp_path / "model").json
    assert fitted["bundle"] == str(tmp_path / "model") and fitted["members"] == 2
    assert 1 <= fitted["epochs"] <= 3 and 0 < fitted["threshold"] < 1
    told = command("predict", tmp_path / "model", *common, "--output", tmp_path / "p.csv").json
    assert told["predictions"] == str(tmp_path / "p.csv") and told["patients"] == 27


def test_features_may_be_left_out_if_there_is_one_cache(
    tiny: Tiny, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.folder)
    done = command("fit", tiny.cohort_toml, "--study", tiny.study, "--output", tmp_path / "model")
    assert done.code == 0


# What goes wrong.


def wrong_calls(tiny: Tiny, tmp: Path) -> dict[str, tuple[int, str, tuple[object, ...]]]:
    """Return, by what is wrong, the exit code, words of the message, and the call."""
    toml, features, empty = tiny.cohort_toml, ("--features", tiny.features), tmp / "empty"
    empty.mkdir()
    tune = ("tune", toml, *features, "--study", tmp / "study")
    return {
        "no cohort": (3, "nowhere.toml", ("tune", tmp / "nowhere.toml", "--study", tmp / "study")),
        "no cache": (
            3,
            "is not a feature cache",
            ("tune", toml, "--features", empty, "--study", tmp / "study"),
        ),
        "no study": (
            3,
            "is not a study folder: it has no config.json",
            ("fit", toml, *features, "--study", empty),
        ),
        "no bundle": (3, "config.json", ("predict", empty, toml, *features)),
        "no table": (3, "nowhere.csv", ("init", tmp / "nowhere.csv", empty)),
        "wrong settings": (2, "--set poling=mean", (*tune, "--set", "poling=mean", "--set", "hidden=x")),
        "no trials": (2, "--trials must be at least 1", (*tune, "--trials", 0)),
        "no epochs": (2, "--epochs must be at least 1, not 0.", (*tune, "--epochs", 0)),
        "one outer fold": (2, "--outer-folds must be 0", (*tune, "--outer-folds", 1)),
        "many folds": (3, "fold", (*tune, "--folds", 20)),
        "intervals in a grid": (2, "learning_rate", (*tune, "--sampler", "grid")),
        "unknown device": (2, "--device 'tpu'", (*tune, "--device", "tpu")),
        "absent card": (2, "cuda:7", (*tune, "--device", "cuda:7")),
        "nothing to look at": (
            2,
            "neither images nor metadata",
            (*tune, "--set", "image_branch=false", "--set", "metadata_branch=none"),
        ),
        "unknown backbone": (2, "resnet", ("extract", toml, "--backbone", "resnet99", "--cache", tmp / "c")),
        "unknown weights": (
            2,
            "nowhere.pth",
            ("extract", toml, "--weights", "nowhere.pth", "--cache", tmp / "c"),
        ),
        "unknown share": (
            2,
            "--shard",
            ("extract", toml, "--weights", "random", "--shard", "5/2", "--cache", tmp / "c"),
        ),
        "submission header": (
            2,
            "--submission-header",
            ("predict", tiny.bundle, toml, "--submission-header", "ID"),
        ),
        "demo over something": (2, "not an empty folder", ("demo", "--output", tiny.folder)),
    }


WRONG = (
    "no cohort",
    "no cache",
    "no study",
    "no bundle",
    "no table",
    "wrong settings",
    "no trials",
    "no epochs",
    "one outer fold",
    "many folds",
    "intervals in a grid",
    "unknown device",
    "absent card",
    "nothing to look at",
    "unknown backbone",
    "unknown weights",
    "unknown share",
    "submission header",
    "demo over something",
)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_mistake_gives_a_clear_message(wrong: str, tiny: Tiny, tmp_path: Path, command: Command) -> None:
    code, words, call = wrong_calls(tiny, tmp_path)[wrong]
    done = command(*call)
    assert (done.code, done.out) == (code, "")
    assert no_traceback(done.err) and words in done.err
    assert done.err.startswith(f"mil-{call[0]}: ")
    assert not (tmp_path / "study" / "DONE").exists()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("extract", ("--backbone", "resnet19"), "--backbone 'resnet19' is not one of"),
        ("extract", ("--weights", "nowhere.pth"), "there is no such file"),
        ("extract", ("--shard", "0/3"), "--shard '0/3'"),
        (
            "extract",
            ("--image-size", 0, "--workers", -1),
            "--image-size must be at least 32, not 0.\n--workers",
        ),
        ("extract", ("--threads", 0), "--threads must be between 1 and "),
        ("extract", ("--threads", -1), "the cores of this process, not -1."),
        ("extract", ("--threads", 10**6), "the cores of this process, not 1000000."),
        ("extract", ("--threads", "many"), "argument --threads: invalid int value: 'many'"),
        ("extract", ("--device", "tpu"), "--device 'tpu'"),
        ("tune", ("--study", "s", "--device", "tpu"), "--device 'tpu'"),
        ("fit", ("--study", "s", "--device", "tpu"), "--device 'tpu'"),
        ("ablate", ("--study", "s", "--device", "tpu"), "--device 'tpu'"),
    ],
)
def test_options_are_checked_before_the_cohort_is_read(
    name: str, options: Sequence[object], words: str, tmp_path: Path, command: Command
) -> None:
    done = command(name, tmp_path / "nowhere.toml", *options)
    assert done.code == 2 and words in done.err and "nowhere.toml" not in done.err


def test_every_bad_cell_is_named_at_once(edit_cohort: EditCohort, tmp_path: Path, command: Command) -> None:
    def spoil(table: pd.DataFrame) -> None:
        table.loc[2, "BIRTH"] = "1950-01-31"
        table.loc[5, "DIAGNOSIS"] = "unsure"

    toml = edit_cohort(spoil)
    for name in ("extract", "tune"):
        done = command(name, toml, *(("--study", tmp_path / "s") if name == "tune" else ()))
        assert done.code == 3 and done.out == "" and no_traceback(done.err)
        for words in ("row 4", "P003", "1950-01-31", "row 7", "P006", "unsure"):
            assert words in done.err
