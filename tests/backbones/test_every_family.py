"""Every family of timm: `pytest -m slow tests/backbones/test_every_family.py`, or `tox -e slow`."""

import contextlib
import time

import pytest
import torch

from mil_toolkit.backbones.backbones import build_backbone, preprocessing_of
from mil_toolkit.backbones.embedder import fuse_batch_norm
from mil_toolkit.core.errors import MilError

TRIED = 8  # models of a family whose sizes are compared
SIZES = (96, 224)


def smallest_models() -> list[str]:
    """The model with the fewest parameters of each family that is built within a second."""
    timm = pytest.importorskip("timm")
    found = []
    for family in timm.list_modules():
        sizes = {}
        names = sorted(timm.list_models(module=family), key=lambda name: (len(name), name))
        for name in names[:TRIED]:
            begun = time.process_time()
            with torch.device("meta"), contextlib.suppress(Exception):  # that timm cannot build so
                network = timm.create_model(name)
                sizes[name] = sum(parameter.numel() for parameter in network.parameters())
            if time.process_time() - begun > 1:
                sizes.pop(name, None)
        if sizes and min(sizes.values()) < 6e7:
            found.append(min(sizes, key=sizes.__getitem__))
    return found


def problems_of(model: str) -> list[str]:
    """What is wrong with a model at its own size."""
    import timm

    name = f"timm:{model}"
    backbone = build_backbone(name, "random")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        images = torch.randn(2, 3, backbone.image_size, backbone.image_size)
        state = dict(timm.create_model(model).state_dict())
    with torch.inference_mode():
        embeddings, folded = backbone.network(images), fuse_batch_norm(backbone.network)(images)
    problems = []
    if tuple(embeddings.shape) != (2, backbone.width):
        problems.append(f"{name}: the width is {backbone.width}, not that of {tuple(embeddings.shape)}")
    if not (folded - embeddings).norm() <= 1e-3 * embeddings.norm():
        problems.append(f"{name}: folding changes the embeddings")
    whole = build_backbone(name, state).network.state_dict()
    if not all(torch.equal(tensor, state[key]) for key, tensor in whole.items() if key in state):
        problems.append(f"{name}: the tensors of the whole model are not those that are loaded")
    if preprocessing_of(name, "random") != backbone.identity.preprocessing:
        problems.append(f"{name}: the preprocessing depends on how it is asked for")
    return problems


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_every_family_of_timm_is_used_or_refused_in_a_sentence() -> None:
    problems, refused, used = [], [], []
    for model in smallest_models():
        try:
            problems += problems_of(model)
            used.append(model)
        except MilError as error:
            refused.append(f"{model}: {error}")
        except Exception as error:  # noqa: BLE001 - what the test looks for
            problems.append(f"{model}: {type(error).__name__}: {error}")
        for side in SIZES:
            try:
                build_backbone(f"timm:{model}", "random", side)
            except MilError as error:
                if "\n" in str(error):
                    problems.append(f"{model} at {side}: several lines: {error}")
            except Exception as error:  # noqa: BLE001 - what the test looks for
                problems.append(f"{model} at {side}: {type(error).__name__}: {error}")
    print(f"{len(used)} families are used, {len(refused)} are refused:", *refused, sep="\n")
    assert not problems, "\n".join(problems)
    assert len(used) > 3 * len(refused)
