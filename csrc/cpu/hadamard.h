// Structured random projections: three rounds of random sign flips and a fast Walsh-Hadamard
// transform.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

namespace hashdl::cpu {

inline constexpr int64_t kRounds = 3;

template <typename Float>
struct Hadamard {
  const Float* vectors;        ///< (M, D)
  const Float* signs;          ///< (blocks, kRounds, n): +1 and -1
  const int32_t* coordinates;  ///< (C), of the transformed vectors
  const int64_t* ends;         ///< (blocks): where each block's coordinates end
  Float* projections;          ///< (M, C), written
  Float* scratch;              ///< (2 n) of one thread
  int64_t D, n, blocks, C;
};

template <typename Float>
struct HadamardKernels {
  void (*project)(const Hadamard<Float>&, int64_t begin, int64_t end);  ///< vectors
};

HASHDL_DECLARE_TABLE(HadamardKernels, hadamard_kernels)

}  // namespace hashdl::cpu
