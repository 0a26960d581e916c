#!/bin/sh
# The same line on every machine, RANK counting from 0 and HOST the first machine:
# recipes/distributed/nodes.sh NODES PROCESSES-EACH RANK HOST task D --base B -o A [--config TOML]
# D, B and A must be the same files everywhere (a shared file system).
set -eu
nodes=$1 processes=$2 rank=$3 host=$4
shift 4
exec torchrun --nnodes "$nodes" --nproc-per-node "$processes" --node-rank "$rank" \
  --master-addr "$host" --master-port 29500 -m trafficllm tune "$@"
