// sketch_scores.
#include "ops/sketch.h"

#include "cuda/sketch.h"

namespace hashdl::ops {

SketchCall::SketchCall(const char* op, const Tensor& queries, const Tensor& sketches,
                       const Tensor& norms, const Tensor& candidates)
    : pool_(candidates) {
  check_dtype(sketches, ScalarType::Int, op, "sketches");
  check_shape(sketches, {-1, -1}, op, "sketches");
  check_dtype(queries, ScalarType::Float, op, "sketch_queries");
  check_shape(queries, {candidates.size(0), 32 * sketches.size(1)}, op, "sketch_queries");
  check_dtype(norms, ScalarType::Float, op, "norms");
  check_shape(norms, {sketches.size(0)}, op, "norms");
  check_one_device(op, {candidates, queries, sketches, norms});
  queries_ = as_contiguous(queries);
  sketches_ = as_contiguous(sketches);
  norms_ = as_contiguous(norms);
  scores = empty(candidates, {candidates.size(0), candidates.size(1)}, ScalarType::Float);
  args = {data<float>(queries_), data<int32_t>(sketches_),    data<float>(norms_),
          data<int32_t>(pool_),  mutable_data<float>(scores), sketches_.size(1),
          pool_.size(1)};
}

namespace {

Tensor sketch_scores(const Tensor& sketch_queries, const Tensor& sketches, const Tensor& norms,
                     const Tensor& candidates) {
  constexpr auto op = "sketch_scores";
  check_dtype(candidates, ScalarType::Int, op, "candidates");
  check_shape(candidates, {-1, -1}, op, "candidates");
  const Tensor pool = as_contiguous(candidates);
  const SketchCall sketch(op, sketch_queries, sketches, norms, pool);
  check_rows(pool, -1, sketches.size(0), op, "candidates");
  if constexpr (kCuda) {
    if (is_cuda(pool)) {
      run_on_gpu(pool, [&](cuda::Stream stream) {
        cuda::sketch_scores(sketch.args, pool.size(0), sketches.size(0), stream);
      });
      return sketch.scores;
    }
  }
  const auto run = cpu::sketch_kernels<float>().scores;
  torch::stable::parallel_for(0, pool.size(0), 1,
                              [&](int64_t begin, int64_t end) { run(sketch.args, begin, end); });
  return sketch.scores;
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) { m.impl("sketch_scores", TORCH_BOX(&hashdl::ops::sketch_scores)); }
