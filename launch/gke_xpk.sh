#!/usr/bin/env bash
# The same as gke_jobset.yaml for clusters made with XPK (pip install xpk), which writes the JobSet:
#
#   CLUSTER=my-cluster ZONE=us-east5-b IMAGE=... launch/gke_xpk.sh configs/sd3.py --workdir /shared/a
set -euo pipefail

# ---- what you may want to change -------------------------------------------------------------
CLUSTER=${CLUSTER:?name of the cluster, such as CLUSTER=my-cluster}
ZONE=${ZONE:?its zone, such as ZONE=us-east5-b}
PROJECT=${PROJECT:-$(gcloud config get-value project 2>/dev/null)}
IMAGE=${IMAGE:?the repository in /cvvae_jax with its requirements and jax[tpu]}
NAME=${NAME:-cvvae}
TYPE=${TYPE:-v5litepod-32}
SLICES=${SLICES:-1}
RESTARTS=${RESTARTS:-1000}  # preemptions are among them
# ------------------------------------------------------------------------------------------------

# XPK restarts after codes from 127 on by itself, 143 (preempted) and 137 (killed) among them; 75 is
# another process's death, 1 an error.
xpk workload create --workload="$NAME" --cluster="$CLUSTER" --zone="$ZONE" --project="$PROJECT" \
  --tpu-type="$TYPE" --num-slices="$SLICES" --docker-image="$IMAGE" --max-restarts="$RESTARTS" \
  --restart-on-exit-codes=1,75 --termination-grace-period-seconds=120 \
  --command="bash /cvvae_jax/launch/process.sh $(printf '%q ' "$@")"
