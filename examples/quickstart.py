"""MILClassifier in a notebook: a cohort and its features become X and y for scikit-learn.

The script runs without changes, on a synthetic cohort:

    python examples/quickstart.py [FOLDER]

For your own data, start from `read_cohort("cohort.toml")` and omit `weights` to use ImageNet weights.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score

from mil_toolkit import ExtractionConfig, FeatureCache, MILClassifier, extract, load_patients, read_cohort
from mil_toolkit.cohort.synthetic import draw_cohort

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(mkdtemp()) / "quickstart"
cohort = read_cohort(draw_cohort(folder, patients=36, unlabelled=4, image_size=64, images=(3, 8)))

# Each image is embedded once and kept in a cache on disk. Another run embeds only missing images.
extraction = ExtractionConfig(backbone="resnet18", weights="random", image_size=64)
cache = FeatureCache.open(extract(cohort, extraction, folder / "cache").folder)

# One row per patient: metadata, and embeddings (images, width) in column `bag`. y has the words of the table.
X, y = load_patients(cohort.labelled(), cache)
print(X.drop(columns="bag").describe(include="all").round(1), "\n")

# `fit` chooses epochs, calibration and threshold by inner cross-validation on the training patients, so this
# is nested cross-validation.
model = MILClassifier(members=3, epochs=20, folds=3)
outer = StratifiedKFold(3, shuffle=True, random_state=0)
scores = cross_val_score(model, X, y, cv=outer, scoring="balanced_accuracy")
print(f"balanced accuracy on held-out patients (outer folds): {scores.mean():.2f} (folds: {scores.round(2)})")

# A search over parameters of the head. Its best score is optimistic, because it chose the pooling.
search = GridSearchCV(model, {"pooling": ["mean", "attention"]}, cv=outer, scoring="neg_log_loss").fit(X, y)
print(f"best pooling: {search.best_params_['pooling']}, {search.best_estimator_.n_epochs_} epochs\n")

# New patients: calibrated probability, disagreement of the members, and the image with the highest attention.
best, new = search.best_estimator_, cohort.unlabelled()
X_new, _ = load_patients(new, cache)
attended = zip(new.patient_ids, best.attention(X_new), strict=True)
predictions = pd.DataFrame(
    {
        "probability": best.predict_proba(X_new)[:, 1].round(3),
        "prediction": best.predict(X_new),
        "spread": best.spread(X_new).round(3),
        "most attended": [new.image_names[patient][weights.argmax()] for patient, weights in attended],
    },
    index=X_new.index,
)
print(predictions.to_string())
