// Projections of few samples: products of a vector and a matrix that is read once.
#pragma once

#include <cstdint>

#include "cpu/dtypes.h"
#include "cpu/simd.h"

namespace hashdl::cpu {

template <typename T>
struct Project {
  const T* x;              ///< (B, d)
  const float* functions;  ///< (d + 1, F)
  float* projections;      ///< (B, F), written: (x, 1) times functions
  int32_t* features;       ///< (d), scratch of one thread
  int64_t d, F;
};

template <typename T>
struct ProjectionKernels {
  void (*project)(const Project<T>&, int64_t begin, int64_t end);  ///< samples
};

HASHDL_DECLARE_TABLE(ProjectionKernels, projection_kernels)

}  // namespace hashdl::cpu
