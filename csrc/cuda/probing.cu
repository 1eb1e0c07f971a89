#include "cuda/probing.h"

#include "cpu/digits.h"
#include "cuda/digit_code.h"
#include "cuda/row_map.h"

namespace hashdl::cuda {
namespace {

// Few threads a block: each has the memory of a sequence of its own.
constexpr int kProbeThreads = 64;

/// Codes of sign bits.
struct Signs {
  using Sequence = cpu::ProbeSequence;
  __device__ static int64_t width(int64_t K) { return K; }
  __device__ static int32_t code_of(const float* projections, int64_t K) {
    int32_t code = 0;
    for (int64_t k = 0; k < K; ++k) {
      require(projections[k] - projections[k] == 0.0f,
              "hashdl::probe_signs: projections: got NaN or infinity, wanted finite values (is the "
              "input finite?)");
      code |= static_cast<int32_t>(projections[k] > 0.0f) << k;
    }
    return code;
  }
};

/// Codes of digits.
struct Digits {
  using Sequence = cpu::DigitSequence;
  __device__ static int64_t width(int64_t K) { return cpu::all_slots(K); }
  __device__ static int32_t code_of(const float* projections, int64_t K) {
    return checked_digit_code(projections, K,
                              "hashdl::probe_digits: projections: got NaN or infinity, wanted "
                              "finite values (is the input finite?)");
  }
};

/// A thread a table of a sample.
template <typename Codes>
__global__ void probe_kernel(Probe args, BlockMemory memory, int64_t words) {
  typename Codes::Sequence sequence(args.K, args.P, memory.mine() + threadIdx.x * words);
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kProbeThreads;
  for (int64_t i = thread_index(); i < args.B * args.L; i += threads) {
    const float* const projections = args.projections + i * Codes::width(args.K);
    const int32_t code = Codes::code_of(projections, args.K);
    sequence.fill(projections, code, args.buckets + i * args.P);
  }
}

template <typename Codes>
void probe(const Probe& args, Scratch& scratch, Stream stream) {
  // Words of a thread's memory: an odd number, so that threads' heaps lie in banks of their own.
  const int64_t words = Codes::Sequence::bytes(args.K, args.P) / 4 | 1;
  const int64_t blocks = blocks_for(args.B * args.L, kProbeThreads);
  const BlockMemory memory = BlockMemory::make(words * kProbeThreads, blocks, scratch);
  if (scratch.measuring()) return;
  launch(probe_kernel<Codes>, memory.blocks(blocks), kProbeThreads, memory.shared_bytes(), stream,
         args, memory, words);
}

constexpr int kThreads = 256;

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

void probe_signs(const Probe& args, Scratch& scratch, Stream stream) {
  probe<Signs>(args, scratch, stream);
}

void probe_digits(const Probe& args, Scratch& scratch, Stream stream) {
  probe<Digits>(args, scratch, stream);
}

void best_columns(const BestColumns& args, Stream stream) {
  launch(best_columns_kernel, blocks_for(args.groups, kThreads / kWarp), kThreads, 0, stream, args);
}

}  // namespace hashdl::cuda
