#!/bin/sh
# N processes on this machine: recipes/distributed/one_node.sh N task D --base B -o A [--config TOML]
set -eu
processes=$1
shift
exec torchrun --standalone --nnodes 1 --nproc-per-node "$processes" -m trafficllm tune "$@"
