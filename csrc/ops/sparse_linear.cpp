// gather_sparse_linear and its backward.
#include "cuda/sparse_linear.h"

#include <algorithm>
#include <numeric>

#include "ops/gather_linear.h"

namespace hashdl::ops {
namespace {

/// Contiguous arguments of one layer, checked.
struct Layer {
  Tensor values, columns, weight, rows;
  int64_t B, I, A, N, d;
};

Layer check_layer(const Tensor& values, const Tensor& columns, const Tensor& weight,
                  const Tensor& rows, const char* op) {
  check_floating(weight, op, "weight");
  check_shape(weight, {-1, -1}, op, "weight");
  check_dtype(columns, ScalarType::Int, op, "columns");
  check_shape(columns, {-1, -1}, op, "columns");
  check_dtype(values, weight.scalar_type(), op, "values");
  check_shape(values, {columns.size(0), columns.size(1)}, op, "values");
  check_dtype(rows, ScalarType::Int, op, "rows");
  check_shape(rows, {columns.size(0), -1}, op, "rows");
  const Layer layer{as_contiguous(values), as_contiguous(columns), as_contiguous(weight),
                    as_contiguous(rows),   columns.size(0),        columns.size(1),
                    rows.size(1),          weight.size(0),         weight.size(1)};
  check_one_device(op, {layer.weight, layer.values, layer.columns, layer.rows});
  check_rows(layer.columns, -1, layer.d, op, "columns");
  check_rows(layer.rows, -1, layer.N, op, "rows");
  return layer;
}

Tensor gather_sparse_linear(const Tensor& values, const Tensor& columns, const Tensor& weight,
                            const std::optional<Tensor>& bias, const Tensor& rows) {
  constexpr auto op = "gather_sparse_linear";
  const Layer layer = check_layer(values, columns, weight, rows, op);
  check_bias(bias, weight, op);
  const auto b = as_contiguous(bias);
  const Tensor z = empty(layer.values, {layer.B, layer.A}, weight.scalar_type());
  dispatch_floating(weight, [&]<typename T>(T) {
    const cpu::SparseForward<T> args{data<T>(layer.values),
                                     data<int32_t>(layer.columns),
                                     data<T>(layer.weight),
                                     data_or_null<T>(b),
                                     data<int32_t>(layer.rows),
                                     mutable_data<T>(z),
                                     layer.d,
                                     layer.I,
                                     layer.A};
    if constexpr (kCuda) {
      if (is_cuda(weight)) {
        run_on_gpu(weight, [&](cuda::Stream stream) {
          cuda::sparse_forward(args, layer.B, layer.N, stream);
        });
        return;
      }
    }
    const auto run = cpu::sparse_linear_kernels<T>().forward;
    torch::stable::parallel_for(0, layer.B * cpu::row_blocks(layer.A), 1,
                                [&](int64_t begin, int64_t end) { run(args, begin, end); });
  });
  return z;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

/// The backward pass of a checked layer. How many rows and entries there are the host does not
/// know: there are outputs for as many as there can be, see cuda/row_groups.h and sparse_linear.h.
Gradients backward_on_gpu(const Tensor& grad, const Layer& layer) {
  const int64_t B = layer.B, I = layer.I, A = layer.A, N = layer.N, d = layer.d;
  const int64_t G = std::min(N, B * A), E = std::min(G * d, B * A * I);
  const Tensor& like = layer.values;
  const ScalarType dtype = like.scalar_type();
  const Tensor grad_values = empty(like, {B, I}, dtype);
  const Tensor touched = empty(like, {G}, ScalarType::Int);
  const Tensor grad_bias = empty(like, {G}, dtype);
  const Tensor starts = empty(like, {G + 1}, ScalarType::Long);
  const Tensor entry_columns = empty(like, {E}, ScalarType::Int);
  const Tensor grad_weight = empty(like, {E}, dtype);
  const cuda::GroupRows grouping{
      data<int32_t>(layer.rows), nullptr, mutable_data<int32_t>(touched), B * A, 0, G, N};
  dispatch_floating(layer.weight, [&]<typename T>(T) {
    const cpu::SparseBackwardInput<T> to_input{data<T>(grad),
                                               data<int32_t>(layer.columns),
                                               data<T>(layer.weight),
                                               data<int32_t>(layer.rows),
                                               mutable_data<T>(grad_values),
                                               d,
                                               I,
                                               A};
    cpu::SparseBackwardWeight<T> to_weight{data<T>(grad),
                                           data<T>(layer.values),
                                           data<int32_t>(layer.columns),
                                           nullptr,
                                           nullptr,
                                           mutable_data<int64_t>(starts),
                                           mutable_data<int32_t>(entry_columns),
                                           mutable_data<T>(grad_weight),
                                           mutable_data<T>(grad_bias),
                                           d,
                                           I,
                                           A};
    if constexpr (kCuda) {
      run_with_scratch(layer.weight, [&](cuda::Scratch& scratch, cuda::Stream stream) {
        if (!scratch.measuring()) cuda::sparse_backward_input(to_input, B, N, stream);
        const cuda::RowGroups groups = cuda::group_rows(grouping, scratch, stream);
        to_weight.start = groups.start;
        to_weight.pair = groups.pair;
        cuda::sparse_backward_weight(to_weight, B, G, E, scratch, stream);
      });
    }
  });
  return {grad_values, touched, grad_bias, starts, entry_columns, grad_weight};
}

Gradients gather_sparse_linear_backward(const Tensor& grad_z, const Tensor& values,
                                        const Tensor& columns, const Tensor& weight,
                                        const Tensor& rows) {
  constexpr auto op = "gather_sparse_linear_backward";
  const Layer layer = check_layer(values, columns, weight, rows, op);
  const ScalarType dtype = weight.scalar_type();
  const Tensor &v = layer.values, &ids = layer.columns, &w = layer.weight, &r = layer.rows;
  const int64_t B = layer.B, I = layer.I, A = layer.A, N = layer.N, d = layer.d;
  check_dtype(grad_z, dtype, op, "grad_z");
  check_shape(grad_z, {B, A}, op, "grad_z");
  check(B * A < int64_t{1} << 32, op, "rows", "got 2^32 pairs or more");
  check(B * I < int64_t{1} << 32, op, "columns", "got 2^32 inputs or more");
  check_one_device(op, {w, grad_z});

  const Tensor grad = as_contiguous(grad_z);
  if constexpr (kCuda) {
    if (is_cuda(w)) return backward_on_gpu(grad, layer);
  }
  const cpu::RowGroups groups = group_by_row(data<int32_t>(r), B * A, nullptr, 0, N);
  const int64_t U = static_cast<int64_t>(groups.row.size());
  const Tensor grad_values = empty(v, {B, I}, dtype);
  const Tensor touched = empty(v, {U}, ScalarType::Int);
  const Tensor grad_bias = empty(v, {U}, dtype);
  const Tensor starts = empty(v, {U + 1}, ScalarType::Long);
  Tensor entry_columns = empty(v, {0}, ScalarType::Int), grad_weight = empty(v, {0}, dtype);
  std::copy(groups.row.begin(), groups.row.end(), mutable_data<int32_t>(touched));
  int64_t* const start = mutable_data<int64_t>(starts);
  start[0] = 0;
  dispatch_floating(weight, [&]<typename T>(T) {
    const auto& kernels = cpu::sparse_linear_kernels<T>();
    const cpu::SparseBackwardInput<T> to_input{data<T>(grad),
                                               data<int32_t>(ids),
                                               data<T>(w),
                                               data<int32_t>(r),
                                               mutable_data<T>(grad_values),
                                               d,
                                               I,
                                               A};
    torch::stable::parallel_for(
        0, B, 1, [&](int64_t begin, int64_t end) { kernels.backward_input(to_input, begin, end); });
    cpu::SparseBackwardWeight<T> to_weight{data<T>(grad),
                                           data<T>(v),
                                           data<int32_t>(ids),
                                           groups.start.data(),
                                           groups.pair.data(),
                                           start,
                                           nullptr,
                                           nullptr,
                                           mutable_data<T>(grad_bias),
                                           d,
                                           I,
                                           A};
    for_groups(groups, [&](int64_t begin, int64_t end) { kernels.count(to_weight, begin, end); });
    std::partial_sum(start, start + U + 1, start);
    entry_columns = empty(v, {start[U]}, ScalarType::Int);
    grad_weight = empty(v, {start[U]}, dtype);
    to_weight.entry_column = mutable_data<int32_t>(entry_columns);
    to_weight.grad_weight = mutable_data<T>(grad_weight);
    for_groups(groups,
               [&](int64_t begin, int64_t end) { kernels.backward_weight(to_weight, begin, end); });
  });
  return {grad_values, touched, grad_bias, starts, entry_columns, grad_weight};
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) {
  m.impl("gather_sparse_linear", TORCH_BOX(&hashdl::ops::gather_sparse_linear));
  m.impl("gather_sparse_linear_backward", TORCH_BOX(&hashdl::ops::gather_sparse_linear_backward));
}
