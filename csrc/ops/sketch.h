// Checked scores by sketch, for the ops that need them.
#pragma once

#include "cpu/gather_linear.h"
#include "cpu/levels.h"
#include "cpu/sketch.h"
#include "cuda/scratch.h"
#include "ops/common.h"

namespace hashdl::ops {

struct SketchCall {
  /// Checks everything but the candidates' values, and makes the output. `candidates` (B, C) are
  /// contiguous int32; they may be filled later. `op` is named in errors. Without `norms` the
  /// sketches are coordinates in float32; queries of 8 W coordinates meet levels of four bits,
  /// others sign bits.
  SketchCall(const char* op, const Tensor& queries, const Tensor& sketches,
             const std::optional<Tensor>& norms, const Tensor& candidates);

  /// The scores of the samples in [begin, end).
  void run(int64_t begin, int64_t end) const;
  /// Those of all samples, of rows that are ids below N.
  void run_on_gpu(cuda::Stream stream) const;

  Tensor scores;  ///< (B, C), written by the kernel

 private:
  void score_by_levels(int64_t b) const;

  Tensor queries_, sketches_, pool_;  ///< keep alive what the arguments point to
  std::optional<Tensor> norms_;
  bool levels_ = false;
  cpu::SketchScores<float> of_signs_{};  ///< of levels too
  cpu::GatherForward<float> of_coordinates_{};
};

}  // namespace hashdl::ops
