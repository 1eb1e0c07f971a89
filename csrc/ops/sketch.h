// Checked scores by sketch, for the ops that need them.
#pragma once

#include "cpu/sketch.h"
#include "ops/common.h"

namespace hashdl::ops {

struct SketchCall {
  /// Checks everything but the candidates' values, and makes the output. `candidates` (B, C) are
  /// contiguous int32; they may be filled later. `op` is named in errors.
  SketchCall(const char* op, const Tensor& queries, const Tensor& sketches, const Tensor& norms,
             const Tensor& candidates);

  Tensor scores;  ///< (B, C), written by the kernel
  cpu::SketchScores<float> args;

 private:
  Tensor queries_, sketches_, norms_, pool_;  ///< keep alive what args points to
};

}  // namespace hashdl::ops
