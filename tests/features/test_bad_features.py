"""Features of other tools that cannot be imported, or only with a warning, and the message for each."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from support.bad_inputs import check_section
from support.commands import Command
from support.foreign_files import write_features

VALUES = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
ONES = torch.ones(2, 3)
OBJECTS = np.array([{}], dtype=object)
SMALL_COLUMN = VALUES * np.float32([1, 1e-8, 1])
AT_20X = {"patch_size": 256, "target_magnification": 20}
AT_10X = {"patch_size": 512, "target_magnification": 10}
Case = tuple[str, str, str, Callable[[Path], object]]


def table(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder.parent / "slides.csv").write_text(text)


def many(*writers: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [write(folder) for write in writers]


def slide(name: str, values: np.ndarray = VALUES, **options: object) -> Callable[[Path], object]:
    return lambda folder: write_features(folder / name, values, **options)


def tensor(name: str, content: object) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        torch.save(content, folder / name)

    return write


def linked(folder: Path) -> None:
    with h5py.File(folder / "P2.h5", "w") as file:
        file["features"] = h5py.ExternalLink("elsewhere.h5", "/features")


def folder_of(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).mkdir()


UNI = "--encoder uni_v1"
BY_TABLE = "--table slides.csv"
# Description, format, further options, what is written beside the slide P1.h5.
CASES: list[Case] = [
    ("nothing else", "trident", "", lambda folder: None),
    ("another width", "trident", "", many(slide("P2.h5", VALUES[:, :2]), slide("P3.h5"))),
    ("another encoder", "trident", "", many(slide("P2.h5", encoder="conch"), slide("P3.h5"))),
    ("an encoder's name in bytes", "trident", "", slide("P2.h5", encoder=b"uni_v1")),
    ("a file that does not name its encoder", "trident", "", slide("P2.h5", encoder=None)),
    ("--encoder that contradicts the files", "trident", "--encoder conch", lambda folder: None),
    (
        "tiles at 20x and 10x",
        "trident",
        "",
        many(slide("P2.h5", coords=AT_20X), slide("P3.h5", coords=AT_10X)),
    ),
    ("a file that does not state its tiles", "trident", "", slide("P2.h5", coords=AT_20X)),
    ("NaN", "trident", "", slide("P2.h5", VALUES * np.nan)),
    ("values beyond float16", "trident", "", slide("P2.h5", np.full((2, 3), 7e4))),
    ("values of 1e-8", "trident", "", slide("P2.h5", np.full((2, 3), 1e-8))),
    ("integers", "trident", "", slide("P2.h5", np.ones((2, 3), np.int64))),
    ("a link to another file", "bags", "", linked),
    ("text called .h5", "trident", "", lambda folder: (folder / "P2.h5").write_text("text")),
    ("._P1.h5 of a Mac", "trident", "", lambda folder: (folder / "._P1.h5").write_bytes(b"\0\5\26\7")),
    ("a model called .pt", "bags", "", tensor("P2.pt", torch.nn.Linear(2, 3))),
    ("a tensor that requires grad", "bags", UNI, tensor("P2.pt", torch.ones(2, 3, requires_grad=True))),
    ("a slide only in pt_files", "clam", UNI, many(slide("h5_files/P2.h5"), tensor("pt_files/P3.pt", ONES))),
    (
        "other values in h5_files and pt_files",
        "clam",
        "",
        many(slide("h5_files/P2.h5"), tensor("pt_files/P2.pt", ONES)),
    ),
    ("h5_files without a file", "clam", UNI, many(folder_of("h5_files"), tensor("pt_files/P3.pt", ONES))),
    ("the same features as .h5 and .pt", "bags", "", tensor("P1.pt", torch.from_numpy(VALUES))),
    ("other features as .npy", "bags", "", lambda folder: np.save(folder / "P1.npy", VALUES[:1])),
    ("pickled objects as .npy", "bags", "", lambda folder: np.save(folder / "P2.npy", OBJECTS)),
    ("table: a repeated row", "trident", BY_TABLE, table("case_id,slide_id\nA,P1\nA,P1\n")),
    ("table: a slide of two patients", "trident", BY_TABLE, table("case_id,slide_id\nA,P1\nB,P1\n")),
    ("table: a blank id", "trident", BY_TABLE, table("case_id,slide_id\n ,P1\n")),
    ("table: a short row", "trident", BY_TABLE, table("case_id,slide_id\nA\n")),
    ("table: only a header", "trident", BY_TABLE, table("case_id,slide_id\n")),
    ("table: other columns", "trident", BY_TABLE, table("who,what\nA,P1\n")),
    ("table: a slide without a file", "trident", BY_TABLE, table("case_id,slide_id\nA,P1.CF4496E0\n")),
    ("table: semicolons and spaces", "trident", BY_TABLE, table("case_id;slide_id\n A ; P1.svs \n")),
    ("--cohort ../outside", "trident", "--cohort ../outside", lambda folder: None),
    ("--encoder without a name", "trident", "--encoder=", lambda folder: None),
]


def try_out(folder: Path, case: Case, command: Command) -> tuple[str, str]:
    """Return the exit code and the first message of an import."""
    _, format, options, write = case
    slide("P1.h5")(folder / "f")
    write(folder / "f")
    words = options.replace("slides.csv", str(folder / "slides.csv")).split()
    place = ("--cohort", "c", "--cache", folder / "cache")
    done = command("cache", "import", folder / "f", "--format", format, *place, *words)
    assert "Traceback" not in done.err
    lines = [line for line in done.err.splitlines() if not line.startswith("Features in ")]
    message = lines[0] if lines else "imported"
    return str(done.code), message.removeprefix("mil-cache: ").replace(f"{folder}/", "")


def test_the_table_of_features_is_up_to_date(tmp_path: Path, command: Command) -> None:
    rows = [(case[0], *try_out(tmp_path / str(number), case, command)) for number, case in enumerate(CASES)]
    text = (
        "`mil-cache import` reads the files of other tools. One run names every file and every row of the\n"
        "table that cannot be imported, and nothing is written. Each case stands beside one good slide,\n"
        "`P1.h5`, of the encoder `uni_v1`."
    )
    check_section("Features of other tools", text, ("features", "exit code", "first message"), rows)


def test_columns_that_are_too_small_are_named_by_the_command(tmp_path: Path, command: Command) -> None:
    slide("P1.h5", SMALL_COLUMN)(tmp_path / "f")
    options = ("--format", "trident", "--cohort", "c", "--cache", tmp_path / "cache")
    done = command("cache", "import", tmp_path / "f", *options)
    assert done.code == 0 and "1 of 3 columns hold only values that are too small for float16" in done.err
