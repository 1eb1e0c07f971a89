// select, shared_rows and distinct_labels.
#include "ops/selection.h"

#include "cuda/selection.h"

namespace hashdl::ops {
namespace {

/// Row ids are int32, and a draw below `n_rows` takes 31 random bits.
void check_n_rows(int64_t n_rows, const char* op) {
  check(n_rows >= 1 && n_rows < int64_t{1} << 31, op, "n_rows",
        [&] { return "got " + std::to_string(n_rows) + ", wanted 1 to 2^31 - 1"; });
}

/// Optional row ids of this shape, contiguous and in range.
std::optional<Tensor> checked_rows(const std::optional<Tensor>& rows,
                                   std::initializer_list<int64_t> shape, int64_t n_rows,
                                   const char* op, const char* argument) {
  const auto ids = as_contiguous(rows);
  if (ids.has_value()) {
    check_dtype(*ids, ScalarType::Int, op, argument);
    check_shape(*ids, shape, op, argument);
    check_rows(*ids, -1, n_rows, op, argument);
  }
  return ids;
}

}  // namespace

SelectCall::SelectCall(const char* op, const Tensor& candidates,
                       const std::optional<Tensor>& scores, const std::optional<Tensor>& labels,
                       const std::optional<Tensor>& shared, int64_t active, int64_t random,
                       int64_t n_rows, int64_t seed, const Tensor& step) {
  check_dtype(candidates, ScalarType::Int, op, "candidates");
  check_shape(candidates, {-1, -1}, op, "candidates");
  const int64_t B = candidates.size(0), C = candidates.size(1);
  check(random >= 0 && random <= active, op, "random", [&] {
    return "got " + std::to_string(random) + ", wanted 0 to active = " + std::to_string(active);
  });
  check_n_rows(n_rows, op);
  check_one_device(op, {candidates, scores, labels, shared});
  pool_ = as_contiguous(candidates);
  if (scores.has_value()) {
    check_dtype(*scores, ScalarType::Float, op, "scores");
    check_shape(*scores, {B, C}, op, "scores");
  }
  ranks_ = as_contiguous(scores);
  labels_ = checked_rows(labels, {B, -1}, n_rows, op, "labels");
  shared_ = checked_rows(shared, {-1}, n_rows, op, "shared");
  const int64_t M = labels_.has_value() ? labels_->size(1) : 0;
  const int64_t T = shared_.has_value() ? shared_->size(0) : 0;
  rows = empty(pool_, {B, M + active}, ScalarType::Int);
  args = {data<int32_t>(pool_),
          data_or_null<float>(ranks_),
          data_or_null<int32_t>(labels_),
          data_or_null<int32_t>(shared_),
          mutable_data<int32_t>(rows),
          nullptr,
          C,
          M,
          active,
          random,
          T,
          n_rows,
          seed,
          read_step(step, op)};
}

namespace {

Tensor select(const Tensor& candidates, const std::optional<Tensor>& scores,
              const std::optional<Tensor>& labels, const std::optional<Tensor>& shared,
              int64_t active, int64_t random, int64_t n_rows, int64_t seed, const Tensor& step) {
  const SelectCall call("select", candidates, scores, labels, shared, active, random, n_rows, seed,
                        step);
  check_rows(as_contiguous(candidates), -1, n_rows, "select", "candidates");
  if constexpr (kCuda) {
    if (is_cuda(candidates)) {
      run_with_scratch(candidates, [&](cuda::Scratch& scratch, cuda::Stream stream) {
        cuda::select(call.args, candidates.size(0), step_for_gpu(step), scratch, stream);
      });
      return call.rows;
    }
  }
  torch::stable::parallel_for(
      0, candidates.size(0), SelectCall::kGrain,
      [&](int64_t begin, int64_t end) { cpu::Selector(call.args).run(begin, end); });
  return call.rows;
}

std::tuple<Tensor, Tensor, Tensor> shared_rows(const Tensor& labels, int64_t count,
                                               int64_t max_labels, int64_t n_rows, int64_t seed,
                                               const Tensor& step) {
  constexpr auto op = "shared_rows";
  check_dtype(labels, ScalarType::Int, op, "labels");
  check_shape(labels, {-1}, op, "labels");
  check_n_rows(n_rows, op);
  check(count >= 0, op, "count", "got " + std::to_string(count) + ", wanted 0 or more");
  check(max_labels >= 0 && max_labels <= count, op, "max_labels",
        "got " + std::to_string(max_labels) + ", wanted 0 to count = " + std::to_string(count));
  const Tensor wanted = as_contiguous(labels);
  check_rows(wanted, -1, n_rows, op, "labels");
  const Tensor rows = empty(wanted, {count}, ScalarType::Int);
  const Tensor distinct = empty(wanted, {max_labels}, ScalarType::Int);
  const Tensor n_labels = empty(wanted, {1}, ScalarType::Long);
  const cpu::SharedRows args{data<int32_t>(wanted),
                             mutable_data<int32_t>(rows),
                             mutable_data<int32_t>(distinct),
                             wanted.size(0),
                             count,
                             n_rows,
                             max_labels,
                             seed,
                             read_step(step, op)};
  int64_t* const labels_found = mutable_data<int64_t>(n_labels);
  if constexpr (kCuda) {
    if (is_cuda(wanted)) {
      run_with_scratch(wanted, [&](cuda::Scratch& scratch, cuda::Stream stream) {
        cuda::shared_rows(args, step_for_gpu(step), labels_found, scratch, stream);
      });
      return {rows, n_labels, distinct};
    }
  }
  *labels_found = cpu::shared_rows(args);
  return {rows, n_labels, distinct};
}

// Samples whose labels are worth a thread of their own.
constexpr int64_t kLabelGrain = 64;

Tensor distinct_labels(const Tensor& labels) {
  constexpr auto op = "distinct_labels";
  check_dtype(labels, ScalarType::Int, op, "labels");
  check_shape(labels, {-1, -1}, op, "labels");
  const Tensor given = as_contiguous(labels);
  const Tensor distinct = empty(given, {given.size(0), given.size(1)}, ScalarType::Int);
  const cpu::DistinctLabels args{data<int32_t>(given), mutable_data<int32_t>(distinct),
                                 given.size(0), given.size(1)};
  if constexpr (kCuda) {
    if (is_cuda(given)) {
      run_on_gpu(given, [&](cuda::Stream stream) { cuda::distinct_labels(args, stream); });
      return distinct;
    }
  }
  torch::stable::parallel_for(0, args.B, kLabelGrain, [&](int64_t begin, int64_t end) {
    cpu::distinct_labels(args, begin, end);
  });
  return distinct;
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) {
  m.impl("select", TORCH_BOX(&hashdl::ops::select));
  m.impl("shared_rows", TORCH_BOX(&hashdl::ops::shared_rows));
  m.impl("distinct_labels", TORCH_BOX(&hashdl::ops::distinct_labels));
}
