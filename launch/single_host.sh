#!/usr/bin/env bash
# Several processes on this machine, such as one for each GPU, or to try out what a cluster will do:
#
#   PROCESSES=2 launch/single_host.sh configs/quickstart.py --workdir runs/two
#
# Starts all of them again when one dies, up to RESTARTS times; the run goes on from its newest
# checkpoint. SIGTERM and Ctrl-C go to all processes, which save at the same step and end.
set -uo pipefail

# ---- what you may want to change -------------------------------------------------------------
PROCESSES=${PROCESSES:-2}
GPUS=${GPUS:-}          # how many to share out, the same number to each process; empty: no GPUs
PORT=${PORT:-}          # at which they meet, on this machine alone; empty: a free one at every start
RESTARTS=${RESTARTS:-100}
PYTHON=${PYTHON:-python}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/cvvae_jax}
# ------------------------------------------------------------------------------------------------

if [[ -n $GPUS && $((GPUS % PROCESSES)) != 0 ]]; then
  echo "error: $GPUS GPUs can't be shared equally by $PROCESSES processes." >&2
  exit 2
fi
cd "$(dirname "$0")/.."
stopped=0 pids=()
trap 'stopped=1; ((${#pids[@]})) && kill -TERM "${pids[@]}" 2>/dev/null' TERM
trap 'stopped=1' INT  # a terminal sends it to the processes, too

free_port() {
  local port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
  done
  echo "$port"
}

start_all() {
  pids=()
  local port=${PORT:-$(free_port)}
  # Known to the processes of this start alone, so that no others join them.
  CVVAE_RUN_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  export CVVAE_RUN_TOKEN
  for ((i = 0; i < PROCESSES; i++)); do
    (
      if [[ -n $GPUS ]]; then
        share=$((GPUS / PROCESSES))
        CUDA_VISIBLE_DEVICES=$(seq -s, $((i * share)) $(((i + 1) * share - 1)))
        export CUDA_VISIBLE_DEVICES
      fi
      export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$PROCESSES JAX_PROCESS_ID=$i
      exec "$PYTHON" train.py "$@" --distributed
    ) &
    pids+=($!)
  done
}

# The first code that isn't 0, after all have ended; a signal ends `wait` too early.
wait_for_all() {
  local pid code status=0
  for pid in "${pids[@]}"; do
    wait "$pid"
    code=$?
    while kill -0 "$pid" 2>/dev/null; do
      wait "$pid"
      code=$?
    done
    [[ $status == 0 ]] && status=$code
  done
  return "$status"
}

for ((start = 0; start <= RESTARTS; start++)); do
  start_all "$@"
  [[ $stopped == 1 ]] && kill -TERM "${pids[@]}"  # it came while they were being started
  wait_for_all
  status=$?
  # Done, told to stop, or a mistake that another start won't mend.
  [[ $status == 0 || $status == 2 || $stopped == 1 ]] && exit "$status"
  echo "a process ended with code $status; starting all of them again" >&2
  sleep 5
done
exit "$status"
