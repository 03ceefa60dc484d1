"""The formats that the fuzzers damage: which files, how, and the commands that then read them."""

import io
import json
import math
import shutil
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import safetensors.torch
import torch
from hypothesis import strategies as st

from mil_toolkit.core.files import digest
from support.foreign_files import write_features
from support.fuzzing import CACHE, Changes, Command, Files, Tree
from support.mutations import (
    Draw,
    damaged_bytes,
    damaged_csv,
    damaged_hdf5,
    damaged_json,
    damaged_json_file,
    dumped,
)
from support.studies import Tiny
from support.workbooks import write_workbook

Damage = Callable[[Files], st.SearchStrategy[Changes]]
TOML, TABLE = "cohort/cohort.toml", "cohort/patients.csv"
STUDY, MODEL = "studies/tiny", "studies/tiny/model"
EXTRACT = ("--backbone", "resnet18", "--image-size", "32", "--device", "cpu", "--dry-run", "--cache", "OUT/c")


@dataclass(frozen=True)
class Target:
    """A format.

    damage: returns the strategy of changes to the files of a tree
    commands: read the damaged files, and write only to the output folder
    added: further files of the tree, by path
    """

    damage: Damage
    commands: tuple[Command, ...]
    added: Callable[[Tiny], Mapping[str, bytes]] = lambda _: {}

    def tree(self, tiny: Tiny, folder: Path) -> Tree:
        """Return a tree of a small cohort with its cache, study and bundle, and the added files."""
        shutil.copytree(tiny.folder, folder / "tree")
        for name, content in self.added(tiny).items():
            path = folder / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return Tree.at(folder / "tree")


def _one_of(files: Files, *suffixes: str, under: str = "") -> list[str]:
    return sorted(name for name in files if name.startswith(under) and name.endswith(suffixes))


def _features(files: Files) -> str:
    """Return the folder of the cache."""
    (name,) = [name for name in files if name.startswith("cache/") and name.endswith("/spec.json")]
    return name.removesuffix("/spec.json")


# --- cohorts


def _damaged_toml(files: Files) -> st.SearchStrategy[Changes]:
    @st.composite
    def damaged(draw: Draw) -> Changes:
        content = files[TOML]
        if draw(st.booleans()):
            return {TOML: draw(damaged_bytes(content))}
        lines = content.decode().splitlines()
        place = draw(st.integers(0, len(lines) - 1))
        key, equals, _ = lines[place].partition(" = ")
        odd = draw(st.sampled_from(ODD_TOML))
        lines[place] = f"{key} = {odd}" if equals else draw(st.sampled_from(ODD_LINES))
        return {TOML: "\n".join(lines).encode()}

    return damaged()


ODD_TOML = (
    "1",
    "-1",
    "1e400",
    "nan",
    "9" * 5000,
    "0x" + "f" * 5000,
    "true",
    '""',
    '"a\\u0000b"',
    '"\\u001b[31mred"',
    '"two\\nlines"',
    '"' + "x" * 300 + '"',
    '"' + "x/" * 3000 + '"',
    '"../../../.."',
    '"/"',
    '"/etc/passwd"',
    '"/dev/zero"',
    '"/proc/self/mem"',
    '"cohort.toml"',
    '"patients.csv"',
    '"images"',
    "[]",
    "[[]]",
    "[1, 2]",
    '["a", "a"]',
    '["images", "images/P001"]',
    '["%Y", "%Y%Y"]',
    '["%" , "%%%%"]',
    "{}",
    "{a = {b = 1}}",
    "2020-12-31",
    "0001-01-01",
    "9999-12-31",
    "12:00:00",
    "[" * 100_000 + "]" * 100_000,
    "{a=" * 20_000 + "1" + "}" * 20_000,
)
ODD_LINES = (
    "[cohort]",
    "[metadata]",
    "[metadata.age]",
    '[metadata."a\\u001b[31m"]',
    '[metadata."\\u0000"]',
    "[metadata.a.b.c]",
    "[a" + ".a" * 20_000 + "]",
    "x = 1",
    "\n".join(f"unknown{number} = 1" for number in range(20_000)),
    "\n".join(f"[metadata.m{number}]" for number in range(20_000)),
)


def _damaged_table(files: Files) -> st.SearchStrategy[Changes]:
    return st.fixed_dictionaries({TABLE: damaged_csv(files[TABLE])})


WORKBOOK_TOML = "cohort/workbook.toml"
WORKBOOK = "cohort/patients.xlsx"


def _with_workbook(tiny: Tiny) -> Mapping[str, bytes]:
    table = pd.read_csv(tiny.cohort_toml.parent / "patients.csv", dtype=str, keep_default_na=False)
    with tempfile.TemporaryDirectory() as folder:
        path = write_workbook(Path(folder) / "t.xlsx", {"A": [list(table), *table.to_numpy().tolist()]})
        content = path.read_bytes()
    toml = tiny.cohort_toml.read_text().replace("patients.csv", "patients.xlsx")
    return {WORKBOOK: content, WORKBOOK_TOML: toml.encode()}


def _damaged_workbook(files: Files) -> st.SearchStrategy[Changes]:
    return st.fixed_dictionaries({WORKBOOK: damaged_archive(files[WORKBOOK])})


@st.composite
def damaged_archive(draw: Draw, content: bytes) -> bytes:
    """Damage one file of a zip archive, or the archive's bytes."""
    if draw(st.integers(0, 3)) == 0:
        return draw(damaged_bytes(content))
    source = zipfile.ZipFile(io.BytesIO(content))
    name = draw(st.sampled_from(sorted(source.namelist())))
    kind = draw(st.sampled_from(("bytes", "bytes", "number", "remove", "repeat")))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", source.infolist()[0].compress_type) as archive:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename != name or kind == "repeat":
                archive.writestr(entry, data)
            elif kind == "bytes":
                archive.writestr(entry, draw(damaged_bytes(data)))
            elif kind == "number":
                archive.writestr(entry, draw(damaged_digits(data)))
    return buffer.getvalue()


@st.composite
def damaged_digits(draw: Draw, content: bytes) -> bytes:
    """Replace one run of digits."""
    places = [place for place in range(len(content)) if content[place : place + 1].isdigit()]
    if not places:
        return content
    place = draw(st.sampled_from(places))
    return (
        content[:place] + draw(st.sampled_from((b"-1", b"99999999", b"1e400", b"x"))) + content[place + 1 :]
    )


IMAGE_TABLE_TOML = "cohort/listed.toml"
IMAGE_TABLE = "cohort/images.csv"


def _with_image_table(tiny: Tiny) -> Mapping[str, bytes]:
    root = tiny.cohort_toml.parent
    paths = [path.relative_to(root) for path in sorted(root.glob("images/*/*"))]
    rows = ["patient,path", *(f"{path.parts[1]},{path.as_posix()}" for path in paths)]
    lines = tiny.cohort_toml.read_text().splitlines()
    lines = ['image_table = "images.csv"' if line.startswith("images ") else line for line in lines]
    return {IMAGE_TABLE: "\n".join(rows).encode(), IMAGE_TABLE_TOML: "\n".join(lines).encode()}


def _damaged_image_table(files: Files) -> st.SearchStrategy[Changes]:
    return st.fixed_dictionaries({IMAGE_TABLE: damaged_csv(files[IMAGE_TABLE])})


# --- checkpoints


def _checkpoints(_: Tiny) -> Mapping[str, bytes]:
    state = {"conv1.weight": torch.ones(4, 3, 7, 7), "bn1.weight": torch.ones(64), "b": torch.ones(2).half()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "legacy"
        torch.save(state, path, _use_new_zipfile_serialization=False)
        legacy = path.read_bytes()
        torch.save({"state_dict": state, "epoch": 3}, path)
        return {
            "weights/a.pt": path.read_bytes(),
            "weights/b.pth": legacy,
            "weights/c.safetensors": safetensors.torch.save(state, {"format": "pt"}),
        }


def _damaged_checkpoint(files: Files) -> st.SearchStrategy[Changes]:
    zipped, legacy, tensors = files["weights/a.pt"], files["weights/b.pth"], files["weights/c.safetensors"]
    damaged = st.one_of(
        damaged_archive(zipped), damaged_bytes(legacy), damaged_bytes(tensors), damaged_header(tensors)
    )
    return st.fixed_dictionaries({"weights/x.pt": damaged})


@st.composite
def damaged_header(draw: Draw, content: bytes) -> bytes:
    """Damage the values of a safetensors header, whose length then fits again."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = dumped(draw(damaged_json(header))).encode(errors="surrogatepass")
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


# --- caches


def _damaged_shard(files: Files) -> st.SearchStrategy[Changes]:
    (name,) = _one_of(files, ".h5", under="cache/")
    folder = name.rpartition("/")[0]

    def renamed(content: bytes) -> Changes:
        new = f"{folder}/{digest(content)}.h5"
        return {name: content} if new == name else {name: None, new: content}

    return damaged_hdf5(files[name]).map(renamed)


def _damaged_spec(files: Files) -> st.SearchStrategy[Changes]:
    """Damage the spec of a cache; the shard is sealed with the spec's new digest where it has one."""
    folder = _features(files)
    (shard,) = _one_of(files, ".h5", under="cache/")

    @st.composite
    def damaged(draw: Draw) -> Changes:
        spec = draw(damaged_json_file(files[f"{folder}/spec.json"]))
        try:
            sealed = digest(dumped(json.loads(spec)).encode())
        except (ValueError, RecursionError):
            return {f"{folder}/spec.json": spec}
        buffer = io.BytesIO(files[shard])
        with h5py.File(buffer, "r+") as file:
            file.attrs["spec"] = sealed
        content = buffer.getvalue()
        return {f"{folder}/spec.json": spec, shard: None, f"{folder}/{digest(content)}.h5": content}

    return damaged()


# --- bundles


def _sealed(files: Files, changed: Mapping[str, bytes], config: Any) -> Changes:
    """Return changes to a bundle, with right digests as far as the configuration has them."""
    if isinstance(config, dict):
        config = {key: value for key, value in config.items() if key != "digest"}
        if isinstance(config.get("digests"), dict):
            new = {name: digest(content) for name, content in changed.items()}
            config["digests"] = {**config["digests"], **new}
        config["digest"] = digest(dumped(config).encode(errors="surrogatepass"))
    text = dumped(config).encode(errors="surrogatepass")
    return {f"{MODEL}/config.json": text} | {f"{MODEL}/{name}": content for name, content in changed.items()}


def _damaged_config(files: Files) -> st.SearchStrategy[Changes]:
    config = json.loads(files[f"{MODEL}/config.json"])
    return damaged_json(config).map(lambda value: _sealed(files, {}, value))


def _damaged_bundle_scores(files: Files) -> st.SearchStrategy[Changes]:
    config = json.loads(files[f"{MODEL}/config.json"])
    scores = damaged_json_file(files[f"{MODEL}/scores.json"])
    return scores.map(lambda content: _sealed(files, {"scores.json": content}, config))


def _damaged_tensors(files: Files) -> st.SearchStrategy[Changes]:
    config = json.loads(files[f"{MODEL}/config.json"])
    content = files[f"{MODEL}/model.safetensors"]
    damaged = st.one_of(damaged_bytes(content), damaged_header(content), odd_tensors(content))
    return damaged.map(lambda content: _sealed(files, {"model.safetensors": content}, config))


@st.composite
def odd_tensors(draw: Draw, content: bytes) -> bytes:
    """Change the values, type or shape of one tensor."""
    tensors = safetensors.torch.load(content)
    name = draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[name]
    match draw(st.sampled_from(("value", "value", "type", "shape", "remove", "huge"))):
        case "value":
            flat = tensor.flatten().clone()
            flat[draw(st.integers(0, len(flat) - 1))] = draw(
                st.sampled_from((math.nan, math.inf, 1e38, -1.0))
            )
            tensors[name] = flat.view(tensor.shape)
        case "type":
            dtypes = (torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64)
            tensors[name] = tensor.to(draw(st.sampled_from(dtypes)))
        case "shape":
            tensors[name] = draw(st.sampled_from((tensor[None], tensor.flatten()[:-1], tensor.flatten()[:0])))
        case "remove":
            del tensors[name]
        case "huge":
            tensors[name] = torch.zeros(10**6)
    return safetensors.torch.save({name: each.contiguous() for name, each in tensors.items()})


# --- studies


def _damaged_records(files: Files) -> st.SearchStrategy[Changes]:
    names = [name for name in _one_of(files, ".json", ".jsonl", under=STUDY) if not name.startswith(MODEL)]
    return st.sampled_from(names).flatmap(lambda name: st.fixed_dictionaries({name: _record(files, name)}))


def _record(files: Files, name: str) -> st.SearchStrategy[bytes]:
    if name.endswith(".json"):
        return damaged_json_file(files[name])
    lines = files[name].splitlines(keepends=True)
    place = len(lines) // 2
    return damaged_json_file(lines[place]).map(
        lambda line: b"".join([*lines[:place], line.rstrip(b"\n"), b"\n", *lines[place + 1 :]])
    )


def _damaged_tables(files: Files) -> st.SearchStrategy[Changes]:
    names = _one_of(files, ".csv", under=STUDY)
    return st.sampled_from(names).flatmap(
        lambda name: st.fixed_dictionaries({name: damaged_csv(files[name])})
    )


def _damaged_database(files: Files) -> st.SearchStrategy[Changes]:
    name = f"{STUDY}/optuna.db"
    return st.fixed_dictionaries({name: st.one_of(damaged_bytes(files[name]), damaged_rows(files[name]))})


@st.composite
def damaged_rows(draw: Draw, content: bytes) -> bytes:
    """Change one value, one row or one table of an SQLite database."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.db"
        path.write_bytes(content)
        connection = sqlite3.connect(path)
        query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        names = [name for (name,) in connection.execute(query)]
        filled = [name for name in names if connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]]
        name = draw(st.sampled_from(filled))
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
        rows = [row for (row,) in connection.execute(f"SELECT rowid FROM {name} ORDER BY rowid")]
        row, column = draw(st.sampled_from(rows)), draw(st.sampled_from(columns))
        try:
            match draw(st.sampled_from(("value", "value", "value", "row", "table", "rows"))):
                case "value":
                    odd = draw(st.sampled_from((None, -1, 0, 1e308, "x", "nan", b"\xff", "[]", "{}", 2**62)))
                    connection.execute(f"UPDATE {name} SET {column} = ? WHERE rowid = ?", (odd, row))
                case "row":
                    connection.execute(f"DELETE FROM {name} WHERE rowid = ?", (row,))
                case "rows":
                    connection.execute(f"DELETE FROM {name}")
                case "table":
                    connection.execute(f"DROP TABLE {name}")
        except sqlite3.Error:  # what the database itself refuses
            connection.rollback()
        connection.commit()
        connection.close()
        return path.read_bytes()


# --- import files


def _foreign(_: Tiny) -> Mapping[str, bytes]:
    attributes = {"patch_size": 256.0, "target_magnification": 20.0}
    features = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for patient in ("P1", "P2"):
            write_features(root / f"clam/h5_files/{patient}.h5", features, encoder=None)
            write_features(root / f"trident/{patient}.h5", features, attributes)
            write_features(root / f"stamp/{patient}.h5", features, None, {"tile_size_um": 256.0}, "feats")
            (root / "clam/pt_files").mkdir(exist_ok=True)
            torch.save(torch.from_numpy(features), root / f"clam/pt_files/{patient}.pt")
            (root / "bags").mkdir(exist_ok=True)
            np.save(root / f"bags/{patient}.npy", features)
            torch.save(
                torch.from_numpy(features),
                root / f"bags/{patient}x.pt",
                _use_new_zipfile_serialization=patient == "P1",
            )
        files = {
            path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
        }
    return {f"foreign/{name}": content for name, content in files.items()}


def _damaged_foreign(folder: str) -> Damage:
    def damage(files: Files) -> st.SearchStrategy[Changes]:
        names = [name for name in files if name.startswith(f"foreign/{folder}/")]
        return st.sampled_from(sorted(names)).flatmap(
            lambda name: st.fixed_dictionaries({name: _damaged_features(name, files[name])})
        )

    return damage


def _damaged_features(name: str, content: bytes) -> st.SearchStrategy[bytes]:
    if name.endswith(".h5"):
        return damaged_hdf5(content)
    if name.endswith(".npy"):
        return st.one_of(damaged_bytes(content), damaged_npy(content))
    return damaged_archive(content) if content.startswith(b"PK") else damaged_bytes(content)


ODD_HEADERS = {
    "'<f4'": ("'|O'", "'<f8'", "'<U9'", "'>f4'", "[('a', '<f4')]", "'<c8'", "'x'", "__import__('os')"),
    "(4, 3)": ("(10000000000, 3)", "(4,)", "(-1, 3)", "()", "(0, 3)", "(4, 3, 1)", "'x'", "(4, 9)"),
    "False": ("True", "1", "None", "x()"),
}


@st.composite
def damaged_npy(draw: Draw, content: bytes) -> bytes:
    """Change the type, order or shape in the header of a .npy file."""
    header = content[10 : 10 + int.from_bytes(content[8:10], "little")].decode()
    old = draw(st.sampled_from(sorted(ODD_HEADERS)))
    text = header.replace(old, draw(st.sampled_from(ODD_HEADERS[old]))).rstrip()
    text = text.ljust(-(-(len(text) + 11) // 64) * 64 - 11) + "\n"
    return content[:8] + len(text).to_bytes(2, "little") + text.encode() + content[10 + len(header) :]


# --- commands


def _check_predictions(out: Path) -> None:
    """The probabilities are numbers, and the predictions words of the classes."""
    table = pd.read_csv(out / "p.csv")
    probability = table["probability"].to_numpy(dtype=float)
    assert np.isfinite(probability).all() and ((probability >= 0) & (probability <= 1)).all(), table
    assert table["prediction"].isin((0, 1)).all(), table
    assert table["patient_id"].is_unique, table


PREDICT = Command(
    "predict", (MODEL, TOML, "--features", CACHE, "--output", "OUT/p.csv"), check=_check_predictions
)
INFO = Command("cache", ("info", CACHE))
VERIFY = Command("cache", ("verify", CACHE))
EXPORT = Command("cache", ("export", CACHE, "--format", "trident", "--output", "OUT/x"))
REPORT = Command("report", (STUDY, "--output", "OUT/r.html"))
FIT = Command(
    "fit",
    (TOML, "--study", STUDY, "--features", CACHE, "--output", "OUT/m"),
    writes=(f"{STUDY}/report.html", f"{STUDY}/.lock"),
)
TUNE = Command(
    "tune",
    (
        *(TOML, "--features", CACHE, "--study", STUDY, "--trials", "2", "--folds", "2", "--outer-folds", "2"),
        *("--members", "2", "--set", "epochs=3", "--set", "hidden=32", "--set", "pooling=attention"),
    ),
    writes=(f"{STUDY}/*",),
)


def _extract(toml: str, weights: str = "random") -> Command:
    return Command("extract", (toml, "--weights", weights, *EXTRACT))


def _import(format: str) -> Command:
    argv = ("import", f"foreign/{format}", "--format", format, "--cohort", "c", "--cache", "OUT/c")
    named = ("--encoder", "uni_v1") if format in ("clam", "bags") else ()
    return Command("cache", (*argv, *named))


TARGETS: dict[str, Target] = {
    "cohort.toml": Target(_damaged_toml, (_extract(TOML),)),
    "table": Target(_damaged_table, (_extract(TOML),)),
    "workbook": Target(_damaged_workbook, (_extract(WORKBOOK_TOML),), _with_workbook),
    "image table": Target(_damaged_image_table, (_extract(IMAGE_TABLE_TOML),), _with_image_table),
    "checkpoint": Target(_damaged_checkpoint, (_extract(TOML, "weights/x.pt"),), _checkpoints),
    "shard": Target(_damaged_shard, (INFO, VERIFY, EXPORT, PREDICT)),
    "spec": Target(_damaged_spec, (INFO, VERIFY, EXPORT, PREDICT)),
    "bundle": Target(_damaged_config, (PREDICT,)),
    "bundle's tensors": Target(_damaged_tensors, (PREDICT,)),
    "bundle's scores": Target(_damaged_bundle_scores, (PREDICT,)),
    "study's records": Target(_damaged_records, (REPORT, FIT)),
    "study's tables": Target(_damaged_tables, (REPORT, FIT)),
    "study's database": Target(_damaged_database, (FIT, TUNE)),
    "clam": Target(_damaged_foreign("clam"), (_import("clam"),), _foreign),
    "trident": Target(_damaged_foreign("trident"), (_import("trident"),), _foreign),
    "stamp": Target(_damaged_foreign("stamp"), (_import("stamp"),), _foreign),
    "bags": Target(_damaged_foreign("bags"), (_import("bags"),), _foreign),
}
