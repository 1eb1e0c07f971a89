// The column of each group that a row has the largest inner product with: a matrix product of which
// nothing but the best of each row is written.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

namespace hashdl::cpu {

/// Score of row i and column c: offset[c] + sum over k of rows[i, k] functions[k, c]
/// + bias[i] functions[d, c].
template <typename Float>
struct NearestColumns {
  const Float* rows;       ///< (M, d)
  const Float* bias;       ///< (M), or null: `functions` has d rows
  const Float* functions;  ///< (d + 1, G W), or (d, G W)
  const Float* offset;     ///< (G W), or null: zeros
  int32_t* columns;        ///< (M, G), written: ties to the lower column
  int64_t d, W, G;
};

template <typename Float>
struct NearestKernels {
  int64_t (*scratch)(int64_t d);  ///< floats that a thread needs
  /// The rows in [begin, end). Returns false when a score is NaN or infinite.
  bool (*nearest)(const NearestColumns<Float>&, int64_t begin, int64_t end, Float* scratch);
};

HASHDL_DECLARE_TABLE(NearestKernels, nearest_kernels)

}  // namespace hashdl::cpu
