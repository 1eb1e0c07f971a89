// Storage types of the kernels: float and double as they are, and two 16-bit ones that are only
// stored and loaded; arithmetic is in Accumulate<T>.
#pragma once

#include <bit>
#include <cstdint>

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

}  // namespace hashdl::cpu
