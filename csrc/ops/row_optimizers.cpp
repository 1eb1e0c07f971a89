// row_ids, sgd_rows_, adagrad_rows_ and adam_rows_.
#include "cpu/row_optimizers.h"

#include <atomic>

#include "cuda/row_optimizers.h"
#include "ops/common.h"

namespace hashdl::ops {
namespace {

/// Elements a row: d of a (N, d) weight, 1 of a (N) bias.
int64_t row_size(const Tensor& weight) { return weight.dim() == 2 ? weight.size(1) : 1; }

void check_update(const Tensor& weight, const Tensor& rows, const Tensor& grad, const char* op) {
  check_floating(weight, op, "weight");
  check(weight.dim() == 1 || weight.dim() == 2, op, "weight",
        "got shape " + shape_string(weight) + ", wanted (N, d) or (N,)");
  check_in_place(weight, op, "weight");
  check_dtype(rows, ScalarType::Int, op, "rows");
  check_shape(rows, {-1}, op, "rows");
  check_dtype(grad, weight.scalar_type(), op, "grad");
  check_one_device(op, {weight, rows, grad});
  const int64_t U = rows.size(0);
  if (weight.dim() == 2) {
    check_shape(grad, {U, weight.size(1)}, op, "grad");
  } else {
    check_shape(grad, {U}, op, "grad");
  }
}

/// A state of the weight's shape; when `allow_row_wise`, of shape (N,) as well. True if row-wise.
/// Its dtype is left to the caller.
bool check_state_shape(const Tensor& state, const Tensor& weight, bool allow_row_wise,
                       const char* op, const char* argument) {
  check_in_place(state, op, argument);
  check_one_device(op, {weight, state});
  const bool row_wise = allow_row_wise && weight.dim() == 2 && state.dim() == 1;
  if (row_wise || weight.dim() == 1) {
    check_shape(state, {weight.size(0)}, op, argument);
  } else {
    check_shape(state, {weight.size(0), weight.size(1)}, op, argument);
  }
  return row_wise;
}

/// The same with the dtype: that in which the weight's numbers are computed with.
bool check_state(const Tensor& state, const Tensor& weight, bool allow_row_wise, const char* op,
                 const char* argument) {
  check_dtype(state, accumulate_dtype(weight), op, argument);
  return check_state_shape(state, weight, allow_row_wise, op, argument);
}

/// Both states of Adam: those of elements in one dtype, bfloat16 as well. True if row-wise.
bool check_adam_states(const Tensor& exp_avg, const Tensor& exp_avg_sq, const Tensor& weight,
                       const char* op) {
  const ScalarType wide = accumulate_dtype(weight), got = exp_avg.scalar_type();
  check(got == wide || got == ScalarType::BFloat16, op, "exp_avg",
        "got dtype " + dtype_string(got) + ", wanted " + dtype_string(wide) + " or bfloat16");
  check_state_shape(exp_avg, weight, false, op, "exp_avg");
  const bool row_wise = check_state_shape(exp_avg_sq, weight, true, op, "exp_avg_sq");
  check_dtype(exp_avg_sq, row_wise ? wide : got, op, "exp_avg_sq");
  return row_wise;
}

/// Contiguous and checked row ids. Distinctness, but for padding, is the caller's contract: it is
/// what makes rows independent, and groups of rows come out distinct everywhere in this package.
Tensor checked_rows(const Tensor& rows, const Tensor& weight, const char* op) {
  const Tensor ids = as_contiguous(rows);
  check_rows(ids, 0, weight.size(0), op, "rows");
  return ids;
}

template <typename T>
cpu::RowUpdate<T> row_update(const Tensor& weight, const Tensor& rows, const Tensor& grad,
                             double lr, double weight_decay) {
  return {mutable_data<T>(weight),
          data<int32_t>(rows),
          data<T>(grad),
          row_size(weight),
          lr,
          weight_decay};
}

/// The number of the step; 1 where it stands on a GPU, whose kernels read it.
int64_t read_adam_step(const Tensor& step, const Tensor& weight, const char* op) {
  check_dtype(step, ScalarType::Float, op, "step");
  check(step.numel() == 1, op, "step", "got shape " + shape_string(step) + ", wanted one element");
  if (is_cuda(step)) {
    check_one_device(op, {weight, step});
    return 1;
  }
  const float number = *data<float>(step);
  check(number >= 1, op, "step", "got " + std::to_string(number) + ", wanted 1 or more");
  return static_cast<int64_t>(number);
}

/// Ids that are looked at sooner than a second thread is woken.
constexpr int64_t kIdGrain = 1 << 14;

std::tuple<Tensor, Tensor> row_ids(const Tensor& ids) {
  constexpr auto op = "row_ids";
  check_dtype(ids, ScalarType::Long, op, "ids");
  check_shape(ids, {-1}, op, "ids");
  const Tensor source = as_contiguous(ids);
  const int64_t U = source.size(0);
  const Tensor rows = empty(source, {U}, ScalarType::Int);
  const Tensor ascending = empty(source, {}, ScalarType::Bool);
  if constexpr (kCuda) {
    if (is_cuda(source)) {
      const cuda::RowIds args{data<int64_t>(source), mutable_data<int32_t>(rows),
                              mutable_data<bool>(ascending), U};
      run_on_gpu(source, [&](cuda::Stream stream) { cuda::row_ids(args, stream); });
      return {rows, ascending};
    }
  }
  const auto* id = data<int64_t>(source);
  auto* row = mutable_data<int32_t>(rows);
  std::atomic<bool> ascend{true};
  const bool fit = parallel_all(U, kIdGrain, [&](int64_t begin, int64_t end) {
    bool falls = false, wide = false;
    for (int64_t u = begin; u < end; ++u) {
      falls |= u > 0 && id[u] <= id[u - 1];
      wide |= id[u] >> 31 != 0;
      row[u] = static_cast<int32_t>(id[u]);
    }
    if (falls) ascend.store(false, std::memory_order_relaxed);
    return !wide;
  });
  check(fit, op, "ids", "got one outside 0 to 2^31 - 1");
  *mutable_data<bool>(ascending) = ascend.load();
  return {rows, ascending};
}

constexpr int64_t kGrain = 16;

void sgd_rows_(const Tensor& weight, const std::optional<Tensor>& momentum_buffer,
               const Tensor& rows, const Tensor& grad, double lr, double momentum, bool nesterov,
               double weight_decay) {
  constexpr auto op = "sgd_rows_";
  check_update(weight, rows, grad, op);
  if (momentum_buffer.has_value()) {
    check_state(*momentum_buffer, weight, false, op, "momentum_buffer");
  }
  const Tensor ids = checked_rows(rows, weight, op), gradient = as_contiguous(grad);
  dispatch_floating(weight, [&]<typename T>(T) {
    using State = cpu::Accumulate<T>;
    State* buffer = momentum_buffer.has_value() ? mutable_data<State>(*momentum_buffer) : nullptr;
    const cpu::SgdRows<T> args{row_update<T>(weight, ids, gradient, lr, weight_decay), buffer,
                               momentum, nesterov};
    if constexpr (kCuda) {
      if (is_cuda(weight)) {
        run_on_gpu(weight, [&](cuda::Stream stream) {
          cuda::sgd_rows(args, ids.size(0), weight.size(0), stream);
        });
        return;
      }
    }
    const auto run = cpu::row_optimizer_kernels<T>().sgd;
    torch::stable::parallel_for(0, ids.size(0), kGrain,
                                [&](int64_t begin, int64_t end) { run(args, begin, end); });
  });
}

void adagrad_rows_(const Tensor& weight, const Tensor& sum, const Tensor& rows, const Tensor& grad,
                   double lr, double eps, double weight_decay) {
  constexpr auto op = "adagrad_rows_";
  check_update(weight, rows, grad, op);
  const bool row_wise = check_state(sum, weight, true, op, "sum");
  const Tensor ids = checked_rows(rows, weight, op), gradient = as_contiguous(grad);
  dispatch_floating(weight, [&]<typename T>(T) {
    const cpu::AdagradRows<T> args{row_update<T>(weight, ids, gradient, lr, weight_decay),
                                   mutable_data<cpu::Accumulate<T>>(sum), row_wise, eps};
    if constexpr (kCuda) {
      if (is_cuda(weight)) {
        run_on_gpu(weight, [&](cuda::Stream stream) {
          cuda::adagrad_rows(args, ids.size(0), weight.size(0), stream);
        });
        return;
      }
    }
    const auto run = cpu::row_optimizer_kernels<T>().adagrad;
    torch::stable::parallel_for(0, ids.size(0), kGrain,
                                [&](int64_t begin, int64_t end) { run(args, begin, end); });
  });
}

/// The kernel for states stored as S.
template <typename T, typename S>
auto adam_kernel() {
  const auto& kernels = cpu::row_optimizer_kernels<T>();
  if constexpr (std::same_as<S, cpu::BFloat16>) {
    return kernels.adam_bfloat16;
  } else {
    return kernels.adam;
  }
}

void adam_rows_(const Tensor& weight, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                const Tensor& rows, const Tensor& grad, double lr, double beta1, double beta2,
                double eps, double weight_decay, bool decoupled, const Tensor& step, int64_t seed) {
  constexpr auto op = "adam_rows_";
  check_update(weight, rows, grad, op);
  const int64_t t = read_adam_step(step, weight, op);
  const bool row_wise = check_adam_states(exp_avg, exp_avg_sq, weight, op);
  const Tensor ids = checked_rows(rows, weight, op), gradient = as_contiguous(grad);
  const auto update = [&]<typename T, typename S>(T, S) {
    using A = cpu::Accumulate<T>;
    const cpu::AdamRows<T, S> args{row_update<T>(weight, ids, gradient, lr, weight_decay),
                                   mutable_data<S>(exp_avg),
                                   row_wise ? nullptr : mutable_data<S>(exp_avg_sq),
                                   row_wise ? mutable_data<A>(exp_avg_sq) : nullptr,
                                   beta1,
                                   beta2,
                                   eps,
                                   t,
                                   decoupled,
                                   seed};
    if constexpr (kCuda) {
      if (is_cuda(weight)) {
        const float* on_gpu = is_cuda(step) ? data<float>(step) : nullptr;
        run_with_scratch(weight, [&](cuda::Scratch& scratch, cuda::Stream stream) {
          cuda::adam_rows(args, on_gpu, ids.size(0), weight.size(0), scratch, stream);
        });
        return;
      }
    }
    const auto run = adam_kernel<T, S>();
    torch::stable::parallel_for(0, ids.size(0), kGrain,
                                [&](int64_t begin, int64_t end) { run(args, begin, end); });
  };
  dispatch_floating(weight, [&]<typename T>(T number) {
    if (exp_avg.scalar_type() == ScalarType::BFloat16) {
      update(number, cpu::BFloat16{});
    } else {
      update(number, cpu::Accumulate<T>{});
    }
  });
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) {
  m.impl("row_ids", TORCH_BOX(&hashdl::ops::row_ids));
  m.impl("sgd_rows_", TORCH_BOX(&hashdl::ops::sgd_rows_));
  m.impl("adagrad_rows_", TORCH_BOX(&hashdl::ops::adagrad_rows_));
  m.impl("adam_rows_", TORCH_BOX(&hashdl::ops::adam_rows_));
}
