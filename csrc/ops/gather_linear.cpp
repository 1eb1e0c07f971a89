// gather_linear and its backward, combine_rows and scatter_rows.
#include "ops/gather_linear.h"

#include <algorithm>
#include <utility>

#include "cuda/gather_linear.h"

namespace hashdl::ops {

void check_weight_and_input(const Tensor& x, const Tensor& weight, const char* op) {
  check_floating(weight, op, "weight");
  check_shape(weight, {-1, -1}, op, "weight");
  check_dtype(x, weight.scalar_type(), op, "x");
  check_shape(x, {-1, weight.size(1)}, op, "x");
}

void check_bias(const std::optional<Tensor>& bias, const Tensor& weight, const char* op) {
  if (!bias.has_value()) return;
  check_dtype(*bias, weight.scalar_type(), op, "bias");
  check_shape(*bias, {weight.size(0)}, op, "bias");
  check_one_device(op, {weight, *bias});
}

namespace {

/// Samples a row, on average over all rows, from which on a GPU sorts the pairs by row.
constexpr int64_t kReuse = 2;

/// What has that many is not sorted: pairs are numbered by 32 bits.
constexpr int64_t kMostPairs = int64_t{1} << 32;

/// Bytes of a gradient that do not stay in a core's own cache until an optimizer reads them.
constexpr int64_t kStreamed = 1 << 20;

/// The checks that forward and backward share; rows must be contiguous.
void check_layer(const Tensor& x, const Tensor& weight, const Tensor& rows, const char* op) {
  check_weight_and_input(x, weight, op);
  check_dtype(rows, ScalarType::Int, op, "rows");
  check_shape(rows, {x.size(0), -1}, op, "rows");
  check_one_device(op, {weight, x, rows});
  check_rows(rows, -1, weight.size(0), op, "rows");
}

Tensor gather_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                     const Tensor& rows) {
  constexpr auto op = "gather_linear";
  const Tensor ids = as_contiguous(rows);
  check_layer(x, weight, ids, op);
  check_bias(bias, weight, op);
  const Tensor inputs = as_contiguous(x), w = as_contiguous(weight);
  const auto b = as_contiguous(bias);
  const int64_t B = ids.size(0), A = ids.size(1), d = w.size(1);
  const Tensor z = empty(inputs, {B, A}, w.scalar_type());
  dispatch_floating(w, [&]<typename T>(T) {
    const cpu::GatherForward<T> args{data<T>(inputs),
                                     data<T>(w),
                                     data_or_null<T>(b),
                                     data<int32_t>(ids),
                                     mutable_data<T>(z),
                                     d,
                                     A,
                                     A};
    if constexpr (kCuda) {
      if (is_cuda(w)) {
        const int64_t N = w.size(0);
        if (N > 0 && B * A >= kReuse * N && B * A < kMostPairs) {
          run_with_scratch(w, [&](cuda::Scratch& scratch, cuda::Stream stream) {
            cuda::gather_forward_by_row(args, B, N, scratch, stream);
          });
        } else {
          run_on_gpu(w, [&](cuda::Stream stream) { cuda::gather_forward(args, B, N, stream); });
        }
        return;
      }
    }
    const auto run = cpu::gather_linear_kernels<T>().forward;
    torch::stable::parallel_for(0, B, 1,
                                [&](int64_t begin, int64_t end) { run(args, begin, end); });
  });
  return z;
}

}  // namespace

cpu::RowGroups group_by_row(const int32_t* rows, int64_t P, const int32_t* extra, int64_t E,
                            int64_t N) {
  cpu::RowGrouper grouper(rows, P, extra, E, N);
  const auto each_part = [&](void (cpu::RowGrouper::*stage)(int64_t)) {
    // A few thousand pairs are sorted sooner than a second thread is woken.
    const int64_t grain = P + E < 4096 ? cpu::RowGrouper::kParts : 1;
    torch::stable::parallel_for(0, cpu::RowGrouper::kParts, grain, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) (grouper.*stage)(part);
    });
  };
  each_part(&cpu::RowGrouper::count);
  grouper.finish_count();
  each_part(&cpu::RowGrouper::scatter);
  each_part(&cpu::RowGrouper::sort);
  grouper.finish_sort();
  each_part(&cpu::RowGrouper::emit);
  return std::move(grouper.groups);
}

namespace {

/// grad_x, on all threads.
template <typename T>
void combine(const cpu::GatherBackwardInput<T>& args, int64_t B) {
  const auto run = cpu::gather_linear_kernels<T>().backward_input;
  torch::stable::parallel_for(0, B * cpu::feature_blocks(args.d), 1,
                              [&](int64_t begin, int64_t end) { run(args, begin, end); });
}

/// The gradient of the input by itself: rows weighted by `values`.
Tensor combine_rows(const Tensor& values, const Tensor& weight, const Tensor& rows) {
  constexpr auto op = "combine_rows";
  check_floating(weight, op, "weight");
  check_shape(weight, {-1, -1}, op, "weight");
  check_dtype(rows, ScalarType::Int, op, "rows");
  check_shape(rows, {-1, -1}, op, "rows");
  const int64_t B = rows.size(0), A = rows.size(1), d = weight.size(1);
  check_dtype(values, weight.scalar_type(), op, "values");
  check_shape(values, {B, A}, op, "values");
  const Tensor v = as_contiguous(values), w = as_contiguous(weight), ids = as_contiguous(rows);
  check_rows(ids, -1, weight.size(0), op, "rows");
  check_one_device(op, {w, v, ids});
  const Tensor out = empty(w, {B, d}, w.scalar_type());
  dispatch_floating(w, [&]<typename T>(T) {
    const cpu::GatherBackwardInput<T> args{data<T>(v),           data<T>(w), data<int32_t>(ids),
                                           mutable_data<T>(out), d,          A};
    if constexpr (kCuda) {
      if (is_cuda(w)) {
        run_on_gpu(w, [&](cuda::Stream stream) {
          cuda::gather_backward_input(args, B, w.size(0), stream);
        });
        return;
      }
    }
    combine(args, B);
  });
  return out;
}

/// The backward pass of checked, contiguous tensors. How many rows are touched the host does not
/// know: there are outputs for as many as there can be, see cuda/row_groups.h.
std::tuple<Tensor, Tensor, Tensor, Tensor> backward_on_gpu(
    const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& rows,
    const std::optional<Tensor>& extra_rows, const std::optional<Tensor>& extra_grad,
    const std::optional<Tensor>& extra_bias) {
  const int64_t B = rows.size(0), A = rows.size(1), N = weight.size(0), d = weight.size(1);
  const int64_t E = extra_rows.has_value() ? extra_rows->numel() : 0;
  const int64_t G = std::min(N, B * A + E);
  const Tensor grad_x = empty(x, {B, d}, weight.scalar_type());
  const Tensor touched = empty(x, {G}, ScalarType::Int);
  const Tensor grad_weight = empty(x, {G, d}, weight.scalar_type());
  const Tensor grad_bias = empty(x, {G}, weight.scalar_type());
  const cuda::GroupRows grouping{data<int32_t>(rows),
                                 data_or_null<int32_t>(extra_rows),
                                 mutable_data<int32_t>(touched),
                                 B * A,
                                 E,
                                 G,
                                 N};
  dispatch_floating(weight, [&]<typename T>(T) {
    const cpu::GatherBackwardInput<T> to_input{
        data<T>(grad), data<T>(weight), data<int32_t>(rows), mutable_data<T>(grad_x), d, A};
    cpu::GatherBackwardWeight<T> to_weight{data<T>(grad),
                                           data<T>(x),
                                           data_or_null<T>(extra_grad),
                                           data_or_null<T>(extra_bias),
                                           nullptr,
                                           nullptr,
                                           mutable_data<T>(grad_weight),
                                           mutable_data<T>(grad_bias),
                                           d,
                                           A,
                                           B * A};
    if constexpr (kCuda) {
      run_with_scratch(weight, [&](cuda::Scratch& scratch, cuda::Stream stream) {
        const cuda::RowGroups groups = cuda::group_rows(grouping, scratch, stream);
        if (scratch.measuring()) return;
        to_weight.start = groups.start;
        to_weight.pair = groups.pair;
        cuda::gather_backward_input(to_input, B, N, stream);
        cuda::gather_backward_weight(to_weight, G, stream);
      });
    }
  });
  return {grad_x, touched, grad_weight, grad_bias};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gather_linear_backward(
    const Tensor& grad_z, const Tensor& x, const Tensor& weight, const Tensor& rows,
    const std::optional<Tensor>& extra_rows, const std::optional<Tensor>& extra_grad,
    const std::optional<Tensor>& extra_bias) {
  constexpr auto op = "gather_linear_backward";
  const Tensor ids = as_contiguous(rows);
  check_layer(x, weight, ids, op);
  const int64_t B = ids.size(0), A = ids.size(1), N = weight.size(0), d = weight.size(1);
  const ScalarType dtype = weight.scalar_type();
  check_dtype(grad_z, dtype, op, "grad_z");
  check_shape(grad_z, {B, A}, op, "grad_z");
  const auto more = as_contiguous(extra_rows), more_grad = as_contiguous(extra_grad);
  const auto more_bias = as_contiguous(extra_bias);
  const int64_t E = more.has_value() ? more->numel() : 0;
  check(more.has_value() == more_grad.has_value(), op, "extra_grad",
        "wanted together with extra_rows");
  if (more.has_value()) {
    check_dtype(*more, ScalarType::Int, op, "extra_rows");
    check_shape(*more, {E}, op, "extra_rows");
    check_rows(*more, -1, N, op, "extra_rows");
    check_dtype(*more_grad, dtype, op, "extra_grad");
    check_shape(*more_grad, {E, d}, op, "extra_grad");
  }
  if (more_bias.has_value()) {
    check_dtype(*more_bias, dtype, op, "extra_bias");
    check_shape(*more_bias, {E}, op, "extra_bias");
  }
  check(B * A + E < kMostPairs, op, "rows", "got 2^32 pairs or more");

  check_one_device(op, {weight, grad_z, extra_rows, extra_grad, extra_bias});

  const Tensor grad = as_contiguous(grad_z), inputs = as_contiguous(x), w = as_contiguous(weight);
  if constexpr (kCuda) {
    if (is_cuda(w)) return backward_on_gpu(grad, inputs, w, ids, more, more_grad, more_bias);
  }
  const cpu::RowGroups groups =
      group_by_row(data<int32_t>(ids), B * A, data_or_null<int32_t>(more), E, N);
  const int64_t U = static_cast<int64_t>(groups.row.size());
  const Tensor grad_x = empty(inputs, {B, d}, dtype);
  const Tensor touched = empty(inputs, {U}, ScalarType::Int);
  const Tensor grad_weight = empty(inputs, {U, d}, dtype);
  const Tensor grad_bias = empty(inputs, {U}, dtype);
  std::copy(groups.row.begin(), groups.row.end(), mutable_data<int32_t>(touched));
  dispatch_floating(w, [&]<typename T>(T) {
    const auto& kernels = cpu::gather_linear_kernels<T>();
    const cpu::GatherBackwardInput<T> to_input{
        data<T>(grad), data<T>(w), data<int32_t>(ids), mutable_data<T>(grad_x), d, A};
    combine(to_input, B);
    const cpu::GatherBackwardWeight<T> to_weight{data<T>(grad),
                                                 data<T>(inputs),
                                                 data_or_null<T>(more_grad),
                                                 data_or_null<T>(more_bias),
                                                 groups.start.data(),
                                                 groups.pair.data(),
                                                 mutable_data<T>(grad_weight),
                                                 mutable_data<T>(grad_bias),
                                                 d,
                                                 A,
                                                 B * A,
                                                 U * d * int64_t{sizeof(T)} >= kStreamed};
    for_groups(groups,
               [&](int64_t begin, int64_t end) { kernels.backward_weight(to_weight, begin, end); });
  });
  return {grad_x, touched, grad_weight, grad_bias};
}

Tensor scatter_rows(const Tensor& values, const Tensor& rows, int64_t n_rows, double fill) {
  constexpr auto op = "scatter_rows";
  check_floating(values, op, "values");
  check_dtype(rows, ScalarType::Int, op, "rows");
  check_shape(rows, {-1, -1}, op, "rows");
  const int64_t B = rows.size(0), A = rows.size(1);
  check_shape(values, {B, A}, op, "values");
  check(n_rows >= 0, op, "n_rows", "got " + std::to_string(n_rows) + ", wanted 0 or more");
  const Tensor source = as_contiguous(values), ids = as_contiguous(rows);
  check_one_device(op, {source, ids});
  check_rows(ids, -1, n_rows, op, "rows");
  Tensor out = empty(source, {B, n_rows}, source.scalar_type());
  torch::stable::fill_(out, fill);
  dispatch_floating(source, [&]<typename T>(T) {
    if constexpr (kCuda) {
      if (is_cuda(source)) {
        run_on_gpu(source, [&](cuda::Stream stream) {
          cuda::scatter_rows<T>(
              {data<T>(source), data<int32_t>(ids), mutable_data<T>(out), B, A, n_rows}, stream);
        });
        return;
      }
    }
    for (int64_t b = 0; b < B; ++b) {
      T* row_out = mutable_data<T>(out) + b * n_rows;
      for (int64_t a = b * A; a < (b + 1) * A; ++a) {
        const int32_t row = data<int32_t>(ids)[a];
        if (row >= 0) row_out[row] = data<T>(source)[a];
      }
    }
  });
  return out;
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) {
  m.impl("gather_linear", TORCH_BOX(&hashdl::ops::gather_linear));
  m.impl("gather_linear_backward", TORCH_BOX(&hashdl::ops::gather_linear_backward));
  m.impl("combine_rows", TORCH_BOX(&hashdl::ops::combine_rows));
  m.impl("scatter_rows", TORCH_BOX(&hashdl::ops::scatter_rows));
}
