// Which buckets a query probes: probe_signs and best_columns.
#include "ops/probing.h"

#include "cpu/columns.h"
#include "cpu/hashing.h"
#include "cpu/probe_sequence.h"

namespace hashdl::ops {

Tensor probe_signs(const Tensor& projections, int64_t bits, int64_t probes, const char* op) {
  check_bits(bits, op);
  check_sign_projections(projections, bits, op);
  const auto pack = [&](const float* values, int64_t count, int32_t* codes) {
    return cpu::pack_signs(values, 0, count, 1, bits, codes);
  };
  const auto on_gpu = [](const cuda::Probe& args, cuda::Scratch& scratch, cuda::Stream stream) {
    cuda::probe_signs(args, scratch, stream);
  };
  return probe<cpu::ProbeSequence>(projections, projections.size(1) / bits, bits, bits, probes, op,
                                   pack, on_gpu);
}

Tensor best_columns(const Tensor& scores, int64_t groups, int64_t count, const char* op) {
  const auto too_few = [](int64_t got) {
    return "got " + std::to_string(got) + ", wanted 1 or more";
  };
  check(groups >= 1, op, "groups", [&] { return too_few(groups); });
  check(count >= 1, op, "count", [&] { return too_few(count); });
  check_dtype(scores, ScalarType::Float, op, "scores");
  check_shape(scores, {-1, -1}, op, "scores");
  check(scores.size(1) % groups == 0, op, "scores", [&] {
    return "got shape " + shape_string(scores) +
           ", wanted (*, multiple of groups = " + std::to_string(groups) + ")";
  });
  check(scores.size(1) > 0, op, "scores", "got no columns");
  const int64_t M = scores.size(0), W = scores.size(1) / groups, P = std::min(count, W);
  const Tensor source = as_contiguous(scores);
  const Tensor columns = empty(source, {M, groups, P}, ScalarType::Int);
  if constexpr (kCuda) {
    if (is_cuda(source)) {
      const cuda::BestColumns args{data<float>(source), mutable_data<int32_t>(columns), M * groups,
                                   W, P};
      run_on_gpu(source, [&](cuda::Stream stream) { cuda::best_columns(args, stream); });
      return columns;
    }
  }
  const bool finite = parallel_all(M * groups, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> best(P);
    const cpu::BestColumns<float> args{data<float>(source), mutable_data<int32_t>(columns),
                                       best.data(), W, P};
    return cpu::column_kernels<float>().best(args, begin, end);
  });
  check(finite, op, "scores", kNotFinite);
  return columns;
}

namespace {

Tensor probe_signs_op(const Tensor& projections, int64_t bits, int64_t probes) {
  return probe_signs(projections, bits, probes, "probe_signs");
}

Tensor best_columns_op(const Tensor& scores, int64_t groups, int64_t count) {
  return best_columns(scores, groups, count, "best_columns");
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) {
  m.impl("probe_signs", TORCH_BOX(&hashdl::ops::probe_signs_op));
  m.impl("best_columns", TORCH_BOX(&hashdl::ops::best_columns_op));
}
