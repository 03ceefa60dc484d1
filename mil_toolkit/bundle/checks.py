"""Checks of a bundle's config.json that need several fields; the types in `records` check single ones."""

import re
from collections.abc import Iterator

from mil_toolkit.backbones.requests import NAMES
from mil_toolkit.bundle.domain.records import Domain
from mil_toolkit.bundle.membership import TrainingMarks
from mil_toolkit.bundle.records import FINGERPRINTS, About, BundleConfig, BundleFeatures
from mil_toolkit.cohort.kinds import KINDS
from mil_toolkit.config.extraction import PREPROCESS_NAMES
from mil_toolkit.core.text import printable
from mil_toolkit.features.spec import SCHEMA as SPEC_SCHEMA
from mil_toolkit.features.spec import Spec, preparation_problems
from mil_toolkit.study.records import ColumnRecord
from mil_toolkit.training.encoder import MetadataEncoder, NumberEncoder

LARGEST_IMAGE = 4096  # side in pixels of what a backbone sees
_WEIGHTS = ("imagenet", "pretrained", "random", "file")  # `file`: in the bundle, or named with --weights
_IMPORTED = "imported from "
_CARRIED = ("pretrained", "file")  # named with --weights, since no bundle chooses what is downloaded
_HUB = re.compile(r"timm:hf-hub:[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)
_BACKBONE = re.compile(rf"timm:[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?|{_HUB.pattern}", re.ASCII)
_HEXADECIMAL = re.compile(r"[0-9a-f]{1,64}")
_FOLDER = re.compile(r"[^/\0]{1,255}")


def config_problems(config: BundleConfig) -> Iterator[str]:
    """Return one line for each contradiction in a bundle's config.json; each begins with the field."""
    about = config.about
    if "mil_toolkit" not in about.versions:
        yield "about.versions must name the version of mil_toolkit that wrote the bundle."
    if (about.class_names and sum(about.class_counts) != about.patients) or not about.patients:
        yield f"about.class_counts {list(about.class_counts)} must add up to {about.patients} patients."
    if (about.images > 0) != bool(about.views):
        yield f"about.images is {about.images}; it must be 0 exactly if about.features is null."
    if (config.head.outputs or 1) != about.predicted.outputs:
        yield f"head.outputs must be {about.predicted.outputs}, as the outcome {about.predicted.kind} has."
    yield from _membership_problems(about, config.schema)
    yield from _column_problems(about.columns)
    yield from _range_problems(about)
    yield from _domain_problems(config)
    yield from _calibration_problems(about)
    yield from _recalibration_problems(about)
    if len({view.name for view in about.views}) < len(about.views):
        yield "about.features must have different names."
    if len(about.views) > 1 and about.finetuned is not None:
        yield "about.finetuned must be absent with several views."
    for place, view in enumerate(about.views):
        where = f"about.features[{place}]" if isinstance(about.features, list) else "about.features"
        for problem in _feature_problems(view):
            yield f"{where}.{problem}"


def _membership_problems(about: About, schema: int) -> Iterator[str]:
    """Return why `fitted_on` cannot be right: an empty list must not make everybody a new patient."""
    fitted_on = about.fitted_on
    if isinstance(fitted_on, list) != (schema == FINGERPRINTS):
        yield f"about.fitted_on does not have the form of schema {schema}."
        return
    ids = fitted_on.ids if isinstance(fitted_on, TrainingMarks) else fitted_on
    if isinstance(ids, list) and len(ids) != about.patients:
        yield f"about.fitted_on names {len(ids)} patients instead of about.patients, {about.patients}."
    if isinstance(fitted_on, TrainingMarks):
        yield from _mark_problems(fitted_on, about)


def _mark_problems(marks: TrainingMarks, about: About) -> Iterator[str]:
    if bool(marks.images) != bool(about.views) or len(marks.images) > about.images:
        yield f"about.fitted_on names {len(marks.images)} images, for about.images, {about.images}."
    yield from _scrypt_problems(marks, "about.fitted_on")


def _scrypt_problems(marks: TrainingMarks, where: str) -> Iterator[str]:
    if marks.scrypt.n & (marks.scrypt.n - 1):
        yield f"{where}.scrypt.n must be a power of two, not {marks.scrypt.n}."


def _recalibration_problems(about: About) -> Iterator[str]:
    for place, step in enumerate(about.recalibrations or ()):
        where, marks = f"about.recalibrations[{place}]", step.fitted_on
        if not step.refitted or len(set(step.refitted)) < len(step.refitted):
            yield f"{where}.refitted must name one or more different steps."
        if (step.prevalence is not None) != ("prevalence" in step.refitted):
            yield f"{where}.prevalence must be a number exactly if refitted names prevalence, else null."
        if isinstance(marks, TrainingMarks):
            if len(marks.ids) != step.patients:
                yield f"{where}.fitted_on names {len(marks.ids)} patients instead of {step.patients}."
            yield from _scrypt_problems(marks, f"{where}.fitted_on")
        for problem in step.before.problems():
            yield f"{where}.before: {problem}."


def _column_problems(columns: list[ColumnRecord]) -> Iterator[str]:
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        yield f"about.columns must have different names: {', '.join(map(printable, names))}."
    for place, column in enumerate(columns):
        if column.kind not in KINDS:
            yield f"about.columns[{place}].kind must be one of {', '.join(KINDS)}, not {column.kind!r}."
        if column.transform not in (None, "log"):
            yield f"about.columns[{place}].transform must be log or null, not {column.transform!r}."


def _range_problems(about: About) -> Iterator[str]:
    numbers = {column.name for column in about.columns if _is_numeric(column)}
    for name, (low, high) in (about.ranges or {}).items():
        if name not in numbers:
            yield f"about.ranges names {printable(name)}, which about.columns does not have as numbers."
        elif low > high:
            yield f"about.ranges: of {printable(name)}, the lowest, {low:g}, is above the highest, {high:g}."


def _domain_problems(config: BundleConfig) -> Iterator[str]:
    """Return what does not fit the model; a bundle without a domain fits every model."""
    domain, width = config.about.domain, config.head.embedding_width
    if domain is None:
        return
    columns = {column.name for column in config.about.columns}
    numbers = {column.name for column in config.about.columns if _is_numeric(column)}
    if domain.numbers.keys() != numbers:
        yield "about.domain.numbers must name all number columns of about.columns, and no others."
    if foreign := sorted(set(domain.unreliable) - columns):
        named = ", ".join(map(printable, foreign))
        yield f"about.domain.unreliable names {named}, which about.columns does not have."
    if (domain.bag_size is not None) != bool(width):
        yield "about.domain.bag_size must be there exactly if the model looks at images."
    if domain.images is not None and not width:
        yield "about.domain.images must be null: the model does not look at images."
    elif domain.images is not None and not domain.own_columns and len(domain.images.space.means) != width:
        found = len(domain.images.space.means)
        yield f"about.domain.images has {found} columns; the projected embeddings have {width}."
    yield from _guess_problems(domain)


def _guess_problems(domain: Domain) -> Iterator[str]:
    """Return what does not fit the images from which numbers are expected."""
    columns = 0 if domain.images is None else len(domain.images.space.means)
    for name, known in domain.numbers.items():
        guess = known.spread.guess
        if guess is not None and not 0 < len(guess.weights) <= columns:
            yield (
                f"about.domain.numbers: of {printable(name)}, the guess has {len(guess.weights)} weights;"
                f" about.domain.images has {columns} columns."
            )
    if domain.bag_size is not None and domain.bag_size.spread.guess is not None:
        yield "about.domain.bag_size must not have a guess."


def _calibration_problems(about: About) -> Iterator[str]:
    """Return why the scores of held-out patients do not fit the outcome; a bundle may lack them."""
    if about.calibration is None:
        return
    expected, stored = len(about.class_names) or 1, len(about.calibration.classes)
    if about.finetuned is not None:
        yield "about.calibration must be absent, since the backbone was fine-tuned."
    elif about.predicted.sets is None:
        yield f"about.calibration must be absent: the outcome {about.predicted.kind} has no sets."
    elif stored != expected:
        yield f"about.calibration.classes has {stored} entries instead of {expected}."


def _feature_problems(features: BundleFeatures) -> Iterator[str]:
    if not _FOLDER.fullmatch(features.name) or features.name in (".", ".."):
        yield f"name {features.name!r} must be the name of a folder, without a path."
    for problem in _spec_problems(features.spec):
        yield f"spec.{problem}"


def _spec_problems(spec: Spec) -> Iterator[str]:
    """Return what keeps images from being embedded by this spec.

    Weights never name a file, so that a bundle cannot make mil-predict open one.
    """
    if spec["schema"] != SPEC_SCHEMA:
        yield f"schema must be {SPEC_SCHEMA}, not {spec['schema']}."
    if not 1 <= spec["width"] <= 2**20:
        yield f"width must be 1 to {2**20}, not {spec['width']}."
    if spec["weight_digest"] is None:
        if not spec["weights"].startswith(_IMPORTED):
            yield f"weights must begin with {_IMPORTED!r} without a weight_digest, not {spec['weights']!r}."
        return
    if not _HEXADECIMAL.fullmatch(spec["weight_digest"]):
        yield f"weight_digest must be hexadecimal, not {spec['weight_digest']!r}."
    if spec["weights"] not in _WEIGHTS:
        yield f"weights must be one of {', '.join(_WEIGHTS)}, not {spec['weights']!r}."
    if _HUB.fullmatch(spec["backbone"]) and spec["weights"] not in _CARRIED:
        yield f"backbone {spec['backbone']!r} needs weights that are one of {', '.join(_CARRIED)}."
    elif spec["backbone"] not in NAMES and not _BACKBONE.fullmatch(spec["backbone"]):
        yield f"backbone must be one of {', '.join(NAMES)}, not {spec['backbone']!r}."
    yield from _pixel_problems(spec)


def _pixel_problems(spec: Spec) -> Iterator[str]:
    if not 1 <= spec["image_size"] <= LARGEST_IMAGE:
        yield f"image_size must be 1 to {LARGEST_IMAGE}, not {spec['image_size']}."
    if spec["crop"] < 0:
        yield f"crop must be at least 0, not {spec['crop']}."
    if spec["preprocess"] not in PREPROCESS_NAMES:
        yield f"preprocess must be one of {', '.join(PREPROCESS_NAMES)}, not {spec['preprocess']!r}."
    for problem in preparation_problems(spec):
        yield f"{problem}."
    for name, channels in (("mean", spec["mean"]), ("std", spec["std"])):
        if channels is None or len(channels) != 3 or (name == "std" and min(channels) <= 0):
            yield f"{name} must be three numbers{', all above 0' * (name == 'std')}, not {channels!r}."


def encoder_problems(encoder: MetadataEncoder, columns: list[ColumnRecord]) -> Iterator[str]:
    """Return one line for each metadata column that the encoder does not take as it is declared."""
    encoded = [
        (column.name, "number", column.log)
        if isinstance(column, NumberEncoder)
        else (column.name, "word", False)
        for column in encoder.encoders
    ]
    declared = [
        (column.name, "number" if _is_numeric(column) else "word", column.transform == "log")
        for column in columns
    ]
    if encoded != declared:
        yield "head.encoder.encoders do not match about.columns in name, kind and transform."


def _is_numeric(column: ColumnRecord) -> bool:
    return column.kind in KINDS and KINDS[column.kind].numeric
