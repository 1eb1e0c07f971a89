#include "cpu/columns.h"

#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

/// The P best scores so far, best first, and their columns.
template <typename Float>
struct Ranking {
  Float* best;
  int32_t* columns;
  int64_t P;
  int64_t count = 0;

  HASHDL_INLINE bool admits(Float score) const { return count < P || score > best[P - 1]; }

  HASHDL_INLINE void insert(Float score, int32_t column) {
    int64_t at = count < P ? count++ : P - 1;
    for (; at > 0 && best[at - 1] < score; --at) {
      best[at] = best[at - 1];
      columns[at] = columns[at - 1];
    }
    best[at] = score;
    columns[at] = column;
  }
};

template <typename Float>
HASHDL_INLINE Float largest(Vec<Float> v) {
  Float most = v[0];
  for (int64_t i = 1; i < VecOf<Float>::lanes; ++i) most = v[i] > most ? v[i] : most;
  return most;
}

/// Of a few vectors at a time the largest score is found first: mostly none of them is wanted.
template <typename Float>
bool rank(const Float* scores, int64_t W, Ranking<Float> ranking) {
  constexpr int64_t kLanes = VecOf<Float>::lanes, kBlock = 4 * kLanes;
  Vec<Float> poison{};  // zero times NaN or infinity is NaN
  Float rest = 0;
  int64_t w = 0;
  for (; w + kBlock <= W; w += kBlock) {
    Vec<Float> most = load(scores + w);
    poison += most * Float{0};
    for (int64_t i = kLanes; i < kBlock; i += kLanes) {
      const Vec<Float> v = load(scores + w + i);
      poison += v * Float{0};
      most = v > most ? v : most;
    }
    if (!ranking.admits(largest<Float>(most))) continue;
    for (int64_t i = w; i < w + kBlock; ++i) {
      if (ranking.admits(scores[i])) ranking.insert(scores[i], static_cast<int32_t>(i));
    }
  }
  for (; w < W; ++w) {
    rest += scores[w] * Float{0};
    if (ranking.admits(scores[w])) ranking.insert(scores[w], static_cast<int32_t>(w));
  }
  return reduce<Float>(poison) + rest == Float{0};
}

template <typename Float>
bool best(const BestColumns<Float>& args, int64_t begin, int64_t end) {
  bool finite = true;
  for (int64_t g = begin; g < end; ++g) {
    finite &= rank(args.scores + g * args.W, args.W,
                   Ranking<Float>{args.best, args.columns + g * args.P, args.P});
  }
  return finite;
}

}  // namespace

template <typename Float>
const ColumnKernels<Float>& column_kernels() {
  static constexpr ColumnKernels<Float> kernels{best<Float>};
  return kernels;
}

template const ColumnKernels<float>& column_kernels<float>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
