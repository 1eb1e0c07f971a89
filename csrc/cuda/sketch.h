// Scores of candidates by their sketch. Nothing of the weight is read.
#pragma once

#include "cuda/launch.h"

namespace hashdl::cuda {

struct SketchScores {
  const int32_t* queries;     ///< (B, L) codes
  const int32_t* codes;       ///< (N, L)
  const float* norms;         ///< (N), lengths of the rows
  const int32_t* candidates;  ///< (B, C), -1 = none
  float* scores;              ///< (B, C), written: norm times cosine, 0 at padding
  int64_t B, C, L, K, N;
};
void sketch_scores(const SketchScores& args, Scratch& scratch, cudaStream_t stream);

}  // namespace hashdl::cuda
