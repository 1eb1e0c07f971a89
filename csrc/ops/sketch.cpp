// sketch_scores.
#include "ops/sketch.h"

#include <cmath>
#include <numbers>

namespace hashdl::ops {

SketchCall::SketchCall(const char* op, const Tensor& queries, const Tensor& codes,
                       const Tensor& norms, const Tensor& candidates, int64_t bits)
    : queries_(queries), pool_(candidates) {
  const int64_t L = queries.size(1);
  check_dtype(codes, ScalarType::Int, op, "codes");
  check_shape(codes, {-1, L}, op, "codes");
  check_dtype(norms, ScalarType::Float, op, "norms");
  check_shape(norms, {codes.size(0)}, op, "norms");
  check_bits(bits, op);
  codes_ = as_contiguous(codes);
  norms_ = as_contiguous(norms);
  // A code from outside may have any of its 32 bits set.
  cosines_.resize(32 * L + 1);
  for (size_t differing = 0; differing < cosines_.size(); ++differing) {
    const double share = static_cast<double>(differing) / static_cast<double>(L * bits);
    cosines_[differing] = static_cast<float>(std::cos(std::numbers::pi * std::min(share, 1.0)));
  }
  scores = empty(candidates, {queries.size(0), candidates.size(1)}, ScalarType::Float);
  args = {data<int32_t>(queries_),
          data<int32_t>(codes_),
          data<float>(norms_),
          cosines_.data(),
          data<int32_t>(pool_),
          mutable_data<float>(scores),
          L,
          pool_.size(1)};
}

namespace {

Tensor sketch_scores(const Tensor& queries, const Tensor& codes, const Tensor& norms,
                     const Tensor& candidates, int64_t bits) {
  constexpr auto op = "sketch_scores";
  check_dtype(queries, ScalarType::Int, op, "queries");
  check_shape(queries, {-1, -1}, op, "queries");
  check_dtype(candidates, ScalarType::Int, op, "candidates");
  check_shape(candidates, {queries.size(0), -1}, op, "candidates");
  const Tensor mine = as_contiguous(queries), pool = as_contiguous(candidates);
  const SketchCall sketch(op, mine, codes, norms, pool, bits);
  check_rows(pool, -1, codes.size(0), op, "candidates");
  const auto run = cpu::sketch_kernels<int32_t>().scores;
  torch::stable::parallel_for(0, queries.size(0), 1,
                              [&](int64_t begin, int64_t end) { run(sketch.args, begin, end); });
  return sketch.scores;
}

}  // namespace
}  // namespace hashdl::ops

STABLE_TORCH_LIBRARY_IMPL(hashdl, CPU, m) {
  m.impl("sketch_scores", TORCH_BOX(&hashdl::ops::sketch_scores));
}
