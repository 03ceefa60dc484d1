"""The hyperparameters as texts: which values are accepted, and which fields depend on others."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mil_toolkit.config.head import HeadConfig, is_active
from mil_toolkit.config.presets import PRESETS
from mil_toolkit.config.settings import head_config, parse_settings, set_options, setting_words
from mil_toolkit.config.tunable import tunables
from mil_toolkit.core.errors import UsageError

FIELDS = tunables(HeadConfig)
every_field = pytest.mark.parametrize("name", FIELDS)


def text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@every_field
def test_the_default_can_be_set(name: str) -> None:
    default = getattr(HeadConfig(), name)
    assert parse_settings([f"{name}={text(default)}"]) == {name: (default,)}


@every_field
def test_every_choice_is_completed(name: str) -> None:
    words = setting_words(f"{name}=")
    assert {text(choice) for choice in FIELDS[name].choices} <= {word.partition("=")[2] for word in words}
    assert all(parse_settings([word]) for word in words)
    if isinstance(getattr(HeadConfig(), name), bool):
        assert {f"{name}=true", f"{name}=false"} <= set(words)


@every_field
def test_every_value_that_a_search_tries_can_be_set(name: str) -> None:
    tunable = FIELDS[name]
    tried = [*tunable.search, *(bound for bound in (tunable.low, tunable.high) if bound is not None)]
    kind = type(getattr(HeadConfig(), name))
    for value in tried:
        assert parse_settings([f"{name}={text(kind(value))}"]) == {name: (value,)}
    assert not tunable.choices or set(tunable.search) <= set(tunable.choices)


@every_field
def test_a_field_needs_only_possible_values_of_earlier_fields(name: str) -> None:
    earlier = list(FIELDS)[: list(FIELDS).index(name)]
    for other, values in FIELDS[name].needs.items():
        assert other in earlier
        assert all(parse_settings([f"{other}={text(value)}"]) for value in values)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_values_of_a_preset_can_be_set(preset: str) -> None:
    for name, values in PRESETS[preset].items():
        assert parse_settings([f"{name}={','.join(map(text, values))}"]) == {name: values}


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ("poolng=mean", "'poolng' is not one of image_branch, standardise,"),
        ("pooling=median", "'median' is not one of attention, gated-attention,"),
        ("components=7", "'7' is not one of 0, 16, 32, 64, 128."),
        ("epochs=ten", "'ten' is not a whole number."),
        ("epochs=1.5", "'1.5' is not a whole number."),
        ("epochs=0", "must be at least 1, not 0."),
        ("learning_rate=fast", "'fast' is not a number."),
        ("learning_rate=nan", "'nan' is not finite."),
        ("learning_rate=inf", "'inf' is not finite."),
        ("weight_decay=-0.1", "must be at least 0, not -0.1."),
        ("instance_dropout=1", "must be at least 0 and below 1, not 1."),
        ("gamma=1.01", "must be at least 0 and at most 1, not 1.01."),
        ("class_weights=yes", "'yes' is neither true nor false."),
        ("standardise=site", "'site' is not one of true, false, group."),
        ("standardise=Group", "'Group' is not one of true, false, group."),
        ("epochs", "'' is not a whole number."),
    ],
)
def test_an_invalid_setting_is_refused(item: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_settings([item])
    assert str(caught.value).startswith(f"--set {item}: {problem}")


def test_words_may_stand_beside_true_and_false() -> None:
    settings = parse_settings(["standardise=true,group,False"])
    assert settings == {"standardise": (True, "group", False)}
    assert set_options(settings) == ["--set", "standardise=true,group,false"]
    assert head_config({"standardise": "group"}).standardise == "group"
    assert head_config({"standardise": True}).standardise is True


def test_every_invalid_setting_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        parse_settings(["epochs=ten", "hidden=64", "gamma=2"])
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["--set epochs=ten", "--set gamma=2"]


def test_several_values_form_a_list_to_search() -> None:
    assert parse_settings(["hidden=32,64", "pooling=mean"]) == {"hidden": (32, 64), "pooling": ("mean",)}


@given(st.floats(0, 0.999))
def test_a_number_keeps_every_digit(rate: float) -> None:
    assert parse_settings([f"embedding_dropout={rate!r}"]) == {"embedding_dropout": (rate,)}


def test_a_field_is_active_if_the_values_that_it_needs_are_set() -> None:
    values = dataclasses.asdict(HeadConfig())
    assert is_active(values, FIELDS["hidden"])
    assert not is_active(values | {"pooling": "mean"}, FIELDS["hidden"])
    assert not is_active(values, FIELDS["top_k"])
    assert is_active({}, FIELDS["epochs"])
    assert not is_active({}, FIELDS["pooling"])  # image_branch is not among the active fields
