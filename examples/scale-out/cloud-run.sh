#!/bin/sh
# A seed in 64 shards as a Cloud Run job. Cloud Run sets CLOUD_RUN_TASK_INDEX, from 0 on, and repeats a task that fails up to three times.
# The configuration is in the image; the work folder is a bucket that is reached by its S3 interface.
set -eu
work=$1
oar-tiles shards begin --config oar-tiles.toml --work "$work" --shards 64
gcloud run jobs deploy oar-tiles-shards --image "$IMAGE" --tasks 64 --parallelism 16 --max-retries 3 --task-timeout 6h --cpu 4 --memory 2Gi \
  --args "shards,run,--config,/etc/oar-tiles/map.toml,--work,$work,--workers,4"
gcloud run jobs execute oar-tiles-shards --wait
oar-tiles shards commit --config oar-tiles.toml --work "$work"
