#!/bin/sh
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
# sbatch recipes/distributed/slurm.sh task D --base B -o A --config recipes/distributed/shard.toml
set -eu
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export host
# shellcheck disable=SC2016 -- SLURM_NODEID is each node's own
exec srun sh -c 'exec recipes/distributed/nodes.sh "$SLURM_JOB_NUM_NODES" 8 "$SLURM_NODEID" "$host" "$@"' sh "$@"
