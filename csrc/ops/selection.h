// A checked selection, for the ops that make one.
#pragma once

#include "cpu/selection.h"
#include "ops/common.h"

namespace hashdl::ops {

struct SelectCall {
  /// Samples that a thread should take at least: it pays once for the set of shared rows.
  static constexpr int64_t kGrain = 8;

  /// Checks everything but the candidates' values, and makes the output. `op` is named in errors.
  SelectCall(const char* op, const Tensor& candidates, const std::optional<Tensor>& scores,
             const std::optional<Tensor>& labels, const std::optional<Tensor>& shared,
             int64_t active, int64_t random, int64_t n_rows, int64_t seed, const Tensor& step);

  Tensor rows;  ///< (B, M + A), written by cpu::select
  cpu::Select args;

 private:
  Tensor pool_;
  std::optional<Tensor> ranks_, labels_, shared_;  ///< keep alive what args points to
};

}  // namespace hashdl::ops
