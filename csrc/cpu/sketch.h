// Scores of candidates by their sketch: the L * K sign bits that the tables are built from. Nothing
// of the weight is read.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

namespace hashdl::cpu {

/// Code is the integer that a table's code is kept in.
template <typename Code>
struct SketchScores {
  const Code* queries;        ///< (B, L) codes
  const Code* codes;          ///< (N, L)
  const float* norms;         ///< (N), lengths of the rows
  const float* cosines;       ///< (bits + 1), of the angle that so many differing bits stand for
  const int32_t* candidates;  ///< (B, C), -1 = none
  float* scores;              ///< (B, C), written: norm times cosine, 0 at padding
  int64_t L, C;
};

template <typename Code>
struct SketchKernels {
  void (*scores)(const SketchScores<Code>&, int64_t begin, int64_t end);  ///< samples
};

HASHDL_DECLARE_TABLE(SketchKernels, sketch_kernels)

}  // namespace hashdl::cpu
