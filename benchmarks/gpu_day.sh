#!/usr/bin/env bash
# All that is measured on a GPU, in one run of less than nine minutes, each part into a text file of
# its own; a part that fails or takes too long ends alone, and the last line says which did.
#
#   benchmarks/gpu_day.sh OUT         # on a GPU, with jax[cuda13] and a CUDA build of PyTorch
#   benchmarks/gpu_day.sh OUT --dry   # every part at tiny sizes, on any device: that they run
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "$1" && cd "$1" && pwd)
dry=${2:-}
export PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
# Programs that two parts share are compiled once.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$out/programs}"
failed=()

# part NAME SECONDS MODULE OPTION..: the most important parts come first.
part() {
  local name=$1 seconds=$2
  shift 2
  echo "$name: python -m $*"
  timeout --signal=INT --kill-after=10 "$seconds" python -m "$@" >"$out/$name.txt" 2>&1 || failed+=("$name")
  tail -n 3 "$out/$name.txt"
}

{ nvidia-smi || true; uptime; python -m pip list; } >"$out/machine.txt" 2>&1
if [[ $dry == --dry ]]; then
  part codec_bfloat16 300 benchmarks.codec --quick --dtypes bfloat16 --convolutions
  part codec_float32 300 benchmarks.codec --quick --dtypes float32
  part train_step 600 benchmarks.train_step --tiny --torch --batches video --updates joint --precisions default --remats none --warm-up 1 --repeats 1
  part convolutions 300 benchmarks.convolutions --quick --most 3
  part profile 300 benchmarks.codec --quick --dtypes float32 --torch --profile 1 --profile-folder "$out/profile"
else
  part codec_bfloat16 130 benchmarks.codec --sizes 17x256x256 --dtypes bfloat16 --convolutions
  part train_step 150 benchmarks.train_step --torch --batches video --updates joint --precisions bfloat16 --remats none --repeats 3
  part convolutions 100 benchmarks.convolutions --dtype bfloat16 --chosen-alone --most 24
  part codec_float32 90 benchmarks.codec --sizes 17x256x256 --dtypes float32 --torch channels_last
  part profile 60 benchmarks.codec --sizes 17x256x256 --dtypes bfloat16 --torch --profile 2 --profile-folder "$out/profile"
fi
tar -czf "$out/profile.tar.gz" -C "$out" profile 2>/dev/null && rm -r "$out/profile"
rm -rf "$out/programs"

if ((${#failed[@]})); then
  echo "These parts failed or took too long; their files say why: ${failed[*]}"
  exit 1
fi
echo "All parts ran; $out has their output."
