#!/usr/bin/env bash
# A TPU pod of VMs (one process for each VM), from your own machine:
#
#   TPU=my-pod ZONE=us-east5-b launch/tpu_vm.sh configs/sd3.py --workdir /shared/runs/a
#
# Brings the code to every VM, installs what it needs, and runs the same command on all; jax finds
# the others through the TPU's metadata. A spot pod that has been preempted is deleted and asked for
# again, and the run goes on from its newest checkpoint. The run folder must outlive the VMs and be
# seen by all: a file share, or a bucket mounted as a folder where folders can be renamed (with
# gcsfuse: a bucket with a hierarchical namespace).
set -uo pipefail

# ---- what you may want to change -------------------------------------------------------------
TPU=${TPU:?name of the TPU, such as TPU=my-pod}
ZONE=${ZONE:?its zone, such as ZONE=us-east5-b}
PROJECT=${PROJECT:-$(gcloud config get-value project 2>/dev/null)}
TYPE=${TYPE:-v5litepod-32}             # what to ask for when it isn't there
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}  # of TPU VMs of that type
SPOT=${SPOT:-1}                        # 0: not a spot pod
REPOSITORY=${REPOSITORY:-$(git -C "$(dirname "$0")" remote get-url origin)}
BRANCH=${BRANCH:-main}
CACHE=${CACHE:-\$HOME/.cache/cvvae_jax}  # of compiled programs; best on the share, too
RESTARTS=${RESTARTS:-1000}
WAIT=${WAIT:-60}                       # seconds between looks at a pod that isn't ready
# ------------------------------------------------------------------------------------------------

where=(--zone="$ZONE" --project="$PROJECT")

on_all() {
  gcloud compute tpus tpu-vm ssh "$TPU" "${where[@]}" --worker=all --command="$1"
}

state() {
  gcloud compute tpus tpu-vm describe "$TPU" "${where[@]}" --format="value(state)" 2>/dev/null
}

# Until the pod is there, asking for it as often as it takes.
wait_until_ready() {
  local spot=()
  [[ $SPOT == 1 ]] && spot=(--spot)
  while true; do
    case $(state) in
      READY) return ;;
      "")
        gcloud compute tpus tpu-vm create "$TPU" "${where[@]}" --accelerator-type="$TYPE" \
          --version="$RUNTIME" "${spot[@]}" && continue
        ;;
      PREEMPTED | TERMINATED)
        gcloud compute tpus tpu-vm delete "$TPU" "${where[@]}" --quiet && continue
        ;;
    esac
    sleep "$WAIT"
  done
}

prepare="if [ -d cvvae_jax ]; then git -C cvvae_jax fetch --quiet && git -C cvvae_jax checkout \
--quiet $BRANCH && git -C cvvae_jax pull --quiet; else git clone --quiet --branch $BRANCH \
$REPOSITORY cvvae_jax; fi && cd cvvae_jax && pip install --quiet -r requirements.txt 'jax[tpu]'"
# What a start before this one has left, after a connection was lost, would hold the TPU; it saves
# first.
run="cd cvvae_jax && export JAX_COMPILATION_CACHE_DIR=$CACHE && \
while pkill -f 'train[.]py .*--distributed'; do sleep 2; done; launch/process.sh $(printf '%q ' "$@")"

for ((start = 0; start <= RESTARTS; start++)); do
  wait_until_ready
  on_all "$prepare" && on_all "$run"
  status=$?  # ssh's, that is the first process's that isn't 0
  # Done, or a mistake that another start won't mend.
  [[ $status == 0 || $status == 2 ]] && exit "$status"
  echo "the run ended with code $status; starting it again once the TPU is ready" >&2
  sleep "$WAIT"
done
exit "$status"
