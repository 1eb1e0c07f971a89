#include "cpu/sketch.h"

#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

// Candidates ahead that are asked for: their sketches lie anywhere in (N, W).
constexpr int64_t kAhead = 12;
constexpr int64_t kLanes = VecOf<float>::lanes, kVectors = 32 / kLanes;

/// Lane i of the v-th vector of a word: its bit v * kLanes + i.
HASHDL_INLINE VecI32 bits_of(int64_t v) {
  VecI32 bits;
  for (int64_t i = 0; i < kLanes; ++i) bits[i] = static_cast<int32_t>(1u << (v * kLanes + i));
  return bits;
}

/// Sum of the query's projections whose bits are set.
HASHDL_INLINE float sum_of_set(const float* query, const int32_t* sketch, int64_t W) {
  Vec<float> sums[kVectors] = {};
  for (int64_t w = 0; w < W; ++w) {
    const VecI32 word = VecI32{} + sketch[w];
    for (int64_t v = 0; v < kVectors; ++v) {
      const Vec<float> values = load(query + 32 * w + v * kLanes);
      sums[v] += (word & bits_of(v)) != 0 ? values : Vec<float>{};
    }
  }
  Vec<float> sum = sums[0];
  for (int64_t v = 1; v < kVectors; ++v) sum += sums[v];
  return reduce<float>(sum);
}

template <typename Float>
void scores(const SketchScores<Float>& args, int64_t begin, int64_t end) {
  const int64_t W = args.W, C = args.C;
  for (int64_t b = begin; b < end; ++b) {
    const Float* query = args.queries + b * 32 * W;
    const int32_t* candidates = args.candidates + b * C;
    Float* out = args.scores + b * C;
    Vec<float> parts{};
    for (int64_t k = 0; k < 32 * W; k += kLanes) parts += load(query + k);
    const Float total = reduce<float>(parts);
    for (int64_t c = 0; c < C; ++c) {
      if (c + kAhead < C && candidates[c + kAhead] >= 0) {
        prefetch_row(args.sketches + static_cast<int64_t>(candidates[c + kAhead]) * W, W);
        __builtin_prefetch(args.norms + candidates[c + kAhead]);
      }
      const int64_t row = candidates[c];
      // Set bits count once, the others minus once.
      out[c] = row < 0
                   ? Float{0}
                   : args.norms[row] * (2 * sum_of_set(query, args.sketches + row * W, W) - total);
    }
  }
}

}  // namespace

template <typename Float>
const SketchKernels<Float>& sketch_kernels() {
  static constexpr SketchKernels<Float> kernels{scores<Float>};
  return kernels;
}

template const SketchKernels<float>& sketch_kernels<float>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
