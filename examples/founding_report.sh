#!/usr/bin/env bash
# Repeat every step of the report that this project started from, using only the commands of mil_toolkit:
#
#     examples/founding_report.sh COHORT.toml
#
# The script first uses one stratified 80/20 split, as in the report, then repeated nested cross-validation.
# It ends with a Markdown table of both beside each figure of the report. Run it again to resume a stopped run.
# Variables and their defaults:
#
#     BACKBONES="resnet34 resnet18"   the first is the model's; the others are compared with it
#     WEIGHTS=imagenet                or random, or the path of a checkpoint
#     IMAGE_SIZE=224 EPOCHS=50 DEVICE=auto
#     TRIALS=6                        trials of each search, at most the six of the grid
#     REPEATS=3 OUTER=5 FOLDS=5       repeats, outer folds and inner folds of the nested cross-validation
#     MEMBERS=1                       models to average: the report has one
#     FINETUNE=0                      1 also trains backbone and head end to end, as the report did: slow
#     UNFREEZE=all TUNE_EPOCHS=5      the trained part of the backbone, and the largest number of epochs
#     CACHE=cache OUTPUT=founding     folders for the embeddings and for everything else
set -euo pipefail

fail() { echo "$0: $*" >&2; exit 2; }
say() { echo "== $*" >&2; }

[[ $# -eq 1 ]] || fail "usage: $0 COHORT.toml"
[[ ${FINETUNE:-0} == [01] ]] || fail "FINETUNE must be 0 or 1, not $FINETUNE."
cohort=$1
read -r -a backbones <<<"${BACKBONES:-resnet34 resnet18}"
output=${OUTPUT:-founding}
device=(--device "${DEVICE:-auto}")
mkdir -p "$output"
say "The backbone is frozen by default; the report trained it end to end, as FINETUNE=1 does."
say "Selection on the public leaderboard is not repeated: it would choose the model on its test patients."

folders=() # of embeddings, beginning with those of the model
for backbone in "${backbones[@]}"; do
    for preprocess in none saturation-mask; do
        say "Embeddings: $backbone, preprocessing: $preprocess"
        folders+=("$(mil-extract "$cohort" --backbone "$backbone" --preprocess "$preprocess" "${device[@]}" \
            --weights "${WEIGHTS:-imagenet}" --image-size "${IMAGE_SIZE:-224}" --cache "${CACHE:-cache}")")
    done
done

# The preset sets the head, the grid of learning rates {0.001, 0.005, 0.01} x {SGD, Adam}, the decay by 0.9
# per epoch and the choice by balanced accuracy with early stopping.
founding=(--preset founding --sampler grid --pruner none --threshold half --trials "${TRIALS:-6}"
    --epochs "${EPOCHS:-50}" --members "${MEMBERS:-1}" "${device[@]}")

single() { # NAME FEATURES [OPTION ...]
    say "Single split: $1"
    mil-tune "$cohort" --features "$2" --study "$output/single/$1" --folds 1 --outer-folds 0 \
        "${founding[@]}" "${@:3}"
}
single full "${folders[0]}"
single metadata-direct "${folders[0]}" --set metadata_branch=direct
single pooling-mean "${folders[0]}" --set pooling=mean
single images-only "${folders[0]}" --set metadata_branch=none
single metadata-only "${folders[0]}" --set image_branch=false
for folder in "${folders[@]:1}"; do
    single "$(basename "$folder")" "$folder"
done

say "Submission: the configuration of the single split, refitted on all labelled patients"
mil-fit "$cohort" --features "${folders[0]}" --study "$output/single/full" "${device[@]}"
mil-predict "$output/single/full/model" "$cohort" --features "${folders[0]}" \
    --output "$output/predictions.csv" --submission "$output/submission.csv" "${device[@]}"

say "Repeated nested cross-validation"
mil-tune "$cohort" --features "${folders[0]}" --study "$output/nested" --folds "${FOLDS:-5}" \
    --repeats "${REPEATS:-3}" --outer-folds "${OUTER:-5}" "${founding[@]}"
mil-ablate "$cohort" --features "${folders[@]}" --study "$output/nested" "${device[@]}"

if [[ ${FINETUNE:-0} == 1 ]]; then
    say "End to end, in every outer fold: the backbone and the heads that the nested search chose"
    result=$(mil-fit "$cohort" --features "${folders[0]}" --study "$output/nested" \
        --output "$output/finetuned" --finetune --outer --unfreeze "${UNFREEZE:-all}" \
        --epochs "${TUNE_EPOCHS:-5}" "${device[@]}" --json)
    printf '%s\n' "$result" >"$output/finetuned.json"
fi

say "Comparison, also saved as $output/comparison.md"
python3 - "$output" "${folders[@]##*/}" <<'PYTHON' | tee "$output/comparison.md"
import json
import pathlib
import sys

output, (_, mask, *others) = pathlib.Path(sys.argv[1]), sys.argv[2:]
nested = json.loads((output / "nested/scores.json").read_text())
ablation = json.loads((output / "nested/ablation/scores.json").read_text())
finetuned = output / "finetuned.json"


def percent(score, sign=""):
    if not isinstance(score, dict):
        return "-" if score is None else f"{100 * score:.0f} %"
    shown = (format(100 * score[name], sign + ".0f") for name in ("value", "low", "high"))
    return "{} {} ({} to {})".format(next(shown), "points" if sign else "%", *shown)


def row(*cells):
    print("|", " | ".join(cells), "|")


def single(name, part, metric):
    scores = json.loads((output / "single" / name / "scores.json").read_text())
    return percent(scores[part][metric])


def score(title, report, metric, remark=""):
    row(title, report, single("full", "inner", metric), percent(nested["outer"][metric]), "", remark)


def variant(title, report, name):
    inner = single(name, "inner", "balanced_accuracy")
    if name in ablation["left_out"]:
        row(title, report, inner, "-", "-", f"left out: {ablation['left_out'][name]}")
        return
    result = ablation["variants"][name]
    difference = result["difference"]["differences"]["balanced_accuracy"]
    row(title, report, inner, percent(result["scores"]["balanced_accuracy"]), percent(difference, "+"), "")


row("figure", "report", "single split", "nested", "nested, minus full", "remark")
row(*["---"] * 6)
own = f"{nested['outer']['accuracy']['patients']} labelled"
row("patients", "204, of these 142 + 42", own, own, "", "impossible: 142 + 42 is 184")
remark = "patients it was fitted on"
for metric, report in (("accuracy", "93 %"), ("balanced_accuracy", "90 %")):
    split, training = single("full", "training", metric), percent(nested["training"][metric])
    row(f"training {metric.replace('_', ' ')}", report, split, training, "", remark)
impossible = "impossible: it must lie between specificity and sensitivity, 80 % and 92 %"
score("validation accuracy", "94 %", "accuracy", impossible)
score("validation sensitivity", "92 %", "sensitivity")
score("validation specificity", "80 %", "specificity")
remark = "the single split chose the model; nested: held-out patients"
score("validation balanced accuracy", "86 %", "balanced_accuracy", remark)
if finetuned.exists():
    result = json.loads(finetuned.read_text())["finetuned"]
    outer = percent(result["outer"]["balanced_accuracy"])
    difference = percent(result["comparison"]["differences"]["balanced_accuracy"], "+")
    remark = "all outer folds but the first, which served for the comparison with the frozen backbone"
    row("trained end to end: balanced accuracy", "86 %", "-", outer, difference, remark)
remark = "not repeated: the labels are not public, and it chose the model"
row("public test set", "0.93246 and 0.89870", "-", "-", "", remark)
variant("metadata straight into the classifier", "73 %", "metadata-direct")
variant("mean instead of attention", "80 %", "pooling-mean")
variant("images only", "57 %", "images-only")
variant("metadata only", "64 %", "metadata-only")
variant(f"saturation mask ({mask})", "about 10 points lower", mask)
for name in others:
    known = name.startswith("resnet18-") and "saturation-mask" not in name
    report = "about 5 points lower" if known else "-"
    variant(f"other backbone ({name})", report, name)
for name, baseline in nested["rivals"].items():
    row(f"baseline: {name}", "-", "-", percent(baseline["balanced_accuracy"]), "", "not in the report")
print("\nNested figures: held-out patients (nested cross-validation), 95 % intervals over patients.")
print("Rows from the ablation on: balanced accuracy. The backbone is frozen unless a row says end to end.")
print("The public leaderboard was not used.")
PYTHON
