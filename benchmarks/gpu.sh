#!/usr/bin/env bash
# All that a GPU has to show, within ten minutes: build, tests, compute-sanitizer, benchmarks, and a
# profile of the kernels where there is ncu.
#   benchmarks/gpu.sh [FOLDER]      writes FOLDER/gpu.json and FOLDER/gpu.txt (default: results)
# Needs torch with CUDA, a CUDA toolkit and the packages of `pip install '.[dev,cli]'`. PYTHON names
# the Python to use. The status is 0 when all parts succeed.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-results}
python=${PYTHON:-python}
if ! capability=$("$python" -c \
  'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2> /dev/null); then
  echo "gpu.sh: $python has no torch that finds a GPU" >&2
  exit 1
fi
mkdir -p "$out"
parts=()
# compute-sanitizer comes with the toolkit, whose folder is often not in the path.
export PATH="$PATH:${CUDA_HOME:-${CUDA_PATH:-/usr/local/cuda}}/bin"

# part NAME SECONDS COMMAND...: runs it under a time limit, and goes on whatever comes of it. Python
# ends at an interrupt with what it has.
part() {
  local name=$1 seconds=$2 began=$SECONDS
  shift 2
  echo "==== $name" | tee -a "$out/gpu.txt"
  if ! command -v "$1" > /dev/null; then
    echo "gpu.sh: $1 was not found: it is part of the CUDA toolkit (set CUDA_HOME)" |
      tee -a "$out/gpu.txt"
    parts+=("$name" 127 0)
    return
  fi
  timeout --signal=INT --kill-after=10 "$seconds" "$@" 2>&1 | tail -n 60 | tee -a "$out/gpu.txt"
  parts+=("$name" "${PIPESTATUS[0]}" "$((SECONDS - began))")
}

{
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  date -u +%Y-%m-%d
} | tee "$out/gpu.txt"
rm -f "$out/gpu.json"

# For the GPU that is there alone: the whole list takes minutes.
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$capability}
part build 140 env HASHDL_FORCE_CUDA=1 bash -ec '
  "$0" setup.py -q build_ext --inplace
  "$0" -c "import hashdl; assert hashdl.build_info()[\"cuda\"], \"no CUDA kernels in hashdl._C\""
' "$python"

# Ops against their references and layers against dense ones, those cases of the tests that take a
# GPU.
tests=("$python" -m pytest -q -p no:cacheprovider)
workers=()
"$python" -c 'import xdist' 2> /dev/null && workers=(-n "$(nproc)")
part tests 120 "${tests[@]}" "${workers[@]}" --maxfail 10 tests/ops/test_ops_cuda.py tests/modules \
  -k "(cuda or test_gpu) and not host and not bad_values"

# The other cases, a file at a time on every core, while compute-sanitizer takes one core; but for
# the slow ones, which are left to `make test`. A file that has none of them ends with 5.
rm -f "$out/others.status"
began=$SECONDS
{
  find tests -name 'test_*.py' -print0 |
    CUDA_VISIBLE_DEVICES='' OMP_NUM_THREADS=1 timeout --kill-after=10 130 \
      xargs -0 -P "$(nproc)" -n 1 bash -c '"$0" -m pytest -q -p no:cacheprovider -m "not slow" \
        --maxfail 3 "$1" || [ $? = 5 ]' "$python"
  echo "${PIPESTATUS[1]}" > "$out/others.status"
} > "$out/others.txt" 2>&1 &
others=$!

# A small case of each op; the context of a racecheck is slow. Each tensor has memory of its own then:
# within a block of torch's allocator memcheck sees no access out of bounds.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
for tool in memcheck racecheck; do
  part "compute-sanitizer $tool" 65 compute-sanitizer --tool "$tool" --error-exitcode 9 \
    --target-processes all "${tests[@]}" tests/ops/test_ops_cuda.py \
    -k "equal_the_reference and default and not host"
done

unset PYTORCH_NO_CUDA_MEMORY_CACHING
part "other tests" $((140 - SECONDS + began)) bash -c 'tail -f /dev/null --pid "$0"; grep -E "^(FAILED|ERROR)" "$1/others.txt"
  exit "$(cat "$1/others.status")"' "$others" "$out"
part benchmarks 150 "$python" -m benchmarks.gpu --json "$out/gpu.json"
part profile 50 "$python" -m benchmarks.gpu_profile --json "$out/gpu.json" --seconds 40

# How the parts went, beside the figures.
"$python" - "$out/gpu.json" "${parts[@]}" << 'END' | tee -a "$out/gpu.txt"
import json, pathlib, sys

path, rest = pathlib.Path(sys.argv[1]), sys.argv[2:]
report = json.loads(path.read_text()) if path.exists() else {}
report["parts"] = {
    name: {"status": int(status), "seconds": int(seconds)}
    for name, status, seconds in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
}
path.write_text(json.dumps(report, indent=2) + "\n")
failed = [name for name, part in report["parts"].items() if part["status"]]
print("failed: " + ", ".join(failed) if failed else "all parts succeeded")
raise SystemExit(bool(failed))
END
