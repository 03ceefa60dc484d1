"""Names of metrics and baselines as a reader sees them."""

_METRICS = {
    "auc": "AUC",
    "auc_pooled": "AUC, pooled",
    "ppv": "PPV",
    "npv": "NPV",
    "macro_auc": "Macro AUC",
    "macro_f1": "Macro F1",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2",
    "concordance_harrell": "Harrell's C",
    "concordance_uno": "Uno's C",
    "integrated_brier": "Integrated Brier score",
    "brier_at_horizon": "Brier score at the horizon",
}
_BASELINES = {
    "metadata_logistic": "Metadata only",
    "metadata_logistic_c1": "Metadata only, C = 1",
    "bag_size": "Number of images only",
    "mean_logistic": "Mean embedding",
    "metadata_ridge": "Metadata only",
    "mean_ridge": "Mean embedding",
    "mean_max_min_ridge": "Mean, max and min",
    "mean_max_min_logistic": "Mean, max and min",
    "metadata_multinomial": "Metadata only",
    "metadata_multinomial_c1": "Metadata only, C = 1",
    "mean_multinomial": "Mean embedding",
    "mean_max_min_multinomial": "Mean, max and min",
    "metadata_cox": "Metadata only (Cox)",
    "metadata_cox_c1": "Metadata (Cox), C = 1",
    "mean_hazards": "Mean embedding",
    "mean_max_min_hazards": "Mean, max and min",
}


def metric_name(name: str) -> str:
    """Return the name of a metric, with a capital."""
    return _METRICS.get(name, name.replace("_", " ").capitalize())


def baseline_name(name: str) -> str:
    """Return the name of a baseline, with a capital."""
    return _BASELINES.get(name, name.replace("_", " ").capitalize())


def baseline_words(name: str) -> str:
    """Return the name of a baseline within a sentence."""
    words = baseline_name(name)
    return words[0].lower() + words[1:]
