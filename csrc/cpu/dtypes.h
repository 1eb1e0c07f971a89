// Storage types of the kernels: float and double as they are, and two 16-bit ones that are only
// stored and loaded; arithmetic is in Accumulate<T>.
#pragma once

#include <bit>
#include <cstdint>

#include "cpu/host_device.h"

namespace hashdl::cpu {

/// bfloat16: the upper half of a float.
struct BFloat16 {
  uint16_t bits;
};

/// IEEE half precision.
struct Half {
  uint16_t bits;
};

template <typename T>
struct AccumulateOf {
  using type = float;
};
template <>
struct AccumulateOf<double> {
  using type = double;
};
template <typename T>
using Accumulate = typename AccumulateOf<T>::type;

/// Minus infinity.
template <typename T>
HASHDL_HOST_DEVICE constexpr T lowest() {
  return static_cast<T>(-__builtin_inf());
}
template <>
HASHDL_HOST_DEVICE constexpr BFloat16 lowest() {
  return {0xff80};
}
template <>
HASHDL_HOST_DEVICE constexpr Half lowest() {
  return {0xfc00};
}

}  // namespace hashdl::cpu
