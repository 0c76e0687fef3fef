#!/usr/bin/env bash
# One process of a run, for schedulers that start it again unless it ends with 0 (GKE, TPU VMs):
#
#   launch/process.sh configs/sd3.py --workdir /shared/runs/a
#
# train.py ends with 0 both when the run is finished and when SIGTERM has made it save and stop.
# Here the latter becomes 143, so that the scheduler starts the processes again; the others' codes:
#   2   a mistake in the settings, which another start won't mend
#   75  another process died
set -uo pipefail

cd "$(dirname "$0")/.."
# Programs are compiled once, not at every start. Several machines may share the folder.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/cvvae_jax}

stopped=0 pid=""
trap 'stopped=1; [[ -n $pid ]] && kill -TERM "$pid" 2>/dev/null' TERM
${PYTHON:-python} train.py "$@" --distributed &
pid=$!
[[ $stopped == 1 ]] && kill -TERM "$pid"  # it came just before
# A trapped signal ends `wait` before the process has ended.
wait "$pid"
status=$?
while kill -0 "$pid" 2>/dev/null; do
  wait "$pid"
  status=$?
done
if [[ $stopped == 1 && $status == 0 ]]; then
  exit 143
fi
exit "$status"
