"""The documentation is correct and complete: its code runs, and it explains every option, key and file."""

import doctest
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image
from support.commands import Command
from support.parsers import actions, options, parser_of
from support.paths import COMMANDS, ROOT, configuration, needed
from support.studies import Tiny

from mil_toolkit.backbones.backbones import BACKBONES, build_backbone
from mil_toolkit.cli.command import INTERRUPTED
from mil_toolkit.cli.one_patient import UNLIKE
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.declaration import COHORT_KEYS, METADATA_KEYS, SECTIONS, SPLIT_KEYS, STUDY_KEYS
from mil_toolkit.cohort.kinds import KINDS
from mil_toolkit.config.metrics import METRIC_NAMES
from mil_toolkit.core.errors import MilError
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.features.export import export_cache
from mil_toolkit.model.poolings import POOLINGS
from mil_toolkit.report.page import write_report

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKING = [
    *DOCUMENTS,
    ROOT / "CHANGELOG.md",
    ROOT / "CODE_OF_CONDUCT.md",
    ROOT / "SECURITY.md",
    ROOT / ".github" / "CONTRIBUTING.md",
    *sorted((ROOT / "benchmarks").glob("*.md")),
]


def identity(document: Path) -> str:
    """Return the path of a document in the repository, which identifies its tests."""
    return document.relative_to(ROOT).as_posix()


# Options that make the documented commands fast. Larger numbers in the documentation are lowered to these.
QUICK: dict[str, dict[str, str]] = {
    "extract": {"--backbone": "resnet18", "--weights": "random", "--image-size": "32"},
    "fit": {"--epochs": "1"},
    "tune": {
        "--trials": "1",
        "--epochs": "2",
        "--folds": "2",
        "--outer-folds": "2",
        "--members": "1",
        "--workers": "1",
    },
}
# Beginnings of commands that are not run, and why. The options of our own commands are parsed all the same.
NOT_RUN = {
    "python3 -m venv": "creates an environment, as .ci/run does",
    "pip install": "installs packages; its extras are checked",
    "tox": "would run these tests recursively",
    "apt ": "needs the rights of an administrator",
    "source ": "changes the environment of a shell",
    "kaggle ": "needs an account",
    "mil-tune cohort.toml --storage": "needs a database server; test_postgres.py starts one",
    "mil-tune cohort.toml --tracker": "test_tracker.py runs it",
    "export ": "changes the environment of a shell",
    "eval ": "changes the environment of a shell; test_completion.py runs it",
    "wandb ": "needs an account",
    "optuna-dashboard ": "does not end; test_dashboard.py starts it",
    "docker ": "needs a Docker daemon; test_container.py reads the recipe",
    "apptainer ": "needs Apptainer; test_container.py reads the recipe",
    "sudo ": "needs the rights of an administrator",
    "ssh ": "needs another machine",
    "rsync ": "needs another machine",
    "unzip ": "unpacks the download from kaggle",
    "examples/founding_report.sh": "takes minutes; test_examples.py runs it",
    "examples/encoders.sh": "takes hours and downloads weights; test_examples.py runs it on other backbones",
    "mil-extract cohort.toml --backbone dinobloom-s": "needs its weights; test_encoder_models.py reads some",
    "mil-validate": "needs patients whom the model does not know; tests/cli/test_validate.py runs it",
    "mil-predict recalibrated": "needs a bundle of mil-validate; tests/cli/test_validate.py runs it",
    "mil-demo": "takes minutes; test_demo.py runs it on a smaller cohort",
}
MOST_BYTES = 150_000  # per picture
LAUNCHERS = re.compile(r"^(srun|torchrun .*--no-python) ")  # only the command behind them is run
FOREIGN = {
    "--no-python",
    "--nproc-per-node",
    "--array",
    "--index-url",
    "--no-deps",
}  # options of other programs


@dataclass(frozen=True)
class Block:
    """A fenced block: the place of its first line, its language and its text."""

    place: str
    language: str
    text: str


def blocks(document: Path, *languages: str) -> list[Block]:
    """Return the fenced blocks of a document in these languages, in order."""
    return [
        Block(f"{identity(document)}, line {token.map[0] + 2}", token.info.strip(), token.content)
        for token in MarkdownIt().parse(document.read_text())
        if token.type == "fence" and token.map and token.info.strip() in languages
    ]


# The commands.


@pytest.fixture(scope="module", name="sandbox")
def _sandbox(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the documentation names, from the data of a synthetic cohort, for tests to copy."""
    folder = tmp_path_factory.mktemp("sandbox")
    source = tiny.cohort_toml.parent
    shutil.copytree(source / "images", folder / "images")
    shutil.copy(source / "patients.csv", folder)
    shutil.copy(source / "cohort.toml", folder)
    (folder / "new_cohort.toml").symlink_to("cohort.toml")
    shutil.copytree(source, folder / "demo")
    shutil.copytree(tiny.study, folder / "demo" / "studies" / "demo")
    (folder / "demo" / "cache").symlink_to(tiny.features.parents[1])
    shutil.copytree(tiny.bundle, folder / "received_model")
    table = pd.read_csv(source / "patients.csv", dtype=str, keep_default_na=False)
    labels = table["DIAGNOSIS"].map({"tumoral": "1", "reactive": "0", "": "-1"})
    table.assign(DIAGNOSIS=labels).rename(
        columns={"DIAGNOSIS": "LABEL", "SEX": "GENDER", "BIRTH": "DOB", "LYMPHOCYTES": "LYMPH_COUNT"}
    ).assign(DOB=table["BIRTH"].str.replace("/", "-")).to_csv(folder / "clinical_annotation.csv", index=False)
    for root, part in (("trainset", labels != "-1"), ("testset", labels == "-1")):
        for patient in table.loc[part, "ID"]:
            (folder / root).mkdir(exist_ok=True)
            (folder / root / patient).symlink_to(Path("..") / "images" / patient)
    shutil.copy(ROOT / "examples" / "lymphocytosis.toml", folder)
    export_cache(tiny.cache, "trident", folder / "features_uni_v1")
    export_cache(tiny.cache, "clam", folder / "FEATURES_DIR")
    ids = list(tiny.cache.patient_ids)
    pd.DataFrame({"case_id": ids, "slide_id": ids}).to_csv(folder / "slides.csv", index=False)
    (folder / "weights").mkdir()
    state = build_backbone("resnet34", "random").network.state_dict()
    torch.save(state, folder / "weights" / "resnet34-b627a593.pth")
    return folder


class Shell:
    """Runs the lines of a block like a shell, with the syntax that the documentation uses."""

    def __init__(self, command: Command):
        self.command = command
        self.variables: dict[str, str] = {}

    def run(self, block: Block) -> None:
        """Run a block; a command that fails ends the test."""
        script = block.text.replace("\\\n", " ").replace("/shared/", "shared/")
        for line in script.splitlines():
            assignment = re.fullmatch(r"(\w+)=\$\((.*)\)", line)
            output = self._line(assignment[2] if assignment else line, block.place)
            if assignment:
                self.variables[assignment[1]] = output.strip()

    def _line(self, line: str, place: str) -> str:
        for name, value in self.variables.items():
            line = line.replace(f"${name}", value)
        outputs = [self._command(part, place) for part in re.sub(r"(^|\s)#.*", "", line).split(" && ")]
        return outputs[-1]

    def _command(self, text: str, place: str) -> str:
        text = re.sub(r"^\S*\.?(tox-)?venv/bin/", "", LAUNCHERS.sub("", text.strip()))
        if not text:
            return ""
        program, *argv = shlex.split(text)
        if any(text.startswith(start.strip()) for start in NOT_RUN):
            self._check(program, argv)
            return ""
        assert program.startswith("mil-"), f"{place}: {text!r} is not one of our commands, and not in NOT_RUN"
        name = program.removeprefix("mil-")
        if name == "init":
            Path("cohort.toml").unlink()
        done = self.command(name, *quickened(name, argv))
        assert done.code == 0, f"{place}: {text}\n{done.err}"
        return done.out

    def _check(self, program: str, argv: Sequence[str]) -> None:
        """Check a command without running it."""
        if program.startswith("mil-"):
            parser_of(program.removeprefix("mil-")).parse_args(argv)
        if program == "pip":
            extras = {extra for argument in argv for extra in re.findall(r"\[(\w+)\]", argument)}
            assert extras <= set(configuration("setup.cfg")["options.extras_require"])
        if program.startswith("examples/"):
            assert (ROOT / program).is_file()


def quickened(name: str, argv: Sequence[str]) -> list[str]:
    """Return the arguments with those of QUICK: larger numbers are lowered, missing options are added."""
    argv = list(argv)
    if name == "fit" and "--finetune" not in argv:  # --epochs needs --finetune
        return argv
    for option, most in QUICK.get(name, {}).items():
        if option not in argv:
            argv += [] if option == "--outer-folds" and "--quick" in argv else [option, most]
        elif (place := argv.index(option) + 1) and argv[place].isdigit():
            argv[place] = str(min(int(argv[place]), int(most)))
    return argv


@pytest.fixture(name="shell")
def _shell(sandbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Shell:
    shutil.copytree(sandbox, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "0")  # as torchrun and Slurm would set
    monkeypatch.setenv("WORLD_SIZE", "1")
    return Shell(command)


@pytest.mark.parametrize("document", DOCUMENTS, ids=identity)
def test_every_command_runs(document: Path, shell: Shell) -> None:
    for block in blocks(document, "sh", "bash"):
        shell.run(block)


def test_every_command_that_is_not_run_is_in_the_documentation() -> None:
    text = "\n".join(block.text for document in DOCUMENTS for block in blocks(document, "sh", "bash"))
    inline = "\n".join(code for document in DOCUMENTS for code in inline_code(document))
    assert [start for start in NOT_RUN if start not in text + inline] == []


@pytest.fixture(name="_tables")
def _restore_tables() -> Iterator[None]:
    """Remove from the tables what an example adds to them."""
    tables: Sequence[dict[str, Any]] = (POOLINGS, METRICS, BACKBONES)
    copies = [dict(table) for table in tables]
    yield
    for table, before in zip(tables, copies, strict=True):
        table.clear()
        table.update(before)


@pytest.mark.usefixtures("_tables")
@pytest.mark.parametrize("document", DOCUMENTS, ids=identity)
def test_every_block_of_python_runs(
    document: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.cohort_toml.parent)
    namespace: dict[str, Any] = {"__name__": document.stem}
    for block in blocks(document, "python"):
        text = block.text.replace("cache/…", str(tiny.features)).replace("members=5", "members=1, epochs=2")
        exec(compile(text, block.place, "exec"), namespace)  # noqa: S102


def modules_with_examples() -> list[str]:
    """Return the modules whose docstrings have examples."""
    paths = sorted((ROOT / "mil_toolkit").rglob("*.py"))
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in paths
        if re.search(r"^\s*>>> ", path.read_text(), re.MULTILINE)
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_every_example_in_a_docstring_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(
        import_module(name.removesuffix(".__init__")),
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert results.attempted > 0 and results.failed == 0


# Options.


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    for parser, action in actions(parser_of(name)):
        text = " ".join(parser.format_help().split())
        names = action.option_strings or [str(action.metavar or action.dest)]
        assert action.help and all(name in text for name in names), f"{parser.prog}: {names}"


def inline_code(document: Path) -> list[str]:
    """Return the code in backticks."""
    return [
        child.content
        for token in MarkdownIt().enable("table").parse(document.read_text())
        for child in token.children or []
        if child.type == "code_inline"
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=identity)
def test_every_option_in_the_text_exists(document: Path) -> None:
    known = {f"mil-{name}": options(name) for name in COMMANDS}
    every = set().union(*known.values(), options("mil")) | FOREIGN
    for code in inline_code(document):
        program = code.split(" ")[0]
        assert not program.startswith("mil-") or program in known, code
        used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", code))
        assert used <= known.get(program, every) | FOREIGN, code


# cohort.toml.


def reference(section: str) -> set[str]:
    """Return the keys in the table of a section of docs/reference/cohort.md."""
    text = (ROOT / "docs" / "reference" / "cohort.md").read_text()
    part = text.split(f"\n## `[{section}]`\n")[1].split("\n## ")[0].split("| kind |")[0]
    heads = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", part, re.MULTILINE)
    return {key for head in heads for key in re.findall(r"\w+", head)}


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        ("cohort", COHORT_KEYS),
        ("metadata.NAME", METADATA_KEYS),
        ("splits", SPLIT_KEYS),
        ("study", STUDY_KEYS),
    ],
)
def test_the_reference_has_every_key_and_no_other(section: str, keys: Mapping[str, object]) -> None:
    assert reference(section) == keys.keys()


def test_the_reference_has_every_section_and_kind() -> None:
    text = (ROOT / "docs" / "reference" / "cohort.md").read_text()
    assert re.findall(r"^## `\[(\w+)", text, re.MULTILINE) == list(SECTIONS)
    kinds = text.split("| kind | cells |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", kinds, re.MULTILINE)) == KINDS.keys()


def cells(column: Mapping[str, Any], values: Mapping[str, Callable[[Mapping[str, Any]], str]]) -> list[str]:
    return [values[column["kind"]](column)] * 4


def outcome_cells(cohort: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the columns of the outcome of three patients and of one without."""
    if "target" in cohort:
        return {cohort["target"]: ["1.5", "30", "2", str(cohort["unlabelled"])]}
    if "time" in cohort:
        unlabelled = str(cohort["unlabelled"])
        return {cohort["time"]: ["9", "800", "2", unlabelled], cohort["event"]: ["1", "0", "1", unlabelled]}
    return {cohort["label"]: label_words(cohort)}


def label_words(cohort: Mapping[str, Any]) -> list[str]:
    """Return the labels of three patients and of one without."""
    classes = cohort.get("classes")
    if classes is None:
        return [str(cohort[key]) for key in ("positive", "negative", "positive", "unlabelled")]
    listed = classes.values() if isinstance(classes, dict) else classes
    first = [str(words[0] if isinstance(words, list) else words) for words in listed]
    return [*first[:3], str(cohort["unlabelled"])]


@pytest.mark.parametrize("document", DOCUMENTS, ids=identity)
def test_every_example_of_a_cohort_is_read(document: Path, tmp_path: Path) -> None:
    values: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "number": lambda _: "1.5",
        "category": lambda _: "F",
        "birth-date": lambda column: pd.Timestamp("1950-01-13").strftime(column["formats"][0]),
    }
    for place, block in enumerate(blocks(document, "toml")):
        declared = tomllib.loads(block.text)
        cohort, metadata = declared["cohort"], declared.get("metadata", {})
        table = {cohort["id"]: list("ABCD")} | outcome_cells(cohort)
        table |= {cohort["group"]: list("XXYY")} if "group" in cohort else {}
        table |= {section["column"]: cells(section, values) for section in metadata.values()}
        folder = tmp_path / str(place)
        folder.mkdir()
        pd.DataFrame(table).to_csv(folder / cohort["table"], index=False)
        (folder / "cohort.toml").write_text(block.text)
        read = read_cohort(folder / "cohort.toml", images=False)
        assert len(read.labelled()) == 3 and [column.name for column in read.columns] == list(metadata)


def test_every_metric_is_explained() -> None:
    text = (ROOT / "docs" / "explanation" / "evidence.md").read_text()
    rows = [row.split("|")[1] for row in text.splitlines() if row.startswith("| `")]
    assert set(METRIC_NAMES) <= set(re.findall(r"`(\w+)`", " ".join(rows)))


def test_every_file_of_a_study_is_explained(tiny: Tiny) -> None:
    text = (ROOT / "docs" / "reference" / "files.md").read_text()
    for path in tiny.study.iterdir():
        assert f"`{path.name}" in text or path.name.startswith("."), path.name


def test_every_exit_code_is_explained() -> None:
    text = (ROOT / "docs" / "reference" / "files.md").read_text()
    rows = text.split("| exit code | meaning |")[1].split("\n\n")[0]
    errors: list[type[MilError]] = [MilError, *subclasses(MilError)]
    codes = {error.exit_code for error in errors} | {0, INTERRUPTED, UNLIKE}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", rows, re.MULTILINE)} == codes


def subclasses(error: type[MilError]) -> Iterator[type[MilError]]:
    for subclass in error.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


# Paths and links.

TREES = ("mil_toolkit", "tests", "docs", "benchmarks", "examples", ".ci", ".github")
PATH = re.compile(rf"(?:{'|'.join(map(re.escape, TREES))})/[\w./-]*")


@pytest.mark.parametrize("document", LINKING, ids=identity)
def test_every_path_of_the_repository_exists(document: Path) -> None:
    paths = [code for code in inline_code(document) if PATH.fullmatch(code)]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(document: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("document", LINKING, ids=identity)
def test_every_link_has_a_target(document: Path) -> None:
    tokens = [
        child
        for token in MarkdownIt().enable("table").parse(document.read_text())
        for child in token.children or []
    ]
    links = [str(token.attrs.get("href") or token.attrs.get("src") or "") for token in tokens]
    links += re.findall(r'(?:srcset|src)="([^"]+)"', document.read_text())
    for link in filter(None, links):
        path, _, anchor = link.partition("#")
        if not link.startswith("https://"):
            target = document.parent / path if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_pictures_are_small_and_come_in_light_and_dark() -> None:
    pictures = sorted((ROOT / "docs" / "images").glob("*.png"))
    assert pictures and all(path.stat().st_size < MOST_BYTES for path in pictures)
    sizes = {path.stem: size_of(path) for path in pictures}
    for name, size in sizes.items():
        kind, _, scheme = name.rpartition("-")
        assert scheme in ("light", "dark") and size == sizes[f"{kind}-light"] == sizes[f"{kind}-dark"]


def test_the_pictures_can_be_taken_again(tiny: Tiny, tmp_path: Path) -> None:
    needed(importlib.util.find_spec("selenium"), "selenium")
    for program in ("chromium", "chromedriver"):
        needed(shutil.which(program), program)
    report = write_report(tiny.study, tmp_path / "report.html").path
    script = [sys.executable, str(ROOT / "docs" / "pictures.py"), str(report), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    taken = {path.name: size_of(path) for path in tmp_path.glob("*.png")}
    assert taken == {path.name: size_of(path) for path in (ROOT / "docs" / "images").glob("*.png")}
    contents = {path.read_bytes() for path in tmp_path.glob("*.png")}
    assert len(contents) == len(taken), "two pictures are the same"


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    of_the_site = ("index.md", ROOT / "docs" / "project")
    pages = [identity(page) for page in DOCUMENTS[1:] if not {page.name, page.parent} & {*of_the_site}]
    assert [page for page in pages if f"({page}" not in readme] == []


def test_the_extras_that_the_documentation_names_exist() -> None:
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    extras = set(re.findall(r"pip install '\.\[(\w+)\]'", text))
    assert extras <= set(configuration("setup.cfg")["options.extras_require"])
