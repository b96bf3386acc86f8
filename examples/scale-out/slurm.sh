#!/bin/sh
# A seed in 64 shards by a Slurm array, and its commit once all of them have ended with 0.
#   sh slurm.sh oar-tiles.toml /shared/seed/
# The work folder is one that all nodes share. %8 bounds how many run at once; the plan bounds their connections.
# Slurm repeats a task of itself only after a node has failed (--requeue). After other failures the commit is cancelled (--kill-on-invalid-dep): sbatch --array
# with the numbers that oar-tiles shards status names as missing, less one, for Slurm counts from 0 here; then commit. Begin again after exit code 4.
set -eu
config=$1 work=$2
oar-tiles shards begin --config "$config" --work "$work" --shards 64
# Slurm sets SLURM_ARRAY_TASK_ID, with MIN and STEP.
job=$(sbatch --parsable --job-name=oar-tiles --array=0-63%8 --requeue --cpus-per-task=4 \
  --wrap="oar-tiles shards run --config '$config' --work '$work' --workers 4")
sbatch --parsable --job-name=oar-tiles-commit --dependency="afterok:$job" --kill-on-invalid-dep=yes \
  --wrap="oar-tiles shards commit --config '$config' --work '$work'"
