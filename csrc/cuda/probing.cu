#include "cuda/probing.h"

#include "cpu/probe_sequence.h"
#include "cpu/score_order.h"
#include "cuda/row_map.h"

namespace hashdl::cuda {
namespace {

constexpr const char* kNotFinite =
    "hashdl::probe_signs: projections: got NaN or infinity, wanted finite values (is the input "
    "finite?)";

// Few threads a block: each has the memory of a sequence of its own.
constexpr int kProbeThreads = 64;

/// Words of a thread's memory: an odd number, so that threads' heaps lie in banks of their own.
int64_t words_of(int64_t K, int64_t P) { return cpu::ProbeSequence::bytes(K, P) / 4 | 1; }

/// A thread a table of a sample.
__global__ void probe_kernel(ProbeSigns args, BlockMemory memory, int64_t words) {
  cpu::ProbeSequence sequence(args.K, args.P, memory.mine() + threadIdx.x * words);
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kProbeThreads;
  for (int64_t i = thread_index(); i < args.B * args.L; i += threads) {
    const float* const projections = args.projections + i * args.K;
    int32_t code = 0;
    for (int64_t k = 0; k < args.K; ++k) {
      require(projections[k] - projections[k] == 0.0f, kNotFinite);
      code |= static_cast<int32_t>(projections[k] > 0.0f) << k;
    }
    sequence.fill(projections, code, args.buckets + i * args.P);
  }
}

constexpr int kThreads = 256;

/// Score and column in one word, smaller = better: ties go to the lower column.
__device__ uint64_t rank_of(float score, int64_t column) {
  return static_cast<uint64_t>(cpu::descending_bits(score)) << 32 | static_cast<uint64_t>(column);
}

__device__ uint64_t warp_min(uint64_t value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, value, offset);
    value = other < value ? other : value;
  }
  return value;
}

/// A warp a group: P times the best that is behind the one before.
__global__ void best_columns_kernel(BestColumns args) {
  const int64_t g = thread_index() / kWarp;
  if (g >= args.groups) return;
  const float* const scores = args.scores + g * args.W;
  uint64_t last = 0;
  for (int64_t p = 0; p < args.P; ++p) {
    uint64_t best = ~uint64_t{0};
    for (int64_t w = lane(); w < args.W; w += kWarp) {
      require(scores[w] - scores[w] == 0.0f,
              "hashdl::best_columns: scores: got NaN or infinity, wanted finite values (is the "
              "input finite?)");
      const uint64_t rank = rank_of(scores[w], w);
      if ((p == 0 || rank > last) && rank < best) best = rank;
    }
    last = warp_min(best);
    if (lane() == 0) args.columns[g * args.P + p] = static_cast<int32_t>(last & 0xffffffffu);
  }
}

}  // namespace

void probe_signs(const ProbeSigns& args, Scratch& scratch, Stream stream) {
  const int64_t words = words_of(args.K, args.P), count = args.B * args.L;
  const int64_t blocks = blocks_for(count, kProbeThreads);
  const BlockMemory memory = BlockMemory::make(words * kProbeThreads, blocks, scratch);
  if (scratch.measuring()) return;
  launch(probe_kernel, memory.blocks(blocks), kProbeThreads, memory.shared_bytes(), stream, args,
         memory, words);
}

void best_columns(const BestColumns& args, Stream stream) {
  launch(best_columns_kernel, blocks_for(args.groups, kThreads / kWarp), kThreads, 0, stream, args);
}

}  // namespace hashdl::cuda
