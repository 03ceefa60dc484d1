#!/usr/bin/env bash
# Every step of the report that this project started from, by the commands of mil_toolkit alone:
#
#     examples/founding_report.sh COHORT.toml
#
# First one stratified 80/20 split, as in the report; then the same procedure under repeated nested cross-validation,
# on patients that chose nothing; at the end both beside each figure of the report, as a Markdown table. A run that was
# stopped goes on where it was. What may be set, with the defaults:
#
#     BACKBONES="resnet34 resnet18"   the first is the model's; the others are compared with it
#     WEIGHTS=imagenet                or random, or a checkpoint
#     IMAGE_SIZE=224 EPOCHS=50 DEVICE=auto
#     TRIALS=6                        of each search, at most the six of the grid
#     REPEATS=3 OUTER=5 FOLDS=5       of the nested cross-validation: repeats, outer and inner folds
#     MEMBERS=1                       models that are averaged: the report has one
#     FINETUNE=0                      1 trains backbone and head end to end too, as the report did: hours on a CPU
#     UNFREEZE=all TUNE_EPOCHS=5      what of the backbone is trained then, and for how many epochs at most
#     CACHE=cache OUTPUT=founding     folders of the embeddings and of everything else
set -euo pipefail

fail() { echo "$0: $*" >&2; exit 2; }
say() { echo "== $*" >&2; }

[[ $# -eq 1 ]] || fail "usage: $0 COHORT.toml"
[[ ${FINETUNE:-0} == [01] ]] || fail "FINETUNE=$FINETUNE is neither 0 nor 1."
cohort=$1
read -r -a backbones <<<"${BACKBONES:-resnet34 resnet18}"
output=${OUTPUT:-founding}
device=(--device "${DEVICE:-auto}")
mkdir -p "$output"
say "The embeddings are frozen by default; the report trained its backbone end to end: FINETUNE=1 does."
say "Selection on the public leaderboard is left out: it chooses on the patients that are to be the test."

folders=() # of the embeddings: the model's own first
for backbone in "${backbones[@]}"; do
    for preprocess in none saturation-mask; do
        say "Embeddings: $backbone, preprocessing: $preprocess"
        folders+=("$(mil-extract "$cohort" --backbone "$backbone" --preprocess "$preprocess" "${device[@]}" \
            --weights "${WEIGHTS:-imagenet}" --image-size "${IMAGE_SIZE:-224}" --cache "${CACHE:-cache}")")
    done
done

# The preset holds the head, the rates {0.001, 0.005, 0.01} x {SGD, Adam}, their decay by 0.9 an epoch and the choice
# by balanced accuracy; every training stops early.
founding=(--preset founding --sampler grid --pruner none --threshold half --trials "${TRIALS:-6}"
    --epochs "${EPOCHS:-50}" --members "${MEMBERS:-1}" "${device[@]}")

single() { # NAME FEATURES [OPTION ...]
    say "Single split: $1"
    mil-tune "$cohort" --features "$2" --study "$output/single/$1" --folds 1 --outer-folds 0 "${founding[@]}" "${@:3}"
}
single full "${folders[0]}"
single metadata-direct "${folders[0]}" --set metadata_branch=direct
single pooling-mean "${folders[0]}" --set pooling=mean
single images-only "${folders[0]}" --set metadata_branch=none
single metadata-only "${folders[0]}" --set image_branch=false
for folder in "${folders[@]:1}"; do
    single "$(basename "$folder")" "$folder"
done

say "Submission of the single split's choice, refitted on all labelled patients"
mil-fit "$cohort" --features "${folders[0]}" --study "$output/single/full" "${device[@]}"
mil-predict "$output/single/full/model" "$cohort" --features "${folders[0]}" --output "$output/predictions.csv" \
    --submission "$output/submission.csv" "${device[@]}"

say "Repeated nested cross-validation"
mil-tune "$cohort" --features "${folders[0]}" --study "$output/nested" --folds "${FOLDS:-5}" \
    --repeats "${REPEATS:-3}" --outer-folds "${OUTER:-5}" "${founding[@]}"
mil-ablate "$cohort" --features "${folders[@]}" --study "$output/nested" "${device[@]}"

if [[ ${FINETUNE:-0} == 1 ]]; then
    say "End to end, in every outer fold: backbone and the heads that the nested search chose"
    found=$(mil-fit "$cohort" --features "${folders[0]}" --study "$output/nested" --output "$output/finetuned" \
        --finetune --outer --unfreeze "${UNFREEZE:-all}" --epochs "${TUNE_EPOCHS:-5}" "${device[@]}" --json)
    printf '%s\n' "$found" >"$output/finetuned.json"
fi

say "Comparison, also in $output/comparison.md"
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
        row(title, report, inner, "-", "-", f"left out, since {ablation['left_out'][name]}")
        return
    found = ablation["variants"][name]
    difference = found["difference"]["differences"]["balanced_accuracy"]
    row(title, report, inner, percent(found["scores"]["balanced_accuracy"]), percent(difference, "+"), "")


row("figure", "report", "single split", "nested", "nested, minus full", "remark")
row(*["---"] * 6)
own = f"{nested['outer']['accuracy']['patients']} labelled"
row("patients", "204, of these 142 + 42", own, own, "", "cannot be: 142 + 42 is 184")
for title, report, metric in (("accuracy", "93 %", "accuracy"), ("balanced accuracy", "90 %", "balanced_accuracy")):
    found = percent(nested["training"][metric])
    row(f"training {title}", report, single("full", "training", metric), found, "", "of patients it was fitted on")
outside = "cannot be: it has to lie between specificity and sensitivity, 80 % and 92 %"
score("validation accuracy", "94 %", "accuracy", outside)
score("validation sensitivity", "92 %", "sensitivity")
score("validation specificity", "80 %", "specificity")
score("validation balanced accuracy", "86 %", "balanced_accuracy", "the single split's chose the model, nested chose nothing")
if finetuned.exists():
    found = json.loads(finetuned.read_text())["finetuned"]
    outer = percent(found["outer"]["balanced_accuracy"])
    difference = percent(found["comparison"]["differences"]["balanced_accuracy"], "+")
    rest = "on all outer folds but the first, whose patients compared it with the frozen backbone"
    row("trained end to end: balanced accuracy", "86 %", "-", outer, difference, rest)
row("public test set", "0.93246 and 0.89870", "-", "-", "", "left out: no labels here, and it chose the model")
variant("metadata straight into the classifier", "73 %", "metadata-direct")
variant("mean instead of attention", "80 %", "pooling-mean")
variant("images only", "57 %", "images-only")
variant("metadata only", "64 %", "metadata-only")
variant(f"saturation mask ({mask})", "about 10 points lower", mask)
for name in others:
    known = name.startswith("resnet18-") and "saturation-mask" not in name
    report = "about 5 points lower" if known else "-"
    variant(f"other backbone ({name})", report, name)
for name, rival in nested["rivals"].items():
    row(f"rival: {name}", "-", "-", percent(rival["balanced_accuracy"]), "", "not in the report")
print("\nNested figures: 95 % intervals over patients, who chose nothing. From the ablation on: balanced accuracy.")
print("Embeddings are frozen but where it says end to end, and nothing was chosen on the public leaderboard.")
PYTHON
