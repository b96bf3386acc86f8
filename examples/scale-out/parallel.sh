#!/bin/sh
# A seed in 16 shards by GNU parallel, on this machine or, with --sshlogin, on several that share the work folder.
#   sh parallel.sh oar-tiles.toml /mnt/seed/
# Exit codes 2 (configuration) and 4 (the run was given up) end with the same result again; retries do no harm then.
set -eu
config=$1 work=$2
oar-tiles shards begin --config "$config" --work "$work" --shards 16
# Each job has its number from seq: to run some shards again, echo their numbers instead, one a line. --jobs bounds how many run at once; the plan bounds their connections.
seq 16 | parallel --jobs 2 --retries 3 --halt soon,fail=1 \
  oar-tiles shards run --config "$config" --work "$work" --workers 1 --quiet --shard {}
oar-tiles shards commit --config "$config" --work "$work"
