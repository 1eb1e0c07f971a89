// The largest outputs of each sample, in order.
#pragma once

#include <cstdint>

#include "cpu/dtypes.h"
#include "cpu/host_device.h"

namespace hashdl::cpu {

template <typename T>
struct BestOutputs {
  const T* z;           ///< (B, A)
  const int32_t* rows;  ///< (B, A), -1 = padding, which follows all rows
  T* values;            ///< (B, k), written: descending, then -inf
  int64_t* best;        ///< (B, k), written: their rows, then -1
  int64_t A, k;
};

/// Whether output i comes before output j: the larger one does, ties go to the earlier place; NaN
/// ranks with minus infinity.
template <typename Float>
HASHDL_HOST_DEVICE bool comes_before(Float of_i, int32_t i, Float of_j, int32_t j) {
  const Float a = of_i != of_i ? lowest<Float>() : of_i, b = of_j != of_j ? lowest<Float>() : of_j;
  return a != b ? a > b : i < j;
}

/// The samples in [begin, end).
template <typename T>
void best_outputs(const BestOutputs<T>& args, int64_t begin, int64_t end);

}  // namespace hashdl::cpu
