#!/bin/sh
# A seed in 64 shards as a Cloud Run job. Not run here.
#   IMAGE=… NFS=10.0.0.2:/share sh cloud-run.sh /mnt/seed/work/
# Cloud Run sets CLOUD_RUN_TASK_INDEX, from 0 on, and repeats a task that fails up to three times, whatever its exit code: 2 (configuration) and
# 4 (the run was given up) end in the same way again; retries do no harm then.
# The configuration is in the image, and oar-tiles.toml here is the same. The work folder is an NFS share that this machine has at /mnt/seed, too: the S3 interface of
# Cloud Storage has no conditional PUT (If-None-Match), by which shards find out who was first. A bucket of another store that has it does as well.
set -eu
work=$1
oar-tiles shards begin --config oar-tiles.toml --work "$work" --shards 64
gcloud run jobs deploy oar-tiles-shards --image "$IMAGE" --tasks 64 --parallelism 16 --max-retries 3 --task-timeout 6h --cpu 4 --memory 2Gi \
  --add-volume "name=seed,type=nfs,location=$NFS" --add-volume-mount volume=seed,mount-path=/mnt/seed \
  --args "shards,run,--config,/etc/oar-tiles/map.toml,--work,$work,--workers,4"
# Ends with an error if a task has failed for good: shards that are missing can be run again before the commit.
gcloud run jobs execute oar-tiles-shards --wait
oar-tiles shards commit --config oar-tiles.toml --work "$work"
