// The training step that random numbers depend on.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace hashdl::cuda {

/// A number that stands on the device, where the host need not know it, or one that came along.
struct Step {
  const int64_t* device;  ///< or null
  int64_t value;

  __device__ int64_t get() const { return device == nullptr ? value : *device; }
};

}  // namespace hashdl::cuda
