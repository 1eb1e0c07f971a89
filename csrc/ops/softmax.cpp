// active_log_prob and its backward, and find_shared.
#include "cpu/softmax.h"

#include "cpu/label_places.h"
#include "cuda/softmax.h"
#include "ops/common.h"

namespace hashdl::ops {
namespace {

/// Checked logits of active rows, contiguous.
struct Logits {
  Logits(const char* op, const Tensor& own, const std::optional<Tensor>& more,
         const Tensor& own_rows, const std::optional<Tensor>& shared_rows);

  template <typename T>
  cpu::ActiveLogits<T> pointers() const {
    return {data<T>(z), data_or_null<T>(s), data<int32_t>(rows), data_or_null<int32_t>(shared), Q,
            S};
  }

  ScalarType dtype() const { return z.scalar_type(); }

  Tensor z, rows;
  std::optional<Tensor> s, shared;
  int64_t B, Q, S;
};

Logits::Logits(const char* op, const Tensor& own, const std::optional<Tensor>& more,
               const Tensor& own_rows, const std::optional<Tensor>& shared_rows)
    : z(as_contiguous(own)),
      rows(as_contiguous(own_rows)),
      s(as_contiguous(more)),
      shared(as_contiguous(shared_rows)) {
  check_floating(z, op, "z");
  check_dtype(rows, ScalarType::Int, op, "rows");
  check_shape(rows, {-1, -1}, op, "rows");
  B = rows.size(0);
  Q = rows.size(1);
  check_shape(z, {B, Q}, op, "z");
  check(s.has_value() == shared.has_value(), op, "s", "wanted together with shared");
  if (s.has_value()) {
    check_dtype(*shared, ScalarType::Int, op, "shared");
    check_shape(*shared, {-1}, op, "shared");
    check_dtype(*s, z.scalar_type(), op, "s");
    check_shape(*s, {B, shared->size(0)}, op, "s");
  }
  check_one_device(op, {z, rows, s, shared});
  S = s.has_value() ? s->size(1) : 0;
  check(Q + S < int64_t{1} << 31, op, "s", "got 2^31 logits a sample or more");
}

/// The columns of labels or of their places: (B, M) with a column of `logits` for each.
void check_columns(const Tensor& columns, const Logits& logits, const char* op,
                   const char* argument) {
  check_dtype(columns, ScalarType::Int, op, argument);
  check_shape(columns, {logits.B, -1}, op, argument);
  check_one_device(op, {logits.z, columns});
  check(columns.size(1) <= logits.Q, op, argument,
        "got shape " + shape_string(columns) + ", wanted at most " + std::to_string(logits.Q) +
            " columns, as rows has");
}

std::tuple<Tensor, Tensor, Tensor> active_log_prob(const Tensor& z, const std::optional<Tensor>& s,
                                                   const Tensor& rows,
                                                   const std::optional<Tensor>& shared,
                                                   const Tensor& labels) {
  constexpr auto op = "active_log_prob";
  const Logits logits(op, z, s, rows, shared);
  const Tensor wanted = as_contiguous(labels);
  check_columns(wanted, logits, op, "labels");
  const int64_t B = logits.B, M = wanted.size(1);
  const Tensor log_prob = empty(logits.z, {B}, logits.dtype());
  const Tensor logsumexp = empty(logits.z, {B}, accumulate_dtype(logits.z));
  const Tensor places = empty(logits.z, {B, M}, ScalarType::Int);
  const cpu::LabelPlaces finding{data<int32_t>(wanted),
                                 data<int32_t>(logits.rows),
                                 data_or_null<int32_t>(logits.shared),
                                 mutable_data<int32_t>(places),
                                 M,
                                 logits.Q,
                                 logits.S};
  dispatch_floating(logits.z, [&]<typename T>(T) {
    const cpu::LogProbForward<T> args{logits.pointers<T>(), data<int32_t>(places),
                                      mutable_data<T>(log_prob),
                                      mutable_data<cpu::Accumulate<T>>(logsumexp), M};
    if constexpr (kCuda) {
      if (is_cuda(logits.z)) {
        run_with_scratch(logits.z, [&](cuda::Scratch& scratch, cuda::Stream stream) {
          cuda::find_labels(finding, B, scratch, stream);
          if (!scratch.measuring()) cuda::log_prob(args, B, stream);
        });
        return;
      }
    }
    const cpu::LabelFinder labels_of(finding);
    const auto run = cpu::softmax_kernels<T>().forward;
    torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
      labels_of.run(begin, end);
      run(args, begin, end);
    });
  });
  return {log_prob, logsumexp, places};
}

std::tuple<Tensor, Tensor> active_log_prob_backward(const Tensor& grad_log_prob, const Tensor& z,
                                                    const std::optional<Tensor>& s,
                                                    const Tensor& rows,
                                                    const std::optional<Tensor>& shared,
                                                    const Tensor& logsumexp, const Tensor& places) {
  constexpr auto op = "active_log_prob_backward";
  const Logits logits(op, z, s, rows, shared);
  const int64_t B = logits.B, Q = logits.Q, S = logits.S;
  check_dtype(grad_log_prob, logits.dtype(), op, "grad_log_prob");
  check_shape(grad_log_prob, {B}, op, "grad_log_prob");
  check_dtype(logsumexp, accumulate_dtype(logits.z), op, "logsumexp");
  check_shape(logsumexp, {B}, op, "logsumexp");
  check_one_device(op, {logits.z, grad_log_prob, logsumexp});
  const Tensor grad = as_contiguous(grad_log_prob), totals = as_contiguous(logsumexp);
  const Tensor at = as_contiguous(places);
  check_columns(at, logits, op, "places");
  check_rows(at, -1, Q + S + 1, op, "places");
  const Tensor grad_z = empty(logits.z, {B, Q}, logits.dtype());
  const Tensor grad_s = empty(logits.z, {B, S}, logits.dtype());
  dispatch_floating(logits.z, [&]<typename T>(T) {
    const cpu::LogProbBackward<T> args{
        data<T>(grad),     logits.pointers<T>(),    data<cpu::Accumulate<T>>(totals),
        data<int32_t>(at), mutable_data<T>(grad_z), mutable_data<T>(grad_s),
        at.size(1)};
    if constexpr (kCuda) {
      if (is_cuda(logits.z)) {
        run_on_gpu(logits.z,
                   [&](cuda::Stream stream) { cuda::log_prob_backward(args, B, stream); });
        return;
      }
    }
    const auto run = cpu::softmax_kernels<T>().backward;
    torch::stable::parallel_for(0, B, 1,
                                [&](int64_t begin, int64_t end) { run(args, begin, end); });
  });
  return {grad_z, grad_s};
}

/// Rows that are looked for sooner than a second thread is woken.
constexpr int64_t kFindGrain = 1 << 12;

Tensor find_shared(const Tensor& rows, const Tensor& shared) {
  constexpr auto op = "find_shared";
  check_dtype(rows, ScalarType::Int, op, "rows");
  check_shape(rows, {-1, -1}, op, "rows");
  check_dtype(shared, ScalarType::Int, op, "shared");
  check_shape(shared, {-1}, op, "shared");
  check_one_device(op, {rows, shared});
  const Tensor ids = as_contiguous(rows), among = as_contiguous(shared);
  const Tensor places = empty(ids, {rows.size(0), rows.size(1)}, ScalarType::Int);
  const cpu::SharedPlaces args{data<int32_t>(ids), data<int32_t>(among),
                               mutable_data<int32_t>(places), ids.numel(), among.size(0)};
  if constexpr (kCuda) {
    if (is_cuda(ids)) {
      run_with_scratch(ids, [&](cuda::Scratch& scratch, cuda::Stream stream) {
        cuda::find_shared(args, scratch, stream);
      });
      return places;
    }
  }
  const cpu::SharedFinder finder(args);
  torch::stable::parallel_for(0, args.count, kFindGrain,
                              [&](int64_t begin, int64_t end) { finder.run(begin, end); });
  return places;
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) {
  m.impl("active_log_prob", TORCH_BOX(&hashdl::ops::active_log_prob));
  m.impl("active_log_prob_backward", TORCH_BOX(&hashdl::ops::active_log_prob_backward));
  m.impl("find_shared", TORCH_BOX(&hashdl::ops::find_shared));
}
