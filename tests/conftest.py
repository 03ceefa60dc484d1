"""Fixtures shared by all tests: cohorts of random embeddings, of synthetic images, and the real cohort."""

import functools
import gc
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import settings
from support.commands import Command, Done
from support.other_cohorts import Other, other_cohort
from support.outcome_studies import outcome_study
from support.paths import ROOT, required
from support.remembered import remember_networks, remember_operators, remember_results
from support.sites import Sites, sites_study
from support.studies import Tiny, Viewed

from mil_toolkit.bundle import membership
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.features.bags import Bags
from mil_toolkit.training.patients import Patients


def handle_signals_as_in_a_terminal() -> None:
    """Tests and the processes that they start expect this.

    A shell starts background jobs with SIGINT ignored, processes inherit it, and commands end with other
    dispositions.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


handle_signals_as_in_a_terminal()
signal.pthread_sigmask(signal.SIG_SETMASK, ())

os.environ.pop("PYTHONUNBUFFERED", None)  # it changes what a command that cannot write ends with

# For tensors this small, a second thread costs more time than it saves.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the commands and inherited by processes
torch.set_num_threads(1)

# How long an example takes depends on what else the machine does.
settings.register_profile("suite", settings.default, deadline=None)
settings.load_profile("suite")

# By default, the garbage collector visits the millions of objects of all modules and tests again and again.
gc.set_threshold(100_000, 20, 100)

TINY_EXTRACTION = ExtractionConfig("resnet18", "random", image_size=32)
TINY_STUDY = StudyConfig(
    trials=2,
    folds=2,
    outer_folds=2,
    members=2,
    settings={"epochs": (3,), "hidden": (32,), "pooling": ("attention",)},
)


def pytest_configure(config: pytest.Config) -> None:
    """Hide CUDA devices, so that every machine runs the same tests, unless those of a card are asked for.

    CUDA reads the variable when it is first used, which is after this.
    """
    if config.getoption("markexpr") != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def make_patients(count: int = 12, width: int = 6, seed: int = 0, images: bool = True) -> Patients:
    """Return patients with alternating labels, bags of 1 to 5 embeddings and two metadata columns."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    ids = [f"P{i}" for i in range(count)]
    sizes = [1 + i % 5 for i in range(count)]
    bags = [
        torch.from_numpy(random.normal(label, 1.5, (n, width))).float()
        for n, label in zip(sizes, labels, strict=True)
    ]
    sexes = random.choice(["F", "M"], count)
    metadata = pd.DataFrame({"age": random.normal(60, 10, count), "sex": sexes.astype(object)}, index=ids)
    names = [f"{i}.png" for i in range(sum(sizes))]
    return Patients(Bags.pack(bags, ids, names) if images else None, labels, metadata)


@pytest.fixture(scope="session", name="make_patients")
def _make_patients() -> Callable[..., Patients]:
    return make_patients


@pytest.fixture(scope="session", autouse=True)
def _results_remembered() -> Iterator[None]:
    """Compute results once that many tests need."""
    with pytest.MonkeyPatch.context() as patch:
        remember_results(patch)
        remember_networks(patch)
        yield


@pytest.fixture(scope="session", name="operators")
def _operators() -> Iterator[None]:
    """Read the operators of ONNX once; for the tests that export models."""
    with pytest.MonkeyPatch.context() as patch:
        remember_operators(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def _cheap_keys() -> Iterator[None]:
    """Derive the keys of patients in new bundles at once instead of in 0.05 s each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(membership, "SCRYPT", membership.Scrypt(n=2, r=1, p=1))
        yield


@pytest.fixture(autouse=True)
def _restore_process() -> Iterator[None]:
    """Restore what a command changes in its process: logging, signal handlers and the number of threads."""
    logger = logging.getLogger("mil_toolkit")
    logger.handlers, logger.propagate = [], True  # fixtures that live longer may have run commands
    logger.setLevel(logging.NOTSET)
    handle_signals_as_in_a_terminal()
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)
    handle_signals_as_in_a_terminal()


@pytest.fixture(name="command")
def _command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function: `command("tune", *argv)` runs mil-tune in this process, as its entry point does."""

    def run(name: str, *argv: object) -> Done:
        capsys.readouterr()
        try:
            code = import_module(f"mil_toolkit.cli.{name}").main([str(argument) for argument in argv])
        except SystemExit as stop:  # from argparse: --help, or invalid options
            code = stop.code
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session", name="tiny")
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    # Imported here, so that a defect in a later stage does not break the tests of earlier ones.
    from mil_toolkit.bundle.fit import fit
    from mil_toolkit.cohort.synthetic import draw_cohort
    from mil_toolkit.features.cache import FeatureCache
    from mil_toolkit.features.extract import extract
    from mil_toolkit.study.tune import tune

    folder = tmp_path_factory.mktemp("tiny")
    toml = draw_cohort(folder / "cohort", patients=24, unlabelled=3, image_size=32, images=(2, 4))
    toml.write_text(toml.read_text().replace('stratify = ["label"]', 'stratify = ["label", "age"]'))
    cohort = read_cohort(toml)
    features = extract(cohort, TINY_EXTRACTION, folder / "cache", device="cpu").folder
    study = folder / "studies" / "tiny"
    tune(cohort, FeatureCache.open(features), study, TINY_STUDY, "cpu")
    fit(cohort, FeatureCache.open(features), study, study / "model", "cpu")
    return Tiny(folder, toml, features, study)


@pytest.fixture(scope="session", name="viewed")
def _viewed(tiny: Tiny) -> Viewed:
    """Return the tiny cohort with windows around its cells as a second view, and a finished study of both."""
    from mil_toolkit.features.extract import extract

    config = replace(TINY_EXTRACTION, crop=24, preprocess="cell-crop")
    crop = extract(tiny.cohort, config, tiny.folder / "cache-of-crops", device="cpu").folder
    viewed = Viewed(tiny, crop, tiny.folder / "studies" / "viewed")
    assert import_module("mil_toolkit.cli.tune").main([*viewed.options(), "--study", str(viewed.study)]) == 0
    return viewed


@pytest.fixture(scope="session", name="sites")
def _sites(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    return sites_study(tmp_path_factory.mktemp("sites"))


@pytest.fixture(scope="session", name="sites_model")
def _sites_model(sites: Sites, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the study `sites`; tests only read it."""
    from mil_toolkit.bundle.fit import fit

    folder = tmp_path_factory.mktemp("bundle") / "model"
    fit(sites.cohort, sites.cache, sites.study, folder, "cpu")
    return folder


@pytest.fixture(scope="session", name="study_of")
def _study_of(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from the kind of an outcome to a study; tests only read it."""
    return functools.cache(
        lambda kind: (
            tiny.study if kind == "binary" else outcome_study(tiny, kind, tmp_path_factory.mktemp(kind))
        )
    )


@pytest.fixture(scope="session", name="other")
def _other(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Other:
    """Return a cohort of another place, with patients whom the model of the tiny study does not know."""
    return other_cohort(tiny, tmp_path_factory.mktemp("other"))


@pytest.fixture(name="tiny_options")
def _tiny_options(tiny: Tiny) -> Sequence[object]:
    """Return the arguments of a fast mil-tune run on the tiny cohort, including the positional one."""
    numbers = ("--trials", 2, "--epochs", 2, "--folds", 2, "--members", 2, "--workers", 1)
    return (tiny.cohort_toml, "--features", tiny.features, *numbers, "--set", "hidden=32")


@pytest.fixture(name="edit_cohort")
def _edit_cohort(tiny: Tiny, tmp_path: Path) -> Callable[[Callable[[pd.DataFrame], object]], Path]:
    """Return a function that copies the tiny cohort, edits the copy's table and returns its cohort.toml."""

    def edit(change: Callable[[pd.DataFrame], object]) -> Path:
        folder = tmp_path / "edited"
        shutil.copytree(tiny.cohort_toml.parent, folder)
        table = pd.read_csv(folder / "patients.csv", dtype=str, keep_default_na=False)
        change(table)
        table.to_csv(folder / "patients.csv", index=False)
        return folder / "cohort.toml"

    return edit


@pytest.fixture(scope="session", name="lymphocytosis")
def _lymphocytosis() -> Path:
    """Return the folder of the real cohort."""
    return required(ROOT.parent / "shared" / "lymphocytosis")
