"""Completion: a shell asks the programs themselves, which answer without loading anything heavy."""

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.commands import Command
from support.paths import COMMANDS, ROOT, installed, needed

from mil_toolkit.cli import mil
from mil_toolkit.core.completion import file_names

HEAVY = {"torch", "numpy", "pandas", "optuna", "sklearn", "scipy", "h5py", "matplotlib", "PIL"}
PROGRAM = """#!{python}
import sys
sys.path.insert(0, {root!r})
from mil_toolkit.cli.{module} import main
sys.exit(main())
"""
# What readline does when the tab key is pressed at the end of a line. The last word is split at = and :, too.
PRESS = r"""
eval "$(mil --completion bash)"
compopt() { :; }
for line; do
    COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMPREPLY=()
    words=${line//[=:]/ & }
    [[ $words == *[[:space:]] ]] && words+='""'
    eval "COMP_WORDS=($words)"
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    [[ $(complete -p "${COMP_WORDS[0]}") =~ -F\ ([^ ]+) ]]
    "${BASH_REMATCH[1]}" "${COMP_WORDS[0]}"
    printf '%s\t' "${COMPREPLY[@]}"
    echo
done
"""
LINES = {
    "mil-extract --ba": ["--backbone", "--batch-size"],
    "mil extract --bac": ["--backbone"],
    "mil ex": ["extract"],
    "mil --completion ": ["bash", "zsh"],
    "mil-extract c.toml --precision=f": ["float16", "float32"],
    "mil-extract --backbone resn": ["resnet18", "resnet34", "resnet50"],
    "mil-extract --image-size ": [],
    "mil cache ver": ["verify"],
    "mil-cache import x --format ": ["bags", "clam", "stamp", "trident"],
    "mil-tune c.toml --set pooling=gated": ["gated-attention"],
    "mil-tune c.toml --features n": ["none"],
    "mil-extract co": ["cohort.toml"],
    "mil extract two": [r"two\ words.toml"],
    "mil-cache verify cache/": ["cache/lymph/"],
    "mil-report --output=coh": ["cohort.toml"],
    "mil train": [],
}


@pytest.fixture(scope="module", name="programs")
def _programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs `mil`, `mil-extract` and so on."""
    folder = tmp_path_factory.mktemp("programs")
    for name in ("mil", *(f"mil-{name}" for name in COMMANDS)):
        module = name.removeprefix("mil-")
        (folder / name).write_text(PROGRAM.format(python=sys.executable, root=str(ROOT), module=module))
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Path:
    """A folder with files to complete."""
    for name in ("cohort.toml", "two words.toml", ".hidden", "cache/lymph/spec.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def environment(programs: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


def pressed(lines: Iterable[str], programs: Path, place: Path) -> list[list[str]]:
    """Return what bash suggests for each of some lines."""
    installed("argcomplete")
    bash = needed(shutil.which("bash"), "bash")
    done = subprocess.run(
        [bash, "--norc", "-c", PRESS, "bash", *lines],
        env=environment(programs),
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [sorted(word.strip() for word in line.split("\t") if word) for line in done.stdout.splitlines()]


def test_bash_completes_options_values_and_files(programs: Path, place: Path) -> None:
    assert dict(zip(LINES, pressed(LINES, programs, place), strict=True)) == LINES


def test_all_commands_and_their_options_are_suggested(programs: Path, place: Path) -> None:
    commands, options, left = pressed(["mil ", "mil-fit --", "mil-fit --verbose --"], programs, place)
    assert {*COMMANDS} <= {*commands}
    assert {"--study", "--quiet", "--json", "--version"} <= {*options} and "--quiet" not in left


def test_the_tab_key_completes_a_line(programs: Path, place: Path) -> None:
    """In an interactive bash, as a user types it."""
    installed("argcomplete")
    bash = needed(shutil.which("bash"), "bash")
    ours, theirs = pty.openpty()
    typed = 'eval "$(mil --completion bash)"; shopt -u expand_aliases\nmil-extract --vers\t\n exit\n'
    with subprocess.Popen(
        [bash, "--norc", "--noprofile", "-i"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(programs),
        cwd=place,
        start_new_session=True,
        text=True,
    ) as shell:
        os.write(ours, typed.encode())
        assert shell.stdout
        assert shell.stdout.read().startswith("mil-extract ")
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    "line", ["mil-extract --ba", "mil-tune c.toml --set poo", "mil extract --ba", "mil "]
)
def test_completion_loads_nothing_heavy(line: str, tmp_path: Path) -> None:
    installed("argcomplete")
    module = line.split()[0].removeprefix("mil-")
    script = f"""
import os, sys
def leave(code):
    print(code, *sys.modules)
    sys.exit()
os._exit = leave
from mil_toolkit.cli.{module} import main
main()
"""
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    asked["_ARGCOMPLETE_STDOUT_FILENAME"] = str(tmp_path / "words")
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    code, *modules = done.stdout.split()
    assert code == "0" and "argcomplete" in modules and (tmp_path / "words").read_text()
    assert not {*modules} & {
        "torch",
        "numpy",
        "pandas",
        "optuna",
        "sklearn",
        "scipy",
        "h5py",
        "matplotlib",
        "PIL",
    }


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_registers_every_program(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    installed("argcomplete")
    assert mil.main(["--completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(f" mil-{name}" in script for name in COMMANDS)
    assert script.startswith("#compdef mil mil-")


def test_zsh_accepts_the_script(programs: Path, place: Path) -> None:
    installed("argcomplete")
    zsh = shutil.which("zsh") or pytest.skip("zsh is absent")
    script = 'autoload -U compinit; compinit -u; eval "$(mil --completion zsh)"; print ${_comps[mil-extract]}'
    done = subprocess.run(
        [zsh, "-f", "-c", script],
        env=environment(programs),
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "_python_argcomplete" and done.stderr == ""


# Without argcomplete.


@pytest.fixture(name="_absent")
def _without_argcomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete", None)


@pytest.mark.usefixtures("_absent")
def test_the_script_names_the_package_that_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        mil.main(["--completion", "bash"])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and "pip install 'mil_toolkit[completion]'" in err


@pytest.mark.usefixtures("_absent")
@pytest.mark.parametrize("line", ["mil-demo ", "mil demo "])
def test_a_program_that_cannot_answer_does_nothing(
    line: str, monkeypatch: pytest.MonkeyPatch, command: Command, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setenv("COMP_LINE", line)

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    name = line.split()[0].removeprefix("mil-")
    done = command(name)
    assert (done.code, done.out, done.err) == (1, "", "") and not [*tmp_path.iterdir()]


# File names.


def test_file_names_of_the_home_folder_and_of_missing_folders(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(place)
    assert [*file_names("~/co")] == ["~/cohort.toml"] and [*file_names("./co")] == ["./cohort.toml"]
    assert [*file_names("")] == ["cache/", "cohort.toml", "two words.toml"]
    assert [*file_names(".h")] == [".hidden"] and [*file_names("nowhere/x")] == []
