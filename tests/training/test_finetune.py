"""`Finetuner`: steps of a backbone with its heads, and its checkpoints."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.outcomes import OUTCOMES, with_outcome
from support.studies import Tiny

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.features import image_files
from mil_toolkit.features.colour import Colour
from mil_toolkit.features.decoding import Decoded, decode_noting
from mil_toolkit.features.image_files import ImageFiles
from mil_toolkit.features.kept_pixels import KeptPixels
from mil_toolkit.training import finetune
from mil_toolkit.training.checkpoints import publish_tensors, read_tensors
from mil_toolkit.training.finetune import Finetuner, FinetunerOptions
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

CONFIG = FinetuneConfig(epochs=2, backbone_rate=1e-3, chunk=8)


def finetuner(
    tiny: Tiny, folder: Path, config: FinetuneConfig = CONFIG, outcome: str | None = None, **head: object
) -> Finetuner:
    cohort = tiny.cohort.labelled().select(tiny.cohort.labelled().patient_ids[:10])
    patients = Patients.of(cohort, tiny.cache)
    if outcome is not None:
        patients = with_outcome(patients, OUTCOMES[outcome])
    settings = HeadConfig(**{"hidden": 8, "components": 16, "batch_size": 4} | head)  # type: ignore[arg-type]
    fitted = refit(patients, settings, epoch=2, member_count=3, seed=(1,))
    options = FinetunerOptions(config, (5,), torch.device("cpu"), folder)
    return Finetuner(
        build_backbone("resnet18", "random"), fitted, patients, ImageFiles(cohort, tiny.cache), options
    )


@pytest.mark.parametrize("outcome", [None, *OUTCOMES])
def test_it_resumes_in_the_middle_of_an_epoch(outcome: str | None, tiny: Tiny, tmp_path: Path) -> None:
    straight, stopped = (finetuner(tiny, tmp_path, outcome=outcome) for _ in range(2))
    for _ in range(5):  # of three an epoch
        straight.advance()
    stopped.advance()
    stopped.advance()
    publish_tensors(tmp_path / "state.safetensors", stopped.tensors(), stopped.state())
    resumed = finetuner(tiny, tmp_path, outcome=outcome)
    resumed.restore(*read_tensors(tmp_path / "state.safetensors"))
    for _ in range(3):
        resumed.advance()
    assert (resumed.epoch, resumed.step) == (straight.epoch, straight.step) == (1, 2)
    tensors = resumed.tensors()
    for name, each in straight.tensors().items():
        assert torch.equal(each, tensors[name]), name
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".safetensors"], (
        "temporary files have no name"
    )


def test_images_are_decoded_in_the_first_epoch_only(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory has room for their pixels; the bits are the same where it has none."""
    decoded: list[bytes] = []
    decode, now = decode_noting, time.time_ns() + 10**10  # the images were written long ago

    def decode_counting(content: bytes, colour: Colour | None = None) -> Decoded:
        decoded.append(content)
        return decode(content, colour)

    monkeypatch.setattr(time, "time_ns", lambda: now)
    monkeypatch.setattr(image_files, "decode_noting", decode_counting)
    keeping, reading = finetuner(tiny, tmp_path), finetuner(tiny, tmp_path)
    reading.files.kept = KeptPixels(0)
    for trained in (keeping, reading):
        decoded.clear()
        while trained.epoch < 2:
            trained.advance()
        assert trained.patients.bags is not None
        images = len(trained.patients.bags.instances)
        assert len(decoded) == (images if trained is keeping else 2 * images)
    tensors = reading.tensors()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in keeping.tensors().items())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"instance_layers": 1, "pooling": "dsmil"},
        {"pooling": "clam"},
        *({"outcome": name} for name in OUTCOMES),
    ],
    ids=str,
)
def test_bags_processed_one_after_the_other_are_one_mini_batch(
    changes: dict[str, object], tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = dict.fromkeys(("instance_dropout", "embedding_dropout", "instance_layer_dropout"), 0.0)
    together, apart = (finetuner(tiny, tmp_path, **rates, **changes) for _ in range(2))  # type: ignore[arg-type]
    for each in (together, apart):
        # Augmentation would depend on the chunk in which an image is drawn.
        monkeypatch.setattr(finetune, "augment", lambda pixels, jitter, random: pixels)
        monkeypatch.setattr(each, "_move", lambda: None)
        each.advance()
        monkeypatch.setattr(finetune, "IMAGES_AT_ONCE", 1)
    for name, parameter in together.halves.parameters.items():
        other = apart.halves.parameters[name].grad
        assert parameter.grad is not None and other is not None
        assert (parameter.grad - other).norm() <= 0.05 * parameter.grad.norm() + 1e-8, name


def test_the_members_learn_through_their_shared_backbone(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same steps of the heads, the loss falls further if the backbone moves too."""
    monkeypatch.setattr(finetune, "augment", lambda pixels, jitter, random: pixels)
    settings = {
        "metadata_branch": "none",
        "instance_dropout": 0.0,
        "embedding_dropout": 0.0,
        "batch_size": 10,
    }
    losses = []
    for rate in (0.0, 1e-4):
        tuning = finetuner(tiny, tmp_path, replace(CONFIG, backbone_rate=rate), **settings)
        labels = tuning.patients.labels
        while tuning.epoch < 6:
            tuning.advance()
        logits = tuning.predict(tuning.patients)
        assert logits.shape == (3, 10)
        losses.append(np.logaddexp(0, np.where(labels == 1, -logits, logits)).mean(1))
    assert (losses[1] < losses[0] - 0.01).all(), "each member's own loss"


def test_scaled_losses_move_the_same_and_an_overflow_moves_only_the_heads(tiny: Tiny, tmp_path: Path) -> None:
    """As float16 requires on a GPU, but in the precision of the CPU: powers of two scale without rounding."""
    plain, scaled, overflown = (finetuner(tiny, tmp_path) for _ in range(3))
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    overflown.scaler = torch.amp.GradScaler("cpu", init_scale=float("inf"))
    before = {name: tensor.clone() for name, tensor in plain.tensors().items()}
    for tuning in (plain, scaled, overflown):
        tuning.advance()
    others, moved_heads = scaled.tensors(), overflown.tensors()
    for name, tensor in plain.tensors().items():
        torch.testing.assert_close(others[name], tensor)
        if not name.startswith("adamw"):
            moved = moved_heads[name]
            torch.testing.assert_close(moved, before[name] if name.startswith("backbone") else tensor)


def test_a_backbone_that_diverges_is_reported(tiny: Tiny, tmp_path: Path) -> None:
    tuning = finetuner(tiny, tmp_path)
    with torch.no_grad():
        tuning.halves.parameters["layer4.0.conv1.weight"].fill_(float("nan"))
    with pytest.raises(DataError, match="--backbone-rate"):
        tuning.predict(tuning.patients)
