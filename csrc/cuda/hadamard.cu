#include "cuda/hadamard.h"

#include "cpu/hadamard.h"
#include "cpu/random.h"
#include "cuda/row_map.h"
#include "cuda/runs.h"

namespace hashdl::cuda {
namespace {

using cpu::kRounds;

constexpr int kThreads = 256;

struct KeyBegins {
  const int32_t* keys;
  __device__ bool operator()(int64_t c) const { return c == 0 || keys[c] != keys[c - 1]; }
};

/// The random sign of coordinate i before a round.
__device__ float flipped(float value, int32_t key, int64_t round, int64_t i) {
  return cpu::stream_key(key, round, i / 64) >> (i % 64) & 1 ? -value : value;
}

/// Butterflies of what is `half` = n / 2, n / 4, ..., kWarp apart, by the block. The sums are those
/// of the CPU, which brings what is n / 2 apart side by side in every stage.
__device__ void far_stages(float* x, int64_t n) {
  for (int64_t half = n / 2; half >= kWarp; half /= 2) {
    for (int64_t p = threadIdx.x; p < n / 2; p += kThreads) {
      const int64_t i = 2 * p - (p & (half - 1));  // p / half * 2 * half + p % half
      const float a = x[i], b = x[i + half];
      x[i] = a + b;
      x[i + half] = a - b;
    }
    __syncthreads();
  }
}

/// The other butterflies, of what is less than kWarp apart, by a warp each kWarp numbers; then the
/// signs of the next round.
__device__ void near_stages(float* x, int64_t n, int32_t key, int64_t round) {
  const int widest = n < kWarp ? static_cast<int>(n) / 2 : kWarp / 2;
  for (int64_t first = warp() * kWarp; first < n; first += kThreads) {
    const int64_t i = first + lane();
    float value = i < n ? x[i] : 0.0f;
    for (int half = widest; half > 0; half /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, value, half);
      value = lane() & half ? other - value : value + other;
    }
    if (i < n) x[i] = round + 1 < kRounds ? flipped(value, key, round + 1, i) : value;
  }
  __syncthreads();
}

/// A block a vector and every `parts`-th of the functions' runs.
__global__ void __launch_bounds__(kThreads)
    hadamard_kernel(Hadamard args, Runs runs, BlockMemory memory, int64_t parts) {
  float* const x = reinterpret_cast<float*>(memory.mine());
  const float scale = 1.0f / static_cast<float>(args.n);
  for (int64_t work = blockIdx.x; work < args.M * parts; work += gridDim.x) {
    const int64_t m = work / parts;
    const float* const vector = args.vectors + m * args.D;
    for (int64_t run = work % parts; run < *runs.count; run += parts) {
      const int32_t key = args.keys[runs.starts[run]];
      for (int64_t i = threadIdx.x; i < args.n; i += kThreads) {
        x[i] = i < args.D ? flipped(vector[i], key, 0, i) : 0.0f;
      }
      __syncthreads();
      for (int64_t round = 0; round < kRounds; ++round) {
        far_stages(x, args.n);
        near_stages(x, args.n, key, round);
      }
      for (int64_t c = runs.starts[run] + threadIdx.x; c < runs.starts[run + 1]; c += kThreads) {
        const int32_t at = args.coordinates[c];
        require(at >= 0 && at < args.n,
                "hashdl::hadamard_projections: functions: got a coordinate outside 0 to n - 1");
        args.projections[m * args.C + c] = x[at] * scale;
      }
      __syncthreads();
    }
  }
}

}  // namespace

void hadamard(const Hadamard& args, Scratch& scratch, Stream stream) {
  // As many parts as there are runs where each has all of n coordinates.
  const int64_t parts = blocks_for(args.C, args.n), blocks = args.M * parts;
  const Runs runs = Runs::make(args.C, scratch);
  const BlockMemory memory = BlockMemory::make(args.n, blocks, scratch);
  if (scratch.measuring()) return;
  find_runs(KeyBegins{args.keys}, args.C, runs, stream);
  launch(hadamard_kernel, memory.blocks(blocks), kThreads, memory.shared_bytes(), stream, args,
         runs, memory, parts);
}

}  // namespace hashdl::cuda
