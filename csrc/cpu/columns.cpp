#include "cpu/columns.h"

#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

// Columns wanted, and of how many times as many, from which on all are compared with all.
constexpr int64_t kMany = 64, kManyOf = 4;

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

/// Of a vector of columns from `first` on, how many columns come before each.
HASHDL_INLINE VecI32 count_before(const float* scores, int64_t W, int64_t first) {
  constexpr int64_t kLanes = VecOf<float>::lanes;
  const Vec<float> own = load(scores + first);
  VecI32 counts[2] = {}, lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  int64_t w = 0;
  for (; w < first; w += 2) {
    for (int64_t i = 0; i < 2; ++i) counts[i] -= scores[w + i] >= own;
  }
  for (; w < first + kLanes; ++w) {
    const VecI32 earlier = lane > static_cast<int32_t>(w - first);
    counts[0] -= (scores[w] > own) | ((scores[w] == own) & earlier);
  }
  for (; w + 1 < W; w += 2) {
    for (int64_t i = 0; i < 2; ++i) counts[i] -= scores[w + i] > own;
  }
  if (w < W) counts[0] -= scores[w] > own;
  return counts[0] + counts[1];
}

/// Where many of the columns are wanted: a column's place is the number of those before it. W is a
/// multiple of the lanes.
bool count_places(const float* scores, int64_t W, int64_t P, int32_t* columns) {
  constexpr int64_t kLanes = VecOf<float>::lanes;
  Vec<float> poison{};  // zero times NaN or infinity is NaN
  for (int64_t w = 0; w < W; w += kLanes) poison += load(scores + w) * 0.0f;
  if (reduce<float>(poison) != 0.0f) return false;
  for (int64_t w = 0; w < W; w += kLanes) {
    const VecI32 places = count_before(scores, W, w);
    for (int64_t i = 0; i < kLanes; ++i) {
      if (places[i] < P) columns[places[i]] = static_cast<int32_t>(w + i);
    }
  }
  return true;
}

template <typename Float>
bool best(const BestColumns<Float>& args, int64_t begin, int64_t end) {
  const int64_t W = args.W, P = args.P;
  const bool many = P >= kMany && W <= kManyOf * P && W % VecOf<Float>::lanes == 0;
  bool finite = true;
  for (int64_t g = begin; g < end; ++g) {
    const Float* scores = args.scores + g * W;
    int32_t* columns = args.columns + g * P;
    finite &= many ? count_places(scores, W, P, columns)
                   : rank(scores, W, Ranking<Float>{args.best, columns, P});
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
