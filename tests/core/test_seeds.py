"""Seeds: the paths and values that existing studies were made with."""

import itertools

import pytest

from mil_toolkit.core.seeds import (
    FINAL,
    FINETUNING,
    MEMBERS,
    SHUFFLED_LABELS,
    THINNING,
    derive_seed,
    derive_seeds,
    finetuning_path,
    inner_folds_path,
    members_path,
    outer_folds_path,
    shuffled_labels_path,
    thinning_path,
    trial_path,
)

PATHS = {
    "outer folds": outer_folds_path(0, 1),
    "inner folds": inner_folds_path(0, (1, 1)),
    "inner folds of the final search": inner_folds_path(0, FINAL),
    "trial": trial_path(7, (2, 3), 4),
    "members": members_path(0, FINAL),
    "images": thinning_path(0, (1, 1)),
    "fine-tuning": finetuning_path(0, (1, 1), "final"),
    "canary": shuffled_labels_path(0, 3),
}


def test_the_numbers_in_the_paths_never_change() -> None:
    assert (FINAL, MEMBERS, THINNING) == ((0, 0), 1_000_000, 1_000_001)
    assert (FINETUNING, SHUFFLED_LABELS) == (2_000_000, 2_000_000)


@pytest.mark.parametrize(
    ("name", "path", "seeds"),
    [
        ("outer folds", (0, 1, 0), [3578933982, 2260443800, 1783213810]),
        ("inner folds", (0, 1, 1), [2983480235, 4246046325, 845481708]),
        ("inner folds of the final search", (0, 0, 0), [1576890651, 2902887791, 607385081]),
        ("trial", (7, 2, 3, 4), [4182046779, 563772488, 372943682]),
        ("members", (0, 0, 0, 1000000), [1007510781, 2469094059, 4288243172]),
        ("images", (0, 1, 1, 1000001), [1649913203, 2377041335, 1554990664]),
        ("fine-tuning", (0, 1, 1, 2000000, 102, 105, 110, 97, 108), [891152291, 4088535624, 2826050643]),
        ("canary", (0, 2000000, 3), [2957917657, 2130340519, 806075517]),
    ],
)
def test_paths_and_seeds_never_change(name: str, path: tuple[int, ...], seeds: list[int]) -> None:
    assert PATHS[name] == path
    assert derive_seeds(3, *path) == seeds
    assert derive_seed(*path) == seeds[0]


def test_different_paths_have_different_seeds() -> None:
    paths = [*PATHS.values(), (), (0,), (0, 0), (1, 0), (0, 1), (0, 1, 0, 0)]
    assert len({derive_seed(*path) for path in paths}) == len(paths)


def test_more_seeds_of_a_path_begin_with_the_fewer() -> None:
    for fewer, more in itertools.combinations(range(1, 8), 2):
        assert derive_seeds(more, 3, 1, 4)[:fewer] == derive_seeds(fewer, 3, 1, 4)
