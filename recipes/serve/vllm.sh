#!/bin/sh
# vLLM with exported adapters resident: recipes/serve/vllm.sh BASE EXPORT... [-- VLLM-ARGUMENTS]
# BASE is the folder of the base the adapters were trained on, each EXPORT a folder that `trafficllm adapter export TASK -o EXPORT --for vllm` wrote.
# On GPUs, one: -- --dtype bfloat16; several: -- --dtype bfloat16 --tensor-parallel-size 8. On CPUs: -- --dtype float32 --enforce-eager
set -eu
base=$1
shift
loras="" count=0 rank=8
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
  for config in "$1"/*/adapter_config.json; do
    folder=$(dirname "$config")
    loras="$loras $(basename "$folder")=$folder"
    count=$((count + 1))
    own=$(sed -n 's/^ *"r": *\([0-9]*\).*/\1/p' "$config")
    while [ "$rank" -lt "$own" ]; do rank=$((rank * 2)); done
  done
  shift
done
[ $# -eq 0 ] || shift
[ "$count" -gt 0 ] || { echo "no adapter_config.json below the exports" >&2; exit 2; }
# shellcheck disable=SC2086 -- one word an adapter
exec vllm serve "$base" --host 127.0.0.1 --port "${PORT:-8000}" --served-model-name base --enable-lora --lora-modules $loras \
  --max-loras "$count" --max-cpu-loras "$count" --max-lora-rank "$rank" --max-logprobs 128 --enable-prefix-caching "$@"
