"""Options that take several values may come before or after the positional arguments."""

import argparse

import pytest
from support.commands import Command

from mil_toolkit.cli import ablate, fit, predict, tune
from mil_toolkit.core.argument_order import give_back

PARSERS = {"tune": tune._parser, "fit": fit._parser, "predict": predict._parser, "ablate": ablate._parser}
POSITIONAL = {"predict": ["bundle", "cohort.toml"]}
REQUIRED = {"tune": ["--study", "s"], "fit": ["--study", "s"], "predict": [], "ablate": ["--study", "s"]}


def parsed(name: str, words: list[str]) -> argparse.Namespace:
    parser = PARSERS[name]()
    return parser.parse_args(give_back(parser, words))


@pytest.mark.parametrize("values", [["A"], ["A", "B"]])
@pytest.mark.parametrize("name", PARSERS)
def test_both_orders_mean_the_same(name: str, values: list[str]) -> None:
    positional, required = POSITIONAL.get(name, ["cohort.toml"]), REQUIRED[name]
    expected = parsed(name, [*positional, *required, "--features", *values])
    assert expected.features == values and str(expected.cohort) == "cohort.toml"
    for words in (
        ["--features", *values, *positional, *required],
        [*required, "--features", *values, *positional],
        [*required, "--json", "--feat", *values, *positional],
        ["--features", *values, "--device", "auto", *required, *positional],
    ):
        assert {**vars(parsed(name, words)), "json": False} == vars(expected)


@pytest.mark.parametrize("name", ["fit", "predict"])
def test_checkpoints_may_come_first(name: str) -> None:
    positional, required = POSITIONAL.get(name, ["cohort.toml"]), REQUIRED[name]
    expected = parsed(name, [*positional, *required, "--weights", "w", "--features", "A"])
    assert parsed(name, ["--features", "A", "--weights", "w", *positional, *required]) == expected
    assert parsed(name, ["--weights", "w", *positional, "--features", "A", *required]) == expected


def test_one_of_two_positional_arguments_may_come_first() -> None:
    expected = parsed("predict", ["bundle", "cohort.toml", "--features", "A"])
    assert parsed("predict", ["bundle", "--features", "A", "cohort.toml"]) == expected
    assert parsed("predict", ["--features", "A", "bundle", "--device", "auto", "cohort.toml"]) == expected


def test_options_that_replace_an_argument_leave_the_values_of_others_alone() -> None:
    for images in (["--images", "F"], ["--images=F"], ["--imag", "F"], ["--set", "age=67"]):
        given = parsed("predict", ["bundle", *images, "--weights", "A", "B"])
        assert given.cohort is None and list(map(str, given.weights)) == ["A", "B"]
    assert parsed("predict", ["bundle", "--json"]).cohort is None  # which the command reports


def test_several_options_that_could_have_taken_it_are_an_error(command: Command) -> None:
    done = command("tune", "--features", "A", "c.toml", "--views", "A", "B", "--study", "s")
    assert done.code == 2 and done.out == ""
    assert "COHORT.toml must come before --features and --views, which take all values" in done.err


@pytest.mark.parametrize("words", [["--features", "A", "--study", "s"], ["--study", "s"]])
def test_missing_arguments_are_reported_as_ever(words: list[str], command: Command) -> None:
    done = command("fit", *words)
    assert done.code == 2 and "the following arguments are required: COHORT.toml" in done.err


def test_a_command_line_that_is_complete_stays_as_it_is() -> None:
    words = ["c.toml", "--study", "s", "--features", "A", "B", "--seed", "-1", "--views=A"]
    assert give_back(tune._parser(), words) == words
    assert give_back(tune._parser(), ["--features", "A", "--", "c.toml"])[-2:] == ["--", "c.toml"]
