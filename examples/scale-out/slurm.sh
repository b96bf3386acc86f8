#!/bin/sh
# A seed in 64 shards by a Slurm array, and its commit once all of them have ended with 0.
#   sh slurm.sh oar-tiles.toml /shared/seed/
# The work folder is one that all nodes share. %8 bounds how many run at once; the plan bounds their connections.
# Slurm repeats a task of itself only after a node has failed (--requeue). After other failures the commit is cancelled (--kill-on-invalid-dep): run this
# once more with the numbers of the shards that oar-tiles shards status names as missing. Begin again after exit code 4.
#   sh slurm.sh oar-tiles.toml /shared/seed/ 2,5,7-9
set -eu
config=$1 work=$2 shards=${3:-}
if [ -z "$shards" ]; then
  oar-tiles shards begin --config "$config" --work "$work" --shards 64
  shards=1-64
fi
# A task says which shard it is: without --shard, ids would count from 0.
job=$(sbatch --parsable --job-name=oar-tiles --array="$shards%8" --requeue --cpus-per-task=4 \
  --wrap="oar-tiles shards run --config '$config' --work '$work' --workers 4 --shard \$SLURM_ARRAY_TASK_ID")
sbatch --parsable --job-name=oar-tiles-commit --dependency="afterok:$job" --kill-on-invalid-dep=yes \
  --wrap="oar-tiles shards commit --config '$config' --work '$work'"
