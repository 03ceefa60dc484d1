"""Fine-tuning for several classes, numbers and survival: scores, predictions, and how it resumes."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import Command
from support.paths import installed
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.fit import fit
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.config.metrics import OUTCOME_METRICS
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.devices import pick_device
from mil_toolkit.core.progress import ProgressBar
from mil_toolkit.evaluation.records import Comparison, Difference
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.outcomes.kinds import KINDS
from mil_toolkit.study import finetuning as end_to_end
from mil_toolkit.study.finetuning import is_better
from mil_toolkit.study.finetuning_runs import Run, Setup, Trained
from mil_toolkit.study.folder import Study
from mil_toolkit.study.tune import tune
from mil_toolkit.training.finetune import Finetuner

CONFIG = FinetuneConfig(epochs=2, backbone_rate=1e-3, chunk=8)
DECLARED = {
    "classes": 'label = "GRADE"\nclasses = ["low", "mid", "high"]',
    "number": 'target = "BLASTS"',
    "survival": 'time = "OS"\nevent = "DEAD"\nhorizon = 8',
}
VALUES = {"number": ["predicted", "low", "high", "spread"], "survival": ["risk", "survival:0.8"]}


@dataclass(frozen=True)
class Kind:
    """A copy of the tiny cohort with another outcome, and its study; tests of this file only read it."""

    name: str
    cohort_toml: Path
    study: Path
    features: Path

    def fit(self, study: Path | None = None) -> ModelBundle:
        """Fine-tune, with every comparison a gain, into the folder `tuned` of a study."""
        study = study or self.study
        cohort, cache = read_cohort(self.cohort_toml), FeatureCache.open(self.features)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(end_to_end, "is_better", lambda _: True)
            return fit(cohort, cache, study, study / "tuned", "cpu", finetune=CONFIG)

    def setup(self) -> Setup:
        """Return what the searches of a fine-tuning share."""
        cohort, cache = read_cohort(self.cohort_toml).labelled(), FeatureCache.open(self.features)
        return Setup.load(cohort, cache, Study.open(self.study), CONFIG, pick_device("cpu"), None)


def edited(tiny: Tiny, folder: Path, kind: str) -> Path:
    """Copy the tiny cohort, add columns to its table, and declare one of them as the outcome."""
    shutil.copytree(tiny.cohort_toml.parent, folder)
    table = pd.read_csv(folder / "patients.csv", dtype=str, keep_default_na=False)
    known, tumoral = table["DIAGNOSIS"] != "", table["DIAGNOSIS"] == "tumoral"
    numbers = 10.0 * tumoral + np.arange(len(table)) % 7 + 0.25
    grades = np.array(["low", "mid", "high"])[np.arange(len(table)) % 3]
    events = (np.arange(len(table)) % 4 > 0).astype(int).astype(str)
    outcomes = {
        "GRADE": grades,
        "BLASTS": numbers.astype(str),
        "OS": (20 - numbers).astype(str),
        "DEAD": events,
    }
    for column, values in outcomes.items():
        table[column] = pd.Series(values, table.index).where(known, "?")
    table.to_csv(folder / "patients.csv", index=False)
    keys = ("label", "positive", "negative", "unlabelled")
    lines = [line for line in (folder / "cohort.toml").read_text().splitlines() if not line.startswith(keys)]
    place = lines.index("[cohort]") + 1
    lines = [*lines[:place], DECLARED[kind], 'unlabelled = "?"', *lines[place:]]
    (folder / "cohort.toml").write_text("\n".join(lines))
    return folder / "cohort.toml"


@pytest.fixture(scope="module", name="kind", params=DECLARED)
def _kind(request: pytest.FixtureRequest, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    """A study with a fine-tuned model in the folder `tuned`."""
    installed("sksurv")  # for the baselines of survival
    folder = tmp_path_factory.mktemp(request.param)
    kind = Kind(
        request.param, edited(tiny, folder / "cohort", request.param), folder / "study", tiny.features
    )
    settings = {"epochs": (2,), "hidden": (32,)}
    config = StudyConfig(trials=1, folds=2, members=2, outer_folds=2, settings=settings)
    tune(read_cohort(kind.cohort_toml), FeatureCache.open(kind.features), kind.study, config, "cpu")
    kind.fit()
    return kind


def bits(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def checkpoints_of(study: Path) -> dict[str, bytes]:
    paths = study.glob("finetune/*/*/*.safetensors")
    return {str(path.relative_to(study)): path.read_bytes() for path in paths}


def test_the_fine_tuned_model_has_scores_of_its_outcome(kind: Kind) -> None:
    bundle = ModelBundle.load(kind.study / "tuned")
    assert bundle.backbone is not None and bundle.finetuning is not None and bundle.finetuning.kept
    assert bundle.about.predicted.kind == kind.name and 1 <= bundle.scores.epoch <= 2
    names = set(bundle.scoring.metrics)
    scores = json.loads((kind.study / "tuned" / "scores.json").read_text())
    assert set(scores["finetuned"]["comparison"]["differences"]) == names == set(scores["inner"])
    loss = OUTCOME_METRICS[kind.name].loss
    assert not bundle.scoring.metrics[loss].higher_is_better
    card = (kind.study / "tuned" / "README.md").read_text()
    assert "trained together" in card and "threshold" not in card and "log-loss" not in card


def test_the_command_reports_the_difference_in_the_loss_of_the_outcome(kind: Kind, command: Command) -> None:
    options = ("--finetune", "--epochs", 2, "--backbone-rate", 0.001, "--chunk", 8, "--device", "cpu")
    common = (kind.cohort_toml, "--features", kind.features, "--study", kind.study)
    done = command("fit", *common, "--output", kind.study / "again", *options)
    assert done.code == 0, done.err
    words = {"number": "MAE +", "survival": "integrated Brier score +"}.get(kind.name, "balanced log loss +")
    assert words in done.out.replace(" -", " +") and "the backbone stays frozen" in done.out


def test_predictions_from_images_are_those_from_a_cache_of_its_backbone(
    kind: Kind, command: Command, tmp_path: Path
) -> None:
    model = kind.study / "tuned"
    asked = (model, kind.cohort_toml, "--device", "cpu")
    images, cached = tmp_path / "images.csv", tmp_path / "cache.csv"
    assert command("predict", *asked, "--cache", tmp_path / "one", "--output", images).code == 0
    weights = ("--backbone", "resnet18", "--weights", model / "backbone.safetensors", "--image-size", 32)
    options = ("--cache", tmp_path / "other", "--device", "cpu")
    features = command("extract", kind.cohort_toml, *weights, *options).out.strip()
    assert command("predict", *asked, "--features", features, "--output", cached).code == 0
    assert images.read_bytes() == cached.read_bytes()
    table = pd.read_csv(images)
    columns = VALUES.get(kind.name, ["probability:low", "probability:mid", "probability:high", "prediction"])
    assert len(table) == 27 and set(columns) <= set(table)
    assert np.isfinite(table[columns].to_numpy(float)).all()


def test_an_interrupted_fine_tuning_resumes_to_the_same_bits(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an interrupt in the second inner fold, and another one later on."""
    study = tmp_path / "study"
    shutil.copytree(kind.study, study, ignore=shutil.ignore_patterns("finetune", "tuned", "again"))
    advance = Finetuner.advance
    for steps in (3, 4):
        left = [steps]

        def fail_after(finetuner: Finetuner, left: list[int] = left) -> int:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return advance(finetuner)

        monkeypatch.setattr(Finetuner, "advance", fail_after)
        with pytest.raises(KeyboardInterrupt):
            kind.fit(study)
        assert checkpoints_of(study) and not (study / "tuned").exists()
    monkeypatch.setattr(Finetuner, "advance", advance)
    kind.fit(study)
    assert bits(study / "tuned") == bits(kind.study / "tuned")
    assert checkpoints_of(study) == {
        name: content for name, content in checkpoints_of(kind.study).items() if name in checkpoints_of(study)
    }


def test_inner_folds_train_on_the_targets_of_their_search(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut points and scales come from all training patients of the search, as in mil-tune."""
    setup, runs = kind.setup(), list[Run]()
    search = setup.outer[0]

    def record(setup: Setup, run: Run, progress: ProgressBar) -> Trained:
        runs.append(run)
        assert run.watched is not None
        outputs = run.patients.outcome.outputs
        shape = (len(run.watched), outputs) if outputs > 1 else (len(run.watched),)
        return Trained(np.zeros((3, 2, *shape)), None)

    monkeypatch.setattr(end_to_end, "train", record)
    frozen, tuned = end_to_end._inner_curves(setup, search, ProgressBar(0, "image", "fine-tuning"))
    labels = setup.patients.labels[search.patients]
    expected = setup.patients.outcome.fitted(labels)
    assert len(runs) == 2
    for run in runs:
        assert run.patients.outcome == expected == frozen.outcome == tuned.outcome
        assert run.patients.outcome.fitted(run.patients.labels) == expected


@pytest.mark.parametrize("name", KINDS)
def test_better_means_a_lower_loss_of_the_outcome(name: str) -> None:
    loss = OUTCOME_METRICS[name].loss
    metric = KINDS[name]().scoring.metrics[loss]
    assert not metric.higher_is_better
    lower, higher = Difference(-0.2, -0.4, -0.01, 0.01), Difference(0.2, 0.01, 0.4, 0.01)
    others = {other: higher for other in KINDS[name]().scoring.metrics}
    assert is_better(Comparison(None, others | {loss: lower}))
    assert not is_better(Comparison(None, dict.fromkeys(others, lower) | {loss: higher}))
