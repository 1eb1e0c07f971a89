// Which buckets a query probes: probe_signs and best_columns.
#include <algorithm>

#include "cpu/columns.h"
#include "cpu/hashing.h"
#include "cpu/probe_sequence.h"
#include "cuda/probing.h"
#include "ops/common.h"

namespace hashdl::ops {
namespace {

constexpr auto kNotFinite = "got NaN or infinity, wanted finite values (is the input finite?)";

Tensor probe_signs(const Tensor& projections, int64_t bits, int64_t probes) {
  constexpr auto op = "probe_signs";
  check_bits(bits, op);
  check_sign_projections(projections, bits, op);
  check(probes >= 1, op, "probes", "got " + std::to_string(probes) + ", wanted 1 or more");
  const int64_t B = projections.size(0), L = projections.size(1) / bits;
  const int64_t P = std::min(probes, int64_t{1} << bits);
  const Tensor source = as_contiguous(projections);
  const Tensor buckets = empty(source, {B, L, P}, ScalarType::Int);
  if constexpr (kCuda) {
    if (is_cuda(source)) {
      const cuda::Probe args{data<float>(source), mutable_data<int32_t>(buckets), B, L, bits, P};
      run_with_scratch(source, [&](cuda::Scratch& scratch, cuda::Stream stream) {
        cuda::probe_signs(args, scratch, stream);
      });
      return buckets;
    }
  }
  const bool finite = parallel_all(B, 8, [&](int64_t begin, int64_t end) {
    const float* values = data<float>(source);
    int32_t* out = mutable_data<int32_t>(buckets);
    std::vector<int32_t> memory(cpu::ProbeSequence::bytes(bits, P) / 4);
    cpu::ProbeSequence sequence(bits, P, memory.data());
    std::vector<int32_t> own((end - begin) * L);
    const bool ok = cpu::pack_signs(values + begin * L * bits, 0, end - begin, L, bits, own.data());
    for (int64_t i = begin * L; ok && i < end * L; ++i) {
      sequence.fill(values + i * bits, own[i - begin * L], out + i * P);
    }
    return ok;
  });
  check(finite, op, "projections", kNotFinite);
  return buckets;
}

Tensor best_columns(const Tensor& scores, int64_t groups, int64_t count) {
  constexpr auto op = "best_columns";
  check(groups >= 1, op, "groups", "got " + std::to_string(groups) + ", wanted 1 or more");
  check(count >= 1, op, "count", "got " + std::to_string(count) + ", wanted 1 or more");
  check_dtype(scores, ScalarType::Float, op, "scores");
  check_shape(scores, {-1, -1}, op, "scores");
  check(scores.size(1) % groups == 0, op, "scores",
        "got shape " + shape_string(scores) +
            ", wanted (*, multiple of groups = " + std::to_string(groups) + ")");
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

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) {
  m.impl("probe_signs", TORCH_BOX(&hashdl::ops::probe_signs));
  m.impl("best_columns", TORCH_BOX(&hashdl::ops::best_columns));
}
