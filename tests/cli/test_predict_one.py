"""mil-predict for one patient: the same as for a cohort of only this patient, and every wrong value."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from support.commands import Command, Done
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle

PATIENT = "P003"
REFERENCE = "2020-12-31"  # of the tiny cohort
Predict = Callable[..., Done]


def texts_of(tiny: Tiny, patient: str) -> list[str]:
    """Return --set with the cells of a patient's row; the date of birth in ISO format."""
    table = pd.read_csv(tiny.cohort_toml.parent / "patients.csv", dtype=str, keep_default_na=False)
    row = table.set_index("ID").loc[patient]
    day, month, year = row["BIRTH"].split("/")
    values = {
        "age": f"{year}-{month}-{day}",
        "sex": row["SEX"],
        "lymphocyte_count": row["LYMPHOCYTES"],
    }
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(name="images")
def _images(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of the images of one patient."""
    return shutil.copytree(tiny.cohort_toml.parent / "images" / PATIENT, tmp_path / "one" / PATIENT)


@pytest.fixture(name="predict")
def _predict(tiny: Tiny, images: Path, command: Command) -> Predict:
    """Return a function that predicts the patient, with further options."""

    def predict(*options: object, values: list[str] | None = None) -> Done:
        given = texts_of(tiny, PATIENT) if values is None else values
        return command("predict", tiny.bundle, "--images", images, *given, "--reference", REFERENCE, *options)

    return predict


def test_one_patient_is_predicted_as_in_a_cohort_to_the_bit(
    tiny: Tiny, predict: Predict, images: Path, tmp_path: Path, command: Command
) -> None:
    before = {path for path in tmp_path.rglob("*")}
    done = predict("--json", "--abstain", 0.2)
    assert done.code == 0, done.err
    assert {path for path in tmp_path.rglob("*")} == before  # nothing is left on disk
    cohort = tmp_path / "cohort"
    shutil.copytree(tiny.cohort_toml.parent, cohort)
    table = pd.read_csv(cohort / "patients.csv", dtype=str, keep_default_na=False)
    table[table["ID"] == PATIENT].assign(DIAGNOSIS="").to_csv(cohort / "patients.csv", index=False)
    for folder in (cohort / "images").iterdir():
        if folder.name != PATIENT:
            shutil.rmtree(folder)
    options = ("--cache", tmp_path / "cache", "--abstain", 0.2)
    tables = ("--output", tmp_path / "p.csv", "--attention", tmp_path / "a.csv")
    assert command("predict", tiny.bundle, cohort / "cohort.toml", *options, *tables).code == 0
    (row,) = pd.read_csv(tmp_path / "p.csv").to_dict("records")
    one = done.json
    assert one["prediction"]["probability"] == row["probability"]
    assert one["prediction"]["spread"] == row["spread"]
    assert (one["in_domain"], one["set"]) == (row["in_domain"], row["set"])
    mine = ("--output", tmp_path / "p1.csv", "--attention", tmp_path / "a1.csv", "--abstain", 0.2)
    assert predict(*mine).code == 0
    for name in ("p", "a"):
        assert (tmp_path / f"{name}1.csv").read_bytes() == (tmp_path / f"{name}.csv").read_bytes()


def test_the_answer_is_in_words(tiny: Tiny, predict: Predict) -> None:
    done = predict("--abstain", 0.2)
    assert done.code == 0, done.err
    data = predict("--json", "--abstain", 0.2).json
    threshold = ModelBundle.load(tiny.bundle).decision.constants["threshold"]
    positive = data["prediction"]["probability"] >= threshold
    assert data["decision"] == ("tumoral" if positive else "reactive")
    assert f"Probability of tumoral {data['prediction']['probability']:.3f}" in done.out
    relation = "at or above" if positive else "below"
    assert f"the probability is {relation} the threshold of {threshold:.3f}" in done.out
    assert f"Set at an error rate of 0.2: {data['set']}" in done.out
    assert f"Patient {PATIENT}, " in done.out and "(from the date of birth, on 2020-12-31)" in done.out
    assert data["fitted_on"] is True and "may have been, fitted on this patient" in done.out


def test_an_age_may_be_given_in_years_and_a_number_with_its_unit(tiny: Tiny, predict: Predict) -> None:
    first = predict("--json").json["values"]
    values = [f"age={first['age']!r}", "sex=f", f"lymphocyte_count={first['lymphocyte_count']} 10^9/L"]
    words = [word for value in values for word in ("--set", value)]
    assert predict("--json", values=words).json["values"] == {**first, "sex": "F"}


def test_all_wrong_values_and_images_are_reported_together(predict: Predict, images: Path) -> None:
    (images / "broken.png").write_bytes(b"not an image")
    done = predict(values=["--set", "agee=67", "--set", "sex=X", "--set", "lymphocyte_count=12,3"])
    assert done.code == 3 and done.out == ""
    assert "--set agee: the model has no such column. Did you mean 'age'?" in done.err
    assert "age is missing. No training patient lacked it" in done.err
    assert "--set sex: 'X' is a word that no training patient had. Expected: 'F', 'M'." in done.err
    assert "'12,3' has a decimal comma" in done.err
    assert "Expected: a number in 10^9/L above 0; training patients had" in done.err
    assert "broken.png" in done.err


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("age=old", "is neither an age nor a date of birth. Expected: an age in years, or a date of birth"),
        ("age=1950", "is not an age between 0 and 130 years"),
        ("age=2050-01-01", "after the reference 2020-12-31"),
        ("age=1950-13-01", "Expected: an age in years"),
        ("lymphocyte_count=0", "is not above 0"),
        ("lymphocyte_count=12 g/L", "is not a number in the unit of the model"),
        ("lymphocyte_count=nan!", "is not a finite number"),
        ("lymphocyte_count=1210^9/L", "has no space between the number and the unit. Expected: a number in"),
        ("lymphocyte_count=12,300", "contains a comma, so it is 12.300 or 12300. Write a decimal point, or"),
        ("lymphocyte_count=-5 000", "is not above 0, so it has no logarithm. Expected"),
        ("lymphocyte_count=<5", "is a limit, not a number. Give the value to use in its place. Expected"),
    ],
)
def test_a_wrong_value_says_what_is_expected(value: str, reason: str, tiny: Tiny, predict: Predict) -> None:
    name = value.partition("=")[0]
    others = texts_of(tiny, PATIENT)
    place = next(place for place, word in enumerate(others) if word.startswith(f"{name}="))
    others[place] = value
    done = predict(values=others)
    assert done.code == 3 and reason in done.err and done.err.count("--set") == 1


def test_a_value_may_be_missing_only_where_training_patients_lacked_it(tiny: Tiny, predict: Predict) -> None:
    encoders = {one.name: one.had_missing for one in ModelBundle.load(tiny.bundle).head.encoder.encoders}
    assert set(encoders.values()) == {True, False}
    words = texts_of(tiny, PATIENT)
    for name, had_missing in encoders.items():
        place = next(place for place, word in enumerate(words) if word.startswith(f"{name}="))
        absent = [*words[: place - 1], *words[place + 1 :]]
        for values in (absent, [*absent, "--set", f"{name}=NA"]):
            done = predict(values=values)
            if had_missing:
                assert done.code == 0 and f"Warning: {name} is missing. The model was fitted with" in done.out
            else:
                assert done.code == 3 and f"{name} is missing. No training patient lacked it" in done.err


def test_folders_without_usable_images_are_refused(
    tiny: Tiny, tmp_path: Path, command: Command, predict: Predict, images: Path
) -> None:
    given = texts_of(tiny, PATIENT)
    empty, text = tmp_path / "empty", tmp_path / "text"
    for folder in (empty, text):
        folder.mkdir()
    (text / "notes.txt").write_text("no image")
    for folder, reason in (
        (tmp_path / "none", "does not exist"),
        (text / "notes.txt", "is not a folder"),
        (empty, "has no images"),
        (text, "has no images"),
    ):
        done = command("predict", tiny.bundle, "--images", folder, *given)
        assert done.code == 3 and reason in done.err and done.err.count("\n") == 1 + ("Ignoring" in done.err)
    Image.new("RGB", (40, 40)).save(images / "good.png")
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    done = predict()
    assert done.code == 3 and "broken.jpg" in done.err and "Repair or remove these images" in done.err
    assert "good.png" not in done.err


def test_usage_errors_are_reported_together(tiny: Tiny, images: Path, command: Command) -> None:
    words = ("--set", "age=67", "--set", "age=68", "--set", "sex", "--reference", "tomorrow")
    done = command(
        "predict", tiny.bundle, tiny.cohort_toml, "--images", images, *words, "--features", tiny.features
    )
    assert done.code == 2
    assert "COHORT.toml and --images are both given" in done.err
    assert "--set age is given 2 times: '67', '68'" in done.err
    assert "--set takes NAME=VALUE, such as age=67, not 'sex'" in done.err
    assert "--features: cannot be used for one patient" in done.err
    assert "--reference must be a day as YYYY-MM-DD, not 'tomorrow'" in done.err
    none = command("predict", tiny.bundle)
    assert none.code == 2 and "COHORT.toml is missing. For one patient, use --images" in none.err
    alone = command("predict", tiny.bundle, "--set", "age=67")
    assert alone.code == 2 and "--set without --images: the model looks at images" in alone.err
    page = command("predict", tiny.bundle, tiny.cohort_toml, "--page", images / "p.html")
    assert page.code == 2 and "--page: can only be used" in page.err


def test_options_without_an_effect_are_refused_together(
    tiny: Tiny, predict: Predict, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = predict("--cache", "elsewhere", "--submission-header", "A,B")
    assert done.code == 2 and "--cache, --submission-header: cannot be used for one patient" in done.err
    options = ("--microns-per-pixel", 0.25, "--weights", "none.pth", "--batch-size", 4)
    page = ("--page", "none.html", "--saliency")
    bundle = ModelBundle.load(tiny.bundle)
    model = replace(bundle, about=replace(bundle.about, features=None))
    monkeypatch.setattr(ModelBundle, "load", lambda folder: model)
    blind = command("predict", tiny.bundle, *texts_of(tiny, PATIENT), *options, *page)
    assert blind.code == 2 and not Path("none.html").exists()
    assert "--saliency, --microns-per-pixel, --weights, --batch-size: this model does not look" in blind.err


def test_outputs_in_the_folder_of_images_are_refused_together(predict: Predict, images: Path) -> None:
    before = sorted(images.iterdir())
    done = predict("--page", images / "page.html", "--output", images / "deep" / "table.csv")
    assert done.code == 2 and sorted(images.iterdir()) == before
    assert "--page: " in done.err and "--output: " in done.err and "is inside an image folder" in done.err


# The page.


def test_the_first_images_are_shown_where_all_counted_the_same(
    predict: Predict, images: Path, tmp_path: Path
) -> None:
    _, *others = sorted(images.iterdir())
    for image in others:
        image.unlink()
    page = tmp_path / "page.html"
    assert predict("--page", page, "--saliency").code == 0
    html = page.read_text()
    assert "All images of this patient counted the same" in html and html.count("data:image/jpeg") == 2
    assert "In the second picture" in html


def test_the_page_is_one_file_with_warnings_answer_and_images(
    tiny: Tiny, predict: Predict, images: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    done = predict("--page", page, "--abstain", 0.2, "--json")
    assert done.code == 0 and done.json["page"] == str(page), done.err
    html = page.read_text()
    assert html.index("Read this first") < html.index("The answer") < html.index("Images that counted")
    assert f"<bdi>{done.json['decision']}</bdi>" in html and "<script" not in html
    assert "default-src 'none'; img-src data:" in html and "http" not in html.split("</head>")[1]
    assert html.count('src="data:image/jpeg;base64,') == len(list(images.iterdir()))
    assert "logit" not in html and "standard deviation" not in html
    assert "24 patients of synthetic" in html and "(of the model" in html
    assert predict("--page", page).code == 0  # a former page is replaced
    other = tmp_path / "other.html"
    other.write_text("<!doctype html>")
    refused = predict("--page", other)
    assert refused.code == 2 and "is not a page of one patient" in refused.err


def test_hostile_names_stay_text_on_the_page(
    tiny: Tiny, images: Path, tmp_path: Path, command: Command
) -> None:
    folder = images.rename(images.with_name("<img src=x onerror=alert(1)>"))
    first = min(folder.iterdir())
    first.rename(first.with_name("<b>{{ 7 * 7 }}.jpg"))
    page = tmp_path / "page.html"
    given = texts_of(tiny, PATIENT)
    done = command("predict", tiny.bundle, "--images", folder, *given, "--page", page)
    assert done.code == 0, done.err
    html = page.read_text()
    assert "<img src=x" not in html and "&lt;img src=x onerror=alert(1)&gt;" in html
    assert "<b>{{" not in html and "&lt;b&gt;{{ 7 * 7 }}.jpg" in html


def test_saliency_adds_a_second_picture_to_each_image(predict: Predict, images: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = predict("--page", page, "--saliency")
    assert done.code == 0, done.err
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 2 * len(list(images.iterdir()))
    assert html.count(": the places that count") == len(list(images.iterdir()))
    assert "keep their colours" in html
    alone = predict("--saliency")
    assert alone.code == 2 and "--saliency is shown on a page: name it with --page" in alone.err
