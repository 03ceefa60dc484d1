"""Recognising training patients: by id, by any image, and telling nothing else about them."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.bundles import ABOUT, change_config
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.bundle import membership
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.fit import fit
from mil_toolkit.bundle.membership import ANONYMOUS, SCRYPT, Scrypt, TrainingMarks, image_digests
from mil_toolkit.bundle.predict import predict
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.core.errors import DataError
from mil_toolkit.features.cache import FeatureCache

EditCohort = Callable[[Callable[[pd.DataFrame], object]], Path]
Renew = Callable[..., tuple[Cohort, FeatureCache]]
SALT = "5a" * 16


def digests(*words: str) -> frozenset[bytes]:
    return frozenset(hashlib.sha256(word.encode()).digest() for word in words)


@pytest.fixture(name="marks", scope="module")
def _marks() -> TrainingMarks:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(membership, "SCRYPT", SCRYPT)  # which a fixture of all tests replaces
        return TrainingMarks.of(["P1", "Müller 7"], [digests("a", "b"), digests("c")], SALT)


@pytest.fixture(name="bundle", scope="module")
def _bundle(tiny: Tiny) -> ModelBundle:
    return ModelBundle.load(tiny.bundle)


# The marks.


@pytest.mark.parametrize("patient_id", ["P1", "p1", " P1 ", "Müller 7", "Mu\u0308ller 7", "MÜLLER 7"])
def test_an_id_is_recognised_without_images_in_any_spelling(patient_id: str, marks: TrainingMarks) -> None:
    assert marks.recognise([patient_id], [frozenset()]).tolist() == [True]


@pytest.mark.parametrize("words", [("a",), ("x", "b"), ("c", "y", "z")])
def test_one_known_image_is_enough(words: tuple[str, ...], marks: TrainingMarks) -> None:
    assert marks.recognise(["other"], [digests(*words)]).tolist() == [True]


def test_others_are_not_recognised(marks: TrainingMarks) -> None:
    ids = ["P2", "P11", "1", "", "Müller", "\udc80"]
    assert not marks.recognise(ids, [digests("x", str(place)) for place in range(6)]).any()
    assert marks.recognise([], []).shape == (0,)


def test_ids_are_keys_of_scrypt_and_cost_memory_and_time(marks: TrainingMarks) -> None:
    salt = bytes.fromhex(SALT)
    expected = hashlib.scrypt(b"p1", salt=salt, n=2**14, r=8, p=1, maxmem=2**26, dklen=16)
    assert expected.hex() in marks.ids and marks.scrypt == Scrypt(n=2**14, r=8, p=1)


def test_another_salt_gives_other_keys(marks: TrainingMarks) -> None:
    other = TrainingMarks.of(["P1"], [digests("a", "b")], "00" * 16)
    assert not {*other.ids, *other.images} & {*marks.ids, *marks.images}


def test_the_order_of_the_marks_tells_nothing() -> None:
    ids, images = [f"P{number}" for number in range(6)], [digests(str(number)) for number in range(6)]
    one = TrainingMarks.of(ids, images, SALT)
    assert one == TrainingMarks.of(ids[::-1], images[::-1], SALT)
    assert one.ids == sorted(one.ids) and one.images == sorted(one.images)


def test_image_digests_are_those_of_the_image_files(tiny: Tiny) -> None:
    patient = tiny.cohort.patient_ids[0]
    folder = tiny.cohort_toml.parent / "images" / patient
    expected = {hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}
    assert list(image_digests(tiny.cache, [patient])) == [expected]
    assert list(image_digests(None, ["a", "b"])) == [frozenset(), frozenset()]


# Whom predict takes for a new patient.


@pytest.mark.parametrize("column", ["LYMPHOCYTES", "DIAGNOSIS", "SEX"])
def test_patients_with_edited_values_are_still_training_patients(
    column: str, tiny: Tiny, bundle: ModelBundle, edit_cohort: EditCohort
) -> None:
    def edit(table: pd.DataFrame) -> None:
        if column == "LYMPHOCYTES":
            known = table[column] != "NA"
            table.loc[known, column] = [repr(float(value) + 0.01) for value in table.loc[known, column]]
        else:
            table.loc[:23, column] = table.loc[:23, column].iloc[::-1].to_numpy()  # all that have a label

    predictions = predict(bundle, read_cohort(edit_cohort(edit)), tiny.cache)
    assert predictions.validation is None and predictions.unknown is None
    assert predictions.training is not None and predictions.training["auc"].patients in (21, 24)


def test_other_ids_do_not_hide_the_images(bundle: ModelBundle, renew: Renew) -> None:
    predictions = predict(bundle, *renew(24, images=False))
    assert predictions.validation is None and predictions.training is not None
    assert predictions.training["auc"].patients == 24


def test_other_images_do_not_hide_the_ids(bundle: ModelBundle, renew: Renew) -> None:
    predictions = predict(bundle, *renew(24, ids=False))
    assert predictions.validation is None and predictions.training is not None


def test_other_ids_and_other_images_are_new_patients(bundle: ModelBundle, renew: Renew) -> None:
    cohort, cache = renew(12)
    predictions = predict(bundle, cohort, cache)
    assert predictions.fitted_on == cohort.labelled().patient_ids[12:]
    assert predictions.validation is not None and predictions.validation["auc"].patients == 12


def test_the_command_names_training_patients(
    tiny: Tiny, edit_cohort: EditCohort, command: Command, tmp_path: Path
) -> None:
    def edit(table: pd.DataFrame) -> None:
        table["LYMPHOCYTES"] = "7.25"

    options = ("--features", tiny.features, "--output", tmp_path / "p.csv", "--json")
    done = command("predict", tiny.bundle, edit_cohort(edit), *options)
    assert done.json["validation"] is None and done.json["unknown"] is None
    assert done.json["training"]["auc"]["patients"] == 24
    assert done.json["fitted_on"] == list(tiny.cohort.labelled().patient_ids)


# Bundles that do not say whom they were fitted on.


@pytest.fixture(name="anonymous", scope="module")
def _anonymous(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("anonymous") / "model"
    fit(tiny.cohort, tiny.cache, tiny.study, output, "cpu", anonymous=True)
    return output


def older(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle in the form of schema 1."""
    copied = shutil.copytree(bundle, folder)

    def change(config: dict) -> None:  # type: ignore[type-arg]
        config["schema"] = 1
        config["about"]["fitted_on"] = [f"{number:016x}" for number in range(24)]

    change_config(copied, change)
    return copied


@pytest.mark.parametrize("kind", ["anonymous", "older"])
def test_scores_are_neither_external_nor_training_where_the_bundle_does_not_say(
    kind: str, tiny: Tiny, anonymous: Path, tmp_path: Path, command: Command
) -> None:
    bundle = anonymous if kind == "anonymous" else older(tiny.bundle, tmp_path / "model")
    options = (bundle, tiny.cohort_toml, "--features", tiny.features, "--output", tmp_path / "p.csv")
    done = command("predict", *options)
    assert done.code == 0 and "may contain training patients" in done.out
    assert "External validation" not in done.out and "is not external validation" in done.out
    assert ("--anonymous" if kind == "anonymous" else "Fit the model again") in done.out
    data = command("predict", *options, "--json").json
    assert (data["validation"], data["training"], data["fitted_on"]) == (None, None, None)
    assert data["unknown"]["auc"]["patients"] == 24


def test_older_bundles_predict_the_same_bits_and_stay_what_they_are(tiny: Tiny, tmp_path: Path) -> None:
    old = ModelBundle.load(older(tiny.bundle, tmp_path / "model"))
    new = ModelBundle.load(tiny.bundle)
    tables = [predict(bundle, tiny.cohort, tiny.cache).table for bundle in (old, new)]
    assert tables[0].equals(tables[1])
    old.save(tmp_path / "saved")
    assert ModelBundle.load(tmp_path / "saved").about == old.about


# What a bundle tells about its patients.


def test_an_anonymous_bundle_holds_nothing_of_single_patients(
    tiny: Tiny, anonymous: Path, bundle: ModelBundle
) -> None:
    about = ModelBundle.load(anonymous).about
    assert about.features is not None and bundle.about.features is not None
    features = replace(bundle.about.features, digest=None)
    assert about == replace(
        bundle.about, fitted_on=ANONYMOUS, ranges=None, features=features, calibration=None
    )
    card = (anonymous / "README.md").read_text()
    assert "stores nothing by which single patients" in " ".join(card.split())
    assert (anonymous / "model.safetensors").read_bytes() == (tiny.bundle / "model.safetensors").read_bytes()


def test_an_anonymous_bundle_does_not_abstain(
    tiny: Tiny, anonymous: Path, tmp_path: Path, command: Command
) -> None:
    options = (anonymous, tiny.cohort_toml, "--features", tiny.features, "--output", tmp_path / "p.csv")
    done = command("predict", *options, "--abstain", 0.1)
    assert done.code == 2 and "it is anonymous" in done.err and "without --anonymous" in done.err
    assert not (tmp_path / "p.csv").exists()


def test_the_command_fits_anonymously(tiny: Tiny, anonymous: Path, tmp_path: Path, command: Command) -> None:
    options = ("--study", tiny.study, "--features", tiny.features, "--output", tmp_path / "model")
    assert command("fit", tiny.cohort_toml, *options, "--anonymous").code == 0
    for path in anonymous.iterdir():
        assert (tmp_path / "model" / path.name).read_bytes() == path.read_bytes()


def test_no_fast_hash_of_ids_labels_and_values_finds_a_patient(tiny: Tiny, bundle: ModelBundle) -> None:
    """The attack that the fingerprints of older bundles allowed, and its simpler siblings."""
    texts = [path.read_text() for path in tiny.bundle.iterdir() if path.suffix in (".json", ".md")]
    for patient, label, row in zip(
        tiny.cohort.patient_ids, tiny.cohort.labels, tiny.cohort.metadata.itertuples(index=False), strict=True
    ):
        values = [str(value) for value in row]
        for guess in (patient, [patient, int(label)], [patient, int(label), values], values):
            content = guess if isinstance(guess, str) else json.dumps(guess, separators=(",", ":"))
            for salt in (b"", bytes.fromhex(bundle.about.marks.salt), bundle.about.marks.salt.encode()):  # type: ignore[union-attr]
                found = hashlib.sha256(salt + content.encode()).hexdigest()[:16]
                assert not any(found in text for text in texts)
        assert not any(f'"{patient}"' in text for text in texts)


def test_no_label_and_no_grouping_of_images_is_stored(tiny: Tiny) -> None:
    fitted_on = json.loads((tiny.bundle / "config.json").read_text())["about"]["fitted_on"]
    assert fitted_on.keys() == {"salt", "scrypt", "ids", "images"}
    assert all(len(key) == 32 for key in (*fitted_on["ids"], *fitted_on["images"]))


def test_a_bundle_holds_no_path_of_this_machine(tiny: Tiny) -> None:
    for path in tiny.bundle.iterdir():
        content = path.read_bytes()
        assert str(tiny.folder).encode() not in content and b"/site-packages/" not in content


# Lists that cannot be right.


@pytest.mark.parametrize("schema", [1, 2])
@pytest.mark.parametrize(
    "fitted_on",
    [
        None,
        [],
        {},
        "",
        "nobody",
        ["x"],
        ["0" * 16] * 23,
        [["0" * 16] * 24],
        {"ids": [], "images": [], "salt": SALT, "scrypt": {"n": 2, "r": 1, "p": 1}},
        {"ids": ["0" * 32] * 24, "images": [], "salt": SALT, "scrypt": {"n": 2, "r": 1, "p": 1}},
        {"ids": ["0" * 32] * 24, "images": ["1" * 32], "salt": "", "scrypt": {"n": 2, "r": 1, "p": 1}},
        {"ids": ["0" * 32] * 24, "images": ["1" * 32], "salt": SALT, "scrypt": {"n": 3, "r": 1, "p": 1}},
        {"ids": ["0" * 32] * 24, "images": ["1" * 32], "salt": SALT, "scrypt": {"n": 2**30, "r": 1, "p": 1}},
        {"ids": ["0" * 32] * 24, "images": ["1" * 32], "salt": SALT, "scrypt": {"n": 2, "r": 10**9, "p": 1}},
        {"ids": ["P001"] * 24, "images": ["1" * 32], "salt": SALT, "scrypt": {"n": 2, "r": 1, "p": 1}},
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_list_of_nobody_is_refused(fitted_on: object, schema: int, tiny: Tiny, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny.bundle, tmp_path / "model")
    change_config(
        bundle, lambda config: config.update(schema=schema, about={**config["about"], "fitted_on": fitted_on})
    )
    with pytest.raises(DataError, match=r"config\.json.*fitted_on"):
        ModelBundle.load(bundle)


def test_a_missing_list_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny.bundle, tmp_path / "model")
    change_config(bundle, lambda config: config["about"].pop("fitted_on"))
    with pytest.raises(DataError, match=r"config\.json.*missing required field `fitted_on`"):
        ModelBundle.load(bundle)


def test_a_model_on_metadata_knows_ids_only(
    tiny: Tiny, metadata_model: Path, tmp_path: Path, command: Command
) -> None:
    marks = ModelBundle.load(metadata_model).about.marks
    assert marks is not None and len(marks.ids) == 24 and marks.images == []
    shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort")
    table = pd.read_csv(tmp_path / "cohort" / "patients.csv", dtype=str, keep_default_na=False)
    table["LYMPHOCYTES"] = "8.5"
    table.loc[:11, "ID"] = "Q" + table.loc[:11, "ID"]
    table.to_csv(tmp_path / "cohort" / "patients.csv", index=False)
    cohort = tmp_path / "cohort" / "cohort.toml"
    done = command("predict", metadata_model, cohort, "--output", tmp_path / "p.csv")
    assert done.code == 0 and "recognises patients by their ids only" in done.out
    assert done.out.count("12 patients, 95 % intervals") == 2


def test_the_description_of_the_tests_is_consistent() -> None:
    assert ABOUT.marks is not None and len(ABOUT.marks.ids) == ABOUT.patients
    assert np.sum(ABOUT.class_counts) == ABOUT.patients


def test_of_large_bags_some_images_are_kept_that_recognise_each_patient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bags = [frozenset(bytes([patient, image] * 16) for image in range(9)) for patient in range(3)]
    every = TrainingMarks.of(["a", "b", "c"], iter(bags), SALT)
    monkeypatch.setattr(membership, "MOST_IMAGES", 7)
    some = TrainingMarks.of(["a", "b", "c"], iter(bags), SALT)
    assert len(every.images) == 27 and len(some.images) == 6 and set(some.images) < set(every.images)
    for marks in (every, some):
        others = [frozenset([bytes([9] * 32)]), bags[2], frozenset(sorted(bags[0])[:1])]
        assert marks.recognise(["x", "y", "z"], iter(others)).tolist() == [False, True, True]
