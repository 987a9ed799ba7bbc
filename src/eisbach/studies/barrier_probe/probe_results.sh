#!/usr/bin/env bash
# Probes the embedded base with each sample weighting, and the tiny native Stable Audio 3 checkpoint of the tests, and keeps what
# they found (without the rows) in bench/results/probe/. Needs labelled clips: `eisbach experiment run curation` leaves them in
# runs/curation/data.
set -euo pipefail
data=${1:-runs/curation/data}
out=${2:-bench/results/probe}
probe=${EISBACH:-.venv/bin/eisbach}
work=runs/probe-results
mkdir -p "$out"
run() { # name, then options
  local name=$1
  shift
  "$probe" probe --data "$data" --out "$work/$name" --fresh --quiet "$@" > "$out/$name.txt"
  cp "$work/$name/probe.json" "$out/$name.json"
}
run eq5 --sample entropy_barrier --set weighting.reduction=batch
run entropy --sample entropy_barrier --set weighting.strength=1 --set weighting.normalisation=mean1
run recurrence --sample recurrence_barrier --set weighting.strength=1 --set weighting.normalisation=mean1 \
  --set weighting.options.form=power --set weighting.options.sharpness=4
run development --sample development_barrier --set weighting.strength=1 --set weighting.normalisation=mean1
run min-snr --noise-level min_snr
run sa3-tiny --model tests/fixtures/sa3_native_tiny --sample entropy_barrier --set weighting.strength=1 \
  --set data.crop_seconds=4 --clips 32
