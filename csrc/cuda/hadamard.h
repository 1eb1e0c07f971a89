// Structured random projections.
#pragma once

#include "cuda/scratch.h"

namespace hashdl::cuda {

struct Hadamard {
  const float* vectors;        ///< (M, D)
  const int32_t* keys;         ///< (C): of the signs; columns side by side share a transform
  const int32_t* coordinates;  ///< (C), of the transformed vectors
  float* projections;          ///< (M, C), written
  int64_t M, D, n, C;          ///< n: the power of two that D is padded to
};
void hadamard(const Hadamard& args, Scratch& scratch, Stream stream);

}  // namespace hashdl::cuda
