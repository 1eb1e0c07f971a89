// Places of bits, on the host and in CUDA kernels. Those of <bit> are not for kernels: nvcc takes
// them as constexpr functions, and makes nonsense of the host compiler's builtins in them.
#pragma once

#include <bit>
#include <cstdint>

#include "cpu/host_device.h"

namespace hashdl::cpu {

/// The place of the lowest bit that is set; x is not 0.
HASHDL_HOST_DEVICE inline int lowest_bit(uint32_t x) {
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(x)) - 1;
#else
  return std::countr_zero(x);
#endif
}

/// The place of the highest bit that is set; x is not 0.
HASHDL_HOST_DEVICE inline int highest_bit(uint32_t x) {
#if defined(__CUDA_ARCH__)
  return 31 - __clz(static_cast<int>(x));
#else
  return std::bit_width(x) - 1;
#endif
}

}  // namespace hashdl::cpu
