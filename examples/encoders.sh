#!/usr/bin/env bash
# Compare encoders on a cohort, nested and paired, using only the commands of mil_toolkit:
#
#     examples/encoders.sh COHORT.toml
#
# Every encoder embeds the same images. The first one is the reference: its study is tuned in outer folds. The
# others are then compared with it on the same held-out patients, in the same folds. Run the script again to
# resume a stopped run. The weights are downloaded (DinoBloom's from the Hugging Face hub); without internet,
# name carried files in WEIGHTS. Variables and their defaults:
#
#     BACKBONES="resnet34 dinobloom-s dinobloom-b"   the first is the reference
#     WEIGHTS=pretrained              one for all, or one for each: "imagenet DinoBloom-S.pth DinoBloom-B.pth"
#     PROBE=100                       images of the quick look at the beginning; 0 leaves it out
#     IMAGE_SIZE= DEVICE=auto         empty: the size that each encoder was made for
#     TRIALS=50 EPOCHS=50             of each search
#     OUTER=5 FOLDS=5 REPEATS=1       outer folds, inner folds and repeats of the nested cross-validation
#     RETUNE=                         trials of a search of its own for each other encoder, which is fairer
#     CACHE=cache OUTPUT=encoders     folders for the embeddings and for everything else
set -euo pipefail

fail() { echo "$0: $*" >&2; exit 2; }
say() { echo "== $*" >&2; }

[[ $# -eq 1 ]] || fail "usage: $0 COHORT.toml"
cohort=$1
read -r -a backbones <<<"${BACKBONES:-resnet34 dinobloom-s dinobloom-b}"
read -r -a weights <<<"${WEIGHTS:-pretrained}"
[[ ${#backbones[@]} -gt 1 ]] || fail "BACKBONES must name at least two encoders, not ${backbones[*]}."
[[ ${#weights[@]} -eq 1 || ${#weights[@]} -eq ${#backbones[@]} ]] ||
    fail "WEIGHTS must name one for all encoders or one for each: got ${#weights[@]} for ${#backbones[@]}."
output=${OUTPUT:-encoders}
device=(--device "${DEVICE:-auto}")
size=(${IMAGE_SIZE:+--image-size "$IMAGE_SIZE"})

named=() # --backbone and --weights of every encoder
for number in "${!backbones[@]}"; do
    named+=(--backbone "${backbones[number]}" --weights "${weights[number]:-${weights[0]}}")
done
if [[ ${PROBE:-100} != 0 ]]; then
    say "Speed, width and spread of the embeddings of ${PROBE:-100} images"
    mil-extract "$cohort" "${named[@]}" "${size[@]}" "${device[@]}" --probe "${PROBE:-100}"
fi

folders=() # of embeddings, beginning with those of the reference
for number in "${!backbones[@]}"; do
    say "Embeddings: ${backbones[number]}"
    folders+=("$(mil-extract "$cohort" "${named[@]:4*number:4}" "${size[@]}" "${device[@]}" \
        --cache "${CACHE:-cache}")")
done

say "Nested cross-validation of ${backbones[0]}"
mil-tune "$cohort" --features "${folders[0]}" --study "$output" --trials "${TRIALS:-50}" \
    --epochs "${EPOCHS:-50}" --folds "${FOLDS:-5}" --outer-folds "${OUTER:-5}" --repeats "${REPEATS:-1}" \
    "${device[@]}"

say "The other encoders in the same folds, compared on the same held-out patients"
mil-ablate "$cohort" --features "${folders[@]}" --study "$output" ${RETUNE:+--retune "$RETUNE"} "${device[@]}"
