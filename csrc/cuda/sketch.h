// Scores of candidates by their sketch; the arguments are those of the CPU kernel.
#pragma once

#include "cpu/sketch.h"
#include "cuda/scratch.h"

namespace hashdl::cuda {

/// B samples, N rows.
void sketch_scores(const cpu::SketchScores<float>& args, int64_t B, int64_t N, Stream stream);

/// Of sketches of sixteen levels and queries (B, 8 W): see cpu/levels.h.
void level_scores(const cpu::SketchScores<float>& args, int64_t B, int64_t N, Stream stream);

}  // namespace hashdl::cuda
