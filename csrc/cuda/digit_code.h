// A code of digits, of values that are looked at first.
#pragma once

#include "cpu/digits.h"
#include "cuda/device.h"

namespace hashdl::cuda {

/// The code of all_slots(K) values; `what` refuses those that are not finite.
__device__ inline int32_t checked_digit_code(const float* values, int64_t K, const char* what) {
  for (int64_t s = 0; s < cpu::all_slots(K); ++s) require(values[s] - values[s] == 0.0f, what);
  return cpu::digit_code(values, K);
}

}  // namespace hashdl::cuda
