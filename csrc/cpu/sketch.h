// Scores of candidates by their sketch: sign bits of the rows' projections, met by the projections
// of the queries. Nothing of the weight is read.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

namespace hashdl::cpu {

template <typename Float>
struct SketchScores {
  const Float* queries;       ///< (B, 32 W) projections
  const int32_t* sketches;    ///< (N, W): bit k of word w is the sign of projection 32 w + k
  const Float* norms;         ///< (N), lengths of the rows
  const int32_t* candidates;  ///< (B, C), -1 = none
  Float* scores;              ///< (B, C), written: norm times the sum of the query's projections,
                              ///< each with the row's sign; 0 at padding
  int64_t W, C;
};

template <typename Float>
struct SketchKernels {
  void (*scores)(const SketchScores<Float>&, int64_t begin, int64_t end);  ///< samples
};

HASHDL_DECLARE_TABLE(SketchKernels, sketch_kernels)

}  // namespace hashdl::cpu
