// Codes of rows by the signs of their projections, which nobody else wants to see: they stay in
// registers and in a few lines of cache.
#pragma once

#include <cstdint>

#include "cpu/dtypes.h"
#include "cpu/simd.h"

namespace hashdl::cpu {

template <typename T>
struct SignCodes {
  const T* weight;       ///< (M, d)
  const T* bias;         ///< (M), or null
  const float* planes;   ///< (d + 1, W), the L K columns and zeros up to whole vectors
  const float* offsets;  ///< (W), what all projections begin with
  int32_t* codes;        ///< (L, M), written
  int64_t M, d, L, K, W;
};

/// What one thread needs, for the rows that are taken at once: R.
struct SignCodesRoom {
  float* rows;         ///< (R, d)
  float* projections;  ///< (R, W)
  int32_t* codes;      ///< (R, L)
};

template <typename T>
struct SignCodesKernels {
  int64_t lanes;  ///< W is a multiple of it
  int64_t rows;   ///< R
  /// Rows m in [begin, end): bit k of codes[l, m] is [projection m, l K + k > 0]. Returns false
  /// when a projection is NaN or infinite.
  bool (*codes)(const SignCodes<T>&, int64_t begin, int64_t end, const SignCodesRoom&);
};

HASHDL_DECLARE_TABLE(SignCodesKernels, sign_codes_kernels)

}  // namespace hashdl::cpu
