// Which buckets a query probes, and which one a row is in: probe_signs, best_columns and
// nearest_columns.
#include "ops/probing.h"

#include "cpu/columns.h"
#include "cpu/hashing.h"
#include "cpu/nearest.h"
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

/// Scores on a GPU, by torch: rows times functions and what is added to that.
Tensor scores_of(const Tensor& rows, const std::optional<Tensor>& bias, const Tensor& functions,
                 const std::optional<Tensor>& offset) {
  const auto part = [](const Tensor& tensor, int64_t start, int64_t length) {
    Tensor whole = tensor;
    return torch::stable::narrow(whole, 0, start, length);
  };
  const int64_t M = rows.size(0), d = rows.size(1), F = functions.size(1);
  Tensor scores = torch::stable::matmul(rows, part(functions, 0, d));
  if (bias) {
    const Tensor column = torch::stable::view(*bias, {M, 1});
    const Tensor more = torch::stable::matmul(column, part(functions, d, 1));
    scores = torch::stable::subtract(scores, more, -1.0);
  }
  if (!offset) return scores;
  return torch::stable::subtract(scores, torch::stable::view(*offset, {1, F}), -1.0);
}

// Rows that are worth a thread of their own.
constexpr int64_t kPartRows = 96;

Tensor nearest_columns(const Tensor& rows, const std::optional<Tensor>& bias,
                       const Tensor& functions, const std::optional<Tensor>& offset,
                       int64_t groups) {
  constexpr auto op = "nearest_columns";
  check(groups >= 1, op, "groups", "got " + std::to_string(groups) + ", wanted 1 or more");
  check_dtype(rows, ScalarType::Float, op, "rows");
  check_shape(rows, {-1, -1}, op, "rows");
  const int64_t M = rows.size(0), d = rows.size(1);
  check_dtype(functions, ScalarType::Float, op, "functions");
  check_shape(functions, {d + (bias ? 1 : 0), -1}, op, "functions");
  const int64_t F = functions.size(1), W = F / groups;
  check(F > 0 && F % groups == 0, op, "functions", [&] {
    return "got shape " + shape_string(functions) +
           ", wanted (*, positive multiple of groups = " + std::to_string(groups) + ")";
  });
  if (bias) {
    check_dtype(*bias, ScalarType::Float, op, "bias");
    check_shape(*bias, {M}, op, "bias");
  }
  if (offset) {
    check_dtype(*offset, ScalarType::Float, op, "offset");
    check_shape(*offset, {F}, op, "offset");
  }
  check_one_device(op, {rows, bias, functions, offset});
  const auto source = as_contiguous(rows), columns_of = as_contiguous(functions);
  const auto biases = as_contiguous(bias), offsets = as_contiguous(offset);
  if constexpr (kCuda) {
    if (is_cuda(source)) {
      const Tensor best =
          best_columns(scores_of(source, biases, columns_of, offsets), groups, 1, op);
      return torch::stable::view(best, {M, groups});
    }
  }
  const Tensor columns = empty(source, {M, groups}, ScalarType::Int);
  const cpu::NearestColumns<float> args{data<float>(source),
                                        biases ? data<float>(*biases) : nullptr,
                                        data<float>(columns_of),
                                        offsets ? data<float>(*offsets) : nullptr,
                                        mutable_data<int32_t>(columns),
                                        d,
                                        W,
                                        groups};
  const auto& kernels = cpu::nearest_kernels<float>();
  const bool finite = parallel_all(M, kPartRows, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(kernels.scratch(d));
    return kernels.nearest(args, begin, end, scratch.data());
  });
  check(finite, op, "rows", "got NaN or infinity, wanted finite values");
  return columns;
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) {
  m.impl("probe_signs", TORCH_BOX(&hashdl::ops::probe_signs_op));
  m.impl("best_columns", TORCH_BOX(&hashdl::ops::best_columns_op));
  m.impl("nearest_columns", TORCH_BOX(&hashdl::ops::nearest_columns));
}
