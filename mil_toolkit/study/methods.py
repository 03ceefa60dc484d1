"""The methods of a study as a paragraph for a paper, from its real settings, with references."""

from collections.abc import Iterator, Sequence

from mil_toolkit.config.head import BY_GROUP, view_names
from mil_toolkit.config.study import GROUPS, OFFICIAL, StudyConfig
from mil_toolkit.config.tunable import Value
from mil_toolkit.core.text import count_of
from mil_toolkit.core.version import __version__
from mil_toolkit.evaluation.words import metric_words
from mil_toolkit.features.spec import Spec, augmented, scale_of
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.outcomes.text import OutcomeText
from mil_toolkit.study.records import FeaturesIdentity, as_list
from mil_toolkit.training.group_checks import LEAST_PATIENTS

REFERENCES = {
    "Ilse 2018": "Ilse M, Tomczak J, Welling M. Attention-based deep multiple instance learning. ICML 2018.",
    "Akiba 2019": "Akiba T et al. Optuna: a next-generation hyperparameter optimization framework. KDD 2019.",
    "Varma 2006": "Varma S, Simon R. Bias in error estimation when using cross-validation for model"
    " selection. BMC Bioinformatics 2006;7:91.",
    "Hansen 2005": "Hansen PR. A test for superior predictive ability. J Bus Econ Stat 2005;23:365-380.",
    "Reinhard 2001": "Reinhard E et al. Color transfer between images. IEEE Comput Graph Appl"
    " 2001;21(5):34-41.",
    "Wilson 1927": "Wilson EB. Probable inference, the law of succession, and statistical inference. J Am"
    " Stat Assoc 1927;22:209-212.",
    "Zou 2008": "Zou GY, Donner A. Construction of confidence limits about effect measures: a general"
    " approach. Stat Med 2008;27:1693-1702.",
    "DeLong 1988": "DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more correlated"
    " receiver operating characteristic curves. Biometrics 1988;44:837-845.",
    "Newcombe 2006": "Newcombe RG. Confidence intervals for an effect size measure based on the Mann-Whitney"
    " statistic. Part 2. Stat Med 2006;25:559-573.",
    "Platt 1999": "Platt J. Probabilistic outputs for support vector machines. Advances in Large Margin"
    " Classifiers, 1999.",
    "Vickers 2006": "Vickers AJ, Elkin EB. Decision curve analysis. Med Decis Making 2006;26:565-574.",
    "Van Calster 2019": "Van Calster B et al. Calibration: the Achilles heel of predictive analytics. BMC Med"
    " 2019;17:230.",
    "Collins 2024": "Collins GS et al. TRIPOD+AI statement. BMJ 2024;385:e078378.",
}
SAMPLERS = {
    "tpe": "a tree-structured Parzen estimator",
    "random": "a random search",
    "grid": "a grid",
    "gp": "Bayesian optimisation with a Gaussian process",
}
_NO_IMAGES = "Only clinical values were used."
_SHOWN = {  # by preprocessing
    "saturation-mask": " after a saturation mask",
    "reinhard": " after stain normalisation of each image (Reinhard 2001)",
    "cell-crop": " from a window of {crop} x {crop} pixels around the nucleus nearest its centre",
    "cell-mask": " from a window of {crop} x {crop} pixels around the nucleus nearest its centre, with"
    " everything but the nucleus and its rim blackened",
}
_USED = (
    "In training each image was shown in a random orientation for each epoch and member; predictions used the"
    " mean of its embeddings over the orientations."
)
_AUGMENTED: dict[frozenset[Value], str] = {  # by the values of the setting
    frozenset({True}): _USED,
    frozenset({False}): "These were not used.",
    frozenset({True, False}): f"The search chose whether these were used. If so: {_USED}",
}


RecordedFeatures = FeaturesIdentity | list[FeaturesIdentity] | None  # as in a `StudyDescription`


def methods_paragraph(config: StudyConfig, features: RecordedFeatures, outcome: Outcome) -> str:
    """Return the methods of a study, with references by author and year."""
    return " ".join(_sentences(config, features, outcome))


def _sentences(config: StudyConfig, features: RecordedFeatures, outcome: Outcome) -> Iterator[str]:
    yield from _inputs(as_list(features), config)
    yield _search(config)
    yield from _evaluation(config, outcome.text)
    yield (
        "Members of a model differ in their random seed; their logits were averaged"
        f" ({count_of(config.members, 'member')}). Out-of-fold logits of the inner folds gave the calibration"
        f" {outcome.text.calibration(config.threshold_rule)}."
    )
    yield (
        f"Baselines used the same folds, inner choice and {outcome.text.rule}; differences were compared"
        " pairwise on the same patients by a permutation test that swaps the two methods of a patient."
    )
    if outcome.text.assessed:
        yield outcome.text.assessed
    yield f"All analyses used mil_toolkit {__version__} with seed {config.seed}."


def _inputs(features: Sequence[FeaturesIdentity], config: StudyConfig) -> Iterator[str]:
    if not features:
        yield _NO_IMAGES
        return
    embedded = [_embedded(identity.spec) for identity in features]
    if len(embedded) == 1:
        yield f"Each image was embedded once by {embedded[0]}."
    else:
        listed = "; ".join(f"({number}) by {words}" for number, words in enumerate(embedded, 1))
        yield f"Each image was embedded in {len(embedded)} views: {listed}. {_use_of_views(config)}"
    yield from _instance_layers(config)
    if words := transductive_words(config, list(features)):
        yield words
    yield (
        "The embeddings of a patient's images were combined by a pooling over the bag (Ilse 2018) and"
        " classified together with the clinical values by a small head."
    )
    counts = [augmented(identity.spec) for identity in features]
    if any(counts):
        some = "" if all(counts) else f" in {sum(map(bool, counts))} of the views"
        yield (
            f"Each image was also embedded in {_counts(counts)}{some} (turned by quarter turns and flipped)."
            f" {_AUGMENTED[frozenset(config.settings.get('augment', (True,)))]}"
        )


def transductive_words(config: StudyConfig, features: RecordedFeatures) -> str:
    """Return what it means that embeddings were standardised within groups; empty where they were not."""
    options = config.settings.get("standardise", ())
    if BY_GROUP not in options or not as_list(features):
        return ""
    some = "Where standardise is group, embeddings" if len(options) > 1 else "Embeddings"
    return (
        f"{some} were standardised within each group of patients by the group's own moments, held-out"
        " patients included, without labels (a transductive step): such scores hold for new groups of at"
        f" least {LEAST_PATIENTS} patients, and differences between groups, of disease too, are removed."
    )


def _instance_layers(config: StudyConfig) -> Iterator[str]:
    """Yield how many layers transformed each embedding, if any could."""
    numbers = [int(value) for value in config.settings.get("instance_layers", (0,))]
    if any(numbers):
        most = f"{'Up to ' if len(numbers) > 1 else ''}{count_of(max(numbers), 'fully connected layer')}"
        yield f"{most} transformed each embedding before the pooling."


def _counts(orientations: Sequence[int]) -> str:
    """Return the number of other orientations, or the numbers where those of the views differ."""
    fewest, most = min(filter(None, orientations)), max(orientations)
    return count_of(most, "other orientation") if fewest == most else f"{fewest} to {most} other orientations"


def _use_of_views(config: StudyConfig) -> str:
    """Return how several views were used: together, or one that each search chose."""
    options = [view_names(str(value)) for value in config.settings.get("features", ())]
    if not any(len(names) > 1 for names in options):
        return "Each search chose one of them on its training patients."
    together = (
        "Each view was standardised and reduced on its own; their columns were joined image by image or, in"
        " late fusion, after a pooling for each view."
    )
    chosen = " Each search chose on its training patients between single views and views together."
    return together + chosen * (len(options) > 1)


def _embedded(spec: Spec) -> str:
    """Return how the embeddings of a view were computed."""
    size = f" at {spec['image_size']} x {spec['image_size']} pixels" if spec["weight_digest"] else ""
    scale = scale_of(spec)
    size += f" after resampling to {scale:g} micrometres per pixel" if scale is not None else ""
    masked = _SHOWN.get(spec.get("preprocess", "none"), "").format(crop=spec.get("crop"))
    return f"{spec['backbone']} with {spec['weights']} weights{size}{masked}"


def _search(config: StudyConfig) -> str:
    sampler = SAMPLERS.get(config.sampler, config.sampler)
    return (
        f"Hyperparameters were searched by {sampler} (Optuna, Akiba 2019) with"
        f" {count_of(config.trials, 'trial')} per search, scored by {metric_words(config.objective)} on"
        f" {_folds(config.folds)}. {_choice(config)}"
    )


def _choice(config: StudyConfig) -> str:
    if config.sampler == "grid":
        return "The best configuration of the grid was used."
    return (
        "A trial replaced the default configuration only where a bootstrap test of the largest lead over all"
        " trials (Hansen 2005) found it better."
    )


def _folds(folds: int) -> str:
    return "a single stratified 80/20 split" if folds == 1 else f"{folds} stratified inner folds"


def _evaluation(config: StudyConfig, text: OutcomeText) -> Iterator[str]:
    if not config.outer_folds:
        yield "No patients were held out: all scores are those of the inner folds and are optimistic."
        return
    outer = f"{config.outer_folds} stratified outer folds"
    if config.outer_folds == GROUPS:
        outer = "one outer fold for each group of patients"
    elif config.outer_folds == OFFICIAL:
        outer = "the official outer folds of the cohort, which were fixed before the study"
    repeats = f", repeated {config.repeats} times with other splits" if config.repeats > 1 else ""
    yield (
        f"The whole procedure was evaluated by nested cross-validation with {outer}{repeats} (Varma 2006):"
        f" search{text.fitted_in_folds} of an outer fold never saw its held-out patients. The primary"
        f" metric, declared beforehand, was {metric_words(config.primary_metric)}; all others are secondary."
        f" Scores have 95 % intervals for the expected performance of the procedure: {text.intervals},"
        " all widened for the variation of training sets."
    )
