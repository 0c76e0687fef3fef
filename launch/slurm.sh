#!/usr/bin/env bash
# A Slurm job on GPU nodes, one process for each GPU:
#
#   sbatch launch/slurm.sh configs/sd3.py --workdir /shared/runs/a
#
# jax finds the processes through Slurm's variables. Two minutes before the time limit, and when the
# job is preempted, all processes save at the same step and end; the job then queues itself again
# and goes on. The folder of the clone, the data and the run folder must be on a file system that
# all nodes see.
#
# ---- what you may want to change -------------------------------------------------------------
#SBATCH --job-name=cvvae
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
# ------------------------------------------------------------------------------------------------
# Wait in the queue again after preemption and when a node fails.
#SBATCH --requeue
# To this script only (B), which passes it on and so knows that the run is not finished.
#SBATCH --signal=B:TERM@120
# One file over all starts; process 0 says what all do.
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
set -uo pipefail

PYTHON=${PYTHON:-python}
STARTS=${STARTS:-100}  # after which a job that keeps failing gives up
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/cvvae_jax}

cd "${SLURM_SUBMIT_DIR:-.}"
stopped=0 pid=""
# srun passes SIGTERM on to all processes.
trap 'stopped=1; [[ -n $pid ]] && kill -TERM "$pid" 2>/dev/null' TERM
# A process that has died has ended the others by itself, with the reason; Slurm would be quicker
# and silent.
srun --kill-on-bad-exit=0 "$PYTHON" train.py "$@" --distributed &
pid=$!
[[ $stopped == 1 ]] && kill -TERM "$pid"  # it came just before
wait "$pid"
status=$?
while kill -0 "$pid" 2>/dev/null; do  # the signal has ended `wait`, not the processes
  wait "$pid"
  status=$?
done

# 0: done, unless it was stopped. 2: a mistake in the settings, which another start won't mend.
if [[ $stopped == 1 || ($status != 0 && $status != 2) ]]; then
  if ((${SLURM_RESTART_COUNT:-0} < STARTS)); then
    echo "stopped with code $status; the job queues again and goes on from its newest checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$status"
