#!/bin/sh
# Check an installation on a machine with a GPU, in at most eight minutes and without network:
# tests, speed of the training step, and a training that is interrupted and resumed.
#
#     sh docs/gpu-check.sh          # writes its logs to gpu-check/
#     PHOTOS=... PAINTINGS=... sh docs/gpu-check.sh
#
# Without these folders, the built-in samples are used (extra: dev). Close other programs.
set -eu
cd "$(dirname "$0")/.."
out=${OUT:-$PWD/gpu-check}
mkdir -p "$out"
underdrawing="python3 -m underdrawing.experiments.main"

echo "== tests that need a GPU"
timeout 100 python3 -m pytest -q -m gpu tests > "$out/tests.txt" || {
    cat "$out/tests.txt"
    exit 1
}
tail -n 1 "$out/tests.txt"

echo "== training step: recorded, eager, operations"
for batch in 16 64; do
    for recorded in True False; do
        $underdrawing benchmark --parts train --batch $batch --reference False \
            --cuda-graphs $recorded --json "$out/step-$batch-$recorded.json"
    done
done
$underdrawing benchmark --parts train --batch 64 --reference False --profile "$out/profile.md"

echo "== training of five minutes, resumed half-way"
for part in 1 2; do # 130: stopped by the signal, after saving
    timeout --preserve-status --signal=INT 150 $underdrawing train --out "$out/run" \
        ${PHOTOS:+--photos "$PHOTOS"} ${PAINTINGS:+--paintings "$PAINTINGS"} \
        --steps 1000000 --save-every 1000 --validate-every 1000 || [ $? -eq 130 ]
    tail -n 1 "$out/run/metrics.jsonl"
done
ls "$out/run/checkpoints"
