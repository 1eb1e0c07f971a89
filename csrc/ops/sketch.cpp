// sketch_scores.
#include "ops/sketch.h"

#include "cuda/gather_linear.h"
#include "cuda/sketch.h"

namespace hashdl::ops {

SketchCall::SketchCall(const char* op, const Tensor& queries, const Tensor& sketches,
                       const std::optional<Tensor>& norms, const Tensor& candidates)
    : pool_(candidates) {
  check_dtype(sketches, norms ? ScalarType::Int : ScalarType::Float, op, "sketches");
  check_shape(sketches, {-1, -1}, op, "sketches");
  if (norms) {
    check_dtype(*norms, ScalarType::Float, op, "norms");
    check_shape(*norms, {sketches.size(0)}, op, "norms");
  }
  check_dtype(queries, ScalarType::Float, op, "sketch_queries");
  const int64_t W = sketches.size(1);
  levels_ = norms && W > 0 && queries.dim() == 2 && queries.size(1) == cpu::kLevelsInWord * W;
  const int64_t in_word = levels_ ? cpu::kLevelsInWord : norms ? 32 : 1;
  check_shape(queries, {candidates.size(0), in_word * W}, op, "sketch_queries");
  check_one_device(op, {candidates, queries, sketches, norms});
  queries_ = as_contiguous(queries);
  sketches_ = as_contiguous(sketches);
  norms_ = as_contiguous(norms);
  scores = empty(candidates, {candidates.size(0), candidates.size(1)}, ScalarType::Float);
  const int64_t C = pool_.size(1);
  const int32_t* rows = data<int32_t>(pool_);
  float* out = mutable_data<float>(scores);
  if (norms_) {
    of_signs_ = {
        data<float>(queries_), data<int32_t>(sketches_), data<float>(*norms_), rows, out, W, C};
  } else {
    of_coordinates_ = {data<float>(queries_), data<float>(sketches_), nullptr, rows, out, W, C, C};
  }
}

void SketchCall::run(int64_t begin, int64_t end) const {
  if (levels_) {
    for (int64_t b = begin; b < end; ++b) score_by_levels(b);
  } else if (norms_) {
    cpu::sketch_kernels<float>().scores(of_signs_, begin, end);
  } else {
    cpu::gather_linear_kernels<float>().forward(of_coordinates_, begin, end);
  }
}

void SketchCall::score_by_levels(int64_t b) const {
  const int64_t S = cpu::kLevelsInWord * of_signs_.W, C = of_signs_.C;
  const cpu::LevelQuery query(of_signs_.queries + b * S, S);
  cpu::level_kernels<float>().scores({&query, of_signs_.sketches, of_signs_.norms,
                                      of_signs_.candidates + b * C, of_signs_.scores + b * C,
                                      of_signs_.W, C});
}

void SketchCall::run_on_gpu(cuda::Stream stream) const {
  if constexpr (kCuda) {
    const int64_t B = pool_.size(0), N = sketches_.size(0);
    if (levels_) {
      cuda::level_scores(of_signs_, B, N, stream);
    } else if (norms_) {
      cuda::sketch_scores(of_signs_, B, N, stream);
    } else {
      cuda::gather_forward(of_coordinates_, B, N, stream);
    }
  }
}

namespace {

Tensor sketch_scores(const Tensor& sketch_queries, const Tensor& sketches,
                     const std::optional<Tensor>& norms, const Tensor& candidates) {
  constexpr auto op = "sketch_scores";
  check_dtype(candidates, ScalarType::Int, op, "candidates");
  check_shape(candidates, {-1, -1}, op, "candidates");
  const Tensor pool = as_contiguous(candidates);
  const SketchCall sketch(op, sketch_queries, sketches, norms, pool);
  check_rows(pool, -1, sketches.size(0), op, "candidates");
  if constexpr (kCuda) {
    if (is_cuda(pool)) {
      run_on_gpu(pool, [&](cuda::Stream stream) { sketch.run_on_gpu(stream); });
      return sketch.scores;
    }
  }
  torch::stable::parallel_for(0, pool.size(0), 1,
                              [&](int64_t begin, int64_t end) { sketch.run(begin, end); });
  return sketch.scores;
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) { m.impl("sketch_scores", TORCH_BOX(&hashdl::ops::sketch_scores)); }
