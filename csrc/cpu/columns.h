// The best columns of each group of W scores: the nearest centroids, or the buckets to probe.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

namespace hashdl::cpu {

template <typename Float>
struct BestColumns {
  const Float* scores;  ///< (groups, W)
  int32_t* columns;     ///< (groups, P), written: best first, ties to the lower column; P <= W
  Float* best;          ///< (P), scratch of one thread
  int64_t W, P;
};

template <typename Float>
struct ColumnKernels {
  /// The groups in [begin, end). Returns false when a score is NaN or infinite.
  bool (*best)(const BestColumns<Float>&, int64_t begin, int64_t end);
};

HASHDL_DECLARE_TABLE(ColumnKernels, column_kernels)

}  // namespace hashdl::cpu
