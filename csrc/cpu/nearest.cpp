#include "cpu/nearest.h"

#include "cpu/tile.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

constexpr int64_t kLanes = VecOf<float>::lanes;
constexpr int kRows = kTileRows, kVectors = kTileVectors;
// Columns of a panel, which is copied to where its rows stand side by side.
constexpr int64_t kPanel = kVectors * kLanes;
// Rows that meet one panel after the other: with what is known of them they stay in cache.
constexpr int64_t kBlock = 96;
// No score is less, and none of another column equals it.
constexpr float kLowest = -__FLT_MAX__;

using Rows = const float* [kRows];

/// Columns of a group that are met at once: offsets, then the functions' rows.
struct Panel {
  float* values;
  int64_t d;  ///< rows of functions, that of the bias included

  /// Columns [first, first + count) of a group of functions; whatever is beyond is never the best.
  HASHDL_INLINE void fill(const float* functions, const float* offset, int64_t F, int64_t count) {
    for (int64_t c = 0; c < kPanel; ++c) {
      values[c] = c >= count ? kLowest : offset == nullptr ? 0.0f : offset[c];
    }
    for (int64_t k = 0; k < d; ++k) {
      float* to = values + (k + 1) * kPanel;
      for (int64_t c = 0; c < count; ++c) to[c] = functions[k * F + c];
      for (int64_t c = count; c < kPanel; ++c) to[c] = 0.0f;
    }
  }
};

/// In each lane the best score of a row so far, and the vector of columns that it is of.
struct Best {
  Vec<float> score;
  VecI32 vector;
};

/// Lets kRows rows meet a panel, the vectors of which have numbers from `first` on.
HASHDL_INLINE void meet(const Panel& panel, const Rows& rows, const float* (&biases)[kRows],
                        int64_t d, int32_t first, Best* best, Vec<float>& poison) {
  Vec<float> sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = load(panel.values + v * kLanes);
  }
  const float* functions = panel.values + kPanel;
  add_product_of_rows(rows, functions, kPanel, d, sums);
  if (biases[0] != nullptr) {
    float x[kRows];
    for (int r = 0; r < kRows; ++r) x[r] = *biases[r];
    add_products(x, functions + d * kPanel, sums);
  }
  for (int r = 0; r < kRows; ++r) {
    Best known = best[r];
    for (int v = 0; v < kVectors; ++v) {
      poison += sums[r][v] * 0.0f;  // zero times NaN or infinity is NaN
      const VecI32 better = sums[r][v] > known.score;
      known.score = better ? sums[r][v] : known.score;
      known.vector = better ? VecI32{} + (first + v) : known.vector;
    }
    best[r] = known;
  }
}

HASHDL_INLINE int32_t column_of(const Best& best) {
  float score = best.score[0];
  auto column = static_cast<int32_t>(best.vector[0] * kLanes);
  for (int32_t lane = 1; lane < kLanes; ++lane) {
    const auto own = static_cast<int32_t>(best.vector[lane] * kLanes + lane);
    if (best.score[lane] < score || (best.score[lane] == score && own > column)) continue;
    score = best.score[lane];
    column = own;
  }
  return column;
}

/// A block of rows in one group.
bool block(const NearestColumns<float>& args, int64_t begin, int64_t end, int64_t g, Panel& panel) {
  const int64_t F = args.G * args.W;
  Best best[kBlock + kRows];
  for (Best& one : best) one = {Vec<float>{} + kLowest, VecI32{}};
  Vec<float> poison{};
  for (int64_t w = 0; w < args.W; w += kPanel) {
    const int64_t first = g * args.W + w, left = args.W - w;
    panel.fill(args.functions + first, args.offset == nullptr ? nullptr : args.offset + first, F,
               left < kPanel ? left : kPanel);
    for (int64_t m = begin; m < end; m += kRows) {
      const float *rows[kRows], *biases[kRows];
      for (int r = 0; r < kRows; ++r) {
        const int64_t row = m + r < end ? m + r : end - 1;  // the last one once more
        rows[r] = args.rows + row * args.d;
        biases[r] = args.bias == nullptr ? nullptr : args.bias + row;
      }
      meet(panel, rows, biases, args.d, static_cast<int32_t>(w / kLanes), best + (m - begin),
           poison);
    }
  }
  for (int64_t m = begin; m < end; ++m) args.columns[m * args.G + g] = column_of(best[m - begin]);
  return reduce<float>(poison) == 0.0f;
}

int64_t scratch(int64_t d) { return (d + 2) * kPanel; }

bool nearest(const NearestColumns<float>& args, int64_t begin, int64_t end, float* floats) {
  Panel panel{floats, args.d + (args.bias == nullptr ? 0 : 1)};
  bool finite = true;
  for (int64_t m = begin; m < end; m += kBlock) {
    const int64_t last = m + kBlock < end ? m + kBlock : end;
    for (int64_t g = 0; g < args.G; ++g) finite &= block(args, m, last, g, panel);
  }
  return finite;
}

}  // namespace

template <typename Float>
const NearestKernels<Float>& nearest_kernels() {
  static constexpr NearestKernels<Float> kernels{scratch, nearest};
  return kernels;
}

template const NearestKernels<float>& nearest_kernels<float>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
