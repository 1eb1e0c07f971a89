#!/usr/bin/env bash
# All that a GPU has to show, in about ten minutes: build, tests, compute-sanitizer, benchmarks.
#   benchmarks/gpu.sh [FOLDER]      writes FOLDER/gpu.json and FOLDER/gpu.txt (default: results)
# Needs torch with CUDA, a CUDA toolkit and the packages of `pip install '.[dev,cli]'`.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-results}
python=${PYTHON:-python}
mkdir -p "$out"
failed=()

# part NAME SECONDS COMMAND...: runs it under a time limit, and goes on whatever comes of it.
part() {
  local name=$1 seconds=$2
  shift 2
  echo "==== $name" | tee -a "$out/gpu.txt"
  timeout "$seconds" "$@" 2>&1 | tail -n 25 | tee -a "$out/gpu.txt"
  local status=${PIPESTATUS[0]}
  if [ "$status" -ne 0 ]; then failed+=("$name ($status)"); fi
}

: > "$out/gpu.txt"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee -a "$out/gpu.txt"
date -u +%Y-%m-%d | tee -a "$out/gpu.txt"

# For the GPU that is there alone: the whole list takes minutes.
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$($python -c \
  'import torch; print("%d.%d" % torch.cuda.get_device_capability())')}
part build 240 env HASHDL_FORCE_CUDA=1 "$python" setup.py -q build_ext --inplace
part tests 240 "$python" -m pytest -q -x tests/ops tests/modules

# A small case of each op; the context of a racecheck is slow.
small=("$python" -m pytest -q -p no:cacheprovider tests/ops/test_ops_cuda.py
  -k "equal_the_reference and cuda and default")
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    part "compute-sanitizer $tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      --target-processes all "${small[@]}"
  done
else
  failed+=("compute-sanitizer (not found)")
fi

part benchmarks 300 "$python" -m benchmarks.gpu --json "$out/gpu.json"

if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}" | tee -a "$out/gpu.txt"
  exit 1
fi
