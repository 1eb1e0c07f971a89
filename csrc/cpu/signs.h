// Sign bits of projections, packed into codes.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

namespace hashdl::cpu {

template <typename Float>
struct SignKernels {
  /// `count` codes of K bits each: bit k of codes[i] is [values[i*K + k] > 0].
  /// Returns false when a value is NaN or infinite.
  bool (*pack)(const Float* values, int64_t count, int64_t K, int32_t* codes);
};

HASHDL_DECLARE_TABLE(SignKernels, sign_kernels)

}  // namespace hashdl::cpu
