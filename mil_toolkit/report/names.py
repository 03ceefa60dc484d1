"""Names of metrics and baselines as a reader sees them."""

from mil_toolkit.study.by_outcome import ALL_RIVALS

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


def metric_name(name: str) -> str:
    """Return the name of a metric, with a capital."""
    return _METRICS.get(name, name.replace("_", " ").capitalize())


def baseline_name(name: str) -> str:
    """Return the name of a baseline, with a capital."""
    rival = ALL_RIVALS.get(name)
    return name.replace("_", " ").capitalize() if rival is None else rival.title


def baseline_words(name: str) -> str:
    """Return the name of a baseline within a sentence."""
    words = baseline_name(name)
    return words[0].lower() + words[1:]
