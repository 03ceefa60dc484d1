"""Fine-tuning of a study: which model is kept, what the fine-tuned model can do, and how a run resumes."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from support.commands import Command
from support.processes import ended, fork_command, wait_until
from support.studies import Tiny

from mil_toolkit.backbones.backbones import Backbone, backbone_of, build_backbone
from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.fit import fit
from mil_toolkit.bundle.onnx import export_onnx
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.evaluation.records import Comparison, Difference
from mil_toolkit.features.bags import Bags
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.decoding import decode
from mil_toolkit.features.pixels import prepare
from mil_toolkit.features.spec import Spec
from mil_toolkit.study import finetuning as end_to_end
from mil_toolkit.study.finetuning import is_better
from mil_toolkit.training.checkpoints import read_tensors
from mil_toolkit.training.finetune import Finetuner
from mil_toolkit.training.patients import Patients

CONFIG = FinetuneConfig(epochs=2, backbone_rate=1e-3, chunk=8)
OPTIONS = ("--finetune", "--epochs", "2", "--backbone-rate", "0.001", "--chunk", "8", "--device", "cpu")
FILES = {"model.safetensors", "config.json", "scores.json", "README.md"}


@dataclass(frozen=True)
class Copy:
    """The tiny cohort and its study, to be changed."""

    cohort_toml: Path
    study: Path
    features: Path

    def fit(self, **changes: object) -> ModelBundle:
        options = {"finetune": CONFIG, "device": "cpu", "output": self.study / "tuned"} | changes
        cache = FeatureCache.open(self.features)
        return fit(read_cohort(self.cohort_toml), cache, self.study, **options)  # type: ignore[arg-type]

    @property
    def image(self) -> Path:
        """An image of the training patients."""
        return next(iter(sorted(self.cohort_toml.parent.glob("images/*/*"))))


@pytest.fixture(name="copy")
def _copy(tiny: Tiny, tmp_path: Path) -> Copy:
    cohort = shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort")
    return Copy(cohort / "cohort.toml", shutil.copytree(tiny.study, tmp_path / "study"), tiny.features)


@pytest.fixture(scope="module", name="whole")
def _whole(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A study with an uninterrupted fine-tuning that kept the frozen model; tests only read it."""
    study = shutil.copytree(tiny.study, tmp_path_factory.mktemp("whole") / "study")
    whole = Copy(tiny.cohort_toml, study, tiny.features)
    whole.fit()
    return whole


def bits(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def compared(low: float | None, high: float | None) -> Comparison:
    return Comparison(0.0, {"log_loss": Difference(None, low, high, None)})


def test_better_means_an_interval_below_zero() -> None:
    assert is_better(compared(-0.4, -0.01))
    assert not is_better(compared(-0.4, 0.01)) and not is_better(compared(0.1, 0.2))
    assert not is_better(compared(None, None))


def with_p_value(p_value: float) -> Comparison:
    return Comparison(0.0, {"log_loss": Difference(-0.2, -0.4, -0.01, p_value)})


def test_better_means_that_the_permutation_test_rejects_equality_too() -> None:
    assert is_better(with_p_value(0.05)) and not is_better(with_p_value(0.06))


def test_the_frozen_model_is_kept_where_fine_tuning_shows_no_gain(whole: Copy, tiny: Tiny) -> None:
    kept, frozen = bits(whole.study / "tuned"), bits(tiny.bundle)
    assert set(kept) == FILES and kept["model.safetensors"] == frozen["model.safetensors"]
    scores = json.loads(kept["scores.json"])
    finetuned = scores.pop("finetuned")
    assert scores == json.loads(frozen["scores.json"]), (
        "the outer score is that of the frozen model, which is kept"
    )
    assert not finetuned["kept"] and finetuned["outer"] == "not evaluated"
    assert finetuned["separate"] == {"patients": 12, "chose_nothing": True}
    assert finetuned["settings"]["unfreeze"] == "layer4"


def test_the_command_reports_which_model_was_kept_and_why(whole: Copy, command: Command) -> None:
    asked = (
        whole.cohort_toml,
        "--features",
        whole.features,
        "--study",
        whole.study,
        "--output",
        whole.study / "again",
    )
    said = command("fit", *asked, *OPTIONS)
    assert said.code == 0 and "separate split of 12 patients, who were held out in the study" in said.out
    assert "the backbone stays frozen" in said.out and "not evaluated. Add --outer" in said.out
    assert bits(whole.study / "again") == bits(whole.study / "tuned"), "nothing was trained again"


@pytest.fixture(scope="module", name="tuned")
def _tuned(whole: Copy, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The same with every comparison a gain, and with fine-tuning in the outer folds too."""
    study = shutil.copytree(whole.study, tmp_path_factory.mktemp("tuned") / "study")
    tuned = replace(whole, study=study)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(end_to_end, "is_better", lambda _: True)
        tuned.fit(output=study / "model")
        tuned.fit(output=study / "scored", outer=True)
    return tuned


def test_a_fine_tuned_model_has_an_outer_score_only_with_outer(tuned: Copy) -> None:
    scores = json.loads((tuned.study / "model" / "scores.json").read_text())
    assert (
        scores["finetuned"]["kept"]
        and scores["finetuned"]["outer"] == "not evaluated"
        and scores["outer"] is None
    )
    assert "not evaluated" in (tuned.study / "model" / "README.md").read_text()
    scored = json.loads((tuned.study / "scored" / "scores.json").read_text())
    assert scored["outer"] == scored["finetuned"]["outer"]
    assert scored["outer"]["balanced_accuracy"]["patients"] == 12, (
        "patients of the separate split are not scored"
    )
    assert scored["rivals"]["metadata_logistic"]["accuracy"]["patients"] == 12
    assert "trained together" in (tuned.study / "scored" / "README.md").read_text()


def test_its_backbone_is_trained_from_the_given_part_on(tuned: Copy) -> None:
    bundle = ModelBundle.load(tuned.study / "model")
    before = build_backbone("resnet18", "random")
    assert bundle.backbone is not None
    for name, each in before.network.state_dict().items():
        trained = name.startswith("layer4") and name.endswith(("weight", "bias"))
        assert torch.equal(each, bundle.backbone[name]) != trained, name
    assert bundle.about.features is not None and bundle.about.finetuned is not None
    spec = bundle.about.features.spec
    assert (
        spec["weight_digest"]
        == build_backbone("resnet18", bundle.backbone).weight_digest
        != before.weight_digest
    )
    assert bundle.about.finetuned.unfreeze == "layer4"
    assert bundle.head.member_count == 2 and bundle.head.model.config.epochs == bundle.about.epoch


def test_it_predicts_the_same_from_images_as_from_a_cache_of_its_backbone(
    tuned: Copy, command: Command, tmp_path: Path
) -> None:
    model = tuned.study / "model"
    asked = (model, tuned.cohort_toml, "--device", "cpu")
    assert (
        command("predict", *asked, "--cache", tmp_path / "one", "--output", tmp_path / "images.csv").code == 0
    )
    weights = ("--backbone", "resnet18", "--weights", model / "backbone.safetensors", "--image-size", 32)
    extracted = command(
        "extract", tuned.cohort_toml, *weights, "--cache", tmp_path / "other", "--device", "cpu"
    )
    features = extracted.out.strip()
    assert command("predict", *asked, "--features", features, "--output", tmp_path / "cache.csv").code == 0
    assert (tmp_path / "images.csv").read_bytes() == (tmp_path / "cache.csv").read_bytes()
    assert len(pd.read_csv(tmp_path / "images.csv")) == 27
    refused = command("predict", *asked, "--features", tuned.features, "--output", tmp_path / "frozen.csv")
    assert (
        refused.code == 3 and "weight_digest" in refused.err and "Its backbone was fine-tuned" in refused.err
    )


@pytest.mark.usefixtures("operators")
def test_its_onnx_model_has_the_fine_tuned_backbone(tuned: Copy, tmp_path: Path) -> None:
    bundle = ModelBundle.load(tuned.study / "model")
    export_onnx(bundle, tmp_path / "whole.onnx", images=True)
    cohort = read_cohort(tuned.cohort_toml)
    patient, *_ = cohort.patient_ids
    pixels = np.stack([prepare(decode(path.read_bytes()), 32, 0, "none") for path in cohort.images[patient]])
    encoded = bundle.head.encoder.encode(cohort.metadata.loc[[patient]])
    session = onnxruntime.InferenceSession(tmp_path / "whole.onnx", providers=["CPUExecutionProvider"])
    inputs = {"pixels": pixels, "metadata": encoded.to_numpy(np.float32)[0]}
    (exported,) = session.run(["probability"], inputs)[0]

    def probability(backbone: Backbone) -> float:
        embeddings = Embedder(backbone, torch.device("cpu"), torch.float32)(torch.from_numpy(pixels))
        bags = Bags.pack([embeddings], [patient], [""] * len(pixels))
        alone = Patients(bags, np.array([-1]), cohort.metadata.loc[[patient]])
        return float(bundle.probabilities(alone)[0][0])

    assert exported == pytest.approx(probability(bundle.build_backbone()), abs=2e-3)
    assert exported != pytest.approx(probability(build_backbone("resnet18", "random")), abs=2e-3)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--unfreeze", "layer4"), 2, "--unfreeze: only with --finetune"),
        (("--outer",), 2, "--outer: only with --finetune"),
        (("--finetune", "--unfreeze", "layer5"), 2, "'layer5' is not one of the parts"),
        (("--finetune", "--epochs", "0"), 2, "--epochs must be at least 1, not 0"),
        (("--finetune", "--backbone-rate", "-1"), 2, "--backbone-rate must be at least 0"),
        (("--finetune", "--weights", "gone.pth"), 2, "gone.pth"),
        (("--weights", "gone.pth"), 2, "--weights: only with --finetune or --onnx"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_cannot_work_are_refused(
    options: tuple[str, ...], code: int, message: str, tiny: Tiny, command: Command, tmp_path: Path
) -> None:
    asked = (
        tiny.cohort_toml,
        "--features",
        tiny.features,
        "--study",
        tiny.study,
        "--output",
        tmp_path / "model",
    )
    said = command("fit", *asked, *options)
    assert said.code == code and message in said.err
    assert not (tmp_path / "model").exists() and not (tiny.study / "finetune" / "config.json").exists()


def test_features_without_a_matching_backbone_cannot_be_fine_tuned(tiny: Tiny) -> None:
    imported: Spec = {**tiny.cache.spec, "weight_digest": None}
    with pytest.raises(UsageError, match="imported"):
        backbone_of(imported, None)
    from_file: Spec = {**tiny.cache.spec, "weights": "file"}
    with pytest.raises(UsageError, match="--weights PATH"):
        backbone_of(from_file, None)
    other: Spec = {**tiny.cache.spec, "weight_digest": "0" * 64}
    with pytest.raises(DataError, match="not the network that made the features"):
        backbone_of(other, None)


def checkpoints_of(study: Copy) -> list[Path]:
    return sorted(study.study.glob("finetune/*/*/*.safetensors"))


def test_a_killed_run_resumes_to_the_same_bits(whole: Copy, copy: Copy) -> None:
    """In another process, killed in the first fold; the study folder has the same name."""
    asked = (
        copy.cohort_toml,
        "--features",
        copy.features,
        "--study",
        copy.study,
        "--output",
        copy.study / "tuned",
    )
    process = fork_command("fit", *asked, *OPTIONS)
    wait_until(lambda: checkpoints_of(copy) or ended(process))
    os.kill(process, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    (path,) = checkpoints_of(copy)
    assert read_tensors(path)[1]["finished"] is False
    assert not (copy.study / "tuned").exists(), "no incomplete model"
    (path.parent / ".tmp-00000000deadbeef").write_bytes(b"as after a kill a moment earlier")
    copy.fit()
    assert bits(copy.study / "tuned") == bits(whole.study / "tuned")
    kept, expected = checkpoints_of(copy), checkpoints_of(whole)
    assert [path.read_bytes() for path in kept] == [path.read_bytes() for path in expected]
    assert not list(copy.study.rglob(".tmp-*"))


def vanish(image: Path) -> None:
    image.unlink()


def change(image: Path) -> None:
    image.write_bytes(image.read_bytes() + b"\0")


def appear(image: Path) -> None:
    shutil.copy(image, image.with_name("new.jpg"))


@pytest.mark.parametrize("happens", [vanish, change, appear])
def test_images_that_change_during_training_end_it(
    happens: Callable[[Path], None], copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, steps = Finetuner.advance, iter(range(100))

    def first_advance(self: Finetuner) -> int:
        if next(steps) == 1:
            happens(copy.image)
        return advance(self)

    monkeypatch.setattr(Finetuner, "advance", first_advance)
    message = "new.jpg has appeared" if happens is appear else f"{copy.image.name} has {happens.__name__}"
    with pytest.raises(DataError, match=message):
        copy.fit(finetune=replace(CONFIG, epochs=1))
    assert not (copy.study / "tuned").exists()


def test_all_images_that_differ_from_the_features_are_reported_together(copy: Copy) -> None:
    image = copy.image
    appear(image)
    vanish(image)
    with pytest.raises(DataError) as caught:
        copy.fit()
    assert "new.jpg has appeared" in str(caught.value) and f"{image.name} has vanished" in str(caught.value)
