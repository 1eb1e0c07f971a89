#include "cpu/sketch.h"

#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

// Candidates ahead that are asked for: their codes lie anywhere in (N, L).
constexpr int64_t kAhead = 12;

/// Bits in which two rows of L codes differ, two codes to a word.
HASHDL_INLINE int64_t differing_bits(const int32_t* a, const int32_t* b, int64_t L) {
  int64_t count = 0, l = 0;
  for (; l + 2 <= L; l += 2) {
    uint64_t x, y;
    std::memcpy(&x, a + l, sizeof(x));
    std::memcpy(&y, b + l, sizeof(y));
    count += __builtin_popcountll(x ^ y);
  }
  if (l < L) count += __builtin_popcount(static_cast<uint32_t>(a[l] ^ b[l]));
  return count;
}

template <typename Code>
void scores(const SketchScores<Code>& args, int64_t begin, int64_t end) {
  const int64_t L = args.L, C = args.C;
  for (int64_t b = begin; b < end; ++b) {
    const Code* query = args.queries + b * L;
    const int32_t* candidates = args.candidates + b * C;
    float* out = args.scores + b * C;
    for (int64_t c = 0; c < C; ++c) {
      if (c + kAhead < C && candidates[c + kAhead] >= 0) {
        prefetch_row(args.codes + static_cast<int64_t>(candidates[c + kAhead]) * L, L);
        __builtin_prefetch(args.norms + candidates[c + kAhead]);
      }
      const int64_t row = candidates[c];
      if (row < 0) {
        out[c] = 0;
        continue;
      }
      const int64_t differing = differing_bits(query, args.codes + row * L, L);
      out[c] = args.norms[row] * args.cosines[differing];
    }
  }
}

}  // namespace

template <typename Code>
const SketchKernels<Code>& sketch_kernels() {
  static constexpr SketchKernels<Code> kernels{scores<Code>};
  return kernels;
}

template const SketchKernels<int32_t>& sketch_kernels<int32_t>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
